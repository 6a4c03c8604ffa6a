#pragma once
// One file from the hub into its blob: resumed where an earlier try stopped, checked, and put in place whole.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "hub/client.h"

namespace mmtune::hub {

struct Download {
  std::string repository;
  std::string commit;
  RemoteFile file;
  std::filesystem::path blob;
};

/// Fetches into BLOB.incomplete, from its end on where it is there already, checks size and hash, and renames it to BLOB. `progress` gets
/// the number of bytes that lie in the file so far. A cut is resumed; only tries that bring no byte count against the client's retries.
/// What a cut or a signal leaves is BLOB.incomplete, for the next call; a full disk or a wrong hash leaves nothing. Throws Error: too few
/// bytes, too many, another hash, a full disk, and what HubClient::fetch throws.
void download(HubClient& client, const Download& what, const std::function<bool()>& keep_going,
              const std::function<void(std::int64_t)>& progress);

}  // namespace mmtune::hub
