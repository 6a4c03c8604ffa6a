#include "methods/tvp_train.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/listed.h"
#include "core/log.h"
#include "core/signals.h"
#include "core/version.h"
#include "data/batching.h"
#include "data/prefetch.h"
#include "experts/visual_prompt.h"
#include "io/checkpoint.h"
#include "methods/tvp_objective.h"
#include "report/table.h"
#include "train/evaluate.h"
#include "train/machine.h"
#include "train/run_folder.h"
#include "train/session.h"
#include "train/state.h"

namespace mmtune::methods {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto checkpoint_interval = std::chrono::minutes(5);
constexpr std::uint64_t start_stream = 1, place_stream = 2;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

experts::PixelPrompt first_prompt(const TvpRecipe& recipe) {
  const experts::PromptShape shape = recipe.expert.shape();
  if (recipe.expert.start.empty())
    return {shape, at::detail::createCPUGenerator(mix_seed(static_cast<std::uint64_t>(recipe.train.seed), start_stream))};
  experts::StoredPrompt stored = experts::load_prompt(recipe.expert.start);
  if (!(stored.prompt.shape() == shape)) {
    const experts::PromptShape& got = stored.prompt.shape();
    const auto said = [](const experts::PromptShape& one) {
      return std::string(experts::name_of(one.form)) + " of width " + std::to_string(one.width) + " around " + std::to_string(one.image) +
             " in a frame of " + std::to_string(one.frame);
    };
    throw UsageError({.what = "the prompt to begin with has another shape than the recipe's",
                      .where = "expert.start = " + recipe.expert.start,
                      .expected = said(shape),
                      .got = said(got)});
  }
  return std::move(stored.prompt);
}

Json describe(const data::Dataset& dataset) {
  return {{"source", dataset.source}, {"examples", dataset.examples.size()}, {"fingerprint", dataset.fingerprint}};
}

/// A training under way. run() is the loop.
class Trainer {
 public:
  Trainer(TvpRecipe& recipe, train::RunFolder run);
  train::TrainOutcome run();
  void note_failure(const std::string& message);

 private:
  void open_sources();
  void begin_or_resume();
  bool encode_clean();
  PromptBatch read_batch(std::int64_t step) const;
  void learn(const PromptBatch& batch, double rate);
  void log(double rate);
  [[noreturn]] void refuse_not_finite(const std::string& what, double value, const PromptBatch& batch) const;
  bool evaluation_is_due() const;
  bool evaluate_now();
  bool checkpoint_is_due() const;
  void save(const std::filesystem::path& path);
  train::TrainOutcome outcome(train::TrainOutcome::End end) const;
  train::TrainOutcome interrupted();
  train::TrainOutcome finish();
  void describe_progress();

