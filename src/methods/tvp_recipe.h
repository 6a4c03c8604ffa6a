#pragma once
// The recipe of `method = "tvp"`: a visual prompt trained through frozen multimodal language models. A recipe of its own, because what is
// trained, what it is trained on and what is asked differ from those of all experts inside a backbone.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backbones/multimodal_lm.h"
#include "core/json.h"
#include "core/options.h"
#include "core/toml.h"
#include "experts/pixel_prompt.h"
#include "methods/prompt_optimiser.h"
#include "nn/weights.h"
#include "train/recipe.h"

namespace mmtune::methods {

/// A model that gradients are taken from.
struct TvpSource {
  std::string model;
};
void declare(OptionVisitor& visitor, TvpSource& section);

/// Which features FCA compares: as the language model gets them, or before the projection into it.
enum class ConsistencyFeatures { projected, unprojected };

struct TvpExpertSection {
  std::string method = "tvp";
  experts::PromptForm form = experts::PromptForm::border;
  std::int64_t frame = 224;
  std::int64_t width = 30;
  std::optional<std::int64_t> image_size;
  std::string start;
  double fca = 0.0;
  ConsistencyFeatures fca_features = ConsistencyFeatures::projected;
  double tse = 0.0;
  std::string caption_model;
  std::string caption = "this is a photo of a {}";
  /// The sizes that the keys mean; image_size unset: what the border leaves.
  experts::PromptShape shape() const;
};
void declare(OptionVisitor& visitor, TvpExpertSection& section);

/// What is asked, and what may be answered. recognise: accuracy by candidates; count: the same, with the error of the number; yes_no: two
/// candidates, precision and recall of the second one; detect: the same judged by the area under the ROC curve.
enum class PromptTask { recognise, count, yes_no, detect };

struct TvpQuestionSection {
  std::string instruction;
  std::map<std::string, std::string> names;
  backbones::SequenceFormat format = backbones::SequenceFormat::official;
  backbones::ScoreReduction reduction = backbones::ScoreReduction::mean;
};
void declare(OptionVisitor& visitor, TvpQuestionSection& section);

enum class KeptPrompt { last, best };

struct TvpTrainSection {
  std::int64_t epochs = 1;
  std::int64_t steps = 0;
  std::int64_t batch = 16;
  std::int64_t micro_batch = 0;
  double lr = 10.0;
  PromptRule rule = PromptRule::normalised;
  double momentum = 0.9, weight_decay = 0.0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  PromptSchedule schedule = PromptSchedule::cosine_epoch;
  std::int64_t warmup = 0;
  bool flip = true, crop = true;
  KeptPrompt keep = KeptPrompt::last;
  std::int64_t eval_every = 1;
  std::int64_t seed = 0;
  std::int64_t threads = 0;
  std::int64_t checkpoint_every = 0;
  std::int64_t log_every = 10;
  bool checkpointing = false;
  nn::Storage weights = nn::Storage::f32;
  nn::MatmulPrecision matmul_precision = nn::MatmulPrecision::high;
};
void declare(OptionVisitor& visitor, TvpTrainSection& section);

struct TvpRecipe {
  PromptTask task = PromptTask::recognise;
  TvpExpertSection expert;
  std::vector<TvpSource> sources;
  TvpQuestionSection question;
  train::DataSection data;
  TvpTrainSection train;
  train::EvalSection eval;
};
void declare(OptionVisitor& visitor, TvpRecipe& recipe);

/// Whether a recipe's expert.method is "tvp".
bool is_tvp_recipe(const TomlValue& root);
/// Reads a recipe file with its key=value arguments; paths that exist become absolute. Throws UsageError.
TvpRecipe read_tvp_recipe(const std::filesystem::path& path, std::span<const std::string> assignments = {});
std::string to_toml(TvpRecipe& recipe);

/// The instruction of a task that names none: "This is a photo of a", …
std::string usual_instruction(PromptTask task);
/// The metric that a task is judged by.
std::string metric_of(PromptTask task);

}  // namespace mmtune::methods
