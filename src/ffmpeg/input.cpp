#include "ffmpeg/input.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace mmtune::ffmpeg {

namespace {

// Containers of single files. Play lists and the like, which refer to other files, are not among them.
constexpr const char* formats = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,flv,ogg,asf,ivf";

}  // namespace

int checked(int code, const char* what) {
  if (code >= 0) return code;
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(code, text.data(), text.size());
  throw Fault(std::string(what) + ": " + text.data());
}

void FreeIo::operator()(AVIOContext* io) const {
  av_freep(&io->buffer);
  avio_context_free(&io);
}

Input::Input(const unsigned char* bytes, std::size_t size)
    : memory_(std::make_unique<Memory>(Memory{.bytes = bytes, .size = static_cast<std::int64_t>(size)})) {
  open();
}

int Input::read(void* opaque, std::uint8_t* into, int wanted) {
  auto& memory = *static_cast<Memory*>(opaque);
  const std::int64_t got = std::min<std::int64_t>(wanted, memory.size - memory.at);
  if (got <= 0) return AVERROR_EOF;
  std::memcpy(into, memory.bytes + memory.at, static_cast<std::size_t>(got));
  memory.at += got;
  return static_cast<int>(got);
}

std::int64_t Input::seek(void* opaque, std::int64_t offset, int whence) {
  auto& memory = *static_cast<Memory*>(opaque);
  if (whence == AVSEEK_SIZE) return memory.size;
  const int from = whence & ~AVSEEK_FORCE;
  const std::int64_t base = from == SEEK_CUR ? memory.at : from == SEEK_END ? memory.size : 0;
  if ((offset > 0 && base > INT64_MAX - offset) || base + offset < 0 || base + offset > memory.size) return AVERROR(EINVAL);
  return memory.at = base + offset;
}

void Input::open() {
  constexpr int buffer_size = 1 << 16;
  auto* const buffer = static_cast<unsigned char*>(there(av_malloc(buffer_size)));
  AVIOContext* const io = avio_alloc_context(buffer, buffer_size, 0, memory_.get(), read, nullptr, seek);
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

int Input::find_stream(AVMediaType type, const char* missing, std::unique_ptr<AVCodecContext, FreeDecoder>& decoder) const {
  const AVCodec* codec = nullptr;
  const int stream = av_find_best_stream(input_.get(), type, -1, -1, &codec, 0);
  if (stream == AVERROR_STREAM_NOT_FOUND) throw Fault(missing);
  checked(stream, "no decoder for it");
  decoder.reset(there(avcodec_alloc_context3(codec)));
  checked(avcodec_parameters_to_context(decoder.get(), input_->streams[stream]->codecpar), "no decoder for it");
  decoder->thread_count = 1;  // loaders are threads already
  decoder->err_recognition = AV_EF_EXPLODE;
  return stream;
}

bool Input::next(AVPacket& packet) const {
  const int code = av_read_frame(input_.get(), &packet);
  if (code == AVERROR_EOF) return false;
  checked(code, "the file is damaged");
  return true;
}

std::int64_t Input::each_frame(int stream, AVCodecContext& decoder, const char* damaged, const char* end_damaged,
                               const std::function<void(AVFrame& frame)>& use) const {
  const std::unique_ptr<AVPacket, FreePacket> packet(there(av_packet_alloc()));
  const std::unique_ptr<AVFrame, FreeFrame> frame(there(av_frame_alloc()));
  const auto drain = [&] {
    for (;;) {
      const int code = avcodec_receive_frame(&decoder, frame.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      checked(code, damaged);
      use(*frame);
    }
  };
  std::int64_t packets = 0;
  while (next(*packet)) {
    if (packet->stream_index == stream) {
      ++packets;
      checked(avcodec_send_packet(&decoder, packet.get()), damaged);
      drain();
    }
    av_packet_unref(packet.get());
  }
  checked(avcodec_send_packet(&decoder, nullptr), end_damaged);
  drain();
  return packets;
}

void Input::rewind() {
  input_.reset();
  io_.reset();
  memory_->at = 0;
  open();
}

}  // namespace mmtune::ffmpeg
