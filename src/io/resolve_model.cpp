#include <unistd.h>

#include <cstdlib>
#include <system_error>

#include "core/error.h"
#include "io/checkpoint.h"
#include "io/hub_cache.h"

namespace mmtune::io {

namespace fs = std::filesystem;

namespace {

fs::path from_environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr ? value : "";
}

/// Folders that may hold bundled models: set by the user, beside the program (a build folder, an installation), in the working folder.
std::vector<fs::path> bundle_folders() {
  std::vector<fs::path> folders;
  if (const auto own = from_environment("MMTUNE_MODELS"); !own.empty()) folders.push_back(own);
  std::error_code unknown;
  if (const fs::path program = fs::read_symlink("/proc/self/exe", unknown); !unknown) {
    const fs::path beside = program.parent_path();
    folders.push_back(beside / "models");
    folders.push_back(beside.parent_path() / "models");
    folders.push_back(beside.parent_path() / "share" / "mmtune" / "models");
  }
  folders.emplace_back("models");
  return folders;
}

}  // namespace

fs::path resolve_model(const std::string& model) {
  std::error_code missing;
  if (model.empty())
    throw UsageError({.what = "no model named", .expected = "a folder, a bundled model's name or a repository in the HuggingFace cache"});
  if (fs::is_directory(model, missing)) return model;
  if (fs::exists(model, missing)) {
    throw Error(
        {.what = "a model is a folder, not a file", .where = model, .expected = "the folder that has config.json and model.safetensors"});
  }
  std::string looked = "the folder '" + printable(model) + "'";
  std::string hint;
  if (const auto name = parse_repository_name(model)) {
    if (model.find('@') == std::string::npos) {
      for (const fs::path& folder : bundle_folders()) {
        fs::path candidate = folder / model;
        if (fs::is_regular_file(candidate / "config.json", missing)) return candidate;
        looked += ", " + candidate.string();
      }
    }
    const fs::path repository = repository_folder(hub_cache(), name->repository);
    if (auto snapshot = cached_snapshot(repository, name->revision)) return *snapshot;
    looked += ", " + repository.string();
    hint = "fetch it with: mmtune pull " + model + "; ";
  }
  throw Error({.what = "no such model",
               .where = printable(model),
               .expected = "a folder in HuggingFace layout, a bundled model's name, or a repository in the HuggingFace cache",
               .hint = hint + "looked for " + looked});
}

}  // namespace mmtune::io
