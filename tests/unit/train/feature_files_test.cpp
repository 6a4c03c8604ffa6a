// Features on disk: what was written comes back, what is damaged does not, and the folder stays in its bounds.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "train/feature_files.h"

namespace mmtune::train {
namespace {

namespace fs = std::filesystem;

class FeatureFolder : public testing::Test {
 public:
  FeatureFolder() : folder_(fs::temp_directory_path() / ("mmtune_features_" + std::to_string(getpid()))) { fs::remove_all(folder_); }
  ~FeatureFolder() override { fs::remove_all(folder_); }

 protected:
  fs::path file(const std::string& key) const { return folder_ / (key + ".safetensors"); }
  std::int64_t bytes() const {
    std::int64_t total = 0;
    for (const auto& entry : fs::directory_iterator(folder_)) total += static_cast<std::int64_t>(entry.file_size());
    return total;
  }
  void age(const std::string& key, int hours) const {
    fs::last_write_time(file(key), fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }

  fs::path folder_;
};

const at::Tensor features = at::arange(12, at::kFloat).view({3, 4});

TEST_F(FeatureFolder, WhatWasWrittenComesBack) {
  FeatureFiles files(folder_, 1 << 20);
  EXPECT_FALSE(files.read("a", 3, 4).defined());
  files.write("a", features);
  EXPECT_TRUE(at::equal(files.read("a", 3, 4), features));
  EXPECT_TRUE(at::equal(FeatureFiles(folder_, 1 << 20).read("a", 3, 4), features));
  EXPECT_FALSE(files.read("a", 4, 3).defined()) << "another shape";
  EXPECT_FALSE(files.read("b", 3, 4).defined());
}

TEST_F(FeatureFolder, ADamagedFileCountsAsAbsentAndIsOverwritten) {
  FeatureFiles files(folder_, 1 << 20);
  files.write("a", features);
  const auto size = fs::file_size(file("a"));
  for (const int damage : {0, 1, 2}) {
    SCOPED_TRACE(damage);
    if (damage == 0) fs::resize_file(file("a"), size - 5);
    if (damage == 1) {  // one value changed: only the checksum can tell
      std::fstream stream(file("a"), std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(static_cast<std::streamoff>(size) - 3);
      stream.put('\x55');
    }
    if (damage == 2) std::ofstream(file("a"), std::ios::trunc) << "no tensors";
    EXPECT_FALSE(files.read("a", 3, 4).defined());
    files.write("a", features);
    EXPECT_TRUE(at::equal(files.read("a", 3, 4), features));
  }
}

TEST_F(FeatureFolder, TheOnesUsedLongestAgoMakeRoom) {
  const at::Tensor large = at::ones({64, 64});
  const std::int64_t limit = 3 * (64 * 64 * 4 + 512);
  FeatureFiles files(folder_, limit);
  for (const std::string key : {"a", "b", "c"}) files.write(key, large);
  age("a", 3);
  age("b", 2);
  age("c", 1);
  ASSERT_TRUE(files.read("a", 64, 64).defined());  // used now: it is "b" that was used longest ago
  files.write("d", large);
  EXPECT_TRUE(fs::exists(file("a")));
  EXPECT_FALSE(fs::exists(file("b")));
  EXPECT_TRUE(fs::exists(file("c")));
  EXPECT_TRUE(files.read("d", 64, 64).defined());
  for (int i = 0; i < 20; ++i) {
    files.write("more" + std::to_string(i), large);
    EXPECT_LE(bytes(), limit);
  }
  // A later run with a smaller limit makes room for itself too.
  FeatureFiles(folder_, 2 * (64 * 64 * 4 + 512)).write("e", large);
  EXPECT_LE(bytes(), 2 * (64 * 64 * 4 + 512));
}

TEST_F(FeatureFolder, AFolderThatCannotBeMadeOnlyCostsAWarning) {
  std::ofstream(folder_) << "a file in the folder's place";
  FeatureFiles files(folder_, 1 << 20);
  files.write("a", features);
  files.write("b", features);
  EXPECT_FALSE(files.read("a", 3, 4).defined());
}

}  // namespace
}  // namespace mmtune::train
