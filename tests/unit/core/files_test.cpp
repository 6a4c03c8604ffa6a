#include "core/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "support/support.h"

namespace mmtune {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(ReadFile, ReadsWholeFiles) {
  const TempFolder folder;
  EXPECT_EQ(read_file(folder.write("a", std::string("x\0y", 3))), std::string("x\0y", 3));
  EXPECT_EQ(read_file(folder.write("empty", "")), "");
  const std::string large(3'000'000, 'z');
  EXPECT_EQ(read_file(folder.write("large", large)), large);
}

TEST(ReadFile, TheLimitIsInclusive) {
  const TempFolder folder;
  const auto file = folder.write("a", "12345");
  EXPECT_EQ(read_file(file, 5), "12345");
  EXPECT_ERROR(read_file(file, 4), "file too large: expected at most 4 bytes, got 5");
}

TEST(ReadFile, EndlessDevicesEndAtTheLimit) {
  EXPECT_ERROR(read_file("/dev/zero", 100'000), "file too large");
}

TEST(ReadFile, NamesFileAndReason) {
  const TempFolder folder;
  EXPECT_ERROR(read_file(folder / "none"), "none: cannot open: No such file or directory");
  EXPECT_ERROR(read_file(folder.path()), "cannot read: Is a directory");
}

TEST(AtomicWrite, MakesAndReplaces) {
  const TempFolder folder;
  write_file_atomically(folder / "a", "one");
  EXPECT_EQ(read_file(folder / "a"), "one");
  write_file_atomically(folder / "a", "two");
  EXPECT_EQ(read_file(folder / "a"), "two");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(AtomicWrite, TakesContentInPieces) {
  const TempFolder folder;
  write_file_atomically(folder / "a", [](const ByteSink& sink) {
    sink(as_bytes("one "));
    sink({});
    sink(as_bytes("two"));
  });
  EXPECT_EQ(read_file(folder / "a"), "one two");
}

TEST(AtomicWrite, ARelativeNameWorks) {
  const TempFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_file_atomically("plain", "x");
  fs::current_path(before);
  EXPECT_EQ(read_file(folder / "plain"), "x");
}

TEST(AtomicWrite, NewFilesObeyTheUmaskAndOldOnesKeepTheirMode) {
  const TempFolder folder;
  const mode_t mask = ::umask(0027);
  write_file_atomically(folder / "new", "x");
  ::umask(mask);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "new").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
  ::chmod((folder / "new").c_str(), 0600);
  write_file_atomically(folder / "new", "y");
  ASSERT_EQ(::stat((folder / "new").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST(AtomicWrite, FollowsLinks) {
  const TempFolder folder;
  folder.write("deep/real", "old");
  fs::create_symlink("deep/real", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "deep/real"), "new");
}

TEST(AtomicWrite, DevicesAreWrittenToAndStay) {
  write_file_atomically("/dev/null", "x");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_ERROR(write_file_atomically("/dev/full", "x"), "/dev/full: cannot write: No space left on device");
}

TEST(AtomicWrite, AnExceptionInTheMiddleLeavesTheOldFileAlone) {
  const TempFolder folder;
  write_file_atomically(folder / "a", "old");
  EXPECT_THROW(write_file_atomically(folder / "a",
                                     [](const ByteSink& sink) {
                                       sink(as_bytes("half"));
                                       throw std::runtime_error("no more");
                                     }),
               std::runtime_error);
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(AtomicWrite, AFullDiskLeavesTheOldFileAlone) {
  // A limit on file sizes makes write() fail half-way, as a full disk does.
  const TempFolder folder;
  write_file_atomically(folder / "a", "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = test::error_of([&] { write_file_atomically(folder / "a", std::string(1'000'000, 'x')); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_NE(message.find("a: cannot write: File too large"), std::string::npos) << message;
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(AtomicWrite, AReadOnlyFolderIsNamed) {
  const TempFolder folder;
  folder.write("sub/a", "old");
  ::chmod(folder.path().c_str(), 0755);
  ::chmod((folder / "sub").c_str(), 0555);
  // The superuser may write everywhere, so a child without its rights tries.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(2);
    try {
      write_file_atomically(folder / "sub/a", "new");
    } catch (const Error& error) {
      const bool named = error.parts().where == (folder / "sub/a").string() && error.parts().what.ends_with("Permission denied");
      ::_exit(named ? 0 : 3);
    }
    ::_exit(4);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "2: no other user, 3: another error, 4: no error";
  EXPECT_EQ(read_file(folder / "sub/a"), "old");
  ::chmod((folder / "sub").c_str(), 0755);
}

TEST(AtomicWrite, AMissingFolderAndAFolderAsTargetAreErrors) {
  const TempFolder folder;
  EXPECT_ERROR(write_file_atomically(folder / "none/a", "x"), "none/a: cannot write a file in the folder");
  EXPECT_ERROR(write_file_atomically(folder.path(), "x"), "cannot write: Is a directory");
}

TEST(AtomicWrite, AKilledWriterLeavesTheOldFileAndTheNextWriteCleansUp) {
  const TempFolder folder;
  write_file_atomically(folder / "a", "old");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    write_file_atomically(folder / "a", [&](const ByteSink& sink) {
      sink(as_bytes("half"));
      ::kill(::getpid(), SIGKILL);
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(names_in(folder.path()).size(), 2U) << "the killed writer's temporary";
  write_file_atomically(folder / "b", "another file's write does not touch it");
  EXPECT_EQ(names_in(folder.path()).size(), 3U);
  write_file_atomically(folder / "a", "new");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a", "b"}));
}

TEST(AtomicWrite, KilledAtAnyMomentTheFileIsOneOfTheTwo) {
  const TempFolder folder;
  const std::string old_text(200'000, 'o'), new_text(200'000, 'n');
  for (int round = 0; round < 20; ++round) {
    write_file_atomically(folder / "a", old_text);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      while (true) write_file_atomically(folder / "a", new_text);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    const std::string text = read_file(folder / "a");
    EXPECT_TRUE(text == old_text || text == new_text);
  }
  write_file_atomically(folder / "a", "end");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(AtomicWrite, ManyWritersOfOnePathDoNotHurtEachOther) {
  const TempFolder folder;
  std::vector<std::thread> writers;
  for (char letter = 'a'; letter < 'e'; ++letter) {
    writers.emplace_back([&, letter] {
      for (int i = 0; i < 25; ++i) write_file_atomically(folder / "f", std::string(10'000, letter));
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string text = read_file(folder / "f");
  EXPECT_EQ(text, std::string(10'000, text[0]));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(MappedFile, ShowsTheBytesAndOutlivesTheName) {
  const TempFolder folder;
  const auto mapping = MappedFile::open(folder.write("a", "hello"));
  fs::remove(folder / "a");
  ASSERT_EQ(mapping->bytes().size(), 5U);
  EXPECT_EQ(static_cast<char>(mapping->bytes()[4]), 'o');
  EXPECT_EQ(mapping->path(), folder / "a");
}

TEST(MappedFile, WritesNeverReachTheFile) {
  const TempFolder folder;
  const auto mapping = MappedFile::open(folder.write("a", "hello"));
  const_cast<std::byte&>(mapping->bytes()[0]) = std::byte{'J'};
  EXPECT_EQ(static_cast<char>(mapping->bytes()[0]), 'J');
  EXPECT_EQ(read_file(folder / "a"), "hello");
}

TEST(MappedFile, AReplacedFileDoesNotChangeUnderTheReader) {
  const TempFolder folder;
  const auto mapping = MappedFile::open(folder.write("a", "hello"));
  write_file_atomically(folder / "a", "other");
  EXPECT_EQ(static_cast<char>(mapping->bytes()[0]), 'h');
}

TEST(MappedFile, EmptyFilesAndMistakes) {
  const TempFolder folder;
  EXPECT_TRUE(MappedFile::open(folder.write("empty", ""))->bytes().empty());
  EXPECT_ERROR(MappedFile::open(folder / "none"), "none: cannot open: No such file");
  EXPECT_ERROR(MappedFile::open(folder.path()), "Is a directory");
  EXPECT_ERROR(MappedFile::open("/dev/null"), "not a regular file");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(MappedFile::open(folder / "pipe"), "not a regular file");
}

TEST(CacheFolder, FollowsTheEnvironment) {
  const test::ScopedVariable own("MMTUNE_CACHE", nullptr), shared("XDG_CACHE_HOME", nullptr), home("HOME", "/home/ada");
  EXPECT_EQ(cache_folder(), "/home/ada/.cache/mmtune");
  const test::ScopedVariable shared_too("XDG_CACHE_HOME", "/var/cache/ada");
  EXPECT_EQ(cache_folder(), "/var/cache/ada/mmtune");
  const test::ScopedVariable own_too("MMTUNE_CACHE", "/fast/cache");
  EXPECT_EQ(cache_folder(), "/fast/cache");
}

}  // namespace
}  // namespace mmtune
