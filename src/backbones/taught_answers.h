#pragma once
// Answers behind prompts, for models that read both in one stream: the prompt's own last token stands for the start token of
// SequenceModel.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backbones/cached_decoder.h"

namespace mmtune::backbones {

/// The values of an integer or bool tensor, row by row.
std::vector<std::int64_t> numbers_of(const at::Tensor& x);

/// What is read to learn answers with teacher forcing. Nothing stands behind the last place that something is learned at.
struct TaughtAnswers {
  std::vector<std::vector<std::int64_t>> read;  ///< behind every prompt
  std::vector<std::int64_t> counts;             ///< of how many last rows of every sequence the states are wanted
  std::vector<std::int64_t> places;             ///< of what is learned, among those rows
};

/// Of SequenceModel::taught()'s `said` and `wanted` [B, T]; every row has something to learn.
TaughtAnswers taught_answers(const at::Tensor& said, const at::Tensor& wanted);

/// A decoder that has read its prompts but for their last tokens `start` [B], which stand in the place of the first token that it is given.
std::unique_ptr<CachedDecoder> begun_decoder(std::unique_ptr<CachedDecoder> decoder, at::Tensor start);

}  // namespace mmtune::backbones
