// usage: mmtune_golden   runs every golden case below the folder that MMTUNE_GOLDEN names (default: the project's own copy, and the cases
// that third parties' data is needed for, where it is there: MMTUNE_SHARED, or shared/ beside the project).
// Exit code 0: all passed; 1: one failed, could not be run, or there was none.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "golden.h"

namespace {

namespace fs = std::filesystem;
using namespace mmtune::golden;

/// TVP's released prompt, which is not the project's.
fs::path released_prompt() {
  const char* const shared = std::getenv("MMTUNE_SHARED");
  const fs::path base = shared != nullptr && *shared != '\0' ? fs::path(shared) : fs::path(MMTUNE_SOURCE_DIR).parent_path() / "shared";
  return base / "data" / "tvp_prompt";
}

std::vector<fs::path> find_cases(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().extension() == ".json") found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

/// False where the case failed.
bool run(const fs::path& path, const std::vector<Kind>& kinds) try {
  constexpr std::size_t shown = 12;
  Case one(path);
  const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.takes(one); });
  if (kind == kinds.end()) {
    std::printf("FAILED  %s: no kind of case that this program knows\n", one.name().c_str());
    return false;
  }
  kind->run(one);
  one.finish();
  const std::vector<std::string>& failures = one.failures();
  std::printf("%s  %-40s %-28s %4zu tensors, worst: forward %.1e, gradients %.1e\n", failures.empty() ? "ok    " : "FAILED",
              one.name().c_str(), kind->name.c_str(), one.compared(), one.worst(false), one.worst(true));
  for (std::size_t i = 0; i < std::min(shown, failures.size()); ++i) std::printf("          %s\n", failures[i].c_str());
  if (failures.size() > shown) std::printf("          and %zu more\n", failures.size() - shown);
  return failures.empty();
} catch (const std::exception& error) {
  std::printf("FAILED  %s: %s\n", path.c_str(), error.what());
  return false;
}

}  // namespace

int main() try {
  at::set_num_threads(1);
  const char* const named = std::getenv("MMTUNE_GOLDEN");
  const bool own = named == nullptr || *named == '\0';
  const fs::path folder = own ? fs::path(MMTUNE_SOURCE_DIR) / "tests" / "golden" : fs::path(named);
  const std::vector<Kind> kinds = all_kinds();
  std::size_t count = 0, failed = 0;
  std::vector<fs::path> cases = find_cases(folder);
  if (own) {
    std::error_code ignored;
    if (fs::is_directory(released_prompt(), ignored)) {
      const std::vector<fs::path> more = find_cases(released_prompt());
      cases.insert(cases.end(), more.begin(), more.end());
    } else {
      std::printf("skipped %s: not there (the released visual prompt is third parties' data)\n", released_prompt().c_str());
    }
  }
  for (const fs::path& path : cases) {
    ++count;
    if (!run(path, kinds)) ++failed;
  }
  std::printf("%zu golden cases ran in %s, %zu failed\n", count, folder.c_str(), failed);
  return count > 0 && failed == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("mmtune_golden: %s\n", error.what());
  return 1;
}
