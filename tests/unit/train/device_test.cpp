// Devices: what their names mean here, and that a model computes on a GPU what it computes on the CPU.

#include "train/device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "experts/expert.h"

namespace mmtune::train {
namespace {

bool has_gpu() {
  return at::detail::getCUDAHooks().hasCUDA();
}

std::string message_of(const std::string& name) {
  try {
    open_device(name);
    return "";
  } catch (const UsageError& error) {
    return error.what();
  }
}

TEST(Devices, NamesAreCheckedAndCudaIsRefusedWithAReason) {
  EXPECT_TRUE(open_device("cpu").is_cpu());
  for (const std::string name : {"gpu", "cudda", "cuda:", "cuda:x", "cuda:-1", "cuda0", "CPU", ""}) {
    EXPECT_NE(message_of(name).find("train.device"), std::string::npos) << name;
    EXPECT_NE(message_of(name).find("no such device"), std::string::npos) << name;
  }
  if (has_gpu()) {
    EXPECT_TRUE(open_device("cuda").is_cuda());
    EXPECT_NE(message_of("cuda:99").find("there are only"), std::string::npos);
  } else {
    const std::string message = message_of("cuda");
    EXPECT_TRUE(message.find("built without CUDA") != std::string::npos || message.find("no CUDA device") != std::string::npos) << message;
  }
}

TEST(Devices, LeavesMoveInPlace) {
  const at::Tensor leaf = at::ones({2, 3}).requires_grad_(true);
  const auto* const same = leaf.unsafeGetTensorImpl();
  move_leaves({{"leaf", leaf}}, at::kCPU);
  EXPECT_EQ(leaf.unsafeGetTensorImpl(), same);
  if (!has_gpu()) return;
  move_leaves({{"leaf", leaf}}, open_device("cuda"));
  EXPECT_TRUE(leaf.is_cuda() && leaf.is_leaf() && leaf.requires_grad());
  EXPECT_EQ(leaf.unsafeGetTensorImpl(), same);
}

Json config_of(const std::string& family) {
  if (family == "swin")
    return {{"model_type", "swin"}, {"image_size", 12},    {"patch_size", 2}, {"embed_dim", 8},
            {"depths", {2, 1}},     {"num_heads", {2, 4}}, {"window_size", 4}};
  Json config = {
      {"model_type", family}, {"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}, {"num_hidden_layers", 2}};
  if (family == "vit" || family == "clip_vision_model") {
    config.update({{"image_size", 12}, {"patch_size", 4}});
  } else {
    config.update({{"vocab_size", 30}, {"max_position_embeddings", 20}, {"eos_token_id", 8}, {"pad_token_id", 1}});
  }
  return config;
}

struct Result {
  at::Tensor output;
  std::vector<at::Tensor> gradients;
};

Result run(const std::string& family, const std::string& kind, nn::Storage storage, bool padded, at::Device device) {
  const auto backbone = backbones::fresh_backbone(config_of(family), 21, std::nullopt, storage);
  backbone->move_to(device);
  const auto recipe = experts::expert_recipe(kind);
  recipe->read_config(Json::object(), "test");
  const auto expert = recipe->build(*backbone, at::detail::createCPUGenerator(9));
  move_leaves(expert->tensors(), device);
  backbones::ModelInputs inputs;
  if (backbone->info().modality == backbones::Modality::text) {
    inputs.text_layout = nn::Layout::packed({3, 6});
    if (padded) {
      at::Tensor mask = at::ones({3, 3}, at::kBool);
      mask[1][2].fill_(false);
      inputs.text_layout = nn::Layout::uniform(3, 3, mask);
    }
    inputs.input_ids = at::arange(9, at::kLong);
  } else {
    inputs.pixel_values = at::empty({2, 3, 12, 12}).normal_(0, 1, at::detail::createCPUGenerator(2));
  }
  const at::Tensor out = backbone->forward(moved_to(inputs, device), {.training = true, .recompute = padded}).last_hidden_state;
  (out * nn::beside(at::empty(out.sizes()).normal_(0, 1, at::detail::createCPUGenerator(3)), out)).sum().backward();
  Result result{.output = out.detach().to(at::kCPU)};
  for (const nn::NamedTensor& item : expert->tensors())
    if (item.tensor.grad().defined()) result.gradients.push_back(item.tensor.grad().to(at::kCPU));
  return result;
}

TEST(Devices, AGpuComputesWhatTheCpuDoes) {
  if (!has_gpu()) GTEST_SKIP() << "no CUDA device";
  const at::Device gpu = open_device("cuda");
  for (const std::string family : {"bert", "roberta", "vit", "clip_vision_model", "clip_text_model", "swin"}) {
    for (const std::string kind : {"lora", "adapter", "prefix", "prompt", "ia3", "bitfit", "full"}) {
      if (family == "swin" && kind == "prefix") continue;
      for (const bool padded : {false, true}) {
        SCOPED_TRACE(family + " " + kind + (padded ? " padded" : ""));
        const nn::Storage storage = kind == "lora" ? nn::Storage::f16 : nn::Storage::f32;
        const Result a = run(family, kind, storage, padded, at::kCPU), b = run(family, kind, storage, padded, gpu);
        EXPECT_TRUE(at::allclose(a.output, b.output, 1e-3, 1e-4));
        ASSERT_EQ(a.gradients.size(), b.gradients.size());
        for (std::size_t i = 0; i < a.gradients.size(); ++i) EXPECT_TRUE(at::allclose(a.gradients[i], b.gradients[i], 1e-2, 1e-3));
      }
    }
  }
}

TEST(Devices, GeneratorsRepeatOnEveryDevice) {
  std::vector<at::Device> devices{at::kCPU};
  if (has_gpu()) devices.push_back(open_device("cuda"));
  for (const at::Device device : devices) {
    const auto draw = [&](std::uint64_t seed) {
      return at::empty({100}, at::TensorOptions(at::kFloat).device(device)).normal_(0, 1, generator_on(device, seed));
    };
    EXPECT_TRUE(at::equal(draw(3), draw(3)));
    EXPECT_FALSE(at::equal(draw(3), draw(4)));
  }
}

}  // namespace
}  // namespace mmtune::train
