#pragma once
// The picture's way into a language model: an encoder and a connector. LLaVA's (CLIP and two linear maps), and that of BLIP-2 and its
// descendants (EVA ViT, Q-Former and one map; BLIVA's patches beside it).

#include <memory>
#include <span>
#include <vector>

#include "backbones/multimodal_lm.h"
#include "backbones/q_former.h"

namespace mmtune::backbones {

class VisualEncoder {
 public:
  virtual ~VisualEncoder() = default;
  /// pixels [B, 3, H, W] → what the projections read: each [B, N_i, D_i]. `text`: of the instructions; null where none is read.
  virtual std::vector<at::Tensor> features(const at::Tensor& pixels, const QFormerText* text, const nn::Context& context) = 0;
  /// → [B, N, D].
  virtual at::Tensor project(std::span<const at::Tensor> features, const nn::Context& context) const = 0;
  virtual void list(nn::SiteTable& table) = 0;
  virtual std::int64_t macs() const = 0;  ///< of one picture
  /// Of the visual tokens, how many come first from queries: all, but for BLIVA.
  virtual std::int64_t query_tokens() const = 0;
  /// What golden cases look at: the rows of a picture on their way. Empty where a family has none of them.
  struct Steps {
    at::Tensor encoder;         ///< the encoder's last block's output [B·T, D]
    at::Tensor encoder_normed;  ///< behind the norm
    at::Tensor queries;         ///< the Q-Former's states, an instruction's rows included [B, Q+T, D]
  };
  virtual Steps steps(const at::Tensor& pixels, const QFormerText* text, const nn::Context& context) = 0;

  bool reads_instruction = false;
  std::int64_t image_height = 0, image_width = 0, tokens = 0, max_words = 0, vocabulary = 0;
};

/// `width`: of the language model. Tensors are asked for by the names of backbones/multimodal_names.h.
std::unique_ptr<VisualEncoder> make_llava_vision(const Config& config, const nn::Weights& weights, std::int64_t width);
/// `patches`: BLIVA's second way.
std::unique_ptr<VisualEncoder> make_q_former_vision(const Config& config, const nn::Weights& weights, std::int64_t width, bool text,
                                                    bool patches);

}  // namespace mmtune::backbones
