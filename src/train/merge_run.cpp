#include "train/merge_run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/staged_folder.h"
#include "experts/merge.h"
#include "experts/peft_names.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "train/classify.h"
#include "train/hf_heads.h"
#include "train/session.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t shard_bytes = std::size_t{5} * 1000 * 1000 * 1000;

/// What stands beside the weights and belongs to the model all the same.
constexpr std::array copied_files = {"tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "vocab.txt",
                                     "vocab.json",
                                     "merges.txt",
                                     "sentencepiece.bpe.model",
                                     "spiece.model",
                                     "preprocessor_config.json",
                                     "processor_config.json",
                                     "LICENSE",
                                     "LICENSE.txt"};

/// The towers that are written: all that share one checkpoint.
std::vector<const Tower*> towers_to_merge(const TrainedRun& run, const MergeOptions& options) {
  std::vector<const Tower*> towers;
  for (const auto& tower : run.model->towers())
    if (options.tower.empty() || tower->name() == options.tower) towers.push_back(tower.get());
  if (towers.empty())
    throw UsageError({.what = "the run has no such tower", .where = "--tower", .got = "\"" + printable(options.tower) + "\""});
  for (const Tower* tower : towers)
    if (tower->checkpoint().folder() != towers.front()->checkpoint().folder())
      throw UsageError({.what = "the run stands on two checkpoints",
                        .where = options.run.string(),
                        .expected = "--tower main or --tower condition",
                        .hint = "one folder holds one model"});
  return towers;
}

/// What the checkpoint has in front of the backbone's names.
std::string prefix_in(const io::Checkpoint& checkpoint, backbones::Backbone& backbone) {
  const std::string name = backbone.sites().tensors.front().name;
  const std::string prefix(experts::task_prefix(backbone.info().architecture));
  return !checkpoint.find(name) && checkpoint.find(prefix + name) ? prefix : "";
}

class Writer {
 public:
  Writer(const io::Checkpoint& source, bool as_float) : source_(&source), as_float_(as_float) {}

  void copy(const std::string& key, const io::TensorEntry& entry) {
    const bool narrow = entry.dtype == io::DType::f16 || entry.dtype == io::DType::bf16 || entry.dtype == io::DType::f64;
    if (as_float_ && narrow) return put(key, nn::to_tensor_exact(entry).to(at::kFloat));
    io::TensorEntry same = entry;
    same.name = key;
    entries_.push_back(std::move(same));
  }

  /// `like`: the tensor whose dtype is kept.
  void change(const std::string& key, const at::Tensor& value, const io::TensorEntry& like, Merged& merged) {
    const at::ScalarType dtype = as_float_ ? at::kFloat : nn::to_tensor_exact({like.name, like.dtype, {0}, {}}).scalar_type();
    const at::Tensor rounded = value.to(at::kCPU, dtype);
    if (!at::isfinite(rounded).all().item<bool>())
      throw Error({.what = "a merged number does not fit into " + std::string(io::name_of(like.dtype)),
                   .where = key,
                   .hint = "--dtype f32 writes all weights in float32"});
    if (value.numel() > 0)
      merged.largest_change = std::max(merged.largest_change, (rounded.to(at::kFloat) - value.cpu()).abs().max().item<double>());
    put(key, rounded);
  }

  /// One file, or shards with an index.
  std::vector<std::string> write(const fs::path& folder) {
    std::sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    std::size_t limit = shard_bytes;
    if (source_->files().size() > 1) {
      limit = 0;
      for (const io::SafetensorsFile& file : source_->files()) {
        std::size_t bytes = 0;
        for (const io::TensorEntry& entry : file.tensors()) bytes += entry.data.size();
        limit = std::max(limit, bytes);
      }
    }
    std::vector<std::vector<io::TensorEntry>> shards(1);
    std::size_t total = 0, filled = 0;
    for (const io::TensorEntry& entry : entries_) {
      if (filled > 0 && filled + entry.data.size() > limit) {
        shards.emplace_back();
        filled = 0;
      }
      shards.back().push_back(entry);
      filled += entry.data.size();
      total += entry.data.size();
    }
    if (shards.size() == 1) {
      io::write_safetensors(folder / "model.safetensors", shards.front(), {{"format", "pt"}});
      return {"model.safetensors"};
    }
    std::vector<std::string> files;
    Json map = Json::object();
    for (std::size_t i = 0; i < shards.size(); ++i) {
      files.push_back("model-" + numbered(i + 1) + "-of-" + numbered(shards.size()) + ".safetensors");
      io::write_safetensors(folder / files.back(), shards[i], {{"format", "pt"}});
      for (const io::TensorEntry& entry : shards[i]) map[entry.name] = files.back();
    }
    files.emplace_back("model.safetensors.index.json");
    const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
    write_file_atomically(folder / files.back(), index.dump(2) + "\n");
    return files;
  }

 private:
  static std::string numbered(std::size_t number) {
    const std::string digits = std::to_string(number);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  }
  void put(const std::string& key, const at::Tensor& tensor) {
    kept_.push_back(tensor.detach().cpu().contiguous());
    entries_.push_back(nn::to_entry(key, kept_.back()));
  }

