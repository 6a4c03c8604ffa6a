#include "hub/settings.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "io/hub_cache.h"

namespace mmtune::hub {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// "1", "on", "yes" and "true", in any case.
bool is_true(std::string value) {
  std::ranges::transform(value, value.begin(), [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string trimmed(const std::string& text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::optional<std::string> find_token() {
  std::string where = "HF_TOKEN";
  std::string token = trimmed(variable("HF_TOKEN"));
  if (token.empty()) {
    where = "HUGGING_FACE_HUB_TOKEN";
    token = trimmed(variable("HUGGING_FACE_HUB_TOKEN"));
  }
  if (token.empty()) {
    const std::string named = variable("HF_TOKEN_PATH");
    const fs::path file = named.empty() ? io::hub_home() / "token" : fs::path(named);
    std::error_code missing;
    if (!fs::is_regular_file(file, missing)) return std::nullopt;
    where = file.string();
    token = trimmed(read_file(file, 64 << 10));
  }
  if (token.empty()) return std::nullopt;
  // A line break in a header would begin another one. The token itself is never shown.
  if (!std::ranges::all_of(token, [](char c) { return c > 0x20 && c < 0x7f; }))
    throw UsageError({.what = "not a token", .where = where, .expected = "printable ASCII characters without spaces"});
  return token;
}

}  // namespace

Settings read_settings() {
  Settings settings;
  settings.cache = io::hub_cache();
  if (std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) {
    while (endpoint.ends_with('/')) endpoint.pop_back();
    const bool web = endpoint.starts_with("https://") || endpoint.starts_with("http://");
    const bool plain = std::ranges::all_of(
        endpoint, [](char c) { return c > 0x20 && c < 0x7f && c != '@' && c != '\\' && c != '%' && c != '?' && c != '#'; });
    if (!web || !plain || endpoint.ends_with(':'))
      throw UsageError(
          {.what = "not the address of a hub", .where = "HF_ENDPOINT", .expected = "https://HOST", .got = "'" + printable(endpoint) + "'"});
    settings.endpoint = endpoint;
  }
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}) {
    if (settings.offline || !is_true(variable(name))) continue;
    settings.offline = true;
    settings.offline_variable = name;
  }
  if (!settings.offline) settings.token = find_token();
  if (const long seconds = std::atol(variable("HF_HUB_DOWNLOAD_TIMEOUT").c_str()); seconds > 0) settings.stall_seconds = seconds;
  settings.certificates = variable("SSL_CERT_FILE");
  return settings;
}

}  // namespace mmtune::hub
