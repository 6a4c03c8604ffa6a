#include "train/evaluate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "data/prefetch.h"

namespace mmtune::train {

bool forward_all(const Model& model, const data::Dataset& dataset, const ForwardOptions& options,
                 const std::function<void(const at::Tensor&, const Batch&)>& use) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(dataset.examples.size());
  std::vector<std::int64_t> order(dataset.examples.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const BatchReader reader = model.reader(options.on_error);
  const auto read = [&](std::int64_t index) {
    const std::int64_t begin = index * options.batch, length = std::min(options.batch, count - begin);
    return reader.read(dataset, std::span(order).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(length)));
  };
  data::Prefetcher<Batch> batches(0, (count + options.batch - 1) / options.batch, read, options.workers, 2 + options.workers);
  std::optional<Progress> progress;
  if (!options.label.empty()) progress.emplace(options.label, count, "examples");
  std::int64_t done = 0;
  while (std::optional<Batch> batch = batches.next()) {
    if (options.stop && options.stop()) return false;
    done += static_cast<std::int64_t>(batch->examples.size() + batch->skipped.size());
    use(batch->examples.empty() ? at::Tensor() : model.forward(*batch, {}), *batch);
    if (progress) progress->update(done);
  }
  if (progress) progress->finish();
  return true;
}

const report::Metric* Evaluation::find(std::string_view name) const {
  for (const report::Metric& metric : metrics)
    if (metric.name == name) return &metric;
  return nullptr;
}

std::optional<Evaluation> evaluate(const Model& model, const Task& task, const data::Dataset& dataset, const ForwardOptions& options,
                                   const std::optional<report::BootstrapOptions>& bootstrap) {
  Evaluation result;
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<Scorer> scorer = task.scorer();
  const bool whole = forward_all(model, dataset, options, [&](const at::Tensor& logits, const Batch& batch) {
    result.skipped.insert(result.skipped.end(), batch.skipped.begin(), batch.skipped.end());
    if (batch.examples.empty()) return;
    scorer->add(logits, dataset, batch.examples);
    result.examples += static_cast<std::int64_t>(batch.examples.size());
  });
  if (!whole) return std::nullopt;
  if (result.examples == 0)
    throw Error({.what = "no example could be read", .where = dataset.source, .got = result.skipped.empty() ? "" : result.skipped.front()});
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.metrics = scorer->metrics(bootstrap);
  result.details = scorer->details();
  return result;
}

Json to_json(const std::vector<report::Metric>& metrics) {
  Json json = Json::object();
  for (const report::Metric& metric : metrics) json[metric.name] = std::isfinite(metric.value) ? Json(metric.value) : Json();
  return json;
}

}  // namespace mmtune::train
