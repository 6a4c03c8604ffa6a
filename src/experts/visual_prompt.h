#pragma once
// A visual prompt as an expert: a portable object with a folder of its own, which belongs to no backbone.

#include <filesystem>
#include <memory>
#include <string>

#include "core/json.h"
#include "experts/expert.h"
#include "experts/pixel_prompt.h"

namespace mmtune::experts {

/// On a picture tower's pixels: there the pictures come normalised and at the tower's own size R; they are shrunk to the picture's share of
/// the frame (antialiased bicubic), framed in black, prompted, and brought back to R where F is another size. Without a site it is only
/// what is saved.
class VisualPrompt final : public Expert, public nn::InputHook {
 public:
  /// `norm`: what the backbone's pictures are normalised by. `site` null: attached to nothing.
  VisualPrompt(PixelPrompt prompt, const ChannelNorm& norm, nn::InputSite* site, std::int64_t seed);
  ~VisualPrompt() override;

  std::string_view kind() const override { return "visual_prompt"; }
  std::vector<nn::NamedTensor> tensors() const override { return prompt_.tensors(); }
  Json config() const override;
  void set_enabled(bool enabled) override;
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t) const override { return 0; }
  at::Tensor apply(const at::Tensor& pixels, const nn::Context& context) override;

  const PixelPrompt& prompt() const { return prompt_; }
  PixelPrompt& prompt() { return prompt_; }

 private:
  PixelPrompt prompt_;
  ChannelNorm norm_;
  nn::InputSite* site_;
  at::Tensor mask_;          ///< of a border; else undefined
  at::Generator generator_;  ///< places of vp_random_patch where the pass brings no generator
  bool enabled_ = false;
};

/// A prompt on disk.
struct StoredPrompt {
  PixelPrompt prompt;
  Json metadata;       ///< what save_expert was given; null for a tensor alone
  std::string source;  ///< the file that the tensors come from
};

/// Opens a run of method tvp, an expert's folder, or a .safetensors file with the tensor `perturbation` (or VP's tensors). The sizes of a
/// file without a configuration are told by its shapes and zeros. A configuration that says another border than the zeros is believed, with
/// a warning. Throws Error: no prompt, a picture (8 bits cannot hold one), a pickle (with the command that imports it), a tensor of another
/// shape or with numbers that are not finite.
StoredPrompt load_prompt(const std::filesystem::path& path);

/// Reads a prompt from a file that torch.save wrote, without executing anything; nothing where the file holds none.
std::optional<StoredPrompt> load_pickled_prompt(const std::filesystem::path& path);

/// Writes an expert's folder.
void save_prompt(const PixelPrompt& prompt, const std::filesystem::path& folder, const Json& metadata);

}  // namespace mmtune::experts
