// Golden cases of one co-attention layer of METER with APT and its baselines: forward and gradients, those of the other stream included.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "apt_models.h"
#include "backbones/co_attention.h"
#include "core/error.h"
#include "experts/apt.h"
#include "io/checkpoint.h"
#include "official_names.h"

namespace mmtune::golden {

namespace {

using at::Tensor;

/// Nothing but the layer, under the names that the case gives it.
class LayerModule final : public backbones::Backbone {
 public:
  LayerModule(const backbones::CoAttentionShape& shape, const nn::Weights& weights) : layer_(shape, weights, 0) {
    layer_.list(sites_);
    info_ = {.architecture = "module", .modality = backbones::Modality::text, .width = shape.width, .layers = 1, .heads = shape.heads};
  }
  backbones::ModelOutputs forward(const backbones::ModelInputs&, const nn::Context&) override { return {}; }
  std::int64_t macs(std::int64_t, bool) const override { return 0; }
  backbones::TensorMap forward_named(const backbones::TensorMap&, const nn::Context&) override { return {}; }
  Tensor run(const Tensor& x, const Tensor& mask_x, const Tensor& y, const Tensor& mask_y) const {
    const auto layout = [](const Tensor& t, const Tensor& mask) { return nn::Layout::uniform(t.size(0), t.size(1), mask.ne(0)); };
    nn::Tokens tokens{x.reshape({-1, x.size(2)}), layout(x, mask_x)};
    layer_(tokens, {y.reshape({-1, y.size(2)}), layout(y, mask_y)}, false, {});
    return tokens.rows.view(x.sizes());
  }

 private:
  backbones::CoAttentionLayer layer_;
};

std::unique_ptr<experts::Expert> expert_of(Case& golden, backbones::Backbone& module, Bindings& bindings) {
  const auto build = [&module](const std::string& kind, const Json& config) {
    auto recipe = experts::expert_recipe(kind);
    recipe->read_config(config, "case");
    return recipe->build(module, at::detail::createCPUGenerator(1));
  };
  const auto size = [&golden](const std::string& name, std::int64_t axis) { return golden.take("w.attention." + name).size(axis); };
  std::unique_ptr<experts::Expert> expert;
  if (golden.has("w.attention.output.APT.mm_tokens")) {
    expert = build("apt", {{"prompts", size("output.APT.mm_tokens", 0)},
                           {"rank", size("output.APT.mm.0.weight", 0)},
                           {"learn_scale", golden.has("grad.attention.output.APT.scale")}});
    for (const nn::NamedTensor& item : expert->tensors()) bindings.bind(item.name, item.tensor);
  } else if (golden.has("w.attention.self.q_lora.lora_A")) {
    const std::int64_t rank = size("self.q_lora.lora_A", 1);
    expert = build("lora", {{"r", rank}, {"lora_alpha", rank}, {"target_modules", {"query", "value"}}});
    for (const nn::NamedTensor& item : expert->tensors()) {
      const std::string map = item.name.find(".query") != std::string::npos ? ".query" : ".value";
      bindings.bind(item.name.substr(0, item.name.find(map)) + (map == ".query" ? ".q_lora.lora_" : ".v_lora.lora_") +
                        (item.name.find("lora_A") != std::string::npos ? "A" : "B"),
                    item.tensor, [](const Tensor& t) { return t.t(); });
    }
  } else {
    const bool parallel = golden.has("w.attention.output.PA.down_proj.weight");
    expert = parallel
                 ? build("adapter", {{"variant", "parallel"}, {"behind_norm", true}, {"bottleneck", size("output.PA.down_proj.weight", 0)}})
                 : build("adapter", {{"bottleneck", size("output.adapter.down_sampler.weight", 0)}});
    constexpr std::string_view own = ".adapter.";
    for (const nn::NamedTensor& item : expert->tensors()) {
      const std::size_t at = item.name.find(own);
      std::string part = item.name.substr(at + own.size());
      if (!parallel) part = (part.starts_with("down") ? "down_sampler." : "up_sampler.") + part.substr(part.rfind('.') + 1);
      bindings.bind(item.name.substr(0, at) + (parallel ? ".PA." : ".adapter.") + part, item.tensor);
    }
  }
  return expert;
}

/// What passes a sublayer: before its experts, behind them, behind the norm, and behind the experts there.
class Taps {
 public:
  Taps(Case& golden, nn::SublayerSite& site, const Tensor& like) : site_(site) {
    const std::string name = "mid." + site.name + ".";
    const auto compare = [&golden, like](const std::string& tensor, const Tensor& rows) {
      golden.compare(tensor, rows.view(like.sizes()));
    };
    add(site.hooks, false, [=](const Tensor& output, const Tensor& input) {
      compare(name + "dense_out", output);
      compare(name + "APT.attn_nodiff", output);
      compare(name + "APT.res", input);
    });
    add(site.hooks, true, [=](const Tensor& output, const Tensor&) {
      compare(name + "adapter.out", output);
      compare(name + "APT.attn_diff", output);
    });
    add(site.norm_hooks, false, [this](const Tensor& output, const Tensor&) { normed_ = output; });
    add(site.norm_hooks, true, [this, name, compare](const Tensor& output, const Tensor&) {
      compare(name + "post_ln", output);
      compare(name + "PA.out", output - normed_);
    });
  }
  ~Taps() {
    for (auto* hooks : {&site_.hooks, &site_.norm_hooks}) {
      hooks->erase(hooks->begin());
      hooks->pop_back();
    }
  }
  Taps(const Taps&) = delete;
  Taps& operator=(const Taps&) = delete;

