#pragma once
// Several experts of one kind as one: their tensors averaged with softmax coefficients that are learned (π-Tuning, Wu et al. 2023, arXiv
// 2304.14381, its third stage). Because the average is taken before anything is computed, the result is one expert of the kind, at no extra
// cost when it is used.
//
// The average lives in one expert, the carrier, which alone is attached to the backbone. A pass computes with the carrier; behind it, with
// Ḡ = ∂L/∂W̄ of every tensor of a site, the exact gradients are ∂L/∂W_i = α_i Ḡ, and with g_i = Σ <Ḡ, W_i>, ∂L/∂a_i = α_i (g_i − Σ_j α_j
// g_j). LoRA's updates are averaged, not its factors: Σ α_i s_i B_i A_i is one LoRA whose rank is the sum of theirs, [α_1 B_1 …]·[A_1; …].

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experts/expert.h"
#include "experts/interpolation_part.h"

namespace mmtune::experts {

/// Which tensors share a row of coefficients. `site`: those of an adapter, an attention module (LoRA, IA³), a layer's prefix, a module.
enum class CoefficientSharing { site, layer, global };

struct InterpolationOptions {
  CoefficientSharing sharing = CoefficientSharing::site;
  bool train_experts = true;
  bool train_coefficients = true;
  /// The coefficients that training begins with, one an expert, each above 0 (they are scaled to sum to 1); empty: all the same.
  std::vector<double> start;
  /// Instead of coefficients: fixed weights of the experts' differences from the untrained start (task arithmetic, Ilharco et al. 2022,
  /// arXiv 2212.04089), with any sum.
  std::vector<double> weights;
  /// Average once, then train that one expert.
  bool once = false;
  std::optional<double> coefficient_lr;  ///< unset: that of everything else
};

class Interpolated final : public Expert {
 public:
  /// `target`: the place of the expert that is the task's own; unset: none is. Throws Error where the parts differ in kind, sites or shape
  /// (LoRA's ranks may differ), naming both.
  Interpolated(backbones::Backbone& backbone, std::vector<InterpolationPart> parts, std::optional<std::size_t> target,
               const InterpolationOptions& options);

  std::string_view kind() const override { return "pi"; }
  /// "coefficients" [sites, K], the logits; and the parts', "NAME.of_I".
  std::vector<nn::NamedTensor> tensors() const override;
  Json config() const override { return carrier_->config(); }
  void set_enabled(bool enabled) override { carrier_->set_enabled(enabled); }
  bool enabled() const override { return carrier_->enabled(); }
  bool mergeable() const override { return carrier_->mergeable(); }
  std::int64_t extra_macs(std::int64_t tokens) const override { return carrier_->extra_macs(tokens); }
  bool beside_backbone() const override { return carrier_->beside_backbone(); }
  bool conditional() const override { return carrier_->conditional(); }
  std::vector<std::int64_t> complementary_widths() const override { return carrier_->complementary_widths(); }
  bool learns_absent() const override { return carrier_->learns_absent(); }
  at::Tensor auxiliary_loss() const override { return carrier_->auxiliary_loss(); }

  /// Averages anew.
  void before_pass(const nn::Context& context) override;
  /// Hands the carrier's gradients on to the parts and the coefficients.
  void after_backward() override;
  const Expert& kept() const override { return *carrier_; }

  std::size_t experts() const { return parts_.size(); }
  const std::vector<InterpolationPart>& parts() const { return parts_; }
  std::optional<std::size_t> target() const { return target_; }
  const std::vector<std::string>& sites() const { return sites_; }
  /// What the experts weigh at every site, [sites][K].
  std::vector<std::vector<double>> coefficients() const;
  bool learns_coefficients() const { return logits_.requires_grad(); }
  /// Whether the target's expert alone can be put in the place of the average, as a value of what is trained.
  bool can_choose() const { return learns_coefficients() && !options_.once; }
  /// Gives expert `which` all of the weight, up to what float32 cannot see.
  void choose(std::size_t which);
  /// From now on these weights at every site, whatever they sum to (line and plane between experts); nothing learns any more.
  void fix(std::vector<double> weights);
  /// Puts learned coefficients back, [sites][K]. Throws Error where they do not fit.
  void restore(const std::vector<std::vector<double>>& coefficients);
  /// Inner products of the experts, [K][K]: of their tensors; of LoRA's of the updates s B A.
  std::vector<std::vector<double>> products() const;
  const InterpolationOptions& options() const { return options_; }
  /// Names of experts and sites, and the coefficients: what a run's record keeps.
  Json describe() const;

 private:
  /// A tensor of the carrier, or a span of its columns, and the same of every part.
  struct Piece {
    std::size_t site = 0, tensor = 0;
    std::int64_t first = 0, count = 0;  ///< columns; count 0: the whole tensor
    enum class Form { mean, lora_a, lora_b } form = Form::mean;
    std::vector<std::int64_t> rank_begin = {}, rank = {};  ///< of every part (LoRA)
    std::vector<double> factor = {};                       ///< s_i / s of the carrier (LoRA's B)
    double scale = 1.0;                                    ///< s
  };
  void lay_out(backbones::Backbone& backbone);
  Json carrier_config() const;
  at::Tensor part_tensor(const Piece& piece, std::size_t part) const;
  /// Calls `work` with every piece and its number, on all threads and without recording gradients: pieces share no numbers.
  void for_pieces(const std::function<void(const Piece& piece, std::size_t number)>& work) const;
  void merge();

  std::vector<InterpolationPart> parts_;
  std::optional<std::size_t> target_;
  InterpolationOptions options_;
  std::unique_ptr<Expert> carrier_;
  std::vector<nn::NamedTensor> carried_;
  std::vector<at::Tensor> base_;  ///< what weights count differences from; undefined: 0
  std::vector<std::string> sites_;
  std::vector<Piece> pieces_;
  at::Tensor logits_;          ///< [sites, K]
  std::vector<double> fixed_;  ///< by fix(); empty: as learned
};

}  // namespace mmtune::experts
