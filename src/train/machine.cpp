#include "train/machine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "nn/split_kernel.h"
#include "nn/split_product.h"
#include "train/device.h"

namespace mmtune::train {

Json describe_machine() {
  Json machine;
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string value = colon + 2 < line.size() ? line.substr(colon + 2) : "";
    if (line.starts_with("model name") && !machine.contains("cpu")) machine["cpu"] = value;
    if (line.starts_with("flags") && !machine.contains("cpu_flags")) {
      std::istringstream flags(value);
      Json kept = Json::array();
      for (std::string flag; flags >> flag;)
        if (flag.starts_with("avx") || flag.starts_with("amx") || flag == "fma" || flag == "f16c" || flag == "sse4_2") kept.push_back(flag);
      machine["cpu_flags"] = kept;
    }
  }
  machine["cores"] = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  machine["splits_products"] = nn::split_kernel() != nullptr;
  machine["multiplies_bfloat16"] = nn::multiplies_bfloat16();
  machine["threads"] = at::get_num_threads();
  machine["torch"] = TORCH_VERSION;
  machine["torch_kernels"] = at::get_cpu_capability();
  machine["compiler"] = __VERSION__;
  return machine;
}

std::int64_t set_threads(std::int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  return at::get_num_threads();
}

std::int64_t peak_memory() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

double gemm_rate(std::int64_t rows, std::int64_t width, at::Device device) {
  using Clock = std::chrono::steady_clock;
  const at::NoGradGuard no_grad;
  const at::TensorOptions kind = at::TensorOptions(at::kFloat).device(device);
  const at::Tensor x = at::full({std::max<std::int64_t>(rows, 1), width}, 0.5, kind);
  const at::Tensor w = at::full({4 * width, width}, 0.25, kind);
  const double macs = static_cast<double>(x.size(0)) * static_cast<double>(width) * static_cast<double>(4 * width);
  double best = 0;
  const auto begin = Clock::now();
  for (int i = 0; i < 3 || Clock::now() - begin < std::chrono::milliseconds(200); ++i) {
    const auto start = Clock::now();
    at::linear(x, w);
    finish_work(device);
    best = std::max(best, macs / std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9));
    if (i > 10000) break;
  }
  return best;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace mmtune::train