  TvpRecipe& recipe_;
  train::RunFolder run_;
  train::TrainingData data_;
  data::BatchPlan plan_;
  PromptSteps steps_;
  experts::PixelPrompt prompt_;
  nn::Parameters parameters_;
  std::unique_ptr<PromptOptimiser> optimiser_;
  std::vector<Source> sources_;
  std::unique_ptr<CaptionModel> caption_model_;
  std::string caption_fingerprint_;
  std::unique_ptr<Objective> objective_;
  std::string identity_;
  train::TrainState state_;
  Json record_;
  ObjectiveValue value_;  ///< of the last step
  double gradient_norm_ = 0;
  std::vector<double> times_;
  Clock::time_point checkpointed_ = Clock::now();
};

PromptSteps steps_of(const TvpTrainSection& section, std::int64_t per_epoch) {
  PromptSteps steps{.total = section.epochs * per_epoch, .per_epoch = per_epoch, .epochs = section.epochs, .warmup = section.warmup};
  if (section.steps > 0) {
    steps.total = section.steps;
    steps.epochs = (steps.total + per_epoch - 1) / per_epoch;
  }
  return steps;
}

Trainer::Trainer(TvpRecipe& recipe, train::RunFolder run)
    : recipe_(recipe),
      run_(std::move(run)),
      data_(train::read_training_data(recipe.data, recipe.train.seed)),
      plan_(static_cast<std::int64_t>(data_.train.examples.size()),
            {.batch = recipe.train.batch, .seed = static_cast<std::uint64_t>(recipe.train.seed)}),
      steps_(steps_of(recipe.train, plan_.batches())),
      prompt_(first_prompt(recipe)) {
  for (const nn::NamedTensor& one : prompt_.tensors()) parameters_.add(one.name, one.tensor);
  parameters_.flatten();
  const TvpTrainSection& t = recipe.train;
  optimiser_ = std::make_unique<PromptOptimiser>(
      PromptOptimiserOptions{
          .rule = t.rule, .momentum = t.momentum, .weight_decay = t.weight_decay, .beta1 = t.beta1, .beta2 = t.beta2, .eps = t.eps},
      parameters_, prompt_.masks());
  open_sources();
}

void Trainer::open_sources() {
  Fingerprint identity;
  identity.add_field(to_toml(recipe_)).add_field(data_.train.fingerprint).add_field(data_.valid ? data_.valid->fingerprint : "");
  for (const TvpSource& one : recipe_.sources) {
    Source source{.model = PromptedModel::open(one.model, recipe_.train.weights), .questions = nullptr, .clean = std::nullopt};
    source.questions = std::make_unique<Questions>(recipe_.question, recipe_.task, *source.model.text, data_.train.classes);
    identity.add_field(source.model.fingerprint);
    sources_.push_back(std::move(source));
  }
  at::Tensor embedded;
  Captions captions;
  if (recipe_.expert.tse > 0) {
    const io::Checkpoint checkpoint = io::Checkpoint::open(io::resolve_model(recipe_.expert.caption_model));
    caption_model_ = std::make_unique<CaptionModel>(checkpoint);
    caption_fingerprint_ = io::backbone_fingerprint(checkpoint);
    identity.add_field(caption_fingerprint_);
    captions = captions_of(recipe_, data_.train);
    embedded = caption_model_->embed(captions.texts);
  }
  identity_ = identity.hex();
  objective_ = std::make_unique<Objective>(ObjectiveOptions{.fca = recipe_.expert.fca,
                                                            .tse = recipe_.expert.tse,
                                                            .features = recipe_.expert.fca_features,
                                                            .micro_batch = recipe_.train.micro_batch,
                                                            .matmul_precision = recipe_.train.matmul_precision,
                                                            .recompute = recipe_.train.checkpointing},
                                           prompt_, sources_, caption_model_.get(), embedded, std::move(captions.row_of));
}

train::TrainOutcome Trainer::run() {
  const StopSignals signals;
  const auto stopped = [] { return StopSignals::received() != 0; };
  begin_or_resume();
  if (!encode_clean()) return interrupted();
  if (evaluation_is_due() && !evaluate_now()) return interrupted();
  data::Prefetcher<PromptBatch> batches(
      state_.step, steps_.total, [this](std::int64_t step) { return read_batch(step); }, static_cast<int>(recipe_.data.workers),
      2 + recipe_.data.workers);
  Progress progress("training", steps_.total, "steps");
  while (state_.step < steps_.total) {
    const auto begin = Clock::now();
    const double rate = prompt_rate(recipe_.train.schedule, recipe_.train.lr, steps_, state_.step);
    std::optional<PromptBatch> batch;
    try {
      batch = batches.next();
    } catch (const Error&) {
      save(run_.last());
      throw;
    }
    learn(*batch, rate);
    ++state_.step;
    times_.push_back(seconds_since(begin));
    state_.seconds += times_.back();
    if (state_.step % recipe_.train.log_every == 0 || state_.step == steps_.total) log(rate);
    progress.update(state_.step, "loss " + report::fixed(value_.total));
    if (evaluation_is_due() && !stopped()) evaluate_now();
    if (stopped()) return interrupted();
    if (checkpoint_is_due()) save(run_.last());
  }
  progress.finish();
  return finish();
}

void Trainer::begin_or_resume() {
  record_ = {{"mmtune", version()}, {"method", "tvp"}, {"state", "running"}};
  record_["classes"] = data_.train.classes;
  for (const Source& source : sources_)
    record_["sources"].push_back({{"model", source.model.name},
                                  {"family", backbones::name_of(source.model.model->multimodal().family)},
                                  {"fingerprint", source.model.fingerprint},
                                  {"parameters", source.model.model->parameter_count()}});
  if (caption_model_) record_["caption_model"] = {{"model", recipe_.expert.caption_model}, {"fingerprint", caption_fingerprint_}};
  std::int64_t trained = 0;
  for (const at::Tensor& mask : prompt_.masks()) trained += mask.sum().item<std::int64_t>();
  record_["trainable_parameters"] = trained;
  record_["data"]["train"] = describe(data_.train);
  if (data_.valid) record_["data"]["valid"] = describe(*data_.valid);
  record_["total_steps"] = steps_.total;
  record_["machine"] = train::describe_machine();
  if (run_.has_checkpoint()) {
    state_ = train::load_state(run_.last(), identity_, parameters_, optimiser_->state());
    run_.rewind_metrics(state_.step, state_.evaluated_step);
    if (caption_model_ && state_.step > 0) caption_model_->clamp_scale();
    log_info("resuming at step " + std::to_string(state_.step) + " of " + std::to_string(steps_.total));
  } else {
    run_.rewind_metrics(0, -1);
    write_file_atomically(run_.recipe(), to_toml(recipe_));
  }
  run_.write_record(record_);
}

/// The clean side of feature consistency, where keeping it saves more than it costs. False where a signal ended it.
bool Trainer::encode_clean() {
  if (recipe_.expert.fca == 0 || recipe_.data.cache_mb == 0) return true;
  const std::int64_t variants = recipe_.train.flip ? 2 : 1;
  if (steps_.total * recipe_.train.batch <= variants * static_cast<std::int64_t>(data_.train.examples.size())) return true;
  bool stopped = false;
  for (Source& source : sources_) {
    source.clean = CleanFeatures::make(source.model, *source.questions, data_.train,
                                       {.shape = prompt_.shape(),
                                        .flips = recipe_.train.flip,
                                        .crops = recipe_.train.crop,
                                        .batch = recipe_.train.micro_batch > 0 ? recipe_.train.micro_batch : recipe_.train.batch,
                                        .max_bytes = (recipe_.data.cache_mb << 20) / static_cast<std::int64_t>(sources_.size()),
                                        .workers = static_cast<int>(recipe_.data.workers),
                                        .matmul_precision = recipe_.train.matmul_precision,
                                        .stop = [] { return StopSignals::received() != 0; }},
                                       stopped);
    if (stopped) return false;
    record_["clean_features"].push_back({{"model", source.model.name}, {"bytes", source.clean ? source.clean->bytes() : 0}});
  }
  return true;
}

/// Runs on a worker: everything here is a function of the step.
PromptBatch Trainer::read_batch(std::int64_t step) const {
  const data::Position position = plan_.position(step);
  const data::EpochOrder order = plan_.epoch(position.epoch);
  PromptBatch batch;
  std::vector<at::Tensor> pictures;
  for (const std::int64_t index : order.batch(position.batch)) {
    const PictureDraw draw = drawn_picture(recipe_.train, step, static_cast<std::int64_t>(batch.examples.size()));
    const experts::PromptShape& shape = prompt_.shape();
    pictures.push_back(framed_picture(read_picture(data_.train.examples[static_cast<std::size_t>(index)]), shape.image, shape.frame, draw));
    batch.examples.push_back(index);
    batch.flipped.push_back(draw.flip ? 1 : 0);
  }
  batch.pictures = at::stack(pictures);
  return batch;
}

void Trainer::learn(const PromptBatch& batch, double rate) {
  parameters_.gradients().zero_();
  at::Generator places = at::detail::createCPUGenerator(
      mix_seed(mix_seed(static_cast<std::uint64_t>(recipe_.train.seed), place_stream), static_cast<std::uint64_t>(state_.step)));
  value_ = (*objective_)(data_.train, batch, prompt_.draw_place(places));
  if (!std::isfinite(value_.total)) refuse_not_finite("loss", value_.total, batch);
  gradient_norm_ = parameters_.gradients().norm().item<double>();
  if (!std::isfinite(gradient_norm_)) refuse_not_finite("gradient", gradient_norm_, batch);
  optimiser_->step(state_.step, rate, static_cast<std::int64_t>(batch.examples.size()));
}

void Trainer::log(double rate) {
  Json line = {{"step", state_.step},
               {"epoch", static_cast<double>(state_.step) / static_cast<double>(plan_.batches())},
               {"loss", value_.total},
               {"main", value_.main},
               {"lr", rate},
               {"gradient_norm", gradient_norm_},
               {"prompt_norm", parameters_.values().norm().item<double>()},
               {"seconds", state_.seconds}};
  if (!value_.fca.empty()) line["fca"] = value_.fca;
  if (recipe_.expert.tse > 0) line["tse"] = value_.tse;
  run_.append_metrics(line);
}

void Trainer::refuse_not_finite(const std::string& what, double value, const PromptBatch& batch) const {
  std::vector<std::string> ids;
  for (const std::int64_t index : batch.examples) ids.push_back(data_.train.examples[static_cast<std::size_t>(index)].id);
  throw Error({.what = "the " + what + " is not finite in the batch of examples " + listed(ids, 16, 60),
               .where = "step " + std::to_string(state_.step + 1),
               .expected = "a finite number",
               .got = std::to_string(value),
               .hint = run_.has_checkpoint() ? "the last good state is in " + run_.last().string() : "a lower train.lr may help"});
}

bool Trainer::evaluation_is_due() const {
  if (!data_.valid || state_.step == 0 || state_.evaluated_step >= state_.step) return false;
  if (state_.step == steps_.total) return true;
  const std::int64_t every = recipe_.train.eval_every * plan_.batches();
  return every > 0 && state_.step % every == 0;
}

/// False where a signal ended it early: it is then as if it had not begun.
bool Trainer::evaluate_now() {
  const Source& source = sources_.front();
  const std::optional<at::Tensor> scores =
      candidate_scores(source.model, *source.questions, *data_.valid,
                       {.prompt = &prompt_,
                        .shape = prompt_.shape(),
                        .shown = ShownPicture::prompted,
                        .score = {.reduction = recipe_.question.reduction, .format = recipe_.question.format},
                        .matmul_precision = recipe_.train.matmul_precision,
                        .batch = recipe_.train.batch,
                        .workers = static_cast<int>(recipe_.data.workers),
                        .seed = static_cast<std::uint64_t>(recipe_.train.seed),
                        .label = "validating",
                        .stop = [] { return StopSignals::received() != 0; }});
  if (!scores) return false;
  const std::vector<report::Metric> metrics = judge(recipe_.task, *scores, *data_.valid, std::nullopt);
  const std::string by = metric_of(recipe_.task);
  const auto metric = std::find_if(metrics.begin(), metrics.end(), [&](const report::Metric& one) { return one.name == by; });
  MMTUNE_ASSERT(metric != metrics.end());
  state_.evaluated_step = state_.step;
  const bool better = state_.best_step < 0 || std::isnan(state_.best_metric) || metric->value > state_.best_metric;
  if (better) {
    state_.best_step = state_.step;
    state_.best_metric = metric->value;
    save(run_.best());
  }
  run_.append_metrics({{"step", state_.step}, {"valid", train::to_json(metrics)}, {"best", better}});
  log_info("step " + std::to_string(state_.step) + ": valid " + by + " " + report::fixed(metric->value) +
           (better ? "  (best so far)" : ""));
  save(run_.last());
  return true;
}

bool Trainer::checkpoint_is_due() const {
  if (recipe_.train.checkpoint_every > 0) return state_.step % recipe_.train.checkpoint_every == 0;
  return Clock::now() - checkpointed_ > checkpoint_interval || state_.step % plan_.batches() == 0;
}

void Trainer::save(const std::filesystem::path& path) {
  train::save_state(path, state_, identity_, parameters_, optimiser_->state());
  if (path == run_.last()) checkpointed_ = Clock::now();
}

void Trainer::describe_progress() {
  record_["step"] = state_.step;
  record_["training_seconds"] = state_.seconds;
  record_["prompt_norm"] = parameters_.values().norm().item<double>();
  if (!times_.empty())
    record_["performance"] = {
        {"steps_timed", times_.size()}, {"median_step_seconds", train::median(times_)}, {"peak_memory_bytes", train::peak_memory()}};
}

void Trainer::note_failure(const std::string& message) try {
  record_["state"] = "failed";
  record_["error"] = message;
  describe_progress();
  run_.write_record(record_);
} catch (const std::exception&) {
  // The error that is on its way to the user matters more than this one.
}

train::TrainOutcome Trainer::outcome(train::TrainOutcome::End end) const {
  train::TrainOutcome outcome{.end = end, .steps = state_.step};
  if (data_.valid && state_.best_step >= 0) {
    outcome.metric = metric_of(recipe_.task);
    outcome.best = state_.best_metric;
  }
  return outcome;
}

train::TrainOutcome Trainer::interrupted() {
  save(run_.last());
  record_["state"] = "interrupted";
  describe_progress();
  run_.write_record(record_);
  train::TrainOutcome result = outcome(train::TrainOutcome::End::interrupted);
  result.signal = StopSignals::received() != 0 ? StopSignals::received() : SIGTERM;
  return result;
}

train::TrainOutcome Trainer::finish() {
  save(run_.last());
  describe_progress();
  std::int64_t kept = state_.step;
  if (recipe_.train.keep == KeptPrompt::best && state_.best_step >= 0 && state_.best_step != state_.step) {
    train::load_state(run_.best(), identity_, parameters_, {});
    kept = state_.best_step;
  }
  Json metadata = {{"version", version()},          {"recipe", to_toml(recipe_)},     {"data_fingerprint", data_.train.fingerprint},
                   {"sources", record_["sources"]}, {"classes", data_.train.classes}, {"step", kept}};
  const Json valid = state_.best_step >= 0 ? run_.validation_at(kept) : Json();
  if (!valid.is_null()) metadata["metric"] = valid;
  experts::save_prompt(prompt_, run_.experts(), metadata);
  record_["kept_step"] = kept;
  if (!valid.is_null()) record_["valid"] = valid;
  record_["state"] = "finished";
  run_.write_record(record_);
  return outcome(train::TrainOutcome::End::finished);
}

}  // namespace

train::TrainOutcome train_prompt(TvpRecipe& recipe, const train::TrainOptions& options, train::Communicator& all) {
  if (all.shared())
    throw UsageError({.what = "a visual prompt is trained by one process", .where = "mpirun", .expected = "mmtune train without mpirun"});
  train::set_threads(recipe.train.threads);
  train::RunFolder run = options.resume ? train::RunFolder::resume(options.out) : train::RunFolder::create(options.out);
  if (std::filesystem::exists(run.recipe())) run.refuse_another_recipe(to_toml(recipe));
  if (std::filesystem::exists(run.record()) && run.read_record().value("state", "") == "finished")
    return {.end = train::TrainOutcome::End::already_finished};
  Trainer trainer(recipe, std::move(run));
  try {
    return trainer.run();
  } catch (const std::exception& error) {
    trainer.note_failure(error.what());
    throw;
  }
}

}  // namespace mmtune::methods
