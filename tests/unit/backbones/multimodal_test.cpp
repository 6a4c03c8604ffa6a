// Multimodal models of every family, freshly made: scores against the task loss, generation against it too, projections, micro-batches, the
// words of prompts, and what is refused.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "backbones/generation.h"
#include "backbones/multimodal_names.h"
#include "backbones/multimodal_text.h"
#include "backbones/sequence_model.h"
#include "core/error.h"

namespace mmtune::backbones {
namespace {

namespace fs = std::filesystem;

Json text_config(const std::string& type) {
  if (type == "t5")
    return {{"model_type", "t5"}, {"d_model", 24},  {"d_kv", 6},        {"d_ff", 40},
            {"num_layers", 2},    {"num_heads", 4}, {"vocab_size", 50}, {"feed_forward_proj", "gated-gelu"}};
  if (type == "opt")
    return {{"model_type", "opt"},      {"hidden_size", 24},         {"ffn_dim", 40},    {"num_hidden_layers", 2},
            {"num_attention_heads", 4}, {"word_embed_proj_dim", 24}, {"vocab_size", 50}, {"max_position_embeddings", 64}};
  return {{"model_type", "llama"},  {"hidden_size", 24},        {"intermediate_size", 40},
          {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"vocab_size", 50}};
}

Json config_of(const std::string& family, const std::string& text) {
  Json vision = {{"hidden_size", 16},       {"num_hidden_layers", 2}, {"num_attention_heads", 4},
                 {"intermediate_size", 24}, {"image_size", 12},       {"patch_size", 4}};
  if (family == "llava") vision["model_type"] = "clip_vision_model";
  return {{"model_type", family},
          {"vision_config", vision},
          {"qformer_config",
           {{"hidden_size", 12},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 2},
            {"intermediate_size", 20},
            {"encoder_hidden_size", 16},
            {"vocab_size", 30},
            {"max_position_embeddings", 20}}},
          {"num_query_tokens", 3},
          {"image_token_index", 49},
          {"text_config", text_config(text)}};
}

std::unique_ptr<MultimodalLm> lively(const std::string& family, const std::string& text) {
  std::unique_ptr<Backbone> made = fresh_backbone(config_of(family, text), 5);
  at::manual_seed(3);
  for (const nn::TensorSlot& slot : made->sites().tensors) *slot.tensor = *slot.tensor + at::randn(slot.tensor->sizes()) * 0.2;
  auto* const model = dynamic_cast<MultimodalLm*>(made.release());
  PromptFormat format = model->format();
  if (!model->multimodal().encoder_decoder) {
    format.training = {.before = {1, 7}, .behind = {8}, .tail = {9, 10}};
    format.answer_end = {2};
  }
  format.scoring = format.generation = format.training;
  model->set_format(format);
  return std::unique_ptr<MultimodalLm>(model);
}

struct Case {
  const char* family;
  const char* text;
};

class MultimodalFamilies : public testing::TestWithParam<Case> {
 protected:
  MultimodalFamilies() : model_(lively(GetParam().family, GetParam().text)) {
    at::manual_seed(1);
    pixels_ = at::randn({2, 3, 12, 12});
  }
  VisualTokens encode(const at::Tensor& pixels) { return model_->encode(pixels, instructions_, {}); }

  std::unique_ptr<MultimodalLm> model_;
  at::Tensor pixels_;
  const std::vector<Instruction> instructions_ = {{.words = {11, 12, 13}, .qformer = {1, 5, 6, 2}}, {.words = {14}, .qformer = {1, 7, 2}}};
};

TEST_P(MultimodalFamilies, ScoresInTheSequenceOfTrainingAreItsLosses) {
  const at::NoGradGuard no_grad;
  const at::Tensor visual = encode(pixels_).tokens;
  EXPECT_EQ(visual.size(1), model_->multimodal().visual_tokens);
  const std::vector<TokenIds> candidates = {{20, 2}, {20, 21, 2}, {22, 23, 24, 2}};
  const ScoreOptions sums{.reduction = ScoreReduction::sum, .format = SequenceFormat::consistent};
  const at::Tensor scores = model_->candidate_scores(visual, instructions_, candidates, sums, {});
  const at::Tensor means = model_->candidate_scores(visual, instructions_, candidates, {.format = SequenceFormat::consistent}, {});
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      const TaskLoss loss =
          model_->task_loss(visual.narrow(0, b, 1), {&instructions_[static_cast<std::size_t>(b)], 1}, {&candidates[c], 1}, {});
      EXPECT_NEAR(scores[b][static_cast<std::int64_t>(c)].item<double>(), -loss.sum.item<double>(), 1e-4);
      EXPECT_NEAR(means[b][static_cast<std::int64_t>(c)].item<double>(), -loss.mean().item<double>(), 1e-4);
    }
}

