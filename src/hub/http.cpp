#include "hub/http.h"

#ifdef MMTUNE_WITH_CURL
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#endif

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "core/shared_library.h"
#include "core/version.h"

namespace mmtune::hub {

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

void refuse_without_curl() {
  throw Error({.what = "this build has no hub client: libcurl and OpenSSL were not there when it was built",
               .hint = "sudo apt-get install libcurl4-openssl-dev libssl-dev, then make build"});
}

#ifdef MMTUNE_WITH_CURL

namespace {

constexpr std::size_t max_body = std::size_t{64} << 20;
constexpr std::size_t max_error_body = std::size_t{64} << 10;
constexpr std::size_t max_headers = 1000;

/// The few functions of libcurl that a request takes.
struct Curl {
  SharedLibrary library{"libcurl.so.4", "libcurl4"};
  decltype(&::curl_easy_init) create = library.find<decltype(::curl_easy_init)>("curl_easy_init");
  decltype(&::curl_easy_cleanup) destroy = library.find<decltype(::curl_easy_cleanup)>("curl_easy_cleanup");
  decltype(&::curl_easy_reset) reset = library.find<decltype(::curl_easy_reset)>("curl_easy_reset");
  decltype(&::curl_easy_setopt) set = library.find<decltype(::curl_easy_setopt)>("curl_easy_setopt");
  decltype(&::curl_easy_getinfo) info = library.find<decltype(::curl_easy_getinfo)>("curl_easy_getinfo");
  decltype(&::curl_easy_perform) perform = library.find<decltype(::curl_easy_perform)>("curl_easy_perform");
  decltype(&::curl_easy_strerror) describe = library.find<decltype(::curl_easy_strerror)>("curl_easy_strerror");
  decltype(&::curl_slist_append) append = library.find<decltype(::curl_slist_append)>("curl_slist_append");
  decltype(&::curl_slist_free_all) free_list = library.find<decltype(::curl_slist_free_all)>("curl_slist_free_all");
};

/// What the callbacks of one request share. An exception must not pass through libcurl's frames: it waits in `thrown`.
struct Transfer {
  HttpResponse response;
  const BodySink* sink = nullptr;
  const std::function<bool()>* keep_going = nullptr;
  std::exception_ptr thrown;
  std::chrono::seconds patience{};
  std::chrono::steady_clock::time_point last_sign = std::chrono::steady_clock::now();
  curl_off_t received = -1;
  bool stalled = false;
};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

void take_header(HttpResponse& response, std::string_view line) {
  while (!line.empty() && (line.back() == '\r' || line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  if (line.starts_with("HTTP/")) {
    // "HTTP/1.1 200 OK". Another status line begins another answer (after "100 Continue", or a proxy's own).
    response.headers.clear();
    const auto space = line.find(' ');
    response.status = space == std::string_view::npos ? 0 : std::strtol(std::string(line.substr(space)).c_str(), nullptr, 10);
    return;
  }
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return;
  if (response.headers.size() >= max_headers) throw TransferError({.what = "too many headers in the answer"}, false);
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  response.headers[lower(std::string(line.substr(0, colon)))] = value;
}

void take_body(Transfer& transfer, std::span<const std::byte> bytes) {
  HttpResponse& response = transfer.response;
  if (response.ok() && *transfer.sink) {
    (*transfer.sink)(response, bytes);
    return;
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!response.ok()) {  // an error's page says little behind its beginning
    response.body += text.substr(0, max_error_body - std::min(max_error_body, response.body.size()));
    return;
  }
  if (response.body.size() + text.size() > max_body) throw TransferError({.what = "the answer is longer than 64 MiB"}, false);
  response.body += text;
}

template <class Work>
bool guarded(Transfer& transfer, const Work& work) {
  try {
    work();
    return true;
  } catch (...) {
    transfer.thrown = std::current_exception();
    return false;
  }
}

std::size_t on_header(char* data, std::size_t size, std::size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { take_header(transfer.response, {data, size * count}); }) ? size * count : 0;
}

std::size_t on_body(char* data, std::size_t size, std::size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  return guarded(transfer, [&] { take_body(transfer, std::as_bytes(std::span(data, size * count))); }) ? size * count : 0;
}

/// Called about once a second even when nothing comes. libcurl's own limit on the speed averages over several seconds, so that a burst
/// before the silence would stretch it.
int on_progress(void* user, curl_off_t, curl_off_t received, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  const auto now = std::chrono::steady_clock::now();
  if (received != transfer.received) {
    transfer.received = received;
    transfer.last_sign = now;
  }
  transfer.stalled = now - transfer.last_sign > transfer.patience;
  return transfer.stalled || !(*transfer.keep_going)() ? 1 : 0;
}

bool can_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_SSL_CONNECT_ERROR:
      return true;
    default:
      return false;
  }
}

std::string describe(const Curl& curl, CURLcode code, const Settings& settings, const HttpResponse& response) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return "no such host";
    case CURLE_COULDNT_CONNECT:
      return "cannot connect";
    case CURLE_GOT_NOTHING:
      return "no answer";
    case CURLE_PARTIAL_FILE:
      return "too few bytes: the connection was cut";
    case CURLE_OPERATION_TIMEDOUT:
      return response.status == 0 ? "no answer within " + std::to_string(settings.stall_seconds) + " s"
                                  : "no byte for " + std::to_string(settings.stall_seconds) + " s";
    default:
      return printable(curl.describe(code));
  }
}

