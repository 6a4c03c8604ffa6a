#include "tvp_multimodal.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/files.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::golden {

namespace {

namespace fs = std::filesystem;
using at::Tensor;
using backbones::TokenIds;

Json eva_section(const Json& vision) {
  return {{"hidden_size", vision.at("hidden")},
          {"num_hidden_layers", vision.at("layers")},
          {"num_attention_heads", vision.at("heads")},
          {"intermediate_size", vision.at("mlp")},
          {"image_size", vision.at("image")},
          {"patch_size", vision.at("patch")},
          {"layer_norm_eps", vision.at("block_ln_eps")},
          {"post_layer_norm_eps", vision.at("final_ln_eps")}};
}

Json clip_section(const Json& vision) {
  return {{"model_type", "clip_vision_model"},        {"hidden_size", vision.at("hidden")},
          {"num_hidden_layers", vision.at("layers")}, {"num_attention_heads", vision.at("heads")},
          {"intermediate_size", vision.at("mlp")},    {"image_size", vision.at("image")},
          {"patch_size", vision.at("patch")},         {"hidden_act", "quick_gelu"}};
}

Json text_section(const Json& llm) {
  if (llm.contains("d_model"))
    return {{"model_type", "t5"},
            {"d_model", llm.at("d_model")},
            {"d_kv", llm.at("d_kv")},
            {"d_ff", llm.at("d_ff")},
            {"num_layers", llm.at("layers")},
            {"num_heads", llm.at("heads")},
            {"vocab_size", llm.at("vocab")},
            {"relative_attention_num_buckets", llm.at("rel_buckets")},
            {"relative_attention_max_distance", llm.at("rel_max_distance")},
            {"layer_norm_epsilon", llm.at("ln_eps")},
            {"decoder_start_token_id", llm.at("decoder_start")},
            {"eos_token_id", llm.at("eos")},
            {"pad_token_id", llm.at("pad")},
            {"feed_forward_proj", "gated-gelu"},
            {"dense_act_fn", "gelu"},
            {"tie_word_embeddings", false}};
  return {{"model_type", "llama"},
          {"hidden_size", llm.at("hidden")},
          {"intermediate_size", llm.at("mlp")},
          {"num_hidden_layers", llm.at("layers")},
          {"num_attention_heads", llm.at("heads")},
          {"vocab_size", llm.at("vocab")},
          {"rms_norm_eps", llm.at("rms_eps")},
          {"rope_theta", llm.at("rope_theta")}};
}

std::string family_of(const std::string& name) {
  const std::string rest = name.substr(name.find('_') + 1);
  return rest == "blip2_t5" ? "blip-2" : rest;
}

/// The model's configuration, of what the case tells; sizes of tables are those of its tensors.
Json model_config(Case& golden, const std::string& family) {
  const Json& told = golden.json().at("config");
  Json config = {{"model_type", family}, {"text_config", text_section(told.at("llm"))}};
  if (told.contains("image_token_id")) config["image_token_index"] = told.at("image_token_id");
  if (family == "llava") {
    config["vision_config"] = clip_section(told.at("vision"));
    return config;
  }
  config["vision_config"] = eva_section(told.at("vision"));
  const Json& q_former = told.at("qformer");
  config["num_query_tokens"] = q_former.at("queries");
  config["qformer_config"] = {{"hidden_size", q_former.at("hidden")},
                              {"num_hidden_layers", q_former.at("layers")},
                              {"num_attention_heads", q_former.at("heads")},
                              {"intermediate_size", q_former.at("mlp")},
                              {"encoder_hidden_size", told.at("vision").at("hidden")},
                              {"cross_attention_frequency", q_former.at("cross_attention_every")},
                              {"layer_norm_eps", q_former.at("ln_eps")}};
  for (const char* scope : {"w.qformer.embeddings.", "w.Qformer.bert.embeddings."}) {
    const std::string words = std::string(scope) + "word_embeddings.weight", places = std::string(scope) + "position_embeddings.weight";
    if (!golden.has(words)) continue;
    config["qformer_config"]["vocab_size"] = golden.take(words).size(0);
    config["qformer_config"]["max_position_embeddings"] = golden.take(places).size(0);
  }
  return config;
}

/// A folder that is gone when this is.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("mmtune_golden_" + std::to_string(::getpid()))) { fs::create_directories(path_); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::unique_ptr<backbones::MultimodalLm> opened(Case& golden, const std::string& family) {
  const Folder folder;
  write_file_atomically(folder.path() / "config.json", model_config(golden, family).dump());
  std::vector<Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const std::string& name : golden.names("w.")) {
    kept.push_back(golden.take(name).contiguous());
    entries.push_back(nn::to_entry(name.substr(2), kept.back()));
  }
  io::write_safetensors(folder.path() / "model.safetensors", entries);
  return backbones::open_multimodal_lm(folder.path());
}

