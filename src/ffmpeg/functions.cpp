// The only file that knows FFmpeg: a library of its own, see functions.h.

#include "ffmpeg/functions.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Containers of single files. Play lists and the like, which refer to other files, are not among them.
constexpr const char* formats = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,flv,ogg,asf,ivf";

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string text_of(int code) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(code, text.data(), text.size());
  return text.data();
}

int checked(int code, const char* what) {
  if (code < 0) throw Fault(std::string(what) + ": " + text_of(code));
  return code;
}

/// Bytes in memory as FFmpeg reads a file.
struct Memory {
  const unsigned char* bytes;
  std::int64_t size, at = 0;
};

int read_memory(void* opaque, std::uint8_t* into, int wanted) {
  auto& memory = *static_cast<Memory*>(opaque);
  const std::int64_t got = std::min<std::int64_t>(wanted, memory.size - memory.at);
  if (got <= 0) return AVERROR_EOF;
  std::memcpy(into, memory.bytes + memory.at, static_cast<std::size_t>(got));
  memory.at += got;
  return static_cast<int>(got);
}

std::int64_t seek_memory(void* opaque, std::int64_t offset, int whence) {
  auto& memory = *static_cast<Memory*>(opaque);
  if (whence == AVSEEK_SIZE) return memory.size;
  const int from = whence & ~AVSEEK_FORCE;
  const std::int64_t base = from == SEEK_CUR ? memory.at : from == SEEK_END ? memory.size : 0;
  if ((offset > 0 && base > INT64_MAX - offset) || base + offset < 0 || base + offset > memory.size) return AVERROR(EINVAL);
  return memory.at = base + offset;
}

struct FreeIo {
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);
    avio_context_free(&io);
  }
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
struct FreeScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};

template <class T>
T* there(T* pointer) {
  if (pointer == nullptr) throw Fault("out of memory");
  return pointer;
}

class Video {
 public:
  Video(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames)
      : memory_{.bytes = bytes, .size = static_cast<std::int64_t>(size)}, max_pixels_(max_pixels), max_frames_(max_frames) {
    open_input();
    open_decoder();
  }

  void decode(const MmtuneVideoSink& sink) {
    const std::int64_t count = count_frames();
    sink.counted(sink.user, count);
    rewind();
    const std::unique_ptr<AVPacket, FreePacket> packet(there(av_packet_alloc()));
    const std::unique_ptr<AVFrame, FreeFrame> frame(there(av_frame_alloc())), last(there(av_frame_alloc()));
    std::int64_t number = 0;
    const auto drain = [&] {
      for (;;) {
        const int code = avcodec_receive_frame(decoder_.get(), frame.get());
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
        checked(code, "a frame is damaged");
        check_size(frame->width, frame->height);
        if (number >= max_frames_) throw Fault("it has more than " + std::to_string(max_frames_) + " frames");
        if (sink.wants(sink.user, number) != 0) hand_over(sink, *frame, number);
        av_frame_unref(last.get());
        av_frame_move_ref(last.get(), frame.get());
        ++number;
      }
    };
    for (;;) {
      const int code = av_read_frame(input_.get(), packet.get());
      if (code == AVERROR_EOF) break;
      checked(code, "the file is damaged");
      if (packet->stream_index == stream_) {
        checked(avcodec_send_packet(decoder_.get(), packet.get()), "a frame is damaged");
        drain();
      }
      av_packet_unref(packet.get());
    }
    checked(avcodec_send_packet(decoder_.get(), nullptr), "the last frames are damaged");
    drain();
    if (number == 0) throw Fault("it has no frames");
    if (sink.wants(sink.user, INT64_MAX) != 0) hand_over(sink, *last, number - 1);
  }

 private:
  void open_input() {
    constexpr int buffer_size = 1 << 16;
    auto* const buffer = static_cast<unsigned char*>(there(av_malloc(buffer_size)));
    AVIOContext* const io = avio_alloc_context(buffer, buffer_size, 0, &memory_, read_memory, nullptr, seek_memory);
    if (io == nullptr) av_free(buffer);
    io_.reset(there(io));
    AVFormatContext* input = there(avformat_alloc_context());
    input->pb = io_.get();
    input->flags |= AVFMT_FLAG_CUSTOM_IO;
    input->error_recognition = AV_EF_EXPLODE;
    AVDictionary* options = nullptr;
    av_dict_set(&options, "format_whitelist", formats, 0);
    av_dict_set(&options, "protocol_whitelist", "none", 0);
    const int code = avformat_open_input(&input, "", nullptr, &options);  // frees the input where it fails
    av_dict_free(&options);
    checked(code, "not a video of a known format, or damaged");
    input_.reset(input);
    checked(avformat_find_stream_info(input, nullptr), "its streams cannot be told");
  }

