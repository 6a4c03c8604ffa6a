#include "official_names.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace mmtune::golden {

namespace {

/// The official name of a tensor of our Swin, and which third of a fused map it is.
struct Official {
  std::string name;
  int third = -1;
};

Official swin_name(const std::string& ours) {
  static const std::vector<std::pair<std::string, std::string>> parts = {
      {"embeddings.patch_embeddings.projection.", "patch_embed.proj."},
      {"embeddings.norm.", "patch_embed.norm."},
      {"layernorm_before.", "norm1."},
      {"layernorm_after.", "norm2."},
      {"attention.output.dense.", "attn.proj."},
      {"attention.self.relative_position_bias_table", "attn.relative_position_bias_table"},
      {"intermediate.dense.", "mlp.fc1."},
      {"output.dense.", "mlp.fc2."},
      {"layernorm.", "norm."}};
  Official result{.name = ours};
  if (result.name.starts_with("encoder.")) result.name.erase(0, std::string("encoder.").size());
  const std::vector<std::string> maps = {"attention.self.query.", "attention.self.key.", "attention.self.value."};
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const std::size_t at = result.name.find(maps[i]);
    if (at == std::string::npos) continue;
    result.name.replace(at, maps[i].size(), "attn.qkv.");
    result.third = static_cast<int>(i);
    return result;
  }
  for (const auto& [from, to] : parts) {
    const std::size_t at = result.name.find(from);
    if (at == std::string::npos) continue;
    result.name.replace(at, from.size(), to);
    break;
  }
  return result;
}

/// A table made for windows of another side, in the middle of ours: offsets are the same, ours reach further.
at::Tensor widened_table(const at::Tensor& table, at::IntArrayRef shape) {
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(table.size(0)))));
  const auto wide = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(shape[0]))));
  if (side == wide) return table;
  const std::int64_t margin = (wide - side) / 2;
  at::Tensor result = at::zeros({wide, wide, table.size(1)});
  result.narrow(0, margin, side).narrow(1, margin, side).copy_(table.view({side, side, -1}));
  return result.view({wide * wide, -1});
}

void put(const nn::TensorSlot& slot, const at::Tensor& value) {
  if (value.sizes() != slot.tensor->sizes()) throw Error({.what = "a weight of another shape", .where = slot.name});
  *slot.tensor = value.contiguous();
}

}  // namespace

std::unique_ptr<backbones::Backbone> official_swin(Case& golden, const std::string& prefix) {
  const Json config = {{"model_type", "swin"},
                       {"image_size", golden.config("img")},
                       {"patch_size", golden.config("patch")},
                       {"embed_dim", golden.config("embed_dim")},
                       {"depths", golden.config_list("depths")},
                       {"num_heads", golden.config_list("heads")},
                       {"window_size", golden.config("window")},
                       {"mlp_ratio", golden.config_number("mlp_ratio")}};
  auto backbone = backbones::fresh_backbone(config, 1);
  for (const nn::TensorSlot& slot : backbone->sites().tensors) {
    const Official official = swin_name(slot.name);
    at::Tensor value = golden.take("weight." + prefix + official.name);
    if (official.third >= 0) value = value.chunk(3, 0)[static_cast<std::size_t>(official.third)];
    if (official.name.ends_with("relative_position_bias_table")) value = widened_table(value, slot.tensor->sizes());
    put(slot, value);
  }
  return backbone;
}

std::unique_ptr<backbones::Backbone> official_bert(Case& golden, const std::string& prefix) {
  const Json config = {{"model_type", "bert"},
                       {"hidden_size", golden.config("d_text")},
                       {"num_hidden_layers", golden.config("bert_layers")},
                       {"num_attention_heads", golden.config("bert_heads")},
                       {"intermediate_size", golden.config("bert_ffn")},
                       {"vocab_size", golden.config("vocab")},
                       {"max_position_embeddings", golden.config("maxpos")},
                       {"type_vocab_size", golden.take("weight." + prefix + "embeddings.token_type_embeddings.weight").size(0)}};
  auto backbone = backbones::fresh_backbone(config, 1);
  for (const nn::TensorSlot& slot : backbone->sites().tensors) {
    // The released model takes the class token and has no pooler; a fresh one of ours has.
    if (slot.name.starts_with("pooler.")) continue;
    put(slot, golden.take("weight." + prefix + slot.name));
  }
  return backbone;
}

at::Tensor tensor_of(const experts::Expert& expert, const std::string& name) {
  for (const nn::NamedTensor& item : expert.tensors())
    if (item.name == name) return item.tensor;
  throw Error({.what = "the expert has no such tensor", .where = std::string(expert.kind()), .got = name});
}

void Bindings::bind(const std::string& official, const at::Tensor& ours, const View& official_view, const View& our_view) {
  const auto same = [](const at::Tensor& tensor) { return tensor; };
  bound_.push_back({official, ours, official_view ? official_view : View(same), our_view ? our_view : View(same)});
  const Bound& last = bound_.back();
  const at::NoGradGuard no_grad;
  const std::string stored = golden_.has(weights_ + official) ? weights_ : "buffer.";
  const at::Tensor value = last.official_view(golden_.take(stored + official));
  at::Tensor target = last.our_view(ours.detach());
  if (target.sizes() != value.sizes()) throw Error({.what = "bound tensors differ in shape", .where = official});
  target.copy_(value);
}

