#include "io/checkpoint.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "io/pickle.h"

namespace mmtune::io {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view single_name = "model.safetensors";
constexpr std::string_view index_name = "model.safetensors.index.json";

/// A folder without safetensors: says what is there instead.
[[noreturn]] void refuse_without_weights(const fs::path& folder) {
  std::string hint;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string extension = entry.path().extension().string();
    const bool is_weights = extension == ".bin" || extension == ".pth" || extension == ".pt" || extension == ".ckpt";
    // Other .bin files (training_args.bin) stand beside weights; the published name is the one to convert.
    if (is_weights && (hint.empty() || entry.path().filename().string().starts_with("pytorch_model"))) {
      hint =
          "pickled checkpoints are not read; convert it once, if you trust where it comes from: " + pickle_conversion_command(entry.path());
    }
  }
  throw Error({.what = "no weights",
               .where = folder.string(),
               .expected = std::string(single_name) + " or " + std::string(index_name) + " in the folder",
               .hint = hint});
}

/// The index's weight map: tensor name → shard file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json index = read_json_file(path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) {
    throw Error({.what = "no object 'weight_map'", .where = path.string(), .expected = "{\"weight_map\": {tensor: file}}"});
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos || file.find('\0') != std::string::npos) {
      throw Error({.what = "weight_map['" + printable(tensor) + "'] does not name a file of the same folder",
                   .where = path.string(),
                   .got = printable(shard.dump(-1, ' ', false, Json::error_handler_t::replace))});
    }
    shard_of.emplace(tensor, file);
  }
  return shard_of;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder) {
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    throw Error({.what = "not a model folder", .where = folder.string(), .expected = "a folder with config.json and model.safetensors"});
  }
  if (!fs::exists(folder / "config.json", ignored)) {
    throw Error({.what = "no config.json", .where = folder.string(), .expected = "a model folder in HuggingFace layout"});
  }
  checkpoint.config_ = read_json_file(folder / "config.json");
  if (!checkpoint.config_.is_object()) throw Error({.what = "not a JSON object", .where = (folder / "config.json").string()});

  const auto add_file = [&](const fs::path& path) -> const SafetensorsFile& {
    const std::size_t number = checkpoint.files_.size();
    checkpoint.files_.push_back(SafetensorsFile::open(path));
    const SafetensorsFile& file = checkpoint.files_.back();
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      const std::string& name = file.tensors()[i].name;
      const auto [entry, inserted] = checkpoint.index_.emplace(name, std::pair(number, i));
      if (!inserted) {
        throw Error({.what = "tensor '" + printable(name) + "' is in another shard too: " + checkpoint.files_[entry->second.first].where(),
                     .where = path.string()});
      }
    }
    return file;
  };

  if (checkpoint.config_.contains("parts")) {
    checkpoint.open_parts();
    return checkpoint;
  }
  if (fs::exists(folder / single_name, ignored)) {
    add_file(folder / single_name);
    return checkpoint;
  }
  const fs::path index_path = folder / index_name;
  if (!fs::exists(index_path, ignored)) refuse_without_weights(folder);

  const auto shard_of = read_index(index_path);
  std::vector<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.push_back(shard);
  std::ranges::sort(shards);
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  checkpoint.files_.reserve(shards.size());
  for (const std::string& shard : shards) {
    if (!fs::exists(folder / shard, ignored)) {
      throw Error(
          {.what = "the shard '" + printable(shard) + "' is missing", .where = index_path.string(), .hint = "incomplete download?"});
    }
    for (const TensorEntry& tensor : add_file(folder / shard).tensors()) {
      const auto indexed = shard_of.find(tensor.name);
      if (indexed == shard_of.end() || indexed->second != shard) {
        throw Error({.what = "tensor '" + printable(tensor.name) + "' is in the shard '" + printable(shard) + "', but the index " +
                             (indexed == shard_of.end() ? "does not have it" : "says '" + printable(indexed->second) + "'"),
                     .where = index_path.string()});
      }
    }
  }
  for (const auto& [tensor, shard] : shard_of) {
    if (!checkpoint.index_.contains(tensor)) {
      throw Error({.what = "tensor '" + printable(tensor) + "' is indexed, but not in its shard '" + printable(shard) + "'",
                   .where = index_path.string()});
    }
  }
  return checkpoint;
}

void Checkpoint::open_parts() {
  const std::string where = (folder_ / "config.json").string();
  const auto wrong = [&](const std::string& what) {
    throw Error({.what = what, .where = where, .expected = "\"parts\": [{\"name\": …, \"path\": …}, …]"});
  };
  const Json& parts = config_["parts"];
  if (!parts.is_array() || parts.empty()) wrong("\"parts\" is no list of files");
  for (const Json& part : parts) {
    const auto text = [&](const char* key) {
      if (!part.is_object() || !part.contains(key) || !part[key].is_string()) wrong(std::string("a part has no ") + key);
      return part[key].get<std::string>();
    };
    const std::string name = text("name");
    const fs::path path = folder_ / text("path");
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      throw Error(
          {.what = "the part '" + printable(name) + "' of the model is missing", .where = path.string(), .hint = "named in " + where});
    std::vector<SafetensorsFile> files;
    if (fs::is_directory(path, ignored)) {
      files = open(path).files_;
    } else if (path.extension() == ".safetensors") {
      files.push_back(SafetensorsFile::open(path));
    } else {
      throw Error({.what = "the part '" + printable(name) + "' is no safetensors file or model folder",
                   .where = path.string(),
                   .hint = "pickled checkpoints are not read; convert it once, if you trust where it comes from: " +
                           pickle_conversion_command(path)});
    }
    for (SafetensorsFile& file : files) {
      const std::size_t number = files_.size();
      files_.push_back(std::move(file));
      for (std::size_t i = 0; i < files_.back().tensors().size(); ++i)
        index_.insert_or_assign(files_.back().tensors()[i].name, std::pair(number, i));
    }
  }
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &files_[found->second.first].tensors()[found->second.second];
}

std::vector<const TensorEntry*> Checkpoint::tensors() const {
  std::vector<const TensorEntry*> all;
  all.reserve(index_.size());
  for (const auto& [name, at] : index_) all.push_back(&files_[at.first].tensors()[at.second]);
  return all;
}

std::shared_ptr<const MappedFile> Checkpoint::mapping_of(const TensorEntry& entry) const {
  const auto found = index_.find(entry.name);
  MMTUNE_ASSERT(found != index_.end());
  return files_[found->second.first].mapping();
}

}  // namespace mmtune::io
