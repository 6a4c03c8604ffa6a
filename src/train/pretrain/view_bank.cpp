#include "train/pretrain/view_bank.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <system_error>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/option_writer.h"
#include "data/dataset.h"
#include "data/prefetch.h"
#include "nn/weights.h"
#include "train/pretrain/augment.h"
#include "vision/image.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t part_pictures = 1024;
/// Pictures that the teacher sees at once: their feature maps fit into the cache.
constexpr std::int64_t chunk_pictures = 64;
constexpr const char* identity_key = "mmtune.views";

/// [n, 3, size, size] uint8 of pictures [begin, end), squeezed to a square as the tower's own processor does.
at::Tensor decode(const std::vector<Picture>& pictures, std::int64_t begin, std::int64_t end, std::int64_t size) {
  at::Tensor out = at::empty({end - begin, size, size, 3}, at::kByte);
  auto* at_byte = out.data_ptr<std::uint8_t>();
  for (std::int64_t i = begin; i < end; ++i) {
    const Picture& picture = pictures[static_cast<std::size_t>(i)];
    const std::string bytes = data::read_media(picture.image);
    const vision::Image image =
        vision::resize(vision::decode_image(std::as_bytes(std::span(bytes)), picture.image.display()), size, size, vision::Filter::bicubic);
    std::memcpy(at_byte, image.pixels.data(), image.pixels.size());
    at_byte += image.pixels.size();
  }
  return out.permute({0, 3, 1, 2});
}

at::Tensor mirror_flags(const std::vector<Picture>& pictures, std::int64_t begin, std::int64_t end) {
  at::Tensor flags = at::empty({end - begin}, at::kBool);
  for (std::int64_t i = begin; i < end; ++i) flags.data_ptr<bool>()[i - begin] = pictures[static_cast<std::size_t>(i)].mirror;
  return flags;
}

fs::path part_path(const fs::path& folder, std::int64_t part) {
  const std::string number = std::to_string(part);
  return folder / ("part-" + std::string(5 - std::min<std::size_t>(number.size(), 5), '0') + number + ".safetensors");
}

/// Whatever decides the bank's content.
std::string identity_of(const ViewBank::Sources& sources) {
  PretrainViewsSection views = sources.recipe->views;
  return Fingerprint()
      .add_field(sources.list->fingerprint)
      .add_field(write_toml([&](OptionVisitor& v) { declare(v, views); }))
      .add_field(sources.recipe->model.image_size)
      .add_field(sources.recipe->train.seed)
      .add_field(sources.teacher ? sources.teacher->fingerprint() : "")
      .add_field(sources.teacher ? sources.recipe->teacher->patch_width : 0)
      .hex();
}

/// The mapped tensor itself; `file` must outlive it.
at::Tensor mapped(const io::TensorEntry& entry, at::ScalarType type) {
  return at::from_blob(const_cast<std::byte*>(entry.data.data()), entry.shape, at::TensorOptions().dtype(type));
}

}  // namespace

ViewBank::Part ViewBank::open_part(const fs::path& path, const std::string& identity) {
  std::error_code error;
  if (!fs::exists(path, error)) return {};
  auto file = std::make_shared<const io::SafetensorsFile>(io::SafetensorsFile::open(path));
  const auto found = file->metadata().find(identity_key);
  if (found == file->metadata().end() || found->second != identity) return {};
  Part part;
  const io::TensorEntry *views = file->find("views"), *features = file->find("features"), *cells = file->find("cells");
  if (views == nullptr || views->dtype != io::DType::u8 || views->shape.size() != 5) return {};
  part.views = mapped(*views, at::kByte);
  if (features != nullptr && cells != nullptr) {
    part.features = mapped(*features, at::kHalf);
    part.cells = mapped(*cells, at::kHalf);
  }
  part.file = std::move(file);
  return part;
}

