// PEFT's words: keys, names of modules, and what a list of targets means.

#include <gtest/gtest.h>

#include "core/error.h"
#include "experts/peft_names.h"
#include "experts/peft_targets.h"

namespace mmtune::experts {
namespace {

TEST(PeftKeys, AreUnderstoodAsEveryVersionWritesThem) {
  const auto check = [](const std::string& key, const std::string& module, const std::string& parameter) {
    const PeftKey parsed = parse_peft_key(key);
    EXPECT_EQ(parsed.module, module) << key;
    EXPECT_EQ(parsed.parameter, parameter) << key;
  };
  for (const std::string prefix : {"base_model.model.", "base_model.", ""}) {
    check(prefix + "encoder.0.query.lora_A.weight", "encoder.0.query", "lora_A.weight");
    check(prefix + "encoder.0.query.lora_B.default.weight", "encoder.0.query", "lora_B.weight");
    check(prefix + "encoder.0.query.lora_magnitude_vector", "encoder.0.query", "lora_magnitude_vector");
    check(prefix + "encoder.0.query.lora_magnitude_vector.weight", "encoder.0.query", "lora_magnitude_vector");
    check(prefix + "encoder.0.query.lora_magnitude_vector.default.weight", "encoder.0.query", "lora_magnitude_vector");
    check(prefix + "encoder.0.query.base_layer.bias", "encoder.0.query", "base_layer.bias");
    check(prefix + "encoder.0.fc1.ia3_l", "encoder.0.fc1", "ia3_l");
    check(prefix + "encoder.0.fc1.ia3_l.default", "encoder.0.fc1", "ia3_l");
    check(prefix + "classifier.weight", "classifier", "weight");
    check(prefix + "classifier.modules_to_save.default.weight", "classifier", "weight");
    check(prefix + "classifier.modules_to_save.default.dense.weight", "classifier.dense", "weight");
    check(prefix + "encoder.0.LayerNorm.bias", "encoder.0.LayerNorm", "bias");
  }
  EXPECT_TRUE(parse_peft_key("base_model.model.classifier.original_module.bias").spare);
  EXPECT_TRUE(parse_peft_key("base_model.model.classifier.modules_to_save.bias").spare);
  EXPECT_FALSE(parse_peft_key("base_model.model.classifier.modules_to_save.default.bias").spare);
  EXPECT_FALSE(parse_peft_key("modules_to_save").spare);
  check("prompt_embeddings", "", "prompt_embeddings");
  // What is none of them stays as it is, to be listed as not used.
  check("x.lora_A.one.two.weight", "x", "lora_A.one.two.weight");
  check("x.lora_embedding_A", "x", "lora_embedding_A");
  check("", "", "");
}

TEST(PeftNames, OfViTAndSwinDifferBetweenVersionsOfTransformers) {
  const auto both = [](const std::string& architecture, const std::string& checkpoint, const std::string& module) {
    EXPECT_EQ(spelt_as(Naming::modules, architecture, checkpoint), module);
    EXPECT_EQ(spelt_as(Naming::checkpoint, architecture, checkpoint), checkpoint);
    EXPECT_EQ(checkpoint_name(architecture, module), checkpoint);
    EXPECT_EQ(checkpoint_name(architecture, checkpoint), checkpoint);
  };
  both("vit", "encoder.layer.3.attention.attention.query", "layers.3.attention.q_proj");
  both("vit", "encoder.layer.3.attention.output.dense", "layers.3.attention.o_proj");
  both("vit", "encoder.layer.10.output.dense.bias", "layers.10.mlp.fc2.bias");
  both("vit", "encoder.layer.10.intermediate.dense", "layers.10.mlp.fc1");
  both("vit", "encoder.layer.0.layernorm_before.weight", "layers.0.layernorm_before.weight");
  both("vit", "pooler.dense", "pooler.dense");
  both("swin", "encoder.layers.0.blocks.1.attention.self.value", "encoder.layers.0.blocks.1.attention.v_proj");
  both("swin", "encoder.layers.0.blocks.1.attention.output.dense", "encoder.layers.0.blocks.1.attention.o_proj");
  both("swin", "encoder.layers.0.blocks.1.output.dense", "encoder.layers.0.blocks.1.mlp.fc2");
  both("swin", "encoder.layers.0.blocks.1.attention.self.relative_position_bias_table",
       "encoder.layers.0.blocks.1.attention.relative_position_bias.relative_position_bias_table");
  both("swin", "encoder.layers.0.downsample.reduction", "encoder.layers.0.downsample.reduction");
  both("bert", "encoder.layer.0.output.dense", "encoder.layer.0.output.dense");
}

TEST(PeftTargets, FollowPeftsRules) {
  const std::string query = "bert.encoder.layer.1.attention.self.query", dense = "bert.encoder.layer.0.output.dense";
  const auto chooses = [](const Json& config, const std::string& module) { return TargetRules(config, "test").chooses(module); };
  EXPECT_TRUE(chooses({{"target_modules", {"query"}}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"uery"}}}, query));
  EXPECT_TRUE(chooses({{"target_modules", {query}}}, query));
  EXPECT_TRUE(chooses({{"target_modules", ".*query"}}, query));
  EXPECT_FALSE(chooses({{"target_modules", "query"}}, query));  // a text is an expression for the whole name
  EXPECT_TRUE(chooses({{"target_modules", "All-Linear"}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"query"}}, {"exclude_modules", {"self.query"}}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"query"}}, {"exclude_modules", ".*layer\\.1.*"}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"dense"}}, {"modules_to_save", {"output"}}}, dense));
  EXPECT_TRUE(chooses({{"target_modules", {"query"}}, {"layers_to_transform", 1}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"query"}}, {"layers_to_transform", {0, 2}}}, query));
  EXPECT_TRUE(chooses({{"target_modules", {"query"}}, {"layers_to_transform", {1}}, {"layers_pattern", "layer"}}, query));
  EXPECT_FALSE(chooses({{"target_modules", {"query"}}, {"layers_to_transform", {1}}, {"layers_pattern", {"blocks"}}}, query));
  EXPECT_TRUE(chooses({{"target_modules", {query}}, {"layers_to_transform", {7}}}, query));  // a whole name needs no layer
  EXPECT_FALSE(chooses(Json::object(), query));
  EXPECT_THROW(chooses({{"target_modules", "(open"}}, query), Error);
  EXPECT_THROW(TargetRules({{"target_modules", 3}}, "test"), Error);
  EXPECT_THROW(TargetRules({{"modules_to_save", "classifier"}}, "test"), Error);

  EXPECT_TRUE(ends_in_pattern(query, "layer.1.attention.self.query", "test"));
  EXPECT_TRUE(ends_in_pattern(query, "self\\.(query|key)", "test"));
  EXPECT_FALSE(ends_in_pattern(query, "uery", "test"));
  EXPECT_FALSE(ends_in_pattern("encoder.layer.11.query", "layer.1.query", "test"));
}

