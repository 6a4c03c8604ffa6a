#pragma once
// What a run says about the machine it ran on, and the yardstick that its speed is measured with.

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::train {

/// CPU model, instruction sets that matter, threads, versions of mmtune, LibTorch and the compiler.
Json describe_machine();

/// Sets the number of threads of all tensor operations; 0: one a core. Returns what is in force.
std::int64_t set_threads(std::int64_t threads);

/// Largest resident memory of this process so far, in bytes.
std::int64_t peak_memory();

/// Multiply-accumulates a second of a float32 matrix product [rows, width] × [width, 4·width] on `device`, or on the threads in force: the
/// best of several tries within about a fifth of a second.
double gemm_rate(std::int64_t rows, std::int64_t width, at::Device device = at::kCPU);

/// The middle value; 0 for none.
double median(std::vector<double> values);

}  // namespace mmtune::train
