#pragma once
// What turns the towers' features into logits: late fusion, stand-ins for absent modalities, and a linear map or an MLP.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "nn/context.h"
#include "nn/layers.h"
#include "nn/parameters.h"
#include "train/recipe.h"

namespace mmtune::train {

struct HeadTower {
  std::string name;
  std::int64_t width = 0;
  bool learn_absent = false;  ///< a learned feature stands in where an example lacks this tower's modality
  bool projected = false;     ///< the feature lies in a space that several towers share
};

/// One tower's features of a batch: rows [U, D] of distinct inputs, and each example's row (-1: absent).
struct TowerFeatures {
  at::Tensor rows;  ///< undefined where no example has the modality
  std::vector<std::int64_t> row;
};

class Head {
 public:
  /// Weights normal(0, 0.02) from `generator`, biases and stand-ins zero; kind zero_shot: the weights wait for begin_with.
  Head(const HeadSection& section, std::vector<HeadTower> towers, std::int64_t outputs, at::Generator generator);

  /// Kind similarity: one tower's features in the space where they are compared, each of length 1.
  at::Tensor embed(std::size_t tower, const at::Tensor& rows) const;
  /// Kind similarity: what cosines are multiplied with.
  at::Tensor scale() const { return scale_.exp(); }
  HeadKind kind() const { return section_.kind; }

  /// Kind zero_shot: the weights begin as those of a comparison with `embeddings` [outputs, width], each of length 1, times `scale`.
  void begin_with(const at::Tensor& embeddings, double scale);
  /// Kind linear over one tower: begins with these, [outputs, width] and [outputs].
  void begin_with_map(const at::Tensor& weight, const at::Tensor& bias);

  /// Features of the towers in their order → logits [B, outputs]. Every example has what `needs` says. Kind similarity: [B, B], the first
  /// tower's feature of each example compared with the second's of each.
  at::Tensor operator()(const std::vector<TowerFeatures>& features, const nn::Context& context) const;

  /// "weight", "bias" (linear), "0.weight", "0.bias", "2.weight", "2.bias" (mlp; mlp_norm: "0", "1" the norm, "3"), "scale" and where
  /// needed "TOWER.projection.weight" (similarity), with the tower's name in front under mean_logits; "absent.main", "absent.condition"
  /// where they are learned.
  const std::vector<nn::NamedTensor>& tensors() const { return tensors_; }
  /// Whether every example must have tower `tower`'s modality, because nothing stands in for it.
  bool needs(std::size_t tower) const { return layers_.size() <= 1 && !absent_[tower].defined(); }
  /// How many towers' features it reads: the first ones.
  std::size_t towers() const { return towers_.size(); }
  /// Multiply-accumulates of an example.
  std::int64_t macs() const;

 private:
  struct Layers {
    at::Tensor weight, bias, norm_weight, norm_bias, second_weight, second_bias;
  };
  void make_similarity(at::Generator& generator);
  Layers make_layers(const std::string& prefix, std::int64_t width, at::Generator& generator);
  at::Tensor leaf(const std::string& name, at::IntArrayRef shape, at::Generator* generator);
  at::Tensor apply(const Layers& layers, const at::Tensor& features, const nn::Context& context) const;
  at::Tensor concatenated(const std::vector<TowerFeatures>& features) const;

  HeadSection section_;
  nn::Activation activation_;
  std::vector<HeadTower> towers_;
  std::int64_t outputs_;
  std::vector<Layers> layers_;           ///< one, or one a tower under mean_logits
  std::vector<at::Tensor> absent_;       ///< per tower, undefined where nothing stands in
  std::vector<at::Tensor> projections_;  ///< per tower, kind similarity; undefined where features come in a shared space
  at::Tensor scale_;
  std::vector<nn::NamedTensor> tensors_;
};

}  // namespace mmtune::train
