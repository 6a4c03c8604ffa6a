#include "methods/tvp_transfer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "train/session.h"

namespace mmtune::methods {

report::TransferCell transfer_cell(PromptTask task, std::int64_t replicates, const at::Tensor& scores, const at::Tensor& plain,
                                   const data::Dataset& dataset) {
  report::TransferCell cell;
  std::optional<report::BootstrapOptions> bootstrap;
  if (replicates > 0) bootstrap = report::BootstrapOptions{.replicates = static_cast<std::size_t>(replicates)};
  cell.metrics = judge(task, scores, dataset, bootstrap);
  if (!plain.defined() || task == PromptTask::detect) return cell;
  const at::Tensor mine = scores.argmax(1), theirs = plain.argmax(1);
  std::vector<double> differences;
  for (std::int64_t i = 0; i < scores.size(0); ++i) {
    const std::int64_t truth = dataset.examples[static_cast<std::size_t>(i)].labels.front();
    differences.push_back(static_cast<double>(mine[i].item<std::int64_t>() == truth) -
                          static_cast<double>(theirs[i].item<std::int64_t>() == truth));
  }
  cell.gain = report::mean(differences);
  const report::Statistic statistic = [&](report::Weights weights) { return report::mean(differences, weights); };
  if (bootstrap) cell.gain_interval = report::bootstrap(differences.size(), {&statistic, 1}, *bootstrap).front();
  return cell;
}

void check_transfer(const std::vector<NamedPrompt>& prompts, const TransferOptions& options) {
  if (prompts.empty()) throw UsageError({.what = "no prompt", .where = "prompt transfer", .expected = "one prompt or more"});
  if (options.models.empty()) throw UsageError({.what = "no model", .where = "--models", .expected = "one model or more"});
  if (options.data.empty()) throw UsageError({.what = "no data", .where = "--data", .expected = "one manifest or more"});
}

report::TransferBlock block_of(const data::Dataset& dataset, const std::optional<vision::Corruption>& change,
                               const std::vector<NamedPrompt>& prompts) {
  report::TransferBlock block{.data = dataset.source,
                              .change = change ? vision::describe(*change) : "",
                              .examples = static_cast<std::int64_t>(dataset.examples.size()),
                              .rows = {}};
  block.rows.push_back({.name = "no prompt, in the frame", .zero_shot = true, .cells = {}});
  block.rows.push_back({.name = "no prompt, picture fills the frame", .zero_shot = true, .cells = {}});
  for (const NamedPrompt& prompt : prompts) block.rows.push_back({.name = prompt.name, .zero_shot = false, .cells = {}});
  return block;
}

NamedPrompt named_prompt(const std::filesystem::path& path) {
  experts::StoredPrompt stored = experts::load_prompt(path);
  std::filesystem::path name = path;
  if (!name.has_filename()) name = name.parent_path();
  if (name.filename() == "expert") name = name.parent_path();
  NamedPrompt named{.name = name.filename().string(), .prompt = std::move(stored.prompt), .sources = {}};
  if (stored.metadata.is_object() && stored.metadata.contains("sources") && stored.metadata["sources"].is_array())
    for (const Json& source : stored.metadata["sources"])
      if (source.is_object()) named.sources.push_back(source.value("fingerprint", ""));
  if (stored.metadata.is_object() && stored.metadata.contains("backbone_fingerprint"))
    named.sources.push_back(stored.metadata.value("backbone_fingerprint", ""));
  return named;
}

report::TransferMatrix transfer_matrix(const TvpRecipe& recipe, const std::vector<NamedPrompt>& prompts, const TransferOptions& options) {
  check_transfer(prompts, options);
  const experts::PromptShape shape = prompts.front().prompt.shape();
  report::TransferMatrix matrix{.metric = metric_of(recipe.task), .models = options.models, .blocks = {}};

  std::vector<data::Dataset> sets;  ///< one a block
  std::vector<std::optional<vision::Corruption>> changes = {std::nullopt};
  changes.insert(changes.end(), options.corruptions.begin(), options.corruptions.end());
  for (const std::string& path : options.data) {
    for (const std::optional<vision::Corruption>& change : changes) {
      data::ReadOptions read = train::question_options_of(recipe.data, path, recipe.data.classes, options.assignments);
      read.corruption = change;
      sets.push_back(data::read_dataset(read));
      matrix.blocks.push_back(block_of(sets.back(), change, prompts));
    }
  }
  for (const std::string& name : options.models) {
    const PromptedModel model = PromptedModel::open(name, recipe.train.weights);
    for (std::size_t s = 0; s < sets.size(); ++s) {
      const data::Dataset& dataset = sets[s];
      const Questions questions(recipe.question, recipe.task, *model.text, dataset.classes);
      report::TransferBlock& block = matrix.blocks[s];
      ScoreRequest request{.prompt = nullptr,
                           .shape = shape,
                           .shown = ShownPicture::framed,
                           .score = {.reduction = recipe.question.reduction, .format = recipe.question.format},
                           .matmul_precision = recipe.train.matmul_precision,
                           .batch = options.batch,
                           .workers = static_cast<int>(recipe.data.workers),
                           .seed = static_cast<std::uint64_t>(recipe.train.seed),
                           .label = name,
                           .stop = {}};
      const at::Tensor plain = *candidate_scores(model, questions, dataset, request);
      block.rows[0].cells.push_back(transfer_cell(recipe.task, recipe.eval.bootstrap, plain, {}, dataset));
      request.shown = ShownPicture::full;
      block.rows[1].cells.push_back(
          transfer_cell(recipe.task, recipe.eval.bootstrap, *candidate_scores(model, questions, dataset, request), plain, dataset));
      request.shown = ShownPicture::prompted;
      for (std::size_t p = 0; p < prompts.size(); ++p) {
        request.prompt = &prompts[p].prompt;
        report::TransferCell cell =
            transfer_cell(recipe.task, recipe.eval.bootstrap, *candidate_scores(model, questions, dataset, request), plain, dataset);
        cell.source = std::find(prompts[p].sources.begin(), prompts[p].sources.end(), model.fingerprint) != prompts[p].sources.end();
        block.rows[2 + p].cells.push_back(std::move(cell));
      }
    }
  }
  return matrix;
}

}  // namespace mmtune::methods
