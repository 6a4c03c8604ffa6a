#pragma once
// Zero-shot classification by prompts (Radford et al. 2021, arXiv 2103.00020, section 3.1): a class is the mean of its prompts' embeddings,
// and a picture is compared with each.

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "train/session.h"

namespace mmtune::train {

struct ClassEmbeddings {
  at::Tensor rows;   ///< [classes, E], each of length 1
  double scale = 1;  ///< exp(logit_scale): logits are scale · cosine
};

/// Embeds every template of `section` with every class's name by the checkpoint's text tower: each prompt's embedding is brought to length
/// 1, those of a class are averaged, and the mean is brought to length 1. Throws UsageError{where = "head.kind"} for a model without a text
/// tower and projections beside its logit_scale, or for a name given for what is no class.
ClassEmbeddings embed_classes(const io::Checkpoint& checkpoint, const HeadSection& section, const std::vector<std::string>& classes);

struct ZeroShotOptions {
  std::string model;                         ///< MODEL
  std::vector<std::string> classes;          ///< empty: the labels of `data`
  std::vector<std::string> templates;        ///< empty: head.templates
  std::string data;                          ///< empty: no data
  std::span<const std::string> assignments;  ///< changes of the recipe: data.where.split=test
};

/// A model that was never trained, asked like a run: an image tower, and a head that compares with the classes' prompts.
TrainedRun open_zero_shot(const ZeroShotOptions& options);

}  // namespace mmtune::train
