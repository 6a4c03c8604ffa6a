#include "methods/tvp_losses.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "methods/picture_norm.h"
#include "nn/weights.h"

namespace mmtune::methods {

namespace {

constexpr std::size_t captions_a_pass = 64;

}  // namespace

at::Tensor feature_consistency(const at::Tensor& prompted, const at::Tensor& clean) {
  // The derivative of ATen's norm is 0 where the norm is.
  return at::norm(prompted - clean.detach(), 2, at::IntArrayRef{-1}, false).mean();
}

at::Tensor task_semantics(const at::Tensor& pictures, const at::Tensor& texts, const at::Tensor& log_scale) {
  const at::Tensor e = pictures / pictures.norm(2, {-1}, true), u = texts / texts.norm(2, {-1}, true);
  return log_scale.exp() * (e * u).sum(-1).mean();
}

CaptionModel::CaptionModel(const io::Checkpoint& checkpoint) : norm_(experts::clip_norm) {
  using backbones::Modality;
  const std::vector<Modality> towers = backbones::towers_of(checkpoint);
  const io::TensorEntry* scale = checkpoint.find("logit_scale");
  const auto has = [&](Modality modality) { return std::find(towers.begin(), towers.end(), modality) != towers.end(); };
  const auto refuse = [&] {
    throw UsageError({.what = "task semantics need a model that compares pictures and texts",
                      .where = checkpoint.folder().string(),
                      .expected = "CLIP with both towers, their projections and a logit_scale"});
  };
  if (!has(Modality::image) || !has(Modality::text) || scale == nullptr) refuse();
  pictures_ = backbones::open_backbone(checkpoint, Modality::image);
  texts_ = backbones::open_backbone(checkpoint, Modality::text);
  if (pictures_->info().projected == 0 || texts_->info().projected == 0) refuse();
  tokenizer_ = text::Tokenizer::open(checkpoint.folder());
  longest_ = texts_->info().max_length;
  log_scale_ = nn::to_tensor(*scale, checkpoint.mapping_of(*scale)).clone();
  norm_ = picture_norm_of(checkpoint.folder());
}

CaptionModel::CaptionModel(std::unique_ptr<backbones::Backbone> clip, at::Tensor log_scale, const experts::ChannelNorm& norm)
    : pictures_(std::move(clip)), log_scale_(std::move(log_scale)), norm_(norm) {}

CaptionModel::~CaptionModel() = default;

std::int64_t CaptionModel::side() const {
  return pictures_->info().image_height;
}

at::Tensor CaptionModel::embed(const std::vector<std::string>& captions) const {
  MMTUNE_ASSERT(tokenizer_ && texts_);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  for (std::size_t begin = 0; begin < captions.size(); begin += captions_a_pass) {
    const std::size_t end = std::min(begin + captions_a_pass, captions.size());
    std::vector<std::int64_t> ids, lengths;
    for (std::size_t i = begin; i < end; ++i) {
      const text::Encoding encoded = tokenizer_->encode(captions[i], {.max_length = longest_});
      ids.insert(ids.end(), encoded.ids.begin(), encoded.ids.end());
      lengths.push_back(static_cast<std::int64_t>(encoded.ids.size()));
    }
    backbones::ModelInputs inputs;
    inputs.text_layout = nn::Layout::packed(std::move(lengths));
    inputs.input_ids = at::tensor(ids, at::kLong);
    nn::Context context;
    context.read = nn::ReadRows::first;
    parts.push_back(texts_->forward(inputs, context).embeds);
  }
  return at::cat(parts);
}

at::Tensor CaptionModel::embed_pictures(const at::Tensor& pixels) const {
  backbones::ModelInputs inputs;
  inputs.pixel_values = pixels;
  nn::Context context;
  context.read = nn::ReadRows::first;
  return pictures_->forward(inputs, context).embeds;
}

at::Tensor CaptionModel::operator()(const at::Tensor& pixels, const at::Tensor& captions) const {
  return task_semantics(embed_pictures(pixels), captions, log_scale_);
}

void CaptionModel::clamp_scale() {
  log_scale_ = log_scale_.clamp(0.0, largest_log_scale);
}

}  // namespace mmtune::methods
