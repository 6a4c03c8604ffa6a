#include "backbones/vilt_heads.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace mmtune::backbones {

namespace {

/// torch.nn.LayerNorm's own, which the classifiers keep whatever config.json says.
constexpr double classifier_epsilon = 1e-5;

}  // namespace

ViltHeads::ViltHeads(const Config& config, const nn::Weights& top, std::int64_t width, std::int64_t vocabulary, double epsilon)
    : activation_(nn::activation_named(config.text("hidden_act", "gelu"), config.where())) {
  const auto map = [](const nn::Weights& w, std::int64_t in, std::int64_t out) {
    return Map{w.tensor("weight", {out, in}), w.tensor("bias", {out}, nn::Init::zeros)};
  };
  const auto first = top.shape_of("classifier.0.weight"), last = top.shape_of("classifier.3.weight");
  if (first && last && first->size() == 2 && last->size() == 2) {
    // The classifier's own width tells how many pooled rows it reads.
    pictures_ = std::max<std::int64_t>(first->back() / width, 1);
    const nn::Weights w = top / "classifier";
    classifier_ = Classifier{.first = map(w / 0, pictures_ * width, first->front()),
                             .norm = nn::LayerNorm(w / 1, first->front(), classifier_epsilon),
                             .last = map(w / 3, first->front(), last->front())};
  }
  if (top.shape_of("rank_output.weight")) ranking_ = map(top / "rank_output", width, 1);
  if (const nn::Weights w = top / "mlm_score"; w.shape_of("transform.dense.weight")) {
    words_ = WordHead{.transform = map(w / "transform" / "dense", width, width),
                      .norm = nn::LayerNorm(w / "transform" / "LayerNorm", width, epsilon),
                      .decoder = w.shape_of("decoder.weight") ? w.matrix("decoder.weight", {vocabulary, width}) : at::Tensor(),
                      .bias = w.tensor(w.shape_of("decoder.bias") ? "decoder.bias" : "bias", {vocabulary})};
  }
}

at::Tensor ViltHeads::pooled_logits(const at::Tensor& pooled) const {
  if (ranking_) return at::linear(pooled, ranking_->weight, ranking_->bias);
  if (!classifier_) return {};
  const at::Tensor inner = classifier_->norm(at::linear(pooled, classifier_->first.weight, classifier_->first.bias));
  return at::linear(at::gelu(inner), classifier_->last.weight, classifier_->last.bias);
}

at::Tensor ViltHeads::word_logits(const at::Tensor& rows, const at::Tensor& words) const {
  if (!words_) return {};
  const at::Tensor inner = nn::activate(at::linear(rows, words_->transform.weight, words_->transform.bias), activation_);
  return nn::frozen_matrix(words_->norm(inner), words_->decoder.defined() ? words_->decoder : words, words_->bias);
}

}  // namespace mmtune::backbones
