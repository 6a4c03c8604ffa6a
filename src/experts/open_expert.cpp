// Opening an expert's folder: its configuration understood, its tensors checked against what the configuration asks for.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/listed.h"
#include "experts/expert.h"
#include "experts/kinds.h"
#include "experts/peft_config.h"
#include "experts/peft_targets.h"
#include "io/pickle.h"
#include "io/safetensors.h"

namespace mmtune::experts {

namespace {

namespace fs = std::filesystem;

io::SafetensorsFile open_tensors(const fs::path& folder) {
  std::error_code ignored;
  const fs::path path = folder / "adapter_model.safetensors", pickle = folder / "adapter_model.bin";
  if (!fs::exists(path, ignored) && fs::exists(pickle, ignored))
    throw Error({.what = "holds its tensors in a pickle, which can run code when it is loaded",
                 .where = pickle.string(),
                 .expected = "adapter_model.safetensors",
                 .hint = "convert it once: " + io::pickle_conversion_command(pickle)});
  return io::SafetensorsFile::open(path);
}

Json metadata_of(const io::SafetensorsFile& file, const std::string& where) {
  const auto text = file.metadata().find("mmtune");
  return text == file.metadata().end() ? Json() : parse_json(text->second, where + " (metadata \"mmtune\")");
}

void check_backbone(const Json& metadata, const std::string& fingerprint, const std::string& where) {
  if (!metadata.is_object()) return;
  const auto recorded = metadata.find("backbone_fingerprint");
  if (recorded == metadata.end() || !recorded->is_string() || *recorded == fingerprint) return;
  const auto name = metadata.find("backbone");
  throw Error({.what = "this expert belongs to another backbone",
               .where = where,
               .expected = (name != metadata.end() && name->is_string() ? printable(name->get<std::string>()) : "a backbone") +
                           " with fingerprint " + printable(recorded->get<std::string>()),
               .got = fingerprint});
}

at::Tensor read_finite(const io::TensorEntry& entry, const io::SafetensorsFile& file, const std::string& where) {
  at::Tensor tensor = nn::to_tensor(entry, file.mapping());
  if (!at::isfinite(tensor).all().item<bool>())
    throw Error({.what = "tensor \"" + printable(entry.name) + "\" holds NaN or infinite numbers", .where = where});
  return tensor;
}

/// The file's tensors by the backbone's names.
class Contents {
 public:
  Contents(const io::SafetensorsFile& file, backbones::Backbone& backbone, const std::string& where)
      : keys_(parsed(file)), spelling_(keys_, backbone) {
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      const PeftKey& key = keys_[i];
      if (key.spare) continue;
      const io::TensorEntry& entry = file.tensors()[i];
      // A whole tensor is renamed as one, a part of an expert behind its module.
      const bool part = key.parameter.find('.') != std::string::npos || key.parameter.starts_with("lora_") || key.parameter == "ia3_l" ||
                        key.parameter == "prompt_embeddings";
      std::string name = key.parameter;
      if (!key.module.empty())
        name = part ? spelling_.from_file(key.module) + "." + key.parameter : spelling_.from_file(key.module + "." + key.parameter);
      if (!entries_.emplace(name, &entry).second)
        throw Error(
            {.what = "two tensors are the same one under different names: " + listed({entry.name, entries_[name]->name}), .where = where});
    }
  }

  /// How the file would spell the key of an expert's tensor.
  std::string key_of(const std::string& name) const {
    const PeftKey key = parse_peft_key(name);
    const bool part = name.ends_with("." + key.parameter) && key.parameter != "weight" && key.parameter != "bias";
    if (key.module.empty()) return name;
    return "base_model.model." + (part ? spelling_.to_file(key.module) + "." + key.parameter : spelling_.to_file(name));
  }
  const ModuleSpelling& spelling() const { return spelling_; }
  const std::map<std::string, const io::TensorEntry*>& entries() const { return entries_; }

 private:
  static std::vector<PeftKey> parsed(const io::SafetensorsFile& file) {
    std::vector<PeftKey> keys;
    for (const io::TensorEntry& entry : file.tensors()) keys.push_back(parse_peft_key(entry.name));
    return keys;
  }

