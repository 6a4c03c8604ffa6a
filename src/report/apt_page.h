#pragma once
// The page that `mmtune explain` writes for APT: which prompts fire for which words and patches, layer by layer.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mmtune::report {

/// One attention's prompts over all rows that were seen.
struct AptPlace {
  std::string name;
  double fired = 0;                                       ///< share of the rows for which any prompt fires
  double per_row = 0;                                     ///< prompts that fire for a row, on average
  double weight = 0;                                      ///< mean w
  std::size_t used = 0, prompts = 0;                      ///< prompts that are the strongest for some row, and how many there are
  std::vector<std::pair<std::size_t, double>> strongest;  ///< prompt and the share of the rows whose strongest it is, largest first
};

/// What one prompt answers to most, at the place that is shown.
struct AptInput {
  std::string word;     ///< empty: a patch
  std::string picture;  ///< data URI of the patch; empty: a word
  std::string example;  ///< its id
  double score = 0;     ///< of the row against the prompt's key
};
struct AptPrompt {
  std::size_t number = 0;
  double share = 0;  ///< of the rows whose strongest it is
  std::vector<AptInput> inputs;
};

/// A row of an example: how much is added to it, from 0 to 1 of the most that a word, or a patch, of the examples shown has at this place,
/// and by which prompt most.
struct AptStrength {
  double strength = 0;
  std::size_t prompt = 0;
};
struct AptExample {
  std::string id, label, predicted;
  std::vector<std::pair<std::string, AptStrength>> words;
  std::string picture;  ///< data URI of what the model sees; empty: none
  std::size_t rows = 0, columns = 0;
  std::vector<AptStrength> patches;  ///< rows * columns
};

/// The part of the page about one tower.
struct AptTower {
  std::string name;
  std::vector<AptPlace> places;
  std::size_t shown = 0;  ///< the place that prompts and examples are drawn from
  std::vector<AptPrompt> prompts;
  std::vector<AptExample> examples;
};

struct AptPage {
  std::string run, data, metric_name;
  std::size_t examples = 0;
  double metric = 0;
  std::vector<AptTower> towers;
};

std::string apt_page(const AptPage& page);

}  // namespace mmtune::report
