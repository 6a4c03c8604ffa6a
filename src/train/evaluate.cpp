#include "train/evaluate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "data/prefetch.h"
#include "report/metric_json.h"
#include "train/retrieve.h"
#include "train/sequence_answers.h"

namespace mmtune::train {

namespace {

/// The examples by the towers whose input they have; values are places in `examples`.
std::map<std::string, std::vector<std::int64_t>> rows_by_pattern(const Model& model, const data::Dataset& dataset,
                                                                 const std::vector<std::int64_t>& examples) {
  std::map<std::string, std::vector<std::int64_t>> rows;
  if (model.towers().size() < 2) return rows;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    std::string pattern;
    std::size_t present = 0;
    for (const auto& tower : model.towers()) {
      if (!tower->reader().has(dataset.examples[static_cast<std::size_t>(examples[i])])) continue;
      pattern += (present++ > 0 ? " + " : "") + tower->name();
    }
    rows[present == 1 ? pattern + " only" : pattern].push_back(static_cast<std::int64_t>(i));
  }
  return rows;
}

}  // namespace

bool each_batch(const Model& model, const data::Dataset& dataset, const ForwardOptions& options, bool teach,
                const std::function<void(const Batch&)>& use) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(dataset.examples.size());
  std::vector<std::int64_t> order(dataset.examples.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const BatchReader reader = model.reader(options.on_error, false, teach);
  const std::int64_t size = options.all != nullptr ? options.all->size() : 1, rank = options.all != nullptr ? options.all->rank() : 0;
  const auto read = [&](std::int64_t turn) {
    const std::int64_t begin = (turn * size + rank) * options.batch, length = std::min(options.batch, count - begin);
    return reader.read(dataset, std::span(order).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(length)));
  };
  const std::int64_t number = (count + options.batch - 1) / options.batch, turns = number > rank ? (number - rank - 1) / size + 1 : 0;
  data::Prefetcher<Batch> batches(0, turns, read, options.workers, 2 + options.workers);
  std::optional<Progress> progress;
  if (!options.label.empty() && rank == 0) progress.emplace(options.label, count, "examples");
  std::int64_t done = 0;
  while (const std::optional<Batch> batch = batches.next()) {
    if (options.stop && options.stop()) return false;
    done += static_cast<std::int64_t>(batch->examples.size() + batch->skipped.size());
    use(*batch);
    if (progress) progress->update(std::min(count, done * size));
  }
  if (progress) progress->finish();
  return true;
}

bool forward_all(const Model& model, const data::Dataset& dataset, const ForwardOptions& options,
                 const std::function<void(const at::Tensor&, const Batch&)>& use) {
  return each_batch(model, dataset, options, false,
                    [&](const Batch& batch) { use(batch.examples.empty() ? at::Tensor() : model.forward(batch, {}), batch); });
}

const report::Metric* Evaluation::find(std::string_view name) const {
  for (const report::Metric& metric : metrics)
    if (metric.name == name) return &metric;
  return nullptr;
}

namespace {

/// The logits [examples, outputs] of all examples, each batch computed by one of the processes, and which examples have any.
struct SharedLogits {
  at::Tensor logits, there;
};

SharedLogits shared_logits(const Model& model, const data::Dataset& dataset, const ForwardOptions& options, std::int64_t outputs,
                           std::vector<std::string>& skipped) {
  const auto count = static_cast<std::int64_t>(dataset.examples.size());
  // One buffer for one sum; the last column says which rows are filled.
  const at::Tensor buffer = at::zeros({count, outputs + 1}, at::kFloat);
  forward_all(model, dataset, options, [&](const at::Tensor& logits, const Batch& batch) {
    skipped.insert(skipped.end(), batch.skipped.begin(), batch.skipped.end());
    if (batch.examples.empty()) return;
    const at::Tensor rows = at::tensor(batch.examples, at::kLong);
    buffer.index_copy_(0, rows, at::cat({logits.to(at::kCPU), at::ones({logits.size(0), 1})}, 1));
  });
  options.all->sum({buffer.data_ptr<float>(), static_cast<std::size_t>(buffer.numel())});
  return {buffer.narrow(1, 0, outputs), buffer.select(1, outputs)};
}

}  // namespace

std::optional<Evaluation> evaluate(const Model& model, const Task& task, const data::Dataset& dataset, const ForwardOptions& options,
                                   const std::optional<report::BootstrapOptions>& bootstrap) {
  if (const auto* const sequences = dynamic_cast<const Sequences*>(&task))
    return evaluate_sequences(model, *sequences, dataset, options, bootstrap);
  if (task.name() == "retrieve") return evaluate_retrieval(model, dataset, options, bootstrap);
  Evaluation result;
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<Scorer> scorer = task.scorer();
  struct Pattern {
    std::unique_ptr<Scorer> scorer;
    std::int64_t examples = 0;
  };
  std::map<std::string, Pattern> patterns;
  const auto add = [&](const at::Tensor& logits, const std::vector<std::int64_t>& examples) {
    if (examples.empty()) return;
    scorer->add(logits, dataset, examples);
    result.examples += static_cast<std::int64_t>(examples.size());
    for (const auto& [name, rows] : rows_by_pattern(model, dataset, examples)) {
      Pattern& pattern = patterns[name];
      if (!pattern.scorer) pattern.scorer = task.scorer();
      std::vector<std::int64_t> own;
      for (const std::int64_t row : rows) own.push_back(examples[static_cast<std::size_t>(row)]);
      pattern.scorer->add(logits.index_select(0, at::tensor(rows, at::kLong).to(logits.device())), dataset, own);
      pattern.examples += static_cast<std::int64_t>(rows.size());
    }
  };
  if (options.all != nullptr && options.all->shared()) {
    const SharedLogits shared = shared_logits(model, dataset, options, task.outputs(), result.skipped);
    const auto count = static_cast<std::int64_t>(dataset.examples.size());
    for (std::int64_t first = 0; first < count; first += options.batch) {
      const std::int64_t length = std::min(options.batch, count - first);
      const at::Tensor rows = shared.there.narrow(0, first, length).nonzero().squeeze(1);
      std::vector<std::int64_t> examples(rows.const_data_ptr<std::int64_t>(), rows.const_data_ptr<std::int64_t>() + rows.numel());
      for (std::int64_t& example : examples) example += first;
      add(shared.logits.narrow(0, first, length).index_select(0, rows), examples);
    }
  } else {
    const bool whole = forward_all(model, dataset, options, [&](const at::Tensor& logits, const Batch& batch) {
      result.skipped.insert(result.skipped.end(), batch.skipped.begin(), batch.skipped.end());
      add(logits, batch.examples);
    });
    if (!whole) return std::nullopt;
  }
  if (result.examples == 0)
    throw Error({.what = "no example could be read", .where = dataset.source, .got = result.skipped.empty() ? "" : result.skipped.front()});
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.metrics = scorer->metrics(bootstrap);
  result.details = scorer->details();
  if (patterns.size() > 1)
    for (const auto& [name, pattern] : patterns) result.patterns.push_back({name, pattern.examples, pattern.scorer->metrics(std::nullopt)});
  return result;
}

Json to_json(const std::vector<report::Metric>& metrics) {
  Json json = Json::object();
  for (const report::Metric& metric : metrics) json[metric.name] = report::number_or_null(metric.value);
  return json;
}

}  // namespace mmtune::train
