#include "train/train.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/signals.h"
#include "data/batching.h"
#include "data/prefetch.h"
#include "report/table.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/features.h"
#include "train/gradient_sum.h"
#include "train/machine.h"
#include "train/record.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/session.h"
#include "train/state.h"
#include "train/step_batches.h"

namespace mmtune::train {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto checkpoint_interval = std::chrono::minutes(5);

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct StepResult {
  double loss = 0;
  double gradient_norm = 0;
  PassMacs macs;
  std::int64_t skipped = 0;  ///< examples of all processes that could not be read
  bool stop = false;         ///< a process was asked to stop
};

/// A training under way. run() is the loop; everything else is what it says.
class Trainer {
 public:
  Trainer(Recipe& recipe, RunFolder run, Communicator& all);
  TrainOutcome run();
  /// Leaves word of an error in the run's record.
  void note_failure(const std::string& message);

 private:
  void resume_or_begin();
  bool store_features();
  StepBatches next_batches(data::Prefetcher<StepBatches>& batches);
  StepResult step(const StepBatches& batches);
  [[noreturn]] void refuse_not_finite(const std::string& what, double value, const StepBatches& batches);
  void complain_of_skipped(const StepBatches& batches);
  bool judge_targets();
  bool evaluation_is_due() const;
  bool evaluate_now();
  bool validate();
  bool checkpoint_is_due() const;
  void save(const std::filesystem::path& path, const std::vector<nn::NamedTensor>& optimiser);
  void save_checkpoint();
  bool sum_over_processes(StepResult& result, double scale, double weight);
  TrainOutcome interrupted();
  TrainOutcome finish();
  TrainOutcome outcome(TrainOutcome::End end) const;

