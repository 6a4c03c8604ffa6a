#include "experts/merge.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "core/error.h"

namespace mmtune::experts {

namespace {

/// Weight and bias that do alone what the site does with its terms (nn/linear.cpp): input factors, then W + Σ s B A (with DoRA brought to
/// the learned lengths), then output factors. In double precision, so that the result is rounded once.
std::pair<at::Tensor, at::Tensor> folded(const nn::WeightSite& site) {
  at::Tensor weight = site.weight.detach().to(at::kDouble);
  at::Tensor bias = site.bias.defined() ? site.bias.detach().to(at::kDouble) : at::Tensor();
  for (const nn::LowRank* term : site.low_rank) {
    const at::Tensor update = at::mm(term->b.detach().to(at::kDouble), term->a.detach().to(at::kDouble)) * term->scale;
    weight = weight + update;
    if (term->magnitude.defined()) weight = weight * (term->magnitude.detach().to(at::kDouble) / weight.norm(2, {1})).unsqueeze(1);
  }
  for (const nn::Scaling* scaling : site.scalings) {
    const at::Tensor factors = scaling->factors.detach().to(at::kDouble);  // [1, in] or [out, 1]
    weight = weight * factors;
    if (!scaling->input && bias.defined()) bias = bias * factors.squeeze(1);
  }
  return {weight.to(at::kFloat).contiguous(), bias.defined() ? bias.to(at::kFloat).contiguous() : bias};
}

void refuse_non_finite(const nn::NamedTensor& one, const std::string& what) {
  if (at::isfinite(one.tensor.detach()).all().item<bool>()) return;
  throw Error({.what = what + " holds NaN or infinite numbers", .where = one.name});
}

}  // namespace

void refuse_unmergeable(const Expert& expert, const std::string& where) {
  if (expert.mergeable()) return;
  throw Error({.what = "an expert of kind " + std::string(expert.kind()) + " cannot be folded into the weights exactly",
               .where = where,
               .expected = "lora, ia3, bitfit, full or linear",
               .hint = "what it adds depends on the input, and no weight of the backbone can say that"});
}

MergedExperts::MergedExperts(backbones::Backbone& backbone, std::vector<Expert*> experts) : experts_(std::move(experts)) {
  for (const Expert* expert : experts_) {
    MMTUNE_ASSERT(expert->enabled());
    refuse_unmergeable(*expert, "expert \"" + std::string(expert->kind()) + "\"");
    for (const nn::NamedTensor& one : expert->tensors()) refuse_non_finite(one, "the expert's tensor");
  }
  const at::NoGradGuard no_grad;
  std::vector<nn::TensorSlot>& slots = backbone.sites().tensors;
  std::map<const at::Tensor*, at::Tensor> wanted;
  for (const nn::TensorSlot& slot : slots) wanted[slot.tensor] = *slot.tensor;
  for (const nn::WeightSite* site : backbone.sites().weights) {
    if (site->low_rank.empty() && site->scalings.empty()) continue;
    const auto [weight, bias] = folded(*site);
    wanted[&site->weight] = weight;
    if (bias.defined() && std::any_of(site->scalings.begin(), site->scalings.end(), [](const nn::Scaling* one) { return !one->input; }))
      wanted[&site->bias] = bias;
  }
  for (Expert* expert : experts_) expert->set_enabled(false);
  try {
    for (const nn::TensorSlot& slot : slots) {
      const at::Tensor& now = wanted.at(slot.tensor);
      if (now.is_same(*slot.tensor)) continue;
      refuse_non_finite({slot.name, now}, "the merged tensor");
      changed_.push_back({slot.name, now.detach()});
      places_.push_back({slot.tensor, *slot.tensor});
    }
  } catch (...) {
    for (Expert* expert : experts_) expert->set_enabled(true);
    throw;
  }
  for (std::size_t i = 0; i < places_.size(); ++i) *places_[i].tensor = changed_[i].tensor;
}

MergedExperts::~MergedExperts() {
  for (const Place& place : places_) *place.tensor = place.original;
  for (Expert* expert : experts_) expert->set_enabled(true);
}

}  // namespace mmtune::experts
