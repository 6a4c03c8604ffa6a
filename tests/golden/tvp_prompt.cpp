// Cases of TVP that need no language model: what is added to pixels, how it learns, and the two losses of its own.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "experts/visual_prompt.h"
#include "methods/prompt_optimiser.h"
#include "methods/tvp_losses.h"
#include "tvp_support.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using experts::PixelPrompt;
using experts::PromptForm;
using experts::PromptShape;

PixelPrompt prompt_of(const PromptShape& shape) {
  experts::check(shape, "");
  return {shape, at::detail::createCPUGenerator(1)};
}

/// One of the forms in pixel units, with gradients for every sample and for the prompt.
void run_pixel_form(Case& golden, const std::string& name, const PromptShape& base) {
  const std::string at = name + ".";
  if (!golden.has(at + "delta")) return;
  const Tensor pictures = picture_values(golden.take(at + "image_u8")), padded = experts::framed(pictures, base.frame);
  PromptShape shape = base;
  shape.image = pictures.size(-1);
  const PixelPrompt prompt = prompt_of(shape);
  fill_prompt(prompt, "perturbation", golden.take(at + "delta"));
  const Tensor delta = prompt.tensors().front().tensor;
  golden.compare(at + "padded", padded);
  golden.compare(at + "mask", prompt.masks().front());
  golden.compare(at + "prompted", prompt.prompted(padded, experts::clip_norm));
  const Tensor x = padded.clone().requires_grad_(true);
  const std::int64_t side = golden.has(at + "resized") ? golden.config("cross_target_size") : shape.frame;
  golden.compare(at + "resized", experts::resized_to(prompt.prompted(padded, experts::clip_norm), side), tvp_forward);
  const Tensor input = prompt.input(x, experts::clip_norm, side);
  golden.compare(at + "normalized", input, tvp_forward);
  (input * golden.take(at + "upstream")).sum().backward();
  golden.compare(at + "grad_noise", x.grad(), tvp_gradient);
  golden.compare(at + "grad_delta", delta.grad(), tvp_gradient);
}

/// One of VP's forms, which lie on pictures that are normalised already.
void run_normalised_form(Case& golden, const PromptShape& shape) {
  const std::string at = std::string(experts::name_of(shape.form)) + ".";
  if (!golden.has(at + "x")) return;
  const PixelPrompt prompt = prompt_of(shape);
  for (const nn::NamedTensor& one : prompt.tensors()) fill_prompt(prompt, one.name, golden.take(at + one.name));
  experts::PatchPlace place{0, 0};
  if (golden.has(at + "offset")) {
    const Tensor offset = golden.take(at + "offset");
    place = {offset[0].item<std::int64_t>(), offset[1].item<std::int64_t>()};
  }
  // A picture that is normalised by 0 and 1 is as it was.
  const Tensor out = prompt.input(golden.take(at + "x"), {{0, 0, 0}, {1, 1, 1}}, shape.frame, place);
  golden.compare(at + "out", out);
  (out * golden.take(at + "upstream")).sum().backward();
  for (const nn::NamedTensor& one : prompt.tensors()) golden.compare(at + "grad_" + one.name, one.tensor.grad(), tvp_gradient);
}

void run_params(Case& golden) {
  const std::int64_t frame = golden.config("frame"), width = golden.config("border");
  for (const char* name : {"border", "overlap", "cross"})
    run_pixel_form(golden, name, {.form = PromptForm::border, .frame = frame, .width = width});
  run_pixel_form(golden, "full", {.form = PromptForm::full, .frame = frame, .width = 0});
  for (const PromptForm form : {PromptForm::vp_padding, PromptForm::vp_fixed_patch, PromptForm::vp_random_patch})
    run_normalised_form(golden, {.form = form, .frame = frame, .width = width, .image = frame});
}

/// The prompt at its real size. Where the case has no prompt of its own, it is the released one, which lies beside it.
void run_real_size(Case& golden, const std::filesystem::path& folder) {
  const std::int64_t width = golden.config("border"), image = golden.config("image_size");
  const Tensor delta = golden.has("delta")
                           ? golden.take("delta")
                           : experts::load_prompt(folder / "official_visual_prompt.safetensors").prompt.tensors().front().tensor;
  const PixelPrompt prompt = border_prompt(delta, width, image);
  const std::int64_t frame = golden.config("frame");
  golden.check("border told by the zeros", *experts::border_width_of(delta), width);
  golden.compare("mask", prompt.masks().front().select(0, 0).to(at::kByte));
  const Tensor padded = experts::framed(picture_values(golden.take("image_u8")), frame);
  golden.compare("prompted", prompt.prompted(padded, experts::clip_norm));
  golden.compare("normalized", prompt.input(padded, experts::clip_norm, frame), tvp_forward);
}

/// The released prompt: whether what is read of it is what its description says.
void run_released(Case& golden) {
  const Tensor delta = golden.take("perturbation");
  const Json& told = golden.json().at("stats");
  const PixelPrompt prompt = experts::load_prompt(golden.folder() / (golden.name() + ".safetensors")).prompt;
  const auto border = prompt.masks().front().to(at::kBool);
  golden.check("inside is 0", delta.masked_select(border.logical_not()).eq(0).all().item<bool>(), true);
  golden.check("numbers of the border", border.sum().item<std::int64_t>(), told.at("border_elements"));
  golden.compare("perturbation", prompt.tensors().front().tensor);
  const auto close = [&](const char* what, double got) {
    if (std::abs(got - told.at(what).get<double>()) > 1e-4) golden.check(what, got, told.at(what));
  };
  close("min", delta.min().item<double>());
  close("max", delta.max().item<double>());
  close("l2", delta.norm().item<double>());
}

