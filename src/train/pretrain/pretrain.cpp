#include "train/pretrain/pretrain.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/hash.h"
#include "core/option_writer.h"
#include "data/prefetch.h"
#include "io/checkpoint.h"
#include "train/pretrain/augment.h"
#include "train/pretrain/model.h"

namespace mmtune::train {

namespace {

/// Streams of random numbers; 0 and 4 belong to the model's tensors, 1 to the bank of views.
constexpr std::uint64_t order_stream = 2, noise_stream = 3;

/// A vision tower beside a text encoder, a teacher or both.
class TowerJob final : public PretrainJob {
 public:
  explicit TowerJob(PretrainRecipe& recipe);
  std::string identity() const override;
  void list(nn::Parameters& parameters) const override { model_->list(parameters); }
  Json record() const override;
  bool prepare(const std::filesystem::path& run, const std::function<bool()>& stop) override;
  void begin(std::int64_t first, std::int64_t end) override;
  LossTerms losses() override;
  double weight_of(const std::string& term) const override;
  std::vector<std::string> examples() const override;
  void write(const std::filesystem::path& folder) const override { model_->write(folder); }

 private:
  PretrainBatch make_batch(std::int64_t step) const;

  PretrainRecipe& recipe_;
  bool half_ = false;
  std::string start_;  ///< fingerprint of the tower that is gone on from
  PictureList list_;
  std::unique_ptr<EfficientNetLite> teacher_;
  TextTargets texts_;
  std::unique_ptr<ViewBank> bank_;
  at::Tensor draw_weights_;  ///< [N]
  std::unique_ptr<PretrainModel> model_;
  std::vector<std::int64_t> last_pictures_;
  std::unique_ptr<data::Prefetcher<PretrainBatch>> batches_;
};

TowerJob::TowerJob(PretrainRecipe& recipe) : recipe_(recipe), half_(in_bfloat16(recipe.train)) {
  if (!recipe_.model.start.empty()) start_ = io::backbone_fingerprint(io::Checkpoint::open(recipe_.model.start));
  list_ = read_pictures(recipe_.data.pictures);
  if (recipe_.teacher) teacher_ = std::make_unique<EfficientNetLite>(recipe_.teacher->weights, half_);
  if (recipe_.text) texts_ = embed_texts(recipe_.text->model, list_.pictures);
  model_ = std::make_unique<PretrainModel>(recipe_, recipe_.text ? texts_.embeddings.size(1) : 0);
}

std::string TowerJob::identity() const {
  return Fingerprint()
      .add_field(list_.fingerprint)
      .add_field(texts_.encoder)
      .add_field(teacher_ ? teacher_->fingerprint() : "")
      .add_field(half_ ? "bfloat16" : "float32")
      .add_field(start_)
      .hex();
}

Json TowerJob::record() const {
  return {{"precision", half_ ? "bfloat16" : "float32"},
          {"pictures", list_.pictures.size()},
          {"pictures_fingerprint", list_.fingerprint},
          {"texts", texts_.texts.size()},
          {"text_encoder", texts_.encoder},
          {"start", start_},
          {"teacher", teacher_ ? teacher_->fingerprint() : ""}};
}

bool TowerJob::prepare(const std::filesystem::path& run, const std::function<bool()>& stop) {
  bank_ = ViewBank::make(run / "views", {.list = &list_, .teacher = teacher_.get(), .recipe = &recipe_, .stop = stop});
  if (!bank_) return false;
  draw_weights_ = at::empty({bank_->pictures()}, at::kDouble);
  for (std::int64_t i = 0; i < bank_->pictures(); ++i)
    draw_weights_.data_ptr<double>()[i] = list_.pictures[static_cast<std::size_t>(i)].weight;
  return true;
}

void TowerJob::begin(std::int64_t first, std::int64_t end) {
  batches_ = std::make_unique<data::Prefetcher<PretrainBatch>>(
      first, end, [this](std::int64_t step) { return make_batch(step); }, static_cast<int>(recipe_.data.workers), 4);
}

LossTerms TowerJob::losses() {
  const PretrainBatch batch = *batches_->next();
  last_pictures_ = batch.pictures;
  return model_->losses(batch, texts_.embeddings, half_);
}

std::vector<std::string> TowerJob::examples() const {
  std::vector<std::string> ids;
  for (const std::int64_t picture : last_pictures_) ids.push_back(list_.pictures[static_cast<std::size_t>(picture)].id);
  return ids;
}

/// Runs on a worker: everything here is a function of the step.
PretrainBatch TowerJob::make_batch(std::int64_t step) const {
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

double TowerJob::weight_of(const std::string& term) const {
  if (term == "text") return recipe_.text->weight;
  return term == "patch" ? recipe_.teacher->patch_weight : recipe_.teacher->weight;
}

}  // namespace

PretrainOutcome pretrain(PretrainRecipe& recipe, const PretrainOptions& options) {
  return run_pretraining(recipe.train, write_options(recipe), options, [&recipe] { return std::make_unique<TowerJob>(recipe); });
}

}  // namespace mmtune::train
