#pragma once
// Which examples make which batch of which epoch: a pure function of the seed, so that a position is all that resuming needs.

#include <cstdint>
#include <span>
#include <vector>

namespace mmtune::data {

/// What to do with the examples' lengths (tokens, patches: any measure of work).
enum class Lengths {
  ignored,   ///< batches are cut from the shuffled order
  similar,   ///< a batch holds examples of similar length: for padded batches, where the longest is paid for by all
  balanced,  ///< the batches' total lengths are similar: for packed batches, where memory follows the total
};

struct BatchOptions {
  std::int64_t batch = 32;  ///< examples a batch, over all shards together
  bool shuffle = true;      ///< false: file order, every epoch the same (lengths still group as asked)
  bool drop_last = false;   ///< leave out a last batch that is not full
  std::uint64_t seed = 0;
  Lengths lengths = Lengths::ignored;
  /// With lengths: the shuffled order is cut into pools of this many batches, and sorted within each. More: evener work, less random.
  std::int64_t pool = 32;
  std::int64_t shards = 1;  ///< data-parallel processes
  std::int64_t shard = 0;   ///< this one: it gets items shard, shard + shards, … of every batch
};

/// The batches of one epoch.
class EpochOrder {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(starts_.size()) - 1; }
  /// This shard's examples of batch `i`. Empty only where a last batch has fewer examples than there are shards.
  std::span<const std::int64_t> batch(std::int64_t i) const;

 private:
  friend class BatchPlan;
  std::vector<std::int64_t> examples_;
  std::vector<std::size_t> starts_{0};
};

/// Where a training stands: the next batch.
struct Position {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;
  bool operator==(const Position&) const = default;
};

class BatchPlan {
 public:
  /// `lengths`: one a example, needed unless Lengths::ignored; copied. Throws UsageError: no examples, a batch, pool or shard that is not
  /// positive or out of range, drop_last with fewer examples than one batch.
  /// `groups`: one number a example; examples of one group follow each other in the shuffled order, so that what they share is met in one
  /// batch (or two neighbours) of an epoch. Empty: no groups. Not together with lengths.
  BatchPlan(std::int64_t examples, BatchOptions options, std::span<const std::int64_t> lengths = {},
            std::span<const std::int64_t> groups = {});

  /// The same in every epoch.
  std::int64_t batches() const;
  /// Every example once (but for drop_last), the same for the same options on every machine. The batch that is not full comes last.
  EpochOrder epoch(std::int64_t epoch) const;
  Position next(Position position) const;
  /// The position of the n-th batch of the whole training, counted from 0, and the reverse.
  Position position(std::int64_t step) const { return {step / batches(), step % batches()}; }
  std::int64_t step(Position position) const { return position.epoch * batches() + position.batch; }

 private:
  void group_pool(std::span<std::int64_t> pool) const;
  void gather_groups(std::span<std::int64_t> order) const;

  std::int64_t examples_;
  BatchOptions options_;
  std::vector<std::int64_t> lengths_;
  std::vector<std::int64_t> groups_;
};

}  // namespace mmtune::data
