#include "mpi/functions.h"

#include <mpi.h>

#include <algorithm>
#include <climits>
#include <string>

namespace {

int sum(float* values, std::size_t count) {
  // MPI counts in int.
  while (count > 0) {
    const int part = static_cast<int>(std::min<std::size_t>(count, INT_MAX));
    const int code = MPI_Allreduce(MPI_IN_PLACE, values, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (code != MPI_SUCCESS) return code;
    values += part;
    count -= static_cast<std::size_t>(part);
  }
  return 0;
}

void explain(int code, char* text, std::size_t capacity) {
  std::string message(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  if (MPI_Error_string(code, message.data(), &length) != MPI_SUCCESS) length = 0;
  message.resize(static_cast<std::size_t>(std::max(length, 0)));
  const std::size_t size = std::min(message.size(), capacity - 1);
  std::copy_n(message.data(), size, text);
  text[size] = '\0';
}

void close() {
  MPI_Finalize();
}

void end_all(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
}

}  // namespace

const MmtuneMpi* mmtune_mpi_open() {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED) return nullptr;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  static MmtuneMpi functions{
      .abi = mmtune_mpi_abi, .rank = 0, .size = 1, .sum = sum, .explain = explain, .close = close, .end_all = end_all};
  MPI_Comm_rank(MPI_COMM_WORLD, &functions.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &functions.size);
  return &functions;
}
