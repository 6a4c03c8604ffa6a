#include "train/pretrain/young_speaker.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "backbones/multimodal_names.h"
#include "core/error.h"
#include "core/files.h"
#include "experts/pixel_prompt.h"
#include "train/pretrain/loop.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

constexpr double widest_scale = 4.6052;  ///< of CLIP's temperature, as a logarithm

const Json& section(const Json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_object()) throw Error({.what = std::string("the configuration has no ") + key, .where = where});
  return *found;
}

/// As transformers spells it today: T5 has no scope of its own inside a multimodal model, OPT has two, and BLIP-2's Q-Former has no words.
std::string published_name(const std::string& name, const Json& config) {
  std::string spelt = backbones::spellings_of(name).front();
  const auto replace_front = [&](const std::string& from, const std::string& to) {
    if (spelt.starts_with(from)) spelt = to + spelt.substr(from.size());
  };
  const std::string type = config.value("model_type", "");
  if (type == "blip-2") replace_front("qformer.embeddings.layernorm.", "qformer.layernorm.");
  const std::string text = config.value("text_config", Json::object()).value("model_type", "");
  if (text == "t5") replace_front("language_model.model.", "language_model.");
  if (text == "opt") replace_front("language_model.model.", "language_model.model.decoder.");
  return spelt;
}

}  // namespace

YoungSpeaker::YoungSpeaker(const AnswersRecipe& recipe, const PictureList& list)
    : recipe_(recipe),
      list_(list),
      precision_(in_bfloat16(recipe.train) ? nn::MatmulPrecision::medium : nn::MatmulPrecision::highest),
      config_(read_json_file(recipe.model.config)) {
  const std::string& where = recipe.model.config;
  side_ = section(config_, "vision_config", where).value("image_size", std::int64_t{0});
  if (side_ < 8) throw Error({.what = "vision_config.image_size is missing", .where = where, .expected = "8 or more"});
  const fs::path folder = recipe.model.tokenizer;
  tokenizer_ = text::Tokenizer::open(folder);
  const std::int64_t words = section(config_, "text_config", where).value("vocab_size", std::int64_t{0});
  if (words < tokenizer_->vocabulary_size())
    throw UsageError({.what = "the tokenizer has more tokens than the model",
                      .where = where + ": text_config.vocab_size",
                      .expected = std::to_string(tokenizer_->vocabulary_size()) + " or more",
                      .got = std::to_string(words)});
  backbone_ = backbones::fresh_backbone(config_, static_cast<std::uint64_t>(recipe.train.seed));
  if (recipe.task == AnswersTask::answer) {
    speaker_ = dynamic_cast<backbones::MultimodalLm*>(backbone_.get());
    if (speaker_ == nullptr)
      throw UsageError({.what = "no multimodal language model", .where = where, .expected = "model_type llava, blip-2 or instructblip"});
    text_ = std::make_unique<backbones::MultimodalText>(backbones::MultimodalText::open(folder, *speaker_));
  } else if (backbone_->info().architecture != "clip") {
    throw UsageError({.what = "task = \"contrast\" trains a CLIP",
                      .where = where,
                      .expected = "model_type clip",
                      .got = backbone_->info().architecture});
  }
  std::vector<std::string> names;
  for (const nn::TensorSlot& slot : backbone_->sites().tensors) names.push_back(slot.name);
  unfrozen_ = std::make_unique<experts::UnfrozenTensors>(backbone_->sites().tensors, names);
  for (const nn::NamedTensor& one : unfrozen_->tensors())
    if (one.name == "logit_scale") {
      const at::NoGradGuard no_grad;
      at::Tensor scale = one.tensor;
      log_scale_ = scale.fill_(std::log(1.0 / 0.07));
    }
  unfrozen_->put(true);
  read_questions();
}

void YoungSpeaker::read_questions() {
  for (const Picture& picture : list_.pictures) {
    const bool silent = speaker_ != nullptr ? picture.questions.empty() : picture.texts.empty();
    if (silent && picture.weight > 0)
      throw Error({.what = speaker_ != nullptr ? "the picture has no questions" : "the picture has no texts",
                   .where = recipe_.data.pictures + ": " + printable(picture.id)});
    if (speaker_ == nullptr) continue;
    for (const auto& [question, answer] : picture.questions) {
      if (!instructions_.contains(question)) instructions_.emplace(question, text_->instruction(question));
      if (!answers_.contains(answer)) answers_.emplace(answer, text_->answer(answer));
    }
  }
}