/// The address without what stands behind the '?': a redirect's may carry a signature.
std::string without_query(const std::string& url) {
  return url.substr(0, url.find('?'));
}

}  // namespace

struct HttpClient::State {
  Settings settings;
  std::function<bool()> keep_going;
  Curl curl;
  std::unique_ptr<CURL, decltype(&::curl_easy_cleanup)> handle{curl.create(), curl.destroy};
};

HttpClient::HttpClient(const Settings& settings, std::function<bool()> keep_going)
    : state_(std::make_unique<State>(State{settings, std::move(keep_going)})) {
  if (state_->handle == nullptr) throw Error({.what = "libcurl cannot be started"});
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::perform(const HttpRequest& request) {
  const Curl& curl = state_->curl;
  CURL* handle = state_->handle.get();
  Transfer transfer;
  transfer.sink = &request.sink;
  transfer.keep_going = &state_->keep_going;
  transfer.patience = std::chrono::seconds(state_->settings.stall_seconds);
  const std::string agent = "mmtune/" + std::string(version());

  std::unique_ptr<curl_slist, decltype(&::curl_slist_free_all)> headers(nullptr, curl.free_list);
  for (const std::string& header : request.headers) {
    curl_slist* longer = curl.append(headers.get(), header.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    (void)headers.release();
    headers.reset(longer);
  }
  curl.reset(handle);  // keeps the connections
  curl.set(handle, CURLOPT_URL, request.url.c_str());
  curl.set(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl.set(handle, CURLOPT_USERAGENT, agent.c_str());
  curl.set(handle, CURLOPT_HTTPHEADER, headers.get());
  curl.set(handle, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl.set(handle, CURLOPT_NOSIGNAL, 1L);
  curl.set(handle, CURLOPT_CONNECTTIMEOUT, std::min(10L, state_->settings.stall_seconds));
  curl.set(handle, CURLOPT_HEADERFUNCTION, on_header);
  curl.set(handle, CURLOPT_HEADERDATA, &transfer);
  curl.set(handle, CURLOPT_WRITEFUNCTION, on_body);
  curl.set(handle, CURLOPT_WRITEDATA, &transfer);
  curl.set(handle, CURLOPT_NOPROGRESS, 0L);
  curl.set(handle, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl.set(handle, CURLOPT_XFERINFODATA, &transfer);
  if (!state_->settings.certificates.empty()) curl.set(handle, CURLOPT_CAINFO, state_->settings.certificates.c_str());

  CURLcode code = curl.perform(handle);
  if (transfer.thrown) std::rethrow_exception(transfer.thrown);
  if (transfer.stalled) code = CURLE_OPERATION_TIMEDOUT;
  if (code == CURLE_ABORTED_BY_CALLBACK) throw Interrupted();
  if (code != CURLE_OK) {
    throw TransferError(
        {.what = describe(curl, code, state_->settings, transfer.response), .where = printable(without_query(request.url), 300)},
        can_pass(code));
  }
  return std::move(transfer.response);
}

#else

struct HttpClient::State {};

HttpClient::HttpClient(const Settings&, std::function<bool()>) {
  refuse_without_curl();
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::perform(const HttpRequest&) {
  refuse_without_curl();
}

#endif

}  // namespace mmtune::hub
