#pragma once
// Frozen work is done once: the features of a tower in which nothing learns are computed in a pass of their own, before training, and
// kept on disk for the next run.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "data/dataset.h"
#include "train/inputs.h"
#include "train/tower.h"

namespace mmtune::train {

struct StoreOptions {
  std::int64_t limit_mb = 1024;  ///< of the features, and of all kept files together
  OnError on_error = OnError::stop;
  int workers = 1;
  std::string backbone_fingerprint;
  std::function<bool()> stop;  ///< asked between batches
};

/// Features of all distinct inputs of the data sets, in the order in which they first occur. The pass is the same whatever the training
/// does with the result, so that a resumed run sees bit-equal features. Nothing where they do not fit into the limit, or where `stop`
/// ended the pass.
std::optional<FeatureStore> make_store(const Tower& tower, std::span<const data::Dataset* const> datasets, const StoreOptions& options);

}  // namespace mmtune::train