  Recipe& recipe_;
  RunFolder run_;
  Communicator& all_;
  Training training_;
  data::BatchPlan plan_;
  std::int64_t total_steps_;
  Schedule schedule_;
  std::unique_ptr<Optimiser> optimiser_;
  std::string identity_;
  TrainState state_;
  GradientSum exchange_{all_};
  Json record_;
  StepTimes times_;
  Clock::time_point checkpointed_ = Clock::now();
  bool complained_ = false;
  bool fresh_ = true;  ///< begins, instead of going on
};

std::string identity_of(const Recipe& recipe, const Training& training, const std::string& toml) {
  Fingerprint fingerprint;
  fingerprint.add_field(recipe.task).add_field(toml).add_field(training.data.train.fingerprint);
  fingerprint.add_field(training.data.valid ? training.data.valid->fingerprint : "");
  for (const std::string& backbone : training.backbones) fingerprint.add_field(backbone);
  return fingerprint.hex();
}

Trainer::Trainer(Recipe& recipe, RunFolder run, Communicator& all)
    : recipe_(recipe),
      run_(std::move(run)),
      all_(all),
      training_(prepare_training(recipe)),
      plan_(plan_of(recipe, training_, all)),
      total_steps_(recipe.train.steps > 0 ? recipe.train.steps : recipe.train.epochs * plan_.batches()),
      schedule_(recipe.train, total_steps_, plan_.batches()),
      optimiser_(make_optimiser(recipe.train, training_.model->parameters(), training_.groups)),
      identity_(identity_of(recipe, training_, to_toml(recipe))) {}

TrainOutcome Trainer::run() {
  const StopSignals signals;
  resume_or_begin();
  if (!store_features()) return interrupted();

  if (fresh_ && !judge_targets()) return interrupted();
  if (evaluation_is_due() && !evaluate_now()) return interrupted();
  data::Prefetcher<StepBatches> batches = step_batches(recipe_, training_, plan_, all_, state_.step, total_steps_);
  Progress progress("training", total_steps_, "steps");
  while (state_.step < total_steps_ && !state_.stopped_early) {
    const auto begin = Clock::now();
    const StepBatches step_batches = next_batches(batches);
    const double waited = seconds_since(begin);
    const StepResult result = step(step_batches);
    const double took = seconds_since(begin);
    ++state_.step;
    state_.seconds += took;
    times_.add(took, waited, result.macs);
    state_.skipped += result.skipped;
    complain_of_skipped(step_batches);

    if (state_.step % recipe_.train.log_every == 0 || state_.step == total_steps_)
      run_.append_metrics({{"step", state_.step},
                           {"epoch", static_cast<double>(state_.step) / static_cast<double>(plan_.batches())},
                           {"loss", result.loss},
                           {"lr", recipe_.train.lr * schedule_(state_.step - 1)},
                           {"gradient_norm", result.gradient_norm},
                           {"seconds", state_.seconds}});
    progress.update(state_.step, "loss " + report::fixed(result.loss));

    // Several processes must stop behind the same step: behind one whose sum said that a signal came.
    const auto stopped = [&] { return all_.shared() ? result.stop : StopSignals::received() != 0; };
    if (evaluation_is_due() && !stopped()) evaluate_now();
    if (stopped()) return interrupted();
    if (checkpoint_is_due()) save_checkpoint();
  }
  progress.finish();
  return finish();
}

void Trainer::resume_or_begin() {
  record_ = new_record(recipe_, training_, total_steps_);
  if (all_.shared()) record_["processes"] = all_.size();
  // Asked once: another process may have written the first checkpoint by the time that this one asks again.
  fresh_ = !run_.has_checkpoint();
  if (!fresh_) {
    state_ = load_state(run_.last(), identity_, training_.model->parameters(), optimiser_->state());
    run_.rewind_metrics(state_.step, state_.evaluated_step);
    const Json before = std::filesystem::exists(run_.record()) ? run_.read_record() : Json::object();
    if (before.contains("target_alone")) record_["target_alone"] = before["target_alone"];
    log_info("resuming at step " + std::to_string(state_.step) + " of " + std::to_string(total_steps_));
  } else {
    run_.rewind_metrics(0, -1);
    if (all_.leads()) write_file_atomically(run_.recipe(), to_toml(recipe_));
  }
  record_["state"] = "running";
  run_.write_record(record_);
}

/// False where a signal ended the pass.
bool Trainer::store_features() {
  std::vector<const data::Dataset*> datasets{&training_.data.train};
  if (training_.data.valid) datasets.push_back(&*training_.data.valid);
  StoreOptions options = store_options_of(recipe_.data);
  options.all = &all_;
  if (training_.task->pairs_anew()) options.limit_mb = 0;
  if (!all_.shared()) options.stop = [] { return StopSignals::received() != 0; };
  const StoreReport report = store_frozen_features(*training_.model, datasets, options);
  if (report.inputs > 0) record_["features"] = {{"inputs", report.inputs}, {"kept", report.kept}, {"seconds", report.seconds}};
  return !report.stopped;
}

StepResult Trainer::step(const StepBatches& batches) {
  Model& model = *training_.model;
  const data::Dataset& dataset = training_.data.train;
  StepResult result;
  double weight = 0;
  for (const Batch& batch : batches) {
    weight += training_.task->weight(dataset, batch.examples);
    result.skipped += static_cast<std::int64_t>(batch.skipped.size());
  }
  // What the other processes' examples weigh is known only behind the sum; until then any number of the right size does.
  const double scale = all_.shared() ? static_cast<double>(recipe_.train.batch * recipe_.train.accumulate) : weight;
  if (!(scale > 0)) return result;  // every example was skipped, or weighs nothing

  model.parameters().gradients().zero_();
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const Batch& batch = batches[i];
    if (batch.examples.empty()) continue;
    const auto stream = static_cast<std::uint64_t>(state_.step * recipe_.train.accumulate) + i;
    std::uint64_t seed = mix_seed(static_cast<std::uint64_t>(recipe_.train.seed), stream);
    if (!all_.leads()) seed = mix_seed(seed, static_cast<std::uint64_t>(all_.rank()));
    const nn::Context context{.training = true, .recompute = recipe_.train.checkpointing, .generator = generator_on(model.device(), seed)};
    at::Tensor loss = training_.task->loss(model.forward(batch, context), dataset, batch.examples) / scale;
    if (const at::Tensor added = model.auxiliary_loss(batch); added.defined())
      loss = loss + added * (training_.task->weight(dataset, batch.examples) / scale);
    const auto value = loss.item<double>();
    if (!std::isfinite(value)) refuse_not_finite("loss", value, batches);
    loss.backward();
    result.loss += value;
    const PassMacs macs = model.macs(batch);
    result.macs.forward += macs.forward;
    result.macs.backward += macs.backward;
  }
  model.after_backward();
  if (all_.shared() && !sum_over_processes(result, scale, weight)) return result;
  result.gradient_norm = clip_gradient(model.parameters().gradients(), recipe_.train.clip);
  if (!std::isfinite(result.gradient_norm)) refuse_not_finite("gradient", result.gradient_norm, batches);
  optimiser_->step(state_.step, recipe_.train.lr * schedule_(state_.step));
  return result;
}

/// Makes the gradient and the result those of all processes together. `scale` is what losses were divided by, `weight` what this process'
/// examples weigh. False where the examples of all together weigh nothing.
bool Trainer::sum_over_processes(StepResult& result, double scale, double weight) {
  at::Tensor& gradients = training_.model->parameters().gradients();
  std::array<float, 4> numbers = {static_cast<float>(result.loss), static_cast<float>(weight), static_cast<float>(result.skipped),
                                  StopSignals::received() != 0 ? 1.0F : 0.0F};
  exchange_(gradients, numbers);
  result.skipped = static_cast<std::int64_t>(numbers[2]);
  result.stop = numbers[3] > 0;
  if (!(numbers[1] > 0)) return false;
  const double factor = scale / numbers[1];
  gradients.mul_(factor);
  result.loss = numbers[0] * factor;
  return true;
}

