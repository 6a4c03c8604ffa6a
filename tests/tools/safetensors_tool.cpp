// Drives the safetensors reader and writer for the parity tests.
//   mmtune_safetensors_tool copy IN OUT     reads every tensor and the metadata, writes them again
//   mmtune_safetensors_tool check FILE…     prints "ok" or the error for each file, one line a file

#include <cstdio>
#include <span>
#include <string_view>

#include "core/error.h"
#include "io/safetensors.h"

int main(int argc, char** argv) {
  const std::span<char*> arguments(argv, static_cast<std::size_t>(argc));
  const std::string_view verb = argc > 1 ? arguments[1] : "";
  try {
    if (verb == "copy" && argc == 4) {
      const auto file = mmtune::io::SafetensorsFile::open(arguments[2]);
      mmtune::io::write_safetensors(arguments[3], file.tensors(), file.metadata());
      return 0;
    }
    if (verb == "check") {
      for (const char* path : arguments.subspan(2)) {
        try {
          mmtune::io::SafetensorsFile::open(path);
          std::puts("ok");
        } catch (const mmtune::Error& error) {
          std::puts(error.what());
        }
      }
      return 0;
    }
  } catch (const mmtune::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::fputs("usage: mmtune_safetensors_tool copy IN OUT | check FILE…\n", stderr);
  return 2;
}
