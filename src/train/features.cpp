#include "train/features.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "data/prefetch.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t pass_batch = 64;

struct Input {
  const data::Example* example;
  std::string key;
};

std::vector<Input> distinct_inputs(const InputReader& reader, std::span<const data::Dataset* const> datasets) {
  std::vector<Input> inputs;
  std::set<std::string> seen;
  for (const data::Dataset* dataset : datasets) {
    for (const data::Example& example : dataset->examples) {
      if (!reader.has(example)) continue;
      std::string key = reader.key(example);
      if (seen.insert(key).second) inputs.push_back({&example, std::move(key)});
    }
  }
  return inputs;
}

/// Whatever decides the features, file times included: a file that was replaced is read again.
std::string identity(const Tower& tower, const std::vector<Input>& inputs, const StoreOptions& options) {
  Fingerprint fingerprint;
  fingerprint.add_field("mmtune features 1").add_field(options.backbone_fingerprint).add_field(tower.describe());
  fingerprint.add_field(at::get_num_threads()).add_field(at::get_cpu_capability());
  for (const Input& input : inputs) {
    fingerprint.add_field(input.key);
    if (const data::MediaRef* media = tower.reader().media(*input.example)) {
      std::error_code error;
      const auto size = fs::file_size(media->file, error);
      const auto time = fs::last_write_time(media->file, error);
      fingerprint.add_field(error ? -1 : static_cast<std::int64_t>(size));
      fingerprint.add_field(error ? -1 : static_cast<std::int64_t>(time.time_since_epoch().count()));
    }
  }
  return fingerprint.hex();
}

/// Makes room for `bytes` by removing the files that were used longest ago.
void make_room(const fs::path& folder, std::uintmax_t bytes, std::uintmax_t limit) {
  std::vector<std::tuple<fs::file_time_type, std::uintmax_t, fs::path>> files;
  std::uintmax_t total = bytes;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    files.emplace_back(entry.last_write_time(), entry.file_size(), entry.path());
    total += entry.file_size();
  }
  std::sort(files.begin(), files.end());
  for (const auto& [time, size, path] : files) {
    if (total <= limit) return;
    fs::remove(path);
    total -= size;
  }
}

at::Tensor read_kept(const fs::path& file, std::int64_t rows, std::int64_t width) try {
  if (!fs::exists(file)) return {};
  const io::SafetensorsFile opened = io::SafetensorsFile::open(file);
  const io::TensorEntry* entry = opened.find("features");
  if (entry == nullptr || entry->shape != std::vector<std::int64_t>{rows, width} || entry->dtype != io::DType::f32) return {};
  at::Tensor features = nn::to_tensor_exact(*entry);
  std::error_code ignored;
  fs::last_write_time(file, fs::file_time_type::clock::now(), ignored);
  return features;
} catch (const Error&) {
  return {};  // damaged: made again
}

void keep(const fs::path& file, const at::Tensor& features, std::int64_t limit_mb) try {
  fs::create_directories(file.parent_path());
  make_room(file.parent_path(), static_cast<std::uintmax_t>(features.nbytes()), static_cast<std::uintmax_t>(limit_mb) << 20);
  const io::TensorEntry entry = nn::to_entry("features", features);
  io::write_safetensors(file, std::span(&entry, 1));
} catch (const std::exception& error) {
  log_warning(std::string("features are not kept for the next run: ") + error.what());
}

/// A batch of the pass: inputs that could be read, and their numbers.
struct PassBatch {
  TowerBatch batch;
  std::vector<std::size_t> numbers;
};

}  // namespace

std::optional<FeatureStore> make_store(const Tower& tower, std::span<const data::Dataset* const> datasets, const StoreOptions& options) {
  const InputReader& reader = tower.reader();
  const std::vector<Input> inputs = distinct_inputs(reader, datasets);
  const auto count = static_cast<std::int64_t>(inputs.size());
  if (count == 0 || count * tower.width() * 4 > options.limit_mb << 20) return std::nullopt;

  FeatureStore store;
  const fs::path file = cache_folder() / "features" / (identity(tower, inputs, options) + ".safetensors");
  store.features = read_kept(file, count, tower.width());
  if (store.features.defined()) {
    for (std::size_t i = 0; i < inputs.size(); ++i) store.row_of.emplace(inputs[i].key, static_cast<std::int64_t>(i));
    log_info("features of the " + tower.name() + " tower: " + std::to_string(count) + " inputs, kept from an earlier run");
    return store;
  }

  const auto read = [&](std::int64_t index) {
    PassBatch pass;
    std::vector<InputReader::Item> items;
    const std::size_t begin = static_cast<std::size_t>(index) * pass_batch;
    for (std::size_t i = begin; i < std::min(begin + pass_batch, inputs.size()); ++i) {
      try {
        items.push_back(reader.read(*inputs[i].example));
        pass.numbers.push_back(i);
      } catch (const Error&) {
        if (options.on_error == OnError::stop) throw;  // otherwise the batch that needs it counts it as skipped
      }
    }
    pass.batch = reader.collate(items);
    return pass;
  };
  const at::NoGradGuard no_grad;
  data::Prefetcher<PassBatch> batches(0, (count + static_cast<std::int64_t>(pass_batch) - 1) / static_cast<std::int64_t>(pass_batch), read,
                                      options.workers, 2 + options.workers);
  Progress progress("features (" + tower.name() + ")", count, "inputs");
  std::vector<at::Tensor> parts;
  std::int64_t done = 0;
  while (const std::optional<PassBatch> pass = batches.next()) {
    if (options.stop && options.stop()) return std::nullopt;
    if (!pass->numbers.empty()) parts.push_back(tower.features(pass->batch.inputs, {}));
    for (const std::size_t number : pass->numbers) store.row_of.emplace(inputs[number].key, done++);
    progress.update(done);
  }
  progress.finish();
  if (parts.empty()) return std::nullopt;
  store.features = at::cat(parts, 0).contiguous();
  if (done == count) keep(file, store.features, options.limit_mb);
  return store;
}

}  // namespace mmtune::train
