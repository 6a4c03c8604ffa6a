#include "train/record.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/version.h"
#include "report/metric_json.h"
#include "train/machine.h"

namespace mmtune::train {

namespace {

Json describe(const data::Dataset& dataset) {
  Json json = {{"source", dataset.source}, {"examples", dataset.examples.size()}, {"fingerprint", dataset.fingerprint}};
  if (dataset.skipped > 0) {
    json["skipped_rows"] = dataset.skipped;
    json["first_skipped"] = dataset.first_skipped;
  }
  return json;
}

}  // namespace

void StepTimes::add(double seconds, double waited, const PassMacs& macs) {
  seconds_.push_back(seconds);
  waited_.push_back(waited);
  macs_.push_back(macs.forward + macs.backward);
}

Json StepTimes::summary(std::int64_t rows, std::int64_t width, at::Device device) const {
  Json json = Json::object();
  if (seconds_.empty()) return json;
  const double rate = gemm_rate(rows, width, device);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < seconds_.size(); ++i)
    if (macs_[i] > 0) ratios.push_back(seconds_[i] / (macs_[i] / rate));
  json["steps_timed"] = seconds_.size();
  json["median_step_seconds"] = median(seconds_);
  json["median_wait_for_data_seconds"] = median(waited_);
  json["median_step_macs"] = median(macs_);
  json["gemm_gflops"] = 2e-9 * rate;
  json["step_over_operation_bound"] = median(ratios);
  return json;
}

Json new_record(const Recipe& recipe, const Training& training, std::int64_t total_steps) {
  Json record;
  record["mmtune"] = version();
  record["task"] = training.task->describe();
  Json towers = Json::array();
  const auto& model = *training.model;
  std::vector<std::string> models = {recipe.backbone.main, recipe.backbone.condition};
  for (const FurtherTower& one : recipe.backbone.further) models.push_back(one.model);
  for (std::size_t t = 0; t < model.towers().size(); ++t) {
    const Tower& tower = *model.towers()[t];
    towers.push_back({{"tower", tower.name()},
                      {"model", models[t]},
                      {"architecture", tower.backbone().info().architecture},
                      {"fingerprint", training.backbones[t]},
                      {"parameters", tower.backbone().parameter_count()}});
  }
  record["backbones"] = std::move(towers);
  record["experts"] = describe_experts(model);
  record["learned_absent"] = training.learn_absent;
  record["trainable_parameters"] = training.model->parameters().count();
  record["data"]["train"] = describe(training.data.train);
  if (training.data.valid) record["data"]["valid"] = describe(*training.data.valid);
  record["total_steps"] = total_steps;
  record["machine"] = describe_machine();
  record["device"] = training.model->device().str();
  return record;
}

void add_progress(Json& record, const TrainState& state, const Training& training, const StepTimes& times) {
  record["step"] = state.step;
  record["training_seconds"] = state.seconds;
  record["skipped_examples"] = state.skipped;
  record["stopped_early"] = state.stopped_early;
  if (state.best_step >= 0)
    record["best"] = {{"metric", training.metric}, {"value", report::number_or_null(state.best_metric)}, {"step", state.best_step}};
  std::int64_t width = 1;
  for (const auto& tower : training.model->towers()) width = std::max(width, tower->backbone().info().width);
  record["performance"] = times.summary(1024, width, training.model->device());
  record["performance"]["peak_memory_bytes"] = peak_memory();
}

Json expert_metadata(Recipe& recipe, const Training& training, const TrainState& state) {
  Json metadata = {{"version", version()}, {"recipe", to_toml(recipe)}, {"data_fingerprint", training.data.train.fingerprint}};
  metadata["task"] = training.task->describe();
  metadata["step"] = state.best_step >= 0 ? state.best_step : state.step;
  if (state.best_step >= 0 && std::isfinite(state.best_metric)) metadata["metric"] = {{training.metric, state.best_metric}};
  return metadata;
}

}  // namespace mmtune::train
