#include "io/pickle.h"

#include <string_view>

#include "core/error.h"

namespace mmtune::io {

namespace {

std::string kind_of(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  // The length of a safetensors header may happen to look like a pickle's first bytes (0x280 is 80 02), but behind it stands '{'.
  if (text.size() > 8 && text[8] == '{') return {};
  if (text.starts_with("PK\x03\x04")) return "a zip archive with pickles inside (PyTorch's format since 1.6)";
  if (text.size() >= 2 && text[0] == '\x80' && text[1] >= 1 && text[1] <= 5) return "a Python pickle";
  if (text.size() > 262 && text.substr(257, 5) == "ustar") return "a tar archive (PyTorch's oldest format)";
  return {};
}

}  // namespace

std::string pickle_conversion_command(const std::filesystem::path& path) {
  auto target = path;
  target.replace_extension(".safetensors");
  if (path.filename() == "pytorch_model.bin") target.replace_filename("model.safetensors");
  // clone() because tied weights share memory, which save_file refuses.
  return "python3 -c \"import torch; from safetensors.torch import save_file; save_file({k: v.clone().contiguous() for k, v in "
         "torch.load('" +
         path.string() + "', map_location='cpu', weights_only=True).items()}, '" + target.string() + "')\"";
}

void refuse_pickle(std::span<const std::byte> bytes, const std::filesystem::path& path) {
  if (const std::string kind = kind_of(bytes); !kind.empty()) {
    throw Error({.what = "pickled checkpoints are not read, because loading one can run any code",
                 .where = path.string(),
                 .expected = "a safetensors file",
                 .got = kind,
                 .hint = "convert it once, if you trust where it comes from: " + pickle_conversion_command(path)});
  }
}

}  // namespace mmtune::io
