#pragma once
// Where a model computes: the CPU, or a CUDA device where LibTorch has any.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "nn/parameters.h"

namespace mmtune::train {

/// "cpu", "cuda:N", or "cuda": the first one, or under mpirun the one with the number that the process has on its machine. Throws
/// UsageError: another name, a LibTorch without CUDA, no such device.
at::Device open_device(const std::string& name);
/// A generator for tensors on `device`.
at::Generator generator_on(at::Device device, std::uint64_t seed);
/// Waits until the device has done all that it was told.
void finish_work(at::Device device);

/// A batch on `device`; copies from pinned memory overlap with what the device does.
backbones::ModelInputs moved_to(const backbones::ModelInputs& inputs, at::Device device);
/// Moves trainable leaves in place: whoever holds one keeps holding it.
void move_leaves(const std::vector<nn::NamedTensor>& leaves, at::Device device);

}  // namespace mmtune::train
