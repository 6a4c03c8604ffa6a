// Golden cases of MoPE: pieces (prompt generation, importance losses), stacks (BERT, Swin), and the whole classifier with one optimiser
// step. What each case is follows from the tensors that it holds, never from its name.

#include <ATen/ATen.h>

#include <regex>

#include "core/error.h"
#include "mope_stacks.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using experts::Mope;
using experts::MopeMapper;
using experts::MopeOptions;
using experts::MopeRouting;
using experts::MopeVariant;

/// Sites without a model behind them: for cases that hold the blocks' inputs and no block.
class BareBackbone final : public backbones::Backbone {
 public:
  BareBackbone(backbones::Modality modality, std::int64_t count, std::int64_t width) {
    for (std::int64_t i = 0; i < count; ++i)
      own_.push_back({.name = "block." + std::to_string(i), .width = width, .layer = i, .last = i + 1 == count});
    for (nn::SequenceSite& site : own_) sites_.sequences.push_back(&site);
    info_ = {.architecture = "bare",
             .modality = modality,
             .width = width,
             .layers = count,
             .has_class_token = false,
             .max_length = 1 << 20,
             .image_height = 8,
             .image_width = 8,
             .image_channels = 3};
  }
  backbones::ModelOutputs forward(const backbones::ModelInputs&, const nn::Context&) override { return {}; }
  std::int64_t macs(std::int64_t, bool) const override { return 0; }
  backbones::TensorMap forward_named(const backbones::TensorMap&, const nn::Context&) override { return {}; }

 private:
  std::vector<nn::SequenceSite> own_;
};

MopeOptions options_of(const Case& golden) {
  MopeOptions options;
  options.temperature = golden.constant("temperature");
  options.importance_threshold = golden.constant("importance_threshold");
  options.importance_weight = golden.constant("w_imp");
  return options;
}

void ignore_unused(Case& golden) {
  for (const char* list : {"trainable_without_gradient", "frozen"})
    for (const Json& name : golden.json().at(list)) golden.ignore("weight." + name.get<std::string>());
}

/// Mapper, router, mixture and prompts of one block.
void prompt_generation(Case& golden) {
  const Tensor x = leaf_of(golden, "input.x_block"), y = leaf_of(golden, "input.y");
  const std::int64_t batch = x.size(0), rows = x.size(1), width = x.size(2);
  const Tensor table = golden.take("weight.experts");
  MopeOptions options = options_of(golden);
  options.experts = table.size(0) - 1;
  options.prompt_length = table.size(2);
  options.mapper_width = golden.take("weight.mapper.0.weight").size(0);
  options.complementary_widths = {y.size(1)};
  options.router_main = golden.take("weight.block.mm_prompt_self_proj.weight").size(0);
  options.router_complementary = golden.take("weight.block.mm_prompt_cross_proj.weight").size(0);
  BareBackbone backbone(backbones::Modality::image, 2, width);
  at::Generator generator = at::detail::createCPUGenerator(1);
  Mope mope(options, backbone, generator);

  std::smatch found;
  const auto notes = golden.json().at("notes").get<std::string>();
  const std::int64_t j = std::regex_search(notes, found, std::regex("block index j=([0-9]+)")) ? std::stoll(found[1].str()) : 1;
  Bindings bindings(golden);
  bindings.bind("experts", tensor_of(mope, "block.1.static"), [j](const Tensor& t) { return t.select(1, j).select(0, 0); });
  bindings.bind("experts", tensor_of(mope, "block.1.experts"), [j](const Tensor& t) { return t.select(1, j).narrow(0, 1, t.size(0) - 1); });
  for (const char* part : {"weight", "bias"}) {
    const std::string p(part);
    bindings.bind("mapper.0." + p, tensor_of(mope, "mapper.dense." + p));
    bindings.bind("mapper.1." + p, tensor_of(mope, "mapper.norm." + p));
    bindings.bind("proj." + p, tensor_of(mope, "mapper.projection." + p));
    bindings.bind("block.mm_prompt_self_proj." + p, tensor_of(mope, "block.1.router.main." + p));
    bindings.bind("block.mm_prompt_cross_proj." + p, tensor_of(mope, "router.complementary." + p));
  }
  bindings.bind("mapper.1.running_mean", tensor_of(mope, "mapper.norm.running_mean"));
  bindings.bind("mapper.1.running_var", tensor_of(mope, "mapper.norm.running_var"));
  bindings.bind("block.mm_frozen_expert_key_embed", tensor_of(mope, "block.1.router.keys"));
  ignore_unused(golden);

  Tensor noise = golden.take("input.noise.router");
  mope.set_probe({.noise = [&](std::size_t) { return noise; }});
  nn::Context context;
  context.complementary = y;
  nn::Tokens tokens{x.view({batch * rows, width}), nn::Layout::uniform(batch, rows)};
  tokens.prompt_count = mope.prompts();
  for (nn::SequenceSite* site : backbone.sites().sequences) site->hook->before_block(tokens, context);

  const Tensor prompts = tokens.prompts(), hidden = mope.mapper().hidden(y);
  golden.compare("out.prompts", prompts);
  golden.compare("out.sequence_with_new_prompts", tokens.rows.view({batch, rows, width}));
  golden.compare("out.static_prompt", prompts.narrow(1, 0, options.prompt_length));
  golden.compare("mid.mapper_hidden", hidden);
  golden.compare("mid.mapped_prompt", mope.mapper().tokens(hidden).at(0).unsqueeze(1));
  compare_routing(golden, "mid.router.", mope.routing().at(0), options);
  golden.compare("mid.router.dynamic_prompt", mope.routing().at(0).dynamic);
  golden.compare("loss.importance", mope.importance());
  const Tensor total = with_importance(mope, (prompts * golden.take("input.probe")).sum());
  golden.compare("loss.total", total);
  total.backward();
  bindings.compare_gradients();
  golden.compare("grad.input.x_block", x.grad());
  golden.compare("grad.input.y", y.grad());
}

