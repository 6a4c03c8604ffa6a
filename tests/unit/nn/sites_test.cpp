// Which sites a pattern chooses.

#include <gtest/gtest.h>

#include "nn/sites.h"

namespace mmtune::nn {
namespace {

TEST(Sites, NamesOfAttentionMapsStandForEachOther) {
  EXPECT_TRUE(matches("encoder.layers.0.self_attn.q_proj", "query"));
  EXPECT_TRUE(matches("encoder.layer.0.attention.self.value", "v_proj"));
  EXPECT_TRUE(matches("encoder.layers.0.self_attn.k_proj.bias", "*.key.bias"));
  EXPECT_FALSE(matches("encoder.layers.0.self_attn.q_proj", "key"));
  EXPECT_FALSE(matches("encoder.layers.0.self_attn.q_proj", "my_query"));
  EXPECT_EQ(spelling("encoder.layers.0.self_attn.q_proj", "query"), "q_proj");
  EXPECT_EQ(spelling("encoder.layers.0.mlp.fc2", "output.dense"), "fc2");
  EXPECT_EQ(spelling("encoder.layers.0.mlp.fc1", "output.dense"), std::nullopt);
}

}  // namespace
}  // namespace mmtune::nn
