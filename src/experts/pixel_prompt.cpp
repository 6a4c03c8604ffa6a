#include "experts/pixel_prompt.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

struct FormName {
  PromptForm form;
  std::string_view name;
};
constexpr std::array<FormName, 5> form_names = {{{PromptForm::border, "border"},
                                                 {PromptForm::full, "full"},
                                                 {PromptForm::vp_padding, "vp_padding"},
                                                 {PromptForm::vp_fixed_patch, "vp_fixed_patch"},
                                                 {PromptForm::vp_random_patch, "vp_random_patch"}}};

at::Tensor channel_tensor(const std::array<double, 3>& values) {
  return at::tensor(at::ArrayRef<double>(values.data(), values.size()), at::kDouble).to(at::kFloat).view({3, 1, 1});
}

at::Tensor normalised(const at::Tensor& pictures, const ChannelNorm& norm) {
  return (pictures - norm.mean_tensor().to(pictures.device())) / norm.std_tensor().to(pictures.device());
}

}  // namespace

std::string_view name_of(PromptForm form) {
  return std::find_if(form_names.begin(), form_names.end(), [&](const FormName& one) { return one.form == form; })->name;
}

PromptForm prompt_form_named(const std::string& name, const std::string& where) {
  std::string known;
  for (const FormName& one : form_names) {
    if (one.name == name) return one.form;
    known += (known.empty() ? "" : ", ") + std::string(one.name);
  }
  throw Error(
      {.what = "unknown form of a visual prompt", .where = where, .expected = "one of " + known, .got = "\"" + printable(name) + "\""});
}

PromptShape PromptShape::usual(PromptForm form, std::int64_t frame) {
  PromptShape shape{.form = form, .frame = frame, .width = std::max<std::int64_t>((frame * 30 + 112) / 224, 1), .image = frame};
  if (form == PromptForm::border) shape.image = std::max<std::int64_t>(frame - 2 * shape.width, 1);
  return shape;
}

void check(const PromptShape& shape, const std::string& key) {
  const auto refuse = [&](const std::string& field, const std::string& what, const std::string& expected, std::int64_t got) {
    throw UsageError({.what = what, .where = key + field, .expected = expected, .got = std::to_string(got)});
  };
  const std::string frame = std::to_string(shape.frame);
  if (shape.frame < 1) refuse("frame", "a frame of no size", "1 or more", shape.frame);
  if (shape.image < 1 || shape.image > shape.frame)
    refuse("image_size", "the picture does not fit into the frame", "1 to " + frame, shape.image);
  if ((shape.frame - shape.image) % 2 != 0)
    refuse("image_size", "the picture cannot stand in the middle of the frame: frame minus image_size is odd",
           "a number that " + frame + " exceeds by an even one", shape.image);
  if (shape.form == PromptForm::full) {
    if (shape.image != shape.frame) refuse("image_size", "a full prompt lies on a picture that fills the frame", frame, shape.image);
    return;
  }
  const bool meets = shape.form == PromptForm::vp_padding || shape.form == PromptForm::border;
  const std::int64_t most = meets ? (shape.frame - 1) / 2 : shape.frame - 1;
  if (shape.width < 1 || shape.width > most)
    refuse("width", "no such width in a frame of " + frame, "1 to " + std::to_string(most), shape.width);
  if (shape.form != PromptForm::border && shape.image != shape.frame)
    refuse("image_size", std::string(name_of(shape.form)) + " lies on a picture that fills the frame", frame, shape.image);
}

at::Tensor ChannelNorm::mean_tensor() const {
  return channel_tensor(mean);
}
at::Tensor ChannelNorm::std_tensor() const {
  return channel_tensor(std);
}

at::Tensor framed(const at::Tensor& pictures, std::int64_t frame) {
  const std::int64_t left = frame - pictures.size(-1), above = frame - pictures.size(-2);
  MMTUNE_ASSERT(left >= 0 && above >= 0 && left % 2 == 0 && above % 2 == 0);
  return at::constant_pad_nd(pictures, {left / 2, left / 2, above / 2, above / 2}, 0);
}

at::Tensor resized_to(const at::Tensor& pictures, std::int64_t side) {
  if (pictures.size(-1) == side && pictures.size(-2) == side) return pictures;
  return at::upsample_bicubic2d(pictures, {side, side}, false);
}

at::Tensor clean_input(const at::Tensor& framed_pictures, const ChannelNorm& norm, std::int64_t side) {
  return normalised(resized_to(framed_pictures, side), norm);
}

