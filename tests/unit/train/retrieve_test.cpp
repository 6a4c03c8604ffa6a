#include "train/retrieve.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace mmtune::train {
namespace {

data::Example pair(const std::string& picture, const std::string& text) {
  data::Example example;
  example.image = data::MediaRef{.file = picture};
  example.text = text;
  return example;
}

data::Dataset captions() {
  data::Dataset dataset;
  dataset.source = "made up";
  dataset.examples = {pair("a", "one"), pair("b", "two"), pair("a", "three"), pair("c", "two")};
  return dataset;
}

const std::vector<std::int64_t> all = {0, 1, 2, 3};

TEST(Retrieve, GalleryOfDistinctPicturesAndTexts) {
  data::Dataset dataset = captions();
  dataset.examples.push_back(pair("a", "one"));
  const Gallery gallery = gallery_of(dataset);
  EXPECT_EQ(gallery.pictures, (std::vector<std::int64_t>{0, 1, 3}));
  EXPECT_EQ(gallery.texts, (std::vector<std::int64_t>{0, 1, 2, 3})) << "the same words about another picture are another text";
  EXPECT_EQ(gallery.picture_of, (std::vector<std::int64_t>{0, 1, 0, 2}));
  EXPECT_THROW(gallery_of(data::Dataset{}), Error);
}

TEST(Retrieve, NegativesAreOtherPicturesTexts) {
  const data::Dataset dataset = captions();
  const Retrieve task(5, true);
  const auto arranged = task.arranged(dataset, all, 3);
  ASSERT_TRUE(arranged.has_value());
  ASSERT_EQ(arranged->examples.size(), 4U * 6);
  for (std::size_t i = 0; i < arranged->examples.size(); ++i) {
    const data::Example &one = arranged->examples[i], &own = dataset.examples[i / 6];
    EXPECT_EQ(one.image->file, own.image->file);
    if (i % 6 == 0) {
      EXPECT_EQ(one.text, own.text);
    } else if (own.image->file == "a") {
      EXPECT_EQ(*one.text, "two");
    }
  }
  const auto again = task.arranged(dataset, all, 3), other = task.arranged(dataset, all, 4);
  bool differs = false;
  for (std::size_t i = 0; i < arranged->examples.size(); ++i) {
    EXPECT_EQ(again->examples[i].text, arranged->examples[i].text);
    differs = differs || other->examples[i].text != arranged->examples[i].text;
  }
  EXPECT_TRUE(differs);
  EXPECT_FALSE(Retrieve(5, false).arranged(dataset, all, 3).has_value());
}

TEST(Retrieve, RankingLossOfOneBackbone) {
  const at::Tensor logits = at::tensor({2.0F, 0.0F, 1.0F, 1.0F}).view({4, 1});
  const std::vector<std::int64_t> two = {0, 1};
  const double expected = -(at::tensor({2.0F, 0.0F}).log_softmax(0)[0] + at::tensor({1.0F, 1.0F}).log_softmax(0)[0]).item<double>();
  EXPECT_NEAR(Retrieve(1, true).loss(logits, captions(), two).item<double>(), expected, 1e-6);
}

TEST(Retrieve, MatchingIsASecondOutputAndASecondLoss) {
  const Retrieve task(2, true, 0.5);
  EXPECT_EQ(task.outputs(), 2);
  EXPECT_EQ(Retrieve(2, true).outputs(), 1);
  // Two examples, each with its own text and two others: ranked by the first output, matched by the second.
  const at::Tensor ranked = at::tensor({2.0F, 0.0F, -1.0F, 1.0F, 1.0F, 3.0F}),
                   matched = at::tensor({1.5F, -0.5F, 9.0F, -2.0F, 0.25F, 9.0F});
  const std::vector<std::int64_t> two = {0, 1};
  const double ranking = Retrieve(2, true).loss(ranked.view({6, 1}), captions(), two).item<double>();
  const auto probability = [](double logit) { return 1 / (1 + std::exp(-logit)); };
  const double matching =
      -(std::log(probability(1.5)) + std::log(1 - probability(-0.5)) + std::log(probability(-2.0)) + std::log(1 - probability(0.25))) / 2;
  const at::Tensor logits = at::stack({ranked, matched}, 1);
  EXPECT_NEAR(task.loss(logits, captions(), two).item<double>(), ranking + 0.5 * matching, 1e-5);
  const std::vector<Prediction> predictions = task.predict(logits, 1);
  EXPECT_NEAR(predictions.front().top.front().score, 2.0, 1e-6);
  EXPECT_EQ(task.describe().at("matching"), 0.5);
}

TEST(Retrieve, TwoTowersHaveNothingToMatchWith) {
  Recipe recipe;
  recipe.retrieve.matching = 1.0;
  recipe.backbone.condition = "another";
  EXPECT_THROW(Retrieve::for_training(recipe, captions()), UsageError);
  recipe.backbone.condition.clear();
  EXPECT_EQ(Retrieve::for_training(recipe, captions())->outputs(), 2);
}

TEST(Retrieve, WhatBelongsTogetherByAnotherExampleCountsForNeither) {
  const data::Dataset dataset = captions();
  const at::Tensor logits = at::arange(16, at::kFloat).view({4, 4}).sin() * 3;
  at::Tensor masked = logits.clone();
  for (const auto& [i, j] : {std::pair(0, 2), std::pair(2, 0), std::pair(1, 3), std::pair(3, 1)}) masked[i][j] = -1e30;
  const double expected = -(masked.log_softmax(1).diagonal().sum() + masked.log_softmax(0).diagonal().sum()).item<double>() / 2;
  EXPECT_NEAR(Retrieve(1, false).loss(logits, dataset, all).item<double>(), expected, 1e-4);
}

TEST(Retrieve, OnePictureIsNothingToRank) {
  data::Dataset dataset;
  dataset.examples = {pair("a", "one"), pair("a", "two")};
  EXPECT_THROW(Retrieve::for_training({}, dataset), Error);
}

}  // namespace
}  // namespace mmtune::train
