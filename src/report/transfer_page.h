#pragma once
// How prompts do on models that they were and were not trained on: the transfer matrix as a page, a table and JSON.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "report/metrics.h"

namespace mmtune::report {

struct TransferCell {
  std::vector<Metric> metrics;
  bool source = false;  ///< the model is one that the row's prompt was trained through
  /// Difference to the row without a prompt in the frame, over the same resamples.
  std::optional<double> gain;
  std::optional<Interval> gain_interval;
  const Metric* find(const std::string& name) const;
};

/// A prompt, or none.
struct TransferRow {
  std::string name;
  bool zero_shot = false;
  std::vector<TransferCell> cells;  ///< one a model
  /// The mean over the models that the prompt was not trained through; nothing where there is none.
  std::optional<double> mean_over_others(const std::string& metric) const;
  /// Of the gains on them: rows differ in which models those are, and their means are no measure of one another.
  std::optional<double> mean_gain_over_others() const;
};

/// One data set, or one corruption of it.
struct TransferBlock {
  std::string data;
  std::string change;  ///< of its pictures; empty: none
  std::int64_t examples = 0;
  std::vector<TransferRow> rows;
};

struct TransferMatrix {
  std::string metric;
  std::vector<std::string> models;
  std::vector<TransferBlock> blocks;
};

std::string transfer_page(const TransferMatrix& matrix);
std::string transfer_text(const TransferMatrix& matrix);
Json transfer_json(const TransferMatrix& matrix);

}  // namespace mmtune::report
