#include "train/features.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/version.h"
#include "data/prefetch.h"
#include "train/feature_files.h"

namespace mmtune::train {

namespace {

constexpr std::size_t group_size = 64;

using Clock = std::chrono::steady_clock;

struct Input {
  const data::Example* example;
  std::string key;
};

/// The distinct inputs in the order in which they first occur, cut into groups that never span two data sets: so a data set that is
/// evaluated later, alone, meets the groups it had beside the training data.
std::vector<std::vector<Input>> groups_of(const InputReader& reader, std::span<const data::Dataset* const> datasets) {
  std::vector<std::vector<Input>> groups;
  std::set<std::string> seen;
  for (const data::Dataset* dataset : datasets) {
    bool fresh = true;
    for (const data::Example& example : dataset->examples) {
      if (!reader.has(example)) continue;
      std::string key = reader.key(example);
      if (!seen.insert(key).second) continue;
      if (fresh || groups.back().size() == group_size) groups.emplace_back();
      fresh = false;
      groups.back().push_back({&example, std::move(key)});
    }
  }
  return groups;
}

/// All that decides a tower's features besides the inputs.
std::string identity_of(const Tower& tower) {
  Fingerprint fingerprint;
  fingerprint.add_field("mmtune features 2").add_field(io::backbone_fingerprint(tower.checkpoint())).add_field(tower.describe());
  fingerprint.add_field(version()).add_field(TORCH_VERSION).add_field(at::get_num_threads()).add_field(at::get_cpu_capability());
  return fingerprint.hex();
}

/// A group as the loader threads hand it over.
struct Group {
  std::vector<std::size_t> members;  ///< of the group's inputs, those that could be read
  std::string key;                   ///< under which it is kept; empty: not at all
  at::Tensor kept;                   ///< found on disk
  TowerBatch batch;                  ///< otherwise
};

class Loader {
 public:
  Loader(const Tower& tower, const StoreOptions& options, const FeatureFiles* files)
      : tower_(tower), options_(options), files_(files), identity_(files != nullptr ? identity_of(tower) : "") {}

  Group load(const std::vector<Input>& inputs) const {
    const InputReader& reader = tower_.reader();
    Group group;
    if (files_ != nullptr) group.key = key_of(inputs);
    if (files_ != nullptr && !group.key.empty())
      group.kept = files_->read(group.key, static_cast<std::int64_t>(inputs.size()), tower_.width());
    std::vector<InputReader::Item> items;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!group.kept.defined()) {
        try {
          items.push_back(reader.read(*inputs[i].example));
        } catch (const Error&) {
          if (options_.on_error == OnError::stop) throw;  // otherwise the batch that needs it counts it as skipped
          group.key.clear();
          continue;
        }
      }
      group.members.push_back(i);
    }
    group.batch = reader.collate(items);
    return group;
  }

 private:
  /// Empty where an input cannot be read.
  std::string key_of(const std::vector<Input>& inputs) const try {
    Fingerprint fingerprint;
    fingerprint.add_field(identity_);
    for (const Input& input : inputs) tower_.reader().add_content(*input.example, fingerprint);
    return fingerprint.hex();
  } catch (const Error&) {
    return {};
  }

  const Tower& tower_;
  const StoreOptions& options_;
  const FeatureFiles* files_;
  std::string identity_;
};