void run_steps(Case& golden) {
  const std::int64_t epochs = golden.config("epochs"), per_epoch = golden.config("steps_per_epoch"), width = golden.config("border");
  const double rate = golden.config_number("base_lr");
  const Tensor weights = golden.take("Wq"), target = golden.take("T");
  const Tensor first = golden.take("image_u8.0");
  const PixelPrompt prompt = border_prompt(golden.take("delta_init"), width, first.size(-1));
  golden.compare("mask", prompt.masks().front());
  nn::Parameters parameters;
  for (const nn::NamedTensor& one : prompt.tensors()) parameters.add(one.name, one.tensor);
  parameters.flatten();
  methods::PromptOptimiser optimiser({}, parameters, prompt.masks());
  const methods::PromptSteps steps{.total = epochs * per_epoch, .per_epoch = per_epoch, .epochs = epochs};
  std::vector<float> rates;
  for (std::int64_t step = 0; step < steps.total; ++step) {
    const double now = methods::prompt_rate(methods::PromptSchedule::cosine_epoch, rate, steps, step);
    if (step % per_epoch == 0) rates.push_back(static_cast<float>(now));
    const Tensor pictures = picture_values(golden.take("image_u8." + std::to_string(step % per_epoch)));
    const Tensor x = experts::framed(pictures, prompt.shape().frame).requires_grad_(true);
    parameters.gradients().zero_();
    const Tensor input = prompt.input(x, experts::clip_norm, prompt.shape().frame);
    ((input - target).square() * weights * 0.5).mean().backward();
    const std::string at = "step" + std::to_string(step) + ".";
    golden.compare(at + "grad_noise", x.grad(), tvp_gradient);
    const double norm = optimiser.step(step, now, pictures.size(0));
    golden.compare(at + "grad_norm", at::scalar_tensor(norm, at::kFloat), tvp_gradient);
    golden.compare(at + "delta", prompt.tensors().front().tensor, tvp_delta);
  }
  golden.compare("lr", at::tensor(rates));
}

void run_consistency(Case& golden) {
  const Tensor clean = golden.take("clean"), prompted = golden.take("prompted").clone().requires_grad_(true);
  golden.compare("per_token", at::norm(prompted - clean, 2, at::IntArrayRef{-1}, false));
  const Tensor loss = methods::feature_consistency(prompted, clean);
  golden.compare("loss", loss, tvp_forward);
  loss.backward();
  golden.compare("grad_prompted", prompted.grad(), tvp_gradient);
  const Tensor same = clean.clone().requires_grad_(true);
  const Tensor zero = methods::feature_consistency(same, clean);
  golden.compare("zero.loss", zero);
  zero.backward();
  golden.compare("zero.grad", same.grad(), tvp_gradient);
}

void run_semantics(Case& golden) {
  GoldenClip clip = golden_clip(golden, "w.", golden.take("caption_ids"));
  const Tensor pictures = picture_values(golden.take("image_u8")), delta = golden.take("delta");
  const std::int64_t image = pictures.size(-1);
  const PixelPrompt prompt = border_prompt(delta, *experts::border_width_of(delta), image);
  golden.compare("text_features", clip.captions, tvp_forward);
  for (std::int64_t pass = 0; golden.has("pass" + std::to_string(pass) + ".T"); ++pass) {
    const std::string at = "pass" + std::to_string(pass) + ".";
    const Tensor x = experts::framed(pictures, prompt.shape().frame).requires_grad_(true);
    const Tensor pixels = prompt.input(x, clip.model->norm(), clip.model->side());
    const Tensor scale = clip.model->log_scale();
    golden.compare(at + "logit_scale", scale);
    if (pass == 0) {
      golden.compare("normalized", pixels, tvp_forward);
      golden.compare("image_features", clip.model->embed_pictures(pixels), tvp_forward);
    }
    const Tensor e = clip.model->embed_pictures(pixels).detach(), u = clip.captions;
    const Tensor rows = at::matmul(e / e.norm(2, {-1}, true), (u / u.norm(2, {-1}, true)).t()) * scale.exp();
    golden.compare(at + "similarity", rows, tvp_similarity);
    const Tensor value = (*clip.model)(pixels, clip.captions);
    clip.model->clamp_scale();
    golden.compare(at + "T", value, tvp_similarity);
    Tensor delta_gradient = prompt.tensors().front().tensor;
    delta_gradient.mutable_grad() = at::Tensor();
    value.backward();
    golden.compare(at + "grad_noise", x.grad(), tvp_gradient);
    golden.compare(at + "grad_delta", delta_gradient.grad(), tvp_gradient);
  }
}

std::function<bool(const Case&)> named(const std::string& begin) {
  return [begin](const Case& one) { return one.json().value("case", "").starts_with(begin); };
}

}  // namespace

std::vector<Kind> tvp_prompt_kinds() {
  return {{"tvp: forms of a prompt", named("prompt_params"), run_params},
          {"tvp: prompt at real size", named("prompt_224"), [](Case& one) { run_real_size(one, one.folder()); }},
          {"tvp: the released prompt", named("official_visual_prompt"), run_released},
          {"tvp: steps", named("optim_step"), run_steps},
          {"tvp: feature consistency", named("fca_loss"), run_consistency},
          {"tvp: task semantics", named("tse_loss"), run_semantics}};
}

}  // namespace mmtune::golden
