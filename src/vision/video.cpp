#include "vision/video.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "core/error.h"
#include "io/ffmpeg_library.h"

namespace mmtune::vision {

namespace {

namespace fs = std::filesystem;

bool is_picture(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png" || extension == ".webp";
}

}  // namespace

std::vector<std::int64_t> spread_frames(std::int64_t count, std::int64_t wanted) {
  MMTUNE_ASSERT(count > 0 && wanted > 0);
  std::vector<std::int64_t> frames;
  for (std::int64_t i = 0; i < wanted; ++i) frames.push_back((2 * i + 1) * count / (2 * wanted));
  return frames;
}

std::vector<fs::path> frame_files(const fs::path& folder) {
  std::vector<fs::path> files;
  try {
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.is_regular_file() && is_picture(entry.path()) && !entry.path().filename().string().starts_with('.'))
        files.push_back(entry.path());
  } catch (const fs::filesystem_error& error) {
    throw Error({.what = "cannot be listed: " + error.code().message(), .where = folder.string()});
  }
  if (files.empty())
    throw Error({.what = "has no picture of a frame in it", .where = folder.string(), .expected = "JPEG, PNG or WebP files"});
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return files;
}

void decode_video(std::span<const std::byte> bytes, const std::string& where, std::int64_t wanted, const std::function<void(Image&&)>& use,
                  const VideoLimits& limits) {
  MMTUNE_ASSERT(wanted > 0);
  const MmtuneFfmpeg& functions = io::ffmpeg(where, "give a folder with a picture a frame");
  struct Frames {
    const std::function<void(Image&&)>& use;
    std::int64_t wanted, handed = 0;
    std::vector<std::int64_t> numbers = {};
    Image last = {};
  } frames{.use = use, .wanted = wanted};
  const MmtuneVideoSink sink{
      .user = &frames,
      .counted =
          [](void* user, std::int64_t count) {
            auto& own = *static_cast<Frames*>(user);
            own.numbers = spread_frames(count, own.wanted);
          },
      .wants =
          [](void* user, std::int64_t number) {
            const auto& own = *static_cast<const Frames*>(user);
            return own.handed < own.wanted && own.numbers[static_cast<std::size_t>(own.handed)] <= number ? 1 : 0;
          },
      .take =
          [](void* user, std::int64_t number, const unsigned char* rgb, int width, int height) {
            auto& own = *static_cast<Frames*>(user);
            own.last = {.width = width,
                        .height = height,
                        .pixels = {rgb, rgb + std::size_t{3} * static_cast<std::size_t>(width) * static_cast<std::size_t>(height)}};
            while (own.handed < own.wanted && own.numbers[static_cast<std::size_t>(own.handed)] <= number) {
              ++own.handed;
              own.use(Image(own.last));
            }
          }};
  std::array<char, 256> message{};
  const int code = functions.video(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), limits.max_pixels, limits.max_frames,
                                   &sink, message.data(), message.size());
  if (code != 0) throw Error({.what = "the video cannot be decoded: " + printable(message.data()), .where = where});
  // A container may announce a few frames more than it holds.
  MMTUNE_ASSERT(frames.handed > 0 || wanted == 0);
  for (; frames.handed < wanted; ++frames.handed) use(Image(frames.last));
}

}  // namespace mmtune::vision
