#pragma once
// What a model writes: the answers to a data set's questions, and how right they are.

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train/evaluate.h"
#include "train/sequences.h"

namespace mmtune::train {

/// One answer.
struct WrittenAnswer {
  std::string words;                  ///< a label's own name; a box as "left,top,right,bottom"; otherwise what was written
  std::vector<std::int64_t> tokens;   ///< empty where answers were ranked
  double score = 0;                   ///< of ranked answers: the probability within the list; else the search's score
  std::vector<Prediction::Item> top;  ///< best first: of the list, or of the beams
  std::optional<BoxCorners> box;      ///< task ground
};

/// Answers to a batch (Model::reader without teaching), in its order, with at most `top` alternatives each.
std::vector<WrittenAnswer> answers_to(const Model& model, const Sequences& task, const data::Dataset& dataset, const Batch& batch,
                                      std::int64_t top);

/// evaluate() for these tasks.
std::optional<Evaluation> evaluate_sequences(const Model& model, const Sequences& task, const data::Dataset& dataset,
                                             const ForwardOptions& options, const std::optional<report::BootstrapOptions>& bootstrap);

/// Calls `use` with the predictions for every batch of a data set, by whatever the task needs. False where `stop` ended it early.
bool predict_all(const Model& model, const Task& task, const data::Dataset& dataset, const ForwardOptions& options, std::int64_t top,
                 const std::function<void(const std::vector<Prediction>&, const Batch&)>& use);

}  // namespace mmtune::train
