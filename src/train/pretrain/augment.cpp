#include "train/pretrain/augment.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "core/error.h"
#include "core/hash.h"

namespace mmtune::train {

namespace {

/// Numbers drawn evenly between `low` and `high`: [B].
class Draws {
 public:
  Draws(std::int64_t batch, at::Generator generator) : batch_(batch), generator_(std::move(generator)) {}
  at::Tensor operator()(double low, double high) { return at::empty({batch_}, at::kFloat).uniform_(low, high, generator_); }
  at::Tensor chance(double share) { return (*this)(0, 1) < share; }
  std::int64_t whole(std::int64_t low, std::int64_t high) {
    return at::randint(low, high + 1, {1}, generator_, at::TensorOptions(at::kLong)).item<std::int64_t>();
  }

 private:
  std::int64_t batch_;
  at::Generator generator_;
};

at::Tensor per_picture(const at::Tensor& values) {
  return values.view({-1, 1, 1, 1});
}

/// ITU-R BT.601 luma, as PIL's conversion to grey: [B, 1, H, W].
at::Tensor luma(const at::Tensor& rgb) {
  return rgb.select(1, 0).mul(0.299).add(rgb.select(1, 1), 0.587).add(rgb.select(1, 2), 0.114).unsqueeze(1);
}

}  // namespace

at::Generator seeded_generator(std::uint64_t seed, std::uint64_t counter) {
  return at::detail::createCPUGenerator(mix_seed(seed, counter));
}

at::Tensor draw_views(const at::Tensor& pictures, const at::Tensor& mirror, const PretrainViewsSection& section, at::Generator generator) {
  MMTUNE_ASSERT(pictures.dim() == 4 && pictures.size(1) == 3 && pictures.scalar_type() == at::kByte);
  Draws draw(pictures.size(0), std::move(generator));
  const at::Tensor area = draw(section.min_area, 1.0);
  const double stretch = std::log(section.aspect);
  const at::Tensor aspect = draw(-stretch, stretch).exp_();
  const at::Tensor whole = draw.chance(section.whole);
  const at::Tensor one = at::ones({}, at::kFloat);
  const at::Tensor across = at::where(whole, one, area.mul(aspect).sqrt_().clamp_max_(1.0));
  const at::Tensor down = at::where(whole, one, area.div(aspect).sqrt_().clamp_max_(1.0));
  const at::Tensor flipped = draw.chance(0.5).logical_and(mirror);
  at::Tensor transform = at::zeros({pictures.size(0), 2, 3}, at::kFloat);
  transform.select(1, 0).select(1, 0).copy_(at::where(flipped, -across, across));
  transform.select(1, 0).select(1, 2).copy_(draw(-1, 1).mul_(1.0 - across));
  transform.select(1, 1).select(1, 1).copy_(down);
  transform.select(1, 1).select(1, 2).copy_(draw(-1, 1).mul_(1.0 - down));
  const at::Tensor grid = at::affine_grid_generator(transform, pictures.sizes(), false);
  constexpr std::int64_t bilinear = 0, border = 1;
  at::Tensor x = at::grid_sampler_2d(pictures.to(at::kFloat).div_(255.0), grid, bilinear, border, false);

  const at::Tensor changed = draw.chance(0.6).to(at::kFloat);
  const auto factor = [&] { return changed.mul(draw(-section.colour, section.colour)).add_(1.0); };
  x = x.mul_(per_picture(factor()));
  const at::Tensor colourless = draw.chance(section.grey);
  const at::Tensor saturation = factor().masked_fill_(colourless, 0.0);
  const at::Tensor grey = luma(x);
  x = x.sub_(grey).mul_(per_picture(saturation)).add_(grey);
  const at::Tensor middle = grey.mean({1, 2, 3}, true);
  return x.sub_(middle).mul_(per_picture(factor())).add_(middle).clamp_(0.0, 1.0);
}

at::Tensor shrink(const at::Tensor& views, std::int64_t size) {
  MMTUNE_ASSERT(views.size(2) % size == 0 && views.size(3) % size == 0);
  return at::avg_pool2d(views, {views.size(2) / size, views.size(3) / size});
}

at::Tensor add_noise(const at::Tensor& views, const PretrainNoiseSection& section, at::Generator generator) {
  const std::int64_t height = views.size(2), width = views.size(3);
  Draws draw(views.size(0), std::move(generator));
  at::Tensor x = views;
  if (section.shift > 0) {
    const std::int64_t down = draw.whole(0, 2 * section.shift), across = draw.whole(0, 2 * section.shift);
    x = at::replication_pad2d(x, {section.shift, section.shift, section.shift, section.shift})
            .slice(2, down, down + height)
            .slice(3, across, across + width);
  }
  if (section.brightness > 0) {
    x = x.mul(per_picture(draw(1.0 - section.brightness, 1.0 + section.brightness)));
    x = x.add_(per_picture(draw(-section.brightness / 3, section.brightness / 3)));
  }
  if (section.erase > 0) {
    // Sides between an eighth and a half of the picture's.
    const at::Tensor h = draw(0.125, 0.5).mul_(static_cast<double>(height)), w = draw(0.125, 0.5).mul_(static_cast<double>(width));
    const at::Tensor top = draw(0, 1).mul_(static_cast<double>(height) - h), left = draw(0, 1).mul_(static_cast<double>(width) - w);
    const at::Tensor rows = at::arange(height, at::kFloat).view({1, -1}), columns = at::arange(width, at::kFloat).view({1, -1});
    const auto within = [](const at::Tensor& places, const at::Tensor& begin, const at::Tensor& size) {
      return places.ge(begin.unsqueeze(1)).logical_and(places.lt((begin + size).unsqueeze(1)));
    };
    const at::Tensor erased = within(rows, top, h)
                                  .unsqueeze(2)
                                  .logical_and(within(columns, left, w).unsqueeze(1))
                                  .logical_and(draw.chance(section.erase).view({-1, 1, 1}))
                                  .unsqueeze(1);
    x = x.masked_fill(erased, 0.5);
  }
  return x;
}

}  // namespace mmtune::train
