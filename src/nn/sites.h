#pragma once
// Sites: the named places of a backbone that experts attach to. A backbone offers them by its checkpoint's names and knows no
// expert; an expert picks them by kind and pattern and knows no backbone beyond the sites' widths. A site without an expert costs one
// branch.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nn/context.h"
#include "nn/layout.h"

namespace mmtune::nn {

/// y += scale * dropout(x) Aᵀ Bᵀ, beside a linear map (LoRA).
struct LowRank {
  at::Tensor a;  ///< [r, in]
  at::Tensor b;  ///< [out, r]
  double scale = 1.0;
  double dropout = 0.0;
  /// [out]; where it is defined, each row of W + scale B A is brought to this length (DoRA, arXiv 2402.09353). As in PEFT, no gradient
  /// flows through the length that the row has.
  at::Tensor magnitude;
};

/// Factors on the input of a linear map, [1, in], or on its output, [out, 1] (IA³).
struct Scaling {
  at::Tensor factors;
  bool input = false;
};

/// A linear map y = x Wᵀ + b, [N, in] → [N, out]. Experts add low-rank terms, scale, or swap the tensors for trainable ones.
struct WeightSite {
  std::string name;  ///< the checkpoint's name without ".weight": "encoder.layer.0.attention.self.query"
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t layer = 0;
  at::Tensor weight;                     ///< [out, in]
  at::Tensor bias;                       ///< [out], undefined where the map has none
  std::vector<const LowRank*> low_rank;  ///< terms with a magnitude stand alone
  std::vector<const Scaling*> scalings;
};

/// Changes a sublayer's output, seeing its input too (adapters; APT, whose input is what the q/k/v projections read).
class SublayerHook {
 public:
  virtual ~SublayerHook() = default;
  /// `output`, `input` [N, D] → the new output [N, D]. Called after the sublayer's output projection, before its residual.
  virtual at::Tensor apply(const at::Tensor& output, const at::Tensor& input, const Layout& layout, const Context& context) = 0;
};

struct SublayerSite {
  enum class Role { self_attention, cross_attention, feed_forward };
  std::string name;  ///< "encoder.layer.0.attention.output", "encoder.layer.0.output"
  Role role = Role::self_attention;
  std::int64_t width = 0;
  std::int64_t layer = 0;
  bool normed = false;  ///< the block norms the sum with the residual
  std::vector<SublayerHook*> hooks;
  std::vector<SublayerHook*> norm_hooks;  ///< called behind that norm, with its result as the output

  at::Tensor operator()(at::Tensor output, const at::Tensor& input, const Layout& layout, const Context& context) const {
    for (SublayerHook* hook : hooks) output = hook->apply(output, input, layout, context);
    return output;
  }
  at::Tensor behind_norm(at::Tensor output, const at::Tensor& input, const Layout& layout, const Context& context) const {
    for (SublayerHook* hook : norm_hooks) output = hook->apply(output, input, layout, context);
    return output;
  }
};

/// Rows put in front of an attention's keys and values, each [P, H, d] (the same for all) or [B, P, H, d]; always visible.
struct KeyValueRows {
  at::Tensor keys;
  at::Tensor values;
};

class KeyValueHook {
 public:
  virtual ~KeyValueHook() = default;
  virtual KeyValueRows rows(const Context& context) = 0;
};

struct KeyValueSite {
  std::string name;  ///< "encoder.layer.0.attention.self"
  std::int64_t heads = 0;
  std::int64_t head_width = 0;
  std::int64_t layer = 0;
  /// What the attention's own maps make of rows [P, D] that would stand among the block's tokens, a norm before them included.
  std::function<KeyValueRows(const at::Tensor& rows, const Context& context)> project;
  KeyValueHook* hook = nullptr;
};

/// Puts tokens in front of, replaces, reads and removes tokens around a block (prompts; MoPE).
class SequenceHook {
 public:
  virtual ~SequenceHook() = default;
  virtual void before_block(Tokens& tokens, const Context& context) = 0;
  virtual void after_block(Tokens& tokens, const Context& context) = 0;
};

struct SequenceSite {
  std::string name;  ///< "encoder.layer.0"
  std::int64_t width = 0;
  std::int64_t layer = 0;
  std::int64_t prompt_position = 0;  ///< where prompts belong: behind the class token
  bool last = false;
  bool causal = false;  ///< a row attends to itself and to those before it only
  SequenceHook* hook = nullptr;
};

/// Changes the pixels or the spectrogram before the first layer.
class InputHook {
 public:
  virtual ~InputHook() = default;
  virtual at::Tensor apply(const at::Tensor& input, const Context& context) = 0;
};

/// Where a text encoder looks its words up, before positions are added. What experts put in front of a text takes positions, as in PEFT.
struct WordSite {
  std::string name;  ///< "embeddings.word_embeddings"
  std::int64_t width = 0;
  at::Tensor prompts;            ///< [P, D], in front of every text as if they were words; undefined: none
  double dropout = 0.0;          ///< of the prompts
  std::int64_t first_place = 0;  ///< of a text's first word; more than 0 where rows of keys and values stand in front of it
};

/// The row in front of every text of a model that fuses a text and a picture, whose last state stands for both. A learned one takes the
/// place of the embedding of the text's own class token, before the modality's type is added (APT's token4classifier).
struct FirstTokenSite {
  std::string name;  ///< "token4classifier"
  std::int64_t width = 0;
  at::Tensor usual;  ///< [D], the embedding of the checkpoint's class token: where a learned one begins
  at::Tensor value;  ///< [D], or [1, 1, D]; undefined: what the text has there
};

struct InputSite {
  std::string name;  ///< "pixel_values"
  InputHook* hook = nullptr;
};

/// What the layer of a slot does where squared gradients are wanted (Context::examples).
enum class SlotSquares {
  none,    ///< it knows nothing of them
  itself,  ///< gives them to the tensor in the slot
  spread   ///< takes a tensor an example, [B, 1, D], in the place of one [D] (nn/squared_gradients.h)
};

/// A tensor of the backbone under its checkpoint's name; experts that free weights or biases swap `*tensor`.
struct TensorSlot {
  std::string name;
  at::Tensor* tensor = nullptr;
  SlotSquares squares = SlotSquares::none;
};

/// All sites of one backbone. The pointers are the backbone's own and live as long as it does.
struct SiteTable {
  std::vector<WeightSite*> weights;
  std::vector<SublayerSite*> sublayers;
  std::vector<KeyValueSite*> keys_values;
  std::vector<SequenceSite*> sequences;
  std::vector<InputSite*> inputs;
  WordSite* words = nullptr;
  FirstTokenSite* first_token = nullptr;
  std::vector<TensorSlot> tensors;
};

/// Whether `name` is chosen by `pattern`: equal, ends with "." + pattern (PEFT's rule for target_modules), or matches it as a glob with
/// '*'. What checkpoints call a map depends on their architecture: query, key, value and q_proj, k_proj, v_proj stand for each other, and
/// output.dense for fc2 and output_dense.
bool matches(std::string_view name, std::string_view pattern);
/// The pattern as it is spelt in the architecture that `name` comes from, or nothing where it does not choose the name.
std::optional<std::string> spelling(std::string_view name, std::string_view pattern);

}  // namespace mmtune::nn
