// Language models: cached reading and trees against whole passes, only the last rows against all, packed rows, gradient checkpointing, and
// matrices in half precision.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "backbones/causal_lm.h"
#include "backbones/generation.h"
#include "backbones/t5.h"
#include "core/error.h"

namespace mmtune::backbones {
namespace {

using Tokens = std::vector<std::int64_t>;

Json llama_config() {
  return {{"model_type", "llama"},    {"hidden_size", 24},        {"intermediate_size", 40}, {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"vocab_size", 31},        {"max_position_embeddings", 64}};
}
Json opt_config() {
  return {{"model_type", "opt"},      {"hidden_size", 24},         {"ffn_dim", 40},    {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"word_embed_proj_dim", 16}, {"vocab_size", 31}, {"max_position_embeddings", 64}};
}
Json t5_config() {
  return {{"model_type", "t5"}, {"d_model", 24},  {"d_kv", 5},        {"d_ff", 40},
          {"num_layers", 2},    {"num_heads", 4}, {"vocab_size", 31}, {"feed_forward_proj", "gated-gelu"}};
}

/// Weights that make every part matter.
std::unique_ptr<Backbone> lively(const Json& config, nn::Storage storage = nn::Storage::f32) {
  std::unique_ptr<Backbone> model = fresh_backbone(config, 5, std::nullopt, storage);
  at::manual_seed(2);
  for (const nn::TensorSlot& slot : model->sites().tensors)
    *slot.tensor = (slot.tensor->to(at::kFloat) + at::randn(slot.tensor->sizes()) * 0.2).to(slot.tensor->scalar_type());
  return model;
}

at::Tensor index(const Tokens& ids) {
  return at::tensor(ids, at::kLong);
}

class Causal : public testing::TestWithParam<const char*> {
 protected:
  Causal() : model_(lively(std::string(GetParam()) == "llama" ? llama_config() : opt_config())) {}
  CausalLm& model() { return dynamic_cast<CausalLm&>(*model_); }
  /// Log-probabilities [T, V] of what follows each token of one text.
  at::Tensor whole(const Tokens& ids) {
    const nn::Layout layout = nn::Layout::uniform(1, static_cast<std::int64_t>(ids.size()));
    return at::log_softmax(model().logits(model().states({model().embed(index(ids)), layout, {}}, nullptr, {}, {}), {}), 1);
  }
  /// Prompts of different lengths, padded on the left.
  std::unique_ptr<CachedDecoder> read(const std::vector<Tokens>& prompts) {
    std::size_t longest = 0;
    for (const Tokens& one : prompts) longest = std::max(longest, one.size());
    at::Tensor ids = at::zeros({static_cast<std::int64_t>(prompts.size()), static_cast<std::int64_t>(longest)}, at::kLong),
               mask = ids.to(at::kBool);
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      const auto length = static_cast<std::int64_t>(prompts[b].size()), at = static_cast<std::int64_t>(longest) - length;
      ids[static_cast<std::int64_t>(b)].narrow(0, at, length).copy_(index(prompts[b]));
      mask[static_cast<std::int64_t>(b)].narrow(0, at, length).fill_(true);
    }
    return causal_decoder(model(), {model().embed(ids.flatten()), nn::Layout::uniform(ids.size(0), ids.size(1), mask), {}}, {});
  }

