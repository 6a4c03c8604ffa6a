#include "experts/peft_names.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

namespace mmtune::experts {

namespace {

struct Renaming {
  std::string_view checkpoint, module;
};

// Longer names stand before those that they end in.
constexpr std::array<Renaming, 7> vit_renamings = {{{"encoder.layer", "layers"},
                                                    {"attention.attention.query", "attention.q_proj"},
                                                    {"attention.attention.key", "attention.k_proj"},
                                                    {"attention.attention.value", "attention.v_proj"},
                                                    {"attention.output.dense", "attention.o_proj"},
                                                    {"intermediate.dense", "mlp.fc1"},
                                                    {"output.dense", "mlp.fc2"}}};
constexpr std::array<Renaming, 7> swin_renamings = {
    {{"attention.self.query", "attention.q_proj"},
     {"attention.self.key", "attention.k_proj"},
     {"attention.self.value", "attention.v_proj"},
     {"attention.self.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"},
     {"attention.output.dense", "attention.o_proj"},
     {"intermediate.dense", "mlp.fc1"},
     {"output.dense", "mlp.fc2"}}};

std::span<const Renaming> renamings_of(std::string_view architecture) {
  if (architecture == "vit") return vit_renamings;
  if (architecture == "swin") return swin_renamings;
  return {};
}

/// Where `part` stands in `name` as whole components; npos where it does not.
std::size_t find_components(std::string_view name, std::string_view part) {
  for (std::size_t at = name.find(part); at != std::string_view::npos; at = name.find(part, at + 1)) {
    const bool begins = at == 0 || name[at - 1] == '.';
    const std::size_t end = at + part.size();
    if (begins && (end == name.size() || name[end] == '.')) return at;
  }
  return std::string_view::npos;
}

std::vector<std::string> components(std::string_view name) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.emplace_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string joined(std::span<const std::string> parts) {
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : ".") + part;
  return name;
}

std::string_view without_prefix(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

bool is_one_of(const std::string& word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

std::string_view task_prefix(std::string_view architecture) {
  if (architecture == "bert") return "bert.";
  if (architecture == "roberta" || architecture == "xlm-roberta") return "roberta.";
  if (architecture == "vit") return "vit.";
  if (architecture == "vilt") return "vilt.";
  if (architecture == "swin") return "swin.";
  if (architecture == "wav2vec2") return "wav2vec2.";
  if (architecture == "llama" || architecture == "llava") return "model.";
  if (architecture == "opt") return "model.decoder.";
  return "";
}

std::string spelt_as(Naming naming, std::string_view architecture, std::string_view name) {
  std::string result(name);
  if (naming == Naming::checkpoint) return result;
  for (const Renaming& one : renamings_of(architecture)) {
    // A name that was changed already holds none of the others ("attention.o_proj" no "output.dense").
    if (const std::size_t at = find_components(result, one.checkpoint); at != std::string::npos)
      result.replace(at, one.checkpoint.size(), one.module);
  }
  return result;
}

std::string checkpoint_name(std::string_view architecture, std::string_view name) {
  std::string result(name);
  for (const Renaming& one : renamings_of(architecture)) {
    // Swin has "layers" in both spellings; ViT's are blocks only where no encoder stands in front.
    if (const std::size_t at = find_components(result, one.module); at != std::string::npos)
      result.replace(at, one.module.size(), one.checkpoint);
  }
  return result;
}

PeftKey parse_peft_key(std::string_view key) {
  key = without_prefix(without_prefix(key, "base_model.model."), "base_model.");
  std::vector<std::string> parts = components(key);
  const auto is_parameter = [](const std::string& part) {
    return part.starts_with("lora_") || part == "ia3_l" || part == "base_layer" || part == "prompt_embeddings";
  };
  const auto begin = std::find_if(parts.begin(), parts.end(), is_parameter);
  if (begin == parts.end()) {
    // A module that is kept whole. PEFT writes it under its own name; a state dict saved by hand has the wrapper's.
    bool spare = std::find(parts.begin(), parts.end(), "original_module") != parts.end();
    if (const auto wrapper = std::find(parts.begin(), parts.end(), "modules_to_save"); parts.end() - wrapper > 2) {
      parts.erase(wrapper, wrapper + 2);
    } else if (parts.end() - wrapper == 2) {
      parts.erase(wrapper);
      spare = true;
    }
    const std::string parameter = parts.back();
    parts.pop_back();
    return {joined(parts), parameter, spare};
  }
  const std::string module = joined({parts.begin(), begin});
  std::vector<std::string> rest(begin, parts.end());
  const std::string last = rest.back();
  const bool ends_in_kind = rest.size() > 1 && is_one_of(last, {"weight", "bias"});
  if (is_one_of(rest.front(), {"lora_A", "lora_B"})) {
    // lora_A.weight, lora_A.default.weight
    return {module, ends_in_kind && rest.size() <= 3 ? rest.front() + "." + last : joined(rest)};
  }
  if (is_one_of(rest.front(), {"lora_magnitude_vector", "ia3_l"})) {
    // with ".weight" (a module's state dict) or without (what PEFT saves), with the adapter's name or without
    return {module, rest.size() <= (ends_in_kind ? 3U : 2U) ? rest.front() : joined(rest)};
  }
  return {module, joined(rest)};
}

}  // namespace mmtune::experts