void Trainer::refuse_not_finite(const std::string& what, double value, const StepBatches& batches) {
  constexpr std::size_t most = 400;  // characters of a line that somebody can still read; run.json has all of them
  std::vector<std::string> ids;
  for (const Batch& batch : batches)
    for (const std::int64_t index : batch.examples) ids.push_back(training_.data.train.examples[static_cast<std::size_t>(index)].id);
  std::string shown;
  std::size_t count = 0;
  for (; count < ids.size() && shown.size() < most; ++count) shown += (shown.empty() ? "" : ", ") + printable(ids[count], 60);
  if (count < ids.size()) shown += " and " + std::to_string(ids.size() - count) + " more";
  record_["failed_step"] = state_.step + 1;
  record_["failed_examples"] = std::move(ids);
  throw Error(
      {.what = "the " + what + " is not finite in the batch of examples " + shown,
       .where = "step " + std::to_string(state_.step + 1),
       .expected = "a finite number",
       .got = std::to_string(value),
       .hint = "a lower train.lr or train.clip may help; " +
               (run_.has_checkpoint() ? "the last good state is in " + run_.last().string() : std::string("no checkpoint was made yet"))});
}

/// The next step's examples. Where one cannot be read, the state so far is saved first: nothing that was learned is lost.
StepBatches Trainer::next_batches(data::Prefetcher<StepBatches>& batches) try {
  std::optional<StepBatches> next = batches.next();
  MMTUNE_ASSERT(next.has_value());
  return std::move(*next);
} catch (const Error&) {
  save_checkpoint();
  throw;
}

void Trainer::note_failure(const std::string& message) try {
  record_["state"] = "failed";
  record_["error"] = message;
  add_progress(record_, state_, training_, times_);
  run_.write_record(record_);
} catch (const std::exception&) {
  // The error that is on its way to the user matters more than this one (a full disk tells of itself twice).
}

void Trainer::complain_of_skipped(const StepBatches& batches) {
  for (const Batch& batch : batches) {
    if (batch.skipped.empty() || complained_) continue;
    complained_ = true;
    log_warning("skipping examples that cannot be read; the first: " + batch.skipped.front());
  }
}

/// Where experts are averaged for a task that has one of its own: that one alone, before the first step. Only what is better on the
/// validation data takes its place. False where a signal ended it.
bool Trainer::judge_targets() {
  if (!training_.data.valid) return true;
  std::vector<experts::Interpolated*> averaged;
  for (experts::Interpolated* one : training_.model->interpolated())
    if (one->target() && one->can_choose() && one->experts() > 1) averaged.push_back(one);
  if (averaged.empty()) return true;
  const at::Tensor start = training_.model->parameters().values().clone();
  for (experts::Interpolated* one : averaged) one->choose(*one->target());
  log_info("the target's own expert:");
  const bool done = validate();
  const at::NoGradGuard no_grad;
  training_.model->parameters().values().copy_(start);
  if (!done) return false;
  record_["target_alone"] = {{"metric", training_.metric}, {"value", state_.best_metric}};
  run_.write_record(record_);
  // Not before the start is back: the checkpoint of step 0 is that of the start.
  save_checkpoint();
  return true;
}

bool Trainer::evaluation_is_due() const {
  if (!training_.data.valid || state_.step == 0 || state_.evaluated_step >= state_.step) return false;
  if (state_.step == total_steps_) return true;
  const std::int64_t every = recipe_.train.eval_every * (recipe_.train.eval_unit == Unit::epochs ? plan_.batches() : 1);
  return every > 0 && state_.step % every == 0;
}

/// False where a signal ended it early: it is then as if it had not begun.
bool Trainer::evaluate_now() {
  if (!validate()) return false;
  save_checkpoint();
  return true;
}

