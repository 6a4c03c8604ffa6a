#include "train/optimiser.h"

#include <ATen/ATen.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>

#include <cmath>
#include <map>
#include <utility>

namespace mmtune::train {

namespace {

/// The two moments of every parameter, and what the kinds of Adam share.
class Moments : public Optimiser {
 public:
  Moments(const TrainSection& section, nn::Parameters& parameters, std::vector<OptimiserGroup> groups)
      : beta1_(section.beta1), beta2_(section.beta2), eps_(section.eps), parameters_(parameters), groups_(std::move(groups)) {
    first_ = at::zeros_like(parameters.values());
    second_ = at::zeros_like(parameters.values());
  }
  std::vector<nn::NamedTensor> state() override { return {{"adamw.first", first_}, {"adamw.second", second_}}; }

 protected:
  /// A group's part of a tensor over all parameters.
  static at::Tensor span(const at::Tensor& flat, const OptimiserGroup& group) {
    return flat.narrow(0, group.begin, group.end - group.begin);
  }
  double beta1_, beta2_, eps_;
  nn::Parameters& parameters_;
  std::vector<OptimiserGroup> groups_;
  at::Tensor first_, second_;
};

class AdamW final : public Moments {
 public:
  using Moments::Moments;
  void step(std::int64_t step, double lr) override {
    const at::Tensor count = at::full({}, static_cast<double>(step + 1), parameters_.values().options());
    for (const OptimiserGroup& group : groups_)
      at::_fused_adamw_({span(parameters_.values(), group)}, {span(parameters_.gradients(), group)}, {span(first_, group)},
                        {span(second_, group)}, {}, {count}, lr * group.lr_scale, beta1_, beta2_, group.weight_decay, eps_, false, false);
  }
};

/// θ ← θ − lr · √(1 − β2ᵗ) / (1 − β1ᵗ) · m / (√v + ε), then θ ← θ − lr · decay · θ: AdamW as transformers 4 had it.
class LateDecayAdamW final : public Moments {
 public:
  using Moments::Moments;
  void step(std::int64_t step, double lr) override {
    const at::Tensor& gradient = parameters_.gradients();
    first_.mul_(beta1_).add_(gradient, 1.0 - beta1_);
    second_.mul_(beta2_).addcmul_(gradient, gradient, 1.0 - beta2_);
    const auto count = static_cast<double>(step + 1);
    const double correction = std::sqrt(1.0 - std::pow(beta2_, count)) / (1.0 - std::pow(beta1_, count));
    for (const OptimiserGroup& group : groups_) {
      const double rate = lr * group.lr_scale;
      at::Tensor values = span(parameters_.values(), group);
      values.addcdiv_(span(first_, group), span(second_, group).sqrt().add_(eps_), -rate * correction);
      if (group.weight_decay > 0) values.mul_(1.0 - rate * group.weight_decay);
    }
  }
};

class Sgd final : public Optimiser {
 public:
  Sgd(const TrainSection& section, nn::Parameters& parameters, std::vector<OptimiserGroup> groups)
      : momentum_(section.momentum), parameters_(parameters), groups_(std::move(groups)) {
    if (momentum_ > 0) velocity_ = at::zeros_like(parameters.values());
  }

  void step(std::int64_t, double lr) override {
    for (const OptimiserGroup& group : groups_) {
      const auto span = [&](const at::Tensor& flat) { return flat.narrow(0, group.begin, group.end - group.begin); };
      const std::vector<at::Tensor> velocity = momentum_ > 0 ? std::vector<at::Tensor>{span(velocity_)} : std::vector<at::Tensor>{};
      at::_fused_sgd_({span(parameters_.values())}, {span(parameters_.gradients())}, velocity, group.weight_decay, momentum_,
                      lr * group.lr_scale, 0.0, false, false, false);
    }
  }

  std::vector<nn::NamedTensor> state() override {
    if (momentum_ > 0) return {{"sgd.velocity", velocity_}};
    return {};
  }

 private:
  double momentum_;
  nn::Parameters& parameters_;
  std::vector<OptimiserGroup> groups_;
  at::Tensor velocity_;
};

}  // namespace

std::vector<OptimiserGroup> flatten_into_groups(nn::Parameters& parameters, const TrainSection& section) {
  // A group is told by its rate and decay: tensors with the same ones share a span.
  std::vector<std::pair<double, double>> kinds;
  std::map<std::string, std::int64_t> group_of;
  std::vector<bool> used(section.groups.size(), false);
  for (const nn::NamedTensor& item : parameters.items()) {
    std::pair<double, double> kind(1.0, item.tensor.dim() > 1 ? section.weight_decay : 0.0);
    for (std::size_t i = 0; i < section.groups.size(); ++i) {
      if (!nn::matches(item.name, section.groups[i].pattern)) continue;
      kind.first = section.groups[i].lr_scale;
      kind.second = section.groups[i].weight_decay.value_or(kind.second);
      used[i] = true;
      break;
    }
    auto found = std::find(kinds.begin(), kinds.end(), kind);
    if (found == kinds.end()) found = kinds.insert(kinds.end(), kind);
    group_of[item.name] = found - kinds.begin();
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    std::string names;
    for (std::size_t k = 0; k < parameters.items().size() && k < 5; ++k) names += (k ? ", " : "") + parameters.items()[k].name;
    throw UsageError({.what = "pattern matches no trainable tensor that an earlier pattern leaves",
                      .where = "train.groups[" + std::to_string(i) + "].pattern",
                      .expected = "part of a name such as " + names,
                      .got = "\"" + printable(section.groups[i].pattern) + "\""});
  }
  parameters.flatten([&](const std::string& name) { return group_of.at(name); });
  std::vector<OptimiserGroup> groups;
  for (std::size_t i = 0; i < parameters.groups().size(); ++i) {
    const auto [begin, end] = parameters.groups()[i];
    groups.push_back({begin, end, kinds[i].first, kinds[i].second});
  }
  return groups;
}

double clip_gradient(at::Tensor& gradient, double limit) {
  const double norm = gradient.norm().item<double>();
  if (limit > 0 && std::isfinite(norm) && norm > limit) gradient.mul_(limit / (norm + 1e-6));
  return norm;
}

std::unique_ptr<Optimiser> make_optimiser(const TrainSection& section, nn::Parameters& parameters, std::vector<OptimiserGroup> groups) {
  if (section.optimizer == OptimiserKind::sgd) return std::make_unique<Sgd>(section, parameters, std::move(groups));
  if (section.optimizer == OptimiserKind::adamw_late_decay) return std::make_unique<LateDecayAdamW>(section, parameters, std::move(groups));
  return std::make_unique<AdamW>(section, parameters, std::move(groups));
}

}  // namespace mmtune::train
