#include "experts/interpolated.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

/// A logit lead that leaves nothing of the others' coefficients in float32.
constexpr double lead = 80;

/// "encoder.layer.0.attention.self.query.lora_A.weight" → "encoder.layer.0.attention.self.query".
std::string module_of(const std::string& tensor) {
  for (const char* mark : {".lora_", ".adapter.", ".ia3_l", ".prompt_embeddings", ".ladder.", ".base_layer."})
    if (const std::size_t at = tensor.find(mark); at != std::string::npos) return tensor.substr(0, at);
  const std::size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

/// A module's attention, where it lies in one: its query, key, value and output share their coefficients.
std::string attention_of(const std::string& module) {
  for (std::size_t begin = 0; begin < module.size();) {
    const std::size_t end = std::min(module.find('.', begin), module.size());
    if (module.substr(begin, end - begin).find("att") != std::string::npos) return module.substr(0, end);
    begin = end + 1;
  }
  return module;
}

/// alpha / r or alpha / √r of the linear map `site`, by Lora::config().
double lora_scale(const Json& config, const std::string& site) {
  auto rank = config.at("r").get<double>(), alpha = config.at("lora_alpha").get<double>();
  if (config.contains("rank_pattern") && config["rank_pattern"].contains(site)) rank = config["rank_pattern"][site].get<double>();
  if (config.contains("alpha_pattern") && config["alpha_pattern"].contains(site)) alpha = config["alpha_pattern"][site].get<double>();
  return alpha / (config.value("use_rslora", false) ? std::sqrt(rank) : rank);
}

/// Zeros for the gradient of a leaf that has none yet.
void make_gradient(at::Tensor& leaf) {
  if (!leaf.grad().defined()) leaf.mutable_grad() = at::zeros_like(leaf);
}

}  // namespace

Interpolated::Interpolated(backbones::Backbone& backbone, std::vector<InterpolationPart> parts, std::optional<std::size_t> target,
                           const InterpolationOptions& options)
    : parts_(std::move(parts)), target_(target), options_(options) {
  MMTUNE_ASSERT(!parts_.empty() && (!target_ || *target_ < parts_.size()));
  for (const InterpolationPart& part : parts_) refuse_unlike(parts_.front(), part);
  const std::unique_ptr<ExpertRecipe> recipe = expert_recipe(parts_.front().kind);
  recipe->read_config(carrier_config(), parts_.front().folder);
  carrier_ = recipe->build(backbone, at::detail::createCPUGenerator(0));
  carried_ = carrier_->tensors();
  const bool from_start = parts_.front().kind == "ia3" || parts_.front().kind == "full" || parts_.front().kind == "bitfit";
  for (const nn::NamedTensor& one : carried_) {
    const bool companion = parts_.front().kind == "lora" && !is_lora_tensor(one.name);
    base_.push_back(from_start || companion ? one.tensor.detach().clone() : at::Tensor());
  }
  lay_out(backbone);
  const auto count = static_cast<std::int64_t>(parts_.size());
  logits_ = at::ones({static_cast<std::int64_t>(sites_.size()), count}, at::kFloat);
  if (!options_.start.empty()) {
    MMTUNE_ASSERT(options_.start.size() == parts_.size());
    const at::Tensor row = at::tensor(options_.start, at::kDouble).log().to(at::kFloat);
    logits_.copy_(row.expand_as(logits_));
  }
  merge();
  if (options_.once) return;
  const bool fixed = !options_.weights.empty();
  logits_.requires_grad_(options_.train_coefficients && !fixed && parts_.size() > 1);
  for (InterpolationPart& part : parts_)
    for (nn::NamedTensor& one : part.tensors) one.tensor.requires_grad_(options_.train_experts);
}

