#include "data/split.h"

#include <cmath>
#include <map>
#include <set>

#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

std::map<std::int64_t, int> counts(const std::vector<std::int64_t>& indices, const std::vector<std::int64_t>& strata) {
  std::map<std::int64_t, int> result;
  for (const std::int64_t i : indices) ++result[strata[static_cast<std::size_t>(i)]];
  return result;
}

void expect_partition(const Split& split, std::size_t n) {
  std::set<std::int64_t> all(split.train.begin(), split.train.end());
  all.insert(split.valid.begin(), split.valid.end());
  EXPECT_EQ(all.size(), n);
  EXPECT_EQ(split.train.size() + split.valid.size(), n);
  EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
  EXPECT_TRUE(std::is_sorted(split.valid.begin(), split.valid.end()));
}

TEST(Split, EvenOverLabels) {
  std::vector<std::int64_t> strata;
  for (int i = 0; i < 100; ++i) strata.push_back(i < 60 ? 0 : i < 95 ? 1 : i < 99 ? 2 : 3);
  const Split split = split_stratified(strata, 0.2, 1);
  expect_partition(split, 100);
  EXPECT_EQ(split.valid.size(), 20u);
  EXPECT_EQ(counts(split.valid, strata), (std::map<std::int64_t, int>{{0, 12}, {1, 7}, {2, 1}}));
  EXPECT_EQ(counts(split.train, strata)[3], 1) << "a class of one example stays in train";
  EXPECT_EQ(split_stratified(strata, 0.2, 1).valid, split.valid);
  EXPECT_NE(split_stratified(strata, 0.2, 2).valid, split.valid);
}

TEST(Split, RemaindersGoToTheLargest) {
  // Three classes of 5 and a fifth held out: one of each. A tenth (1.5, rounded to 2): two classes give one.
  const std::vector<std::int64_t> strata = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2};
  EXPECT_EQ(counts(split_stratified(strata, 0.2, 1).valid, strata), (std::map<std::int64_t, int>{{0, 1}, {1, 1}, {2, 1}}));
  EXPECT_EQ(split_stratified(strata, 0.1, 1).valid.size(), 2u);
  // So much that every class keeps its last example only.
  const Split most = split_stratified(strata, 0.9, 1);
  EXPECT_EQ(most.valid.size(), 12u);
  EXPECT_EQ(counts(most.train, strata), (std::map<std::int64_t, int>{{0, 1}, {1, 1}, {2, 1}}));
}

TEST(Split, GroupsStayTogether) {
  std::vector<std::string> groups;
  for (int i = 0; i < 200; ++i) groups.push_back("g" + std::to_string(i % 40));
  const Split split = split_grouped(groups, 0.1, 1);
  expect_partition(split, 200);
  EXPECT_EQ(split.valid.size(), 20u);
  std::set<std::string> held;
  for (const std::int64_t i : split.valid) held.insert(groups[static_cast<std::size_t>(i)]);
  for (const std::int64_t i : split.train) EXPECT_FALSE(held.contains(groups[static_cast<std::size_t>(i)]));
  EXPECT_EQ(split_grouped(groups, 0.1, 1).valid, split.valid);
  EXPECT_NE(split_grouped(groups, 0.1, 2).valid, split.valid);

  const std::vector<std::string> two = {"a", "a", "a", "b", "b", "b"};
  const Split halves = split_grouped(two, 0.2, 1);
  EXPECT_EQ(halves.valid.size(), 3u) << "at least one group is held out";
}

TEST(Split, DatasetsSplitByPictureWhereOneIsShared) {
  Dataset dataset;
  dataset.classes = {"a", "b"};
  dataset.fingerprint = "f";
  for (int i = 0; i < 40; ++i) {
    Example example;
    example.id = std::to_string(i);
    example.text = "t";
    example.labels = {i % 2};
    dataset.examples.push_back(example);
  }
  const auto [train, valid] = split_dataset(dataset, 0.25, 3);
  EXPECT_EQ(train.examples.size(), 30u);
  EXPECT_EQ(valid.examples.size(), 10u);
  EXPECT_EQ(valid.classes, dataset.classes);
  EXPECT_NE(train.fingerprint, valid.fingerprint);
  int of_a = 0;
  for (const Example& example : valid.examples) of_a += example.labels[0] == 0 ? 1 : 0;
  EXPECT_EQ(of_a, 5);

  for (std::size_t i = 0; i < 40; ++i) dataset.examples[i].image = MediaRef{std::to_string(i / 4) + ".png", "", 0, 0};
  const auto [seen, held] = split_dataset(dataset, 0.25, 3);
  std::set<std::string> pictures;
  for (const Example& example : held.examples) pictures.insert(example.image->display());
  EXPECT_EQ(pictures.size(), 2u);
  EXPECT_EQ(held.examples.size(), 8u);
  for (const Example& example : seen.examples) EXPECT_FALSE(pictures.contains(example.image->display()));
}

TEST(Split, Refusals) {
  const std::vector<std::int64_t> strata = {0, 0, 1, 1};
  const auto refusal = [&](double fraction) { return message_of([&] { split_stratified(strata, fraction, 1); }); };
  expect_contains(refusal(0), "expected a fraction between 0 and 1");
  expect_contains(refusal(1), "expected a fraction between 0 and 1");
  expect_contains(refusal(std::nan("")), "expected a fraction between 0 and 1");
  expect_contains(refusal(0.01), "the held-out part would be empty");
  expect_contains(refusal(0.99), "the training part would be empty");
  expect_contains(message_of([] { split_stratified(std::vector<std::int64_t>{0, 1, 2}, 0.4, 1); }), "one example of every class");
  expect_contains(message_of([] { split_grouped(std::vector<std::string>{"a", "a"}, 0.5, 1); }), "one group of examples");
}

}  // namespace
}  // namespace mmtune::data::test
