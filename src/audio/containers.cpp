#include "audio/containers.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/error.h"

namespace mmtune::audio {

namespace {

std::string_view head_of(std::span<const std::byte> bytes, std::size_t count) {
  return {reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), count)};
}

std::uint64_t number_at(std::span<const std::byte> bytes, std::size_t at, std::size_t count, bool big_endian) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t digit = big_endian ? i : count - 1 - i;
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + digit]);
  }
  return value;
}

[[noreturn]] void truncated(const std::string& where, std::string expected, std::string got) {
  throw Error({.what = "the sound is truncated", .where = where, .expected = std::move(expected), .got = std::move(got)});
}

void require_complete_wav(std::span<const std::byte> bytes, const std::string& where) {
  const bool big_endian = head_of(bytes, 4) == "RIFX", wide = head_of(bytes, 4) == "RF64";
  std::uint64_t wide_data = 0;
  for (std::size_t at = 12;;) {
    if (bytes.size() - at < 8) truncated(where, "a chunk \"data\"", "the end of the file");
    const std::string_view name = head_of(bytes.subspan(at), 4);
    std::uint64_t size = number_at(bytes, at + 4, 4, big_endian);
    const std::uint64_t rest = bytes.size() - at - 8;
    if (name == "ds64" && size >= 16 && rest >= 16) wide_data = number_at(bytes, at + 16, 8, false);
    if (name == "data") {
      // Writers to a pipe leave the length open.
      if (size == 0xFFFFFFFF && !wide) return;
      if (size == 0xFFFFFFFF) size = wide_data;
      if (size > rest) truncated(where, std::to_string(size) + " bytes of samples", std::to_string(rest));
      return;
    }
    if (size > rest) truncated(where, "a chunk of " + std::to_string(size) + " bytes", std::to_string(rest));
    at += 8 + static_cast<std::size_t>(size);
    if (size % 2 == 1 && at < bytes.size()) ++at;  // chunks begin at even places
  }
}

void require_complete_ogg(std::span<const std::byte> bytes, const std::string& where) {
  constexpr std::size_t header = 27;
  constexpr std::uint64_t last_of_stream = 4;
  bool ended = false;
  for (std::size_t at = 0; at < bytes.size();) {
    if (head_of(bytes.subspan(at), 4) != "OggS") {
      // Tags of other programs behind the end of the stream are no loss.
      if (ended) return;
      throw Error({.what = "the Ogg pages are damaged", .where = where, .got = "no page at byte " + std::to_string(at)});
    }
    const std::size_t rest = bytes.size() - at;
    if (rest < header) truncated(where, "a whole Ogg page", std::to_string(rest) + " bytes");
    const auto segments = static_cast<std::size_t>(number_at(bytes, at + 26, 1, true));
    std::size_t size = header + segments;
    if (rest < size) truncated(where, "an Ogg page of at least " + std::to_string(size) + " bytes", std::to_string(rest));
    for (std::size_t i = 0; i < segments; ++i) size += std::to_integer<std::size_t>(bytes[at + header + i]);
    if (rest < size) truncated(where, "an Ogg page of " + std::to_string(size) + " bytes", std::to_string(rest));
    ended = (number_at(bytes, at + 5, 1, true) & last_of_stream) != 0;
    at += size;
  }
  if (!ended) truncated(where, "an Ogg page that ends its stream", "the end of the file");
}

}  // namespace

Container container_of(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view head = head_of(bytes, 12);
  if (head.size() == 12 && (head.starts_with("RIFF") || head.starts_with("RIFX") || head.starts_with("RF64")) && head.substr(8) == "WAVE")
    return Container::wav;
  if (head.starts_with("fLaC")) return Container::flac;
  if (head.starts_with("OggS")) return Container::ogg;
  const bool matroska = head.starts_with("\x1a\x45\xdf\xa3");
  if (head.size() == 12 && (head.substr(4, 4) == "ftyp" || (head.starts_with("RIFF") && head.substr(8) == "AVI ") || matroska))
    return Container::video;
  std::string got = bytes.empty() ? "an empty file" : "a file that starts with \"" + printable(head.substr(0, 8)) + "\"";
  const bool mpeg = head.size() > 1 && head[0] == '\xff' && (static_cast<unsigned char>(head[1]) & 0xE0) == 0xE0;
  if (head.starts_with("ID3") || mpeg) got = "MP3";
  throw Error({.what = "not a sound that can be read",
               .where = where,
               .expected = "WAV, FLAC or Ogg, or a video (MP4, M4A, Matroska, WebM, AVI)",
               .got = std::move(got),
               .hint = bytes.empty() ? "" : "convert it, for instance with: ffmpeg -i IN OUT.flac"});
}

void require_complete(std::span<const std::byte> bytes, Container container, const std::string& where) {
  if (container == Container::wav) require_complete_wav(bytes, where);
  if (container == Container::ogg) require_complete_ogg(bytes, where);
}

}  // namespace mmtune::audio
