#include "train/arranged.h"

#include <numeric>

namespace mmtune::train {

Batch read_arranged(const BatchReader& reader, const Task& task, const data::Dataset& dataset, std::span<const std::int64_t> examples,
                    std::uint64_t seed) {
  std::optional<data::Dataset> arranged = task.arranged(dataset, examples, seed);
  if (!arranged) return reader.read(dataset, examples);
  const auto read = [&reader](const data::Dataset& own) {
    std::vector<std::int64_t> all(own.examples.size());
    std::iota(all.begin(), all.end(), std::int64_t{0});
    return reader.read(own, all);
  };
  Batch batch = read(*arranged);
  std::vector<std::int64_t> kept(examples.begin(), examples.end());
  if (!batch.skipped.empty()) {
    // What belongs to an example stands or falls with all of it.
    const std::size_t each = arranged->examples.size() / examples.size();
    std::vector<std::size_t> readable(examples.size(), 0);
    for (const std::int64_t index : batch.examples) ++readable[static_cast<std::size_t>(index) / each];
    data::Dataset whole;
    kept.clear();
    for (std::size_t i = 0; i < examples.size(); ++i) {
      if (readable[i] < each) continue;
      kept.push_back(examples[i]);
      for (std::size_t k = 0; k < each; ++k) whole.examples.push_back(std::move(arranged->examples[i * each + k]));
    }
    std::vector<std::string> skipped = std::move(batch.skipped);
    batch = kept.empty() ? Batch{} : read(whole);
    batch.skipped = std::move(skipped);
  }
  batch.examples = std::move(kept);
  return batch;
}

}  // namespace mmtune::train