/// The same without a checkpoint.
bool Trainer::validate() {
  training_.model->before_pass();
  const std::int64_t batch = recipe_.train.eval_batch > 0 ? recipe_.train.eval_batch : recipe_.train.batch;
  ForwardOptions options{.batch = batch,
                         .workers = static_cast<int>(recipe_.data.workers),
                         .on_error = recipe_.data.on_error,
                         .label = "validating",
                         .all = &all_};
  if (!all_.shared()) options.stop = [] { return StopSignals::received() != 0; };
  const std::optional<Evaluation> evaluation = evaluate(*training_.model, *training_.task, *training_.data.valid, options);
  if (!evaluation) return false;
  const report::Metric* metric = evaluation->find(training_.metric);
  if (metric == nullptr)
    throw UsageError({.what = "the metric is not defined for this data", .where = "train.metric", .got = "\"" + training_.metric + "\""});
  state_.evaluated_step = state_.step;
  const double sign = metric->higher_is_better ? 1 : -1;
  const bool better = state_.best_step < 0 || std::isnan(state_.best_metric) || sign * metric->value > sign * state_.best_metric;
  if (better) {
    state_.best_step = state_.step;
    state_.best_metric = metric->value;
    state_.without_progress = 0;
  } else if (++state_.without_progress >= recipe_.train.patience && recipe_.train.patience > 0) {
    state_.stopped_early = true;
  }
  run_.append_metrics({{"step", state_.step}, {"valid", to_json(evaluation->metrics)}, {"best", better}});
  std::string line = "step " + std::to_string(state_.step) + ": ";
  for (const report::Metric& one : evaluation->metrics)
    if (one.name == training_.metric || one.name == "loss") line += "valid " + one.name + " " + report::fixed(one.value) + "  ";
  log_info(line + (better ? "(best so far)" : ""));
  if (better) save(run_.best(), {});
  return true;
}

bool Trainer::checkpoint_is_due() const {
  if (recipe_.train.checkpoint_every > 0) return state_.step % recipe_.train.checkpoint_every == 0;
  return Clock::now() - checkpointed_ > checkpoint_interval || (!training_.data.valid && state_.step % plan_.batches() == 0);
}

void Trainer::save(const std::filesystem::path& path, const std::vector<nn::NamedTensor>& optimiser) {
  if (all_.leads()) save_state(path, state_, identity_, training_.model->parameters(), optimiser);
}

void Trainer::save_checkpoint() {
  save(run_.last(), optimiser_->state());
  checkpointed_ = Clock::now();
}

TrainOutcome Trainer::outcome(TrainOutcome::End end) const {
  TrainOutcome outcome{.end = end, .steps = state_.step};
  if (training_.data.valid && state_.best_step >= 0) {
    outcome.metric = training_.metric;
    outcome.best = state_.best_metric;
  }
  return outcome;
}

TrainOutcome Trainer::interrupted() {
  save_checkpoint();
  record_["state"] = "interrupted";
  add_progress(record_, state_, training_, times_);
  run_.write_record(record_);
  TrainOutcome result = outcome(TrainOutcome::End::interrupted);
  result.signal = StopSignals::received() != 0 ? StopSignals::received() : SIGTERM;  // another process' signal
  return result;
}

TrainOutcome Trainer::finish() {
  save_checkpoint();
  if (!all_.leads()) return outcome(TrainOutcome::End::finished);
  add_progress(record_, state_, training_, times_);
  if (state_.best_step >= 0 && state_.best_step != state_.step) load_state(run_.best(), identity_, training_.model->parameters(), {});
  training_.model->before_pass();
  Json metadata = expert_metadata(recipe_, training_, state_);
  for (const experts::Interpolated* one : training_.model->interpolated()) {
    metadata["interpolation"].push_back(one->describe());
    record_["interpolation"].push_back(one->describe());
  }
  save_trained(run_, *training_.model, training_.backbones, metadata);
  if (state_.best_step >= 0) record_["valid"] = run_.validation_at(state_.best_step);
  record_["state"] = "finished";
  run_.write_record(record_);
  return outcome(TrainOutcome::End::finished);
}

}  // namespace

TrainOutcome train(Recipe& recipe, const TrainOptions& options, Communicator& all) {
  set_threads(recipe.train.threads);
  // The leading process alone makes, locks and judges the folder; the others learn what came of it. Where it throws, all of them end.
  const auto open = [&] {
    if (!all.leads()) return RunFolder::follow(options.out);
    RunFolder run = options.resume ? RunFolder::resume(options.out) : RunFolder::create(options.out);
    if (std::filesystem::exists(run.recipe())) run.refuse_another_recipe(to_toml(recipe));
    return run;
  };
  RunFolder run = open();
  const auto finished = [&] { return std::filesystem::exists(run.record()) && run.read_record().value("state", "") == "finished"; };
  float over = all.leads() && std::filesystem::exists(run.recipe()) && finished() ? 1.0F : 0.0F;
  all.sum({&over, 1});
  if (over > 0) return {.end = TrainOutcome::End::already_finished};
  Trainer trainer(recipe, std::move(run), all);
  try {
    return trainer.run();
  } catch (const std::exception& error) {
    trainer.note_failure(error.what());
    throw;
  }
}

}  // namespace mmtune::train