Json Interpolated::carrier_config() const {
  Json config = parts_[target_.value_or(0)].config;
  if (parts_.front().kind != "lora") return config;
  // One LoRA whose rank at every linear map is the sum of the parts', with the first part's scale.
  const Json first = parts_.front().config;
  Json ranks = Json::object(), alphas = Json::object();
  std::int64_t usual_rank = 0;
  double usual_alpha = 0;
  for (std::size_t t = 0; t < parts_.front().tensors.size(); ++t) {
    const std::string& name = parts_.front().tensors[t].name;
    if (!name.ends_with(".lora_A.weight")) continue;
    const std::string site = module_of(name);
    std::int64_t rank = 0;
    for (const InterpolationPart& part : parts_) rank += part.tensors[t].tensor.size(0);
    const double alpha = lora_scale(first, site) * static_cast<double>(rank);
    if (usual_rank == 0) {
      usual_rank = rank;
      usual_alpha = alpha;
    }
    if (rank != usual_rank) ranks[site] = rank;
    if (alpha != usual_alpha) alphas[site] = alpha;
  }
  config.update(
      {{"r", usual_rank}, {"lora_alpha", usual_alpha}, {"rank_pattern", ranks}, {"alpha_pattern", alphas}, {"use_rslora", false}});
  return config;
}

void Interpolated::lay_out(backbones::Backbone& backbone) {
  const std::string& kind = parts_.front().kind;
  const auto site_of = [&](const std::string& name) {
    std::string label;
    if (options_.sharing == CoefficientSharing::global) {
      label = "all";
    } else if (options_.sharing == CoefficientSharing::layer) {
      label = "layer " + std::to_string(backbone.layer_of(name));
    } else {
      label = kind == "lora" || kind == "ia3" ? attention_of(module_of(name)) : module_of(name);
    }
    const auto found = std::find(sites_.begin(), sites_.end(), label);
    if (found != sites_.end()) return static_cast<std::size_t>(found - sites_.begin());
    sites_.push_back(label);
    return sites_.size() - 1;
  };
  for (std::size_t t = 0; t < carried_.size(); ++t) {
    const std::string& name = carried_[t].name;
    MMTUNE_ASSERT(name == parts_.front().tensors[t].name);
    if (kind == "prefix") {
      // Keys and values of a layer stand side by side in the table's columns.
      const std::vector<nn::KeyValueSite*>& layers = backbone.sites().keys_values;
      const std::int64_t columns = carried_[t].tensor.size(1) / static_cast<std::int64_t>(layers.size());
      for (std::size_t l = 0; l < layers.size(); ++l)
        pieces_.push_back({site_of(layers[l]->name + ".prefix"), t, static_cast<std::int64_t>(l) * columns, columns});
      continue;
    }
    Piece piece{.site = site_of(name), .tensor = t};
    if (kind == "lora" && is_lora_tensor(name)) {
      const bool a = name.ends_with(".lora_A.weight");
      piece.form = a ? Piece::Form::lora_a : Piece::Form::lora_b;
      const double first = lora_scale(parts_.front().config, module_of(name));
      piece.scale = first;
      std::int64_t begin = 0;
      for (const InterpolationPart& part : parts_) {
        piece.rank_begin.push_back(begin);
        piece.rank.push_back(part.tensors[t].tensor.size(a ? 0 : 1));
        piece.factor.push_back(lora_scale(part.config, module_of(name)) / first);
        begin += piece.rank.back();
      }
    }
    pieces_.push_back(std::move(piece));
  }
}

std::vector<nn::NamedTensor> Interpolated::tensors() const {
  if (options_.once) return carried_;
  std::vector<nn::NamedTensor> all;
  if (options_.weights.empty() && parts_.size() > 1) all.push_back({"coefficients", logits_});
  for (std::size_t i = 0; i < parts_.size(); ++i)
    for (const nn::NamedTensor& one : parts_[i].tensors) all.push_back({one.name + ".of_" + std::to_string(i), one.tensor});
  return all;
}

std::vector<std::vector<double>> Interpolated::coefficients() const {
  const std::vector<double>& weights = fixed_.empty() ? options_.weights : fixed_;
  if (!weights.empty()) return std::vector<std::vector<double>>(sites_.size(), weights);
  const at::Tensor shares = logits_.detach().to(at::kCPU).to(at::kDouble).softmax(1).contiguous();
  std::vector<std::vector<double>> rows;
  for (std::int64_t s = 0; s < shares.size(0); ++s) {
    const double* const row = shares.const_data_ptr<double>() + s * shares.size(1);
    rows.emplace_back(row, row + shares.size(1));
  }
  return rows;
}

at::Tensor Interpolated::part_tensor(const Piece& piece, std::size_t part) const {
  const at::Tensor& whole = parts_[part].tensors[piece.tensor].tensor;
  return piece.count > 0 ? whole.narrow(1, piece.first, piece.count) : whole;
}

