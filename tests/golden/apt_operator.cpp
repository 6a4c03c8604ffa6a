// Golden cases of APT and its baselines that hold one operator, one attention or one pre-norm block: forward and gradients. Which expert a
// case is about follows from its parameters.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "backbones/pre_norm_block.h"
#include "core/error.h"
#include "experts/apt.h"
#include "golden.h"
#include "official_names.h"

namespace mmtune::golden {

namespace {

using at::Tensor;
using experts::Expert;

Tensor as_rows(const Tensor& states) {
  return states.reshape({-1, states.size(-1)});
}

nn::Layout layout_of(const Tensor& states, const Tensor& mask) {
  return nn::Layout::uniform(states.size(0), states.size(1), mask.ne(0));
}

Tensor leaf(Case& golden, const std::string& name) {
  return golden.take(name).clone().requires_grad_(true);
}

/// What has no sites but those of one module under test; subclasses say which.
class Module : public backbones::Backbone {
 public:
  Module(std::int64_t width, std::int64_t heads) {
    info_ = {.architecture = "module", .modality = backbones::Modality::image, .width = width, .layers = 1, .heads = heads};
  }
  backbones::ModelOutputs forward(const backbones::ModelInputs&, const nn::Context&) override { return {}; }
  std::int64_t macs(std::int64_t, bool) const override { return 0; }
  backbones::TensorMap forward_named(const backbones::TensorMap&, const nn::Context&) override { return {}; }
};

/// An attention with its output projection.
class AttentionModule final : public Module {
 public:
  AttentionModule(std::int64_t width, std::int64_t heads)
      : Module(width, heads),
        w_(nn::Weights::fresh(1)),
        attention_(w_ / "attention", width, heads, 0),
        output_(w_ / "output", width, width, 0) {
    site_ = {.name = "output", .role = nn::SublayerSite::Role::self_attention, .width = width};
    attention_.list(sites_);
    output_.list(sites_);
    sites_.sublayers.push_back(&site_);
  }
  /// `x` [B, N, D] as the q/k/v maps read it.
  Tensor run(Case& golden, const std::string& prefix, const Tensor& x, const nn::Layout& layout) const {
    const Tensor rows = as_rows(x);
    const auto as_batch = [&x](const Tensor& t) { return t.view({x.size(0), x.size(1), -1}); };
    const std::vector<Tensor> qkv = attention_.project(rows, rows, {});
    const Tensor context = attention_.attend(qkv, layout, layout, {});
    const Tensor projected = output_(context, {});
    if (!golden.has("w.q_lora.lora_A")) golden.compare("mid.qkv", as_batch(at::cat({qkv[0], qkv[1], qkv[2]}, 1)));
    const auto by_head = [&](const Tensor& t) { return as_batch(t).view({x.size(0), x.size(1), info().heads, -1}).transpose(1, 2); };
    golden.compare("mid.q_lora_out", by_head(qkv[0]));
    golden.compare("mid.v_lora_out", by_head(qkv[2]));
    for (const char* name : {"context", "self.context"}) golden.compare("mid." + std::string(name), as_batch(context));
    for (const char* name : {"proj_out", "output.dense_out", "output.APT.attn_nodiff", "APT.attn_nodiff"})
      golden.compare("mid." + std::string(name), as_batch(projected));
    const Tensor y = site_(projected, rows, layout, {});
    golden.compare("mid." + prefix + "APT.attn_diff", as_batch(y));
    golden.compare("mid.PA_out", as_batch(y - projected));
    return as_batch(y);
  }

 private:
  nn::Weights w_;
  nn::SelfAttention attention_;
  nn::Linear output_;
  nn::SublayerSite site_;
};

/// A pre-norm block as the product has it.
class BlockModule final : public Module {
 public:
  BlockModule(std::int64_t width, std::int64_t heads, std::int64_t inner, double epsilon)
      : Module(width, heads),
        w_(nn::Weights::fresh(1)),
        block_({.width = width, .heads = heads, .inner = inner, .epsilon = epsilon, .activation = nn::Activation::gelu},
               backbones::vit_names, w_ / "block", 0, true) {
    block_.list(sites_);
    info_.has_class_token = true;
  }
  Tensor run(const Tensor& x, const nn::Layout& layout) const {
    nn::Tokens tokens{as_rows(x), layout};
    block_(tokens, Tensor(), {});
    return tokens.rows.view(x.sizes());
  }

