#pragma once
// Experts folded into the weights of their backbone, and taken out again.

#include <vector>

#include "experts/expert.h"

namespace mmtune::experts {

/// While it lives, the backbone computes with plain weights what it computed with the experts: LoRA, rsLoRA, DoRA and IA³ are folded into
/// weights and biases, and tensors that experts trained stand in their places. Outputs are equal but for rounding. The experts are disabled
/// meanwhile.
class MergedExperts {
 public:
  /// `experts` are all that are attached to `backbone`, enabled; both must outlive this object. Throws Error, having changed nothing, where
  /// an expert cannot be folded exactly, or where a tensor of an expert or of the result holds NaN or infinite numbers.
  MergedExperts(backbones::Backbone& backbone, std::vector<Expert*> experts);
  /// Puts the very tensors back that were there before, and enables the experts.
  ~MergedExperts();
  MergedExperts(const MergedExperts&) = delete;
  MergedExperts& operator=(const MergedExperts&) = delete;

  /// The tensors that are others now, by the backbone's names.
  const std::vector<nn::NamedTensor>& changed() const { return changed_; }

 private:
  struct Place {
    at::Tensor* tensor;
    at::Tensor original;
  };
  std::vector<Expert*> experts_;
  std::vector<Place> places_;
  std::vector<nn::NamedTensor> changed_;
};

/// Throws Error where an expert of this kind cannot be folded into weights exactly; `where` names it in the message.
void refuse_unmergeable(const Expert& expert, const std::string& where);

}  // namespace mmtune::experts