PixelPrompt::PixelPrompt(const PromptShape& shape, at::Generator generator) : shape_(shape) {
  const std::int64_t f = shape.frame, p = shape.width;
  const auto drawn = [&](const char* name, at::IntArrayRef size) { tensors_.push_back({name, normal_leaf(size, 1.0, generator)}); };
  switch (shape.form) {
    case PromptForm::border:
    case PromptForm::full:
      tensors_.push_back({"perturbation", leaf(at::zeros({3, f, f}))});
      break;
    case PromptForm::vp_padding:
      drawn("pad_up", {1, 3, p, f});
      drawn("pad_down", {1, 3, p, f});
      drawn("pad_left", {1, 3, f - 2 * p, p});
      drawn("pad_right", {1, 3, f - 2 * p, p});
      break;
    case PromptForm::vp_fixed_patch:
    case PromptForm::vp_random_patch:
      drawn("patch", {1, 3, p, p});
      break;
  }
}

const at::Tensor& PixelPrompt::tensor(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(), [&](const nn::NamedTensor& one) { return one.name == name; });
  MMTUNE_ASSERT(found != tensors_.end());
  return found->tensor;
}

at::Tensor PixelPrompt::border_mask(std::int64_t frame, std::int64_t width) {
  at::Tensor mask = at::ones({3, frame, frame});
  mask.narrow(1, width, frame - 2 * width).narrow(2, width, frame - 2 * width).zero_();
  return mask;
}

std::vector<at::Tensor> PixelPrompt::masks() const {
  if (shape_.form == PromptForm::border) return {border_mask(shape_.frame, shape_.width)};
  std::vector<at::Tensor> all;
  for (const nn::NamedTensor& one : tensors_) all.push_back(at::ones(one.tensor.sizes()));
  return all;
}

/// VP's forms as [1, 3, F, F], to be added to a normalised picture.
at::Tensor PixelPrompt::on_normalised(PatchPlace place) const {
  const std::int64_t f = shape_.frame, p = shape_.width;
  if (shape_.form == PromptForm::vp_padding) {
    const at::Tensor base = at::zeros({1, 3, f - 2 * p, f - 2 * p}, tensor("pad_up").options().requires_grad(false));
    const at::Tensor middle = at::cat({tensor("pad_left"), base, tensor("pad_right")}, 3);
    return at::cat({tensor("pad_up"), middle, tensor("pad_down")}, 2);
  }
  const auto [row, column] = place;
  return at::constant_pad_nd(tensor("patch"), {column, f - p - column, row, f - p - row}, 0);
}

at::Tensor PixelPrompt::input(const at::Tensor& framed_pictures, const ChannelNorm& norm, std::int64_t side, PatchPlace place) const {
  MMTUNE_ASSERT(framed_pictures.size(-1) == shape_.frame && framed_pictures.size(-2) == shape_.frame);
  if (shape_.before_normalisation()) return normalised(resized_to(framed_pictures + tensor("perturbation"), side), norm);
  return resized_to(normalised(framed_pictures, norm) + on_normalised(place), side);
}

at::Tensor PixelPrompt::prompted(const at::Tensor& framed_pictures, const ChannelNorm& norm, PatchPlace place) const {
  return framed_pictures + picture(norm, place);
}

at::Tensor PixelPrompt::picture(const ChannelNorm& norm, PatchPlace place) const {
  if (shape_.before_normalisation()) return tensor("perturbation");
  return on_normalised(place).squeeze(0) * norm.std_tensor().to(tensors_.front().tensor.device());
}

bool PixelPrompt::is_zero() const {
  return std::all_of(tensors_.begin(), tensors_.end(), [](const nn::NamedTensor& one) { return one.tensor.eq(0).all().item<bool>(); });
}

PatchPlace PixelPrompt::draw_place(at::Generator& generator) const {
  if (shape_.form != PromptForm::vp_random_patch) return {0, 0};
  const at::Tensor drawn = at::randint(shape_.frame - shape_.width, {2}, generator, at::TensorOptions(at::kLong));
  return {drawn[0].item<std::int64_t>(), drawn[1].item<std::int64_t>()};
}

std::optional<std::int64_t> border_width_of(const at::Tensor& perturbation) {
  const std::int64_t frame = perturbation.size(-1);
  const at::Tensor place = at::arange(frame, at::kLong);
  const at::Tensor edge = at::minimum(place, frame - 1 - place);
  const at::Tensor depth = at::minimum(edge.unsqueeze(0), edge.unsqueeze(1));
  const at::Tensor there = perturbation.detach().to(at::kCPU).ne(0).any(0);
  if (!there.any().item<bool>()) return std::nullopt;
  return depth.masked_select(there).max().item<std::int64_t>() + 1;
}

}  // namespace mmtune::experts
