#pragma once
// Recall of a ranking of pictures by texts and of texts by pictures.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "report/metrics.h"

namespace mmtune::report {

/// How well each query's own items rank: the best place, counted from 0, of an item that belongs to it. Of equal scores the earlier item
/// ranks higher.
struct Ranks {
  std::vector<std::int64_t> of_texts;     ///< one a text: the place of its picture among all pictures
  std::vector<std::int64_t> of_pictures;  ///< one a picture: the best place of one of its texts among all texts; -1: it has none
};
/// `scores` [pictures, texts], row by row; `picture_of` the picture of each text.
Ranks ranks(std::span<const float> scores, std::size_t pictures, std::span<const std::int64_t> picture_of);

/// Share of the queries whose own item is among the first k; queries without one (-1) do not count. NaN where none counts.
double recall_at(std::span<const std::int64_t> ranks, std::int64_t k, Weights weights = {});

/// r1 (mean of the two at 1), ir_r1, ir_r5, ir_r10 (texts looking for pictures), tr_r1, tr_r5, tr_r10 (pictures looking for texts).
/// Intervals resample the queries of each way on their own; r1 has none.
std::vector<Metric> recalls(const Ranks& ranks, const std::optional<BootstrapOptions>& bootstrap = std::nullopt);
std::vector<std::string> recall_names();

}  // namespace mmtune::report
