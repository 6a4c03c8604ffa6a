#pragma once
// What libmmtune_mpi.so offers the program: the few MPI calls of a training behind plain functions, so that only this library knows
// mpi.h, and only a process under mpirun loads it.

#include <cstddef>

extern "C" {

struct MmtuneMpi {
  int abi;  ///< mmtune_mpi_abi of the library
  int rank;
  int size;
  /// In place, over all processes. 0, or an MPI error code.
  int (*sum)(float* values, std::size_t count);
  /// The meaning of an error code, into `text` of `capacity` bytes.
  void (*explain)(int code, char* text, std::size_t capacity);
  void (*close)();
  void (*end_all)(int code);
};

/// Starts MPI; to be called once. Null where it cannot.
const MmtuneMpi* mmtune_mpi_open();
}

inline constexpr int mmtune_mpi_abi = 1;
inline constexpr const char* mmtune_mpi_library = "libmmtune_mpi.so";
