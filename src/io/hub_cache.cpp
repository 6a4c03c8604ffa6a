#include "io/hub_cache.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "core/files.h"

namespace mmtune::io {

namespace fs = std::filesystem;

namespace {

/// An environment variable's folder, with ~ for the home folder; empty where the variable is not set.
fs::path folder_of(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return {};
  const std::string_view text(value);
  const char* home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/")))
    return fs::path(home) / text.substr(std::min<std::size_t>(text.size(), 2));
  return text;
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

/// Parts between slashes, none of which is empty, hidden or a step out of the folder.
bool is_safe_path(std::string_view text, std::ptrdiff_t most_slashes) {
  const auto allowed = [](char c) { return is_name_character(c) || c == '/' || c == '+'; };
  return !text.empty() && text.size() <= 200 && std::ranges::all_of(text, allowed) && std::ranges::count(text, '/') <= most_slashes &&
         text.front() != '/' && text.back() != '/' && text.front() != '.' && text.find("..") == std::string_view::npos &&
         text.find("//") == std::string_view::npos && text.find("/.") == std::string_view::npos;
}

}  // namespace

fs::path hub_home() {
  if (fs::path home = folder_of("HF_HOME"); !home.empty()) return home;
  if (const fs::path cache = folder_of("XDG_CACHE_HOME"); !cache.empty()) return cache / "huggingface";
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : "") / ".cache" / "huggingface";
}

fs::path hub_cache() {
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (fs::path cache = folder_of(variable); !cache.empty()) return cache;
  return hub_home() / "hub";
}

std::optional<RepositoryName> parse_repository_name(std::string_view text) {
  RepositoryName name;
  if (const auto at = text.find('@'); at != std::string_view::npos) {
    name.revision = text.substr(at + 1);
    text = text.substr(0, at);
  }
  name.repository = text;
  // Two dashes stand for the slash in the cache.
  const bool ambiguous = text.find("--") != std::string_view::npos;
  if (ambiguous || text.find('+') != std::string_view::npos || !is_safe_path(text, 1) || !is_safe_path(name.revision, 10))
    return std::nullopt;
  return name;
}

fs::path repository_folder(const fs::path& cache, std::string_view repository) {
  std::string name = "models--";
  for (const char c : repository) name += c == '/' ? std::string("--") : std::string(1, c);
  return cache / name;
}

bool is_commit_name(std::string_view text) {
  return !text.empty() && text.size() <= 128 && std::ranges::all_of(text, [](char c) { return is_name_character(c) && c != '.'; });
}

std::optional<std::string> cached_commit(const fs::path& repository_folder, const std::string& revision) {
  std::error_code missing;
  const fs::path reference = repository_folder / "refs" / revision;
  if (fs::is_regular_file(reference, missing)) {
    std::string commit = read_file(reference, 4096);
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' ')) commit.pop_back();
    return is_commit_name(commit) ? std::optional(commit) : std::nullopt;
  }
  if (is_commit_name(revision) && fs::is_directory(repository_folder / "snapshots" / revision, missing)) return revision;
  return std::nullopt;
}

std::optional<fs::path> cached_snapshot(const fs::path& repository_folder, const std::string& revision) {
  const auto commit = cached_commit(repository_folder, revision);
  if (!commit) return std::nullopt;
  fs::path snapshot = repository_folder / "snapshots" / *commit;
  std::error_code missing;
  if (!fs::is_directory(snapshot, missing)) return std::nullopt;
  return snapshot;
}

}  // namespace mmtune::io
