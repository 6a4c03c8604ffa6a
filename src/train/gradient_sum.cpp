#include "train/gradient_sum.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "core/log.h"

namespace mmtune::train {

void GradientSum::open(const at::Tensor& gradients, std::size_t numbers) {
  at::Device place = at::kCPU;
  if (gradients.is_cuda()) {
    std::string reason;
    nccl_ = open_nccl(all_, gradients.device(), reason);
    if (nccl_) place = gradients.device();
    if (!reason.empty()) log_info("gradients are exchanged through host memory: " + reason);
  }
  exchange_ = at::empty({gradients.numel() + static_cast<std::int64_t>(numbers)}, at::TensorOptions(at::kFloat).device(place));
}

void GradientSum::operator()(const at::Tensor& gradients, std::span<float> numbers) {
  if (!exchange_.defined()) open(gradients, numbers.size());
  const std::int64_t count = gradients.numel(), more = static_cast<std::int64_t>(numbers.size());
  const at::Tensor exchanged = exchange_.narrow(0, 0, count), told = exchange_.narrow(0, count, more);
  const at::Tensor own = at::from_blob(numbers.data(), {more}, at::kFloat);
  exchanged.copy_(gradients);
  told.copy_(own);
  if (nccl_) {
    nccl_->sum(exchange_);
  } else {
    all_.sum({exchange_.data_ptr<float>(), static_cast<std::size_t>(exchange_.numel())});
  }
  gradients.copy_(exchanged);
  own.copy_(told);
}

}  // namespace mmtune::train
