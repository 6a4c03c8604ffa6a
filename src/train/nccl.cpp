#include "train/nccl.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>

#include <array>
#include <cstddef>

#include "core/error.h"

namespace mmtune::train {

namespace {

// As nccl.h declares them (NVIDIA's documentation of NCCL 2, "Types" and "Collective Communication Functions").
using Result = int;
using Comm = void*;
using Stream = void*;
struct UniqueId {
  std::array<char, 128> bytes;
};
constexpr Result success = 0;
constexpr int float32 = 7, sum_operation = 0;

struct Functions {
  Result (*get_unique_id)(UniqueId*) = nullptr;
  Result (*comm_init_rank)(Comm*, int, UniqueId, int) = nullptr;
  Result (*all_reduce)(const void*, void*, std::size_t, int, int, Comm, Stream) = nullptr;
  Result (*comm_destroy)(Comm) = nullptr;
  const char* (*get_error_string)(Result) = nullptr;
};

std::string last_dl_error() {
  const char* const text = ::dlerror();
  return printable(text != nullptr ? text : "no reason");
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

/// Nothing, with the reason, where the library or one of its functions is missing. It stays loaded: LibTorch uses it too.
bool load(const std::string& library, Functions& functions, std::string& reason) {
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  const bool found = handle != nullptr && find(handle, "ncclGetUniqueId", functions.get_unique_id) &&
                     find(handle, "ncclCommInitRank", functions.comm_init_rank) && find(handle, "ncclAllReduce", functions.all_reduce) &&
                     find(handle, "ncclCommDestroy", functions.comm_destroy) &&
                     find(handle, "ncclGetErrorString", functions.get_error_string);
  if (!found) reason = last_dl_error();
  return found;
}

bool all_can(Communicator& host, bool can) {
  float count = can ? 1.0F : 0.0F;
  host.sum({&count, 1});
  return count == static_cast<float>(host.size());
}

/// The leader's number, for all.
UniqueId spread(Communicator& host, const UniqueId& own) {
  std::array<float, sizeof(UniqueId)> numbers{};
  if (host.leads())
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(static_cast<unsigned char>(own.bytes[i]));
  host.sum(numbers);
  UniqueId id{};
  for (std::size_t i = 0; i < numbers.size(); ++i) id.bytes[i] = static_cast<char>(static_cast<unsigned char>(numbers[i]));
  return id;
}

class Opened final : public Nccl {
 public:
  Opened(const Functions& functions, Comm comm, at::Device device) : functions_(functions), comm_(comm), device_(device) {}
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() override { functions_.comm_destroy(comm_); }

  void sum(const at::Tensor& values) override {
    MMTUNE_ASSERT(values.device() == device_ && values.scalar_type() == at::kFloat && values.is_contiguous());
    const c10::DeviceGuard guard(device_);
    auto* const numbers = values.data_ptr<float>();
    // Null is LibTorch's default stream, which mmtune never leaves.
    const Result code =
        functions_.all_reduce(numbers, numbers, static_cast<std::size_t>(values.numel()), float32, sum_operation, comm_, nullptr);
    if (code != success)
      throw Error(
          {.what = "the GPUs could not exchange their gradients", .where = "NCCL", .got = printable(functions_.get_error_string(code))});
  }

 private:
  Functions functions_;
  Comm comm_;
  at::Device device_;
};

}  // namespace

std::unique_ptr<Nccl> open_nccl(Communicator& host, at::Device device, std::string& reason, const std::string& library) {
  reason.clear();
  Functions functions;
  if (!all_can(host, load(library, functions, reason))) return nullptr;
  const c10::DeviceGuard guard(device);
  const auto well = [&](Result code) {
    if (code != success) reason = printable(functions.get_error_string(code));
    return code == success;
  };
  UniqueId own{};
  if (!all_can(host, !host.leads() || well(functions.get_unique_id(&own)))) return nullptr;
  const UniqueId id = spread(host, own);
  Comm comm = nullptr;
  const bool joined = well(functions.comm_init_rank(&comm, host.size(), id, host.rank()));
  if (!all_can(host, joined)) {
    if (joined) functions.comm_destroy(comm);
    return nullptr;
  }
  return std::make_unique<Opened>(functions, comm, device);
}

}  // namespace mmtune::train
