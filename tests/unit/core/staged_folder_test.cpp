#include "core/staged_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files.h"

namespace mmtune {
namespace {

namespace fs = std::filesystem;

class Staged : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  std::size_t entries() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator())); }

  fs::path folder_ = fs::temp_directory_path() / ("mmtune-staged-" + std::to_string(::getpid()));
};

TEST_F(Staged, IsThereWholeOrNotAtAll) {
  {
    StagedFolder staged(folder_ / "out");
    write_file_atomically(staged.path() / "a", "1");
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
  EXPECT_EQ(entries(), 0U);
  {
    StagedFolder staged(folder_ / "deeper" / "out/");
    write_file_atomically(staged.path() / "a", "1");
    staged.commit();
  }
  EXPECT_EQ(read_file(folder_ / "deeper" / "out" / "a"), "1");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(Staged, TakesTheNameOfAnEmptyFolderOnly) {
  fs::create_directory(folder_ / "empty");
  StagedFolder staged(folder_ / "empty");
  write_file_atomically(staged.path() / "a", "1");
  staged.commit();
  EXPECT_THROW(StagedFolder(folder_ / "empty"), Error);
  write_file_atomically(folder_ / "file", "1");
  EXPECT_THROW(StagedFolder(folder_ / "file"), Error);
  EXPECT_THROW(StagedFolder(folder_ / "file" / "below"), Error);
}

}  // namespace
}  // namespace mmtune
