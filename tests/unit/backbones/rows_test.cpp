// What backbones must do alike: packed and padded batches, reading only first rows, and operation counts.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbones/backbone.h"

namespace mmtune::backbones {
namespace {

Json bert_config() {
  return {{"model_type", "bert"},   {"hidden_size", 16}, {"num_attention_heads", 4},      {"intermediate_size", 24},
          {"num_hidden_layers", 3}, {"vocab_size", 40},  {"max_position_embeddings", 20}, {"type_vocab_size", 2}};
}

Json vit_config() {
  return {{"model_type", "vit"},    {"hidden_size", 16}, {"num_attention_heads", 4}, {"intermediate_size", 24},
          {"num_hidden_layers", 3}, {"image_size", 12},  {"patch_size", 4}};
}

ModelInputs packed_text() {
  ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed({3, 7, 5});
  inputs.input_ids = at::arange(15, at::kLong);
  return inputs;
}

TEST(Bert, PackedRowsEqualPaddedOnes) {
  const auto bert = fresh_backbone(bert_config(), 3);
  const at::NoGradGuard no_grad;
  const ModelOutputs packed = bert->forward(packed_text(), {});
  at::Tensor ids = at::zeros({3, 7}, at::kLong), mask = at::zeros({3, 7}, at::kLong);
  std::int64_t next = 0;
  for (std::int64_t b = 0; b < 3; ++b) {
    const std::int64_t n = packed.layout.length(b);
    ids[b].narrow(0, 0, n).copy_(at::arange(next, next + n, at::kLong));
    mask[b].narrow(0, 0, n).fill_(1);
    next += n;
  }
  const TensorMap padded = bert->forward_named({{"input_ids", ids}, {"attention_mask", mask}}, {});
  const at::Tensor keep = mask.view({-1}).nonzero().squeeze(1);
  EXPECT_TRUE(at::allclose(packed.last_hidden_state, padded.at("last_hidden_state").flatten(0, 1).index_select(0, keep), 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(packed.pooler_output, padded.at("pooler_output"), 1e-4, 1e-5));
}

TEST(Backbones, ReadingFirstRowsChangesNothingButTheWork) {
  const at::NoGradGuard no_grad;
  nn::Context first;
  first.read = nn::ReadRows::first;
  const auto bert = fresh_backbone(bert_config(), 3);
  const ModelOutputs all = bert->forward(packed_text(), {}), some = bert->forward(packed_text(), first);
  EXPECT_EQ(some.last_hidden_state.size(0), 3);
  EXPECT_TRUE(at::allclose(nn::first_rows(all.last_hidden_state, all.layout), some.last_hidden_state, 1e-4, 1e-5));
  const auto vit = fresh_backbone(vit_config(), 3);
  ModelInputs pictures;
  pictures.pixel_values = at::ones({2, 3, 12, 12});
  const ModelOutputs seen = vit->forward(pictures, {}), glimpsed = vit->forward(pictures, first);
  EXPECT_TRUE(at::allclose(pool(seen, Pooling::first), pool(glimpsed, Pooling::first), 1e-4, 1e-5));
  EXPECT_LT(vit->macs(10, true), vit->macs(10, false));
}

Json clip_text_config() {
  return {{"model_type", "clip_text_model"},
          {"hidden_size", 16},
          {"num_attention_heads", 4},
          {"intermediate_size", 24},
          {"num_hidden_layers", 3},
          {"vocab_size", 40},
          {"projection_dim", 6},
          {"max_position_embeddings", 20},
          {"eos_token_id", 9}};
}

/// Texts whose end token (9) is their last, then padding of any kind.
ModelInputs clip_texts(bool packed, bool masked) {
  ModelInputs inputs;
  const std::vector<std::int64_t> ids = {1, 4, 9, 0, 0, 2, 5, 6, 7, 9};
  if (packed) {
    inputs.text_layout = nn::Layout::packed({3, 5});
    inputs.input_ids = at::tensor(std::vector<std::int64_t>{1, 4, 9, 2, 5, 6, 7, 9}, at::kLong);
    return inputs;
  }
  const at::Tensor all = at::tensor(ids, at::kLong);
  inputs.text_layout = nn::Layout::uniform(2, 5, masked ? all.ne(0).view({2, 5}) : at::Tensor());
  inputs.input_ids = all;
  return inputs;
}

TEST(ClipText, PooledRowsNeedNoOthers) {
  const auto clip = fresh_backbone(clip_text_config(), 3);
  const at::NoGradGuard no_grad;
  nn::Context pooled;
  pooled.read = nn::ReadRows::first;
  const at::Tensor expected = clip->forward(clip_texts(false, false), {}).pooler_output;
  for (const bool packed : {false, true}) {
    for (const bool masked : {false, true}) {
      const ModelOutputs all = clip->forward(clip_texts(packed, masked), {}), some = clip->forward(clip_texts(packed, masked), pooled);
      EXPECT_TRUE(at::allclose(all.pooler_output, expected, 1e-4, 1e-5));
      EXPECT_TRUE(at::allclose(some.pooler_output, expected, 1e-4, 1e-5));
      EXPECT_TRUE(at::equal(some.last_hidden_state, some.pooler_output));
      EXPECT_TRUE(at::allclose(some.embeds, all.embeds, 1e-4, 1e-5));
    }
  }
}

// A hole in the mask cannot be packed away: all rows are computed then.
TEST(ClipText, MaskedRowsBeforeTheEndAreRespected) {
  const auto clip = fresh_backbone(clip_text_config(), 3);
  const at::NoGradGuard no_grad;
  nn::Context pooled;
  pooled.read = nn::ReadRows::first;
  ModelInputs inputs = clip_texts(false, false);
  at::Tensor mask = at::ones({2, 5}, at::kBool);
  mask[0][1] = false;
  inputs.text_layout = nn::Layout::uniform(2, 5, mask);
  const at::Tensor masked = clip->forward(inputs, {}).pooler_output;
  EXPECT_TRUE(at::allclose(clip->forward(inputs, pooled).pooler_output, masked, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(clip->forward(clip_texts(false, false), {}).pooler_output, masked, 1e-4, 1e-5));
}

// 12 blocks of 4 D² T + 2 T² D + 8 D² T, and the pooler's D²: BERT-base at 128 tokens; ViT-B/16 at 224² has 197 rows and the patch
// embedding.
TEST(Backbones, OperationsEqualTheHandFormulas) {
  Json bert = bert_config();
  bert.update(
      {{"hidden_size", 768}, {"num_attention_heads", 12}, {"intermediate_size", 3072}, {"num_hidden_layers", 12}, {"vocab_size", 10}});
  const std::int64_t d = 768, t = 128;
  EXPECT_EQ(fresh_backbone(bert, 0)->macs(t, false), 12 * (12 * d * d * t + 2 * t * t * d) + d * d);
  Json vit = vit_config();
  vit.update({{"hidden_size", 768},
              {"num_attention_heads", 12},
              {"intermediate_size", 3072},
              {"num_hidden_layers", 12},
              {"image_size", 224},
              {"patch_size", 16}});
  const auto model = fresh_backbone(vit, 0);
  const std::int64_t rows = 197;
  EXPECT_EQ(model->info().max_length, rows);
  EXPECT_EQ(model->macs(rows, false), 196 * 768 * d + 12 * (12 * d * d * rows + 2 * rows * rows * d) + d * d);
  EXPECT_EQ(model->parameter_count(), 86389248);  // transformers' ViTModel for google/vit-base-patch16-224
}

}  // namespace
}  // namespace mmtune::backbones
