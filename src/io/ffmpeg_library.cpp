#include "io/ffmpeg_library.h"

#include <filesystem>

#include "core/error.h"
#include "core/shared_library.h"

namespace mmtune::io {

namespace {

namespace fs = std::filesystem;

struct Library {
  const MmtuneFfmpeg* functions = nullptr;
  std::string path, reason;
};

/// It lies beside the program; programs of the tests lie in folders below that one.
Library load() {
  Library library;
  std::error_code ignored;
  const fs::path folder = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const fs::path& place : {folder, folder.parent_path()}) {
    library.path = (place / mmtune_ffmpeg_library).string();
    if (!fs::exists(library.path, ignored)) continue;
    const std::optional<SharedLibrary> opened = SharedLibrary::open(library.path, library.reason);
    if (!opened) return library;
    auto* const open = opened->find<const MmtuneFfmpeg*()>("mmtune_ffmpeg_open", library.reason);
    library.functions = open != nullptr ? open() : nullptr;
    if (library.functions != nullptr && library.functions->abi != mmtune_ffmpeg_abi) library.functions = nullptr;
    return library;
  }
  return library;
}

const Library& library() {
  static const Library loaded = load();
  return loaded;
}

}  // namespace

bool has_ffmpeg() {
  return library().functions != nullptr;
}

const MmtuneFfmpeg& ffmpeg(const std::string& where, const std::string& instead) {
  if (!has_ffmpeg())
    throw Error({.what = "the part of this program that decodes videos is missing or cannot be loaded",
                 .where = where,
                 .got = library().reason,
                 .hint = instead + ", or install libavformat-dev, libavcodec-dev and libswscale-dev and build again"});
  return *library().functions;
}

}  // namespace mmtune::io
