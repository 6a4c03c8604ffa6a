#pragma once
// What a video and its sound share: bytes in memory as an input of FFmpeg, and errors as exceptions.

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

namespace mmtune::ffmpeg {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The code, or Fault "what: FFmpeg's words for it" where it is an error.
int checked(int code, const char* what);

template <class T>
T* there(T* pointer) {
  if (pointer == nullptr) throw Fault("out of memory");
  return pointer;
}

struct FreeIo {
  void operator()(AVIOContext* io) const;
};
struct FreeInput {
  void operator()(AVFormatContext* input) const { avformat_close_input(&input); }
};
struct FreeDecoder {
  void operator()(AVCodecContext* decoder) const { avcodec_free_context(&decoder); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};

/// One container of one file. It reads nothing but its bytes, whatever they refer to.
class Input {
 public:
  /// Throws Fault: an unknown format, or damage.
  Input(const unsigned char* bytes, std::size_t size);

  [[nodiscard]] AVFormatContext& format() const { return *input_; }
  /// The best stream of a type with a decoder that is not opened yet; `missing` is said where there is none.
  int find_stream(AVMediaType type, const char* missing, std::unique_ptr<AVCodecContext, FreeDecoder>& decoder) const;
  /// The next packet; false at the end of the file. Throws Fault: damage.
  bool next(AVPacket& packet) const;
  /// Decodes a stream from here to its end, use(frame) for every frame; how many packets it had. `damaged` and `end_damaged` say what is
  /// wrong where a frame, or what the decoder still holds at the end, cannot be decoded.
  std::int64_t each_frame(int stream, AVCodecContext& decoder, const char* damaged, const char* end_damaged,
                          const std::function<void(AVFrame& frame)>& use) const;
  /// To the beginning: some containers cannot be searched; all can be opened again.
  void rewind();

 private:
  struct Memory {
    const unsigned char* bytes;
    std::int64_t size, at = 0;
  };
  static int read(void* opaque, std::uint8_t* into, int wanted);
  static std::int64_t seek(void* opaque, std::int64_t offset, int whence);
  void open();

  std::unique_ptr<Memory> memory_;
  std::unique_ptr<AVIOContext, FreeIo> io_;
  std::unique_ptr<AVFormatContext, FreeInput> input_;
};

}  // namespace mmtune::ffmpeg
