// OFA's decoder a few words at a time says what the whole decoder says with teacher forcing: pictures, padding, experts and all.

#include "backbones/ofa_decoder.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "backbones/generation.h"
#include "backbones/token_tree.h"
#include "core/error.h"
#include "experts/expert.h"

namespace mmtune::backbones {
namespace {

constexpr std::int64_t vocabulary = 40;

OfaShape shape() {
  OfaShape shape;
  shape.width = 16;
  shape.heads = 2;
  shape.encoder_inner = shape.decoder_inner = 24;
  shape.encoder_layers = shape.decoder_layers = 2;
  shape.vocabulary = vocabulary;
  shape.encoder_positions = shape.decoder_positions = 48;
  shape.token_buckets = 8;
  shape.image_buckets = 4;
  shape.stem = {.first = 4, .planes = {2, 4, 4}, .blocks = {1, 1, 1}};
  return shape;
}

/// A model whose weights are all of some size, so that no part goes unnoticed.
std::unique_ptr<Ofa> model() {
  auto ofa = std::make_unique<Ofa>(shape(), nn::Weights::fresh(3, 0.3));
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(5);
  for (const nn::TensorSlot& slot : ofa->sites().tensors)
    if (slot.tensor->dim() == 1 && !slot.name.ends_with("running_var"))
      slot.tensor->add_(at::randn(slot.tensor->sizes(), generator, at::kFloat) * 0.2);
  return ofa;
}

OfaSource source(bool pictures) {
  auto generator = at::detail::createCPUGenerator(11);
  at::Tensor words = at::randint(4, vocabulary, {3, 7}, generator, at::kLong);
  words[1].narrow(0, 4, 3).fill_(1);  // padding
  OfaSource source{.words = words, .pictures = {}, .picture_there = {}};
  if (pictures) {
    source.pictures = at::randn({3, 3, 64, 48}, generator, at::kFloat);
    source.picture_there = at::tensor({1, 1, 0}).to(at::kBool);
  }
  return source;
}

at::Tensor words(std::int64_t batch, std::int64_t length) {
  return at::randint(4, vocabulary, {batch, length}, at::detail::createCPUGenerator(17), at::kLong);
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class OfaDecoding : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ofa_ = model();
    const std::string kind = GetParam();
    if (kind == "none") return;
    const auto recipe = experts::expert_recipe(kind);
    Json config = Json::object();
    if (kind == "adapter") config = {{"bottleneck", 4}};
    if (kind == "prefix") config = {{"num_virtual_tokens", 3}};
    if (kind == "lora") config = {{"r", 2}, {"lora_alpha", 2.0}, {"target_modules", {"q_proj", "k_proj", "v_proj", "out_proj"}}};
    recipe->read_config(config, "test");
    expert_ = recipe->build(*ofa_, at::detail::createCPUGenerator(1));
    const at::NoGradGuard no_grad;
    for (const nn::NamedTensor& one : expert_->tensors()) {
      at::Tensor tensor = one.tensor;
      tensor.add_(at::randn(tensor.sizes(), at::detail::createCPUGenerator(2), at::kFloat) * 0.3);
    }
    expert_->before_pass({});
  }
  std::unique_ptr<Ofa> ofa_;
  std::unique_ptr<experts::Expert> expert_;
};

TEST_P(OfaDecoding, EqualsTeacherForcing) {
  const at::NoGradGuard no_grad;
  for (const bool pictures : {false, true}) {
    const OfaEncoded encoded = ofa_->encode(source(pictures), {});
    const at::Tensor said = words(3, 40), whole = ofa_->decode(said, encoded, {});
    const auto decoder = ofa_->decoder(encoded, {});
    EXPECT_EQ(decoder->vocabulary(), vocabulary);
    std::int64_t at = 0;
    for (const std::int64_t step : {1, 1, 3, 1, 34}) {
      const at::Tensor logits = decoder->read(said.narrow(1, at, step));
      at += step;
      EXPECT_LT(difference(logits, whole.select(1, at - 1)), 2e-5) << "behind " << at << " words";
    }
  }
}

TEST_P(OfaDecoding, LinesAreChosenAndRepeated) {
  const at::NoGradGuard no_grad;
  const OfaEncoded encoded = ofa_->encode(source(true), {});
  const at::Tensor said = words(3, 3);
  const auto decoder = ofa_->decoder(encoded, {});
  decoder->read(said);
  // Two lines of source 0 and three of source 2; source 1 is gone.
  const at::Tensor rows = at::tensor({0, 0, 2, 2, 2}, at::kLong), more = words(5, 2);
  decoder->select(rows);
  const at::Tensor logits = decoder->read(more);
  ASSERT_EQ(logits.size(0), 5);
  const at::Tensor whole =
      ofa_->decode(at::cat({said.index_select(0, rows), more}, 1),
                   {.rows = encoded.rows.view({3, -1, 16}).index_select(0, rows).reshape({-1, 16}),
                    .layout = nn::Layout::uniform(5, encoded.layout.length(0), encoded.layout.key_mask().index_select(0, rows)),
                    .positions = encoded.positions},
                   {});
  EXPECT_LT(difference(logits, whole.select(1, 4)), 2e-5);
  // And again, back to one line of what is now the second source.
  decoder->select(at::tensor({3}, at::kLong));
  const at::Tensor last = decoder->read(words(1, 1));
  const OfaEncoded own{.rows = encoded.rows.view({3, -1, 16})[2],
                       .layout = nn::Layout::uniform(1, encoded.layout.length(0), encoded.layout.key_mask().narrow(0, 2, 1)),
                       .positions = encoded.positions};
  EXPECT_LT(difference(last, ofa_->decode(at::cat({said[2], more[3], words(1, 1)[0]}).unsqueeze(0), own, {}).select(1, 5)), 2e-5);
}

TEST_P(OfaDecoding, ATreeIsReadInOnePass) {
  const at::NoGradGuard no_grad;
  const OfaEncoded encoded = ofa_->encode(source(true), {});
  const std::vector<std::vector<std::int64_t>> candidates = {{5}, {5, 11, 26}, {16, 11, 9}, {5, 11, 4}, {26, 8}};
  const CandidateTrie trie(candidates, 2);
  const auto decoder = ofa_->decoder(encoded, {});
  const at::Tensor begin = words(3, 2);
  decoder->read(begin);
  for (const bool among : {false, true}) {
    const at::Tensor scores = rank_candidates(*decoder, trie, {.among_candidates = among});
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      std::vector<std::int64_t> tokens = candidates[c];
      tokens.push_back(2);
      const at::Tensor behind = at::tensor(tokens, at::kLong).unsqueeze(0).expand({3, -1});
      const at::Tensor logits = ofa_->decode(at::cat({begin, behind}, 1), encoded, {});
      at::Tensor sum = at::zeros({3});
      std::int64_t node = CandidateTrie::root;
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        at::Tensor own = logits.select(1, 1 + static_cast<std::int64_t>(i));
        if (among) {
          const at::Tensor allowed = at::tensor(trie.following(node), at::kLong);
          own = at::full_like(own, -1e30).index_copy(1, allowed, own.index_select(1, allowed));
        }
        sum += at::log_softmax(own, 1).select(1, tokens[i]);
        node = trie.child(node, tokens[i]).value();
      }
      EXPECT_LT(difference(scores.select(1, static_cast<std::int64_t>(c)), sum), 5e-5);
    }
  }
  // What was read is as it was.
  const at::Tensor more = words(3, 1);
  EXPECT_LT(difference(decoder->read(more), ofa_->decode(at::cat({begin, more}, 1), encoded, {}).select(1, 2)), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Experts, OfaDecoding, testing::Values("none", "adapter", "prefix", "lora"),
                         [](const auto& info) { return info.param; });

TEST(TokenTree, PartsHoldWholeBranches) {
  //            0   1  2  3   4  5   6  7
  const std::vector<std::int64_t> parents = {-1, 0, 1, 0, -1, 4, -1, 3};
  const auto all = inner_parts(parents, 100);
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].nodes, (std::vector<std::int64_t>{0, 1, 3, 4}));
  EXPECT_EQ(all[0].parents, (std::vector<std::int64_t>{-1, 0, 0, -1}));
  EXPECT_EQ(all[0].depths, (std::vector<std::int64_t>{0, 1, 1, 0}));
  const auto two = inner_parts(parents, 3);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two[1].nodes, (std::vector<std::int64_t>{4}));
  EXPECT_TRUE(inner_parts({-1, -1}, 3).empty());
}

TEST(OfaDecoder, RefusesMoreWordsThanItHasPlaces) {
  const auto ofa = model();
  const at::NoGradGuard no_grad;
  const auto decoder = ofa->decoder(ofa->encode(source(false), {}), {});
  EXPECT_THROW(decoder->read(words(3, 49)), Error);
}

}  // namespace
}  // namespace mmtune::backbones
