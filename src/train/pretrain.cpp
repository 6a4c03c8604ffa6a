#include "train/pretrain.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/option_writer.h"
#include "core/signals.h"
#include "data/prefetch.h"
#include "io/checkpoint.h"
#include "train/augment.h"
#include "train/machine.h"
#include "train/optimiser.h"
#include "train/pretrain_model.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/state.h"

namespace mmtune::train {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Streams of random numbers; 0 and 4 belong to the model's tensors, 1 to the bank of views.
constexpr std::uint64_t order_stream = 2, noise_stream = 3;

TrainSection optimisation(const PretrainTrainSection& section) {
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
  Pretrainer(PretrainRecipe& recipe, RunFolder run) : recipe_(recipe), run_(std::move(run)) {}
  PretrainOutcome run();

 private:
  bool half() const {
    return recipe_.train.precision == Precision::bfloat16 || (recipe_.train.precision == Precision::automatic && fast_bfloat16());
  }
  std::string identity() const;
  void begin_or_resume();
  PretrainBatch make_batch(std::int64_t step) const;
  double weight_of(const std::string& term) const;
  void learn(const PretrainBatch& batch);
  [[noreturn]] void refuse_not_finite(const std::string& what, double value, const PretrainBatch& batch) const;
  void log(double learning_rate);
  void save();
  PretrainOutcome interrupted();
  PretrainOutcome finish();

  PretrainRecipe& recipe_;
  RunFolder run_;
  PictureList list_;
  std::unique_ptr<EfficientNetLite> teacher_;
  TextTargets texts_;
  std::unique_ptr<ViewBank> bank_;
  at::Tensor draw_weights_;  ///< [N]
  std::unique_ptr<PretrainModel> model_;
  nn::Parameters parameters_;
  std::unique_ptr<Optimiser> optimiser_;
  TrainState state_;
  Json record_;
  std::map<std::string, double> terms_;  ///< of the last step's loss
  double gradient_norm_ = 0;
  bool half_ = false;
  std::string start_;  ///< fingerprint of the tower that is gone on from
};

std::string Pretrainer::identity() const {
  return Fingerprint()
      .add_field(write_options(recipe_))
      .add_field(list_.fingerprint)
      .add_field(texts_.encoder)
      .add_field(teacher_ ? teacher_->fingerprint() : "")
      .add_field(half_ ? "bfloat16" : "float32")
      .add_field(start_)
      .hex();
}

PretrainOutcome Pretrainer::run() {
  const StopSignals signals;
  const auto stop = [] { return StopSignals::received() != 0; };
  half_ = half();
  if (!recipe_.model.start.empty()) start_ = io::backbone_fingerprint(io::Checkpoint::open(recipe_.model.start));
  list_ = read_pictures(recipe_.data.pictures);
  if (recipe_.teacher) teacher_ = std::make_unique<EfficientNetLite>(recipe_.teacher->weights, half_);
  if (recipe_.text) texts_ = embed_texts(recipe_.text->model, list_.pictures);
  begin_or_resume();
  bank_ = ViewBank::make(run_.path() / "views", {.list = &list_, .teacher = teacher_.get(), .recipe = &recipe_, .stop = stop});
  if (!bank_) return interrupted();
  draw_weights_ = at::empty({bank_->pictures()}, at::kDouble);
  for (std::int64_t i = 0; i < bank_->pictures(); ++i)
    draw_weights_.data_ptr<double>()[i] = list_.pictures[static_cast<std::size_t>(i)].weight;

  const Schedule schedule(optimisation(recipe_.train), recipe_.train.steps, 1);
  data::Prefetcher<PretrainBatch> batches(
      state_.step, recipe_.train.steps, [this](std::int64_t step) { return make_batch(step); }, static_cast<int>(recipe_.data.workers), 4);
  Progress progress("pretraining", recipe_.train.steps, "steps");
  auto saved = Clock::now();
  while (state_.step < recipe_.train.steps) {
    const auto begin = Clock::now();
    const double lr = recipe_.train.lr * schedule(state_.step);
    learn(*batches.next());
    optimiser_->step(state_.step, lr);
    ++state_.step;
    state_.seconds += seconds_since(begin);
    std::string note;
    for (const auto& [name, value] : terms_) note += name + " " + fixed(value) + " ";
    progress.update(state_.step, note);
    if (state_.step % recipe_.train.log_every == 0 || state_.step == recipe_.train.steps) log(lr);
    if (stop()) return interrupted();
    if (seconds_since(saved) > 60.0 * recipe_.train.checkpoint_minutes) {
      save();
      saved = Clock::now();
    }
  }
  progress.finish();
  return finish();
}

void Pretrainer::begin_or_resume() {
  model_ = std::make_unique<PretrainModel>(recipe_, recipe_.text ? texts_.embeddings.size(1) : 0);
  model_->list(parameters_);
  const TrainSection section = optimisation(recipe_.train);
  std::vector<OptimiserGroup> groups = flatten_into_groups(parameters_, section);
  optimiser_ = make_optimiser(section, parameters_, std::move(groups));
  if (run_.has_checkpoint()) {
    state_ = load_state(run_.last(), identity(), parameters_, optimiser_->state());
    log_info("resuming at step " + std::to_string(state_.step) + " of " + std::to_string(recipe_.train.steps));
    run_.rewind_metrics(state_.step, state_.step);
  } else {
    run_.rewind_metrics(0, 0);
    write_file_atomically(run_.recipe(), write_options(recipe_));
  }
  record_ = {{"command", "pretrain"},
             {"state", "running"},
             {"machine", describe_machine()},
             {"precision", half_ ? "bfloat16" : "float32"},
             {"steps", recipe_.train.steps},
             {"pictures", list_.pictures.size()},
             {"pictures_fingerprint", list_.fingerprint},
             {"texts", texts_.texts.size()},
             {"text_encoder", texts_.encoder},
             {"start", start_},
             {"teacher", teacher_ ? teacher_->fingerprint() : ""},
             {"trainable_parameters", parameters_.count()}};
  run_.write_record(record_);
}

/// Runs on a worker: everything here is a function of the step.
PretrainBatch Pretrainer::make_batch(std::int64_t step) const {
  const c10::ParallelGuard one_thread(true);
  const c10::NoGradGuard no_gradients;
  const auto seed = static_cast<std::uint64_t>(recipe_.train.seed), number = static_cast<std::uint64_t>(step);
  at::Generator order = seeded_generator(mix_seed(seed, order_stream), number);
  PretrainBatch batch;
  const at::Tensor drawn = at::multinomial(draw_weights_, recipe_.train.batch, true, order);
  const at::Tensor view = at::randint(bank_->views(), {recipe_.train.batch}, order, at::TensorOptions(at::kLong));
  for (std::int64_t i = 0; i < recipe_.train.batch; ++i) {
    batch.pictures.push_back(drawn.data_ptr<std::int64_t>()[i]);
    batch.views.push_back(view.data_ptr<std::int64_t>()[i]);
  }
  const std::int64_t patches = model_->tower().patches();
  const auto shown = std::max<std::int64_t>(std::llround(recipe_.noise.keep * static_cast<double>(patches)), 1);
  if (shown < patches && static_cast<double>(step) < recipe_.noise.whole_from * static_cast<double>(recipe_.train.steps))
    batch.kept = at::rand({recipe_.train.batch, patches}, order, at::TensorOptions(at::kFloat))
                     .argsort(std::int64_t{1})
                     .slice(1, 0, shown)
                     .contiguous();
  const at::Tensor pixels = bank_->gather_views(batch.pictures, batch.views).to(at::kFloat).div_(255.0);
  batch.pixels = add_noise(pixels, recipe_.noise, seeded_generator(mix_seed(seed, noise_stream), number)).sub(0.5).div_(0.5).contiguous();
  if (teacher_) {
    batch.features = bank_->gather_features(batch.pictures, batch.views);
    // The cell of the teacher's map that each patch lies in.
    const std::int64_t side = recipe_.model.image_size / recipe_.model.patch_size, grid = recipe_.views.size / EfficientNetLite::stride;
    const at::Tensor place = at::arange(side, at::kLong).div(side / grid, "floor");
    const at::Tensor cell = (place.unsqueeze(1) * grid + place.unsqueeze(0)).flatten().unsqueeze(0).expand({recipe_.train.batch, patches});
    const at::Tensor shown_cells = batch.kept.defined() ? cell.gather(1, batch.kept) : cell;
    const at::Tensor cells = bank_->gather_cells(batch.pictures, batch.views);
    batch.cells = cells.gather(1, shown_cells.unsqueeze(2).expand({-1, -1, cells.size(2)}));
  }
  if (recipe_.text) batch.targets = texts_.targets(batch.pictures);
  return batch;
}

double Pretrainer::weight_of(const std::string& term) const {
  if (term == "text") return recipe_.text->weight;
  return term == "patch" ? recipe_.teacher->patch_weight : recipe_.teacher->weight;
}

void Pretrainer::learn(const PretrainBatch& batch) {
  parameters_.gradients().zero_();
  const LossTerms terms = model_->losses(batch, texts_.embeddings, half_);
  at::Tensor loss = at::zeros({}, at::kFloat);
  for (const auto& [name, term] : terms) {
    const auto value = term.item<double>();
    if (!std::isfinite(value)) refuse_not_finite("loss", value, batch);
    terms_[name] = value;
    loss = loss + term * weight_of(name);
  }
  loss.backward();
  gradient_norm_ = clip_gradient(parameters_.gradients(), recipe_.train.clip);
  if (!std::isfinite(gradient_norm_)) refuse_not_finite("gradient", gradient_norm_, batch);
}

void Pretrainer::refuse_not_finite(const std::string& what, double value, const PretrainBatch& batch) const {
  constexpr std::size_t most = 16;
  std::string ids;
  for (std::size_t i = 0; i < std::min(most, batch.pictures.size()); ++i)
    ids += (i ? ", " : "") + printable(list_.pictures[static_cast<std::size_t>(batch.pictures[i])].id, 60);
  if (batch.pictures.size() > most) ids += " and " + std::to_string(batch.pictures.size() - most) + " more";
  throw Error({.what = "the " + what + " is not finite in the batch of pictures " + ids,
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
  model_->write(run_.path() / "model");
  record_["state"] = "finished";
  record_["seconds"] = state_.seconds;
  record_["peak_memory_bytes"] = peak_memory();
  run_.write_record(record_);
  return {.end = PretrainOutcome::End::finished, .steps = state_.step};
}

}  // namespace

PretrainOutcome pretrain(PretrainRecipe& recipe, const PretrainOptions& options) {
  set_threads(recipe.train.threads);
  RunFolder run = options.resume ? RunFolder::resume(options.out) : RunFolder::create(options.out);
  if (std::filesystem::exists(run.recipe()) && read_file(run.recipe()) != write_options(recipe))
    throw UsageError({.what = "the run was started with another recipe",
                      .where = run.recipe().string(),
                      .hint = "resume with the run's own recipe.toml, or start anew with another --out"});
  if (std::filesystem::exists(run.record()) && run.read_record().value("state", "") == "finished")
    return {.end = PretrainOutcome::End::already_finished, .steps = recipe.train.steps};
  return Pretrainer(recipe, std::move(run)).run();
}

}  // namespace mmtune::train