  void open_decoder() {
    const AVCodec* codec = nullptr;
    stream_ = av_find_best_stream(input_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (stream_ == AVERROR_STREAM_NOT_FOUND) throw Fault("it has no pictures");
    checked(stream_, "no decoder for it");
    const AVCodecParameters* const parameters = input_->streams[stream_]->codecpar;
    check_size(parameters->width, parameters->height);
    decoder_.reset(there(avcodec_alloc_context3(codec)));
    checked(avcodec_parameters_to_context(decoder_.get(), parameters), "no decoder for it");
    decoder_->thread_count = 1;  // loaders are threads already
    decoder_->max_pixels = max_pixels_;
    decoder_->err_recognition = AV_EF_EXPLODE;
    checked(avcodec_open2(decoder_.get(), codec, nullptr), "no decoder for it");
  }

  void check_size(int width, int height) const {
    if (width <= 0 || height <= 0) throw Fault("its frames have no size");
    if (static_cast<std::int64_t>(width) * height > max_pixels_)
      throw Fault("its frames are larger than " + std::to_string(max_pixels_) + " pixels");
  }

  /// Packets of the stream; a packet holds a frame but for rare formats.
  std::int64_t count_frames() {
    const std::unique_ptr<AVPacket, FreePacket> packet(there(av_packet_alloc()));
    std::int64_t count = 0, packets = 0;
    for (;;) {
      const int code = av_read_frame(input_.get(), packet.get());
      if (code == AVERROR_EOF) break;
      checked(code, "the file is damaged");
      if (packet->stream_index == stream_) {
        ++packets;
        if ((packet->flags & AV_PKT_FLAG_DISCARD) == 0) ++count;
      }
      av_packet_unref(packet.get());
      if (packets > max_frames_) throw Fault("it has more than " + std::to_string(max_frames_) + " frames");
    }
    if (count == 0) throw Fault("it has no frames");
    if (const std::int64_t announced = input_->streams[stream_]->nb_frames; packets < announced)
      throw Fault("it ends behind " + std::to_string(packets) + " of " + std::to_string(announced) + " frames (truncated?)");
    return count;
  }

  /// Some containers cannot be searched; all can be opened again.
  void rewind() {
    decoder_.reset();
    input_.reset();
    io_.reset();
    memory_.at = 0;
    open_input();
    open_decoder();
  }

  void hand_over(const MmtuneVideoSink& sink, const AVFrame& frame, std::int64_t number) {
    const std::unique_ptr<SwsContext, FreeScaler> scaler(
        sws_getContext(frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width, frame.height, AV_PIX_FMT_RGB24,
                       SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, nullptr, nullptr, nullptr));
    if (!scaler) throw Fault("its colours cannot be converted");
    set_colours(*scaler, frame);
    // Some converters write whole vectors, beyond the end of a line.
    constexpr int alignment = 64;
    const int line = (3 * frame.width + alignment - 1) / alignment * alignment;
    padded_.resize(static_cast<std::size_t>(line) * static_cast<std::size_t>(frame.height) + alignment);
    std::uint8_t* const planes[] = {padded_.data(), nullptr, nullptr, nullptr};
    const int lines[] = {line, 0, 0, 0};
    checked(sws_scale(scaler.get(), frame.data, frame.linesize, 0, frame.height, planes, lines), "its colours cannot be converted");
    const auto width = 3 * static_cast<std::size_t>(frame.width);
    rgb_.resize(width * static_cast<std::size_t>(frame.height));
    for (int y = 0; y < frame.height; ++y)
      std::memcpy(rgb_.data() + width * static_cast<std::size_t>(y),
                  padded_.data() + static_cast<std::size_t>(line) * static_cast<std::size_t>(y), width);
    sink.take(sink.user, number, rgb_.data(), frame.width, frame.height);
  }

  /// The matrix and range that the frame names; where it names none, BT.601 and the limited range, as FFmpeg's own conversion does.
  static void set_colours(SwsContext& scaler, const AVFrame& frame) {
    const int* const matrix = sws_getCoefficients(frame.colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : frame.colorspace);
    int *from_table = nullptr, *to_table = nullptr;
    int from_range = 0, to_range = 0, brightness = 0, contrast = 0, saturation = 0;
    if (sws_getColorspaceDetails(&scaler, &from_table, &from_range, &to_table, &to_range, &brightness, &contrast, &saturation) < 0) return;
    if (frame.color_range != AVCOL_RANGE_UNSPECIFIED) from_range = frame.color_range == AVCOL_RANGE_JPEG ? 1 : 0;
    sws_setColorspaceDetails(&scaler, matrix, from_range, to_table, to_range, brightness, contrast, saturation);
  }

  Memory memory_;
  std::int64_t max_pixels_, max_frames_;
  std::unique_ptr<AVIOContext, FreeIo> io_;
  std::unique_ptr<AVFormatContext, FreeInput> input_;
  std::unique_ptr<AVCodecContext, FreeDecoder> decoder_;
  int stream_ = -1;
  std::vector<std::uint8_t> padded_, rgb_;
};

int decode(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames, const MmtuneVideoSink* sink,
           char* message, std::size_t capacity) try {
  Video(bytes, size, max_pixels, max_frames).decode(*sink);
  return 0;
} catch (const Fault& fault) {
  std::snprintf(message, capacity, "%s", fault.what());
  return 1;
}

}  // namespace

extern "C" const MmtuneVideo* mmtune_video_open() {
  static const MmtuneVideo functions{.abi = mmtune_video_abi, .decode = decode};
  av_log_set_level(AV_LOG_QUIET);
  return &functions;
}
