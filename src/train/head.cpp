#include "train/head.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "nn/layout.h"

namespace mmtune::train {

namespace {

at::Tensor index_tensor(const std::vector<std::int64_t>& rows, std::int64_t absent) {
  at::Tensor index = at::empty({static_cast<std::int64_t>(rows.size())}, at::kLong);
  std::transform(rows.begin(), rows.end(), index.data_ptr<std::int64_t>(), [&](std::int64_t row) { return row < 0 ? absent : row; });
  return index;
}

bool all_there_in_order(const TowerFeatures& features) {
  if (!features.rows.defined() || features.rows.size(0) != static_cast<std::int64_t>(features.row.size())) return false;
  for (std::size_t i = 0; i < features.row.size(); ++i)
    if (features.row[i] != static_cast<std::int64_t>(i)) return false;
  return true;
}

/// Rows of every example; `stand_in` [D] for those that have none.
at::Tensor rows_of_examples(const TowerFeatures& features, const at::Tensor& stand_in) {
  if (all_there_in_order(features)) return features.rows;
  const bool lacking = std::any_of(features.row.begin(), features.row.end(), [](std::int64_t row) { return row < 0; });
  if (!lacking) return features.rows.index_select(0, nn::beside(index_tensor(features.row, 0), features.rows));
  MMTUNE_ASSERT(stand_in.defined());
  if (!features.rows.defined()) return stand_in.unsqueeze(0).expand({static_cast<std::int64_t>(features.row.size()), stand_in.size(0)});
  const at::Tensor table = at::cat({features.rows, stand_in.unsqueeze(0)}, 0);
  return table.index_select(0, nn::beside(index_tensor(features.row, features.rows.size(0)), table));
}

}  // namespace

Head::Head(const HeadSection& section, std::vector<HeadTower> towers, std::int64_t outputs, at::Generator generator)
    : section_(section),
      activation_(nn::activation_named(section.activation, "head.activation")),
      towers_(std::move(towers)),
      outputs_(outputs) {
  if (section_.kind == HeadKind::similarity) {
    make_similarity(generator);
  } else if (section_.fusion == Fusion::mean_logits && towers_.size() > 1) {
    for (const HeadTower& tower : towers_) layers_.push_back(make_layers(tower.name + ".", tower.width, generator));
  } else {
    std::int64_t width = 0;
    for (const HeadTower& tower : towers_) width += tower.width;
    layers_.push_back(make_layers("", width, generator));
  }
  for (const HeadTower& tower : towers_) {
    const bool learned = tower.learn_absent && layers_.size() == 1 && towers_.size() > 1;
    absent_.push_back(learned ? leaf("absent." + tower.name, {tower.width}, nullptr) : at::Tensor());
  }
}

at::Tensor Head::leaf(const std::string& name, at::IntArrayRef shape, at::Generator* generator) {
  at::Tensor tensor = at::zeros(shape, at::kFloat);
  if (generator != nullptr) tensor.normal_(0.0, 0.02, *generator);
  tensor.requires_grad_(true);
  tensors_.push_back({name, tensor});
  return tensor;
}

Head::Layers Head::make_layers(const std::string& prefix, std::int64_t width, at::Generator& generator) {
  Layers layers;
  const bool norm = section_.kind == HeadKind::mlp_norm;
  if (section_.kind != HeadKind::mlp && !norm) {
    layers.weight = leaf(prefix + "weight", {outputs_, width}, &generator);
    layers.bias = leaf(prefix + "bias", {outputs_}, nullptr);
    return layers;
  }
  layers.weight = leaf(prefix + "0.weight", {section_.hidden, width}, &generator);
  layers.bias = leaf(prefix + "0.bias", {section_.hidden}, nullptr);
  if (norm) {
    layers.norm_weight = leaf(prefix + "1.weight", {section_.hidden}, nullptr);
    layers.norm_weight.detach().fill_(1.0);
    layers.norm_bias = leaf(prefix + "1.bias", {section_.hidden}, nullptr);
  }
  const std::string second = prefix + (norm ? "3." : "2.");
  layers.second_weight = leaf(second + "weight", {outputs_, section_.hidden}, &generator);
  layers.second_bias = leaf(second + "bias", {outputs_}, nullptr);
  return layers;
}

void Head::make_similarity(at::Generator& generator) {
  if (towers_.size() != 2)
    throw UsageError({.what = "two towers' features are compared",
                      .where = "head.kind = \"similarity\"",
                      .expected = "two towers",
                      .got = std::to_string(towers_.size()),
                      .hint = "name the second in backbone.condition"});
  const bool shared = towers_[0].projected && towers_[1].projected && towers_[0].width == towers_[1].width;
  for (const HeadTower& tower : towers_)
    projections_.push_back(shared ? at::Tensor() : leaf(tower.name + ".projection.weight", {section_.hidden, tower.width}, &generator));
  scale_ = leaf("scale", {1}, nullptr);
  scale_.detach().fill_(std::log(1.0 / 0.07));  // as CLIP's training begins
}

at::Tensor Head::embed(std::size_t tower, const at::Tensor& rows) const {
  MMTUNE_ASSERT(section_.kind == HeadKind::similarity);
  const at::Tensor placed = projections_[tower].defined() ? at::linear(rows, projections_[tower]) : rows;
  return placed / placed.norm(2, {1}, true).clamp_min(1e-12);
}

at::Tensor Head::apply(const Layers& layers, const at::Tensor& features, const nn::Context& context) const {
  if (!layers.second_weight.defined()) return at::linear(nn::dropout(features, section_.dropout, context), layers.weight, layers.bias);
  at::Tensor hidden = at::linear(features, layers.weight, layers.bias);
  if (layers.norm_weight.defined()) hidden = at::layer_norm(hidden, {section_.hidden}, layers.norm_weight, layers.norm_bias, 1e-5);
  hidden = nn::activate(hidden, activation_);
  return at::linear(nn::dropout(hidden, section_.dropout, context), layers.second_weight, layers.second_bias);
}

at::Tensor Head::concatenated(const std::vector<TowerFeatures>& features) const {
  std::vector<at::Tensor> parts;
  for (std::size_t t = 0; t < features.size(); ++t) {
    parts.push_back(rows_of_examples(features[t], absent_[t]));
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts, 1);
}

void Head::begin_with(const at::Tensor& embeddings, double scale) {
  MMTUNE_ASSERT(section_.kind == HeadKind::zero_shot && layers_.size() == 1);
  const at::NoGradGuard no_grad;
  // Features come with length sqrt(width) and not 1: so small steps of the weights mean small changes of the logits, as in other heads.
  at::Tensor weight = layers_.front().weight;
  weight.copy_(embeddings * (scale / std::sqrt(static_cast<double>(weight.size(1)))));
}

void Head::begin_with_map(const at::Tensor& weight, const at::Tensor& bias) {
  MMTUNE_ASSERT(section_.kind == HeadKind::linear && layers_.size() == 1);
  const at::NoGradGuard no_grad;
  at::Tensor(layers_.front().weight).copy_(weight);
  at::Tensor(layers_.front().bias).copy_(bias);
}

at::Tensor Head::operator()(const std::vector<TowerFeatures>& given, const nn::Context& context) const {
  MMTUNE_ASSERT(given.size() == towers_.size());
  std::vector<TowerFeatures> features = given;
  if (section_.kind == HeadKind::similarity) {
    std::vector<at::Tensor> embedded;
    for (std::size_t t = 0; t < 2; ++t) embedded.push_back(embed(t, rows_of_examples(features[t], at::Tensor())));
    return embedded[0].mm(embedded[1].t()) * scale();
  }
  if (section_.normalise || section_.kind == HeadKind::zero_shot) {
    for (TowerFeatures& tower : features) {
      if (!tower.rows.defined()) continue;
      const double length = std::sqrt(static_cast<double>(tower.rows.size(1)));
      tower.rows = tower.rows * (length / tower.rows.norm(2, {1}, true).clamp_min(1e-12));
    }
  }
  if (layers_.size() == 1) return apply(layers_.front(), concatenated(features), context);
  at::Tensor sum, count;
  for (std::size_t t = 0; t < features.size(); ++t) {
    if (!features[t].rows.defined()) continue;
    const at::Tensor own = apply(layers_[t], features[t].rows, context);
    const at::Tensor logits = rows_of_examples({own, features[t].row}, at::zeros({outputs_}, own.options().requires_grad(false)));
    at::Tensor there = at::ones({logits.size(0), 1}, at::kFloat);
    for (std::size_t i = 0; i < features[t].row.size(); ++i)
      if (features[t].row[i] < 0) there.data_ptr<float>()[i] = 0.0F;
    there = nn::beside(there, logits);
    sum = sum.defined() ? sum + logits : logits;
    count = count.defined() ? count + there : there;
  }
  MMTUNE_ASSERT(sum.defined());
  return sum / count.clamp_min(1);
}

std::int64_t Head::macs() const {
  std::int64_t total = 0;
  for (const nn::NamedTensor& item : tensors_)
    if (item.tensor.dim() == 2) total += item.tensor.numel();
  return total;
}

}  // namespace mmtune::train
