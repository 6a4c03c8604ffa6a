#pragma once
// Where the HuggingFace cache lies and how its folders are named: models--OWNER--NAME/{blobs,refs,snapshots}, shared with huggingface_hub.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace mmtune::io {

/// $HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface.
std::filesystem::path hub_home();
/// $HF_HUB_CACHE, else hub/ in hub_home().
std::filesystem::path hub_cache();

/// A repository and the revision wanted of it: "OWNER/NAME" or "NAME", with "@REVISION" (a branch, a tag or a commit) where it is not main.
struct RepositoryName {
  std::string repository;
  std::string revision = "main";
};

/// nullopt for what cannot be the name of a repository: names can neither be absolute nor step out of a folder.
std::optional<RepositoryName> parse_repository_name(std::string_view text);

/// models--OWNER--NAME in `cache`.
std::filesystem::path repository_folder(const std::filesystem::path& cache, std::string_view repository);

/// The commit that refs/REVISION of a repository's folder names; `revision` itself where it is a commit; nullopt where neither is there or
/// the file holds something else.
std::optional<std::string> cached_commit(const std::filesystem::path& repository_folder, const std::string& revision);

/// The folder of that commit, where it is there.
std::optional<std::filesystem::path> cached_snapshot(const std::filesystem::path& repository_folder, const std::string& revision);

/// What the name of a commit may be as the name of a folder: letters, digits, '-' and '_'.
bool is_commit_name(std::string_view text);

}  // namespace mmtune::io
