#pragma once
// The transfer matrix: prompts on models that they were not trained through, beside the same models without a prompt.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "experts/visual_prompt.h"
#include "methods/prompted_model.h"
#include "methods/tvp_recipe.h"
#include "report/transfer_page.h"

namespace mmtune::methods {

/// A prompt with its name in the matrix and the fingerprints of the models that it was trained through.
struct NamedPrompt {
  std::string name;
  experts::PixelPrompt prompt;
  std::vector<std::string> sources;
};
/// From a run, a folder or a file; the sources are those that its metadata name: of an expert on a tower, its backbone.
NamedPrompt named_prompt(const std::filesystem::path& path);

struct TransferOptions {
  std::vector<std::string> models;
  std::vector<std::string> data;                ///< manifests, read as the recipe's [data] says
  std::vector<vision::Corruption> corruptions;  ///< of the pictures, beside the unchanged ones
  std::vector<std::string> assignments;         ///< changes of the recipe that were asked for; data.limit among them holds here too
  std::int64_t batch = 32;
};

/// Throws UsageError where there is no prompt, no model or no data.
void check_transfer(const std::vector<NamedPrompt>& prompts, const TransferOptions& options);
/// A block of the matrix with its rows, which have no cells yet: the two without a prompt, then the prompts.
report::TransferBlock block_of(const data::Dataset& dataset, const std::optional<vision::Corruption>& change,
                               const std::vector<NamedPrompt>& prompts);
/// What one row of one block gives on one model. `plain`: scores of the framed pictures without a prompt, for the difference to them;
/// undefined: none. `replicates`: of the bootstrap, 0: no intervals.
report::TransferCell transfer_cell(PromptTask task, std::int64_t replicates, const at::Tensor& scores, const at::Tensor& plain,
                                   const data::Dataset& dataset);

/// Every prompt, the framed picture without one and the picture that fills the frame, on every model, for all data. `recipe` says what is
/// asked and how data is read; its classes count, or else those that the data has. Prompts share one frame and picture size for the row
/// without a prompt: those of the first. Throws Error or UsageError: no model or data, prompts of different frames.
report::TransferMatrix transfer_matrix(const TvpRecipe& recipe, const std::vector<NamedPrompt>& prompts, const TransferOptions& options);

}  // namespace mmtune::methods
