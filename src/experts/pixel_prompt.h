#pragma once
// Visual prompts: tensors that are added to a picture's pixels. The forms of TVP (Zhang et al., CVPR 2024) and EVP (arXiv 2212.10556),
// whose prompt stands in pixel units before normalisation around a picture in a black frame, and those of VP (arXiv 2203.17274), which lie
// on the normalised picture.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nn/parameters.h"

namespace mmtune::experts {

/// border: δ [3, F, F] whose outer `width` pixels are trained (TVP, EVP); full: all of δ. The other three are VP's: four strips along the
/// edges, a patch in the upper left corner, a patch at a place drawn for every batch.
enum class PromptForm { border, full, vp_padding, vp_fixed_patch, vp_random_patch };
std::string_view name_of(PromptForm form);
/// Throws Error{where} on an unknown name.
PromptForm prompt_form_named(const std::string& name, const std::string& where);

struct PromptShape {
  PromptForm form = PromptForm::border;
  std::int64_t frame = 224;  ///< F: side of what the model sees
  std::int64_t width = 30;   ///< p: of the border or the strips, or the patch's side; without meaning for `full`
  std::int64_t image = 164;  ///< s: side of the picture inside the frame; more than F − 2p: the border covers some of it
  /// The released sizes for a frame of another side: p = 30/224 of it, the picture in what is left.
  static PromptShape usual(PromptForm form, std::int64_t frame);
  bool before_normalisation() const { return form == PromptForm::border || form == PromptForm::full; }
  bool operator==(const PromptShape&) const = default;
};
/// Throws UsageError{where = `key` + the field} for sizes that no prompt can have: F − s odd, s > F, strips that meet, a picture inside a
/// frame for a form whose pictures fill it.
void check(const PromptShape& shape, const std::string& key);

/// Channel means and deviations in [0, 1] units: what a model's pictures are normalised by.
struct ChannelNorm {
  std::array<double, 3> mean, std;
  at::Tensor mean_tensor() const;  ///< [3, 1, 1] float32
  at::Tensor std_tensor() const;
};
/// OpenAI CLIP's, which all of TVP's models share.
inline constexpr ChannelNorm clip_norm{{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

/// Upper left corner of the patch of vp_random_patch.
using PatchPlace = std::pair<std::int64_t, std::int64_t>;

/// Puts pictures [B, 3, s, s] in [0, 1] into the middle of a black frame: [B, 3, F, F]. F − s is even.
at::Tensor framed(const at::Tensor& pictures, std::int64_t frame);
/// Pictures of side F for a model of side R: bicubic (a = −0.75, align_corners = false, no antialiasing), differentiable; as they are where
/// R = F.
at::Tensor resized_to(const at::Tensor& pictures, std::int64_t side);
/// (x − μ)/σ after resized_to(): what a model sees of framed pictures without a prompt.
at::Tensor clean_input(const at::Tensor& framed_pictures, const ChannelNorm& norm, std::int64_t side);

class PixelPrompt {
 public:
  /// Zeros (border, full) or numbers from N(0, 1) (VP's forms), as released. `shape` has been checked.
  PixelPrompt(const PromptShape& shape, at::Generator generator);

  const PromptShape& shape() const { return shape_; }
  /// Trainable leaves: "perturbation" [3, F, F]; "pad_up", "pad_down" [1, 3, p, F], "pad_left", "pad_right" [1, 3, F − 2p, p]; "patch"
  /// [1, 3, p, p].
  const std::vector<nn::NamedTensor>& tensors() const { return tensors_; }
  /// 1 where a tensor of tensors() is updated, else 0, in their order and shapes. Only a border has zeros.
  std::vector<at::Tensor> masks() const;
  /// The mask of a border of p pixels: [3, F, F], 0 on rows and columns p … F − p − 1.
  static at::Tensor border_mask(std::int64_t frame, std::int64_t width);

  /// The model's input for framed pictures x [B, 3, F, F] in [0, 1]: (x + δ − μ)/σ, or (x − μ)/σ + prompt for VP's forms; resized to `side`
  /// where that is another than F. Nothing is clipped. `place`: of vp_random_patch, drawn by draw_place().
  at::Tensor input(const at::Tensor& framed_pictures, const ChannelNorm& norm, std::int64_t side, PatchPlace place = {0, 0}) const;
  /// x + δ in pixel units, not clipped; VP's forms are multiplied by σ for it.
  at::Tensor prompted(const at::Tensor& framed_pictures, const ChannelNorm& norm, PatchPlace place = {0, 0}) const;
  /// The prompt as one picture [3, F, F] in pixel units (VP's forms: times σ).
  at::Tensor picture(const ChannelNorm& norm, PatchPlace place = {0, 0}) const;
  /// Whether the prompt changes no picture.
  bool is_zero() const;
  /// Row and column uniform on 0 … F − p − 1; (0, 0) for all other forms, for which nothing is drawn.
  PatchPlace draw_place(at::Generator& generator) const;

 private:
  const at::Tensor& tensor(std::string_view name) const;
  at::Tensor on_normalised(PatchPlace place) const;

  PromptShape shape_;
  std::vector<nn::NamedTensor> tensors_;
};

/// What the zeros of a tensor [3, F, F] say: the width of the border that holds all numbers but 0, F/2 rounded up where they reach the
/// middle (a full prompt), nothing where all are 0.
std::optional<std::int64_t> border_width_of(const at::Tensor& perturbation);

}  // namespace mmtune::experts