  const io::Checkpoint* source_;
  bool as_float_;
  std::vector<at::Tensor> kept_;
  std::vector<io::TensorEntry> entries_;
};

Json config_for(const io::Checkpoint& source, const HfHead* head, const Task& task, bool as_float) {
  Json config = source.config();
  if (as_float) {
    config.erase("torch_dtype");
    config["dtype"] = "float32";
  }
  if (!head) return config;
  config["architectures"] = {head->model_class};
  Json names = Json::object(), numbers = Json::object();
  for (std::size_t i = 0; i < task.classes().size(); ++i) {
    names[std::to_string(i)] = task.classes()[i];
    numbers[task.classes()[i]] = i;
  }
  config["id2label"] = names;
  config["label2id"] = numbers;
  const auto* classify = dynamic_cast<const Classify*>(&task);
  config["problem_type"] = classify && classify->multi_label() ? "multi_label_classification" : "single_label_classification";
  return config;
}

}  // namespace

Merged merge_run(const MergeOptions& options) {
  // Folded into the numbers of the source, however the run kept them in memory.
  const std::vector<std::string> exact = {"backbone.weights=f32", "backbone.matmul_precision=highest"};
  const TrainedRun run = open_run(options.run, exact);
  const std::vector<const Tower*> towers = towers_to_merge(run, options);
  for (const Tower* tower : towers)
    for (const auto& expert : tower->experts()) experts::refuse_unmergeable(*expert, options.run.string());
  std::optional<HfHead> head;
  if (options.head && run.model->has_head()) head = hf_head_of(run.recipe, *run.model);

  Merged merged;
  const io::Checkpoint& source = towers.front()->checkpoint();
  std::map<std::string, at::Tensor> changed;  // by the source's names
  std::set<std::string> backbone_keys;
  std::string prefix;
  std::vector<std::unique_ptr<experts::MergedExperts>> folded;
  for (const Tower* tower : towers) {
    backbones::Backbone& backbone = tower->backbone();
    prefix = prefix_in(source, backbone);
    std::vector<experts::Expert*> attached;
    for (const auto& expert : tower->experts()) attached.push_back(expert.get());
    folded.push_back(std::make_unique<experts::MergedExperts>(backbone, std::move(attached)));
    for (const nn::TensorSlot& slot : backbone.sites().tensors) backbone_keys.insert(prefix + slot.name);
    for (const nn::NamedTensor& one : folded.back()->changed()) changed[prefix + one.name] = one.tensor;
  }
  if (changed.empty() && !head)
    throw Error(
        {.what = "merging this run would change nothing", .where = options.run.string(), .got = "no expert with tensors, and no head"});

  const std::string task_prefix = head ? std::string(experts::task_prefix(towers.front()->backbone().info().architecture)) : "";
  const auto key_of = [&](const std::string& name) { return prefix.empty() ? task_prefix + name : name; };
  Writer writer(source, options.as_float);
  std::set<std::string> head_keys;
  const std::vector<nn::NamedTensor> head_tensors =
      head ? to_hf(*head, run.model->head(), source.config()) : std::vector<nn::NamedTensor>{};
  for (const nn::NamedTensor& one : head_tensors) head_keys.insert(one.name);
  for (const io::TensorEntry* entry : source.tensors()) {
    if (head && (!backbone_keys.contains(entry->name) || head_keys.contains(key_of(entry->name)))) {
      if (!head_keys.contains(key_of(entry->name))) merged.left_out.push_back(entry->name);
      continue;
    }
    const std::string key = head ? key_of(entry->name) : entry->name;
    const auto found = changed.find(entry->name);
    if (found == changed.end()) {
      writer.copy(key, *entry);
    } else {
      writer.change(key, found->second, *entry, merged);
      merged.changed.push_back(key);
    }
  }
  if (head) {
    const io::TensorEntry& like = *source.find(*backbone_keys.begin());
    for (const nn::NamedTensor& one : head_tensors) {
      if (!at::isfinite(one.tensor).all().item<bool>())
        throw Error({.what = "the head's tensor holds NaN or infinite numbers", .where = one.name});
      writer.change(one.name, one.tensor, like, merged);
      merged.changed.push_back(one.name);
    }
    merged.classes = run.task->classes();
    merged.model_class = head->model_class;
  }

  StagedFolder staged(options.out);
  const Json config = config_for(source, head ? &*head : nullptr, *run.task, options.as_float);
  write_file_atomically(staged.path() / "config.json", config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  merged.files = writer.write(staged.path());
  merged.files.insert(merged.files.begin(), "config.json");
  for (const char* name : copied_files) {
    const fs::path from = source.folder() / name;
    std::error_code error;
    if (!fs::is_regular_file(from, error)) continue;
    write_file_atomically(staged.path() / name, read_file(from));
    merged.files.emplace_back(name);
  }
  // What is written is known to load.
  for (const Tower* tower : towers) {
    const io::Checkpoint written = io::Checkpoint::open(staged.path());
    backbones::open_backbone(written, backbones::towers_of(written).empty() ? std::nullopt : std::optional(tower->modality()));
  }
  staged.commit();
  return merged;
}

}  // namespace mmtune::train
