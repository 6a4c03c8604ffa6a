// Frames of videos: which ones are taken, folders of frames, and files that FFmpeg's part of the build decodes.

#include "vision/video.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "io/ffmpeg_library.h"

namespace mmtune::vision {
namespace {

namespace fs = std::filesystem;

TEST(Video, FramesAreSpreadEvenly) {
  EXPECT_EQ(spread_frames(8, 8), (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(spread_frames(100, 4), (std::vector<std::int64_t>{12, 37, 62, 87}));
  EXPECT_EQ(spread_frames(3, 5), (std::vector<std::int64_t>{0, 0, 1, 2, 2}));
  EXPECT_EQ(spread_frames(1, 3), (std::vector<std::int64_t>{0, 0, 0}));
}

TEST(Video, FoldersListTheirPicturesByName) {
  const fs::path folder = fs::temp_directory_path() / ("mmtune-frames-" + std::to_string(getpid()));
  fs::create_directories(folder / "below");
  EXPECT_THROW(frame_files(folder), Error);
  for (const char* name : {"0002.png", "0001.JPG", "notes.txt", ".hidden.png", "below/x.png"}) std::ofstream(folder / name) << "x";
  const auto files = frame_files(folder);
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0].filename(), "0001.JPG");
  EXPECT_EQ(files[1].filename(), "0002.png");
  fs::remove_all(folder);
  EXPECT_THROW(frame_files(folder), Error);
}

TEST(Video, RefusesWhatIsNoVideo) {
  if (!io::has_ffmpeg()) GTEST_SKIP() << "built without FFmpeg";
  const auto decode = [](const std::string& bytes) { decode_video(std::as_bytes(std::span(bytes)), "x.mp4", 4, [](Image&&) { FAIL(); }); };
  EXPECT_THROW(decode(""), Error);
  EXPECT_THROW(decode(std::string(5000, 'x')), Error);
  // A play list would make a careless reader open other files.
  EXPECT_THROW(decode("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n"), Error);
  EXPECT_THROW(decode("ffconcat version 1.0\nfile /etc/hostname\n"), Error);
}

}  // namespace
}  // namespace mmtune::vision