 private:
  using Seen = std::function<void(const Tensor& output, const Tensor& input)>;
  class Tap final : public nn::SublayerHook {
   public:
    explicit Tap(Seen seen) : seen_(std::move(seen)) {}
    Tensor apply(const Tensor& output, const Tensor& input, const nn::Layout&, const nn::Context&) override {
      seen_(output, input);
      return output;
    }

   private:
    Seen seen_;
  };
  void add(std::vector<nn::SublayerHook*>& hooks, bool behind, Seen seen) {
    taps_.push_back(std::make_unique<Tap>(std::move(seen)));
    hooks.insert(behind ? hooks.end() : hooks.begin(), taps_.back().get());
  }

  nn::SublayerSite& site_;
  Tensor normed_;
  std::vector<std::unique_ptr<Tap>> taps_;
};

void compare_diffusion(Case& golden, const experts::Expert& expert, const Tensor& like) {
  const auto* const apt = dynamic_cast<const experts::Apt*>(&expert);
  if (apt == nullptr) return;
  for (const experts::Apt::Watched& seen : apt->watched()) {
    const std::string tag = "mid." + seen.site + ".APT.";
    golden.compare(tag + "keys", seen.keys);
    const std::pair<const char*, Tensor> parts[] = {
        {"score", seen.parts.scores}, {"relu", seen.parts.fired}, {"e", seen.parts.added}, {"weight", seen.parts.weights}};
    for (const auto& [name, tensor] : parts) golden.compare(tag + name, tensor.view({like.size(0), like.size(1), -1}));
  }
}

void cross_layer(Case& golden) {
  const OfficialFolder folder(golden, Json::object());
  const backbones::CoAttentionShape shape{.width = golden.config("hidden"),
                                          .heads = golden.config("heads"),
                                          .inner = golden.config("intermediate"),
                                          .layers = 1,
                                          .epsilon = golden.config_number("layernorm_eps"),
                                          .activation = nn::Activation::gelu};
  LayerModule module(shape, nn::Weights::of(io::Checkpoint::open(folder.path()), {""}, "intermediate.dense.weight"));
  Bindings bindings(golden, "w.");
  const auto expert = expert_of(golden, module, bindings);
  if (auto* const apt = dynamic_cast<experts::Apt*>(expert.get())) apt->watch(true);
  const auto input = [&golden](const std::string& name) { return golden.take(name).clone().requires_grad_(true); };
  const Tensor x = input("in.x"), y = input("in.y");
  std::vector<std::unique_ptr<Taps>> taps;
  for (nn::SublayerSite* site : module.sites().sublayers) taps.push_back(std::make_unique<Taps>(golden, *site, x));
  const Tensor out = module.run(x, golden.take("in.mask_x"), y, golden.take("in.mask_y"));
  compare_diffusion(golden, *expert, x);
  golden.compare("out.x", out);
  const Tensor loss = (out * golden.take("in.loss_weight")).sum();
  golden.compare("out.loss", loss.view({1}));
  loss.backward();
  bindings.compare_gradients();
  golden.compare("grad.in.x", x.grad());
  golden.compare("grad.in.y", y.grad());
  // Inside an attention or a map, where nothing listens; what comes of them is compared.
  for (const char* inside : {"mid.attention.self.", "mid.crossattention.self.", "mid.intermediate."}) golden.ignore(inside);
}

}  // namespace

std::vector<Kind> apt_crosslayer_kinds() {
  return {
      {"apt: METER co-attention layer", [](const Case& golden) { return golden.has("w.crossattention.self.query.weight"); }, cross_layer}};
}

}  // namespace mmtune::golden
