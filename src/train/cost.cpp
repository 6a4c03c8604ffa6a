#include "train/cost.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "experts/apt.h"
#include "train/device.h"
#include "train/machine.h"
#include "train/model.h"
#include "train/optimiser.h"
#include "train/task.h"

namespace mmtune::train {

namespace {

using backbones::Modality;

/// A sound tower's sample rate; that of speech models where the folder has no feature extractor.
std::int64_t rate_of(const Tower& tower) {
  constexpr std::int64_t usual = 16'000;
  const std::filesystem::path folder = tower.checkpoint().folder();
  return audio::FeatureExtractor::is_in(folder) ? audio::FeatureExtractor::open(folder)->rate() : usual;
}

/// The picture of a backbone that takes any size: as many patches as asked for, in the most even rows and columns.
std::pair<std::int64_t, std::int64_t> patch_grid(const backbones::BackboneInfo& info, const CostOptions& options) {
  if (!options.patches) return {info.image_height / info.patch_height, info.image_width / info.patch_width};
  if (info.max_patches > 0 && *options.patches > info.max_patches)
    throw UsageError({.what = "--patches is more than the backbone takes of a picture",
                      .where = info.architecture,
                      .expected = "at most " + std::to_string(info.max_patches),
                      .got = std::to_string(*options.patches)});
  std::int64_t rows = 1;
  for (std::int64_t i = 1; i * i <= *options.patches; ++i)
    if (*options.patches % i == 0) rows = i;
  return {rows, *options.patches / rows};
}

std::int64_t patches_of(const Tower& tower, const CostOptions& options) {
  const backbones::BackboneInfo& info = tower.backbone().info();
  if (!info.any_image_size) return 0;
  const auto [rows, columns] = patch_grid(info, options);
  return info.max_patches > 0 ? std::min(rows * columns, info.max_patches) : rows * columns;
}

/// Of a text.
std::int64_t text_tokens_of(const Tower& tower, const CostOptions& options) {
  const backbones::BackboneInfo& info = tower.backbone().info();
  if (!options.tokens) return std::min<std::int64_t>(128, info.max_length);
  if (*options.tokens > info.max_length)
    throw UsageError({.what = "--tokens is more than the backbone has positions for",
                      .where = tower.checkpoint().folder().string(),
                      .expected = "at most " + std::to_string(info.max_length),
                      .got = std::to_string(*options.tokens)});
  return *options.tokens;
}

/// How long an input is, in the units of Backbone::macs.
std::int64_t tokens_of(const Tower& tower, const CostOptions& options) {
  const backbones::BackboneInfo& info = tower.backbone().info();
  if (info.modality == Modality::image) return info.max_length;
  if (info.modality == Modality::audio) {
    const auto samples = static_cast<std::int64_t>(options.seconds * static_cast<double>(rate_of(tower)));
    if (samples >= info.least_length) return samples;
    throw UsageError({.what = "--seconds is too short for the model",
                      .where = tower.checkpoint().folder().string(),
                      .expected = "at least " + std::to_string(info.least_length) + " samples",
                      .got = std::to_string(samples)});
  }
  const std::int64_t text = text_tokens_of(tower, options);
  return info.modality == Modality::text_image && info.any_image_size ? text + 1 + patches_of(tower, options) : text;
}

/// A full batch of distinct random inputs, none of them padded.
TowerBatch random_inputs(const Tower& tower, const CostOptions& options, at::Generator& generator) {
  const backbones::BackboneInfo& info = tower.backbone().info();
  const std::int64_t tokens = tokens_of(tower, options);
  TowerBatch batch;
  batch.rows = options.batch;
  batch.tokens.assign(static_cast<std::size_t>(options.batch), tokens);
  for (std::int64_t i = 0; i < options.batch; ++i) batch.row.push_back(i);
  if (info.modality == Modality::text || info.modality == Modality::text_image) {
    const std::int64_t length = text_tokens_of(tower, options);
    batch.inputs.text_layout = nn::Layout::uniform(options.batch, length);
    // Any ids do; every vocabulary has the first few.
    batch.inputs.input_ids = at::empty({options.batch * length}, at::kLong).random_(0, 8, generator);
    if (info.end_token) batch.inputs.input_ids.view({options.batch, length}).select(1, length - 1).fill_(*info.end_token);
  }
  if (info.any_image_size) {
    const auto [rows, columns] = patch_grid(info, options);
    batch.patches.assign(static_cast<std::size_t>(options.batch), patches_of(tower, options));
    batch.inputs.pixel_values =
        at::empty({options.batch, info.image_channels, rows * info.patch_height, columns * info.patch_width}).normal_(0.0, 1.0, generator);
  } else if (info.modality == Modality::text) {
    return batch;
  } else if (info.modality == Modality::audio) {
    batch.inputs.audio_layout = nn::Layout::uniform(options.batch, tokens);
    batch.inputs.input_values = at::empty({options.batch * tokens}).normal_(0.0, 1.0, generator);
  } else {
    const std::int64_t pictures = options.batch * tower.reader().frames();
    batch.tokens.assign(static_cast<std::size_t>(pictures), tokens);
    batch.inputs.pixel_values =
        at::empty({pictures, info.image_channels, info.image_height, info.image_width}).normal_(0.0, 1.0, generator);
  }
  return batch;
}

Batch random_batch(const Model& model, const CostOptions& options) {
  at::Generator generator = at::detail::createCPUGenerator(1);
  Batch batch;
  for (std::int64_t i = 0; i < options.batch; ++i) batch.examples.push_back(i);
  for (const auto& tower : model.towers()) batch.towers.push_back(random_inputs(*tower, options, generator));
  if (!model.has_head()) {
    constexpr std::int64_t usual_answer = 16;
    batch.said = at::zeros({options.batch, usual_answer}, at::kLong);
    batch.learned = at::ones({options.batch, usual_answer}, at::kBool);
  }
  return batch;
}

StepCost measure(const Recipe& recipe, Model& model, std::vector<OptimiserGroup> groups, const CostOptions& options) {
  using Clock = std::chrono::steady_clock;
  // train.accumulate splits the batch into as many passes; a step stays a step over the whole batch.
  const std::int64_t passes = recipe.train.accumulate;
  CostOptions part = options;
  part.batch = options.batch / passes;
  const Batch batch = random_batch(model, part);
  const at::Tensor targets = at::zeros({part.batch}, at::TensorOptions(at::kLong).device(model.device()));
  const auto optimiser = make_optimiser(recipe.train, model.parameters(), std::move(groups));
  nn::Context context;
  context.training = !options.inference;
  context.recompute = recipe.train.checkpointing;
  std::int64_t rows = 0, width = 0;
  for (std::size_t t = 0; t < model.towers().size(); ++t) {
    const std::int64_t here = part.batch * model.towers()[t]->backbone().rows_of(batch.towers[t].tokens.front());
    if (here < rows) continue;
    rows = here;
    width = model.towers()[t]->backbone().info().width;
  }
  const PassMacs macs = model.macs(batch);
  const auto learn = [&](std::int64_t step) {
    model.parameters().gradients().zero_();
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      at::Tensor logits = model.forward(batch, context);
      at::Tensor loss = at::cross_entropy_loss(logits, at::zeros({logits.size(0)}, targets.options()));
      if (const at::Tensor added = model.auxiliary_loss(batch); added.defined()) loss = loss + added;
      (loss / passes).backward();
    }
    clip_gradient(model.parameters().gradients(), recipe.train.clip);
    optimiser->step(step, recipe.train.lr);
  };
  const auto infer = [&] {
    const at::NoGradGuard no_gradients;
    for (std::int64_t pass = 0; pass < passes; ++pass) model.forward(batch, context);
  };
  const auto timed = [&](const auto& work) {
    const auto start = Clock::now();
    work();
    finish_work(model.device());
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto enable_experts = [&](bool enabled) {
    for (const auto& tower : model.towers())
      for (const auto& expert : tower->experts()) expert->set_enabled(enabled);
  };
  StepCost cost;
  std::vector<double> seconds, rates, without;
  constexpr std::int64_t warm_up = 2;
  for (std::int64_t step = 0; step < options.measure + warm_up; ++step) {
    context.generator = generator_on(model.device(), static_cast<std::uint64_t>(step));
    const double with = timed([&] { options.inference ? infer() : learn(step); });
    if (options.inference) {
      // In turns: processes of their own differ by more than experts cost.
      enable_experts(false);
      const double alone = timed(infer);
      enable_experts(true);
      if (step >= warm_up) without.push_back(alone);
    }
    if (step < warm_up) continue;
    seconds.push_back(with);
    // The yardstick is taken between the steps, so that a machine that slows down slows both.
    rates.push_back(gemm_rate(rows, width, model.device()));
  }
  cost.peak_bytes = peak_memory();
  cost.fastest_seconds = *std::min_element(seconds.begin(), seconds.end());
  cost.fastest_gemm_flops = 2 * *std::max_element(rates.begin(), rates.end());
  if (!without.empty()) cost.extra_seconds = cost.fastest_seconds - *std::min_element(without.begin(), without.end());
  cost.seconds = median(seconds);
  cost.gemm_flops = 2 * median(rates);
  cost.bound_seconds = 2 * static_cast<double>(passes) * (macs.forward + (options.inference ? 0.0 : macs.backward)) / cost.gemm_flops;
  cost.steps = options.measure;
  return cost;
}

/// The attentions of a tower, and what prompts at them cost in every form. Nothing where no expert of it has anything to do with prompts.
std::optional<PromptComparison> prompt_forms(const Tower& tower, std::int64_t tokens) {
  std::int64_t prompts = 0, rank = 4;
  for (const auto& expert : tower.experts()) {
    if (const auto* const apt = dynamic_cast<const experts::Apt*>(expert.get())) {
      prompts = apt->options().prompts;
      rank = apt->options().rank;
    } else if (prompts == 0 && expert->config().value("peft_type", "") == "MMTUNE_DEEP_PROMPT") {
      prompts = expert->config().at("num_virtual_tokens").get<std::int64_t>();
    }
  }
  if (prompts == 0) return std::nullopt;
  using Role = nn::SublayerSite::Role;
  const std::int64_t rows = tower.backbone().rows_of(tokens);
  std::vector<PromptPlace> places;
  for (const nn::SublayerSite* site : tower.backbone().sites().sublayers)
    if (site->role != Role::feed_forward)
      places.push_back({tower.backbone().rows_at(site->name, site->layer, rows), rows, site->width, site->role == Role::cross_attention});
  return compare_prompts(places, prompts, rank);
}

}  // namespace

Cost cost_of(const Recipe& recipe, const CostOptions& options) {
  if (options.measure > 0 && options.batch % recipe.train.accumulate != 0)
    throw UsageError({.what = "the batch of a measured step cannot be split into train.accumulate equal passes",
                      .where = "--batch",
                      .expected = "a multiple of " + std::to_string(recipe.train.accumulate),
                      .got = std::to_string(options.batch)});
  Model model(recipe);
  if (answers_in_sequences(recipe.task) && model.towers().front()->writer() == nullptr)
    throw UsageError({.what = "the backbone writes no answers",
                      .where = "backbone.main",
                      .expected = "for task = \"" + recipe.task + "\" an encoder with a decoder"});
  model.build_experts(recipe);
  model.build_head(recipe, options.outputs, std::vector<bool>(model.towers().size(), false));
  const std::vector<OptimiserGroup> groups = model.gather(recipe.train);

  Cost cost;
  for (const ExpertSection& section : recipe.experts) cost.method += (cost.method.empty() ? "" : " + ") + section.method;
  for (const auto& tower : model.towers()) {
    const std::int64_t tokens = tokens_of(*tower, options);
    if (tower->modality() == Modality::text || tower->modality() == Modality::text_image)
      cost.text_tokens = text_tokens_of(*tower, options);
    const auto pictures = static_cast<double>(tower->reader().frames());
    const PassMacs macs = tower->macs(tokens, patches_of(*tower, options));
    cost.backbone_parameters += tower->backbone().parameter_count();
    cost.training_macs += pictures * (macs.forward + macs.backward);
    cost.forward_macs += pictures * macs.forward;
    for (const auto& expert : tower->experts()) {
      cost.expert_parameters += expert->parameter_count();
      const double extra = pictures * static_cast<double>(expert->extra_macs(tower->backbone().rows_of(tokens)));
      cost.expert_macs += extra;
      cost.forward_macs -= extra;
    }
  }
  if (model.joint() != nullptr) {
    const PassMacs beside = model.joint_macs(tokens_of(*model.towers().back(), options));
    cost.expert_macs += beside.forward;
    cost.training_macs += beside.forward + beside.backward;
  }
  cost.prompts = prompt_forms(*model.towers().front(), tokens_of(*model.towers().front(), options));
  if (model.has_head()) {
    for (const nn::NamedTensor& item : model.head().tensors()) cost.head_parameters += item.tensor.numel();
    cost.training_macs += 3.0 * static_cast<double>(model.head().macs());
  }
  cost.state_bytes = 4 * 4 * model.parameters().count();
  if (options.measure > 0) cost.step = measure(recipe, model, groups, options);
  return cost;
}

}  // namespace mmtune::train