/// Of a row of ids with placeholders and its labels: what stands behind the picture and before the answer.
TokenIds between(const Tensor& ids, const Tensor& labels, std::int64_t placeholder) {
  TokenIds words;
  bool behind = false;
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    const auto id = ids[i].item<std::int64_t>();
    if (labels.defined() && labels[i].item<std::int64_t>() != -100) break;
    if (behind && id != placeholder) words.push_back(id);
    behind = behind || id == placeholder;
  }
  return words;
}

}  // namespace

std::int64_t told_number(const Json& config, const std::string& label) {
  for (const auto& [key, value] : config.items()) {
    if (!value.is_string()) continue;
    const std::string text = value.get<std::string>();
    const std::size_t at = text.find(label);
    if (at == std::string::npos || at + label.size() >= text.size()) continue;
    if (std::isdigit(static_cast<unsigned char>(text[at + label.size()])) != 0) return std::stoll(text.substr(at + label.size()));
  }
  throw Error({.what = "the case does not tell a number", .where = label});
}

TokenIds ids_of(const Json& list) {
  return list.get<TokenIds>();
}

TokenIds ids_of(const Tensor& ids) {
  const Tensor flat = ids.to(at::kLong).flatten().contiguous();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

std::vector<TokenIds> GoldenModel::answers(const Case& golden, const Tensor& labels) const {
  const Json& config = golden.json().at("config");
  std::vector<TokenIds> all;
  for (std::int64_t b = 0; b < labels.size(0); ++b) {
    const auto name = config.at("classes").at(static_cast<std::size_t>(labels[b].item<std::int64_t>())).get<std::string>();
    all.push_back(ids_of(golden.json().at("answer_ids").at(name)));
  }
  return all;
}

GoldenModel golden_model(Case& golden) {
  const std::string family = family_of(golden.json().at("case").get<std::string>());
  const Json &json = golden.json(), &config = json.at("config");
  GoldenModel made{.lm = opened(golden, family), .instruction = {}};
  backbones::PromptFormat format = made.lm->format();
  if (family == "minigpt4" || family == "vpgtrans") {
    format.training.before = {told_number(config, "BOS=")};
    for (const std::int64_t id : ids_of(golden.take("ids.before"))) format.training.before.push_back(id);
    format.training.behind = ids_of(golden.take("ids.after"));
    format.scoring = format.training;
    made.instruction.words = ids_of(golden.take("ids.text_prompt"));
    made.padding = told_number(config, "right padding with id ");
  } else if (family == "llava") {
    // The case does not tell where the instruction begins: it stands among what is behind the picture.
    const TokenIds prefix = ids_of(json.at("prefix_ids"));
    const std::int64_t placeholder = config.at("image_token_id");
    std::size_t first = 0;
    while (prefix[first] != placeholder) format.training.before.push_back(prefix[first++]);
    while (first < prefix.size() && prefix[first] == placeholder) ++first;
    format.training.behind.assign(prefix.begin() + static_cast<std::ptrdiff_t>(first), prefix.end());
    format.scoring = format.training;
    made.padding = told_number(config, "right padded with id ");
  } else if (family == "blip-2") {
    format.training.tail = {told_number(config, "</s>=")};
    format.scoring = {};
    made.instruction.words = between(golden.take("ids.input_ids")[0], {}, config.at("image_token_id"));
    made.instruction.words.pop_back();
  } else {
    format.training.behind = {told_number(config, "BOS=")};
    format.scoring = {};
    if (golden.has("ids.input_ids")) {
      made.instruction.words = between(golden.take("ids.input_ids")[0], golden.take("ids.labels")[0], config.at("image_token_id"));
      made.instruction.words.erase(made.instruction.words.begin());
      made.instruction.qformer = ids_of(golden.take("ids.qformer_input_ids"));
    } else {
      made.instruction.words = ids_of(json.at("text_prompt_ids"));
      made.instruction.qformer = ids_of(json.at("qformer_text_ids"));
    }
    made.padding = told_number(config, "right padded with id ");
  }
  made.lm->set_format(format);
  return made;
}

}  // namespace mmtune::golden
