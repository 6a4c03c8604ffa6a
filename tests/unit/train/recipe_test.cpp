#include "train/recipe.h"

#include <gtest/gtest.h>

#include "core/recipe.h"

namespace mmtune::train {
namespace {

Recipe parse(const std::string& text) {
  return read_options<Recipe>(parse_toml(text, "recipe.toml"));
}

const std::string minimal = R"(
task = "classify"
[backbone]
main = "model"
[expert]
method = "lora"
rank = 4
[data]
train = "train.jsonl"
)";

std::string message_of(const std::string& text) {
  try {
    parse(text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(TrainRecipe, TheSimpleFormHasOneExpertAndDefaultsElsewhere) {
  Recipe recipe = parse(minimal);
  ASSERT_EQ(recipe.experts.size(), 1U);
  EXPECT_EQ(recipe.experts[0].method, "lora");
  EXPECT_EQ(recipe.train.batch, 32);
  EXPECT_NE(to_toml(recipe).find("rank = 4"), std::string::npos);
}

TEST(TrainRecipe, WritingAndReadingGivesTheSameText) {
  Recipe recipe = parse(minimal + "[train]\nlr = 3e-4\n[[train.groups]]\npattern = \"head.*\"\nlr_scale = 10\n");
  const std::string text = to_toml(recipe);
  Recipe again = parse(text);
  EXPECT_EQ(to_toml(again), text);
  EXPECT_EQ(again.train.groups.at(0).lr_scale, 10);
}

TEST(TrainRecipe, SeveralExpertsOnSeveralTowers) {
  const Recipe recipe = parse(R"(
[backbone]
main = "a"
condition = "b"
[[expert]]
method = "lora"
tower = "main"
[[expert]]
method = "bitfit"
tower = "condition"
[data]
train = "t.jsonl"
)");
  ASSERT_EQ(recipe.experts.size(), 2U);
  EXPECT_EQ(recipe.experts[1].method, "bitfit");
  EXPECT_EQ(recipe.experts[1].tower, ExpertTower::condition);
}

TEST(TrainRecipe, MistakesAreNamed) {
  EXPECT_NE(message_of(minimal + "[train]\nleraning_rate = 1\n").find("leraning_rate"), std::string::npos);
  EXPECT_NE(message_of(minimal + "[train]\nepoch = 1\n").find("epochs"), std::string::npos);
  EXPECT_NE(message_of(minimal + "[train]\nbatch = 0\n").find("batch"), std::string::npos);
  EXPECT_NE(message_of("[backbone]\nmain = \"m\"\n[data]\ntrain = \"t\"\n").find("expert"), std::string::npos);
  EXPECT_NE(message_of(minimal + "valid_fraction = 0.1\nvalid = \"v.jsonl\"\n").find("valid_fraction"), std::string::npos);
}

TEST(TrainRecipe, SplitsReadTheirOwnRows) {
  DataSection section;
  section.train = "all.jsonl";
  section.where = {{"kind", "photo"}};
  section.train_where = {{"split", "train"}};
  section.valid_where = {{"split", "val"}};
  section.shots = 4;
  const data::ReadOptions train = read_options_of(section, Split::train), valid = read_options_of(section, Split::valid, {"a", "b"});
  EXPECT_EQ(train.where.at("split"), "train");
  EXPECT_EQ(train.where.at("kind"), "photo");
  EXPECT_EQ(train.shots, 4);
  EXPECT_EQ(valid.path, "all.jsonl");
  EXPECT_EQ(valid.where.at("split"), "val");
  EXPECT_EQ(valid.shots, 0);
  EXPECT_EQ(valid.classes.size(), 2U);
}

}  // namespace
}  // namespace mmtune::train
