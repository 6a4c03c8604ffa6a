#include "report/html.h"

#include <array>
#include <cmath>
#include <cstdint>

#include "report/table.h"

namespace mmtune::report {

namespace {

// Colours by role, once for each of the two themes. Series colours keep their order: neighbours differ in hue and in lightness.
constexpr std::string_view style = R"css(
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--line:#d8dee4;--card:#f6f8fa;--ink:#0969da;--bar:#2f6fb5}
@media(prefers-color-scheme:dark){:root{--back:#0f1318;--text:#e6e9ed;--soft:#9aa4af;--line:#30363d;--card:#171c22;--ink:#6cb0ff;--bar:#5a9be0}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:68rem;background:var(--back);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.25rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:0 0 .4rem}
body>h3{margin-top:1.6rem}
p{margin:.4rem 0 .8rem;max-width:46rem}.soft{color:var(--soft)}small{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
.fit th,.told td{white-space:normal}.told td{text-align:left}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,14rem),1fr));gap:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem;break-inside:avoid;min-width:0}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 1.6rem;margin:.6rem 0}.facts div{min-width:6rem}.facts b{display:block;font-size:1.3rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.6rem,1fr));gap:.4rem;margin:.5rem 0}
.gallery figure{margin:0}.gallery img{width:100%;aspect-ratio:1;object-fit:contain;border:1px solid var(--line);border-radius:.25rem;background:#fff}
.gallery .wave{width:100%;border:1px solid var(--line);border-radius:.25rem;padding:.15rem}.gallery .sounds{grid-column:span 2}
.gallery figcaption{font-size:.72rem;line-height:1.2;color:var(--soft);overflow-wrap:anywhere}
.words span{display:inline-block;margin:0 .45rem .1rem 0}
ul.texts{margin:.3rem 0;padding-left:1.1rem;font-size:.88rem}
svg{display:block;max-width:100%;height:auto}svg text{fill:var(--text);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}
details{margin:.5rem 0}summary{cursor:pointer}
@media print{:root{--back:#fff;--text:#000;--soft:#444;--line:#bbb;--card:#fff;--bar:#2f6fb5}body{max-width:none;font-size:11px}details{display:block}}
)css";

/// Length of the valid UTF-8 sequence at the front; 0 where there is none.
std::size_t sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  if (first == 0xE0 && byte(1) < 0xA0) return 0;
  if (first == 0xED && byte(1) >= 0xA0) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;
  if (first == 0xF4 && byte(1) >= 0x90) return 0;
  return length;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = sequence(text);
    const char c = text.front();
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else if (length > 1) {
      out += text.substr(0, length);
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') {
      out += ' ';
    } else {
      out += c;
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

std::string data_uri(std::string_view media_type, std::span<const std::byte> bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out = "data:" + std::string(media_type) + ";base64,";
  out.reserve(out.size() + (bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k) word = word << 8 | (k < left ? static_cast<std::uint32_t>(bytes[i + k]) : 0U);
    for (std::size_t k = 0; k < 4; ++k) out += k <= left ? digits[word >> (18 - 6 * k) & 63U] : '=';
  }
  return out;
}

std::string_view picture_type(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\x89PNG\r\n")) return "image/png";
  if (text.starts_with("\xFF\xD8\xFF")) return "image/jpeg";
  if (text.size() > 12 && text.starts_with("RIFF") && text.substr(8, 4) == "WEBP") return "image/webp";
  return {};
}

std::string number(double value, int digits) {
  return std::isfinite(value) ? fixed(value, digits) : "–";
}

std::string html_page(std::string_view title, std::string_view body) {
  std::string page = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  page += "<link rel=\"icon\" href=\"data:,\">\n";  // browsers would ask the server for one
  page += "<title>" + escape_html(title) + "</title>\n<style>" + std::string(style) + "</style>\n</head>\n<body>\n";
  page += body;
  page += "\n</body>\n</html>\n";
  return page;
}

}  // namespace mmtune::report
