// Cases of pi-Tuning that need no whole model: the adapter, one layer of each stack, one attention, losses, tables and the metric.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "pi_support.h"
#include "train/grounding.h"
#include "train/token_loss.h"

namespace mmtune::golden {

namespace {

using at::Tensor;

/// A backbone of whatever sites a case needs.
class Bench final : public backbones::Backbone {
 public:
  backbones::ModelOutputs forward(const backbones::ModelInputs&, const nn::Context&) override { return {}; }
  std::int64_t macs(std::int64_t, bool) const override { return 0; }
  backbones::TensorMap forward_named(const backbones::TensorMap&, const nn::Context&) override { return {}; }
};

void run_adapter(Case& golden) {
  const std::int64_t width = golden.config("d_model"), batch = golden.config("batch");
  Bench bench;
  nn::SublayerSite site{.name = "site", .width = width};
  bench.sites().sublayers = {&site};
  for (const bool scaled : {false, true}) {
    const auto recipe = experts::expert_recipe("adapter");
    recipe->read_config({{"bottleneck", golden.config("adapter_dim")}, {"activation", "relu"}, {"learned_scale", scaled}}, "golden");
    const auto adapter = recipe->build(bench, at::detail::createCPUGenerator(1));
    {
      const at::NoGradGuard no_grad;
      for (const nn::NamedTensor& one : adapter->tensors()) {
        Tensor target = one.tensor;
        const std::string part = one.name.substr(std::string("site.adapter.").size());
        target.copy_(part == "scale" ? golden.take("ls.scale") : golden.take("w." + part));
      }
    }
    const Tensor x = rows_of(golden.take("in.x")).requires_grad_(true), cotangent = rows_of(golden.take("in.cotangent"));
    const Tensor y = site(x, x, nn::Layout::uniform(batch, golden.config("seq")), {});
    const Tensor loss = (y * cotangent).sum();
    loss.backward();
    const std::string prefix = scaled ? "ls." : "";
    golden.compare(prefix + "out.y", sequence_first(y, batch));
    golden.compare(prefix + "loss", loss.reshape({1}));
    golden.compare(prefix + "grad.x", sequence_first(x.grad(), batch));
    for (const nn::NamedTensor& one : adapter->tensors())
      golden.compare(prefix + "grad." + one.name.substr(std::string("site.adapter.").size()), one.tensor.grad());
    if (scaled) continue;
    const at::NoGradGuard no_grad;
    golden.compare("out.y_no_residual", sequence_first(y - x, batch));
    golden.compare("out.y_external_residual", sequence_first(y - x + rows_of(golden.take("in.residual")), batch));
    const Tensor down =
        at::linear(x, expert_tensor(*adapter, "site.adapter.down_proj.weight"), expert_tensor(*adapter, "site.adapter.down_proj.bias"));
    golden.compare("mid.down", sequence_first(down, batch));
    golden.compare("mid.hidden", sequence_first(at::relu(down), batch));
  }
}

/// One encoder layer and one decoder layer, by the case's own names.
class TwoLayers {
 public:
  explicit TwoLayers(Case& golden)
      : shape_{.width = golden.config("d_model"), .heads = golden.config("heads"), .inner = golden.config("ffn")},
        encoder(nn::Weights::fresh(1) / "enc", shape_, 0, false),
        decoder(nn::Weights::fresh(2) / "dec", shape_, 1, true) {
    encoder.list(bench.sites());
    decoder.list(bench.sites());
    fill_official(golden, bench);
  }

 private:
  backbones::OfaLayerShape shape_;

