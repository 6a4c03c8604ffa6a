#include <gtest/gtest.h>

#include "hub/client.h"
#include "hub/digest.h"
#include "hub/listing.h"
#include "hub/selection.h"
#include "hub/settings.h"
#include "io/hub_cache.h"
#include "support/support.h"

namespace mmtune::hub {
namespace {

using test::ScopedVariable;

TEST(Glob, MatchesAsTheHubsLibraryDoes) {
  for (const char* pattern :
       {"*", "config.json", "*.json", "c*g.j*n", "config.jso?", "[a-c]onfig.json", "[!x]onfig.json", "**json", "con*"})
    EXPECT_TRUE(matches_glob("config.json", pattern)) << pattern;
  for (const char* pattern : {"", "onfig.json", "*.jsn", "config.json?", "[x-z]onfig.json", "[!c]onfig.json", "[c", "config"})
    EXPECT_FALSE(matches_glob("config.json", pattern)) << pattern;
  EXPECT_TRUE(matches_glob("onnx/a/b.onnx", "onnx/"));
  EXPECT_TRUE(matches_glob("onnx/a/b.onnx", "*.onnx"));
  EXPECT_FALSE(matches_glob("onnx", "onnx/"));
  EXPECT_TRUE(matches_glob("a]b", "a[]]b"));
  EXPECT_TRUE(matches_glob("a-b", "a[x-]b"));
  EXPECT_TRUE(matches_glob("a[b", "a[b")) << "a bracket that nothing closes stands for itself";
  EXPECT_TRUE(matches_glob("", "*"));
  // Stars that would take an exponential search a lifetime.
  EXPECT_FALSE(matches_glob(std::string(200, 'a'), "a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b"));
}

TEST(Origin, IsWhatATokenIsBoundTo) {
  EXPECT_EQ(origin_of("https://Hub.Example.org/a/b"), "https://hub.example.org:443");
  EXPECT_EQ(origin_of("https://hub.example.org:443?x"), "https://hub.example.org:443");
  EXPECT_EQ(origin_of("http://127.0.0.1:8080/x"), "http://127.0.0.1:8080");
  EXPECT_EQ(origin_of("http://[::1]/x"), "http://[::1]:80");
  EXPECT_EQ(origin_of("http://[::1]:99/x"), "http://[::1]:99");
  for (const char* odd : {"https://hub.example.org@evil.example/x", "https://hub.example.org\\@evil.example/x",
                          "https://hub.example.org%2f.evil/", "https:///x", "https://a b/", "file:///etc/passwd", "/x", ""})
    EXPECT_EQ(origin_of(odd), "") << odd;
}

TEST(Location, OfARedirect) {
  const std::string url = "https://hub.example.org/a/b?c#d";
  EXPECT_EQ(resolve_location(url, "https://store.example/x"), "https://store.example/x");
  EXPECT_EQ(resolve_location(url, "//store.example/x"), "https://store.example/x");
  EXPECT_EQ(resolve_location(url, "/x/y?z"), "https://hub.example.org/x/y?z");
  EXPECT_EQ(resolve_location(url, "x"), "https://hub.example.org/a/x");
  EXPECT_EQ(resolve_location(url, "file:///etc/passwd"), "file:///etc/passwd");
}

TEST(Encoding, LeavesOnlyPlainCharacters) {
  EXPECT_EQ(url_encoded("a b/c#d%\xc3\xa9", true), "a%20b/c%23d%25%C3%A9");
  EXPECT_EQ(url_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
}

TEST(Hash, OfFiles) {
  const test::TempFolder folder;
  const auto empty = folder.write("empty", ""), hello = folder.write("hello", "hello\n");
  const auto go = [] { return true; };
  EXPECT_EQ(hash_file(empty, HashKind::sha256, go), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash_file(empty, HashKind::git_sha1, go), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(hash_file(hello, HashKind::git_sha1, go), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_ERROR(hash_file(folder / "nothing", HashKind::sha256, go), "cannot read");
  EXPECT_EQ(hash_kind(std::string(40, 'a')), HashKind::git_sha1);
  EXPECT_EQ(hash_kind(std::string(64, '0')), HashKind::sha256);
  EXPECT_EQ(hash_kind(std::string(40, 'A')), HashKind::none);
  EXPECT_EQ(hash_kind(""), HashKind::none);
}

TEST(RepositoryNames, CannotStepOut) {
  const auto name = io::parse_repository_name("owner/name@refs/pr/1");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->repository, "owner/name");
  EXPECT_EQ(name->revision, "refs/pr/1");
  EXPECT_EQ(io::parse_repository_name("bert-base-uncased")->revision, "main");
  for (const char* bad :
       {"", "/a", "a/", "a//b", "a/b/c", "../a", "a/..", ".a", "a/.b", "a b", "a--b/c", "a@", "a@..", "a@x/../y", "a\\b", "a@/x"})
    EXPECT_FALSE(io::parse_repository_name(bad)) << bad;
}

TEST(Listing, ReadsLargeAndSmallFiles) {
  const std::string sha1(40, 'a'), sha256(64, 'b');
  const Listing listing = parse_listing(R"({"sha": "abc", "siblings": [
      {"rfilename": "config.json", "size": 3, "blobId": ")" +
                                            sha1 + R"("},
      {"rfilename": "w.safetensors", "size": 130, "blobId": ")" +
                                            sha1 + R"(", "lfs": {"size": 1000, "sha256": ")" + sha256 + R"("}},
      {"rfilename": "untold"}]})",
                                        "the hub");
  ASSERT_EQ(listing.files.size(), 3U);
  EXPECT_EQ(listing.files[0].hash, sha1);
  EXPECT_EQ(listing.files[1].size, 1000);
  EXPECT_EQ(listing.files[1].hash, sha256);
  EXPECT_FALSE(listing.files[2].size);
  EXPECT_EQ(listing.files[2].hash, "");
}

TEST(Settings, OfTheEnvironment) {
  const test::TempFolder folder;
  const ScopedVariable home("HF_HOME", folder.path().c_str()), cache("HF_HUB_CACHE", nullptr), old_cache("HUGGINGFACE_HUB_CACHE", nullptr);
  const ScopedVariable endpoint("HF_ENDPOINT", "https://hub.example.org//"), offline("HF_HUB_OFFLINE", nullptr),
      also("TRANSFORMERS_OFFLINE", nullptr);
  const ScopedVariable token("HF_TOKEN", nullptr), old_token("HUGGING_FACE_HUB_TOKEN", nullptr), path("HF_TOKEN_PATH", nullptr);
  EXPECT_EQ(read_settings().endpoint, "https://hub.example.org");
  EXPECT_EQ(read_settings().cache, folder / "hub");
  EXPECT_FALSE(read_settings().token);
  folder.write("token", " hf_filed\n");
  EXPECT_EQ(read_settings().token, "hf_filed");
  const ScopedVariable given("HF_TOKEN", "hf_given");
  EXPECT_EQ(read_settings().token, "hf_given");
  const ScopedVariable tilde("HF_HUB_CACHE", "~/there"), user("HOME", folder.path().c_str());
  EXPECT_EQ(read_settings().cache, folder / "there");
}

}  // namespace
}  // namespace mmtune::hub