std::unique_ptr<ViewBank> ViewBank::make(const fs::path& folder, const Sources& sources) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error({.what = "cannot make the folder: " + error.message(), .where = folder.string()});
  const std::vector<Picture>& pictures = sources.list->pictures;
  const PretrainViewsSection& section = sources.recipe->views;
  const std::int64_t count = static_cast<std::int64_t>(pictures.size()), size = sources.recipe->model.image_size;
  const std::string identity = identity_of(sources);
  const auto seed = static_cast<std::uint64_t>(sources.recipe->train.seed);

  at::Tensor projection;
  if (sources.teacher) {
    const std::int64_t width = sources.recipe->teacher->patch_width;
    projection = at::empty({EfficientNetLite::width, width}).normal_(0.0, 1.0, seeded_generator(mix_seed(seed, 5), 0));
    projection.div_(std::sqrt(static_cast<double>(EfficientNetLite::width)));
  }
  const std::int64_t grid = section.size / EfficientNetLite::stride;

  auto bank = std::make_unique<ViewBank>();
  bank->pictures_ = count;
  bank->views_ = section.count;
  bank->has_features_ = sources.teacher != nullptr;
  Progress progress("views", count * section.count, "views");
  for (std::int64_t begin = 0; begin < count; begin += part_pictures) {
    const fs::path path = part_path(folder, begin / part_pictures);
    const std::int64_t end = std::min(begin + part_pictures, count);
    Part part = open_part(path, identity);
    if (!part.file) {
      if (sources.stop && sources.stop()) return nullptr;
      at::Tensor views = at::empty({end - begin, section.count, 3, size, size}, at::kByte);
      at::Tensor features, cells;
      if (sources.teacher) {
        features = at::empty({end - begin, section.count, EfficientNetLite::width}, at::kHalf);
        cells = at::empty({end - begin, section.count, grid * grid, projection.size(1)}, at::kHalf);
      }
      const std::int64_t chunks = (end - begin + chunk_pictures - 1) / chunk_pictures;
      const auto bounds = [&](std::int64_t chunk) {
        return std::pair(begin + chunk * chunk_pictures, std::min(begin + (chunk + 1) * chunk_pictures, end));
      };
      data::Prefetcher<at::Tensor> decoded(
          0, chunks, [&](std::int64_t chunk) { return decode(pictures, bounds(chunk).first, bounds(chunk).second, section.size); },
          static_cast<int>(sources.recipe->data.workers), 4);
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t first = bounds(chunk).first, last = bounds(chunk).second;
        const at::Tensor squares = *decoded.next(), mirror = mirror_flags(pictures, first, last);
        for (std::int64_t k = 0; k < section.count; ++k) {
          const auto draw = static_cast<std::uint64_t>(first / chunk_pictures * section.count + k);
          const at::Tensor drawn = draw_views(squares, mirror, section, seeded_generator(mix_seed(seed, 1), draw));
          const auto place = [&](const at::Tensor& all) { return all.narrow(0, first - begin, last - first).select(1, k); };
          place(views).copy_(shrink(drawn, size).mul_(255.0).round_());
          if (sources.teacher) {
            const at::Tensor map = sources.teacher->feature_map(drawn).flatten(2).transpose(1, 2);
            place(features).copy_(map.mean(1));
            place(cells).copy_(at::matmul(map, projection));
          }
          progress.update(first * section.count + (k + 1) * (last - first));
        }
      }
      std::vector<io::TensorEntry> entries{nn::to_entry("views", views)};
      if (sources.teacher) {
        entries.push_back(nn::to_entry("features", features));
        entries.push_back(nn::to_entry("cells", cells));
      }
      io::write_safetensors(path, entries, {{identity_key, identity}});
      part = open_part(path, identity);
      MMTUNE_ASSERT(part.file != nullptr);
    }
    if (part.views.size(0) != end - begin || part.features.defined() != bank->has_features_)
      throw Error({.what = "not a part of the bank of views", .where = path.string(), .hint = "remove it; it will be drawn anew"});
    bank->parts_.push_back(std::move(part));
  }
  progress.finish();
  if (bank->has_features_) {
    bank->feature_statistics_ = bank->measure(&Part::features);
    bank->cell_statistics_ = bank->measure(&Part::cells);
  }
  return bank;
}

at::Tensor ViewBank::gather(at::Tensor Part::*tensor, const std::vector<std::int64_t>& picture,
                            const std::vector<std::int64_t>& view) const {
  const at::Tensor& first = parts_.front().*tensor;
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(picture.size())};
  shape.insert(shape.end(), first.sizes().begin() + 2, first.sizes().end());
  at::Tensor out = at::empty(shape, first.options());
  for (std::size_t i = 0; i < picture.size(); ++i) {
    const Part& part = parts_[static_cast<std::size_t>(picture[i] / part_pictures)];
    out.select(0, static_cast<std::int64_t>(i)).copy_((part.*tensor).select(0, picture[i] % part_pictures).select(0, view[i]));
  }
  return out;
}

at::Tensor ViewBank::gather_views(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const {
  return gather(&Part::views, picture, view);
}

at::Tensor ViewBank::gather_features(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const {
  return (gather(&Part::features, picture, view).to(at::kFloat) - feature_statistics_.mean) / feature_statistics_.deviation;
}

at::Tensor ViewBank::gather_cells(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const {
  return (gather(&Part::cells, picture, view).to(at::kFloat) - cell_statistics_.mean) / cell_statistics_.deviation;
}

ViewBank::Statistics ViewBank::measure(at::Tensor Part::*tensor) const {
  const std::int64_t width = (parts_.front().*tensor).size(-1);
  at::Tensor sum = at::zeros({width}, at::kDouble), squares = at::zeros({width}, at::kDouble);
  double rows = 0;
  for (const Part& part : parts_) {
    // One view of each picture says enough.
    const at::Tensor values = (part.*tensor).select(1, 0).reshape({-1, width}).to(at::kDouble);
    sum += values.sum(0);
    squares += values.square().sum(0);
    rows += static_cast<double>(values.size(0));
  }
  const at::Tensor mean = sum / rows;
  const at::Tensor deviation = (squares / rows - mean.square()).clamp_min_(0.0).sqrt_();
  return {mean.to(at::kFloat), deviation.to(at::kFloat).add_(1e-3)};
}

}  // namespace mmtune::train