 public:
  backbones::OfaLayer encoder, decoder;
  Bench bench;
};

/// What an adapter site is given, as it goes by.
class Witness final : public nn::SublayerHook {
 public:
  at::Tensor apply(const at::Tensor& output, const at::Tensor&, const nn::Layout&, const nn::Context&) override {
    seen.push_back(output.detach());
    return output;
  }
  std::vector<Tensor> seen;
};

void run_two_layers(Case& golden) {
  const std::int64_t batch = golden.config("batch"), count = golden.config("k"), heads = golden.config("heads");
  TwoLayers layers(golden);
  std::vector<std::unique_ptr<Witness>> witnesses;
  for (nn::SublayerSite* site : layers.bench.sites().sublayers) {
    witnesses.push_back(std::make_unique<Witness>());
    site->hooks.push_back(witnesses.back().get());
  }
  const auto average = official_average(golden, layers.bench, count);
  average->before_pass({});
  const Tensor x = golden.take("in.x").clone().requires_grad_(true), xt = golden.take("in.xt").clone().requires_grad_(true);
  const Tensor padding = golden.take("in.padding_mask").to(at::kBool), causal = golden.take("in.causal_mask");
  // Ours is causal by itself.
  if (!at::equal(causal.lt(-1e20), at::ones_like(causal).triu(1).to(at::kBool))) golden.fail("in.causal_mask is not causal");
  // A bias of its own for every example: one at a time.
  const auto bias = [&](const char* name, std::int64_t b) { return golden.take(name).narrow(0, b * heads, heads); };
  const auto pass = [&](const Tensor& source, const Tensor& target) {
    std::vector<Tensor> encoded, decoded;
    for (std::int64_t b = 0; b < batch; ++b) {
      const nn::Layout from = nn::Layout::uniform(1, source.size(0), padding.narrow(0, b, 1).logical_not());
      const nn::Layout to = nn::Layout::uniform(1, target.size(0));
      const Tensor e = layers.encoder(source.select(1, b), from, bias("in.enc_self_bias", b), std::nullopt, {});
      const Tensor cross = bias("in.dec_cross_bias", b);
      const Tensor d =
          layers.decoder(target.select(1, b), to, bias("in.dec_self_bias", b), backbones::OfaLayer::Source{&e, &from, &cross}, {});
      encoded.push_back(e);
      decoded.push_back(d);
    }
    return std::pair{at::stack(encoded, 1), at::stack(decoded, 1)};
  };
  const auto [encoded, decoded] = pass(x, xt);
  golden.compare("out.enc", encoded);
  golden.compare("out.dec", decoded);
  golden.compare("out.enc_merged", encoded);
  golden.compare("out.dec_merged", decoded);
  const Tensor loss = (encoded * golden.take("in.cot_enc")).sum() + (decoded * golden.take("in.cot_dec")).sum();
  loss.backward();
  average->after_backward();
  golden.compare("loss", loss.reshape({1}));
  golden.compare("grad.x", x.grad());
  golden.compare("grad.xt", xt.grad());
  compare_average_gradients(golden, *average);
  for (const nn::NamedTensor& one : average->kept().tensors()) golden.compare("merged." + official_adapter(one.name), one.tensor);

  const at::NoGradGuard no_grad;
  const std::vector<std::vector<double>> coefficients = average->coefficients();
  for (std::size_t s = 0; s < average->sites().size(); ++s) {
    const std::string site = average->sites()[s], side = site.substr(0, 3), which = site.ends_with("fc2") ? "2" : "1";
    const Tensor alpha = at::tensor(coefficients[s], at::kDouble).to(at::kFloat);
    golden.compare("mid." + side + ".alpha" + which, alpha);
    // What every expert alone would have made of the adapter's input.
    const Tensor entering = at::stack(witnesses[s]->seen, 1);
    if (which == "2") golden.compare("mid." + side + ".fc2_out", entering);
    const auto own = [&](std::size_t i, const std::string& part) {
      return golden.take("w." + official_adapter(site + ".adapter." + part, i));
    };
    Tensor mixed;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const Tensor down = at::linear(entering, own(i, "down_proj.weight"), own(i, "down_proj.bias"));
      golden.compare("mid." + side + ".adapters" + which + "." + std::to_string(i) + ".down", down);
      mixed = mixed.defined() ? mixed + down * coefficients[s][i] : down * coefficients[s][i];
    }
    const Tensor hidden = at::relu(mixed);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      golden.compare("mid." + side + ".adapters" + which + "." + std::to_string(i) + ".up",
                     at::linear(hidden, own(i, "up_proj.weight"), own(i, "up_proj.bias")));
  }
  // The attention alone, before the norm behind it: what enters the adapter is that norm's output.
  for (const std::string side : {"enc", "dec"}) {
    const Tensor attended = golden.take("mid." + side + ".self_attn_out");
    const std::string norm = "w." + side + (side == "enc" ? ".attn_ln." : ".self_attn_ln.");
    const Tensor normed = at::layer_norm(attended, {attended.size(2)}, golden.take(norm + "weight"), golden.take(norm + "bias"), 1e-5);
    const Tensor entering = at::stack(witnesses[side == "enc" ? 0 : 2]->seen, 1);
    if (!at::allclose(normed, entering, 1e-4, 2e-5)) golden.fail("mid." + side + ".self_attn_out differs");
  }
}

void run_lora(Case& golden) {
  const std::int64_t batch = golden.config("batch"), count = golden.config("k"), heads = golden.config("heads"),
                     length = golden.config("seq");
  const std::vector<std::string> maps = {"q_proj", "k_proj", "v_proj", "out_proj"};
  Bench bench;
  const backbones::OfaLayerShape shape{.width = golden.config("d_model"), .heads = heads, .inner = 1};
  backbones::OfaAttention attention(nn::Weights::fresh(1), shape, 0, false);
  attention.list(bench.sites());
  {
    const at::NoGradGuard no_grad;
    for (const nn::TensorSlot& slot : bench.sites().tensors) {
      if (slot.name.ends_with("c_attn")) {
        slot.tensor->copy_(golden.take("w.c_attn"));
        continue;
      }
      // The frozen map is stored once an expert.
      const std::size_t dot = slot.name.find('.');
      const auto copy = [&](std::int64_t i) {
        return golden.take("w." + slot.name.substr(0, dot) + "." + std::to_string(i) + slot.name.substr(dot));
      };
      slot.tensor->copy_(copy(0));
      for (std::int64_t i = 1; i < count; ++i)
        if (!at::equal(copy(i), copy(0))) golden.fail("the frozen maps of " + slot.name + " differ");
    }
  }
  const Json config = {
      {"r", golden.config("rank")}, {"lora_alpha", golden.config_number("lora_alpha")}, {"target_modules", maps}, {"peft_type", "LORA"}};
  const std::vector<std::string> names = names_of_expert("lora", config, bench);
  const auto official = [](const std::string& ours, std::size_t i) {  // "q_proj.lora_A.weight" → "q_proj.0.lora_A"
    const std::size_t dot = ours.find('.');
    return ours.substr(0, dot) + "." + std::to_string(i) + ours.substr(dot, std::string(".lora_A").size());
  };
  std::vector<experts::InterpolationPart> parts;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    experts::InterpolationPart part{
        .task = std::to_string(i), .folder = "expert " + std::to_string(i), .tensors = {}, .config = config, .kind = "lora"};
    for (const std::string& name : names) part.tensors.push_back({name, golden.take("w." + official(name, i)).clone()});
    parts.push_back(std::move(part));
  }
  experts::Interpolated average(bench, std::move(parts), std::nullopt, {.sharing = experts::CoefficientSharing::global});
  {
    const at::NoGradGuard no_grad;
    expert_tensor(average, "coefficients")[0].copy_(golden.take("w.lora_interpolation_weight"));
  }
  average.before_pass({});
  const Tensor x = golden.take("in.x").clone().requires_grad_(true), padding = golden.take("in.padding_mask").to(at::kBool);
  std::vector<Tensor> outputs;
  for (std::int64_t b = 0; b < batch; ++b) {
    const nn::Layout layout = nn::Layout::uniform(1, length, padding.narrow(0, b, 1).logical_not());
    const Tensor rows = x.select(1, b);
    outputs.push_back(attention(rows, rows, layout, layout, golden.take("in.bias").narrow(0, b * heads, heads), false, {}));
  }
  const Tensor y = at::stack(outputs, 1);
  golden.compare("out.y", y);
  golden.compare("out.y_merged", y);
  const Tensor loss = (y * golden.take("in.cotangent")).sum();
  loss.backward();
  average.after_backward();
  golden.compare("loss", loss.reshape({1}));
  golden.compare("grad.x", x.grad());
  golden.compare("mid.alpha", at::tensor(average.coefficients()[0], at::kDouble).to(at::kFloat));
  for (const nn::NamedTensor& one : average.tensors()) {
    if (one.name == "coefficients") {
      golden.compare("grad.lora_interpolation_weight", one.tensor.grad()[0]);
      continue;
    }
    const std::size_t of = one.name.rfind(".of_");
    golden.compare("grad." + official(one.name.substr(0, of), std::stoul(one.name.substr(of + 4))), one.tensor.grad());
  }
  const at::NoGradGuard no_grad;
  for (nn::WeightSite* site : bench.sites().weights) {
    MMTUNE_ASSERT(site->low_rank.size() == 1);
    const nn::LowRank& term = *site->low_rank.front();
    const Tensor change = term.b.mm(term.a) * term.scale;
    golden.compare("merged." + site->name + ".delta_weight", change);
    const std::string letter = site->name.substr(0, 1);
    if (letter != "o") golden.compare("mid." + letter, at::linear(golden.take("in.x"), site->weight + change, site->bias));
  }
}

