#pragma once
// What libsndfile does not tell: which container the bytes are, and whether they are all there. It reads a truncated WAV or Ogg without a
// word.

#include <cstddef>
#include <span>
#include <string>

namespace mmtune::audio {

/// `video`: MP4 and M4A, Matroska and WebM, AVI.
enum class Container { wav, flac, ogg, video };

/// Told by the first bytes. Throws Error: empty, or another format, named where it is a known one.
Container container_of(std::span<const std::byte> bytes, const std::string& where);

/// Throws Error where chunks or pages go past the end, or the last Ogg page is not the last of its stream. A WAV whose length was not known
/// when it was written (0xFFFFFFFF) is taken as it is. FLAC and videos are left to their decoders.
void require_complete(std::span<const std::byte> bytes, Container container, const std::string& where);

}  // namespace mmtune::audio
