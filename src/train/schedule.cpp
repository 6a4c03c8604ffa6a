#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mmtune::train {

Schedule::Schedule(const TrainSection& section, std::int64_t total_steps, std::int64_t steps_per_epoch)
    : kind_(section.schedule),
      total_(std::max<std::int64_t>(total_steps, 1)),
      warmup_(section.warmup < 1 ? std::llround(section.warmup * static_cast<double>(total_steps)) : std::llround(section.warmup)),
      floor_(section.min_lr_scale),
      gamma_(section.step_gamma),
      drop_every_(section.step_every * static_cast<double>(std::max<std::int64_t>(steps_per_epoch, 1))) {}

double Schedule::operator()(std::int64_t step) const {
  if (step < warmup_) return static_cast<double>(step + 1) / static_cast<double>(warmup_ + 1);
  const double left = static_cast<double>(std::max<std::int64_t>(total_ - warmup_, 1));
  const double progress = std::min(static_cast<double>(step - warmup_) / left, 1.0);
  switch (kind_) {
    case ScheduleKind::constant:
      return 1.0;
    case ScheduleKind::linear:
      return floor_ + (1.0 - floor_) * (1.0 - progress);
    case ScheduleKind::cosine:
      return floor_ + (1.0 - floor_) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    case ScheduleKind::step:
      return std::pow(gamma_, std::floor(static_cast<double>(step) / drop_every_));
  }
  return 1.0;
}

}  // namespace mmtune::train
