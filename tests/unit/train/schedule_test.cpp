#include "train/schedule.h"

#include <gtest/gtest.h>

namespace mmtune::train {
namespace {

TEST(Schedule, WarmsUpLinearlyAndThenFollowsItsCurve) {
  TrainSection section;
  section.warmup = 4;
  const Schedule linear(section, 14, 7);
  EXPECT_DOUBLE_EQ(linear(0), 0.2);
  EXPECT_DOUBLE_EQ(linear(3), 0.8);
  EXPECT_DOUBLE_EQ(linear(4), 1.0);
  EXPECT_DOUBLE_EQ(linear(9), 0.5);
  EXPECT_DOUBLE_EQ(linear(14), 0.0);
  section.schedule = ScheduleKind::cosine;
  section.min_lr_scale = 0.2;
  const Schedule cosine(section, 14, 7);
  EXPECT_DOUBLE_EQ(cosine(4), 1.0);
  EXPECT_NEAR(cosine(9), 0.6, 1e-12);
  EXPECT_NEAR(cosine(14), 0.2, 1e-12);
}

TEST(Schedule, WarmUpBelowOneIsAShareOfAllSteps) {
  TrainSection section;
  section.warmup = 0.1;
  EXPECT_EQ(Schedule(section, 200, 50).warmup_steps(), 20);
}

TEST(Schedule, StepDropsAtEpochs) {
  TrainSection section;
  section.schedule = ScheduleKind::step;
  section.step_every = 2;
  section.step_gamma = 0.5;
  const Schedule step(section, 100, 10);
  EXPECT_DOUBLE_EQ(step(19), 1.0);
  EXPECT_DOUBLE_EQ(step(20), 0.5);
  EXPECT_DOUBLE_EQ(step(40), 0.25);
}

TEST(Schedule, ConstantStaysAtOne) {
  TrainSection section;
  section.schedule = ScheduleKind::constant;
  EXPECT_DOUBLE_EQ(Schedule(section, 10, 5)(9), 1.0);
}

}  // namespace
}  // namespace mmtune::train