TEST_P(MultimodalFamilies, AnswersOfDifferentLengthsAddUp) {
  const at::NoGradGuard no_grad;
  const at::Tensor visual = encode(pixels_).tokens;
  const std::vector<TokenIds> answers = {{20, 21, 22, 2}, {25, 2}};
  const TaskLoss both = model_->task_loss(visual, instructions_, answers, {});
  EXPECT_EQ(both.tokens, 6);
  double sum = 0;
  for (std::size_t b = 0; b < 2; ++b)
    sum += model_->task_loss(visual.narrow(0, static_cast<std::int64_t>(b), 1), {&instructions_[b], 1}, {&answers[b], 1}, {})
               .sum.item<double>();
  EXPECT_NEAR(both.sum.item<double>(), sum, 1e-4);
}

TEST_P(MultimodalFamilies, GeneratedWordsHaveTheProbabilitiesOfTheLoss) {
  const at::NoGradGuard no_grad;
  const at::Tensor visual = encode(pixels_).tokens;
  MultimodalLm::Begun begun = model_->begin(visual, instructions_, model_->format().training, {});
  const at::Tensor logits = begun.decoder->read(begun.start);
  const auto answers = generate(*begun.decoder, logits, {.beams = 2, .max_new_tokens = 4, .length_penalty = 0});
  for (std::size_t b = 0; b < 2; ++b) {
    const Continuation& best = answers[b].front();
    const TaskLoss loss =
        model_->task_loss(visual.narrow(0, static_cast<std::int64_t>(b), 1), {&instructions_[b], 1}, {&best.tokens, 1}, {});
    EXPECT_NEAR(best.score, -loss.sum.item<double>(), 1e-3);
  }
}

TEST_P(MultimodalFamilies, ProjectionsMakeTheTokensOfTheFeatures) {
  const at::NoGradGuard no_grad;
  const VisualTokens made = encode(pixels_);
  EXPECT_TRUE(at::allclose(model_->project(made.features, {}), made.tokens, 1e-5, 1e-6));
}

TEST_P(MultimodalFamilies, PixelsGetGradientsWithAndWithoutRecomputation) {
  const std::vector<TokenIds> answers = {{20, 21, 2}, {25, 2}};
  const auto gradient = [&](bool recompute) {
    nn::Context context;
    context.recompute = recompute;
    const at::Tensor pixels = pixels_.clone().requires_grad_(true);
    const TaskLoss loss = model_->task_loss(model_->encode(pixels, instructions_, context).tokens, instructions_, answers, context);
    return torch::autograd::grad({loss.mean()}, {pixels}).front();
  };
  const at::Tensor plain = gradient(false);
  const double size = plain.norm().item<double>();
  EXPECT_GT(size, 1e-3);
  EXPECT_LT((plain - gradient(true)).norm().item<double>(), 1e-4 * size);
}

TEST_P(MultimodalFamilies, EmptyAnswersAndOtherSizesAreRefused) {
  const at::NoGradGuard no_grad;
  const at::Tensor visual = encode(pixels_).tokens;
  const std::vector<TokenIds> one_empty = {{20}, {}};
  EXPECT_THROW(model_->candidate_scores(visual, instructions_, one_empty, {}, {}), Error);
  EXPECT_THROW(model_->task_loss(visual, instructions_, one_empty, {}), Error);
  EXPECT_THROW(encode(at::zeros({2, 3, 8, 8})), Error);
}

TEST_P(MultimodalFamilies, SitesAreThoseOfAllParts) {
  EXPECT_GT(model_->macs(20, false), model_->macs(10, false));
  EXPECT_GT(model_->macs(0, false), 0);
  std::set<std::string> names;
  for (const nn::TensorSlot& slot : model_->sites().tensors) EXPECT_TRUE(names.insert(slot.name).second) << slot.name;
  for (const nn::SublayerSite* site : model_->sites().sublayers) EXPECT_TRUE(site->name.starts_with("language_model.")) << site->name;
  EXPECT_FALSE(model_->sites().keys_values.empty());
}

