#pragma once
// A multimodal language model as prompts see it: opened with its words, and asked for the likelihood of candidates.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backbones/multimodal_lm.h"
#include "backbones/multimodal_text.h"
#include "experts/expert.h"
#include "experts/pixel_prompt.h"
#include "methods/prompted_data.h"
#include "methods/tvp_recipe.h"
#include "report/metrics.h"

namespace mmtune::methods {

struct PromptedModel {
  std::string name;  ///< as the user typed it
  std::string fingerprint;
  std::unique_ptr<backbones::MultimodalLm> model;
  std::vector<std::unique_ptr<experts::Expert>> experts;  ///< of a run, frozen
  std::unique_ptr<backbones::MultimodalText> text;
  experts::ChannelNorm norm = experts::clip_norm;
  std::int64_t side = 0;

  /// `name`: a model, or a run of `mmtune train` over one, with its experts; a visual prompt among them is left out. Throws Error: no such
  /// model, no multimodal language model, pictures that are not square, a run without an expert yet.
  static PromptedModel open(const std::string& name, nn::Storage storage);

 private:
  void attach_experts(const std::filesystem::path& run);
};

/// What a model is shown. `framed`: the picture in its black frame without a prompt; `full`: it fills the frame.
enum class ShownPicture { prompted, framed, full };

struct ScoreRequest {
  const experts::PixelPrompt* prompt = nullptr;  ///< of `prompted`
  experts::PromptShape shape;                    ///< sizes of `framed` and `full`; those of `prompt` where there is one
  ShownPicture shown = ShownPicture::prompted;
  backbones::ScoreOptions score;
  nn::MatmulPrecision matmul_precision = nn::MatmulPrecision::high;
  std::int64_t batch = 32;
  int workers = 1;
  std::uint64_t seed = 0;      ///< places of vp_random_patch
  std::string label;           ///< of the progress bar; empty: none
  std::function<bool()> stop;  ///< asked between batches
};
/// Log-likelihoods of every candidate for every example: [N, C] float32, examples in file order. Nothing where `stop` ended it. Throws
/// Error naming an example whose picture cannot be read.
std::optional<at::Tensor> candidate_scores(const PromptedModel& model, const Questions& questions, const data::Dataset& dataset,
                                           const ScoreRequest& request);

/// accuracy (and top5 with more than five candidates); count: mean_absolute_error; yes_no: precision, recall, f1, yes_ratio of the second
/// class; detect: auc too. Always the mean score of the candidates and of the right ones. Accuracy and what the task is judged by come with
/// confidence intervals where `bootstrap` is given.
std::vector<report::Metric> judge(PromptTask task, const at::Tensor& scores, const data::Dataset& dataset,
                                  const std::optional<report::BootstrapOptions>& bootstrap);

}  // namespace mmtune::methods
