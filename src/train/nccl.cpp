#include "train/nccl.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <array>
#include <cstddef>

#include "core/error.h"
#include "core/shared_library.h"

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

template <class Function>
bool find(const SharedLibrary& library, const char* name, Function*& function, std::string& reason) {
  function = library.find<Function>(name, reason);
  return function != nullptr;
}

/// Nothing, with the reason, where the library or one of its functions is missing. LibTorch uses it too.
bool load(const std::string& file, Functions& functions, std::string& reason) {
  const std::optional<SharedLibrary> library = SharedLibrary::open(file, reason);
  return library && find(*library, "ncclGetUniqueId", functions.get_unique_id, reason) &&
         find(*library, "ncclCommInitRank", functions.comm_init_rank, reason) &&
         find(*library, "ncclAllReduce", functions.all_reduce, reason) &&
         find(*library, "ncclCommDestroy", functions.comm_destroy, reason) &&
         find(*library, "ncclGetErrorString", functions.get_error_string, reason);
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