/// Questions 0 and 1 of the test as a batch's inputs: words of type 0, and the Q-Former's of type 1 behind them.
ModelInputs inputs_of(const at::Tensor& pixels, std::span<const Instruction> instructions) {
  TokenIds ids, types;
  std::vector<std::int64_t> lengths;
  for (const Instruction& one : instructions) {
    for (const auto& [tokens, type] : {std::pair(one.words, 0), std::pair(one.qformer, 1)})
      for (const std::int64_t token : tokens) {
        ids.push_back(token);
        types.push_back(type);
      }
    lengths.push_back(static_cast<std::int64_t>(one.words.size() + one.qformer.size()));
  }
  ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed(lengths);
  inputs.input_ids = at::tensor(ids, at::kLong);
  inputs.token_type_ids = at::tensor(types, at::kLong);
  inputs.pixel_values = pixels;
  return inputs;
}

TEST_P(MultimodalFamilies, ASequenceModelIsTaughtByTheTaskLoss) {
  const at::NoGradGuard no_grad;
  auto& writer = dynamic_cast<SequenceModel&>(*model_);
  const SequenceTokens tokens = writer.tokens();
  const std::int64_t end = model_->format().answer_end.front();
  EXPECT_EQ(tokens.end, end);
  EXPECT_NE(tokens.padding, end);
  // Three answers about two questions, of different lengths.
  const std::vector<std::int64_t> rows = {1, 0, 1};
  const std::vector<TokenIds> answers = {{20, 21, 22, end}, {25, end}, {23, 24, end}};
  at::Tensor said = at::full({3, 4}, tokens.padding, at::kLong), wanted = at::zeros({3, 4}, at::kBool);
  for (std::int64_t b = 0; b < 3; ++b) {
    const TokenIds& answer = answers[static_cast<std::size_t>(b)];
    said[b][0] = tokens.start;
    for (std::size_t i = 0; i < answer.size(); ++i) {
      if (i + 1 < answer.size()) said[b][static_cast<std::int64_t>(i) + 1] = answer[i];
      wanted[b][static_cast<std::int64_t>(i)] = true;
    }
  }
  const ModelInputs inputs = inputs_of(pixels_, instructions_);
  const at::Tensor logs = writer.taught(inputs, rows, said, wanted, {}).log_softmax(1);
  ASSERT_EQ(logs.size(0), 9);
  const at::Tensor visual = encode(pixels_).tokens;
  std::int64_t row = 0;
  for (std::size_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (const std::int64_t token : answers[b]) sum -= logs[row++][token].item<double>();
    const TaskLoss loss =
        model_->task_loss(visual.narrow(0, rows[b], 1), {&instructions_[static_cast<std::size_t>(rows[b])], 1}, {&answers[b], 1}, {});
    EXPECT_NEAR(sum, loss.sum.item<double>(), 1e-4);
  }
  // Begun anywhere else it says the same; lines may be chosen before anything is read.
  const auto decoder = writer.begin(inputs, {0, 1}, {});
  decoder->select(at::tensor({1, 0}, at::kLong));
  const at::Tensor first = decoder->read(at::full({2, 1}, tokens.start, at::kLong)).log_softmax(1);
  EXPECT_TRUE(at::allclose(first[0], logs[0], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(first[1], logs[4], 1e-4, 1e-5));
}

TEST_P(MultimodalFamilies, ASequenceModelRefusesWhatItCannotDo) {
  auto& writer = dynamic_cast<SequenceModel&>(*model_);
  EXPECT_THROW(writer.set_noise({.dropout = 0.1}), UsageError);
  EXPECT_THROW(writer.begin(inputs_of({}, instructions_), {0, 1}, {}), Error);
  PromptFormat format = model_->format();
  format.answer_end = {2, 3};
  model_->set_format(format);
  EXPECT_THROW(writer.tokens(), Error);
}

INSTANTIATE_TEST_SUITE_P(All, MultimodalFamilies,
                         testing::Values(Case{"llava", "llama"}, Case{"blip-2", "opt"}, Case{"blip-2", "t5"}, Case{"instructblip", "llama"},
                                         Case{"instructblip", "t5"}, Case{"minigpt4", "llama"}, Case{"bliva", "llama"}));

TEST(Multimodal, BlivaIsRankedWithoutItsPatchesUnlessAskedOtherwise) {
  const at::NoGradGuard no_grad;
  const auto model = lively("bliva", "llama");
  const std::vector<Instruction> asked = {{.words = {11}, .qformer = {1, 5, 2}}};
  const at::Tensor visual = model->encode(at::randn({1, 3, 12, 12}), asked, {}).tokens;
  ASSERT_EQ(visual.size(1), 3 + 9);
  const std::vector<TokenIds> candidates = {{20}, {21, 22}};
  PromptFormat format = model->format();
  EXPECT_FALSE(format.scores_patches);
  const at::Tensor without = model->candidate_scores(visual, asked, candidates, {}, {});
  const at::Tensor changed = at::cat({visual.narrow(1, 0, 3), at::randn({1, 9, 24})}, 1);
  EXPECT_TRUE(at::allclose(without, model->candidate_scores(changed, asked, candidates, {}, {})));
  format.scores_patches = true;
  model->set_format(format);
  EXPECT_FALSE(at::allclose(without, model->candidate_scores(visual, asked, candidates, {}, {})));
}

TEST(Multimodal, TheQFormersInstructionIsNeededWhereItIsRead) {
  const auto model = lively("instructblip", "llama");
  const at::Tensor pixels = at::zeros({2, 3, 12, 12});
  EXPECT_THROW(model->encode(pixels, {}, {}), Error);
  const std::vector<Instruction> without = {{.words = {11}, .qformer = {}}};
  EXPECT_THROW(model->encode(pixels, without, {}), Error);
}

TEST(Multimodal, APromptWithoutWordsCannotBegin) {
  const auto model = lively("llava", "llama");
  const std::vector<Instruction> nothing = {{}};
  EXPECT_THROW(
      model->begin(model->encode(at::zeros({1, 3, 12, 12}), {}, {}).tokens, nothing, {.before = {1}, .behind = {}, .tail = {}}, {}), Error);
}

TEST(MultimodalNames, AreFoundInEverySpelling) {
  const auto has = [](const std::string& asked, const std::string& spelling) {
    const std::vector<std::string> all = spellings_of(asked);
    return std::find(all.begin(), all.end(), spelling) != all.end();
  };
  EXPECT_TRUE(has("vision_tower.pre_layrnorm.bias", "vision_tower.vision_model.pre_layrnorm.bias"));
  EXPECT_TRUE(has("vision_tower.pre_layrnorm.bias", "model.vision_tower.pre_layrnorm.bias"));
  EXPECT_TRUE(has("language_model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"));
  EXPECT_TRUE(has("language_model.model.layers.3.mlp.up_proj.weight", "llama_model.model.layers.3.mlp.up_proj.weight"));
  EXPECT_TRUE(has("language_model.model.decoder.layers.3.fc1.bias", "opt_model.model.decoder.layers.3.fc1.bias"));
  EXPECT_TRUE(has("language_model.encoder.final_layer_norm.weight", "t5_model.encoder.final_layer_norm.weight"));
  EXPECT_TRUE(has("vision_model.encoder.layers.7.self_attn.q_bias", "visual_encoder.blocks.7.attn.q_bias"));
  EXPECT_TRUE(has("vision_model.post_layernorm.weight", "ln_vision.weight"));
  EXPECT_TRUE(has("vision_model.embeddings.patch_embedding.bias", "patch_embed.proj.bias"));
  EXPECT_TRUE(has("qformer.encoder.layer.2.attention.attention.key.bias", "Qformer.bert.encoder.layer.2.attention.self.key.bias"));
  EXPECT_TRUE(
      has("qformer.encoder.layer.2.crossattention.attention.key.bias", "Qformer.bert.encoder.layer.2.crossattention.self.key.bias"));
  EXPECT_TRUE(has("qformer.encoder.layer.2.crossattention.output.LayerNorm.bias",
                  "Qformer.bert.encoder.layer.2.crossattention.output.LayerNorm.bias"));
  EXPECT_TRUE(has("qformer.embeddings.layernorm.bias", "qformer.layernorm.bias"));
  EXPECT_TRUE(has("language_projection.weight", "llama_proj.weight"));
  EXPECT_TRUE(has("language_model.lm_head.weight", "llm_model.lm_head.weight"));
}

/// A folder with tokenizers whose words are single letters: bytes for the language model, and BERT's kind for the Q-Former.
class Words : public testing::Test {
 protected:
  Words()
      : folder_(fs::path(testing::TempDir()) /
                ("multimodal_words_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()))) {
    fs::create_directories(folder_ / "qformer_tokenizer");
    Json vocab = Json::object();
    std::int64_t next = 0;
    for (const char* special : {"<unk>", "<s>", "</s>"}) vocab[special] = next++;
    for (const char letter : std::string("abcdeghimnorstuwyIUSERANTQ:<>/#.?")) vocab[std::string(1, letter)] = next++;
    vocab["Ġ"] = next++;
    vocab["Ċ"] = next++;
    const auto added = [](std::int64_t id, const char* text) {
      return Json{{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
                  {"rstrip", false}, {"normalized", false}, {"special", true}};
    };
    const Json tokenizer = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", {added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")}},
        {"normalizer", nullptr},
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
        {"post_processor", nullptr},
        {"decoder", nullptr},
        {"model",
         {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"vocab", vocab},
          {"merges", Json::array()}}}};
    std::ofstream(folder_ / "tokenizer.json") << tokenizer.dump();
    std::ofstream(folder_ / "qformer_tokenizer" / "vocab.txt") << "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n";
    std::ofstream(folder_ / "qformer_tokenizer" / "tokenizer_config.json") << R"({"tokenizer_class": "BertTokenizer"})";
    vocab_ = vocab;
  }
  ~Words() override { fs::remove_all(folder_); }
  std::int64_t id(const std::string& token) const { return vocab_.at(token).get<std::int64_t>(); }
  TokenIds spelt(const std::string& text) const {
    TokenIds ids;
    for (const char letter : text) ids.push_back(id(std::string(1, letter)));
    return ids;
  }
  fs::path folder_;
  Json vocab_;
};