/// Nothing where `stop` ended the pass.
std::optional<FeatureStore> make_store(const Tower& tower, const std::vector<std::vector<Input>>& groups, std::int64_t count,
                                       const StoreOptions& options, std::int64_t& kept) {
  std::optional<FeatureFiles> files;
  if (options.on_disk) files.emplace(cache_folder() / "features", options.limit_mb << 20);
  const Loader loader(tower, options, files ? &*files : nullptr);
  // Process r of n takes groups r, r + n, …
  const std::size_t rank = options.all != nullptr ? static_cast<std::size_t>(options.all->rank()) : 0;
  const std::size_t processes = options.all != nullptr ? static_cast<std::size_t>(options.all->size()) : 1;
  const auto read = [&](std::int64_t turn) { return loader.load(groups[static_cast<std::size_t>(turn) * processes + rank]); };
  const auto turns = static_cast<std::int64_t>(groups.size() > rank ? (groups.size() - rank - 1) / processes + 1 : 0);
  data::Prefetcher<Group> loaded(0, turns, read, options.workers, 2 + options.workers);
  Progress progress("features (" + tower.name() + ")", count, "inputs");
  const at::NoGradGuard no_grad;
  const at::Tensor features = at::zeros({count, tower.width()}, at::kFloat);
  std::vector<float> there(static_cast<std::size_t>(count) + 1, 0.0F);  // 1 for the rows that are filled; behind them, how many were kept
  std::int64_t base = 0, done = 0;
  for (std::size_t g = 0; g < groups.size(); base += static_cast<std::int64_t>(groups[g].size()), ++g) {
    if (g % processes != rank) continue;
    const std::optional<Group> group = loaded.next();
    MMTUNE_ASSERT(group.has_value());
    if (options.stop && options.stop()) return std::nullopt;
    if (group->members.empty()) continue;
    const auto rows = static_cast<std::int64_t>(group->members.size());
    const at::Tensor own = group->kept.defined() ? group->kept : tower.features(group->batch.inputs, {}).to(at::kCPU);
    if (group->kept.defined()) there.back() += static_cast<float>(rows);
    if (!group->kept.defined() && !group->key.empty()) files->write(group->key, own);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = base + static_cast<std::int64_t>(group->members[static_cast<std::size_t>(i)]);
      features[row].copy_(own[i]);
      there[static_cast<std::size_t>(row)] = 1;
    }
    done += rows;
    progress.update(done * static_cast<std::int64_t>(processes));
  }
  progress.finish();
  if (processes > 1) {
    options.all->sum({features.data_ptr<float>(), static_cast<std::size_t>(features.numel())});
    options.all->sum(there);
  }
  kept += static_cast<std::int64_t>(there.back());
  FeatureStore store{.features = features};
  std::int64_t row = 0;
  for (const std::vector<Input>& inputs : groups) {
    for (const Input& input : inputs) {
      if (there[static_cast<std::size_t>(row)] > 0) store.row_of.emplace(input.key, row);
      ++row;
    }
  }
  return store;
}

}  // namespace

StoreOptions store_options_of(const DataSection& section) {
  return {.limit_mb = section.cache_mb,
          .on_disk = section.feature_cache,
          .on_error = section.on_error,
          .workers = static_cast<int>(section.workers)};
}

StoreReport store_frozen_features(Model& model, std::span<const data::Dataset* const> datasets, const StoreOptions& options) {
  StoreReport report;
  if (options.limit_mb == 0) return report;
  const auto begin = Clock::now();
  for (std::size_t t = 0; t < model.towers().size() && !report.stopped; ++t) {
    const Tower& tower = *model.towers()[t];
    if (!model.constant(t)) continue;
    const std::vector<std::vector<Input>> groups = groups_of(tower.reader(), datasets);
    std::int64_t count = 0;
    for (const std::vector<Input>& group : groups) count += static_cast<std::int64_t>(group.size());
    if (count == 0) continue;
    if (const std::int64_t bytes = count * tower.width() * 4; bytes > options.limit_mb << 20) {
      log_info("features of the " + tower.name() + " tower are computed in every step: all of them would take " +
               std::to_string((bytes >> 20) + 1) + " MiB, over data.cache_mb = " + std::to_string(options.limit_mb));
      continue;
    }
    const std::int64_t before = report.kept;
    std::optional<FeatureStore> store = make_store(tower, groups, count, options, report.kept);
    report.inputs += count;
    if (report.kept > before)
      log_info("features of the " + tower.name() + " tower: " + std::to_string(report.kept - before) + " of " + std::to_string(count) +
               " inputs kept from an earlier run");
    report.stopped = !store;
    if (store) model.set_store(t, std::move(*store));
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return report;
}

}  // namespace mmtune::train
