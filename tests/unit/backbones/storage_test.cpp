// Weights in half precision: a model computes what it would with float32 weights of the same values, in both directions, and keeps no
// float32 matrix.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "core/files.h"
#include "experts/expert.h"
#include "io/safetensors.h"

namespace mmtune::backbones {
namespace {

using nn::Storage;

struct Case {
  std::string family, kind;
  Storage storage;
};

Json config_of(const std::string& family) {
  if (family == "swin")
    return {{"model_type", "swin"}, {"image_size", 12},    {"patch_size", 2}, {"embed_dim", 8},
            {"depths", {2, 1}},     {"num_heads", {2, 4}}, {"window_size", 4}};
  Json config = {
      {"model_type", family}, {"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}, {"num_hidden_layers", 2}};
  if (family == "vit" || family == "clip_vision_model") {
    config.update({{"image_size", 12}, {"patch_size", 4}});
  } else {
    config.update({{"vocab_size", 30}, {"max_position_embeddings", 40}, {"eos_token_id", 8}});
  }
  return config;
}

ModelInputs inputs_of(const Backbone& backbone) {
  ModelInputs inputs;
  if (backbone.info().modality == Modality::text) {
    inputs.text_layout = nn::Layout::packed({3, 6});
    inputs.input_ids = at::arange(9, at::kLong);
  } else {
    inputs.pixel_values = at::empty({2, 3, 12, 12}).normal_(0, 1, at::detail::createCPUGenerator(2));
  }
  return inputs;
}

struct Result {
  at::Tensor output;
  std::map<std::string, at::Tensor> gradients;
};

Result run(Backbone& backbone, const std::string& kind) {
  const auto recipe = experts::expert_recipe(kind == "dora" ? "lora" : kind);
  recipe->read_config(kind == "dora" ? Json{{"use_dora", true}} : Json::object(), "test");
  const auto expert = recipe->build(backbone, at::detail::createCPUGenerator(9));
  at::Generator generator = at::detail::createCPUGenerator(10);
  for (const nn::NamedTensor& named : expert->tensors()) {
    const at::NoGradGuard no_grad;
    at::Tensor tensor = named.tensor;
    tensor.add_(at::empty(tensor.sizes()).normal_(0, 0.2, generator));
  }
  Result result{.output = backbone.forward(inputs_of(backbone), {.training = true}).last_hidden_state};
  (result.output * at::empty(result.output.sizes()).normal_(0, 1, generator)).sum().backward();
  for (const nn::NamedTensor& named : expert->tensors())
    if (named.tensor.grad().defined()) result.gradients[named.name] = named.tensor.grad();
  return result;
}

class StorageOf : public testing::TestWithParam<Case> {};

TEST_P(StorageOf, ComputesAsFloat32WeightsOfTheSameValues) {
  const auto [family, kind, storage] = GetParam();
  const auto half = fresh_backbone(config_of(family), 21, std::nullopt, storage), whole = fresh_backbone(config_of(family), 21);
  std::int64_t matrices = 0;
  for (std::size_t i = 0; i < half->sites().tensors.size(); ++i) {
    const nn::TensorSlot &stored = half->sites().tensors[i], &plain = whole->sites().tensors[i];
    ASSERT_EQ(stored.name, plain.name);
    if (stored.tensor->scalar_type() == at::kFloat) continue;
    ++matrices;
    *plain.tensor = stored.tensor->to(at::kFloat);
  }
  for (const nn::WeightSite* site : half->sites().weights)
    EXPECT_EQ(site->weight.scalar_type(), storage == Storage::f16 ? at::kHalf : at::kBFloat16) << site->name;
  EXPECT_GE(matrices, static_cast<std::int64_t>(half->sites().weights.size()));
  const Result a = run(*half, kind), b = run(*whole, kind);
  EXPECT_TRUE(at::allclose(a.output, b.output, 1e-5, 1e-6));
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, gradient] : b.gradients) {
    // Only of a full expert are the matrices themselves trained, from a float32 copy.
    EXPECT_EQ(a.gradients.at(name).scalar_type(), at::kFloat);
    EXPECT_TRUE(at::allclose(a.gradients.at(name), gradient, 1e-4, 1e-5)) << name;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string family : {"bert", "vit", "clip_vision_model", "clip_text_model", "swin"})
    for (const std::string kind : {"full", "bitfit", "lora", "dora", "ia3", "adapter", "prefix", "prompt"})
      if (family != "swin" || kind != "prefix") all.push_back({family, kind, kind == "lora" ? Storage::bf16 : Storage::f16});
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, StorageOf, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.family + "_" + info.param.kind; });

/// A file with one matrix, in `values`' own dtype.
std::shared_ptr<const io::SafetensorsFile> file_with(const at::Tensor& values) {
  static int number = 0;
  const auto path = std::filesystem::temp_directory_path() /
                    ("mmtune_storage_" + std::to_string(getpid()) + "_" + std::to_string(number++) + ".safetensors");
  const io::TensorEntry entry = nn::to_entry("w", values);
  io::write_safetensors(path, std::span(&entry, 1));
  auto file = std::make_shared<const io::SafetensorsFile>(io::SafetensorsFile::open(path));
  std::filesystem::remove(path);
  return file;
}

TEST(Stored, LiesOverTheFileWhereTheTypeIsTheSame) {
  const auto file = file_with(at::arange(6, at::kFloat).view({2, 3}).to(at::kHalf));
  const io::TensorEntry& entry = *file->find("w");
  const at::Tensor same = nn::to_stored(entry, file->mapping(), Storage::f16);
  EXPECT_EQ(same.const_data_ptr(), static_cast<const void*>(entry.data.data()));
  const at::Tensor other = nn::to_stored(entry, file->mapping(), Storage::bf16);
  EXPECT_EQ(other.scalar_type(), at::kBFloat16);
  EXPECT_EQ(other[1][2].item<float>(), 5.0F);
  EXPECT_EQ(nn::to_stored(entry, file->mapping(), Storage::f32)[1][2].item<float>(), 5.0F);
}

TEST(Stored, ForgottenPagesAreReadAgain) {
  const at::Tensor values = at::empty({600, 700}).normal_(0, 1, at::detail::createCPUGenerator(4));
  const auto file = file_with(values);
  const io::TensorEntry& entry = *file->find("w");
  EXPECT_TRUE(at::equal(nn::to_stored(entry, file->mapping(), Storage::f16), values.to(at::kHalf)));
  EXPECT_TRUE(at::equal(nn::to_tensor(entry, file->mapping()), values));
}

TEST(Stored, AWeightTooLargeForF16IsRefusedAndNotMadeInfinite) {
  const auto file = file_with(at::tensor(std::vector<float>{1, 70000}));
  const io::TensorEntry& entry = *file->find("w");
  EXPECT_THROW(nn::to_stored(entry, file->mapping(), Storage::f16), Error);
  EXPECT_NEAR(nn::to_stored(entry, file->mapping(), Storage::bf16)[1].item<float>(), 70000, 300);
}

}  // namespace
}  // namespace mmtune::backbones
