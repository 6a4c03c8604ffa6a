#pragma once
// What a backbone is to the rest: inputs by HuggingFace's names, a token matrix and a pooled output back, and its sites.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "nn/context.h"
#include "nn/sites.h"
#include "nn/weights.h"

namespace mmtune::backbones {

/// `text_image`: one backbone that reads a text and a picture together.
enum class Modality { text, image, audio, text_image };
std::string_view name_of(Modality modality);

/// A batch for a backbone. Text and sound come as the rows of a layout (packed: real tokens or samples only); pictures as [B, 3, H, W].
struct ModelInputs {
  nn::Layout text_layout;
  at::Tensor input_ids;       ///< [N] int64
  at::Tensor token_type_ids;  ///< [N] int64; undefined: zeros
  at::Tensor position_ids;    ///< [N] int64; undefined: the architecture's own numbering of each sequence
  at::Tensor inputs_embeds;   ///< [N, D] instead of input_ids
  at::Tensor pixel_values;    ///< [B, C, H, W] float32
  /// Height and width in pixels of each picture, which lies in the upper left corner of its share of pixel_values; empty: all fill it.
  std::vector<std::pair<std::int64_t, std::int64_t>> picture_sizes;
  std::int64_t image_type = 1;  ///< text_image: the modality type of the pictures (1; 2 for the second picture of a pair)
  nn::Layout audio_layout;      ///< of samples
  at::Tensor input_values;      ///< [N] float32, the samples
};

struct ModelOutputs {
  at::Tensor last_hidden_state;  ///< [N, D], or [B, D] where the context reads only the pooled rows
  nn::Layout layout;
  at::Tensor pooler_output;  ///< [B, D]; undefined where the checkpoint has no pooler
  /// text_image with two streams: the picture's rows, those above being the text's.
  at::Tensor image_hidden_state;
  nn::Layout image_layout;
  at::Tensor embeds;  ///< [B, E]: pooler_output projected into the space that several towers share; undefined where there is none
};

enum class Pooling { automatic, first, mean, patches, pooler, all, projection };

struct BackboneInfo {
  std::string architecture;  ///< model_type of config.json
  Modality modality = Modality::text;
  std::int64_t width = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  bool has_pooler = false;
  std::int64_t pooled = 0;      ///< width of pooler_output; 0: that of the tokens
  std::int64_t projected = 0;   ///< width of the space that several towers share; 0: the checkpoint has no projection into one
  bool has_class_token = true;  ///< row 0 of a sequence stands for the whole of it
  /// What `automatic` means for this architecture where it is not `first` for pictures and `mean` for everything else.
  Pooling usual_pooling = Pooling::automatic;
  std::int64_t max_length = 0;    ///< text: positions (text_image too); pictures: tokens of a picture; sound: no limit
  std::int64_t least_length = 1;  ///< sound: samples of the shortest that gives a row
  /// The token whose first place stands for a text, where there is one; what follows it changes nothing.
  std::optional<std::int64_t> end_token;
  std::int64_t image_height = 0, image_width = 0, image_channels = 0;
  bool any_image_size = false;  ///< the size above is the one that positions were learned for; others are taken as they come
  std::int64_t patch_height = 0, patch_width = 0;  ///< where any_image_size
  std::int64_t max_patches = 0;                    ///< of a picture; 0: as many as it has
};

using TensorMap = std::map<std::string, at::Tensor>;

class Backbone {
 public:
  Backbone() = default;
  virtual ~Backbone() = default;
  Backbone(const Backbone&) = delete;
  Backbone& operator=(const Backbone&) = delete;

  const BackboneInfo& info() const { return info_; }
  virtual ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) = 0;
  nn::SiteTable& sites() { return sites_; }
  /// Multiply-accumulates of the linear maps and attention products of one example with `tokens` rows (pictures: pass info().max_length;
  /// sound: samples). `read_first`: only the class token of the last block is read.
  virtual std::int64_t macs(std::int64_t tokens, bool read_first) const = 0;
  /// What embedding a picture of `patches` patches costs, where macs() does not know how many of its tokens are patches.
  virtual std::int64_t picture_macs(std::int64_t) const { return 0; }
  /// The part of macs() through which gradients flow back where all blocks learn; what lies below them is frozen and has none.
  virtual std::int64_t block_macs(std::int64_t tokens, bool read_first) const { return macs(tokens, read_first); }
  /// Rows of the token matrix that `tokens` give: the same number, unless an input's own front makes fewer of them (sound: of samples).
  virtual std::int64_t rows_of(std::int64_t tokens) const { return tokens; }
  /// Rows of one example with `tokens` rows that the site `name` of block `layer` sees: fewer behind the merging of tokens, and where only
  /// a pooled row is read.
  virtual std::int64_t rows_at(std::string_view name, std::int64_t layer, std::int64_t tokens) const;
  /// What loading the checkpoint found; empty for a fresh model.
  const nn::LoadReport& load_report() const { return report_; }

  /// HuggingFace's own names in, its own names out, padded batches with masks: input_ids, attention_mask, token_type_ids [B, T],
  /// pixel_values, input_values … → last_hidden_state [B, T, D], pooler_output. Throws Error on an unknown, missing or misshapen input.
  /// Gradients flow to inputs that require them.
  virtual TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) = 0;

  /// Moves all its tensors; to be called before experts are attached.
  void move_to(at::Device device);
  std::int64_t parameter_count();  ///< of the backbone's own tensors
  /// The block that a tensor belongs to, be it the backbone's or an expert's on one of its sites; 0 where it belongs to none.
  std::int64_t layer_of(std::string_view tensor);

 protected:
  BackboneInfo info_;
  nn::SiteTable sites_;
  nn::LoadReport report_;
};

/// Multiply-accumulates of `layers` transformer blocks over `tokens` rows: four maps of `width`, attention, and a feed-forward part of
/// `inner`. `one_row`: the last block computes the output of one row only.
std::int64_t encoder_macs(std::int64_t layers, std::int64_t width, std::int64_t inner, std::int64_t tokens, bool one_row);

/// Opens a model folder with the architecture that config.json's model_type names; all weights are frozen. Of a model with several towers
/// (clip) `tower` chooses one; without it the whole model is opened. `storage`: of its large matrices. Throws Error naming what is
/// unsupported.
std::unique_ptr<Backbone> open_backbone(const io::Checkpoint& checkpoint, std::optional<Modality> tower = std::nullopt,
                                        nn::Storage storage = nn::Storage::f32);
/// The towers of a model that has several, the usual one first; empty for all others.
std::vector<Modality> towers_of(const io::Checkpoint& checkpoint);
/// A backbone of the shape that a config describes, freshly initialised.
std::unique_ptr<Backbone> fresh_backbone(const Json& config, std::uint64_t seed, std::optional<Modality> tower = std::nullopt,
                                         nn::Storage storage = nn::Storage::f32);
std::vector<std::string> known_architectures();

/// What `automatic` means for a backbone; any other value is returned as it is.
Pooling resolved(Pooling pooling, const BackboneInfo& info);
/// One row a sequence: [B, D], or [B, T*D] for `all`, which puts the rows of sequences of one length behind each other. `pooling` is
/// resolved.
at::Tensor pool(const ModelOutputs& outputs, Pooling pooling);

}  // namespace mmtune::backbones
