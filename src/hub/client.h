#pragma once
// The requests that a HuggingFace-compatible hub answers, with redirects, retries and the hub's own error codes.

#include <cstdint>
#include <functional>
#include <string>

#include "hub/http.h"
#include "hub/listing.h"
#include "hub/settings.h"

namespace mmtune::hub {

/// Asks one hub. The token goes to the hub's own address (scheme, host and port) and never along a redirect to another one; a redirect from
/// https to http is refused. Failures that may pass (no connection, silence, 408, 429, 500, 502, 503, 504) are tried again after 0.5, 1, 2,
/// 4 … s or as long as the hub asks for (at most a minute).
class HubClient {
 public:
  HubClient(const Settings& settings, int retries, std::function<bool()> keep_going);

  /// The commit and the files of a repository's revision. Throws Error: the hub wants a token or refuses it, no such repository, no such
  /// revision, not the answer of a hub, no answer.
  Listing list(const std::string& repository, const std::string& revision);

  /// Size and hash of a file as the headers of HEAD /REPO/resolve/COMMIT/FILE tell them: for hubs that leave them out of the listing.
  RemoteFile describe(const std::string& repository, const std::string& commit, const std::string& path);

  /// Fetches a file from byte `offset` on; the sink gets its bytes and whether they begin at `offset` or, from a hub that knows no ranges,
  /// at 0. One try only: a cut in the middle is the caller's to resume. Throws TransferError (also for a status that may pass), Error.
  using FileSink = std::function<void(bool from_start, std::span<const std::byte>)>;
  void fetch(const std::string& repository, const std::string& commit, const std::string& path, std::int64_t offset, const FileSink& sink);

  /// Waits before try number `attempt` (from 1) is repeated. Throws Interrupted.
  void wait_before_retry(int attempt, const std::string& why);
  int retries() const { return retries_; }

 private:
  HttpResponse follow(HttpRequest request, HttpResponse* along_the_way = nullptr);
  HttpResponse with_retries(const HttpRequest& request, HttpResponse* along_the_way = nullptr);
  std::string file_address(const std::string& repository, const std::string& commit, const std::string& path) const;
  [[noreturn]] void refuse(const HttpResponse& response, const std::string& where, const std::string& missing) const;

  Settings settings_;
  int retries_;
  std::function<bool()> keep_going_;
  HttpClient http_;
  double asked_wait_ = 0;  ///< seconds that the hub's last Retry-After asked for
};

/// Percent-encodes all but letters, digits and "-._~", and '/' where `keep_slashes`.
std::string url_encoded(std::string_view text, bool keep_slashes);
/// "https://host:port" of an address, in lower case, with the scheme's port where none is given; empty for what is no http(s)
/// address, or has a user or odd characters before its path.
std::string origin_of(const std::string& url);
/// Where a Location header leads from `url`: absolute, without scheme ("//host/x"), from the root ("/x") or relative.
std::string resolve_location(const std::string& url, const std::string& location);

}  // namespace mmtune::hub
