#include "train/pretrain/answers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/ParallelGuard.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/option_writer.h"
#include "data/dataset.h"
#include "data/prefetch.h"
#include "experts/pixel_prompt.h"
#include "train/pretrain/augment.h"
#include "train/pretrain/loop.h"
#include "train/pretrain/young_speaker.h"
#include "vision/image.h"

namespace mmtune::train {

namespace {

constexpr std::uint64_t order_stream = 2, view_stream = 3;

/// A model that answers about pictures, or compares them with texts.
class AnswersJob final : public PretrainJob {
 public:
  explicit AnswersJob(AnswersRecipe& recipe)
      : recipe_(recipe), list_(read_pictures(recipe.data.pictures)), model_(std::make_unique<YoungSpeaker>(recipe, list_)) {}
  std::string identity() const override {
    return Fingerprint()
        .add_field(list_.fingerprint)
        .add_field(in_bfloat16(recipe_.train) ? "bfloat16" : "float32")
        .add_field(read_file(recipe_.model.config))
        .add_field(read_file(std::filesystem::path(recipe_.model.tokenizer) / "tokenizer.json"))
        .hex();
  }
  void list(nn::Parameters& parameters) const override {
    for (const nn::NamedTensor& one : model_->tensors()) parameters.add(one.name, one.tensor);
  }
  Json record() const override {
    return {{"precision", in_bfloat16(recipe_.train) ? "bfloat16" : "float32"},
            {"pictures", list_.pictures.size()},
            {"pictures_fingerprint", list_.fingerprint}};
  }
  bool prepare(const std::filesystem::path& run, const std::function<bool()>& stop) override;
  void begin(std::int64_t first, std::int64_t end) override;
  LossTerms losses() override;
  double weight_of(const std::string&) const override { return 1.0; }
  std::vector<std::string> examples() const override;
  void write(const std::filesystem::path& folder) const override { model_->write(folder); }

 private:
  SpeakerBatch make_batch(std::int64_t step) const;

  AnswersRecipe& recipe_;
  PictureList list_;
  std::unique_ptr<YoungSpeaker> model_;
  at::Tensor pictures_;      ///< [N, 3, C, C] uint8
  at::Tensor draw_weights_;  ///< [N]
  std::vector<std::int64_t> last_pictures_;
  std::unique_ptr<data::Prefetcher<SpeakerBatch>> batches_;
};

/// Decodes all pictures, a little larger than the model's, so that views can be cut out.
bool AnswersJob::prepare(const std::filesystem::path&, const std::function<bool()>& stop) {
  const std::int64_t side = model_->side() + model_->side() / 8;
  const auto count = static_cast<std::int64_t>(list_.pictures.size());
  at::Tensor rows = at::empty({count, side, side, 3}, at::kByte);
  const auto decode = [&](std::int64_t i) {
    const Picture& picture = list_.pictures[static_cast<std::size_t>(i)];
    const std::string bytes = data::read_media(picture.image);
    return vision::resize(vision::decode_image(std::as_bytes(std::span(bytes)), picture.image.display()), side, side,
                          vision::Filter::bicubic);
  };
  data::Prefetcher<vision::Image> images(0, count, decode, static_cast<int>(recipe_.data.workers), 64);
  Progress progress("decoding pictures", count, "pictures");
  auto* to = rows.data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    if (stop()) return false;
    const vision::Image image = *images.next();
    std::memcpy(to, image.pixels.data(), image.pixels.size());
    to += image.pixels.size();
    progress.update(i + 1);
  }
  pictures_ = rows.permute({0, 3, 1, 2}).contiguous();
  draw_weights_ = at::empty({count}, at::kDouble);
  for (std::int64_t i = 0; i < count; ++i) draw_weights_.data_ptr<double>()[i] = list_.pictures[static_cast<std::size_t>(i)].weight;
  return true;
}

void AnswersJob::begin(std::int64_t first, std::int64_t end) {
  batches_ = std::make_unique<data::Prefetcher<SpeakerBatch>>(
      first, end, [this](std::int64_t step) { return make_batch(step); }, static_cast<int>(recipe_.data.workers), 4);
}

/// Runs on a worker: everything here is a function of the step.
SpeakerBatch AnswersJob::make_batch(std::int64_t step) const {
  const c10::ParallelGuard one_thread(true);
  const at::NoGradGuard no_gradients;
  const auto seed = static_cast<std::uint64_t>(recipe_.train.seed), number = static_cast<std::uint64_t>(step);
  at::Generator order = seeded_generator(mix_seed(seed, order_stream), number);
  SpeakerBatch batch;
  const std::int64_t size = recipe_.train.batch, side = model_->side();
  const at::Tensor drawn = at::multinomial(draw_weights_, size, true, order);
  const at::Tensor which = at::rand({size}, order, at::TensorOptions(at::kDouble));
  at::Tensor mirror = at::empty({size}, at::kBool);
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t index = drawn.data_ptr<std::int64_t>()[i];
    const Picture& picture = list_.pictures[static_cast<std::size_t>(index)];
    const std::size_t count = recipe_.task == AnswersTask::answer ? picture.questions.size() : picture.texts.size();
    batch.pictures.push_back(index);
    batch.questions.push_back(std::min<std::int64_t>(static_cast<std::int64_t>(which.data_ptr<double>()[i] * static_cast<double>(count)),
                                                     static_cast<std::int64_t>(count) - 1));
    mirror.data_ptr<bool>()[i] = picture.mirror;
  }
  const AnswersViewsSection& views = recipe_.views;
  const PretrainViewsSection drawing{
      .min_area = views.min_area, .aspect = views.aspect, .whole = views.whole, .colour = views.colour, .grey = views.grey};
  const at::Tensor large =
      draw_views(pictures_.index_select(0, drawn), mirror, drawing, seeded_generator(mix_seed(seed, view_stream), number));
  at::Tensor shown = at::_upsample_bilinear2d_aa(large, {side, side}, false);
  if (views.framed > 0) {
    const experts::PromptShape shape = experts::PromptShape::usual(experts::PromptForm::border, side);
    const at::Tensor small = experts::framed(at::_upsample_bilinear2d_aa(large, {shape.image, shape.image}, false), side);
    const at::Tensor chosen = at::rand({size, 1, 1, 1}, order, at::TensorOptions(at::kFloat)) < views.framed;
    shown = at::where(chosen, small, shown);
  }
  batch.pixels = experts::clean_input(shown, experts::clip_norm, side).contiguous();
  return batch;
}

LossTerms AnswersJob::losses() {
  const SpeakerBatch batch = *batches_->next();
  last_pictures_ = batch.pictures;
  LossTerms terms;
  terms[recipe_.task == AnswersTask::answer ? "answer" : "contrast"] = model_->loss(batch);
  return terms;
}

std::vector<std::string> AnswersJob::examples() const {
  std::vector<std::string> ids;
  for (const std::int64_t picture : last_pictures_) ids.push_back(list_.pictures[static_cast<std::size_t>(picture)].id);
  return ids;
}

}  // namespace

PretrainOutcome pretrain_answers(AnswersRecipe& recipe, const PretrainOptions& options) {
  return run_pretraining(recipe.train, write_options(recipe), options, [&recipe] { return std::make_unique<AnswersJob>(recipe); });
}

}  // namespace mmtune::train