TEST(PeftTargets, AreAsShortAsTheyCanBe) {
  const std::vector<std::string> others = {"layer.0.key", "layer.0.attention.dense", "pooler.dense"};
  EXPECT_EQ(target_list({"layer.0.query", "layer.1.query"}, others), (std::vector<std::string>{"query"}));
  EXPECT_EQ(target_list({"layer.0.query", "layer.0.output.dense"}, others), (std::vector<std::string>{"output.dense", "query"}));
  EXPECT_EQ(target_list({"layer.0.query"}, {"layer.1.query"}), (std::vector<std::string>{"0.query"}));
  EXPECT_EQ(target_list({"dense"}, {"layer.0.dense"}), (std::vector<std::string>{"dense"}));
  EXPECT_TRUE(target_list({}, others).empty());
}

TEST(PeftTargets, LieInModules) {
  EXPECT_TRUE(lies_in("bert.pooler.dense.weight", "pooler"));
  EXPECT_TRUE(lies_in("bert.pooler.dense.weight", "pooler.dense"));
  EXPECT_TRUE(lies_in("classifier", "classifier"));
  EXPECT_FALSE(lies_in("bert.pooler.dense", "ooler"));
  EXPECT_FALSE(lies_in("bert.pooler_2.dense", "pooler"));
}

}  // namespace
}  // namespace mmtune::experts