 private:
  nn::Weights w_;
  backbones::PreNormBlock block_;
};

/// Compares what passes a sublayer's site.
class SublayerWatch final : public nn::SublayerHook {
 public:
  SublayerWatch(Case& golden, Tensor like, std::vector<std::string> outputs, std::string input = {})
      : golden_(golden), like_(std::move(like)), outputs_(std::move(outputs)), input_(std::move(input)) {}
  Tensor apply(const Tensor& output, const Tensor& input, const nn::Layout&, const nn::Context&) override {
    for (const std::string& name : outputs_) golden_.compare(name, output.view(like_.sizes()));
    if (!input_.empty()) golden_.compare(input_, input.view(like_.sizes()));
    return output;
  }

 private:
  Case& golden_;
  Tensor like_;
  std::vector<std::string> outputs_;
  std::string input_;
};

struct OfficialName {
  std::string name;
  int third = -1;
};

/// From the site's names of ours to the case's, in ViLT's or in METER's manner.
OfficialName official_of(std::string name, bool block, bool fused) {
  const auto replace = [&name](const std::string& from, const std::string& to) {
    const std::size_t at = name.find(from);
    if (at == std::string::npos) return false;
    name.replace(at, from.size(), to);
    return true;
  };
  static const char* const maps[] = {"query.", "key.", "value."};
  if (block) {
    replace("block.", "");
    replace("layernorm_before.", "norm1.") || replace("layernorm_after.", "norm2.") || replace("intermediate.dense.", "mlp.fc1.");
    for (int i = 0; i < 3; ++i)
      if (replace("attention.attention." + std::string(maps[i]), "attn.qkv.")) return {name, i};
    replace("attention.output.dense.", "attn.proj.") || replace("output.dense.", "mlp.fc2.");
    return {name};
  }
  for (int i = 0; i < 3; ++i)
    if (fused && replace("attention." + std::string(maps[i]), "qkv.")) return {name, i};
  if (fused) {
    replace("output.", "proj.");
  } else {
    replace("attention.", "self.") || replace("output.", "output.dense.");
  }
  return {name};
}

void fill(Case& golden, backbones::Backbone& module, bool block, bool fused) {
  for (const nn::TensorSlot& slot : module.sites().tensors) {
    const OfficialName official = official_of(slot.name, block, fused);
    Tensor value = golden.take("w." + official.name);
    if (official.third >= 0) value = value.chunk(3, 0)[static_cast<std::size_t>(official.third)];
    if (value.sizes() != slot.tensor->sizes()) throw Error({.what = "a weight of another shape", .where = slot.name});
    *slot.tensor = value.contiguous();
  }
}

std::unique_ptr<Expert> build(const std::string& kind, const Json& config, backbones::Backbone& module) {
  auto recipe = experts::expert_recipe(kind);
  recipe->read_config(config, "case");
  return recipe->build(module, at::detail::createCPUGenerator(1));
}

/// The case's expert on `module`, filled; `prefix` is where the case keeps the attention's own.
std::unique_ptr<Expert> expert_of(Case& golden, backbones::Backbone& module, const std::string& prefix, Bindings& bindings, bool once) {
  const auto size = [&golden](const std::string& name, std::int64_t axis) { return golden.take("w." + name).size(axis); };
  const auto transposed = [](const Tensor& t) { return t.t(); };
  std::unique_ptr<Expert> expert;
  const std::string apt = prefix + "APT.";
  if (golden.has("w." + apt + "mm_tokens")) {
    expert = build("apt",
                   {{"prompts", size(apt + "mm_tokens", 0)},
                    {"rank", size(apt + "mm.0.weight", 0)},
                    {"learn_scale", golden.has("grad." + apt + "scale")}},
                   module);
    for (const nn::NamedTensor& item : expert->tensors()) bindings.bind(apt + item.name.substr(item.name.find("APT.") + 4), item.tensor);
  } else if (golden.has("w.q_lora.lora_A")) {
    const std::int64_t rank = size("q_lora.lora_A", 1);
    expert = build("lora", {{"r", rank}, {"lora_alpha", rank}, {"target_modules", {"query", "value"}}}, module);
    for (const nn::NamedTensor& item : expert->tensors())
      bindings.bind((item.name.find("query") != std::string::npos ? "q_lora.lora_" : "v_lora.lora_") +
                        std::string(item.name.find("lora_A") != std::string::npos ? "A" : "B"),
                    item.tensor, transposed);
  } else if (golden.has("w.PA.down_proj.weight")) {
    expert = build("adapter", {{"variant", "parallel"}, {"bottleneck", size("PA.down_proj.weight", 0)}}, module);
    for (const nn::NamedTensor& item : expert->tensors())
      bindings.bind("PA." + item.name.substr(item.name.find("adapter.") + std::string("adapter.").size()), item.tensor);
  } else if (golden.has("w.adapter0.down_sampler.weight")) {
    expert = build("adapter", {{"bottleneck", size("adapter0.down_sampler.weight", 0)}}, module);
    for (const nn::NamedTensor& item : expert->tensors()) {
      const bool down = item.name.find("down_proj") != std::string::npos;
      bindings.bind((item.name.find("attention") != std::string::npos ? "adapter0." : "adapter1.") +
                        std::string(down ? "down_sampler." : "up_sampler.") + item.name.substr(item.name.rfind('.') + 1),
                    item.tensor);
    }
  } else {
    expert = build("prompt", {{"peft_type", "MMTUNE_DEEP_PROMPT"}, {"num_virtual_tokens", size("prompt", 1)}, {"once", once}}, module);
    bindings.bind("prompt", expert->tensors().front().tensor, [](const Tensor& t) { return t.select(0, 0); });
  }
  return expert;
}

/// What the operator did inside, told by the expert itself.
void compare_diffusion(Case& golden, const std::string& prefix, const Expert& expert, const Tensor& like) {
  const auto* const apt = dynamic_cast<const experts::Apt*>(&expert);
  if (apt == nullptr) return;
  if (apt->watched().size() != 1) throw Error({.what = "the expert did not watch one place", .where = golden.name()});
  const experts::Apt::Watched& seen = apt->watched().front();
  const auto as_batch = [&like](const Tensor& t) { return t.view({like.size(0), like.size(1), -1}); };
  const std::string tag = "mid." + prefix + "APT.";
  golden.compare(tag + "res", as_batch(seen.input));
  golden.compare(tag + "score", as_batch(seen.parts.scores));
  golden.compare(tag + "relu", as_batch(seen.parts.fired));
  golden.compare(tag + "e", as_batch(seen.parts.added));
  golden.compare(tag + "weight", as_batch(seen.parts.weights));
  golden.compare(tag + "keys", seen.keys);
}

void finish(Case& golden, const Tensor& y, const std::string& output, const Tensor& x, Bindings& bindings) {
  golden.compare(output, y);
  const Tensor loss = (y * golden.take("in.loss_weight")).sum();
  golden.compare("out.loss", loss.view({1}));
  loss.backward();
  bindings.compare_gradients();
  golden.compare("grad.in.x", x.grad());
  golden.ignore("mid.attn_probs");  // never kept
}

void diffusion(Case& golden) {
  const Tensor output = leaf(golden, "in.x"), input = leaf(golden, "in.res");
  const Tensor prompts = leaf(golden, "w.mm_tokens"), scale = leaf(golden, "w.scale");
  const Tensor first = leaf(golden, "w.mm.0.weight"), second = leaf(golden, "w.mm.1.weight");
  const Tensor keys = at::addmm(prompts, prompts.mm(first.t()), second.t());
  const nn::Diffusion how{.keys = keys, .values = prompts, .scale = scale};
  golden.compare("mid.keys", keys);
  const nn::DiffusionParts parts = nn::diffusion_parts(as_rows(input), how);
  const auto as_batch = [&](const Tensor& t) { return t.view({input.size(0), input.size(1), -1}); };
  golden.compare("mid.score", as_batch(parts.scores));
  golden.compare("mid.relu", as_batch(parts.fired));
  golden.compare("mid.e", as_batch(parts.added));
  golden.compare("mid.w", as_batch(parts.weights));
  const Tensor y = as_batch(nn::diffuse(as_rows(output), as_rows(input), how));
  golden.compare("out.y", y);
  const Tensor loss = (y * golden.take("in.loss_weight")).sum();
  golden.compare("out.loss", loss.view({1}));
  loss.backward();
  const std::pair<const char*, Tensor> leaves[] = {{"in.x", output}, {"in.res", input},      {"mm_tokens", prompts},
                                                   {"scale", scale}, {"mm.0.weight", first}, {"mm.1.weight", second}};
  for (const auto& [name, tensor] : leaves) golden.compare("grad." + std::string(name), tensor.grad());
}

/// ViLT's attention module, whose input is normed already.
void vilt_attention(Case& golden) {
  AttentionModule module(golden.config("hidden"), golden.config("heads"));
  fill(golden, module, false, true);
  Bindings bindings(golden, "w.");
  const auto expert = expert_of(golden, module, "", bindings, true);
  if (auto* const apt = dynamic_cast<experts::Apt*>(expert.get())) apt->watch(true);
  const Tensor x = leaf(golden, "in.x");
  const Tensor y = module.run(golden, "", x, layout_of(x, golden.take("in.mask")));
  compare_diffusion(golden, "", *expert, x);
  finish(golden, y, "out.y", x, bindings);
  if (golden.has("w.q_lora.lora_A")) golden.ignore("mid.qkv");  // without the update: never apart from it
}

/// METER's self-attention with the norm behind its residual.
void meter_self_attention(Case& golden) {
  AttentionModule module(golden.config("hidden"), golden.config("heads"));
  fill(golden, module, false, false);
  Bindings bindings(golden, "w.");
  const auto expert = expert_of(golden, module, "output.", bindings, true);
  if (auto* const apt = dynamic_cast<experts::Apt*>(expert.get())) apt->watch(true);
  const Tensor x = leaf(golden, "in.x");
  const Tensor y = module.run(golden, "output.", x, layout_of(x, golden.take("in.mask_x")));
  compare_diffusion(golden, "output.", *expert, x);
  const Tensor normed = at::layer_norm(x + y, {x.size(2)}, golden.take("w.output.LayerNorm.weight"), golden.take("w.output.LayerNorm.bias"),
                                       golden.config_number("layernorm_eps"));
  golden.compare("mid.output.post_ln", normed);
  finish(golden, normed, "out.x", x, bindings);
}

/// A ViLT block. Deep prompts are run twice: made for every example, and once for all.
void vilt_block(Case& golden) {
  for (const bool once : {false, true}) {
    const std::int64_t width = golden.config("hidden");
    BlockModule module(width, golden.config("heads"), golden.config("mlp_ratio") * width, golden.config_number("layernorm_eps"));
    fill(golden, module, true, true);
    const Tensor x = leaf(golden, "in.x");
    const bool adapter = golden.has("w.adapter0.down_sampler.weight");
    std::vector<std::string> bare = {"mid.proj_out", "mid.attn.APT.attn_nodiff"}, changed = {"mid.attn_out", "mid.attn.APT.attn_diff"};
    if (adapter) {
      bare.emplace_back("mid.attn_out");  // of the attention itself
      changed = {"mid.adapter0_out"};
    }
    SublayerWatch before_attention(golden, x, bare, golden.has("w.prompt") ? "" : "mid.norm1");
    SublayerWatch before_feed_forward(golden, x, {"mid.mlp_out"}, "mid.norm2");
    SublayerWatch behind_attention(golden, x, changed), behind_feed_forward(golden, x, {"mid.adapter1_out"});
    nn::SublayerSite &attention = *module.sites().sublayers.at(0), &feed_forward = *module.sites().sublayers.at(1);
    attention.hooks.push_back(&before_attention);
    feed_forward.hooks.push_back(&before_feed_forward);
    Bindings bindings(golden, "w.");
    const auto expert = expert_of(golden, module, "attn.", bindings, once);
    attention.hooks.push_back(&behind_attention);
    feed_forward.hooks.push_back(&behind_feed_forward);
    if (auto* const apt = dynamic_cast<experts::Apt*>(expert.get())) apt->watch(true);
    const Tensor y = module.run(x, layout_of(x, golden.take("in.mask")));
    compare_diffusion(golden, "attn.", *expert, x);
    finish(golden, y, "out.y", x, bindings);
    for (const char* inside : {"mid.qkv", "mid.context"}) golden.ignore(inside);  // compared where the attention stands alone
    if (golden.has("w.prompt")) golden.ignore("mid.norm1");                       // prompts and tokens together
  }
}

}  // namespace

std::vector<Kind> apt_operator_kinds() {
  const auto has = [](const char* tensor) { return [tensor](const Case& golden) { return golden.has(tensor); }; };
  return {{"apt: operator", has("w.mm_tokens"), diffusion},
          {"apt: ViLT attention", has("w.qkv.weight"), vilt_attention},
          {"apt: METER self-attention", has("w.self.query.weight"), meter_self_attention},
          {"apt: ViLT block", has("w.attn.qkv.weight"), vilt_block}};
}

}  // namespace mmtune::golden