void Interpolated::merge() {
  const std::vector<std::vector<double>> shares = coefficients();
  const at::Device device = parts_.front().tensors.front().tensor.device();
  for (nn::NamedTensor& one : carried_)
    if (one.tensor.device() != device) one.tensor.set_data(one.tensor.to(device));
  for_pieces([&](const Piece& piece, std::size_t) {
    at::Tensor& carried = carried_[piece.tensor].tensor;
    at::Tensor out = piece.count > 0 ? carried.narrow(1, piece.first, piece.count) : carried;
    const std::vector<double>& share = shares[piece.site];
    if (piece.form == Piece::Form::mean) {
      const at::Tensor& base = base_[piece.tensor];
      const double left = 1.0 - std::accumulate(share.begin(), share.end(), 0.0);
      at::mul_out(out, part_tensor(piece, 0), at::scalar_tensor(share[0]));
      for (std::size_t i = 1; i < parts_.size(); ++i) out.add_(part_tensor(piece, i), share[i]);
      if (fixed_.empty() && !options_.weights.empty() && base.defined()) out.add_(base.to(device), left);
      return;
    }
    const bool a = piece.form == Piece::Form::lora_a;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      at::Tensor block = out.narrow(a ? 0 : 1, piece.rank_begin[i], piece.rank[i]);
      block.copy_(part_tensor(piece, i));
      if (!a) block.mul_(share[i] * piece.factor[i]);
    }
  });
}

void Interpolated::for_pieces(const std::function<void(const Piece& piece, std::size_t number)>& work) const {
  const auto some = [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;  // of this thread
    for (auto number = static_cast<std::size_t>(begin); number < static_cast<std::size_t>(end); ++number) work(pieces_[number], number);
  };
  const auto count = static_cast<std::int64_t>(pieces_.size());
  // A site's tensors are too small for threads to share; another device has a queue of its own.
  if (parts_.front().tensors.front().tensor.is_cpu()) {
    at::parallel_for(0, count, 1, some);
  } else {
    some(0, count);
  }
}

void Interpolated::before_pass(const nn::Context& context) {
  if (!options_.once) merge();
  carrier_->before_pass(context);
}

namespace {

/// <a, b>, without an array of products where both lie in one piece.
double product_of(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_contiguous() && b.is_contiguous()) return at::dot(a.view({-1}), b.view({-1})).item<double>();
  return (a * b).sum(at::kDouble).item<double>();
}

}  // namespace

void Interpolated::after_backward() {
  carrier_->after_backward();
  if (options_.once) return;
  const at::NoGradGuard no_grad;
  const std::vector<std::vector<double>> shares = coefficients();
  const std::size_t count = parts_.size();
  for (InterpolationPart& part : parts_)
    for (std::size_t t = 0; t < part.tensors.size(); ++t)
      if (part.tensors[t].tensor.requires_grad() && carried_[t].tensor.grad().defined()) make_gradient(part.tensors[t].tensor);
  std::vector<double> products(pieces_.size() * count, 0.0);
  for_pieces([&](const Piece& piece, std::size_t number) {
    const at::Tensor& whole = carried_[piece.tensor].tensor.grad();
    if (!whole.defined()) return;  // nothing reached it
    const at::Tensor gradient = piece.count > 0 ? whole.narrow(1, piece.first, piece.count) : whole;
    for (std::size_t i = 0; i < count; ++i) {
      const double share = shares[piece.site][i];
      at::Tensor& leaf = parts_[i].tensors[piece.tensor].tensor;
      at::Tensor own = gradient;
      double weight = share;
      if (piece.form == Piece::Form::lora_a) {
        own = gradient.narrow(0, piece.rank_begin[i], piece.rank[i]);
        weight = 1.0;
      } else if (piece.form == Piece::Form::lora_b) {
        own = gradient.narrow(1, piece.rank_begin[i], piece.rank[i]);
        weight = share * piece.factor[i];
      }
      if (logits_.requires_grad() && piece.form != Piece::Form::lora_a) {
        const double factor = piece.form == Piece::Form::lora_b ? piece.factor[i] : 1.0;
        products[number * count + i] = factor * product_of(own, part_tensor(piece, i));
      }
      if (!leaf.requires_grad()) continue;
      at::Tensor& total = leaf.mutable_grad();
      (piece.count > 0 ? total.narrow(1, piece.first, piece.count) : total).add_(own, weight);
    }
  });
  std::vector<std::vector<double>> g(sites_.size(), std::vector<double>(count, 0.0));
  for (std::size_t number = 0; number < pieces_.size(); ++number)
    for (std::size_t i = 0; i < count; ++i) g[pieces_[number].site][i] += products[number * count + i];
  for (nn::NamedTensor& one : carried_) one.tensor.mutable_grad() = at::Tensor();
  if (!logits_.requires_grad()) return;
  at::Tensor change = at::empty({static_cast<std::int64_t>(sites_.size()), static_cast<std::int64_t>(count)}, at::kDouble);
  auto* const numbers = change.data_ptr<double>();
  for (std::size_t s = 0; s < sites_.size(); ++s) {
    const double mean = std::inner_product(g[s].begin(), g[s].end(), shares[s].begin(), 0.0);
    for (std::size_t i = 0; i < count; ++i) numbers[s * count + i] = shares[s][i] * (g[s][i] - mean);
  }
  make_gradient(logits_);
  logits_.mutable_grad().add_(change.to(logits_.options().requires_grad(false)));
}

