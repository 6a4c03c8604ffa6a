// RoBERTa's positions: behind the padding id, counting what is not padding.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbones/backbone.h"
#include "core/error.h"

namespace mmtune::backbones {
namespace {

Json config(std::int64_t padding = 1) {
  return {{"model_type", "roberta"}, {"hidden_size", 16}, {"num_attention_heads", 4}, {"intermediate_size", 24},
          {"num_hidden_layers", 2},  {"vocab_size", 40},  {"pad_token_id", padding},  {"max_position_embeddings", 20},
          {"type_vocab_size", 1}};
}

TEST(Roberta, PackedRowsEqualPaddedOnes) {
  const at::NoGradGuard no_grad;
  for (const std::int64_t padding : {0, 1, 7}) {
    const auto model = fresh_backbone(config(padding), 3);
    ModelInputs inputs;
    inputs.text_layout = nn::Layout::packed({3, 7, 5});
    inputs.input_ids = at::arange(10, 25, at::kLong);
    const ModelOutputs packed = model->forward(inputs, {});
    at::Tensor ids = at::full({3, 7}, padding, at::kLong), mask = at::zeros({3, 7}, at::kLong);
    std::int64_t next = 10;
    for (std::int64_t b = 0; b < 3; ++b) {
      const std::int64_t n = packed.layout.length(b);
      ids[b].narrow(0, 0, n).copy_(at::arange(next, next + n, at::kLong));
      mask[b].narrow(0, 0, n).fill_(1);
      next += n;
    }
    const TensorMap padded = model->forward_named({{"input_ids", ids}, {"attention_mask", mask}}, {});
    const at::Tensor keep = mask.view({-1}).nonzero().squeeze(1);
    EXPECT_TRUE(at::allclose(packed.last_hidden_state, padded.at("last_hidden_state").flatten(0, 1).index_select(0, keep), 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(packed.pooler_output, padded.at("pooler_output"), 1e-4, 1e-5));
  }
}

TEST(Roberta, PositionsBeginBehindThePaddingId) {
  const at::NoGradGuard no_grad;
  const auto model = fresh_backbone(config(), 3);
  EXPECT_EQ(model->info().architecture, "roberta");
  EXPECT_EQ(model->info().max_length, 18);
  const at::Tensor ids = at::tensor({5, 6, 1, 7}, at::kLong).view({1, 4});
  const at::Tensor positions = at::tensor({2, 3, 1, 4}, at::kLong).view({1, 4});
  const at::Tensor found = model->forward_named({{"input_ids", ids}}, {}).at("last_hidden_state");
  EXPECT_TRUE(at::equal(found, model->forward_named({{"input_ids", ids}, {"position_ids", positions}}, {}).at("last_hidden_state")));
}

// xlm-roberta is the same model under another name; its tokenizer is not.
TEST(Roberta, HasTwoNames) {
  const at::NoGradGuard no_grad;
  Json other = config();
  other["model_type"] = "xlm-roberta";
  const TensorMap inputs{{"input_ids", at::tensor({5, 6, 7}, at::kLong).view({1, 3})}};
  const auto model = fresh_backbone(other, 3);
  EXPECT_EQ(model->info().architecture, "xlm-roberta");
  const at::Tensor expected = fresh_backbone(config(), 3)->forward_named(inputs, {}).at("last_hidden_state");
  EXPECT_TRUE(at::equal(model->forward_named(inputs, {}).at("last_hidden_state"), expected));
}

TEST(Roberta, RefusesWhatHasNoPosition) {
  const at::NoGradGuard no_grad;
  const auto model = fresh_backbone(config(), 3);
  EXPECT_NO_THROW(model->forward_named({{"input_ids", at::full({1, 18}, 5, at::kLong)}}, {}));
  EXPECT_THROW(model->forward_named({{"input_ids", at::full({1, 19}, 5, at::kLong)}}, {}), Error);
  EXPECT_THROW(fresh_backbone(config(-1), 3), Error);
  EXPECT_THROW(fresh_backbone(config(40), 3), Error);
  EXPECT_THROW(fresh_backbone(config(19), 3), Error);
}

}  // namespace
}  // namespace mmtune::backbones
