#pragma once
// Frozen work is done once: the features of a tower in which nothing learns are computed in a pass of their own, before training, and
// kept on disk for the next run.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "data/dataset.h"
#include "train/communicator.h"
#include "train/model.h"

namespace mmtune::train {

struct StoreOptions {
  std::int64_t limit_mb = 1024;  ///< of a tower's features in memory, and of all files on disk together
  bool on_disk = true;           ///< read and write the files of earlier and later runs
  OnError on_error = OnError::stop;
  int workers = 1;
  std::function<bool()> stop;   ///< asked between groups; unset: never. Not together with several processes
  Communicator* all = nullptr;  ///< processes that share the work, all with the same model and data
};

/// The recipe's own options.
StoreOptions store_options_of(const DataSection& section);

/// What a pass found and did.
struct StoreReport {
  std::int64_t inputs = 0;  ///< distinct ones, of all towers that were asked
  std::int64_t kept = 0;    ///< of them, those whose features an earlier run had left
  double seconds = 0;
  bool stopped = false;
};

/// Asks every tower in which nothing learns for the features of all distinct inputs of the data sets, and lets the model take them from
/// there. A tower whose features do not fit into the limit is left to be asked in every step.
///
/// Inputs are computed in groups that follow from the data alone, and a group is kept and found again as a whole: matrix products differ in
/// the last bit with the number of rows, but here features are equal bit for bit whether they were computed now, kept, or partly both, and
/// a resumed run sees the same ones. The key of a group holds the backbone's weights and how they are stored, the preprocessing, the
/// content of the files (not their names or times) or the token ids, and what rounding depends on: the version, LibTorch,
/// kernels, threads.
StoreReport store_frozen_features(Model& model, std::span<const data::Dataset* const> datasets, const StoreOptions& options);

}  // namespace mmtune::train
