#pragma once
// APT, approximated prompt tuning (Wu et al., arXiv 2306.15706): the effect of p prompts on an attention, computed beside it by a step of
// its own (nn/diffusion.h) that neither lengthens the attention nor passes its maps. The prompts P are the values, their low-rank
// correction K = P + (P W1ᵀ) W2ᵀ the keys. docs/methods/apt.md has the equations and the keys.

#include <memory>
#include <string>
#include <vector>

#include "experts/expert.h"
#include "nn/diffusion.h"

namespace mmtune::experts {

enum class AptInit {
  released,  ///< W1 and W2 from normal(0, 0.02), as the published models really start
  paper      ///< W1 from normal(0, 1), W2 zero: keys start as the prompts
};
enum class AptWeight {
  max,     ///< a row's largest activation, a constant in the backward pass
  none,    ///< 1
  learned  ///< the sigmoid of a learned linear map of the row: the share of the prompts that exact prompting has
};
enum class AptKeys { low_rank, prompts };

struct AptOptions {
  std::int64_t prompts = 200;  ///< p
  std::int64_t rank = 4;       ///< r
  AptInit init = AptInit::released;
  nn::DiffusionActivation activation = nn::DiffusionActivation::relu;
  AptWeight weight = AptWeight::max;
  AptKeys keys = AptKeys::low_rank;
  bool learn_scale = true;
  std::vector<std::string> targets = {"*"};
};

class Apt final : public Expert {
 public:
  /// Attaches to the attention sublayers that options.targets name. Throws UsageError where one names none.
  Apt(const AptOptions& options, backbones::Backbone& backbone, at::Generator& generator);
  ~Apt() override;

  std::string_view kind() const override { return "apt"; }
  /// Below every site's name, as the original: "APT.mm_tokens" [p, D], "APT.mm.0.weight" [r, D], "APT.mm.1.weight" [D, r], "APT.scale" [1];
  /// a learned weight adds "APT.gate" [D]. A scale that is not learned is saved too.
  std::vector<nn::NamedTensor> tensors() const override;
  Json config() const override;
  void set_enabled(bool enabled) override;
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t tokens) const override;

  const AptOptions& options() const { return options_; }

  /// What one place did in the latest forward pass while watched.
  struct Watched {
    std::string site;
    nn::Layout layout;
    at::Tensor input;          ///< X [N, D]
    at::Tensor keys;           ///< K [p, D]
    nn::DiffusionParts parts;  ///< its rows are the layout's
  };
  /// While it is on, every pass keeps what each place did, which costs memory; off: forgotten.
  void watch(bool on);
  const std::vector<Watched>& watched() const { return watched_; }
  /// The prompts P of every place, in the order of tensors().
  std::vector<at::Tensor> prompts() const;

 private:
  class Place;
  AptOptions options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::SublayerSite*> sites_;
  std::vector<std::unique_ptr<Place>> places_;
  std::vector<Watched> watched_;
  bool watching_ = false;
  bool enabled_ = false;
};

}  // namespace mmtune::experts
