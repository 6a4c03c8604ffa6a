// The list of files that a hub answers with: an Error, or files that stay in their folder, of which a selection takes some.

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "core/error.h"
#include "hub/selection.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const mmtune::hub::Listing listing = mmtune::hub::parse_listing(text, "fuzz");
    for (const mmtune::hub::RemoteFile& file : listing.files) {
      const std::filesystem::path path = std::filesystem::path("/folder") / file.path;
      if (!path.lexically_normal().string().starts_with("/folder/")) std::abort();
      if (path.lexically_normal() != path) std::abort();
    }
    // The first file's name serves as a pattern: any text may be one.
    const std::string pattern = listing.files.empty() ? "*" : listing.files.front().path;
    const auto chosen = mmtune::hub::select_files(listing, {.include = {pattern, "*"}, .exclude = {"[!a]?.json"}}, "a/b");
    for (const mmtune::hub::RemoteFile& file : chosen.files)
      if (mmtune::hub::is_pickle(file.path)) std::abort();
  } catch (const mmtune::Error&) {
    return 0;
  }
  return 0;
}
