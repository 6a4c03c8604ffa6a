#include "data/raw_pictures.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "core/error.h"
#include "data/dataset.h"
#include "data/media.h"
#include "data/npy.h"

namespace mmtune::data {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kPixels = 3 * 32 * 32;
constexpr std::uint64_t kSeverities = 5;

std::vector<fs::path> files_with(const fs::path& folder, const char* extension) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == extension && entry.is_regular_file()) found.push_back(entry.path());
  }
  if (error) throw Error({.what = "cannot be listed: " + error.message(), .where = folder.string()});
  std::sort(found.begin(), found.end());
  return found;
}

/// The names in a file beside, or none.
std::vector<std::string> names_beside(const fs::path& file, const char* name) {
  const fs::path list = file.parent_path() / name;
  std::error_code ignored;
  if (!fs::exists(list, ignored)) return {};
  std::vector<std::string> names = read_class_names(list);
  std::erase(names, "");
  return names;
}

Json label_of(unsigned char number, std::size_t most, const std::vector<std::string>& names, const std::string& where) {
  const std::size_t limit = names.empty() ? most : names.size();
  if (number >= limit) {
    throw Error({.what = "the label is out of range",
                 .where = where,
                 .expected = "0 to " + std::to_string(limit - 1),
                 .got = std::to_string(static_cast<int>(number))});
  }
  return names.empty() ? Json(static_cast<int>(number)) : Json(names[number]);
}

}  // namespace

bool holds_raw_pictures(const fs::path& folder) {
  std::error_code ignored;
  if (fs::exists(folder / "labels.npy", ignored)) return true;
  return !files_with(folder, ".bin").empty() &&
         (fs::exists(folder / "batches.meta.txt", ignored) || fs::exists(folder / "fine_label_names.txt", ignored) ||
          fs::exists(folder / "test_batch.bin", ignored));
}

void read_cifar(const fs::path& file, const RowSink& sink) {
  const MediaFile source(file);
  const bool one = source.size() % (kPixels + 1) == 0, two = source.size() % (kPixels + 2) == 0;
  if (source.size() == 0 || one == two) {
    throw Error({.what = "not a file of CIFAR's binary layout",
                 .where = file.string(),
                 .expected = "records of 3073 (CIFAR-10) or 3074 bytes (CIFAR-100)",
                 .got = std::to_string(source.size()) + " bytes"});
  }
  const std::uint64_t labels = one ? 1 : 2, record = kPixels + labels;
  const std::vector<std::string> fine = names_beside(file, one ? "batches.meta.txt" : "fine_label_names.txt");
  const std::vector<std::string> coarse = one ? std::vector<std::string>() : names_beside(file, "coarse_label_names.txt");
  const std::string name = file.filename().string();
  std::string head(labels, '\0');
  for (std::uint64_t at = 0, number = 0; at < source.size(); at += record, ++number) {
    source.read(at, head);
    const std::string where = file.string() + ": record " + std::to_string(number);
    Json fields = {{"shard", name}, {"offset", at + labels}, {"size", kPixels}, {"encoding", "planar_rgb"}, {"width", 32}, {"height", 32}};
    fields["label"] = label_of(static_cast<unsigned char>(head.back()), one ? 10 : 100, fine, where);
    if (!one) fields["coarse_label"] = label_of(static_cast<unsigned char>(head.front()), 20, coarse, where);
    fields["split"] = name.starts_with("test") ? "test" : "train";
    sink({std::move(fields), where, false, name + ":" + std::to_string(number)});
  }
}

void read_corrupted_array(const fs::path& file, const RowSink& sink) {
  const NpyHeader pictures = read_npy_header(file);
  const bool is_pictures = pictures.kind == 'u' && pictures.width == 1 && pictures.shape.size() == 4 && pictures.shape[3] == 3 &&
                           pictures.shape[1] > 0 && pictures.shape[2] > 0 && pictures.shape[0] > 0;
  if (!is_pictures) throw Error({.what = "the array holds no pictures", .where = file.string(), .expected = "bytes of shape [N, H, W, 3]"});
  const std::uint64_t count = pictures.shape[0], size = pictures.shape[1] * pictures.shape[2] * 3;
  const fs::path label_file = file.parent_path() / "labels.npy";
  const std::vector<std::int64_t> labels = read_npy_integers(label_file);
  if (labels.size() != count || count % kSeverities != 0) {
    throw Error({.what = "labels and pictures do not go together",
                 .where = file.string(),
                 .expected = "as many labels as pictures, a multiple of five",
                 .got = std::to_string(labels.size()) + " labels, " + std::to_string(count) + " pictures"});
  }
  const std::string name = file.filename().string();
  for (std::uint64_t number = 0; number < count; ++number) {
    Json fields = {{"shard", name},
                   {"offset", pictures.begin + number * size},
                   {"size", size},
                   {"encoding", "packed_rgb"},
                   {"width", pictures.shape[2]},
                   {"height", pictures.shape[1]},
                   {"label", labels[number]},
                   {"severity", number / (count / kSeverities) + 1},
                   {"corruption", file.stem().string()}};
    sink({std::move(fields), file.string() + ": picture " + std::to_string(number), false, name + ":" + std::to_string(number)});
  }
}

void read_raw_pictures(const fs::path& folder, const RowSink& sink) {
  for (const fs::path& file : files_with(folder, ".bin")) read_cifar(file, sink);
  for (const fs::path& file : files_with(folder, ".npy"))
    if (file.filename() != "labels.npy") read_corrupted_array(file, sink);
}

}  // namespace mmtune::data