  std::vector<PeftKey> keys_;
  ModuleSpelling spelling_;
  std::map<std::string, const io::TensorEntry*> entries_;
};

/// Whether a tensor that is no part of the expert belongs to the task's head.
bool is_head(const std::string& name, const TargetRules& rules, backbones::Backbone& backbone) {
  const std::string module = name.substr(0, name.rfind('.'));
  if (name.find(".lora_") != std::string::npos || name.find(".ia3_l") != std::string::npos) return false;
  for (const nn::TensorSlot& slot : backbone.sites().tensors)
    if (slot.name == name) return false;
  return std::any_of(rules.saved().begin(), rules.saved().end(), [&](const std::string& saved) { return lies_in(module, saved); });
}

}  // namespace

OpenedExpert open_expert(const fs::path& folder, backbones::Backbone& backbone, const std::string& backbone_fingerprint,
                         bool any_backbone) {
  const std::string config_path = (folder / "adapter_config.json").string();
  const std::string where = (folder / "adapter_model.safetensors").string();
  OpenedExpert opened;
  opened.config = read_json_file(config_path, std::size_t{16} << 20);
  std::string type;
  if (opened.config.is_object()) read(opened.config, config_path, "peft_type", type);
  const std::string_view kind = kind_of_peft_type(type, config_path);
  const io::SafetensorsFile file = open_tensors(folder);
  opened.metadata = metadata_of(file, where);
  if (!any_backbone) check_backbone(opened.metadata, backbone_fingerprint, folder.string());

  const Contents contents(file, backbone, where);
  const std::unique_ptr<ExpertRecipe> recipe = expert_recipe(kind);
  recipe->read_config(resolved_config(opened.config, config_path, backbone, contents.spelling()), config_path);
  opened.expert = recipe->build(backbone, at::detail::createCPUGenerator(0));

  std::vector<std::string> missing, misshapen, unused;
  std::set<std::string> used;
  const std::vector<nn::NamedTensor> tensors = opened.expert->tensors();
  for (const nn::NamedTensor& named : tensors) {
    const auto found = contents.entries().find(named.name);
    if (found == contents.entries().end()) {
      missing.push_back(contents.key_of(named.name));
      continue;
    }
    used.insert(named.name);
    const at::IntArrayRef shape(found->second->shape);
    if (shape != named.tensor.sizes())
      misshapen.push_back(found->second->name + " (expected " + shape_text(named.tensor.sizes()) + ", got " + shape_text(shape) + ")");
  }
  if (tensors.empty() && opened.expert->kind() != "linear")
    throw Error({.what = "loading this expert would change nothing", .where = folder.string()});
  const TargetRules rules(opened.config, config_path);
  std::vector<std::pair<std::string, const io::TensorEntry*>> head;
  for (const auto& [name, entry] : contents.entries()) {
    if (used.contains(name)) continue;
    if (is_head(name, rules, backbone)) {
      head.emplace_back(name, entry);
    } else {
      unused.push_back(entry->name);
    }
  }
  if (!missing.empty() || !misshapen.empty() || !unused.empty()) {
    std::string what = "the expert's tensors do not fit";
    if (!missing.empty()) what += "; missing: " + listed(missing);
    if (!misshapen.empty()) what += "; of another shape: " + listed(misshapen);
    if (!unused.empty()) what += "; not used: " + listed(unused);
    throw Error({.what = what, .where = where});
  }
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& named : tensors) {
    at::Tensor tensor = named.tensor;
    tensor.copy_(read_finite(*contents.entries().at(named.name), file, where));
  }
  for (const auto& [name, entry] : head) opened.head.push_back({name, read_finite(*entry, file, where).clone()});
  return opened;
}

std::unique_ptr<Expert> load_expert(const fs::path& folder, backbones::Backbone& backbone, const std::string& backbone_fingerprint,
                                    bool any_backbone) {
  OpenedExpert opened = open_expert(folder, backbone, backbone_fingerprint, any_backbone);
  if (opened.head.empty()) return std::move(opened.expert);
  std::vector<std::string> names;
  for (const nn::NamedTensor& one : opened.head) names.push_back(one.name);
  throw Error({.what = "the folder holds a task's head too: " + listed(names),
               .where = folder.string(),
               .hint = "make a run of it: mmtune import " + folder.string() + " --backbone MODEL --out RUN"});
}

}  // namespace mmtune::experts
