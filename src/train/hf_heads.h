#pragma once
// The classification models of transformers whose heads compute exactly what one of ours computes.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backbones/backbone.h"
#include "train/model.h"
#include "train/recipe.h"

namespace mmtune::train {

struct HfHead {
  std::string model_class;  ///< "BertForSequenceClassification"
  std::string auto_class;   ///< "AutoModelForSequenceClassification"
  std::string task_type;    ///< PEFT's; empty: none
  backbones::Pooling pooling = backbones::Pooling::first;
  HeadKind kind = HeadKind::linear;                        ///< mlp: tanh, as wide as the backbone
  std::vector<std::string> modules;                        ///< that hold it, for PEFT's modules_to_save
  std::vector<std::pair<std::string, std::string>> names;  ///< our tensor, and theirs below the task's model
  /// A linear layer of theirs in front of the pooling, "projector", which a linear head of ours has taken in: a mean of linear maps is
  /// the map of the mean.
  bool projected = false;
};

/// Those of an architecture; empty where none is exact.
std::vector<HfHead> hf_heads(std::string_view architecture);

/// Whether a model's heads read a learned sum of all its layers (use_weighted_layer_sum of wav2vec2), which none of ours does.
bool reads_sum_of_layers(const io::Checkpoint& checkpoint);

/// The one that computes what the model's head does over its only tower. Throws Error that says what differs and what would be exact.
HfHead hf_head_of(const Recipe& recipe, const Model& model);

/// Task classify: begins the model's head with the checkpoint's own, where it is a classification model of transformers' whose head
/// computes what the recipe's does and whose labels (id2label) are `classes`, in whatever order. Whether it did.
bool begin_with_checkpoint_head(const Recipe& recipe, const Model& model, const std::vector<std::string>& classes);

/// The head's tensors as transformers has them. A projector gets as many rows as `config` says (classifier_proj_size), of which the first
/// are the head, and a classifier that passes them on. Throws Error where the classes are more than its rows.
std::vector<nn::NamedTensor> to_hf(const HfHead& head, const Head& ours, const Json& config);

/// Our tensor that `name` says, from theirs (by the names that `hf_head_named` took). Throws Error where a projector and its classifier do
/// not fit each other.
at::Tensor from_hf(const HfHead& head, const std::string& name, const std::vector<nn::NamedTensor>& theirs, const std::string& prefix,
                   const std::string& where);

/// The one whose tensors are `names` (transformers' names, those of the backbone's own modules without the task's prefix). Throws Error
/// that lists them.
HfHead hf_head_named(const std::vector<std::string>& names, const backbones::BackboneInfo& info, const std::string& where);

/// How a recipe says this head.
void describe_head(const HfHead& head, const backbones::BackboneInfo& info, Recipe& recipe);

}  // namespace mmtune::train