void Interpolated::choose(std::size_t which) {
  MMTUNE_ASSERT(can_choose() && which < parts_.size());
  const at::NoGradGuard no_grad;
  logits_.zero_();
  logits_.select(1, static_cast<std::int64_t>(which)).fill_(lead);
  merge();
}

void Interpolated::fix(std::vector<double> weights) {
  MMTUNE_ASSERT(weights.size() == parts_.size() && !options_.once);
  logits_.requires_grad_(false);
  // Differences from the start only where the weights were that from the beginning: these are points between the experts.
  fixed_ = std::move(weights);
  merge();
}

void Interpolated::restore(const std::vector<std::vector<double>>& coefficients) {
  const at::NoGradGuard no_grad;
  if (coefficients.size() != sites_.size())
    throw Error(
        {.what = "coefficients of other sites", .expected = std::to_string(sites_.size()), .got = std::to_string(coefficients.size())});
  for (std::size_t s = 0; s < sites_.size(); ++s) {
    if (coefficients[s].size() != parts_.size())
      throw Error({.what = "coefficients of other experts", .expected = std::to_string(parts_.size())});
    for (std::size_t i = 0; i < parts_.size(); ++i)
      logits_[static_cast<std::int64_t>(s)][static_cast<std::int64_t>(i)].fill_(std::log(std::max(coefficients[s][i], 1e-35)));
  }
  merge();
}

std::vector<std::vector<double>> Interpolated::products() const {
  const at::NoGradGuard no_grad;
  const std::size_t count = parts_.size();
  std::vector<std::vector<double>> table(count, std::vector<double>(count, 0.0));
  const auto wide = [&](std::size_t part, std::size_t tensor) { return parts_[part].tensors[tensor].tensor.detach().to(at::kDouble); };
  for (const Piece& piece : pieces_) {
    if (piece.form == Piece::Form::lora_a || (piece.count > 0 && piece.first > 0)) continue;  // with B; with the table's first span
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        double product = 0;
        if (piece.form == Piece::Form::lora_b) {
          // <B_i A_i, B_j A_j> = <B_iᵀ B_j, A_i A_jᵀ>; A stands in front of its B.
          const at::Tensor b = wide(i, piece.tensor).t().mm(wide(j, piece.tensor));
          const at::Tensor a = wide(i, piece.tensor - 1).mm(wide(j, piece.tensor - 1).t());
          product = (a * b).sum().item<double>() * piece.factor[i] * piece.factor[j] * piece.scale * piece.scale;
        } else {
          product = (wide(i, piece.tensor) * wide(j, piece.tensor)).sum().item<double>();
        }
        table[i][j] += product;
        if (i != j) table[j][i] += product;
      }
  }
  return table;
}

Json Interpolated::describe() const {
  Json experts = Json::array();
  for (const InterpolationPart& part : parts_) experts.push_back({{"task", part.task}, {"folder", part.folder}});
  return {{"kind", parts_.front().kind},
          {"experts", experts},
          {"target", target_ ? Json(*target_) : Json()},
          {"sites", sites_},
          {"coefficients", coefficients()}};
}

}  // namespace mmtune::experts