  const at::NoGradGuard no_grad_;
  std::unique_ptr<Backbone> model_;
  const std::vector<Tokens> prompts_ = {{3, 9, 4, 7, 12}, {8, 2}, {5, 5, 30}};
};

Tokens joined(Tokens one, const Tokens& other) {
  one.insert(one.end(), other.begin(), other.end());
  return one;
}

TEST_P(Causal, ReadingOnEqualsOneWholePass) {
  const std::unique_ptr<CachedDecoder> decoder = read(prompts_);
  const at::Tensor first = decoder->read(index({6, 1, 9}).view({3, 1}));
  const at::Tensor second = decoder->read(index({4, 2, 7, 7, 3, 11}).view({3, 2}));
  const std::vector<Tokens> more = {{6, 4, 2}, {1, 7, 7}, {9, 3, 11}};
  for (std::int64_t b = 0; b < 3; ++b) {
    const Tokens& prompt = prompts_[static_cast<std::size_t>(b)];
    const at::Tensor expected = whole(joined(prompt, more[static_cast<std::size_t>(b)]));
    EXPECT_TRUE(at::allclose(at::log_softmax(first[b], 0), expected[static_cast<std::int64_t>(prompt.size())], 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(at::log_softmax(second[b], 0), expected[-1], 1e-4, 1e-5));
  }
}

TEST_P(Causal, SelectedRowsReadOn) {
  const std::unique_ptr<CachedDecoder> decoder = read(prompts_);
  decoder->read(index({6, 1, 9}).view({3, 1}));
  decoder->select(index({2, 0, 2, 1}));
  EXPECT_EQ(decoder->batch(), 4);
  const at::Tensor next = decoder->read(index({4, 5, 6, 7}).view({4, 1}));
  const std::vector<Tokens> texts = {joined(prompts_[2], {9, 4}), joined(prompts_[0], {6, 5}), joined(prompts_[2], {9, 6}),
                                     joined(prompts_[1], {1, 7})};
  for (std::int64_t b = 0; b < 4; ++b)
    EXPECT_TRUE(at::allclose(at::log_softmax(next[b], 0), whole(texts[static_cast<std::size_t>(b)])[-1], 1e-4, 1e-5));
}

TEST_P(Causal, ATreeOfCandidatesEqualsOnePassEach) {
  const std::vector<Tokens> candidates = {{4}, {4, 5}, {4, 5, 6}, {4, 6, 6}, {10, 11}, {30}, {10, 11, 12, 13}};
  const CandidateTrie trie(candidates, std::nullopt);
  const std::unique_ptr<CachedDecoder> decoder = read(prompts_);
  const auto judge = [&](const std::vector<Tokens>& behind) {
    for (const bool mean : {false, true}) {
      const at::Tensor scores = rank_candidates(*decoder, trie, {.mean = mean, .among_candidates = false});
      for (std::size_t b = 0; b < prompts_.size(); ++b) {
        const Tokens prompt = joined(prompts_[b], behind[b]);
        for (std::size_t c = 0; c < candidates.size(); ++c) {
          const at::Tensor logs = whole(joined(prompt, candidates[c]));
          double sum = 0;
          for (std::size_t i = 0; i < candidates[c].size(); ++i)
            sum += logs[static_cast<std::int64_t>(prompt.size() + i) - 1][candidates[c][i]].item<double>();
          if (mean) sum /= static_cast<double>(candidates[c].size());
          EXPECT_NEAR(scores[static_cast<std::int64_t>(b)][static_cast<std::int64_t>(c)].item<double>(), sum, 1e-4);
        }
      }
    }
  };
  judge({{}, {}, {}});
  // What the tree was read for leaves no trace.
  decoder->read(index({6, 1, 9}).view({3, 1}));
  judge({{6}, {1}, {9}});
}

TEST_P(Causal, LastRowsAloneAreTheSame) {
  for (const std::vector<std::int64_t>& last : {std::vector<std::int64_t>{3, 1, 2}, std::vector<std::int64_t>{4, 1, 2}}) {
    // Of the second kind no single triangle serves all sequences.
    const nn::Layout layout = nn::Layout::packed({6, 4, 5});
    const at::Tensor embeds = model().embed(at::arange(15, at::kLong));
    const at::Tensor all = model().states({embeds, layout, {}}, nullptr, {}, {}),
                     some = model().states({embeds, layout, {}}, nullptr, last, {});
    std::vector<at::Tensor> expected;
    std::int64_t b = 0;
    for (const at::Tensor& text : all.split_with_sizes(layout.lengths(), 0)) {
      const std::int64_t count = last[static_cast<std::size_t>(b++)];
      expected.push_back(text.narrow(0, text.size(0) - count, count));
    }
    EXPECT_TRUE(at::allclose(some, at::cat(expected), 1e-4, 1e-5));
  }
}

TEST_P(Causal, RecomputedBlocksHaveTheSameGradients) {
  const at::AutoGradMode record(true);
  const auto gradient = [&](bool recompute) {
    nn::Context context;
    context.recompute = recompute;
    const at::Tensor embeds = model().embed(at::arange(9, at::kLong)).requires_grad_(true);
    const at::Tensor states = model().states({embeds, nn::Layout::packed({5, 4}), {}}, nullptr, {2, 1}, context);
    return torch::autograd::grad({model().logits(states, context).square().sum()}, {embeds}).front();
  };
  const at::Tensor plain = gradient(false);
  EXPECT_GT(plain.abs().max().item<double>(), 0);
  EXPECT_TRUE(at::allclose(plain, gradient(true), 1e-5, 1e-6));
}

TEST_P(Causal, FrozenWeightsGetNoGradient) {
  const at::AutoGradMode record(true);
  const at::Tensor embeds = model().embed(at::arange(5, at::kLong)).requires_grad_(true);
  model().states({embeds, nn::Layout::packed({5}), {}}, nullptr, {}, {}).sum().backward();
  EXPECT_TRUE(embeds.grad().defined());
  for (const nn::TensorSlot& slot : model_->sites().tensors) EXPECT_FALSE(slot.tensor->grad().defined()) << slot.name;
}

INSTANTIATE_TEST_SUITE_P(Families, Causal, testing::Values("llama", "opt"));

TEST(LanguageModels, HalfPrecisionMatricesAreCloseAndStayAsTheyLie) {
  const at::NoGradGuard no_grad;
  for (const Json& config : {llama_config(), opt_config(), t5_config()}) {
    TensorMap inputs{{"input_ids", at::arange(7, at::kLong).view({1, 7})}};
    if (config["model_type"] == "t5") inputs["decoder_input_ids"] = inputs["input_ids"];
    const auto exact = lively(config), stored = lively(config, nn::Storage::f16);
    const at::Tensor expected = exact->forward_named(inputs, {}).at("logits"), got = stored->forward_named(inputs, {}).at("logits");
    EXPECT_LT((got - expected).abs().max().item<double>(), 0.02 * expected.abs().max().item<double>());
    std::int64_t halves = 0;
    for (const nn::TensorSlot& slot : stored->sites().tensors) halves += slot.tensor->scalar_type() == at::kHalf ? 1 : 0;
    EXPECT_GT(halves, 12) << config["model_type"];
  }
}

class Seq2Seq : public testing::Test {
 protected:
  Seq2Seq() : model_(lively(t5_config())) {
    source_ = model().embed(at::arange(12, at::kLong));
    at::Tensor mask = at::ones({2, 6}, at::kBool);
    mask[1].narrow(0, 4, 2).fill_(false);
    layout_ = nn::Layout::uniform(2, 6, mask);
    encoded_ = model().encode(source_, layout_, {});
  }
  T5& model() { return dynamic_cast<T5&>(*model_); }
  /// [2, T, V] of words [2, T].
  at::Tensor whole(const at::Tensor& words) {
    return at::log_softmax(model().logits(model().decode(words, {}, encoded_, layout_, {}), {}).view({words.size(0), words.size(1), -1}),
                           2);
  }
  const at::NoGradGuard no_grad_;
  std::unique_ptr<Backbone> model_;
  at::Tensor source_, encoded_;
  nn::Layout layout_;
};

TEST_F(Seq2Seq, ReadingOnEqualsOneWholePass) {
  const auto decoder = model().decoder(encoded_, layout_, {});
  const at::Tensor words = index({0, 4, 9, 3, 0, 7, 7, 1}).view({2, 4});
  const at::Tensor expected = whole(words);
  EXPECT_TRUE(at::allclose(at::log_softmax(decoder->read(words.narrow(1, 0, 1)), 1), expected.select(1, 0), 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(at::log_softmax(decoder->read(words.narrow(1, 1, 2)), 1), expected.select(1, 2), 1e-4, 1e-5));
  decoder->select(index({1, 0}));
  const at::Tensor crossed = decoder->read(words.narrow(1, 3, 1).index_select(0, index({1, 0})));
  EXPECT_TRUE(at::allclose(at::log_softmax(crossed, 1), expected.select(1, 3).index_select(0, index({1, 0})), 1e-4, 1e-5));
}

TEST_F(Seq2Seq, ATreeOfCandidatesEqualsOnePassEach) {
  const std::vector<Tokens> candidates = {{4}, {4, 5, 6}, {4, 6, 6}, {10, 11}, {30}};
  const auto decoder = model().decoder(encoded_, layout_, {});
  decoder->read(at::zeros({2, 1}, at::kLong));
  const at::Tensor scores = rank_candidates(*decoder, CandidateTrie(candidates, std::nullopt), {.mean = true, .among_candidates = false});
  for (std::size_t c = 0; c < candidates.size(); ++c) {
    const at::Tensor logs = whole(index(joined({0}, candidates[c])).unsqueeze(0).repeat({2, 1}));
    for (std::int64_t b = 0; b < 2; ++b) {
      double sum = 0;
      for (std::size_t i = 0; i < candidates[c].size(); ++i) sum += logs[b][static_cast<std::int64_t>(i)][candidates[c][i]].item<double>();
      EXPECT_NEAR(scores[b][static_cast<std::int64_t>(c)].item<double>(), sum / static_cast<double>(candidates[c].size()), 1e-4);
    }
  }
}

TEST_F(Seq2Seq, RaggedTextsAreEncodedAsPaddedOnes) {
  ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed({6, 4});
  inputs.input_ids = at::arange(10, at::kLong);
  const at::Tensor rows = model().forward(inputs, {}).last_hidden_state;
  EXPECT_TRUE(at::allclose(rows, encoded_.narrow(0, 0, 10), 1e-4, 1e-5));
}

TEST_F(Seq2Seq, ASequenceModelIsTaughtByItsDecoder) {
  ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed({4, 2});
  inputs.input_ids = index({3, 9, 4, 7, 12, 8});
  const at::Tensor said = index({0, 5, 6, 0, 8, 0, 0, 9, 10}).view({3, 3});
  const at::Tensor wanted = at::tensor({1, 1, 1, 1, 1, 0, 0, 1, 1}, at::kLong).view({3, 3}).to(at::kBool);
  const at::Tensor logits = model().taught(inputs, {0, 1, 0}, said, wanted, {});
  ASSERT_EQ(logits.size(0), 7);
  const auto decoder = model().begin(inputs, {1, 0}, {});
  const at::Tensor first = decoder->read(index({0, 0}).view({2, 1})), second = decoder->read(index({8, 5}).view({2, 1}));
  EXPECT_TRUE(at::allclose(first[0], logits[3], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(first[1], logits[0], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(second[0], logits[4], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(second[1], logits[1], 1e-4, 1e-5));
  EXPECT_THROW(model().set_noise({.drop_path = 0.1}), UsageError);
}

/// Gradients reach what learns in the encoder through every layer of a decoder that is computed again.
TEST(T5Checkpointing, GivesTheGradientsOfThePlainPass) {
  const std::unique_ptr<Backbone> made = lively(t5_config());
  auto& model = dynamic_cast<T5&>(*made);
  std::vector<at::Tensor> learned;
  for (const nn::TensorSlot& slot : made->sites().tensors)
    if (slot.name.ends_with("q.weight") || slot.name.ends_with("wo.weight") || slot.name.ends_with("v.weight"))
      learned.push_back(slot.tensor->requires_grad_(true));
  ASSERT_GT(learned.size(), 12U);
  ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed({4, 2});
  inputs.input_ids = index({3, 9, 4, 7, 12, 8});
  const at::Tensor said = index({0, 5, 6, 0, 8, 0}).view({2, 3}), wanted = at::ones({2, 3}, at::kBool);
  const auto gradients = [&](bool recompute) {
    nn::Context context;
    context.recompute = recompute;
    // Layers that are computed again add to the leaves' own gradients.
    model.taught(inputs, {0, 1}, said, wanted, context).log_softmax(1).square().sum().backward();
    std::vector<at::Tensor> all;
    for (at::Tensor& one : learned) {
      all.push_back(one.grad().clone());
      one.mutable_grad().reset();
    }
    return all;
  };
  const auto plain = gradients(false), again = gradients(true);
  for (std::size_t i = 0; i < learned.size(); ++i) {
    EXPECT_GT(plain[i].norm().item<double>(), 0);
    EXPECT_TRUE(at::allclose(plain[i], again[i], 1e-4, 1e-5 * plain[i].abs().max().item<double>()));
  }
}

TEST(T5Buckets, AreThePublishedOnes) {
  // Both sides: 16 buckets each way, exact below 8; one side: 32, exact below 16; all beyond the farthest share the last.
  EXPECT_EQ(t5_bucket(0, true, 32, 128), 0);
  EXPECT_EQ(t5_bucket(-7, true, 32, 128), 7);
  EXPECT_EQ(t5_bucket(7, true, 32, 128), 23);
  EXPECT_EQ(t5_bucket(-1000, true, 32, 128), 15);
  EXPECT_EQ(t5_bucket(5, false, 32, 128), 0);
  EXPECT_EQ(t5_bucket(-15, false, 32, 128), 15);
  EXPECT_EQ(t5_bucket(-128, false, 32, 128), 31);
}

}  // namespace
}  // namespace mmtune::backbones
