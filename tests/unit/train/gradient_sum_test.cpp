#include "train/gradient_sum.h"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "train/device.h"

namespace mmtune::train {
namespace {

/// Another process beside this one that always has the same numbers.
class Twins final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void sum(std::span<float> values) override {
    ++sums;
    for (float& value : values) value *= 2;
  }
  [[noreturn]] void end_all(int code) override { std::_Exit(code); }
  int sums = 0;
};

TEST(GradientSum, SumsGradientsAndNumbersAtOnce) {
  Twins all;
  GradientSum sum(all);
  const at::Tensor gradients = at::arange(5, at::kFloat);
  std::array<float, 2> numbers = {0.5F, 7.0F};
  sum(gradients, numbers);
  EXPECT_TRUE(gradients.equal(at::arange(5, at::kFloat) * 2));
  EXPECT_EQ(numbers, (std::array<float, 2>{1.0F, 14.0F}));
  sum(gradients, numbers);
  EXPECT_TRUE(gradients.equal(at::arange(5, at::kFloat) * 4));
  EXPECT_EQ(all.sums, 2);
}

struct Fails {
  explicit Fails(const char* function) { ::setenv("MMTUNE_FAKE_NCCL_FAILS", function, 1); }
  ~Fails() { ::unsetenv("MMTUNE_FAKE_NCCL_FAILS"); }
};

TEST(Nccl, FindsItsFunctionsAndSums) {
  const auto host = alone();
  std::string reason = "old";
  const auto nccl = open_nccl(*host, at::kCPU, reason, MMTUNE_FAKE_NCCL);
  ASSERT_TRUE(nccl) << reason;
  EXPECT_EQ(reason, "");
  const at::Tensor values = at::arange(7, at::kFloat);
  nccl->sum(values);
  EXPECT_TRUE(values.equal(at::arange(7, at::kFloat) * 3));
}

TEST(Nccl, SaysWhyItCannot) {
  const auto host = alone();
  std::string reason;
  EXPECT_FALSE(open_nccl(*host, at::kCPU, reason, "libno_such_nccl.so.2"));
  EXPECT_NE(reason.find("libno_such_nccl.so.2"), std::string::npos) << reason;
  const Fails fails("ncclCommInitRank");
  EXPECT_FALSE(open_nccl(*host, at::kCPU, reason, MMTUNE_FAKE_NCCL));
  EXPECT_EQ(reason, "invalid usage");
}

TEST(Nccl, AFailingSumIsAnError) {
  const auto host = alone();
  std::string reason;
  const auto nccl = open_nccl(*host, at::kCPU, reason, MMTUNE_FAKE_NCCL);
  ASSERT_TRUE(nccl) << reason;
  const Fails fails("ncclAllReduce");
  EXPECT_THROW(nccl->sum(at::ones({2})), Error);
}

/// One process that could not open it makes all of them go through the host.
TEST(Nccl, AllOrNone) {
  class OtherCannot final : public Communicator {
   public:
    int rank() const override { return 0; }
    int size() const override { return 2; }
    void sum(std::span<float>) override {}  // the other's share is nothing: it cannot
    [[noreturn]] void end_all(int code) override { std::_Exit(code); }
  } one;
  std::string reason;
  EXPECT_FALSE(open_nccl(one, at::kCPU, reason, MMTUNE_FAKE_NCCL));
  EXPECT_EQ(reason, "");
}

TEST(Nccl, SumsOnAGpu) {
  if (!at::detail::getCUDAHooks().hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const auto host = alone();
  std::string reason;
  const at::Device gpu = open_device("cuda");
  const auto nccl = open_nccl(*host, gpu, reason);
  ASSERT_TRUE(nccl) << reason;
  const at::Tensor values = at::arange(7, at::kFloat).to(gpu);
  nccl->sum(values);
  EXPECT_TRUE(values.cpu().equal(at::arange(7, at::kFloat)));
}

}  // namespace
}  // namespace mmtune::train