TEST_F(Words, OfInstructBlip) {
  const auto model = lively("instructblip", "llama");
  const MultimodalText text = MultimodalText::open(folder_, *model);
  EXPECT_EQ(model->format().training.behind, TokenIds{2});
  EXPECT_TRUE(model->format().scoring.behind.empty());
  const Instruction asked = text.instruction("cat");
  EXPECT_EQ(asked.words, spelt("cat"));
  EXPECT_EQ(asked.qformer, (TokenIds{2, 6, 3}));
  TokenIds with_end = spelt("cat");
  EXPECT_EQ(text.candidate("cat"), with_end);
  with_end.push_back(2);
  EXPECT_EQ(text.answer("cat"), with_end);
  EXPECT_EQ(text.candidate("cat", SequenceFormat::consistent), with_end);
  EXPECT_THROW(text.candidate(""), Error);
  std::string longer;
  for (int i = 0; i < 200; ++i) longer += "a ";
  const TokenIds cut = text.instruction(longer + "cat").qformer;
  ASSERT_EQ(cut.size(), 128U);
  EXPECT_EQ(cut.front(), 2);
  EXPECT_EQ(cut[126], 6);
  EXPECT_EQ(cut.back(), 3);
}

TEST_F(Words, OfMiniGpt4) {
  const auto model = lively("minigpt4", "llama");
  const MultimodalText text = MultimodalText::open(folder_, *model);
  TokenIds before = {1};
  // "<Img>" and "</Img>" are words like all others.
  for (const char letter : std::string("<Im")) before.push_back(id(std::string(1, letter)));
  before.push_back(id("g"));
  before.push_back(id(">"));
  EXPECT_EQ(model->format().training.before, before);
  EXPECT_EQ(text.answer("cat").back(), id("Ċ"));
  EXPECT_EQ(model->format().scoring.before, before);
}

TEST_F(Words, NeedTheQFormersTokenizer) {
  const auto model = lively("instructblip", "t5");
  fs::remove_all(folder_ / "qformer_tokenizer");
  try {
    MultimodalText::open(folder_, *model);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("qformer_tokenizer"), std::string::npos);
  }
}

}  // namespace
}  // namespace mmtune::backbones