/// The loss that balances experts, from scores on both sides of its threshold.
void importance_loss(Case& golden) {
  ignore_unused(golden);
  golden.ignore("buffer.");
  Tensor total = at::zeros({});
  std::vector<std::pair<std::string, Tensor>> inputs;
  for (const std::string& name : golden.names("input.cross_")) {
    const std::string number = name.substr(std::string("input.cross_").size());
    const Tensor cross = leaf_of(golden, name);
    const Tensor scores = experts::mope_scores(cross / golden.constant("temperature"));
    const Tensor loss = experts::mope_importance(scores, golden.constant("importance_threshold"));
    golden.compare("mid.scores_" + number, scores);
    golden.compare("mid.cv2_" + number, experts::mope_variation(scores));
    golden.compare("loss.importance_" + number, loss);
    total = total + loss;
    inputs.emplace_back(name, cross);
  }
  golden.compare("loss.total", total);
  total.backward();
  for (const auto& [name, cross] : inputs) golden.compare("grad." + name, cross.grad());
}

/// The earlier variant's gates on the complementary feature, a layer each.
void importance_cross_only(Case& golden) {
  const Tensor y = leaf_of(golden, "input.y");
  const auto layers = static_cast<std::int64_t>(golden.names("weight.moe_proj.").size()) / 2;
  MopeOptions options = options_of(golden);
  options.variant = MopeVariant::cross_only;
  options.importance_threshold.reset();  // the variant has a threshold of its own
  options.experts = golden.take("weight.moe_proj.0.weight").size(0);
  options.complementary_widths = {y.size(1)};
  options.mapper = MopeMapper::Kind::plain;
  options.mapper_width = golden.take("weight.instruct_proj.0.weight").size(0);
  constexpr std::int64_t width = 4;
  BareBackbone backbone(backbones::Modality::text, layers, width);
  at::Generator generator = at::detail::createCPUGenerator(1);
  Mope mope(options, backbone, generator);
  Bindings bindings(golden);
  for (const char* part : {"weight", "bias"}) {
    const std::string p(part);
    bindings.bind("instruct_proj.0." + p, tensor_of(mope, "mapper.dense." + p));
    for (std::int64_t i = 0; i < layers; ++i)
      bindings.bind("moe_proj." + std::to_string(i) + "." + p, tensor_of(mope, "router.complementary." + p), {},
                    [i, k = options.experts](const Tensor& t) { return t.narrow(0, i * k, k); });
  }
  const Tensor noise = golden.has("input.noise.gate") ? golden.take("input.noise.gate") : Tensor();
  if (noise.defined()) mope.set_probe({.noise = [&](std::size_t block) { return noise.select(1, static_cast<std::int64_t>(block)); }});
  nn::Context context;
  context.complementary = y;
  nn::Tokens tokens{at::zeros({y.size(0), width}), nn::Layout::uniform(y.size(0), 1)};
  for (nn::SequenceSite* site : backbone.sites().sequences) {
    site->hook->before_block(tokens, context);
    site->hook->after_block(tokens, context);
  }
  std::vector<Tensor> all;
  for (const MopeRouting& one : mope.routing()) all.push_back(one.scores);
  const Tensor scores = at::stack(all);  // [layers, B, K]
  const Tensor hidden = mope.mapper().hidden(y), importance = mope.importance(), entropy = experts::mope_entropy(scores).mean();
  golden.compare("mid.scores", scores.transpose(0, 1));
  golden.compare("mid.cv2", experts::mope_variation(scores));
  golden.compare("mid.mapper_hidden", hidden);
  golden.compare("loss.importance", importance);
  golden.compare("loss.entropy", entropy);
  const Tensor total = importance + 0.1 * entropy + 0.01 * hidden.square().sum();
  golden.compare("loss.total", total);
  total.backward();
  bindings.compare_gradients();
  golden.compare("grad.input.y", y.grad());
}

}  // namespace

std::vector<Kind> mope_kinds() {
  const auto has = [](const char* tensor) { return [tensor](const Case& golden) { return golden.has(tensor); }; };
  const auto text = [](const Case& golden) { return golden.has("input.input_ids"); };
  const auto picture = [](const Case& golden) { return golden.has("input.image"); };
  return {{"mope: prompts of a block", has("out.sequence_with_new_prompts"), prompt_generation},
          {"mope: importance", has("input.cross_0"), importance_loss},
          {"mope: gates of the earlier variant", has("weight.moe_proj.0.weight"), importance_cross_only},
          {"mope: BERT stack", [=](const Case& golden) { return text(golden) && !picture(golden); }, bert_stack},
          {"mope: Swin stack", [=](const Case& golden) { return picture(golden) && !text(golden); }, swin_stack},
          {"mope: whole classifier", [=](const Case& golden) { return picture(golden) && text(golden); }, whole_classifier}};
}

}  // namespace mmtune::golden
