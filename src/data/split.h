#pragma once
// Holding out a part of the training data for validation.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/example.h"

namespace mmtune::data {

/// Indices of the two parts, each in file order.
struct Split {
  std::vector<std::int64_t> train;
  std::vector<std::int64_t> valid;
};

/// Holds out round(fraction × n) examples, as evenly over the strata (labels) as whole numbers allow; of every stratum at least one
/// example stays in train. The same for the same seed on every machine. Throws UsageError: a fraction not within (0, 1), or so small or
/// large that a part would be empty.
Split split_stratified(std::span<const std::int64_t> strata, double fraction, std::uint64_t seed);

/// Holds out whole groups (examples with equal keys, such as all questions about one picture), in random order, for as long as the
/// held-out part does not exceed round(fraction × n); at least one group is held out and one stays. Throws UsageError as above.
Split split_grouped(std::span<const std::string> groups, double fraction, std::uint64_t seed);

/// {train, valid} of a data set: grouped by picture, or sound where there is none, where several examples share one (else it would be in
/// both parts), otherwise stratified by label (the first one for multi-label data). Classes are the whole set's in both.
std::pair<Dataset, Dataset> split_dataset(const Dataset& dataset, double fraction, std::uint64_t seed);

}  // namespace mmtune::data
