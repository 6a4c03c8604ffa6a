#pragma once
// The recipe of `mmtune pretrain`: one struct a section, each declared once (core/options.h).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/options.h"

namespace mmtune::train {

struct PretrainDataSection {
  std::string pictures;
  std::int64_t workers = 2;
};
void declare(OptionVisitor& visitor, PretrainDataSection& section);

/// The tower that is made, in the words of transformers' ViTConfig.
struct PretrainModelSection {
  std::int64_t image_size = 64;
  std::int64_t patch_size = 8;
  std::int64_t width = 256;
  std::int64_t layers = 6;
  std::int64_t heads = 4;
  std::int64_t inner = 1024;
  std::string start;
};
void declare(OptionVisitor& visitor, PretrainModelSection& section);

/// Alignment with a frozen text encoder.
struct PretrainTextSection {
  std::string model;
  double weight = 1.0;
  double temperature = 0.05;
};
void declare(OptionVisitor& visitor, PretrainTextSection& section);

/// Distillation from a frozen convolutional network.
struct PretrainTeacherSection {
  std::string weights;
  double weight = 1.0;
  double patch_weight = 1.0;
  std::int64_t patch_width = 256;
};
void declare(OptionVisitor& visitor, PretrainTeacherSection& section);

/// The views that are drawn of every picture once, and that the teacher looks at.
struct PretrainViewsSection {
  std::int64_t count = 6;
  std::int64_t size = 128;
  double min_area = 0.25;
  double aspect = 1.33;
  double whole = 0.15;
  double colour = 0.4;
  double grey = 0.1;
};
void declare(OptionVisitor& visitor, PretrainViewsSection& section);

/// What is done to a view each time the tower sees it.
struct PretrainNoiseSection {
  std::int64_t shift = 4;
  double brightness = 0.15;
  double erase = 0.0;
  double keep = 0.5;
  double whole_from = 0.75;
};
void declare(OptionVisitor& visitor, PretrainNoiseSection& section);

enum class Precision { automatic, float32, bfloat16 };

/// What the loop of every pretraining needs.
struct PretrainLoopSection {
  std::int64_t steps = 3000;
  std::int64_t batch = 128;
  double lr = 1e-3;
  double weight_decay = 0.05;
  double warmup = 0.05;
  double clip = 1.0;
  std::int64_t seed = 0;
  std::int64_t threads = 0;
  std::int64_t log_every = 10;
  double checkpoint_minutes = 2.0;
  Precision precision = Precision::automatic;
};
void declare(OptionVisitor& visitor, PretrainLoopSection& section);

struct PretrainRecipe {
  std::string task = "pretrain";
  PretrainDataSection data;
  PretrainModelSection model;
  std::optional<PretrainTextSection> text;
  std::optional<PretrainTeacherSection> teacher;
  PretrainViewsSection views;
  PretrainNoiseSection noise;
  PretrainLoopSection train;
};
void declare(OptionVisitor& visitor, PretrainRecipe& recipe);

}  // namespace mmtune::train
