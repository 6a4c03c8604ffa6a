#include "train/pretrain/model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace fs = std::filesystem;

PretrainModel::PretrainModel(const PretrainRecipe& recipe, std::int64_t text_width)
    : tower_(recipe.model, mix_seed(static_cast<std::uint64_t>(recipe.train.seed), 0)) {
  const nn::Weights fresh = nn::Weights::fresh(mix_seed(static_cast<std::uint64_t>(recipe.train.seed), 4));
  const auto head = [&](std::int64_t out, bool bias) {
    Head made{fresh.tensor("weight", {out, recipe.model.width}).requires_grad_(true), {}};
    if (bias) made.bias = at::zeros({out}, at::kFloat).requires_grad_(true);
    return made;
  };
  if (text_width > 0) {
    text_first_ = head(text_width, false);
    text_mean_ = head(text_width, false);
    log_scale_ = at::full({1}, -std::log(recipe.text->temperature), at::kFloat).requires_grad_(true);
  }
  if (recipe.teacher) {
    teacher_first_ = head(EfficientNetLite::width, true);
    teacher_mean_ = head(EfficientNetLite::width, true);
    patch_ = head(recipe.teacher->patch_width, true);
  }
}

void PretrainModel::list(nn::Parameters& parameters) const {
  for (const nn::NamedTensor& item : tower_.tensors()) parameters.add(item.name, item.tensor);
  const auto add = [&](const std::string& name, const Head& head) {
    if (head.weight.defined()) parameters.add(name + ".weight", head.weight);
    if (head.bias.defined()) parameters.add(name + ".bias", head.bias);
  };
  add("text_projection", text_first_);
  add("text_projection_mean", text_mean_);
  if (log_scale_.defined()) parameters.add("log_scale", log_scale_);
  add("teacher", teacher_first_);
  add("teacher_mean", teacher_mean_);
  add("teacher_patch", patch_);
}

LossTerms PretrainModel::losses(const PretrainBatch& batch, const at::Tensor& embeddings, bool half) const {
  const at::Tensor hidden = tower_(batch.pixels, half, batch.kept);
  const at::Tensor first = hidden.select(1, 0), patches = hidden.slice(1, 1), mean = patches.mean(1);
  LossTerms terms;
  if (text_first_.weight.defined()) {
    const at::Tensor log_scale = log_scale_.squeeze(0);
    terms["text"] = 0.5 * (text_loss(text_first_(first), embeddings, batch.targets, log_scale) +
                           text_loss(text_mean_(mean), embeddings, batch.targets, log_scale));
  }
  if (teacher_first_.weight.defined()) {
    const auto distance = [](const at::Tensor& a, const at::Tensor& b) { return 1.0 - at::cosine_similarity(a, b, -1).mean(); };
    terms["teacher"] = 0.5 * (distance(teacher_first_(first), batch.features) + distance(teacher_mean_(mean), batch.features));
    terms["patch"] = distance(patch_(patches), batch.cells);
  }
  return terms;
}

void PretrainModel::write(const fs::path& folder) const {
  const c10::NoGradGuard no_gradients;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error({.what = "cannot make the folder: " + error.message(), .where = folder.string()});
  Json config = vit_config(tower_.section());
  config["dtype"] = "float16";
  const std::int64_t side = tower_.section().image_size;
  const Json processor = {{"image_processor_type", "ViTImageProcessor"},
                          {"do_resize", true},
                          {"size", {{"height", side}, {"width", side}}},
                          {"resample", 2},
                          {"do_rescale", true},
                          {"rescale_factor", 1.0 / 255.0},
                          {"do_normalize", true},
                          {"image_mean", {0.5, 0.5, 0.5}},
                          {"image_std", {0.5, 0.5, 0.5}}};
  write_half(folder / "model.safetensors", tower_.tensors(), {{"format", "pt"}});
  if (text_first_.weight.defined())
    write_half(folder / "projection.safetensors",
               {{"text_projection.weight", text_first_.weight},
                {"text_projection_mean.weight", text_mean_.weight},
                {"logit_scale", log_scale_.squeeze(0).clamp_max(std::log(100.0)).exp()}},
               {});
  write_file_atomically(folder / "preprocessor_config.json", processor.dump(2) + "\n");
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace mmtune::train
