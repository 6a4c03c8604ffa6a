#include "backbones/taught_answers.h"

#include <ATen/ATen.h>

#include <utility>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// Whose prompt was read but for its last token, which stands for the start token of the first text that is read.
class BegunDecoder final : public CachedDecoder {
 public:
  BegunDecoder(std::unique_ptr<CachedDecoder> decoder, at::Tensor start) : decoder_(std::move(decoder)), start_(std::move(start)) {}

  std::int64_t batch() const override { return decoder_->batch(); }
  std::int64_t vocabulary() const override { return decoder_->vocabulary(); }
  at::Tensor read(const at::Tensor& tokens) override {
    if (!start_.defined()) return decoder_->read(tokens);
    at::Tensor own = tokens.clone();
    own.select(1, 0).copy_(start_);
    start_.reset();
    return decoder_->read(own);
  }
  void select(const at::Tensor& rows) override {
    decoder_->select(rows);
    if (start_.defined()) start_ = start_.index_select(0, rows.to(start_.device()));
  }
  at::Tensor tree_log_probabilities(const at::Tensor& tokens, const at::Tensor& parents) override {
    MMTUNE_ASSERT(!start_.defined());
    return decoder_->tree_log_probabilities(tokens, parents);
  }
  at::Tensor tree_scores(const at::Tensor& tokens, const at::Tensor& parents) override {
    MMTUNE_ASSERT(!start_.defined());
    return decoder_->tree_scores(tokens, parents);
  }

 private:
  std::unique_ptr<CachedDecoder> decoder_;
  at::Tensor start_;  ///< [B]; undefined: it was read
};

}  // namespace

std::vector<std::int64_t> numbers_of(const at::Tensor& x) {
  const at::Tensor numbers = x.to(at::kCPU).to(at::kLong).contiguous();
  const auto* const begin = numbers.const_data_ptr<std::int64_t>();
  return {begin, begin + numbers.numel()};
}

TaughtAnswers taught_answers(const at::Tensor& said, const at::Tensor& wanted) {
  TaughtAnswers answers;
  std::int64_t first = 0;
  for (std::int64_t b = 0; b < said.size(0); ++b) {
    const std::vector<std::int64_t> here = numbers_of(wanted[b].to(at::kCPU).nonzero()), words = numbers_of(said[b]);
    MMTUNE_ASSERT(!here.empty());
    answers.counts.push_back(here.back() + 1);
    answers.read.emplace_back(words.begin() + 1, words.begin() + answers.counts.back());
    for (const std::int64_t place : here) answers.places.push_back(first + place);
    first += answers.counts.back();
  }
  return answers;
}

std::unique_ptr<CachedDecoder> begun_decoder(std::unique_ptr<CachedDecoder> decoder, at::Tensor start) {
  return std::make_unique<BegunDecoder>(std::move(decoder), std::move(start));
}

}  // namespace mmtune::backbones
