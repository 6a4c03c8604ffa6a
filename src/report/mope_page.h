#pragma once
// The page that `mmtune explain` writes for a MoPE: which expert fires for which inputs, and what depends on it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "report/routing.h"

namespace mmtune::report {

/// An input as the page shows it.
struct ShownExample {
  std::string id;
  std::string text;     ///< empty: none
  std::string picture;  ///< a data URI; empty: none
  std::string sound;    ///< SVG, as waveform_svg() draws it; empty: none
  std::string label;    ///< the true one
  std::string predicted;
  double score = 0;  ///< of the prediction
};

/// What one expert stands for, in the block that the galleries are drawn from.
struct ShownExpert {
  double usage = 0, chosen = 0;
  std::vector<std::pair<ShownExample, double>> gallery = {};  ///< with the expert's score, best first
  std::vector<WordWeight> words = {};
  std::vector<std::pair<std::string, double>> labels = {};  ///< commonest true labels among its examples, with their share
};

/// The model with one expert switched off: its score becomes 0 in every block, the others share what it had.
struct Ablation {
  double metric = 0, loss = 0;
  double changed = 0;                                       ///< share of the predictions that are different
  std::vector<std::pair<std::string, double>> labels = {};  ///< where the metric's share of right answers moves most
};

struct ExamplePath {
  ShownExample example;
  std::vector<std::vector<double>> scores;  ///< a routed block each, [K]
};

struct MopePage {
  std::string run, data, metric_name;
  std::size_t examples = 0, experts = 0, prompt_length = 0;
  double metric = 0, loss = 0;
  std::vector<std::string> blocks = {};            ///< names of the routed blocks
  std::vector<RoutingStatistics> statistics = {};  ///< one a block
  std::size_t shown_block = 0;                     ///< that the galleries are drawn from
  std::vector<ShownExpert> shown = {};             ///< one an expert
  std::vector<Ablation> ablations = {};            ///< one an expert; empty where K = 1
  std::vector<ExamplePath> paths = {};
};

std::string mope_page(const MopePage& page);

}  // namespace mmtune::report
