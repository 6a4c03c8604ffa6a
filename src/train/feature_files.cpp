#include "train/feature_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <system_error>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* format_key = "mmtune.features";
constexpr const char* format_version = "2";
constexpr const char* checksum_key = "checksum";

std::string checksum_of(std::span<const std::byte> bytes) {
  Fingerprint fingerprint;
  fingerprint.add(bytes);
  return fingerprint.hex();
}

}  // namespace

FeatureFiles::FeatureFiles(fs::path folder, std::int64_t limit) : folder_(std::move(folder)), limit_(limit) {}

fs::path FeatureFiles::path_of(const std::string& key) const {
  return folder_ / (key + ".safetensors");
}

at::Tensor FeatureFiles::read(const std::string& key, std::int64_t rows, std::int64_t width) const try {
  const fs::path file = path_of(key);
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  const io::SafetensorsFile opened = io::SafetensorsFile::open(file);
  const auto said = [&](const char* name) {
    const auto found = opened.metadata().find(name);
    return found == opened.metadata().end() ? std::string() : found->second;
  };
  const io::TensorEntry* entry = opened.find("features");
  if (entry == nullptr || entry->shape != std::vector<std::int64_t>{rows, width} || entry->dtype != io::DType::f32) return {};
  if (said(format_key) != format_version || said(checksum_key) != checksum_of(entry->data)) return {};
  at::Tensor features = nn::to_tensor_exact(*entry);
  fs::last_write_time(file, fs::file_time_type::clock::now(), ignored);  // used now
  return features;
} catch (const Error&) {
  return {};  // damaged, or removed in this moment
}

void FeatureFiles::make_room(std::int64_t bytes) {
  if (used_ && *used_ + bytes <= limit_) {
    *used_ += bytes;
    return;
  }
  std::vector<std::tuple<fs::file_time_type, std::int64_t, fs::path>> files;
  std::int64_t total = bytes;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    std::error_code gone;  // another process may be making room too
    const auto time = entry.last_write_time(gone);
    const auto size = gone ? 0 : static_cast<std::int64_t>(entry.file_size(gone));
    if (gone || !entry.is_regular_file(gone)) continue;
    files.emplace_back(time, size, entry.path());
    total += size;
  }
  std::sort(files.begin(), files.end());
  for (const auto& [time, size, path] : files) {
    if (total <= limit_) break;
    std::error_code ignored;
    fs::remove(path, ignored);
    total -= size;
  }
  used_ = total;
}

void FeatureFiles::write(const std::string& key, const at::Tensor& features) {
  if (failed_) return;
  try {
    fs::create_directories(folder_);
    const at::Tensor whole = features.contiguous();
    const io::TensorEntry entry = nn::to_entry("features", whole);
    constexpr std::int64_t header = 512;  // about what stands in front of the values
    make_room(static_cast<std::int64_t>(whole.nbytes()) + header);
    io::write_safetensors(path_of(key), std::span(&entry, 1), {{format_key, format_version}, {checksum_key, checksum_of(entry.data)}});
  } catch (const std::exception& error) {
    failed_ = true;
    log_warning(std::string("features are not kept for the next run: ") + error.what());
  }
}

}  // namespace mmtune::train