std::set<std::string> Bindings::officials() const {
  std::set<std::string> names;
  for (const Bound& one : bound_) names.insert(one.official);
  return names;
}

at::Tensor Bindings::gathered(const std::string& official, at::Tensor start, const std::function<at::Tensor(const at::Tensor&)>& of) const {
  for (const Bound& one : bound_) {
    if (one.official != official) continue;
    const at::Tensor source = of(one.ours);
    if (source.defined()) one.official_view(start).copy_(one.our_view(source));
  }
  return start;
}

void Bindings::compare_gradients() {
  const at::NoGradGuard no_grad;
  for (const std::string& official : officials()) {
    if (!golden_.has("grad." + official)) continue;
    const at::Tensor start = at::zeros_like(golden_.take("grad." + official));
    golden_.compare("grad." + official, gathered(official, start, [](const at::Tensor& ours) { return ours.grad(); }));
  }
}

void Bindings::load_gradients() const {
  const at::NoGradGuard no_grad;
  for (const Bound& one : bound_) {
    if (!one.ours.requires_grad() || !golden_.has("grad." + one.official)) continue;
    at::Tensor target = one.our_view(one.ours.grad());
    target.copy_(one.official_view(golden_.take("grad." + one.official)));
  }
}

void Bindings::compare_after_step(const std::function<double(const std::string&)>& factor) {
  const at::NoGradGuard no_grad;
  for (const std::string& official : officials()) {
    if (!golden_.has("after_step." + official)) continue;
    const at::Tensor start = golden_.take(weights_ + official) * factor(official);
    golden_.compare("after_step." + official, gathered(official, start, [](const at::Tensor& ours) { return ours.detach(); }));
  }
}

void bind_swin_mope(Case& golden, const std::string& prefix, const experts::Mope& mope, Bindings& bindings) {
  using at::Tensor;
  const std::vector<std::int64_t> depths = golden.config_list("depths");
  const std::vector<std::int64_t>& widths = mope.mapper().widths;
  const auto ours = [&mope](const std::string& name) { return tensor_of(mope, name); };
  const bool joint = mope.options().variant == experts::MopeVariant::joint;
  if (joint) {
    const std::string mapper = prefix + "mm_prompt_instruction_proj.";
    bindings.bind(mapper + "0.weight", ours("mapper.dense.weight"));
    bindings.bind(mapper + "0.bias", ours("mapper.dense.bias"));
    bindings.bind(mapper + "1.weight", ours("mapper.norm.weight"));
    bindings.bind(mapper + "1.bias", ours("mapper.norm.bias"));
    bindings.bind(mapper + "1.running_mean", ours("mapper.norm.running_mean"));
    bindings.bind(mapper + "1.running_var", ours("mapper.norm.running_var"));
    bindings.bind(prefix + "prompt_embeddings", ours("input_prompts"), [](const Tensor& t) { return t.squeeze(0); });
  }
  std::int64_t offset = 0;
  for (std::size_t stage = 0; stage < widths.size(); ++stage) {
    const std::int64_t width = widths[stage];
    const View slice = [offset, width](const Tensor& t) { return t.narrow(0, offset, width); };
    const std::string projection = prefix + "prompt_proj_" + std::to_string(stage) + ".";
    bindings.bind(projection + "weight", ours("mapper.projection.weight"), {}, slice);
    bindings.bind(projection + "bias", ours("mapper.projection.bias"), {}, slice);
    offset += width;
  }
  std::int64_t routed = 0;
  const std::int64_t cross = mope.options().router_complementary;
  for (std::size_t stage = 0; stage < depths.size(); ++stage) {
    for (std::int64_t block = joint ? 1 : 0; block < depths[stage]; ++block) {
      const std::string where = "layers." + std::to_string(stage) + ".blocks." + std::to_string(block) + ".";
      const std::string table = prefix + "deep_prompt_embeddings_" + std::to_string(stage);
      bindings.bind(table, ours("encoder." + where + "static"), [block](const Tensor& t) { return t.select(1, block).select(0, 0); });
      bindings.bind(table, ours("encoder." + where + "experts"),
                    [block](const Tensor& t) { return t.select(1, block).narrow(0, 1, t.size(0) - 1); });
      if (!joint) continue;
      const View share = [routed, cross](const Tensor& t) { return t.narrow(0, routed * cross, cross); };
      const std::string official = prefix + where + "mm_prompt_";
      bindings.bind(official + "self_proj.weight", ours("encoder." + where + "router.main.weight"));
      bindings.bind(official + "self_proj.bias", ours("encoder." + where + "router.main.bias"));
      bindings.bind(official + "cross_proj.weight", ours("router.complementary.weight"), {}, share);
      bindings.bind(official + "cross_proj.bias", ours("router.complementary.bias"), {}, share);
      bindings.bind(prefix + where + "mm_frozen_expert_key_embed", ours("encoder." + where + "router.keys"));
      ++routed;
    }
  }
}

}  // namespace mmtune::golden
