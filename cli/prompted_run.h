#pragma once
// eval and predict for runs of visual prompts.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command.h"

namespace mmtune::cli {

struct PromptedQuestion {
  std::string run;
  std::vector<std::string> assignments;
  std::string data;                        ///< eval, or predict for many
  std::optional<std::string> image, text;  ///< predict for one
  std::string model;                       ///< another one than the run's first source; empty: that
  std::string corrupt;                     ///< eval: a corruption of every picture; empty: none
  std::int64_t batch = 32, top = 5;
  bool json = false;
};

/// Metrics of the run's prompt on its own source or on `model`, and of the same model without a prompt in both image paths.
int eval_prompted(const PromptedQuestion& question, const Session& session);
/// Candidates ranked for one picture or for a manifest.
int predict_prompted(const PromptedQuestion& question, const Session& session);

}  // namespace mmtune::cli
