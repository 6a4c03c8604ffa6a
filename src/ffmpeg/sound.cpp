#include "ffmpeg/sound.h"

extern "C" {
#include <libavutil/samplefmt.h>
}

#include <cstring>
#include <vector>

#include "ffmpeg/input.h"

namespace mmtune::ffmpeg {

namespace {

template <class T>
T sample_at(const AVFrame& frame, int channel, int index) {
  const bool planar = av_sample_fmt_is_planar(static_cast<AVSampleFormat>(frame.format)) != 0;
  const int channels = frame.ch_layout.nb_channels;
  const std::uint8_t* const plane = frame.extended_data[planar ? channel : 0];
  const auto place = planar ? static_cast<std::size_t>(index)
                            : static_cast<std::size_t>(index) * static_cast<std::size_t>(channels) + static_cast<std::size_t>(channel);
  T value;
  std::memcpy(&value, plane + place * sizeof(T), sizeof(T));
  return value;
}

/// Full scale is 1, whatever the decoder's numbers are.
double scaled(const AVFrame& frame, int channel, int index) {
  switch (av_get_packed_sample_fmt(static_cast<AVSampleFormat>(frame.format))) {
    case AV_SAMPLE_FMT_U8:
      return (static_cast<double>(sample_at<std::uint8_t>(frame, channel, index)) - 128.0) / 128.0;
    case AV_SAMPLE_FMT_S16:
      return static_cast<double>(sample_at<std::int16_t>(frame, channel, index)) / 32768.0;
    case AV_SAMPLE_FMT_S32:
      return static_cast<double>(sample_at<std::int32_t>(frame, channel, index)) / 2147483648.0;
    case AV_SAMPLE_FMT_FLT:
      return static_cast<double>(sample_at<float>(frame, channel, index));
    case AV_SAMPLE_FMT_DBL:
      return sample_at<double>(frame, channel, index);
    default:
      throw Fault("its samples are of an unknown kind");
  }
}

/// One channel: the mean of all.
void mix(const AVFrame& frame, std::vector<float>& mono) {
  const int channels = frame.ch_layout.nb_channels;
  mono.resize(static_cast<std::size_t>(frame.nb_samples));
  for (int i = 0; i < frame.nb_samples; ++i) {
    double sum = 0;
    for (int c = 0; c < channels; ++c) sum += scaled(frame, c, i);
    mono[static_cast<std::size_t>(i)] = static_cast<float>(sum / channels);
  }
}

}  // namespace

void decode_sound(const unsigned char* bytes, std::size_t size, const MmtuneSoundSink& sink) {
  Input input(bytes, size);
  std::unique_ptr<AVCodecContext, FreeDecoder> decoder;
  const int stream = input.find_stream(AVMEDIA_TYPE_AUDIO, "it has no sound", decoder);
  decoder->pkt_timebase = input.format().streams[stream]->time_base;  // without it, an encoder's lead-in is not cut off
  checked(avcodec_open2(decoder.get(), nullptr, nullptr), "no decoder for it");
  std::vector<float> mono;
  int rate = 0, channels = 0;
  const std::int64_t packets =
      input.each_frame(stream, *decoder, "its sound is damaged", "the end of its sound is damaged", [&](AVFrame& frame) {
        if (rate == 0) {
          rate = frame.sample_rate;
          channels = frame.ch_layout.nb_channels;
          sink.opened(sink.user, rate, channels);
        }
        if (frame.sample_rate != rate || frame.ch_layout.nb_channels != channels) throw Fault("its sound changes its rate or channels");
        mix(frame, mono);
        sink.take(sink.user, mono.data(), mono.size());
      });
  // Other containers count bytes or samples there.
  const bool counts_packets = std::strstr(input.format().iformat->name, "mp4") != nullptr;
  if (const std::int64_t announced = input.format().streams[stream]->nb_frames; counts_packets && packets < announced)
    throw Fault("its sound ends behind " + std::to_string(packets) + " of " + std::to_string(announced) + " packets (truncated?)");
}

}  // namespace mmtune::ffmpeg
