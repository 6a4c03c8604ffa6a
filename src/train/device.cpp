#include "train/device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <mutex>

#include "core/error.h"

namespace mmtune::train {

namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what, const std::string& hint = {}) {
  throw UsageError({.what = what,
                    .where = "train.device",
                    .expected = "\"cpu\", \"cuda\" or \"cuda:N\"",
                    .got = "\"" + printable(name) + "\"",
                    .hint = hint});
}

/// The number of this process among those that a launcher started on this machine.
std::int64_t process_on_machine() {
  for (const char* variable : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"})
    if (const char* const text = std::getenv(variable)) return std::max(std::strtol(text, nullptr, 10), 0L);
  return 0;
}

}  // namespace

at::Device open_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  constexpr std::string_view cuda = "cuda";
  if (!name.starts_with(cuda)) refuse(name, "no such device");
  std::int64_t index = 0;
  if (name.size() > cuda.size()) {
    const char *const begin = name.data() + cuda.size() + 1, *const end = name.data() + name.size();
    const auto [stopped, error] = std::from_chars(begin, end, index);
    if (name[cuda.size()] != ':' || begin == end || error != std::errc() || stopped != end || index < 0) refuse(name, "no such device");
  }
  const auto& hooks = at::detail::getCUDAHooks();
  if (!hooks.hasCUDA()) {
#ifdef MMTUNE_TORCH_CUDA
    refuse(name, "no CUDA device can be used", "is there a GPU, and a driver that this LibTorch's CUDA can work with?");
#else
    refuse(name, "this LibTorch was built without CUDA", "build mmtune against a CUDA LibTorch: make build TORCH_DIR=…");
#endif
  }
  const at::DeviceIndex count = hooks.deviceCount();
  if (name == cuda) index = process_on_machine() % count;
  if (index >= count) refuse(name, "there are only " + std::to_string(count) + " CUDA devices");
  at::globalContext().lazyInitDevice(at::kCUDA);
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

at::Generator generator_on(at::Device device, std::uint64_t seed) {
  if (device.is_cpu()) return at::detail::createCPUGenerator(seed);
  at::Generator generator = at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  const std::lock_guard lock(generator.mutex());
  generator.set_current_seed(seed);
  return generator;
}

void finish_work(at::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

backbones::ModelInputs moved_to(const backbones::ModelInputs& inputs, at::Device device) {
  if (device.is_cpu()) return inputs;
  backbones::ModelInputs moved = inputs;
  moved.text_layout = inputs.text_layout.on(device);
  moved.audio_layout = inputs.audio_layout.on(device);
  for (at::Tensor* const tensor :
       {&moved.input_ids, &moved.token_type_ids, &moved.position_ids, &moved.inputs_embeds, &moved.pixel_values, &moved.input_values})
    if (tensor->defined()) *tensor = tensor->to(device, tensor->is_pinned());
  return moved;
}

void move_leaves(const std::vector<nn::NamedTensor>& leaves, at::Device device) {
  for (const nn::NamedTensor& item : leaves) {
    at::Tensor tensor = item.tensor;
    if (tensor.device() != device) tensor.set_data(tensor.detach().to(device));
  }
}

}  // namespace mmtune::train
