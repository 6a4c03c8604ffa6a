#include "train/pretrain/loop.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/listed.h"
#include "core/log.h"
#include "core/signals.h"
#include "io/safetensors.h"
#include "nn/split_product.h"
#include "nn/weights.h"
#include "train/machine.h"
#include "train/optimiser.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/state.h"

namespace mmtune::train {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

TrainSection optimisation(const PretrainLoopSection& section) {
  TrainSection train;
  train.lr = section.lr;
  train.weight_decay = section.weight_decay;
  train.beta2 = 0.98;
  train.schedule = ScheduleKind::cosine;
  train.warmup = section.warmup;
  return train;
}

std::string fixed(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

/// A pretraining under way. run() is the order of things.
class Pretrainer {
 public:
  Pretrainer(const PretrainLoopSection& section, const std::string& recipe, RunFolder run, PretrainJob& job)
      : section_(section), recipe_(recipe), run_(std::move(run)), job_(job) {}
  PretrainOutcome run();

 private:
  std::string identity() const;
  void begin_or_resume();
  void learn();
  [[noreturn]] void refuse_not_finite(const std::string& what, double value) const;
  void log(double learning_rate);
  void save();
  PretrainOutcome interrupted();
  PretrainOutcome finish();

  const PretrainLoopSection& section_;
  const std::string& recipe_;
  RunFolder run_;
  PretrainJob& job_;
  nn::Parameters parameters_;
  std::unique_ptr<Optimiser> optimiser_;
  TrainState state_;
  Json record_;
  std::map<std::string, double> terms_;  ///< of the last step's loss
  double gradient_norm_ = 0;
};

std::string Pretrainer::identity() const {
  return Fingerprint().add_field(recipe_).add_field(job_.identity()).hex();
}

PretrainOutcome Pretrainer::run() {
  const auto stop = [] { return StopSignals::received() != 0; };
  begin_or_resume();
  if (!job_.prepare(run_.path(), stop)) return interrupted();
  job_.begin(state_.step, section_.steps);
  const Schedule schedule(optimisation(section_), section_.steps, 1);
  Progress progress("pretraining", section_.steps, "steps");
  auto saved = Clock::now();
  while (state_.step < section_.steps) {
    const auto begin = Clock::now();
    const double lr = section_.lr * schedule(state_.step);
    learn();
    optimiser_->step(state_.step, lr);
    ++state_.step;
    state_.seconds += seconds_since(begin);
    std::string note;
    for (const auto& [name, value] : terms_) note += name + " " + fixed(value) + " ";
    progress.update(state_.step, note);
    if (state_.step % section_.log_every == 0 || state_.step == section_.steps) log(lr);
    if (stop()) return interrupted();
    if (seconds_since(saved) > 60.0 * section_.checkpoint_minutes) {
      save();
      saved = Clock::now();
    }
  }
  progress.finish();
  return finish();
}

void Pretrainer::begin_or_resume() {
  job_.list(parameters_);
  const TrainSection section = optimisation(section_);
  std::vector<OptimiserGroup> groups = flatten_into_groups(parameters_, section);
  optimiser_ = make_optimiser(section, parameters_, std::move(groups));
  if (run_.has_checkpoint()) {
    state_ = load_state(run_.last(), identity(), parameters_, optimiser_->state());
    log_info("resuming at step " + std::to_string(state_.step) + " of " + std::to_string(section_.steps));
    run_.rewind_metrics(state_.step, state_.step);
  } else {
    run_.rewind_metrics(0, 0);
    write_file_atomically(run_.recipe(), recipe_);
  }
  record_ = {{"command", "pretrain"},
             {"state", "running"},
             {"machine", describe_machine()},
             {"steps", section_.steps},
             {"trainable_parameters", parameters_.count()}};
  record_.update(job_.record());
  run_.write_record(record_);
}

void Pretrainer::learn() {
  parameters_.gradients().zero_();
  const LossTerms terms = job_.losses();
  at::Tensor loss = at::zeros({}, at::kFloat);
  for (const auto& [name, term] : terms) {
    const auto value = term.item<double>();
    if (!std::isfinite(value)) refuse_not_finite("loss", value);
    terms_[name] = value;
    loss = loss + term * job_.weight_of(name);
  }
  loss.backward();
  gradient_norm_ = clip_gradient(parameters_.gradients(), section_.clip);
  if (!std::isfinite(gradient_norm_)) refuse_not_finite("gradient", gradient_norm_);
}

void Pretrainer::refuse_not_finite(const std::string& what, double value) const {
  throw Error({.what = "the " + what + " is not finite in the batch of pictures " + listed(job_.examples(), 16, 60),
               .where = "step " + std::to_string(state_.step + 1),
               .expected = "a finite number",
               .got = std::to_string(value),
               .hint = "a lower train.lr may help"});
}

void Pretrainer::log(double learning_rate) {
  Json line = {{"step", state_.step}, {"lr", learning_rate}, {"gradient_norm", gradient_norm_}, {"seconds", state_.seconds}};
  for (const auto& [name, value] : terms_) line[name + "_loss"] = value;
  run_.append_metrics(line);
}

void Pretrainer::save() {
  save_state(run_.last(), state_, identity(), parameters_, optimiser_->state());
}

PretrainOutcome Pretrainer::interrupted() {
  save();
  record_["state"] = "interrupted";
  run_.write_record(record_);
  return {.end = PretrainOutcome::End::interrupted, .signal = StopSignals::received(), .steps = state_.step};
}

PretrainOutcome Pretrainer::finish() {
  save();
  job_.write(run_.path() / "model");
  record_["state"] = "finished";
  record_["seconds"] = state_.seconds;
  record_["peak_memory_bytes"] = peak_memory();
  if (const Json measured = job_.measure(); !measured.is_null()) {
    record_["measured"] = measured;
    log_info("on examples that it was not trained on: " + measured.dump());
  }
  run_.write_record(record_);
  return {.end = PretrainOutcome::End::finished, .steps = state_.step};
}

}  // namespace

PretrainOutcome run_pretraining(const PretrainLoopSection& section, const std::string& recipe, const PretrainOptions& options,
                                const std::function<std::unique_ptr<PretrainJob>()>& make_job) {
  set_threads(section.threads);
  RunFolder run = options.resume ? RunFolder::resume(options.out) : RunFolder::create(options.out);
  if (std::filesystem::exists(run.recipe()) && read_file(run.recipe()) != recipe)
    throw UsageError({.what = "the run was started with another recipe",
                      .where = run.recipe().string(),
                      .hint = "resume with the run's own recipe.toml, or start anew with another --out"});
  if (std::filesystem::exists(run.record()) && run.read_record().value("state", "") == "finished")
    return {.end = PretrainOutcome::End::already_finished, .steps = section.steps};
  const StopSignals signals;
  const std::unique_ptr<PretrainJob> job = make_job();
  return Pretrainer(section, recipe, std::move(run), *job).run();
}

bool in_bfloat16(const PretrainLoopSection& section) {
  return section.precision == Precision::bfloat16 || (section.precision == Precision::automatic && nn::multiplies_bfloat16());
}

void write_half(const std::filesystem::path& path, const std::vector<nn::NamedTensor>& tensors,
                const std::map<std::string, std::string>& metadata) {
  const c10::NoGradGuard no_gradients;
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const nn::NamedTensor& item : tensors) {
    kept.push_back(item.tensor.detach().to(at::kHalf).contiguous());
    entries.push_back(nn::to_entry(item.name, kept.back()));
  }
  io::write_safetensors(path, entries, metadata);
}

}  // namespace mmtune::train
