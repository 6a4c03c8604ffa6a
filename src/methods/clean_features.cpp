#include "methods/clean_features.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "data/prefetch.h"

namespace mmtune::methods {

namespace {

struct CleanBatch {
  std::vector<std::int64_t> examples;
  std::vector<bool> kept;
  at::Tensor pictures;  ///< [variants · B, 3, F, F], all unflipped ones first
};

}  // namespace

std::optional<CleanFeatures> CleanFeatures::make(const PromptedModel& model, const Questions& questions, const data::Dataset& dataset,
                                                 const CleanFeaturesOptions& options, bool& stopped) {
  const at::NoGradGuard no_grad;
  CleanFeatures result;
  result.variants_ = options.flips ? 2 : 1;
  const auto count = static_cast<std::int64_t>(dataset.examples.size());
  result.kept_.assign(static_cast<std::size_t>(count), false);
  const auto read = [&](std::int64_t number) {
    CleanBatch batch;
    std::vector<at::Tensor> pictures, flipped;
    for (std::int64_t i = number * options.batch; i < std::min((number + 1) * options.batch, count); ++i) {
      const vision::Image image = read_picture(dataset.examples[static_cast<std::size_t>(i)]);
      batch.examples.push_back(i);
      batch.kept.push_back(!options.crops || image.width == image.height);
      pictures.push_back(framed_picture(image, options.shape.image, options.shape.frame));
      if (options.flips) flipped.push_back(framed_picture(image, options.shape.image, options.shape.frame, {.flip = true}));
    }
    pictures.insert(pictures.end(), flipped.begin(), flipped.end());
    batch.pictures = at::stack(pictures);
    return batch;
  };
  data::Prefetcher<CleanBatch> loader(0, (count + options.batch - 1) / options.batch, read, options.workers, 2 + options.workers);
  nn::Context context;
  context.matmul_precision = options.matmul_precision;
  Progress progress("encoding clean pictures", count, "pictures");
  std::int64_t done = 0;
  while (const std::optional<CleanBatch> batch = loader.next()) {
    if (options.stop && options.stop()) {
      stopped = true;
      return std::nullopt;
    }
    std::vector<backbones::Instruction> instructions = questions.instructions(dataset, batch->examples);
    if (instructions.size() > 1 && result.variants_ == 2) {
      const std::vector<backbones::Instruction> once = instructions;
      instructions.insert(instructions.end(), once.begin(), once.end());
    }
    const backbones::VisualTokens visual =
        model.model->encode(experts::clean_input(batch->pictures, model.norm, model.side), instructions, context);
    if (result.features_.empty()) {
      std::int64_t bytes = 0;
      for (const at::Tensor& one : visual.features) bytes += count * result.variants_ * (one.numel() / one.size(0)) * 4;
      if (bytes > options.max_bytes) return std::nullopt;
      for (const at::Tensor& one : visual.features)
        result.features_.push_back(at::empty({count * result.variants_, one.size(1), one.size(2)}, at::kFloat));
    }
    const auto b = static_cast<std::int64_t>(batch->examples.size());
    for (std::size_t f = 0; f < visual.features.size(); ++f)
      for (std::int64_t variant = 0; variant < result.variants_; ++variant)
        result.features_[f].narrow(0, variant * count + batch->examples.front(), b).copy_(visual.features[f].narrow(0, variant * b, b));
    for (std::size_t i = 0; i < batch->kept.size(); ++i) result.kept_[static_cast<std::size_t>(batch->examples[i])] = batch->kept[i];
    done += b;
    progress.update(done);
  }
  return result;
}

std::optional<std::vector<at::Tensor>> CleanFeatures::rows(std::span<const std::int64_t> examples,
                                                           std::span<const std::uint8_t> flipped) const {
  MMTUNE_ASSERT(examples.size() == flipped.size());
  const auto count = static_cast<std::int64_t>(kept_.size());
  std::vector<std::int64_t> slots;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (!kept_[static_cast<std::size_t>(examples[i])]) return std::nullopt;
    MMTUNE_ASSERT(flipped[i] == 0 || variants_ == 2);
    slots.push_back((flipped[i] != 0 ? count : 0) + examples[i]);
  }
  const at::Tensor index = at::tensor(slots, at::kLong);
  std::vector<at::Tensor> result;
  for (const at::Tensor& one : features_) result.push_back(one.index_select(0, index));
  return result;
}

std::int64_t CleanFeatures::bytes() const {
  std::int64_t total = 0;
  for (const at::Tensor& one : features_) total += static_cast<std::int64_t>(one.nbytes());
  return total;
}

}  // namespace mmtune::methods
