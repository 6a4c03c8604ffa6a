#include "methods/prompt_optimiser.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace mmtune::methods {

namespace {

constexpr double least_norm = 1e-10;

bool normalises(PromptRule rule) {
  return rule == PromptRule::normalised || rule == PromptRule::normalised_border;
}

double half_wave(double rate, double share) {
  return rate * (1.0 + std::cos(std::numbers::pi * share)) / 2.0;
}

}  // namespace

double prompt_rate(PromptSchedule schedule, double rate, const PromptSteps& steps, std::int64_t step) {
  switch (schedule) {
    case PromptSchedule::constant:
      return rate;
    case PromptSchedule::cosine_epoch:
      return half_wave(rate, std::floor(static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(steps.per_epoch, 1))) /
                                 static_cast<double>(steps.epochs));
    case PromptSchedule::cosine_step:
      if (step < steps.warmup) return rate * static_cast<double>(step + 1) / static_cast<double>(steps.warmup);
      return half_wave(
          rate, static_cast<double>(step - steps.warmup) / static_cast<double>(std::max<std::int64_t>(steps.total - steps.warmup, 1)));
  }
  MMTUNE_ASSERT(false);
}

PromptOptimiser::PromptOptimiser(const PromptOptimiserOptions& options, nn::Parameters& parameters, const std::vector<at::Tensor>& masks)
    : options_(options), parameters_(parameters) {
  MMTUNE_ASSERT(masks.size() == parameters.items().size());
  std::vector<at::Tensor> flat;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    MMTUNE_ASSERT(masks[i].sizes() == parameters.items()[i].tensor.sizes());
    flat.push_back(masks[i].reshape({-1}));
  }
  mask_ = at::cat(flat).to(parameters.values().options());
  if (normalises(options.rule)) return;
  train::TrainSection section;
  section.optimizer = options.rule == PromptRule::sgd ? train::OptimiserKind::sgd : train::OptimiserKind::adamw;
  section.momentum = options.momentum;
  section.beta1 = options.beta1;
  section.beta2 = options.beta2;
  section.eps = options.eps;
  inner_ = train::make_optimiser(section, parameters,
                                 {{.begin = 0, .end = parameters.count(), .lr_scale = 1.0, .weight_decay = options.weight_decay}});
}

double PromptOptimiser::step(std::int64_t step, double rate, std::int64_t batch) {
  const at::NoGradGuard no_grad;
  at::Tensor& gradient = parameters_.gradients();
  if (!normalises(options_.rule)) {
    const auto norm = gradient.norm().item<double>();
    gradient.mul_(mask_);
    inner_->step(step, rate);
    return norm;
  }
  const at::Tensor g = gradient / static_cast<double>(batch);
  const at::Tensor norm = (options_.rule == PromptRule::normalised ? g : g * mask_).norm();
  parameters_.values().sub_(rate * (mask_ * (g / (norm + least_norm))));
  return norm.item<double>();
}

std::vector<nn::NamedTensor> PromptOptimiser::state() {
  return inner_ ? inner_->state() : std::vector<nn::NamedTensor>();
}

}  // namespace mmtune::methods
