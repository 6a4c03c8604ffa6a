#pragma once
// A HuggingFace model folder: config.json and the tensors of model.safetensors or of its shards.

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "io/safetensors.h"

namespace mmtune::io {

/// An open model folder. Tensors of all shards are found by name; the files stay mapped as long as this object (or a copy) lives.
class Checkpoint {
 public:
  /// Opens `folder` (config.json + model.safetensors, or model.safetensors.index.json and its shards). Every shard's tensors must match the
  /// index exactly. Throws Error: no config.json, no weights (a folder with only .bin/.pth gets the line that tells how to convert), a
  /// tensor in two shards, indexed but absent, or present but not indexed.
  ///
  /// A config.json with "parts", a list of {"name", "path"}, composes the checkpoint of other files: each a safetensors file or a model
  /// folder, its path relative to this one. Of a tensor that several have, the last counts. Throws Error naming a part that is missing.
  static Checkpoint open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const Json& config() const { return config_; }
  const TensorEntry* find(std::string_view name) const;  ///< null when absent
  std::vector<const TensorEntry*> tensors() const;       ///< sorted by name
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// The mapping that holds `entry`'s bytes, to keep it alive.
  std::shared_ptr<const MappedFile> mapping_of(const TensorEntry& entry) const;

 private:
  void open_parts();

  std::filesystem::path folder_;
  Json config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::pair<std::size_t, std::size_t>, std::less<>> index_;
};

/// Resolves what a user typed for MODEL: an existing folder; a bundled model's name (looked for under $MMTUNE_MODELS, then models/ beside
/// the program and in the working folder); a repository name in the HuggingFace cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface,
/// refs/main, or the revision behind an "@"). Throws Error that lists where it looked, and how to fetch what has a repository's name.
std::filesystem::path resolve_model(const std::string& model);

/// Fingerprint of the architecture (config) and of every tensor's name, dtype, shape and bytes: the identity of a backbone.
/// Reads every byte once; the result is kept beside file size and time in a small cache file under the user's cache folder when that is
/// writable.
std::string backbone_fingerprint(const Checkpoint& checkpoint);

}  // namespace mmtune::io
