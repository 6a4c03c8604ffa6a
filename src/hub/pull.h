#pragma once
// Fetches a repository's files into the cache.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/selection.h"
#include "hub/settings.h"
#include "io/hub_cache.h"

namespace mmtune::hub {

struct PullOptions {
  io::RepositoryName name;
  SelectionOptions selection;
  int retries = 5;      ///< of a request without an answer, and of a file of which no further byte comes
  bool verify = false;  ///< check the hashes of files that were there already, and fetch those again that have another one
};

struct PulledFile {
  RemoteFile file;
  bool fetched = false;  ///< false: it was in the cache
};

struct PullResult {
  std::string commit;
  std::filesystem::path folder;  ///< the snapshot
  std::vector<PulledFile> files;
  std::vector<std::string> pickles;  ///< left out
};

/// Nothing of a repository is seen under its name before all is there: blobs first, then the snapshot's links, then the reference.
/// `keep_going` is asked often; false throws Interrupted. Throws Error; offline, only where the cache has no such snapshot.
PullResult pull(const Settings& settings, const PullOptions& options, const std::function<bool()>& keep_going);

}  // namespace mmtune::hub
