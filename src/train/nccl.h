#pragma once
// Sums over processes that compute on a GPU each, by NCCL. Its library comes with LibTorch's CUDA wheel (package nvidia-nccl) and is opened
// only where several processes have GPUs; its header is not needed: the few functions in use have kept their form since NCCL 2.0.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "train/communicator.h"

namespace mmtune::train {

class Nccl {
 public:
  virtual ~Nccl() = default;
  /// `values` (float32, contiguous, on this process' GPU) become their sum over all processes, in the order of LibTorch's default stream.
  /// All processes call it alike. Throws Error where NCCL says that it failed.
  virtual void sum(const at::Tensor& values) = 0;
};

/// For the processes of `host`, which exchanges what they need to find each other; all call it alike, each with its own GPU. Null, for all
/// of them, where one cannot: no library (`library` is looked for as dlopen does), or no way between the GPUs (two processes on one).
/// `reason` then says why this process could not; empty where another could not.
std::unique_ptr<Nccl> open_nccl(Communicator& host, at::Device device, std::string& reason, const std::string& library = "libnccl.so.2");

}  // namespace mmtune::train
