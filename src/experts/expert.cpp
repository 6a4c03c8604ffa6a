#include "experts/expert.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <set>

#include "core/files.h"
#include "core/nearest.h"
#include "experts/kinds.h"
#include "io/safetensors.h"

namespace mmtune::experts {

namespace {

using Maker = std::unique_ptr<ExpertRecipe> (*)();

constexpr Maker makers[] = {full_recipe,    linear_recipe, bitfit_recipe, lora_recipe,   ia3_recipe,
                            adapter_recipe, prefix_recipe, prompt_recipe, ladder_recipe, mope_recipe};

/// PEFT keeps every tensor below this, but for the prompt tables.
constexpr std::string_view peft_prefix = "base_model.model.";

std::string key_of(const std::string& name) {
  return name == "prompt_embeddings" ? name : std::string(peft_prefix) + name;
}

struct PeftType {
  std::string_view type;
  std::string_view kind;
};

constexpr PeftType peft_types[] = {{"LORA", "lora"},
                                   {"IA3", "ia3"},
                                   {"PREFIX_TUNING", "prefix"},
                                   {"MMTUNE_PROMPT", "prompt"},
                                   {"MMTUNE_DEEP_PROMPT", "prompt"},
                                   {"MMTUNE_MOPE", "mope"},
                                   {"MMTUNE_ADAPTER", "adapter"},
                                   {"MMTUNE_LADDER", "ladder"},
                                   {"MMTUNE_BITFIT", "bitfit"},
                                   {"MMTUNE_FULL", "full"},
                                   {"MMTUNE_LINEAR", "linear"}};

std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t most = 6;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i) text += (i ? ", " : "") + printable(names[i]);
  if (names.size() > most) text += " and " + std::to_string(names.size() - most) + " more";
  return text;
}

template <class T, class Check>
void read_as(const Json& config, const std::string& where, const std::string& key, T& value, Check holds, const std::string& expected) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  if (!holds(*found))
    throw Error({.what = "key \"" + key + "\" has the wrong type",
                 .where = where,
                 .expected = expected,
                 .got = printable(found->dump(-1, ' ', false, Json::error_handler_t::replace))});
  value = found->template get<T>();
}

void check_backbone(const io::SafetensorsFile& file, const std::string& fingerprint, const std::string& where) {
  const auto text = file.metadata().find("mmtune");
  if (text == file.metadata().end()) return;
  const Json metadata = parse_json(text->second, where + " (metadata \"mmtune\")");
  const auto recorded = metadata.find("backbone_fingerprint");
  if (recorded == metadata.end() || !recorded->is_string() || *recorded == fingerprint) return;
  throw Error({.what = "this expert belongs to another backbone",
               .where = where,
               .expected = metadata.value("backbone", std::string("a backbone")) + " with fingerprint " + recorded->get<std::string>(),
               .got = fingerprint});
}

}  // namespace

std::int64_t Expert::parameter_count() const {
  std::int64_t count = 0;
  for (const nn::NamedTensor& named : tensors())
    if (named.tensor.requires_grad()) count += named.tensor.numel();
  return count;
}

at::Tensor leaf(const at::Tensor& values) {
  return values.detach().to(at::kFloat).clone().requires_grad_(true);
}

at::Tensor normal_leaf(at::IntArrayRef shape, double std, at::Generator& generator) {
  return leaf(std > 0 ? at::empty(shape).normal_(0.0, std, generator) : at::zeros(shape));
}

bool prompts_end(const backbones::Backbone& backbone, const std::vector<nn::SequenceSite*>& sites) {
  const backbones::BackboneInfo& info = backbone.info();
  const bool merging = info.modality == backbones::Modality::image && !info.has_class_token;
  return !merging && std::none_of(sites.begin(), sites.end(), [](const nn::SequenceSite* site) { return site->causal; });
}

std::int64_t ending_prompt_macs(const std::vector<nn::SequenceSite*>& sites, std::int64_t tokens, std::int64_t prompts) {
  std::int64_t total = 0;
  for (const nn::SequenceSite* site : sites) total += 2 * prompts * site->width * site->width + 2 * tokens * prompts * site->width;
  return total;
}

void nothing_chosen(const std::string& pattern, const std::vector<std::string>& names, const std::string& what) {
  std::set<std::string> endings;
  for (const std::string& name : names) endings.insert(name.substr(name.rfind('.') + 1));
  std::vector<std::string> candidates(endings.begin(), endings.end());
  const std::optional<std::string> close = nearest(pattern, candidates);
  throw UsageError({.what = "no " + what + " of the backbone is named like this",
                    .where = "expert.targets: \"" + printable(pattern) + "\"",
                    .expected = names.empty() ? "" : "an ending like " + listed(candidates),
                    .hint = close ? "did you mean \"" + *close + "\"?" : ""});
}

