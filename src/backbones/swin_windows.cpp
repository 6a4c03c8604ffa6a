#include "backbones/swin_windows.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// index_select along axis 1 by a permutation: its derivative is the same by the inverse, where autograd's own would add row by row.
class Permute : public torch::autograd::Function<Permute> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& order,
                            const at::Tensor& inverse) {
    context->saved_data["inverse"] = inverse;
    return x.index_select(1, order);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    return {gradients[0].index_select(1, context->saved_data["inverse"].toTensor()), {}, {}};
  }
};

std::int64_t windows_along(std::int64_t size, std::int64_t side) {
  return (size + side - 1) / side;
}

/// For a window of `side` and a table made for windows of `table_side`: the entry of every pair of places, [area·area].
at::Tensor relative_positions_of(std::int64_t side, std::int64_t table_side) {
  MMTUNE_ASSERT(side <= table_side);
  const at::Tensor place = at::arange(side * side, at::kLong);
  const at::Tensor row = place.floor_divide(side), column = place.remainder(side);
  const at::Tensor down = row.unsqueeze(1) - row.unsqueeze(0) + (table_side - 1);
  const at::Tensor across = column.unsqueeze(1) - column.unsqueeze(0) + (table_side - 1);
  return (down * (2 * table_side - 1) + across).flatten();
}

}  // namespace

Windows::Windows(std::int64_t height, std::int64_t width, std::int64_t side, std::int64_t shift, std::int64_t table_side, at::Device device)
    : patches_(height * width),
      side_(side),
      area_(side * side),
      down_(windows_along(height, side)),
      across_(windows_along(width, side)),
      count_(down_ * across_),
      shift_(shift),
      patch_of_(at::empty({count_ * area_}, at::kLong)),
      place_of_(at::empty({patches_}, at::kLong)),
      relative_positions_(relative_positions_of(side, table_side)) {
  auto* const patch = patch_of_.data_ptr<std::int64_t>();
  auto* const place = place_of_.data_ptr<std::int64_t>();
  const std::int64_t rows = down_ * side, columns = across_ * side;
  for (std::int64_t at = 0; at < count_ * area_; ++at) {
    const std::int64_t window = at / area_, within = at % area_;
    const std::int64_t row = (window / across_ * side + within / side + shift) % rows;
    const std::int64_t column = (window % across_ * side + within % side + shift) % columns;
    const bool there = row < height && column < width;
    patch[at] = there ? row * width + column : patches_;
    if (there) place[row * width + column] = at;
  }
  if (shift_ != 0) shift_mask_ = make_shift_mask().to(device);
  patch_of_ = patch_of_.to(device);
  place_of_ = place_of_.to(device);
  relative_positions_ = relative_positions_.to(device);
}

at::Tensor Windows::split(const at::Tensor& rows, std::int64_t batch, std::int64_t prompts, bool mixed) const {
  const std::int64_t width = rows.size(1), own = batch * (prompts + patches_);
  MMTUNE_ASSERT(rows.size(0) == own + (padded() ? 1 : 0));
  const at::Tensor pictures = (padded() ? rows.narrow(0, 0, own) : rows).view({batch, prompts + patches_, width});
  // The derivative of a narrow fills a tensor with zeros first, of however little it takes away.
  const at::Tensor patches = prompts == 0 ? pictures : pictures.narrow(1, prompts, patches_);
  at::Tensor places;
  if (padded()) {
    const at::Tensor filler = rows.narrow(0, own, 1).expand({batch, 1, width});
    places = at::cat({patches, filler}, 1).index_select(1, patch_of_);
  } else {
    places = Permute::apply(patches, patch_of_, place_of_);
  }
  if (prompts == 0) return places.view({-1, width});
  const at::Tensor own_prompts = pictures.narrow(1, 0, prompts);
  const at::Tensor front = mixed ? own_prompts.repeat({count_, 1, 1}).view({batch, count_, prompts, width})
                                 : own_prompts.unsqueeze(1).expand({batch, count_, prompts, width});
  return at::cat({front, places.view({batch, count_, area_, width})}, 2).view({-1, width});
}

at::Tensor Windows::join(const at::Tensor& windows, std::int64_t batch, std::int64_t prompts, bool mixed) const {
  const std::int64_t width = windows.size(1);
  const at::Tensor all = windows.view({batch, count_, prompts + area_, width});
  const at::Tensor places = (prompts == 0 ? all : all.narrow(2, prompts, area_)).reshape({batch, count_ * area_, width});
  const at::Tensor patches = padded() ? places.index_select(1, place_of_) : Permute::apply(places, place_of_, patch_of_);
  if (prompts == 0) return patches.view({-1, width});
  const at::Tensor front = all.narrow(2, 0, prompts);
  const at::Tensor averaged = mixed ? front.reshape({count_, batch, prompts, width}).mean(0) : front.mean(1);
  return at::cat({averaged, patches}, 1).view({-1, width});
}

at::Tensor Windows::shift_mask(std::int64_t prompts) const {
  return prompts == 0 || shift_ == 0 ? shift_mask_ : at::constant_pad_nd(shift_mask_, {prompts, 0, prompts, 0});
}

at::Tensor Windows::make_shift_mask() const {
  constexpr float apart = -100.0F;
  // The regions that a window at the lower or right edge can hold: before the last window, in it, and what the shift has brought there.
  const auto region = [this](std::int64_t at, std::int64_t size) { return (at >= size - side_ ? 1 : 0) + (at >= size - shift_ ? 1 : 0); };
  std::vector<std::int64_t> regions;
  for (std::int64_t window = 0; window < count_; ++window)
    for (std::int64_t within = 0; within < area_; ++within)
      regions.push_back(region(window / across_ * side_ + within / side_, down_ * side_) * 3 +
                        region(window % across_ * side_ + within % side_, across_ * side_));
  const at::Tensor of = at::tensor(regions, at::kLong).view({count_, area_});
  return at::zeros({count_, area_, area_}).masked_fill_(of.unsqueeze(1).ne(of.unsqueeze(2)), apart);
}

}  // namespace mmtune::backbones
