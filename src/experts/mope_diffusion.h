#pragma once
// MoPE's prompts in APT's form: what the prompts of a block would do to its attention is computed beside it, by the information diffusion
// of nn/diffusion.h, with prompts of their own for every example. The sequence does not grow.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "nn/diffusion.h"
#include "nn/parameters.h"

namespace mmtune::experts {

/// The self-attention of every layer of `backbone`, by the layer's number. Throws UsageError naming the architecture where a layer that
/// takes prompts has none, or more than one.
std::map<std::int64_t, nn::SublayerSite*> attention_of_layers(backbones::Backbone& backbone);

/// What one block's attention makes of prompts P_b [p, C] of example b: keys K_b = P_b + (P_b W1ᵀ) W2ᵀ, and for the rows X_b of the example
/// y = (a + w ⊙ (ReLU(X_b K_bᵀ) P_b)) · exp(s), w a row's largest activation (experts/apt.h). W1 [r, C], W2 [C, r] and s learn.
class MopeDiffusion final : public nn::SublayerHook {
 public:
  MopeDiffusion(nn::SublayerSite& site, std::int64_t rank, at::Generator& generator);

  /// The prompts [B, p, C] of the examples of the pass that begins; the block takes them once.
  void set_prompts(at::Tensor prompts) { prompts_ = std::move(prompts); }
  at::Tensor apply(const at::Tensor& output, const at::Tensor& input, const nn::Layout& layout, const nn::Context& context) override;

  nn::SublayerSite& site() const { return *site_; }
  /// "SITE.APT.mm.0.weight" [r, C], "SITE.APT.mm.1.weight" [C, r], "SITE.APT.scale" [1].
  std::vector<nn::NamedTensor> tensors() const;
  /// Multiply-accumulates of an example with `rows` rows.
  std::int64_t macs(std::int64_t rows, std::int64_t prompts) const;

 private:
  nn::SublayerSite* site_;
  at::Tensor first_, second_, scale_, prompts_;
};

}  // namespace mmtune::experts
