#include "train/step_batches.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "core/hash.h"
#include "train/arranged.h"

namespace mmtune::train {

namespace {

/// One number for all examples that share the tower's input; each that lacks it is alone.
std::vector<std::int64_t> groups_of(const GroupBy group_by, const Training& training) {
  if (group_by == GroupBy::nothing) return {};
  const std::size_t tower = group_by == GroupBy::main ? 0 : 1;
  if (tower >= training.model->towers().size())
    throw UsageError({.what = "there is no second tower", .where = "train.group_by", .expected = "\"nothing\" or \"main\""});
  const InputReader& reader = training.model->towers()[tower]->reader();
  std::unordered_map<std::string, std::int64_t> numbers;
  std::vector<std::int64_t> groups;
  for (const data::Example& example : training.data.train.examples) {
    const auto fresh = static_cast<std::int64_t>(groups.size());
    groups.push_back(reader.has(example) ? numbers.try_emplace(reader.key(example), fresh).first->second : fresh);
  }
  return groups;
}

}  // namespace

data::BatchPlan plan_of(const Recipe& recipe, const Training& training, const Communicator& all) {
  return {static_cast<std::int64_t>(training.data.train.examples.size()),
          {.batch = recipe.train.batch * recipe.train.accumulate,
           .seed = static_cast<std::uint64_t>(recipe.train.seed),
           .shards = all.size(),
           .shard = all.rank()},
          {},
          groups_of(recipe.train.group_by, training)};
}

data::Prefetcher<StepBatches> step_batches(const Recipe& recipe, const Training& training, const data::BatchPlan& plan,
                                           const Communicator& all, std::int64_t first, std::int64_t end) {
  struct Orders {
    std::mutex mutex;
    std::map<std::int64_t, std::shared_ptr<const data::EpochOrder>> by_epoch;
  };
  const auto orders = std::make_shared<Orders>();
  const auto order_of = [&plan, orders](std::int64_t epoch) {
    const std::lock_guard lock(orders->mutex);
    auto& order = orders->by_epoch[epoch];
    if (!order) order = std::make_shared<const data::EpochOrder>(plan.epoch(epoch));
    auto result = order;
    while (orders->by_epoch.size() > 2) orders->by_epoch.erase(orders->by_epoch.begin());
    return result;
  };
  const auto share = static_cast<std::size_t>((recipe.train.batch + all.size() - 1) / all.size());
  const auto reader = std::make_shared<const BatchReader>(training.model->reader(recipe.data.on_error));
  const auto read = [&plan, &training, order_of, reader, share, seed = static_cast<std::uint64_t>(recipe.train.seed)](std::int64_t step) {
    const data::Position position = plan.position(step);
    const auto order = order_of(position.epoch);
    std::span<const std::int64_t> left = order->batch(position.batch);
    StepBatches batches;
    while (!left.empty()) {
      const std::size_t size = std::min(left.size(), share);
      batches.push_back(
          read_arranged(*reader, *training.task, training.data.train, left.first(size), mix_seed(seed, static_cast<std::uint64_t>(step))));
      left = left.subspan(size);
    }
    return batches;
  };
  const auto workers = static_cast<int>(recipe.data.workers);
  return data::Prefetcher<StepBatches>(first, end, read, workers, 2 + workers);
}

}  // namespace mmtune::train
