// The list of pictures, the alignment loss, and the recipe's own checks.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/recipe.h"
#include "support/support.h"
#include "train/pretrain/efficientnet_lite.h"
#include "train/pretrain/pictures.h"
#include "train/pretrain/recipe.h"
#include "train/pretrain/text_targets.h"

namespace mmtune::train {
namespace {

class Pictures : public testing::Test {
 protected:
  Pictures() {
    folder_.write("a.png", "bytes");
    folder_.write("pack.tar", "more bytes");
  }
  std::filesystem::path list(const std::string& content) const { return folder_.write("list.jsonl", content); }
  std::string error(const std::string& content) const {
    return test::error_of([&] { read_pictures(list(content)); });
  }
  test::TempFolder folder_;
};

TEST_F(Pictures, ReadsFilesAndMembersOfArchives) {
  const PictureList read = read_pictures(
      list("{\"image\": \"a.png\"}\n\n"
           "{\"id\": \"b\", \"image\": \"pack.tar#x/y.jpg\", \"offset\": 512, \"size\": 9, \"texts\": [\"a\", \"b\"], \"weight\": 0.5, "
           "\"mirror\": false}"));
  ASSERT_EQ(read.pictures.size(), 2U);
  EXPECT_EQ(read.pictures[0].id, "a.png");
  EXPECT_EQ(read.pictures[0].image.file, folder_ / "a.png");
  EXPECT_TRUE(read.pictures[0].mirror);
  EXPECT_EQ(read.pictures[0].weight, 1.0);
  const Picture& second = read.pictures[1];
  EXPECT_EQ(second.image.file, folder_ / "pack.tar");
  EXPECT_EQ(second.image.member, "x/y.jpg");
  EXPECT_EQ(second.image.offset, 512U);
  EXPECT_EQ(second.image.size, 9U);
  EXPECT_EQ(second.texts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(second.weight, 0.5);
  EXPECT_FALSE(second.mirror);
}

TEST_F(Pictures, TheFingerprintFollowsTheRows) {
  const std::string first = read_pictures(list("{\"image\": \"a.png\"}")).fingerprint;
  EXPECT_EQ(first, read_pictures(list("{\"image\": \"a.png\"}\n")).fingerprint);
  EXPECT_NE(first, read_pictures(list("{\"image\": \"a.png\", \"weight\": 2}")).fingerprint);
}

TEST_F(Pictures, RefusesNamingFileAndLine) {
  const auto has = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(error("{\"image\": \"a.png\"}\n{\"image\": 3}"), "list.jsonl:2"));
  EXPECT_TRUE(has(error("{\"image\": \"missing.png\"}"), "missing.png"));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"texts\": \"no list\"}"), "\"texts\""));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"texts\": [\"\"]}"), "not empty"));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"weight\": -1}"), "\"weight\""));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"offset\": -1}"), "\"offset\""));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"mirror\": 1}"), "\"mirror\""));
  EXPECT_TRUE(has(error("[1]"), "not a JSON object"));
  EXPECT_TRUE(has(error("{\"image\": "), "list.jsonl:1"));
  EXPECT_TRUE(has(error("{\"image\": \"a.png\", \"weight\": 0}"), "weight above 0"));
  EXPECT_TRUE(has(error(""), "weight above 0"));
}

TEST_F(Pictures, AFileThatIsNoTeacherIsRefused) {
  EXPECT_THROW(EfficientNetLite(folder_ / "a.png", false), Error);
}

TEST(TextTargets, SharesAPicturesWeightAmongItsTexts) {
  TextTargets targets;
  targets.texts = {"a", "b", "c"};
  targets.positives = {{0, 2}, {}, {1}};
  const at::Tensor got = targets.targets({2, 0, 1});
  EXPECT_TRUE(at::equal(got, at::tensor({0.0F, 1.0F, 0.0F, 0.5F, 0.0F, 0.5F, 0.0F, 0.0F, 0.0F}).view({3, 3})));
}

TEST(TextTargets, LossIsTheCrossEntropyOfScaledCosines) {
  const at::Tensor embeddings = at::eye(2);
  const at::Tensor projected = at::tensor({3.0F, 4.0F, 1.0F, 0.0F}).view({2, 2});
  const at::Tensor targets = at::tensor({1.0F, 0.0F, 0.0F, 0.0F}).view({2, 2});  // the second picture has no text
  const at::Tensor log_scale = at::full({}, std::log(5.0));
  const double expected = std::log(1.0 + std::exp(5.0 * (0.8 - 0.6)));
  EXPECT_NEAR(text_loss(projected, embeddings, targets, log_scale).item<double>(), expected, 1e-5);
  const at::Tensor none = at::zeros({2, 2});
  EXPECT_EQ(text_loss(projected, embeddings, none, log_scale).item<double>(), 0.0);
}

TEST(PretrainRecipe, ChecksWhatCannotFitTogether) {
  const auto error = [](const std::string& text) -> std::string {
    try {
      read_options<PretrainRecipe>(parse_toml(text, "recipe.toml"));
    } catch (const UsageError& caught) {
      return caught.what();
    }
    return "";
  };
  const std::string data = "data.pictures = \"x.jsonl\"\n", text = "text.model = \"m\"\n";
  EXPECT_EQ(error(data + text), "");
  EXPECT_NE(error(text), "");
  EXPECT_NE(error(data).find("[teacher]"), std::string::npos);
  EXPECT_NE(error(data + text + "model.patch_size = 7").find("patch_size"), std::string::npos);
  EXPECT_NE(error(data + text + "model.heads = 5").find("heads"), std::string::npos);
  EXPECT_NE(error(data + text + "views.size = 100").find("views.size"), std::string::npos);
  EXPECT_NE(error(data + text + "train.stepz = 3").find("steps"), std::string::npos);
}

}  // namespace
}  // namespace mmtune::train
