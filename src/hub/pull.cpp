#include "hub/pull.h"

#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "core/log.h"
#include "hub/cache.h"
#include "hub/client.h"
#include "hub/digest.h"
#include "hub/download.h"

namespace mmtune::hub {

namespace fs = std::filesystem;

namespace {

PullResult find_offline(const Settings& settings, const PullOptions& options) {
  const fs::path repository = io::repository_folder(settings.cache, options.name.repository);
  const auto commit = io::cached_commit(repository, options.name.revision);
  const auto folder = io::cached_snapshot(repository, options.name.revision);
  if (!commit || !folder)
    throw Error({.what = "not in the cache, and " + settings.offline_variable + " forbids to ask the hub",
                 .where = options.name.repository + "@" + options.name.revision,
                 .hint = "looked for " + repository.string()});
  PullResult result{.commit = *commit, .folder = *folder, .files = {}, .pickles = {}};
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(*folder, error)) {
    if (const auto size = size_of_file(entry.path()))
      result.files.push_back({{.path = entry.path().lexically_relative(*folder).generic_string(), .size = size, .hash = {}}, false});
  }
  std::ranges::sort(result.files, {}, [](const PulledFile& one) { return one.file.path; });
  return result;
}

/// Whether the cache has the file's bytes.
bool is_there(const fs::path& blob, const RemoteFile& file, bool verify, const std::function<bool()>& keep_going) {
  const auto size = size_of_file(blob);
  if (!size || (file.size && *size != *file.size)) return false;
  const HashKind kind = hash_kind(file.hash);
  if (!verify || kind == HashKind::none) return true;
  if (hash_file(blob, kind, keep_going) == file.hash) return true;
  log_warning(blob.string() + ": has another hash than its name says; fetching it again");
  return false;
}

}  // namespace

PullResult pull(const Settings& settings, const PullOptions& options, const std::function<bool()>& keep_going) {
  if (settings.offline) return find_offline(settings, options);
  const std::string& repository = options.name.repository;
  HubClient client(settings, options.retries, keep_going);
  const Listing listing = client.list(repository, options.name.revision);
  Selection selection = select_files(listing, options.selection, repository);

  const RepositoryCache cache(settings.cache, repository);
  cache.prepare();
  PullResult result{
      .commit = listing.commit, .folder = cache.snapshot(listing.commit), .files = {}, .pickles = std::move(selection.pickles)};
  std::int64_t total = 0, missing = 0;
  for (RemoteFile& file : selection.files) {
    if (file.hash.empty() || !file.size) {
      const RemoteFile described = client.describe(repository, listing.commit, file.path);
      if (file.hash.empty()) file.hash = described.hash;
      if (!file.size) file.size = described.size;
      if (file.hash.empty()) log_warning(printable(file.path) + ": the hub tells no hash of it, so that only its size is checked");
    }
    const fs::path blob = cache.blob(file, listing.commit);
    const bool there = is_there(blob, file, options.verify, keep_going);
    result.files.push_back({file, !there});
    total += file.size.value_or(0);
    if (!there) missing += std::max<std::int64_t>(file.size.value_or(0) - size_of_file(RepositoryCache::incomplete(blob)).value_or(0), 0);
  }
  cache.require_space(missing);

  Progress progress("pulling " + repository, total, "B");
  std::int64_t done = 0;
  for (PulledFile& one : result.files) {
    const fs::path blob = cache.blob(one.file, listing.commit);
    if (one.fetched) {
      const RepositoryCache::Lock lock(cache.lock_file(blob), keep_going);
      if (options.verify || !is_there(blob, one.file, false, keep_going)) {
        download(client, {.repository = repository, .commit = listing.commit, .file = one.file, .blob = blob}, keep_going,
                 [&](std::int64_t bytes) { progress.update(done + bytes, one.file.path); });
      } else {
        one.fetched = false;  // another process was quicker
      }
    }
    done += one.file.size ? *one.file.size : size_of_file(blob).value_or(0);
    progress.update(done);
  }
  progress.finish();

  for (const PulledFile& one : result.files) cache.link(listing.commit, one.file.path, cache.blob(one.file, listing.commit));
  cache.set_reference(options.name.revision, listing.commit);
  return result;
}

}  // namespace mmtune::hub
