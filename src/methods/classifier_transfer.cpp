#include "methods/classifier_transfer.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "core/error.h"
#include "io/checkpoint.h"
#include "methods/picture_norm.h"
#include "train/evaluate.h"
#include "train/session.h"

namespace mmtune::methods {

namespace {

namespace fs = std::filesystem;

/// A run's model without a visual prompt of its own, and where another is put on.
struct PromptedClassifier {
  train::TrainedRun run;
  nn::InputSite* site = nullptr;
  experts::ChannelNorm norm;
  std::string fingerprint;
};

PromptedClassifier open_classifier(const std::string& path, std::span<const std::string> assignments) {
  if (!is_classifier_run(path))
    throw UsageError({.what = "no run of a classifier, as the first model is",
                      .where = "--models " + path,
                      .expected = "runs of task = \"classify\" alone, or multimodal language models alone"});
  PromptedClassifier opened{.run = train::open_run(path, assignments), .site = nullptr, .norm = {}, .fingerprint = {}};
  const train::Model& model = *opened.run.model;
  if (model.towers().size() != 1)
    throw UsageError({.what = "a visual prompt is tried on a model with one tower", .where = path, .got = "two or more"});
  const train::Tower& tower = *model.towers().front();
  const backbones::BackboneInfo& info = tower.backbone().info();
  for (nn::InputSite* one : tower.backbone().sites().inputs)
    if (one->name == "pixel_values") opened.site = one;
  if (opened.site == nullptr || info.image_channels != 3 || info.any_image_size || info.image_height != info.image_width)
    throw UsageError({.what = "a visual prompt needs a backbone that reads square colour pictures of one size",
                      .where = path,
                      .expected = "ViT, Swin, CLIP",
                      .got = info.architecture});
  for (const auto& expert : tower.experts())
    if (expert->kind() == "visual_prompt") expert->set_enabled(false);
  opened.norm = picture_norm_of(tower.checkpoint().folder());
  opened.fingerprint = io::backbone_fingerprint(tower.checkpoint());
  return opened;
}

/// Log-probabilities [N, C] of all examples, with `prompt` on the pictures (null: as the processor makes them).
at::Tensor scores_of(const PromptedClassifier& classifier, const experts::PixelPrompt* prompt, const data::Dataset& dataset,
                     const TransferOptions& options, const std::string& label) {
  std::optional<experts::VisualPrompt> worn;
  if (prompt != nullptr) worn.emplace(*prompt, classifier.norm, classifier.site, classifier.run.recipe.train.seed);
  std::vector<at::Tensor> rows;
  train::forward_all(
      *classifier.run.model, dataset,
      {.batch = options.batch,
       .workers = static_cast<int>(classifier.run.recipe.data.workers),
       .on_error = train::OnError::stop,
       .label = label,
       .stop = {},
       .all = nullptr},
      [&](const at::Tensor& logits, const train::Batch&) { rows.push_back(logits.to(at::kCPU, at::kFloat).log_softmax(1)); });
  return rows.empty() ? at::empty({0, classifier.run.task->outputs()}) : at::cat(rows);
}

/// A prompt that changes nothing but shrinks the picture into the frame.
experts::PixelPrompt nothing_in(const experts::PromptShape& shape) {
  experts::PixelPrompt prompt(shape, at::detail::createCPUGenerator(0));
  const at::NoGradGuard no_grad;
  for (const nn::NamedTensor& one : prompt.tensors()) at::Tensor(one.tensor).zero_();
  return prompt;
}

}  // namespace

bool is_classifier_run(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path / "run.json", ignored)) return false;
  const Json record = read_json_file(path / "run.json");
  const auto task = record.is_object() ? record.find("task") : record.end();
  return task != record.end() && task->is_object() && task->value("task", Json()) == "classify";
}

report::TransferMatrix classifier_transfer(const std::vector<NamedPrompt>& prompts, const TransferOptions& options) {
  check_transfer(prompts, options);
  const experts::PixelPrompt none = nothing_in(prompts.front().prompt.shape());
  report::TransferMatrix matrix{.metric = metric_of(PromptTask::recognise), .models = options.models, .blocks = {}};
  std::vector<std::optional<vision::Corruption>> changes = {std::nullopt};
  changes.insert(changes.end(), options.corruptions.begin(), options.corruptions.end());
  for (const std::string& name : options.models) {
    const PromptedClassifier classifier = open_classifier(name, options.assignments);
    std::size_t number = 0;
    for (const std::string& path : options.data) {
      for (const std::optional<vision::Corruption>& change : changes) {
        data::ReadOptions read = train::question_options_of(classifier.run.recipe.data, path, *classifier.run.task, options.assignments);
        read.corruption = change;
        const data::Dataset dataset = data::read_dataset(read);
        if (dataset.multi_label)
          throw UsageError({.what = "the transfer matrix counts right answers, of which an example has one",
                            .where = name,
                            .expected = "data.multi_label = false"});
        if (matrix.blocks.size() == number) matrix.blocks.push_back(block_of(dataset, change, prompts));
        report::TransferBlock& block = matrix.blocks[number++];
        if (block.examples != static_cast<std::int64_t>(dataset.examples.size()))
          throw Error({.what = "the runs read different examples of the data, each as its own recipe says",
                       .where = name + ", " + path,
                       .expected = std::to_string(block.examples) + " examples",
                       .got = std::to_string(dataset.examples.size())});
        const std::int64_t replicates = classifier.run.recipe.eval.bootstrap;
        const auto judged = [&](const at::Tensor& scores, const at::Tensor& plain) {
          return transfer_cell(PromptTask::recognise, replicates, scores, plain, dataset);
        };
        const at::Tensor plain = scores_of(classifier, &none, dataset, options, name);
        block.rows[0].cells.push_back(judged(plain, {}));
        block.rows[1].cells.push_back(judged(scores_of(classifier, nullptr, dataset, options, name), plain));
        for (std::size_t p = 0; p < prompts.size(); ++p) {
          report::TransferCell cell = judged(scores_of(classifier, &prompts[p].prompt, dataset, options, name), plain);
          const std::vector<std::string>& sources = prompts[p].sources;
          cell.source = std::find(sources.begin(), sources.end(), classifier.fingerprint) != sources.end();
          block.rows[2 + p].cells.push_back(std::move(cell));
        }
      }
    }
  }
  return matrix;
}

}  // namespace mmtune::methods
