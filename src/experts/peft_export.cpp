#include "experts/peft_export.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "core/files.h"
#include "experts/kinds.h"
#include "experts/peft_targets.h"
#include "io/safetensors.h"

namespace mmtune::experts {

namespace {

using Rename = std::function<std::string(const std::string&)>;

/// From the backbone's names to those of modules. CLIP's towers on their own stand at the top in transformers 5, unless a projection
/// stands beside them.
Rename renaming(backbones::Backbone& backbone, const PeftExport& how) {
  const std::string architecture = backbone.info().architecture;
  std::string dropped, added;
  if (how.task_model) added = task_prefix(architecture);
  const std::vector<nn::TensorSlot>& slots = backbone.sites().tensors;
  const auto has = [&](const std::string& name) {
    return std::any_of(slots.begin(), slots.end(), [&](const nn::TensorSlot& slot) { return slot.name == name; });
  };
  for (const bool vision : {true, false}) {
    if (architecture != (vision ? "clip_vision_model" : "clip_text_model")) continue;
    const std::string_view tower = vision ? "vision_model." : "text_model.";
    const char* const projection = vision ? "visual_projection.weight" : "text_projection.weight";
    const bool below = std::any_of(slots.begin(), slots.end(), [&](const nn::TensorSlot& slot) { return slot.name.starts_with(tower); });
    const bool wanted = has(projection) || how.task_model || how.naming == Naming::checkpoint;
    if (below && !wanted) dropped = tower;
    if (!below && wanted) added = tower;
  }
  return [=](const std::string& name) {
    const std::string rest = name.starts_with(dropped) ? name.substr(dropped.size()) : name;
    return added + spelt_as(how.naming, architecture, rest);
  };
}

std::vector<std::string> renamed(const std::vector<std::string>& names, const Rename& rename) {
  std::vector<std::string> result;
  for (const std::string& name : names) result.push_back(rename(name));
  return result;
}

/// The expert's tensors that the model has a place for.
std::vector<nn::NamedTensor> tensors_for(const Expert& expert, const PeftExport& how) {
  std::vector<nn::NamedTensor> tensors = expert.tensors();
  if (how.without_pooler) std::erase_if(tensors, [](const nn::NamedTensor& one) { return one.name.starts_with("pooler."); });
  return tensors;
}

/// The linear maps that the tensors adapt, by the backbone's names.
std::vector<std::string> adapted_by(const std::vector<nn::NamedTensor>& tensors) {
  std::vector<std::string> maps;
  for (const nn::NamedTensor& one : tensors)
    for (const std::string_view ending : {".lora_A.weight", ".ia3_l"})
      if (one.name.ends_with(ending)) maps.push_back(one.name.substr(0, one.name.size() - ending.size()));
  return maps;
}

Json renamed_patterns(const Json& patterns, const Rename& rename) {
  Json result = Json::object();
  for (const auto& [name, value] : patterns.items()) result[rename(name)] = value;
  return result;
}

Json peft_config(const Expert& expert, backbones::Backbone& backbone, const PeftExport& how, const Rename& rename) {
  Json config = expert.config();
  const std::vector<nn::NamedTensor> tensors = tensors_for(expert, how);
  if (config.contains("target_modules")) {
    const std::vector<std::string> maps = adapted_by(tensors);
    const std::vector<std::string> others = renamed(other_maps(maps, backbone), rename);
    if (config.contains("feedforward_modules")) {
      std::vector<std::string> inputs, outputs;
      for (const nn::NamedTensor& one : tensors) {
        const bool input = one.tensor.dim() == 2 && one.tensor.size(0) == 1;
        if (one.name.ends_with(".ia3_l")) (input ? inputs : outputs).push_back(rename(one.name.substr(0, one.name.size() - 6)));
      }
      const FactorLists lists = factor_lists(inputs, outputs, others);
      config["target_modules"] = lists.targets;
      config["feedforward_modules"] = lists.feed_forward;
    } else {
      config["target_modules"] = target_list(renamed(maps, rename), others);
    }
    for (const char* key : {"rank_pattern", "alpha_pattern"})
      if (config.contains(key)) config[key] = renamed_patterns(config[key], rename);
  }
  std::vector<std::string> saved = how.modules_to_save;
  if (const auto own = config.find("modules_to_save"); own != config.end())
    for (const auto& module : own->get<std::vector<std::string>>())
      if (!how.without_pooler || !module.starts_with("pooler")) saved.push_back(rename(module));
  if (!how.excluded.empty() && config.contains("target_modules")) config["exclude_modules"] = how.excluded;
  config["modules_to_save"] = saved.empty() ? Json() : Json(saved);
  config["base_model_name_or_path"] = how.base_model;
  config["task_type"] = how.task_type.empty() ? Json() : Json(how.task_type);
  return config;
}

std::string renamed_key(const std::string& name, const Rename& rename) {
  for (const char* part : {".lora_A.", ".lora_B.", ".lora_magnitude_vector", ".ia3_l", ".base_layer."})
    if (const std::size_t at = name.find(part); at != std::string::npos) return rename(name.substr(0, at)) + name.substr(at);
  return rename(name);
}

bool is_prompt(const Json& config) {
  return config.at("peft_type") == "PREFIX_TUNING" || config.at("peft_type") == "PROMPT_TUNING";
}

}  // namespace

void refuse_unknown_to_peft(const Expert& expert, const std::string& where) {
  const std::string type = expert.config().at("peft_type");
  if (!type.starts_with("MMTUNE_")) return;
  throw Error({.what = "PEFT has no expert of kind " + std::string(expert.kind()),
               .where = where,
               .expected = "lora, ia3 or prefix",
               .hint = expert.mergeable() ? "mmtune merge writes a checkpoint that transformers loads without PEFT" : ""});
}

void export_to_peft(const Expert& expert, backbones::Backbone& backbone, const PeftExport& how, const std::filesystem::path& folder) {
  refuse_unknown_to_peft(expert, "expert \"" + std::string(expert.kind()) + "\"");
  const Rename rename = renaming(backbone, how);
  const Json config = peft_config(expert, backbone, how, rename);
  // PEFT wraps the model once for prompts and twice for what it puts into modules.
  const std::string wrapper = is_prompt(config) ? "base_model." : "base_model.model.";
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  const auto add = [&](const std::string& key, const at::Tensor& tensor) {
    kept.push_back(tensor.detach().cpu().contiguous());
    entries.push_back(nn::to_entry(key, kept.back()));
  };
  for (const nn::NamedTensor& one : tensors_for(expert, how))
    add(one.name == "prompt_embeddings" ? one.name : wrapper + renamed_key(one.name, rename), one.tensor);
  for (const nn::NamedTensor& one : how.head) add(wrapper + one.name, one.tensor);
  write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
  io::write_safetensors(folder / "adapter_model.safetensors", entries, {{"format", "pt"}, {"mmtune", how.metadata.dump()}});
}

}  // namespace mmtune::experts
