#include <sys/stat.h>

#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "io/checkpoint.h"

namespace mmtune::io {

namespace fs = std::filesystem;

namespace {

// Part of every fingerprint: a change of what is hashed changes them all, visibly.
constexpr std::string_view scheme = "mmtune backbone 1";

/// config.json without what a save by another version of a library changes, and the place it was loaded from.
std::string architecture_text(const Json& config) {
  Json kept = Json::object();
  for (const auto& [key, value] : config.items()) {
    if (!key.starts_with('_') && key != "transformers_version") kept[key] = value;
  }
  return kept.dump();
}

std::string fingerprint_of_content(const Checkpoint& checkpoint) {
  Fingerprint fingerprint;
  fingerprint.add_field(scheme).add_field(architecture_text(checkpoint.config()));
  for (const TensorEntry* tensor : checkpoint.tensors()) {  // sorted by name, so sharding does not matter
    fingerprint.add_field(tensor->name).add_field(name_of(tensor->dtype));
    fingerprint.add_field(static_cast<std::int64_t>(tensor->shape.size()));
    for (const std::int64_t dimension : tensor->shape) fingerprint.add_field(dimension);
    fingerprint.add(tensor->data);
    checkpoint.mapping_of(*tensor)->forget(tensor->data);  // a large model would count as this process' memory
  }
  return fingerprint.hex();
}

/// Names the state of the files without reading them: path, inode, size and times of each. The change time cannot be set back by a user.
std::string key_of_state(const Checkpoint& checkpoint) {
  Fingerprint key;
  key.add_field(scheme).add_field(architecture_text(checkpoint.config()));
  for (const SafetensorsFile& file : checkpoint.files()) {
    struct stat status {};
    std::error_code ignored;
    const fs::path path = fs::canonical(file.where(), ignored);
    if (ignored || ::stat(path.c_str(), &status) != 0) return {};
    key.add_field(path.string());
    for (const auto number :
         {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino), static_cast<std::int64_t>(status.st_size),
          static_cast<std::int64_t>(status.st_mtim.tv_sec), static_cast<std::int64_t>(status.st_mtim.tv_nsec),
          static_cast<std::int64_t>(status.st_ctim.tv_sec), static_cast<std::int64_t>(status.st_ctim.tv_nsec)}) {
      key.add_field(number);
    }
  }
  return key.hex();
}

bool is_fingerprint(std::string_view text) {
  return text.size() == 32 && std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

std::string backbone_fingerprint(const Checkpoint& checkpoint) {
  const std::string key = key_of_state(checkpoint);
  const fs::path remembered = cache_folder() / "fingerprints" / key;
  if (!key.empty()) {
    try {
      if (std::string text = read_file(remembered, 64); is_fingerprint(text)) return text;
    } catch (const Error&) {
      // Not remembered, or damaged: compute it.
    }
  }
  std::string result = fingerprint_of_content(checkpoint);
  if (!key.empty()) {
    try {
      std::error_code ignored;
      fs::create_directories(remembered.parent_path(), ignored);
      write_file_atomically(remembered, result);
    } catch (const Error&) {
      // A cache that cannot be written only costs time.
    }
  }
  return result;
}

}  // namespace mmtune::io