void run_criterion(Case& golden) {
  const Tensor targets = golden.take("in.target");
  const auto run = [&](const train::TokenLossOptions& options, const std::string& loss, const std::string& gradient,
                       const std::string& nll = {}) {
    const Tensor logits = golden.take("in.logits").clone().requires_grad_(true);
    const train::TokenLoss result = train::token_loss(logits, targets, options);
    result.loss.backward();
    golden.compare(loss, result.loss.reshape({1}));
    if (!gradient.empty()) golden.compare(gradient, logits.grad());
    if (!nll.empty()) golden.compare(nll, result.nll.reshape({1}));
    return result.tokens;
  };
  for (const std::string& name : golden.names("out.loss_eps")) {
    const std::string suffix = name.substr(std::string("out.loss_").size());
    run({.smoothing = std::stod(suffix.substr(3))}, name, "grad.logits_" + suffix, "out.nll_" + suffix);
  }
  constexpr double smoothing = 0.1;
  const Tensor allowed = golden.take("in.constraint_mask").to(at::kBool);
  run({.smoothing = smoothing, .allowed = allowed, .mask_softmax = false}, "out.loss_constraint_unmasked_logits",
      "grad.logits_constraint_unmasked");
  run({.smoothing = smoothing, .allowed = allowed}, "out.loss_constraint_masked_logits", "grad.logits_constraint_masked");
  run({.smoothing = smoothing, .confidence = golden.take("in.conf")}, "out.loss_conf_eps0.1", "grad.logits_conf");
  const std::int64_t kept = run({.smoothing = smoothing, .drop_worst = 0.2}, "out.loss_drop_worst", "");
  golden.compare("out.ntokens_drop_worst", at::tensor({static_cast<double>(kept)}));
}

