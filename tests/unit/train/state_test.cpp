#include "train/state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "train/run_folder.h"

namespace mmtune::train {
namespace {

namespace fs = std::filesystem;

class StateTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("mmtune-state-" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fill(parameters_, 1.5F);
    first_ = at::rand({5});
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void fill(nn::Parameters& parameters, float value, std::int64_t second = 2) {
    parameters.add("a", at::full({3}, value, at::kFloat).requires_grad_(true));
    parameters.add("b", at::full({second}, value, at::kFloat).requires_grad_(true));
    parameters.flatten();
  }

  fs::path folder_;
  nn::Parameters parameters_;
  at::Tensor first_;
};

TEST_F(StateTest, ComesBackBitForBit) {
  TrainState state{.step = 17,
                   .evaluated_step = 12,
                   .best_step = 6,
                   .best_metric = 0.1 + 0.2,
                   .without_progress = 2,
                   .stopped_early = true,
                   .skipped = 3,
                   .seconds = 1.25};
  parameters_.values().copy_(at::rand({5}));
  save_state(folder_ / "last.safetensors", state, "id", parameters_, {{"first", first_}});
  nn::Parameters other;
  fill(other, 0.0F);
  at::Tensor buffer = at::zeros({5});
  const TrainState read = load_state(folder_ / "last.safetensors", "id", other, {{"first", buffer}});
  EXPECT_TRUE(at::equal(other.values(), parameters_.values()));
  EXPECT_TRUE(at::equal(buffer, first_));
  EXPECT_EQ(read.step, 17);
  EXPECT_EQ(read.evaluated_step, 12);
  EXPECT_EQ(read.best_step, 6);
  EXPECT_EQ(read.best_metric, 0.1 + 0.2);
  EXPECT_EQ(read.without_progress, 2);
  EXPECT_TRUE(read.stopped_early);
  EXPECT_EQ(read.skipped, 3);
}

TEST_F(StateTest, AnotherIdentityOrLayoutIsRefused) {
  const fs::path path = folder_ / "last.safetensors";
  save_state(path, {}, "id", parameters_, {});
  EXPECT_THROW(load_state(path, "other", parameters_, {}), Error);
  nn::Parameters other;
  fill(other, 0.0F, 3);
  EXPECT_THROW(load_state(path, "id", other, {}), Error);
  EXPECT_THROW(load_state(path, "id", parameters_, {{"absent", first_}}), Error);
}

TEST_F(StateTest, ACutFileIsRefused) {
  const fs::path path = folder_ / "last.safetensors";
  save_state(path, {}, "id", parameters_, {});
  fs::resize_file(path, fs::file_size(path) - 3);
  EXPECT_THROW(load_state(path, "id", parameters_, {}), Error);
}

TEST_F(StateTest, ARunFolderIsNotTakenTwice) {
  const fs::path path = folder_ / "run";
  const RunFolder run = RunFolder::create(path);
  EXPECT_THROW(RunFolder::resume(path), Error);  // another process (here: another object) trains in it
  write_file_atomically(run.recipe(), "task = \"classify\"\n");
  EXPECT_THROW(RunFolder::create(path), Error);
  EXPECT_THROW(RunFolder::open(path), Error);  // no record yet
}

TEST_F(StateTest, MetricsAreRewoundToTheCheckpoint) {
  const RunFolder run = RunFolder::create(folder_ / "run");
  for (int step = 1; step <= 4; ++step) run.append_metrics({{"step", step}, {"loss", 0.5}});
  run.append_metrics({{"step", 4}, {"valid", {{"accuracy", 0.25}}}});
  std::ofstream(run.metrics(), std::ios::app) << "{\"step\": 5, \"lo";
  EXPECT_EQ(run.validation_at(4)["accuracy"], 0.25);
  run.rewind_metrics(4, 2);
  EXPECT_EQ(read_file(run.metrics()),
            "{\"loss\":0.5,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n{\"loss\":0.5,\"step\":3}\n{\"loss\":0.5,\"step\":4}\n");
  run.rewind_metrics(1, -1);
  EXPECT_EQ(read_file(run.metrics()), "{\"loss\":0.5,\"step\":1}\n");
}

}  // namespace
}  // namespace mmtune::train
