#include "data/tar.h"

#include <cstring>

#include "data/dataset.h"
#include "data/media.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

TarIndex read_bytes(const std::string& bytes) {
  return TarIndex::read(
      [&](std::uint64_t offset, std::span<char> into) {
        ASSERT_LE(offset + into.size(), bytes.size());
        std::memcpy(into.data(), bytes.data() + offset, into.size());
      },
      bytes.size(), "x.tar");
}

std::string content(const std::string& tar, const TarMember* member) {
  return member == nullptr ? "(none)" : tar.substr(static_cast<std::size_t>(member->offset), static_cast<std::size_t>(member->size));
}

std::string refusal(const std::string& bytes) {
  return message_of([&] { read_bytes(bytes); });
}

TEST(Tar, ListsRegularFilesOnly) {
  const std::string tar = tar_entry({"train/", "", '5'}) + tar_entry({"train/a.png", "AAA"}) + tar_entry({"link", "", '2'}) +
                          tar_entry({"empty.txt", ""}) + tar_entry({"./b.png", std::string(1000, 'b')}) + tar_end();
  const TarIndex index = read_bytes(tar);
  EXPECT_EQ(index.members().size(), 3u);
  EXPECT_EQ(content(tar, index.find("train/a.png")), "AAA");
  EXPECT_EQ(content(tar, index.find("b.png")), std::string(1000, 'b'));
  EXPECT_EQ(content(tar, index.find("./b.png")), std::string(1000, 'b'));
  EXPECT_EQ(content(tar, index.find("empty.txt")), "");
  EXPECT_EQ(index.find("link"), nullptr);
  EXPECT_EQ(index.find("train"), nullptr);
}

TEST(Tar, TheLastOfEqualNamesCounts) {
  const std::string tar = tar_entry({"a", "old"}) + tar_entry({"a", "new"}) + tar_end();
  EXPECT_EQ(content(tar, read_bytes(tar).find("a")), "new");
}

TEST(Tar, LongNamesOfEveryKind) {
  const std::string deep = std::string(120, 'd') + "/" + std::string(120, 'f') + ".png";
  const std::string tar = tar_entry({"name.png", "ustar", '0', "some/prefix"}) + tar_entry({"././@LongLink", deep + '\0', 'L'}) +
                          tar_entry({deep.substr(0, 100), "gnu"}) + tar_entry({"PaxHeaders/x", pax_record("path", deep + "2"), 'x'}) +
                          tar_entry({"cut", "pax"}) + tar_entry({"old.png", "v7", '\0', "", false}) + tar_end();
  const TarIndex index = read_bytes(tar);
  EXPECT_EQ(content(tar, index.find("some/prefix/name.png")), "ustar");
  EXPECT_EQ(content(tar, index.find(deep)), "gnu");
  EXPECT_EQ(content(tar, index.find(deep + "2")), "pax");
  EXPECT_EQ(content(tar, index.find("old.png")), "v7");
}

