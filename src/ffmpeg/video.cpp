#include "ffmpeg/video.h"

extern "C" {
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
}

#include <cstring>
#include <vector>

#include "ffmpeg/input.h"

namespace mmtune::ffmpeg {

namespace {

struct FreeScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};

class Video {
 public:
  Video(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames)
      : input_(bytes, size), max_pixels_(max_pixels), max_frames_(max_frames) {
    open_decoder();
  }

  void decode(const MmtuneVideoSink& sink) {
    const std::int64_t count = count_frames();
    sink.counted(sink.user, count);
    decoder_.reset();
    input_.rewind();
    open_decoder();
    const std::unique_ptr<AVFrame, FreeFrame> last(there(av_frame_alloc()));
    std::int64_t number = 0;
    input_.each_frame(stream_, *decoder_, "a frame is damaged", "the last frames are damaged", [&](AVFrame& frame) {
      check_size(frame.width, frame.height);
      if (number >= max_frames_) throw Fault("it has more than " + std::to_string(max_frames_) + " frames");
      if (sink.wants(sink.user, number) != 0) hand_over(sink, frame, number);
      av_frame_unref(last.get());
      av_frame_move_ref(last.get(), &frame);
      ++number;
    });
    if (number == 0) throw Fault("it has no frames");
    if (sink.wants(sink.user, INT64_MAX) != 0) hand_over(sink, *last, number - 1);
  }

 private:
  void open_decoder() {
    stream_ = input_.find_stream(AVMEDIA_TYPE_VIDEO, "it has no pictures", decoder_);
    check_size(decoder_->width, decoder_->height);
    decoder_->max_pixels = max_pixels_;
    checked(avcodec_open2(decoder_.get(), nullptr, nullptr), "no decoder for it");
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
    while (input_.next(*packet)) {
      if (packet->stream_index == stream_) {
        ++packets;
        if ((packet->flags & AV_PKT_FLAG_DISCARD) == 0) ++count;
      }
      av_packet_unref(packet.get());
      if (packets > max_frames_) throw Fault("it has more than " + std::to_string(max_frames_) + " frames");
    }
    if (count == 0) throw Fault("it has no frames");
    if (const std::int64_t announced = input_.format().streams[stream_]->nb_frames; packets < announced)
      throw Fault("it ends behind " + std::to_string(packets) + " of " + std::to_string(announced) + " frames (truncated?)");
    return count;
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

  Input input_;
  std::int64_t max_pixels_, max_frames_;
  std::unique_ptr<AVCodecContext, FreeDecoder> decoder_;
  int stream_ = -1;
  std::vector<std::uint8_t> padded_, rgb_;
};

}  // namespace

void decode_video(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames,
                  const MmtuneVideoSink& sink) {
  Video(bytes, size, max_pixels, max_frames).decode(sink);
}

}  // namespace mmtune::ffmpeg
