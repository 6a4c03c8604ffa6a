#pragma once
// Self-contained HTML pages: one file, no network, readable on a phone and in print, light and dark as the reader's system says.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace mmtune::report {

/// Text as it must stand in HTML, in attributes too. Bytes that are no UTF-8 become U+FFFD.
std::string escape_html(std::string_view text);

/// "data:image/png;base64,…"
std::string data_uri(std::string_view media_type, std::span<const std::byte> bytes);

/// "image/png", "image/jpeg", "image/webp" by the file's first bytes; empty for anything else.
std::string_view picture_type(std::span<const std::byte> bytes);

/// A number with as many digits as a reader wants: "0.923", "12.4", "–" for what is not finite.
std::string number(double value, int digits = 3);

/// The whole page around `body`. `title` is plain text.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace mmtune::report
