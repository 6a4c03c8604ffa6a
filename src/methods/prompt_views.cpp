#include "methods/prompt_views.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace mmtune::methods {

namespace {

/// 1 where the prompt trains, as one picture [3, F, F].
at::Tensor trained_places(const experts::PixelPrompt& prompt) {
  const experts::PromptShape& shape = prompt.shape();
  const std::int64_t f = shape.frame, p = shape.width;
  switch (shape.form) {
    case experts::PromptForm::border:
    case experts::PromptForm::vp_padding:
      return experts::PixelPrompt::border_mask(f, p);
    case experts::PromptForm::full:
      return at::ones({3, f, f});
    case experts::PromptForm::vp_fixed_patch:
    case experts::PromptForm::vp_random_patch:
      break;
  }
  at::Tensor mask = at::zeros({3, f, f});
  mask.narrow(1, 0, p).narrow(2, 0, p).fill_(1);
  return mask;
}

/// The value below which `share` of the sorted numbers lie.
double value_at(const at::Tensor& sorted, double share) {
  const auto last = static_cast<double>(sorted.numel() - 1);
  return sorted[std::llround(share * last)].item<double>();
}

/// Mean power over rings of one cycle's width: [rings][3].
std::vector<std::array<double, 3>> radial_power(const at::Tensor& power) {
  const std::int64_t f = power.size(-1), middle = f / 2, rings = middle + 1;
  const at::Tensor place = at::arange(f, at::kDouble) - static_cast<double>(middle);
  const at::Tensor ring = (place.square().unsqueeze(0) + place.square().unsqueeze(1)).sqrt().round().to(at::kLong).clamp_max(rings);
  const at::Tensor index = ring.flatten(), count = at::zeros({rings + 1}, at::kDouble).index_add(0, index, at::ones({f * f}, at::kDouble));
  std::vector<std::array<double, 3>> result(static_cast<std::size_t>(rings));
  for (std::int64_t c = 0; c < 3; ++c) {
    const at::Tensor sums = at::zeros({rings + 1}, at::kDouble).index_add(0, index, power[c].flatten()) / count.clamp_min(1);
    for (std::int64_t k = 0; k < rings; ++k) result[static_cast<std::size_t>(k)][static_cast<std::size_t>(c)] = sums[k].item<double>();
  }
  return result;
}

}  // namespace

vision::Image to_picture(const at::Tensor& pixels, std::int64_t* clipped) {
  MMTUNE_ASSERT(pixels.dim() == 3 && pixels.size(0) == 3);
  const at::Tensor scaled = (pixels.detach().to(at::kDouble) * 255.0).round();
  if (clipped != nullptr) *clipped += (scaled.lt(0).logical_or(scaled.gt(255))).sum().item<std::int64_t>();
  const at::Tensor bytes = scaled.clamp(0, 255).to(at::kByte).permute({1, 2, 0}).contiguous();
  vision::Image image{.width = bytes.size(1), .height = bytes.size(0), .pixels = {}};
  image.pixels.assign(bytes.const_data_ptr<std::uint8_t>(), bytes.const_data_ptr<std::uint8_t>() + bytes.numel());
  return image;
}

report::PromptView view_of(const experts::PixelPrompt& prompt) {
  const at::NoGradGuard no_grad;
  const at::Tensor picture = prompt.picture(experts::clip_norm).to(at::kDouble), mask = trained_places(prompt).to(at::kBool);
  const experts::PromptShape& shape = prompt.shape();
  report::PromptView view{
      .form = std::string(experts::name_of(shape.form)), .frame = shape.frame, .width = shape.width, .image = shape.image};
  const at::Tensor trained = picture.masked_select(mask);
  view.trained = trained.numel();
  view.l2 = trained.norm().item<double>();
  view.outside = trained.lt(0).logical_or(trained.gt(1)).to(at::kDouble).mean().item<double>();
  for (std::int64_t c = 0; c < 3; ++c) {
    const at::Tensor one = picture[c].masked_select(mask[c]);
    view.channels[static_cast<std::size_t>(c)] = {.min = one.min().item<double>(),
                                                  .max = one.max().item<double>(),
                                                  .mean = one.mean().item<double>(),
                                                  .std = one.numel() > 1 ? one.std().item<double>() : 0.0,
                                                  .l2 = one.norm().item<double>()};
  }
  view.clipped = to_picture(picture);
  const at::Tensor sorted = std::get<0>(trained.sort());
  const double low = value_at(sorted, 0.01), high = value_at(sorted, 0.99);
  view.stretched = to_picture(at::where(mask, (picture - low) / std::max(high - low, 1e-12), at::zeros_like(picture)));
  const std::int64_t axes[] = {-2, -1};
  const at::Tensor magnitude = at::fft_fftshift(at::fft_fft2(picture).abs(), axes), shown = (magnitude + 1e-6).log();
  const double least = shown.min().item<double>(), most = shown.max().item<double>();
  view.spectrum = to_picture((shown - least) / std::max(most - least, 1e-12));
  view.power = radial_power(magnitude.square());
  return view;
}

}  // namespace mmtune::methods
