#pragma once
// One HTTP request at a time over libcurl, which is loaded at the first. Redirects are not followed here: whoever asks decides what a
// redirected request may carry.

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"
#include "hub/settings.h"

namespace mmtune::hub {

/// Ctrl-C or SIGTERM came while something was being fetched.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

/// No whole answer arrived: no connection, a cut, silence. `worth_retrying` is false for what another try cannot mend (a certificate).
class TransferError : public Error {
 public:
  TransferError(ErrorParts parts, bool worth_retrying) : Error(std::move(parts)), worth_retrying_(worth_retrying) {}
  bool worth_retrying() const { return worth_retrying_; }

 private:
  bool worth_retrying_;
};

struct HttpResponse {
  long status = 0;
  std::map<std::string, std::string> headers;  ///< names in lower case; the last of those that stand twice
  std::string body;                            ///< of at most 64 MiB; empty where a sink took it

  /// The header's value; empty where there is none.
  std::string header(const std::string& name) const;
  bool ok() const { return status >= 200 && status < 300; }
};

/// Takes the bytes of an answer with a status from 200 to 299 as they come. What it throws ends the transfer.
using BodySink = std::function<void(const HttpResponse&, std::span<const std::byte>)>;

struct HttpRequest {
  std::string url;
  std::vector<std::string> headers;  ///< "Name: value"
  bool head = false;                 ///< only the headers of the answer
  BodySink sink = {};
};

class HttpClient {
 public:
  /// `keep_going` is asked several times a second; false ends the transfer with Interrupted. Throws Error where libcurl is not there.
  HttpClient(const Settings& settings, std::function<bool()> keep_going);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Throws TransferError, Interrupted, and what the sink throws. An error status is an answer and not thrown.
  HttpResponse perform(const HttpRequest& request);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// What a program that was built without libcurl's headers says.
[[noreturn]] void refuse_without_curl();

}  // namespace mmtune::hub