void run_buckets(Case& golden) {
  const Tensor token = backbones::ofa_token_buckets(golden.config("token_bucket_size"), golden.config("max_position"));
  const std::int64_t shown = golden.take("token.top_left").size(0);
  golden.compare("token.top_left", token.narrow(0, 0, shown).narrow(1, 0, shown));
  golden.compare("token.row0", token.select(0, 0));
  golden.compare("token.col0", token.select(1, 0));
  golden.compare("token.checksum", token.sum().reshape({1}));
  golden.compare("token.min_max", at::stack({token.min(), token.max()}));
  const Tensor image = backbones::ofa_image_buckets(golden.config("image_bucket_size"));
  golden.compare("image.table", image);
  golden.compare("image.checksum", image.sum().reshape({1}));
}

void run_grounding(Case& golden) {
  const train::GroundingShape shape{.picture_side = golden.config_number("patch_image_size"),
                                    .largest_side = golden.config_number("max_image_size"),
                                    .bins = golden.config("num_bins")};
  const Tensor sizes = golden.take("in.image_wh").to(at::kDouble), boxes = golden.take("in.box").to(at::kDouble);
  const Tensor predicted = golden.take("in.predicted_bins");
  const std::int64_t count = boxes.size(0);
  Tensor bins = at::empty({count, 4}, at::kLong), back = at::empty({count, 4}, at::kDouble), correct = at::empty({count}, at::kDouble);
  for (std::int64_t i = 0; i < count; ++i) {
    const double width = sizes[i][0].item<double>(), height = sizes[i][1].item<double>();
    train::BoxCorners truth{};
    train::BoxBins guess{};
    for (std::int64_t c = 0; c < 4; ++c) {
      truth[static_cast<std::size_t>(c)] = boxes[i][c].item<double>();
      guess[static_cast<std::size_t>(c)] = predicted[i][c].item<std::int64_t>();
    }
    const train::BoxBins own = train::box_to_bins(truth, width, height, shape);
    const train::BoxCorners box = train::bins_to_box(guess, width, height, shape);
    for (std::int64_t c = 0; c < 4; ++c) {
      bins[i][c] = own[static_cast<std::size_t>(c)];
      back[i][c] = box[static_cast<std::size_t>(c)];
    }
    correct[i] = train::boxes_agree(box, truth, golden.config_number("iou_threshold")) ? 1.0 : 0.0;
  }
  golden.compare("out.target_bins", bins);
  golden.compare("out.predicted_boxes", back);
  golden.compare("out.correct", correct);
}

bool has(const Case& golden, const char* tensor) {
  return golden.has(tensor);
}

}  // namespace

std::vector<Kind> pi_module_kinds() {
  return {{"adapter", [](const Case& c) { return has(c, "ls.scale") && has(c, "mid.down"); }, run_adapter},
          {"two layers, averaged", [](const Case& c) { return has(c, "w.enc.adapter_interpolation_weight1"); }, run_two_layers},
          {"LoRA, averaged", [](const Case& c) { return has(c, "w.lora_interpolation_weight"); }, run_lora},
          {"token loss", [](const Case& c) { return has(c, "in.constraint_mask"); }, run_criterion},
          {"position buckets", [](const Case& c) { return has(c, "token.row0"); }, run_buckets},
          {"grounding", [](const Case& c) { return has(c, "in.predicted_bins"); }, run_grounding}};
}

}  // namespace mmtune::golden
