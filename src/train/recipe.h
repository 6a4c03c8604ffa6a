#pragma once
// The recipe of a training: one struct a section, each declared once (core/options.h), so that reading, checking, --help, the reference
// page and the resolved recipe of a run all come from the same place.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "audio/feature_extractor.h"
#include "backbones/backbone.h"
#include "core/options.h"
#include "data/dataset.h"
#include "experts/expert.h"

namespace mmtune::train {

/// Which field of an example a tower reads. `automatic`: text (with text_pair where there is one), image or audio; where both towers have
/// the same modality, the second reads text_pair or image_pair.
/// `video` is read by picture towers: frame by frame.
enum class InputField { automatic, text, text_pair, image, image_pair, audio, video };

/// A tower beside the main and the second one.
struct FurtherTower {
  std::string model;
  backbones::Pooling pooling = backbones::Pooling::automatic;
  InputField input = InputField::automatic;
};
void declare(OptionVisitor& visitor, FurtherTower& tower);

struct BackboneSection {
  std::string main;
  std::string condition;  ///< empty: one tower
  backbones::Pooling main_pooling = backbones::Pooling::automatic;
  backbones::Pooling condition_pooling = backbones::Pooling::automatic;
  InputField main_input = InputField::automatic;
  InputField condition_input = InputField::automatic;
  std::vector<FurtherTower> further;
  std::int64_t frames = 8;  ///< of a video
  std::optional<std::int64_t> max_length;
  std::optional<double> max_seconds;
  nn::Storage weights = nn::Storage::f32;
  nn::MatmulPrecision matmul_precision = nn::MatmulPrecision::high;
};
void declare(OptionVisitor& visitor, BackboneSection& section);

/// Where an expert goes; `condition`: on every tower but the main one. A list of experts is written as [[expert]] tables; one [expert]
/// table is a list of one.
enum class ExpertTower { all, main, condition };

/// The kind's own options live in its experts::ExpertRecipe.
struct ExpertSection {
  ExpertSection();
  std::string method = "lora";
  ExpertTower tower = ExpertTower::all;
  std::map<std::string, std::unique_ptr<experts::ExpertRecipe>> kinds;  ///< by kind; `method` says which one counts
  const experts::ExpertRecipe& recipe() const;
};
void declare(OptionVisitor& visitor, ExpertSection& section);

/// `automatic`: `main` where an expert conditions the main tower on the other one, else `concat`.
enum class Fusion { automatic, concat, mean_logits, main };
/// mlp_norm: two maps with a norm and the activation in between. zero_shot: a linear map over features of length sqrt(width), begun as the
/// comparison with embedded class prompts. similarity: the cosine of two towers' features, times a learned number.
enum class HeadKind { linear, mlp, zero_shot, mlp_norm, similarity };
/// What stands in for a modality that an example lacks.
enum class Absent { automatic, learned, error };

struct HeadSection {
  HeadKind kind = HeadKind::linear;
  Fusion fusion = Fusion::automatic;
  std::int64_t hidden = 256;
  std::string activation = "gelu";
  double dropout = 0.0;
  bool normalise = false;
  Absent absent = Absent::automatic;
  std::vector<std::string> templates = {"a photo of a {}."};
  std::map<std::string, std::string> names;
};
void declare(OptionVisitor& visitor, HeadSection& section);

struct LossSection {
  double label_smoothing = 0.0;
  std::vector<double> class_weights;
  bool balanced = false;
};
void declare(OptionVisitor& visitor, LossSection& section);

/// How answers of several annotators are learned: independently of each other, or as shares of one answer.
enum class VqaLoss { binary, softmax };

struct VqaSection {
  std::int64_t min_count = 1;
  bool normalise = true;
  VqaLoss loss = VqaLoss::binary;
};
void declare(OptionVisitor& visitor, VqaSection& section);

struct RetrieveSection {
  std::int64_t negatives = 15;
  double matching = 0.0;  ///< weight of the loss of image-text matching
};
void declare(OptionVisitor& visitor, RetrieveSection& section);

/// How the answer of a task whose answers are sequences is found: written token by token, or the best of a list.
enum class Readout { automatic, write, rank };
/// What the decoder reads before it answers.
enum class AnswerPrompt { nothing, source };

/// Tasks caption, ground and generate.
struct SequenceSection {
  std::string instruction;  ///< empty: the task's own
  bool clean = true;
  std::int64_t max_words = 80;
  Readout readout = Readout::automatic;
  AnswerPrompt answer_prompt = AnswerPrompt::nothing;
  std::map<std::string, std::string> names;
  bool within_list = false;
  bool mean_score = false;
  bool mask_loss = false;
  bool confidence = false;
  double drop_worst = 0.0;
  std::int64_t beams = 5;
  std::int64_t max_tokens = 16;
  std::int64_t min_tokens = 0;
  std::int64_t no_repeat_ngram = 0;
  double length_penalty = 1.0;
  double repetition_penalty = 1.0;
  double dropout = 0.0;
  double drop_path = 0.0;
};
void declare(OptionVisitor& visitor, SequenceSection& section);

enum class OnError { stop, skip };

struct DataSection {
  std::string train;
  std::string valid;
  double valid_fraction = 0.0;
  std::map<std::string, std::string> columns;
  std::string join, join_key, join_other_key;
  std::map<std::string, std::string> where, train_where, valid_where, join_where;
  std::vector<std::string> classes;
  std::string classes_file;
  bool multi_label = false;
  std::string label_separator = "|";
  bool quotes = true;
  double train_fraction = 1.0;
  std::int64_t shots = 0;
  std::int64_t shot_seed = 0;
  std::int64_t limit = 0;
  OnError on_error = OnError::stop;
  audio::OtherRates other_rates = audio::OtherRates::resample;
  std::int64_t workers = 1;
  std::int64_t cache_mb = 1024;
  bool feature_cache = true;
};
void declare(OptionVisitor& visitor, DataSection& section);

enum class OptimiserKind { adamw, sgd, adamw_late_decay };
enum class ScheduleKind { constant, linear, cosine, step };
enum class Packing { packed, padded };
enum class Unit { epochs, steps };
/// Examples that share this tower's input stay together in a batch, which then computes it once.
enum class GroupBy { nothing, main, condition };

/// Trainable tensors whose name matches `pattern` (nn::matches) learn with their own rate and decay.
struct GroupSection {
  std::string pattern;
  double lr_scale = 1.0;
  std::optional<double> weight_decay;
};
void declare(OptionVisitor& visitor, GroupSection& section);

struct TrainSection {
  std::int64_t epochs = 3;
  std::int64_t steps = 0;  ///< 0: as many as the epochs need
  std::int64_t batch = 32;
  std::int64_t accumulate = 1;
  double lr = 1e-3;
  double weight_decay = 0.01;
  OptimiserKind optimizer = OptimiserKind::adamw;
  double momentum = 0.9;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  ScheduleKind schedule = ScheduleKind::linear;
  double warmup = 0.0;
  double min_lr_scale = 0.0;
  double step_gamma = 0.1;
  double step_every = 1.0;
  double clip = 1.0;
  std::vector<GroupSection> groups;
  std::int64_t seed = 0;
  std::int64_t threads = 0;
  std::int64_t eval_every = 1;
  Unit eval_unit = Unit::epochs;
  std::int64_t eval_batch = 0;
  std::string metric;
  std::int64_t patience = 0;
  std::int64_t checkpoint_every = 0;
  std::int64_t log_every = 10;
  Packing packing = Packing::packed;
  GroupBy group_by = GroupBy::nothing;
  bool checkpointing = false;
  std::string device = "cpu";
};
void declare(OptionVisitor& visitor, TrainSection& section);

struct EvalSection {
  double threshold = 0.5;
  std::int64_t bootstrap = 1000;
};
void declare(OptionVisitor& visitor, EvalSection& section);

struct Recipe {
  std::string task = "classify";
  BackboneSection backbone;
  std::vector<ExpertSection> experts;
  HeadSection head;
  LossSection loss;
  VqaSection vqa;
  RetrieveSection retrieve;
  SequenceSection generate;
  DataSection data;
  TrainSection train;
  EvalSection eval;
};
void declare(OptionVisitor& visitor, Recipe& recipe);

/// Reads a recipe file and the key=value arguments. Paths in it that name existing files or folders become absolute, so that the recipe
/// that a run keeps means the same from every working folder. Throws UsageError before anything else is opened.
Recipe read_recipe_file(const std::filesystem::path& path, std::span<const std::string> assignments = {});

/// The resolved recipe as TOML.
std::string to_toml(Recipe& recipe);

/// Every key with what it takes: the end of `mmtune train --help`.
std::string describe_recipe();

enum class Split { train, valid };
/// How to read the manifest of a split; `classes` once they are known.
data::ReadOptions read_options_of(const DataSection& section, Split split, std::vector<std::string> classes = {});

}  // namespace mmtune::train
