// A library with the functions of NCCL that mmtune calls, for one process and host memory: it refuses what NCCL would refuse, and an
// all-reduce triples its numbers, so that a test sees that it was called. MMTUNE_FAKE_NCCL_FAILS names a function that fails.
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

struct UniqueId {
  char bytes[128];
};
int communicator = 0;

bool fails(std::string_view name) {
  const char* const chosen = std::getenv("MMTUNE_FAKE_NCCL_FAILS");
  return chosen != nullptr && name == chosen;
}

}  // namespace

extern "C" {

int ncclGetUniqueId(UniqueId* id) {
  if (fails("ncclGetUniqueId")) return 2;
  for (int i = 0; i < 128; ++i) id->bytes[i] = static_cast<char>(255 - i);
  return 0;
}

int ncclCommInitRank(void** comm, int ranks, UniqueId id, int rank) {
  UniqueId expected;
  ncclGetUniqueId(&expected);
  if (fails("ncclCommInitRank") || ranks != 1 || rank != 0 || std::memcmp(&id, &expected, sizeof id) != 0) return 5;
  *comm = &communicator;
  return 0;
}

int ncclAllReduce(const void* send, void* receive, std::size_t count, int type, int operation, void* comm, void* stream) {
  if (fails("ncclAllReduce") || send != receive || type != 7 || operation != 0 || comm != &communicator || stream != nullptr) return 4;
  auto* const numbers = static_cast<float*>(receive);
  for (std::size_t i = 0; i < count; ++i) numbers[i] *= 3;
  return 0;
}

int ncclCommDestroy(void* comm) {
  return comm == &communicator ? 0 : 4;
}

const char* ncclGetErrorString(int code) {
  return code == 5 ? "invalid usage" : "another mistake";
}
}
