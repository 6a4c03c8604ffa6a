// Checkpoint: a folder whose index is the input, beside two good shards.

#include <stdlib.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/error.h"
#include "io/checkpoint.h"

namespace {

namespace fs = std::filesystem;

/// Made once for the process: writing the shards for every input would be most of the work.
class Folder {
 public:
  Folder() {
    const fs::path memory = "/dev/shm";
    std::string pattern = ((fs::is_directory(memory) ? memory : fs::temp_directory_path()) / "mmtune-fuzz-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
    std::ofstream(path_ / "config.json") << "{}";
    for (const char* name : {"a", "b"}) {
      const mmtune::io::TensorEntry tensor{
          .name = name, .dtype = mmtune::io::DType::u8, .shape = {4}, .data = std::as_bytes(std::span(four_))};
      mmtune::io::write_safetensors(path_ / (std::string(name) + ".safetensors"), {&tensor, 1});
    }
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::array<char, 4> four_{};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  std::ofstream(folder.path() / "model.safetensors.index.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    const auto checkpoint = mmtune::io::Checkpoint::open(folder.path());
    for (const auto* tensor : checkpoint.tensors()) {
      if (checkpoint.find(tensor->name) != tensor) std::abort();
    }
  } catch (const mmtune::Error&) {
  }
  return 0;
}