at::Tensor YoungSpeaker::loss(const SpeakerBatch& batch) const {
  return speaker_ != nullptr ? answer_loss(batch) : contrast_loss(batch);
}

at::Tensor YoungSpeaker::answer_loss(const SpeakerBatch& batch) const {
  std::vector<backbones::Instruction> asked;
  std::vector<backbones::TokenIds> said;
  for (std::size_t i = 0; i < batch.pictures.size(); ++i) {
    const auto& [question, answer] =
        list_.pictures[static_cast<std::size_t>(batch.pictures[i])].questions[static_cast<std::size_t>(batch.questions[i])];
    asked.push_back(instructions_.at(question));
    said.push_back(answers_.at(answer));
  }
  nn::Context context;
  context.training = true;
  context.matmul_precision = precision_;
  const backbones::VisualTokens visual = speaker_->encode(batch.pixels, asked, context);
  return speaker_->task_loss(visual.tokens, asked, said, context).mean();
}

/// Every picture against the batch's distinct texts, and every text against its pictures.
at::Tensor YoungSpeaker::contrast_loss(const SpeakerBatch& batch) const {
  std::map<std::string, std::int64_t> rows;
  std::vector<std::int64_t> ids, lengths, row_of;
  for (std::size_t i = 0; i < batch.pictures.size(); ++i) {
    const std::string& text =
        list_.pictures[static_cast<std::size_t>(batch.pictures[i])].texts[static_cast<std::size_t>(batch.questions[i])];
    const auto [found, fresh] = rows.try_emplace(text, static_cast<std::int64_t>(lengths.size()));
    if (fresh) {
      const text::Encoding encoded = tokenizer_->encode(
          text, {.max_length = section(config_, "text_config", recipe_.model.config).value("max_position_embeddings", std::int64_t{77})});
      ids.insert(ids.end(), encoded.ids.begin(), encoded.ids.end());
      lengths.push_back(static_cast<std::int64_t>(encoded.ids.size()));
    }
    row_of.push_back(found->second);
  }
  nn::Context context;
  context.training = true;
  context.matmul_precision = precision_;
  backbones::ModelInputs pictures, texts;
  pictures.pixel_values = batch.pixels;
  texts.text_layout = nn::Layout::packed(lengths);
  texts.input_ids = at::tensor(ids, at::kLong);
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, {-1}, true).clamp_min(1e-6); };
  const at::Tensor e = unit(backbone_->forward(pictures, context).embeds), u = unit(backbone_->forward(texts, context).embeds);
  const at::Tensor logits = at::matmul(e, u.t()) * log_scale_.clamp_max(widest_scale).exp();
  const at::Tensor target = at::tensor(row_of, at::kLong);
  const at::Tensor shares = at::zeros(logits.sizes()).scatter_(1, target.unsqueeze(1), 1.0);
  const at::Tensor by_text = (logits.log_softmax(0) * (shares / shares.sum(0, true))).sum(0).mean();
  return 0.5 * (at::cross_entropy_loss(logits, target) - by_text);
}

void YoungSpeaker::write(const fs::path& folder) const {
  const at::NoGradGuard no_grad;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error({.what = "cannot make the folder: " + error.message(), .where = folder.string()});
  std::vector<nn::NamedTensor> tensors = unfrozen_->tensors();
  if (speaker_ != nullptr)
    for (nn::NamedTensor& one : tensors) one.name = published_name(one.name, config_);
  write_half(folder / "model.safetensors", tensors, {{"format", "pt"}});
  Json config = config_;
  config["dtype"] = "float16";
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  const Json processor = {{"image_processor_type", "CLIPImageProcessor"},
                          {"do_resize", true},
                          {"size", {{"shortest_edge", side_}}},
                          {"resample", 3},
                          {"do_center_crop", true},
                          {"crop_size", {{"height", side_}, {"width", side_}}},
                          {"do_rescale", true},
                          {"rescale_factor", 1.0 / 255.0},
                          {"do_normalize", true},
                          {"image_mean", experts::clip_norm.mean},
                          {"image_std", experts::clip_norm.std}};
  write_file_atomically(folder / "preprocessor_config.json", processor.dump(2) + "\n");
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(recipe_.model.tokenizer)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    if (name == "config.json" || name == "preprocessor_config.json" || name.ends_with(".safetensors")) continue;
    const fs::path target = folder / fs::relative(entry.path(), recipe_.model.tokenizer);
    fs::create_directories(target.parent_path(), error);
    write_file_atomically(target, read_file(entry.path()));
  }
}

}  // namespace mmtune::train
