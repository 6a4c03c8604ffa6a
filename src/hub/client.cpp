#include "hub/client.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/log.h"
#include "hub/digest.h"

namespace mmtune::hub {

namespace {

constexpr int max_redirects = 10;

bool may_pass(long status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

/// An ETag without quotes and the mark of a weak one.
std::string etag_of(std::string text) {
  if (text.starts_with("W/")) text = text.substr(2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

std::optional<std::int64_t> number_of(const std::string& text) {
  if (text.empty() || text.size() > 18 || !std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  return std::strtoll(text.c_str(), nullptr, 10);
}

/// Where "bytes 100-199/200" begins.
std::optional<std::int64_t> range_begin(const std::string& header) {
  if (!header.starts_with("bytes ")) return std::nullopt;
  return number_of(header.substr(6, header.find('-') - 6));
}

}  // namespace

std::string url_encoded(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const char c : text) {
    const bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (c == '/' && keep_slashes)) {
      out += c;
    } else {
      char escaped[4];
      std::snprintf(escaped, sizeof escaped, "%%%02X", static_cast<unsigned char>(c));
      out += escaped;
    }
  }
  return out;
}

std::string origin_of(const std::string& url) {
  const auto scheme_end = url.find("://");
  if (scheme_end == std::string::npos) return {};
  const auto lower = [](std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
  };
  const std::string scheme = lower(url.substr(0, scheme_end));
  if (scheme != "http" && scheme != "https") return {};
  const auto begin = scheme_end + 3;
  const std::string host = lower(url.substr(begin, url.find_first_of("/?#", begin) - begin));
  // Parsers of addresses disagree about what stands around these, and a token must not hang on which one is asked.
  if (host.empty() || !std::ranges::all_of(host, [](char c) { return c > 0x20 && c < 0x7f && c != '@' && c != '\\' && c != '%'; }))
    return {};
  const auto colon = host.rfind(':');
  const bool has_port = colon != std::string::npos && host.find(']', colon) == std::string::npos;  // not a colon of an IPv6 address
  return scheme + "://" + host + (has_port ? "" : scheme == "https" ? ":443" : ":80");
}

std::string resolve_location(const std::string& url, const std::string& location) {
  const auto colon = location.find_first_of(":/?#");
  if (colon != std::string::npos && location[colon] == ':') return location;
  const auto scheme_end = url.find("://");
  if (location.starts_with("//")) return url.substr(0, scheme_end + 1) + location;
  const auto path = url.find('/', scheme_end + 3);
  if (location.starts_with('/')) return url.substr(0, path) + location;
  const std::string plain = url.substr(0, url.find_first_of("?#"));
  return plain.substr(0, plain.rfind('/') + 1) + location;
}

HubClient::HubClient(const Settings& settings, int retries, std::function<bool()> keep_going)
    : settings_(settings), retries_(retries), keep_going_(keep_going), http_(settings, std::move(keep_going)) {}

std::string HubClient::file_address(const std::string& repository, const std::string& commit, const std::string& path) const {
  return settings_.endpoint + "/" + repository + "/resolve/" + url_encoded(commit, false) + "/" + url_encoded(path, true);
}

void HubClient::refuse(const HttpResponse& response, const std::string& where, const std::string& missing) const {
  const std::string code = response.header("x-error-code");
  const std::string said = printable(response.header("x-error-message"), 200);
  const std::string got = "status " + std::to_string(response.status) + (said.empty() ? "" : ", '" + said + "'");
  if (response.status == 401 || response.status == 403) {
    std::string hint;
    if (code == "GatedRepo") {
      hint = "the repository is gated: accept its conditions on its page" +
             std::string(settings_.token ? "" : ", and put a token into HF_TOKEN");
    } else if (settings_.token) {
      hint =
          "the token that was sent (HF_TOKEN, or the file that `hf auth login` writes) may not read this, or there is no such repository";
    } else {
      hint =
          "no token was sent: put one into HF_TOKEN, or log in with `hf auth login`; a hub says this of repositories that do not exist too";
    }
    throw Error(
        {.what = response.status == 401 ? "the hub wants a token" : "the hub refuses access", .where = where, .got = got, .hint = hint});
  }
  if (response.status == 404) throw Error({.what = missing, .where = where, .got = got});
  if (may_pass(response.status)) throw TransferError({.what = "the hub has trouble of its own", .where = where, .got = got}, true);
  throw Error({.what = "the hub does not answer the request", .where = where, .got = got});
}

HttpResponse HubClient::follow(HttpRequest request, HttpResponse* along_the_way) {
  const std::vector<std::string> headers = request.headers;
  for (int hop = 0; hop <= max_redirects; ++hop) {
    request.headers = headers;
    request.headers.emplace_back("Accept-Encoding: identity");
    if (settings_.token && origin_of(request.url) == origin_of(settings_.endpoint))
      request.headers.push_back("Authorization: Bearer " + *settings_.token);
    HttpResponse response = http_.perform(request);
    if (along_the_way != nullptr) {
      // What a hop says of the file holds for what the next one sends: the hub tells the hash, a store behind it has the bytes.
      for (const auto& [name, value] : response.headers)
        if (name.starts_with("x-")) along_the_way->headers.emplace(name, value);
    }
    const bool redirect =
        response.status == 301 || response.status == 302 || response.status == 303 || response.status == 307 || response.status == 308;
    if (!redirect) return response;
    const std::string next = resolve_location(request.url, response.header("location"));
    const std::string where = printable(request.url, 300);
    if (response.header("location").empty() || origin_of(next).empty())
      throw Error({.what = "a redirect that leads nowhere", .where = where, .got = "'" + printable(response.header("location")) + "'"});
    if (origin_of(request.url).starts_with("https:") && !origin_of(next).starts_with("https:"))
      throw Error({.what = "a redirect from https to http is refused", .where = where, .got = printable(origin_of(next))});
    request.url = next;
  }
  throw Error({.what = "more than 10 redirects", .where = printable(request.url.substr(0, request.url.find('?')), 300)});
}

void HubClient::wait_before_retry(int attempt, const std::string& why) {
  const double seconds =
      asked_wait_ > 0 ? std::min(asked_wait_, 60.0) : std::min(0.5 * static_cast<double>(1 << std::min(attempt - 1, 6)), 30.0);
  asked_wait_ = 0;
  log_warning(why + "; trying again in " + format_duration(std::max(seconds, 1.0)));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    if (!keep_going_()) throw Interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

HttpResponse HubClient::with_retries(const HttpRequest& request, HttpResponse* along_the_way) {
  for (int attempt = 1;; ++attempt) {
    std::string why;
    try {
      HttpResponse response = follow(request, along_the_way);
      if (!may_pass(response.status) || attempt > retries_) return response;
      why = printable(request.url, 300) + ": status " + std::to_string(response.status);
      asked_wait_ = static_cast<double>(number_of(response.header("retry-after")).value_or(0));
    } catch (const TransferError& error) {
      if (!error.worth_retrying() || attempt > retries_) throw;
      why = error.what();
    }
    wait_before_retry(attempt, why);
  }
}

Listing HubClient::list(const std::string& repository, const std::string& revision) {
  const std::string model = settings_.endpoint + "/api/models/" + repository;
  const std::string url = model + "/revision/" + url_encoded(revision, false) + "?blobs=true";
  const HttpResponse response = with_retries({.url = url, .headers = {"Accept: application/json"}});
  if (response.ok()) return parse_listing(response.body, printable(url, 300));
  const std::string hub = " on " + settings_.endpoint;
  if (response.status == 404) {
    const std::string code = response.header("x-error-code");
    // Hubs that do not say what was not found: the repository without a revision is asked for.
    const bool revision_is_missing = code == "RevisionNotFound" || (code.empty() && with_retries({.url = model}).ok());
    if (revision_is_missing)
      throw Error({.what = "no such revision" + hub,
                   .where = repository,
                   .expected = "a branch, a tag or a commit of the repository",
                   .got = "'" + printable(revision) + "'"});
  }
  refuse(response, repository, "no such repository" + hub);
}

RemoteFile HubClient::describe(const std::string& repository, const std::string& commit, const std::string& path) {
  HttpResponse hops;
  const HttpResponse response = with_retries({.url = file_address(repository, commit, path), .headers = {}, .head = true}, &hops);
  const std::string where = repository + "/" + printable(path, 300);
  if (!response.ok()) refuse(response, where, "no such file on " + settings_.endpoint);
  RemoteFile file{.path = path, .size = {}, .hash = {}};
  const std::string linked = etag_of(hops.header("x-linked-etag"));
  const std::string own = etag_of(response.header("etag"));
  for (const std::string& hash : {linked, own})
    if (file.hash.empty() && hash_kind(hash) != HashKind::none) file.hash = hash;
  const auto linked_size = number_of(hops.header("x-linked-size"));
  file.size = linked_size ? linked_size : number_of(response.header("content-length"));
  return file;
}

void HubClient::fetch(const std::string& repository, const std::string& commit, const std::string& path, std::int64_t offset,
                      const FileSink& sink) {
  const std::string where = repository + "/" + printable(path, 300);
  HttpRequest request{.url = file_address(repository, commit, path), .headers = {}};
  if (offset > 0) request.headers.push_back("Range: bytes=" + std::to_string(offset) + "-");
  request.sink = [&](const HttpResponse& response, std::span<const std::byte> bytes) {
    const bool partial = response.status == 206;
    if (partial && (offset == 0 || range_begin(response.header("content-range")) != offset))
      throw Error({.what = "the hub sends another part of the file than was asked for",
                   .where = where,
                   .expected = "from byte " + std::to_string(offset),
                   .got = "'" + printable(response.header("content-range")) + "'"});
    sink(!partial, bytes);
  };
  const HttpResponse response = follow(std::move(request));
  if (response.ok()) return;
  asked_wait_ = static_cast<double>(number_of(response.header("retry-after")).value_or(0));
  if (response.status == 416) throw TransferError({.what = "the hub has no such part of the file", .where = where}, true);
  refuse(response, where, "no such file on " + settings_.endpoint);
}

}  // namespace mmtune::hub
