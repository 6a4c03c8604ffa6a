#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "io/checkpoint.h"

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
  folders.push_back("models");
  return folders;
}

/// The HuggingFace cache, found as the hub's own library finds it.
fs::path hub_cache() {
  if (const auto cache = from_environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const auto home = from_environment("HF_HOME"); !home.empty()) return home / "hub";
  if (const auto cache = from_environment("XDG_CACHE_HOME"); !cache.empty()) return cache / "huggingface" / "hub";
  return from_environment("HOME") / ".cache" / "huggingface" / "hub";
}

/// "name" or "owner/name" of the characters that repositories may have; nothing that could step out of a folder.
bool is_repository_name(std::string_view model) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '/';
  };
  return !model.empty() && std::ranges::all_of(model, allowed) && std::ranges::count(model, '/') <= 1 && model.front() != '/' &&
         model.back() != '/' && model.find("..") == std::string_view::npos && model.front() != '.';
}

/// The snapshot that refs/main names, if the repository is in the cache.
std::optional<fs::path> cached_snapshot(const fs::path& repository) {
  std::error_code missing;
  if (!fs::is_regular_file(repository / "refs" / "main", missing)) return std::nullopt;
  std::string revision = read_file(repository / "refs" / "main", 4096);
  while (!revision.empty() && (revision.back() == '\n' || revision.back() == '\r' || revision.back() == ' ')) revision.pop_back();
  if (!is_repository_name(revision) || revision.find('/') != std::string::npos) return std::nullopt;
  fs::path snapshot = repository / "snapshots" / revision;
  if (!fs::is_directory(snapshot, missing)) return std::nullopt;
  return snapshot;
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
  if (is_repository_name(model)) {
    for (const fs::path& folder : bundle_folders()) {
      const fs::path candidate = folder / model;
      if (fs::is_regular_file(candidate / "config.json", missing)) return candidate;
      looked += ", " + candidate.string();
    }
    std::string cache_name = "models--";
    for (const char c : model) cache_name += c == '/' ? std::string("--") : std::string(1, c);
    const fs::path repository = hub_cache() / cache_name;
    if (auto snapshot = cached_snapshot(repository)) return *snapshot;
    looked += ", " + repository.string();
  }
  throw Error({.what = "no such model",
               .where = printable(model),
               .expected = "a folder in HuggingFace layout, a bundled model's name, or a repository in the HuggingFace cache",
               .hint = "looked for " + looked});
}

}  // namespace mmtune::io
