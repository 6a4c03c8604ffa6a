#pragma once
// Small MoPE experts, and what conditions them.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <memory>

#include "experts/mope.h"
#include "unit/backbones/tiny_backbones.h"

namespace mmtune::experts::mope_tests {

using backbones::Backbone;
using backbones::tiny::make_backbone;
using backbones::tiny::make_inputs;
using backbones::tiny::random;

inline constexpr std::int64_t condition_width = 6;

inline MopeOptions small(std::int64_t experts = 3) {
  MopeOptions options;
  options.experts = experts;
  options.prompt_length = 2;
  options.mapper_width = 5;
  options.complementary_widths = {condition_width};
  return options;
}

inline std::unique_ptr<Mope> make_mope(const MopeOptions& options, Backbone& backbone) {
  at::Generator generator = at::detail::createCPUGenerator(9);
  return std::make_unique<Mope>(options, backbone, generator);
}

inline nn::Context conditioned(std::int64_t batch) {
  nn::Context context;
  context.complementary = random({batch, condition_width}, 3);
  return context;
}

inline at::Tensor feature(Backbone& backbone, const backbones::ModelInputs& inputs, const nn::Context& context) {
  const backbones::ModelOutputs outputs = backbone.forward(inputs, context);
  return nn::mean_rows(outputs.last_hidden_state, outputs.layout);
}

}  // namespace mmtune::experts::mope_tests
