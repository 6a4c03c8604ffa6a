// WebP through libwebp: the first frame, on a black canvas where it does not fill it.

#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

#include "vision/decoders.h"
#include "vision/exif.h"

namespace mmtune::vision {

namespace {

struct DemuxDeleter {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};

// Releases an iterator at the end of its scope; nothing is held where the WebPDemuxGet... call failed.
struct FrameGuard {
  WebPIterator frame{};
  ~FrameGuard() { WebPDemuxReleaseIterator(&frame); }
};
struct ChunkGuard {
  WebPChunkIterator chunk{};
  ~ChunkGuard() { WebPDemuxReleaseChunkIterator(&chunk); }
};

std::string_view chunk_of(WebPDemuxer* demuxer, const char* name) {
  ChunkGuard guard;  // the bytes are the file's own and outlive the iterator
  if (WebPDemuxGetChunk(demuxer, name, 1, &guard.chunk) == 0) return {};
  return {reinterpret_cast<const char*>(guard.chunk.chunk.bytes), guard.chunk.chunk.size};
}

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "the file is truncated";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses an unsupported feature";
    default:
      return "the data is damaged";
  }
}

}  // namespace

Decoded decode_webp(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const WebPData data{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
  const std::unique_ptr<WebPDemuxer, DemuxDeleter> demuxer(WebPDemux(&data));
  if (!demuxer) refuse_picture("WebP", where, "the file is truncated or damaged");
  Decoded decoded;
  Image& image = decoded.image;
  image.width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  image.height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  check_declared_size(static_cast<std::uint64_t>(image.width), static_cast<std::uint64_t>(image.height), where, limits);

  FrameGuard guard;
  const WebPIterator& frame = guard.frame;
  if (WebPDemuxGetFrame(demuxer.get(), 1, &guard.frame) == 0) refuse_picture("WebP", where, "it has no frame");
  if (frame.x_offset < 0 || frame.y_offset < 0 || frame.width < 1 || frame.height < 1 || frame.width > image.width - frame.x_offset ||
      frame.height > image.height - frame.y_offset) {
    refuse_picture("WebP", where, "the first frame lies outside the canvas");
  }
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) refuse_picture("WebP", where, "the installed libwebp is of another version");
  VP8StatusCode status = WebPGetFeatures(frame.fragment.bytes, frame.fragment.size, &config.input);
  if (status != VP8_STATUS_OK) refuse_picture("WebP", where, reason(status));
  if (config.input.width != frame.width || config.input.height != frame.height) {
    refuse_picture("WebP", where, "frame and bitstream disagree about the size");
  }
  image.pixels.resize(static_cast<std::size_t>(image.width * image.height * 3));
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  const std::size_t start = static_cast<std::size_t>(frame.y_offset) * stride + static_cast<std::size_t>(frame.x_offset) * 3;
  config.output.colorspace = MODE_RGB;  // drops alpha without compositing
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.pixels.data() + start;
  config.output.u.RGBA.stride = static_cast<int>(stride);
  config.output.u.RGBA.size = image.pixels.size() - start;
  status = WebPDecode(frame.fragment.bytes, frame.fragment.size, &config);
  WebPFreeDecBuffer(&config.output);
  if (status != VP8_STATUS_OK) refuse_picture("WebP", where, reason(status));

  decoded.orientation = exif_orientation(chunk_of(demuxer.get(), "EXIF"));
  if (decoded.orientation == 0) decoded.orientation = xmp_orientation(chunk_of(demuxer.get(), "XMP "));
  return decoded;
}

}  // namespace mmtune::vision