TEST(Tar, SizesInBase256AndPax) {
  std::string header = tar_header({"a", "12345"});
  header.replace(124, 12, std::string("\x80\0\0\0\0\0\0\0\0\0\0\5", 12));
  seal(header);
  std::string claims_nothing = tar_header({"b", ""});
  const std::string tar =
      header + padded("12345") + tar_entry({"p", pax_record("size", "3"), 'x'}) + claims_nothing + padded("abc") + tar_end();
  const TarIndex index = read_bytes(tar);
  EXPECT_EQ(content(tar, index.find("a")), "12345");
  EXPECT_EQ(content(tar, index.find("b")), "abc");

  header.replace(124, 12, std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12));
  seal(header);
  expect_contains(refusal(header + padded("12345") + tar_end()), "size that is no number");
  header.replace(124, 12, std::string("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12));
  seal(header);
  expect_contains(refusal(header + padded("12345") + tar_end()), "past the end of the file");
}

TEST(Tar, RefusesWhatIsDamaged) {
  const std::string good = tar_entry({"a.png", "AAA"}) + tar_entry({"b.png", std::string(600, 'b')}) + tar_end();
  std::string flipped = good;
  flipped[1024] = 'c';  // a name, and so the checksum of its header
  expect_contains(refusal(flipped), "x.tar: has a wrong header checksum: got the header at byte 1024");
  expect_contains(refusal(std::string(2048, 'z')), "is no tar archive");
  expect_contains(refusal(""), "is no tar archive");
  expect_contains(refusal("short"), "is no tar archive");
  expect_contains(refusal(good.substr(0, 1024)), "end mark is missing");
  expect_contains(refusal(good.substr(0, 1024 + 512 + 100)), "past the end of the file");
  expect_contains(refusal(good.substr(0, 1024 + 512 + 700)), "truncated");
  EXPECT_EQ(refusal(good.substr(0, good.size() - 512)), "no error") << "one zero block is enough";
  for (std::size_t size = 0; size < good.size() - 1024; ++size) EXPECT_NE(refusal(good.substr(0, size)), "no error") << size;
}

TEST(Tar, RefusesNamesThatLeaveTheArchive) {
  expect_contains(refusal(tar_entry({"../a.png", "A"}) + tar_end()), "'../a.png' has a '..' in it");
  expect_contains(refusal(tar_entry({"a/../../b", "A"}) + tar_end()), "has a '..' in it");
  expect_contains(refusal(tar_entry({"/etc/passwd", "A"}) + tar_end()), "is absolute");
  expect_contains(refusal(tar_entry({"", "A"}) + tar_end()), "is empty");
  EXPECT_EQ(refusal(tar_entry({"a..b/..c", "A"}) + tar_end()), "no error");
}

TEST(Tar, RefusesUnsupportedMembers) {
  expect_contains(refusal(tar_entry({"a", "A", 'S'}) + tar_end()), "type 'S' (a sparse file)");
  expect_contains(refusal(tar_entry({"a", "A", 'M'}) + tar_end()), "member of unsupported type 'M'");
  expect_contains(refusal(tar_entry({"p", pax_record("GNU.sparse.major", "1"), 'x'}) + tar_entry({"a", "A"}) + tar_end()), "sparse");
  expect_contains(refusal(tar_entry({"p", pax_record("path", "b"), 'g'}) + tar_entry({"a", "A"}) + tar_end()), "global extended header");
  EXPECT_EQ(refusal(tar_entry({"p", pax_record("comment", "hi"), 'g'}) + tar_entry({"a", "A"}) + tar_end()), "no error");
  for (const std::string record : {"", "x", "99 path=a\n", "5 a\n", "10 path=ab", "10 pathxab\n", "0 path=a\n"}) {
    if (record.empty()) continue;
    expect_contains(refusal(tar_entry({"p", record, 'x'}) + tar_entry({"a", "A"}) + tar_end()), "malformed extended header");
  }
  expect_contains(refusal(tar_entry({"p", pax_record("size", "-1"), 'x'}) + tar_entry({"a", "A"}) + tar_end()), "no number");
  expect_contains(refusal(tar_entry({"p", pax_record("path", "b"), 'x'}) + tar_end()), "whose member is missing");
  expect_contains(refusal(tar_entry({"l", std::string((1 << 20) + 1, 'n'), 'L'}) + tar_end()), "more than 1 MiB");
}

TEST(Media, ReadsFilesMembersAndRanges) {
  const TempDir dir;
  const std::string tar = tar_entry({"in/a.png", "first"}) + tar_entry({"b.png", "second"}) + tar_end();
  dir.write("pictures/c#1.png", "plain");
  dir.write("s.tar", tar);

  EXPECT_EQ(read_media(parse_media("pictures/c#1.png", dir.path())), "plain");
  EXPECT_EQ(read_media(parse_media("pictures/../pictures/c#1.png", dir.path())), "plain");
  EXPECT_EQ(read_media(parse_media((dir.path() / "pictures/c#1.png").string(), "elsewhere")), "plain");
  EXPECT_EQ(read_media(parse_media("s.tar#b.png", dir.path())), "second");
  EXPECT_EQ(read_media({dir.path() / "s.tar", "in/a.png", 512, 5}), "first");
  EXPECT_EQ(read_media({dir.path() / "s.tar", "", 513, 3}), "irs");

  MediaIndex index;
  const auto found = index.find(parse_media("s.tar#b.png", dir.path()));
  EXPECT_EQ(found.media.offset, 1536u);
  EXPECT_EQ(found.media.size, 6u);
  EXPECT_EQ(found.bytes, 6u);
  EXPECT_EQ(found.media.display(), (dir.path() / "s.tar").string() + "#b.png");
  EXPECT_EQ(index.find(parse_media("pictures/c#1.png", dir.path())).bytes, 5u);
}

TEST(Media, EveryRefusalNamesTheFile) {
  const TempDir dir;
  dir.write("s.tar", tar_entry({"a.png", "A"}) + tar_end());
  dir.write("big.png", std::string(100, 'x'));
  const auto read = [&](const MediaRef& media, std::size_t most = 1000) { return message_of([&] { read_media(media, most); }); };
  const std::string tar = (dir.path() / "s.tar").string();

  expect_contains(read({dir.path() / "no.png", "", 0, 0}), "no.png: does not exist");
  expect_contains(read({dir.path(), "", 0, 0}), "is a folder");
  expect_contains(read({"/dev/zero", "", 0, 0}), "/dev/zero: is not a regular file");
  expect_contains(read({tar, "b.png", 0, 0}), "s.tar: has no member 'b.png' (1 members, the first is 'a.png')");
  expect_contains(read({tar, "a.png", 512, 5000}, 9000), "s.tar#a.png: goes past the end of its file");
  expect_contains(read({tar, "a.png", ~std::uint64_t{0}, 5}), "goes past the end");
  expect_contains(read({tar, "a.png", 512, ~std::uint64_t{0}}), "is too large");
  expect_contains(read({dir.path() / "big.png", "", 0, 0}, 99), "big.png: is too large: expected at most 99 bytes, got 100");

  MediaIndex index;
  expect_contains(message_of([&] { index.find({dir.path() / "no.png", "", 0, 0}); }), "does not exist");
  expect_contains(message_of([&] { index.find({dir.path() / "big.png/x.png", "", 0, 0}); }), "does not exist");
  expect_contains(message_of([&] { index.find({dir.path(), "", 0, 0}); }), "is a folder");
  expect_contains(message_of([&] { index.find({tar, "a.png", 512, 5000}); }), "past the end");
  expect_contains(message_of([&] { index.find({tar, "b.png", 0, 0}); }), "no member 'b.png'");
}

TEST(Media, ReferencesAreChecked) {
  const auto parse = [](std::string_view reference) { return message_of([&] { parse_media(reference, "base"); }); };
  expect_contains(parse(""), "the path is empty");
  expect_contains(parse("https://example.org/a.png"), "a local file is needed");
  expect_contains(parse(std::string_view("a\0b", 3)), "zero byte");
  expect_contains(parse("s.tar#"), "the member's name is empty");
  expect_contains(parse("s.tar#../a"), "has a '..' in it");
  expect_contains(parse("s.tar#/a"), "is absolute");
  EXPECT_EQ(parse("../s.tar#a"), "no error");
}

}  // namespace
}  // namespace mmtune::data::test