void read(const Json& config, const std::string& where, const std::string& key, std::int64_t& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_number_integer(); }, "an integer");
}
void read(const Json& config, const std::string& where, const std::string& key, double& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_number(); }, "a number");
}
void read(const Json& config, const std::string& where, const std::string& key, bool& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_boolean(); }, "true or false");
}
void read(const Json& config, const std::string& where, const std::string& key, std::string& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_string(); }, "a string");
}
void read(const Json& config, const std::string& where, const std::string& key, std::vector<std::string>& value) {
  const auto strings = [](const Json& j) {
    return j.is_array() && std::all_of(j.begin(), j.end(), [](const Json& item) { return item.is_string(); });
  };
  read_as(config, where, key, value, strings, "a list of strings");
}

void refuse_unless_plain(const Json& config, const std::string& where, const std::string& key, const Json& plain) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null() || *found == plain || (found->is_structured() && found->empty())) return;
  throw Error({.what = "key \"" + key + "\" asks for something that is not supported",
               .where = where,
               .expected = plain.dump(),
               .got = printable(found->dump(-1, ' ', false, Json::error_handler_t::replace))});
}

std::vector<std::string> known_kinds() {
  std::vector<std::string> kinds;
  for (const Maker maker : makers) kinds.emplace_back(maker()->kind());
  return kinds;
}

std::unique_ptr<ExpertRecipe> expert_recipe(std::string_view kind) {
  for (const Maker maker : makers) {
    std::unique_ptr<ExpertRecipe> recipe = maker();
    if (recipe->kind() == kind) return recipe;
  }
  const std::vector<std::string> kinds = known_kinds();
  const std::optional<std::string> close = nearest(kind, kinds);
  throw UsageError({.what = "kind of expert is unknown",
                    .where = "expert.method",
                    .expected = "one of " + listed(kinds),
                    .got = "\"" + printable(kind) + "\"",
                    .hint = close ? "did you mean \"" + *close + "\"?" : ""});
}

void save_expert(const Expert& expert, const std::filesystem::path& folder, const Json& metadata) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw Error({.what = "cannot create the folder", .where = folder.string(), .got = failure.message()});
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const nn::NamedTensor& named : expert.tensors()) {
    kept.push_back(named.tensor.detach().to(at::kCPU).contiguous());
    entries.push_back(nn::to_entry(key_of(named.name), kept.back()));
  }
  write_file_atomically(folder / "adapter_config.json", expert.config().dump(2) + "\n");
  io::write_safetensors(folder / "adapter_model.safetensors", entries, {{"format", "pt"}, {"mmtune", metadata.dump()}});
}

std::unique_ptr<Expert> load_expert(const std::filesystem::path& folder, backbones::Backbone& backbone,
                                    const std::string& backbone_fingerprint, bool any_backbone) {
  const std::string config_path = (folder / "adapter_config.json").string();
  const Json config = read_json_file(config_path);
  std::string type;
  if (config.is_object()) read(config, config_path, "peft_type", type);
  const auto known = std::find_if(std::begin(peft_types), std::end(peft_types), [&](const PeftType& one) { return one.type == type; });
  if (known == std::end(peft_types))
    throw Error({.what = "peft_type is not supported", .where = config_path, .got = "\"" + printable(type) + "\""});
  const io::SafetensorsFile file = io::SafetensorsFile::open(folder / "adapter_model.safetensors");
  if (!any_backbone) check_backbone(file, backbone_fingerprint, folder.string());

  const std::unique_ptr<ExpertRecipe> recipe = expert_recipe(known->kind);
  recipe->read_config(config, config_path);
  std::unique_ptr<Expert> expert = recipe->build(backbone, at::detail::createCPUGenerator(0));

  std::vector<std::string> missing, misshapen;
  std::set<std::string> unused;
  for (const io::TensorEntry& entry : file.tensors()) unused.insert(entry.name);
  const std::vector<nn::NamedTensor> tensors = expert->tensors();
  for (const nn::NamedTensor& named : tensors) {
    const std::string key = key_of(named.name);
    const io::TensorEntry* entry = file.find(key);
    if (!entry) {
      missing.push_back(key);
      continue;
    }
    unused.erase(key);
    if (at::IntArrayRef(entry->shape) != named.tensor.sizes()) misshapen.push_back(key);
  }
  if (tensors.empty() && expert->kind() != "linear")
    throw Error({.what = "loading this expert would change nothing", .where = folder.string()});
  if (!missing.empty() || !misshapen.empty() || !unused.empty()) {
    std::string what = "the expert's tensors do not fit";
    if (!missing.empty()) what += "; missing: " + listed(missing);
    if (!misshapen.empty()) what += "; of another shape: " + listed(misshapen);
    if (!unused.empty()) what += "; not used: " + listed({unused.begin(), unused.end()});
    throw Error({.what = what, .where = (folder / "adapter_model.safetensors").string()});
  }
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& named : tensors) {
    at::Tensor tensor = named.tensor;
    tensor.copy_(nn::to_tensor(*file.find(key_of(named.name)), file.mapping()));
  }
  return expert;
}

}  // namespace mmtune::experts
