#pragma once
// One example of a data set, whatever file it came from; any subset of modalities may be there.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/picture_form.h"
#include "vision/corruptions.h"

namespace mmtune::data {

/// Where the encoded bytes of a picture, sound or video lie: a whole file (size == 0 and offset == 0), or a range of an uncompressed tar.
struct MediaRef {
  std::filesystem::path file;
  std::string member;  ///< member of the archive, empty for a plain file
  std::uint64_t offset = 0;
  std::uint64_t size = 0;  ///< 0 with a member: the member's header is looked up in the tar; 0 without: the whole file
  RawPicture form;         ///< of a picture that is no encoded file
  std::optional<vision::Corruption> corruption = {};  ///< what is done to a picture once it is decoded
  std::uint64_t corruption_seed = 0;
  std::string display() const;  ///< "shard.tar#member" or the path, for messages
  /// What else than its bytes decides what a picture looks like, for keys of caches; empty where nothing does.
  std::string variant() const;
};

struct Example {
  std::string id;
  std::optional<std::string> text;
  std::optional<std::string> text_pair;
  std::optional<MediaRef> image;
  std::optional<MediaRef> image_pair;
  std::optional<MediaRef> audio;
  std::optional<MediaRef> video;     ///< a file, or a folder with a picture a frame
  std::vector<std::int64_t> labels;  ///< indices into the data set's classes; one for single-label data, none when unlabelled
  std::vector<std::string> answers;  ///< free-text answers as the manifest has them; no part of the classes
};

/// Examples in file order with their label names.
struct Dataset {
  std::string source;  ///< the path that the user gave
  std::vector<Example> examples;
  std::vector<std::string> classes;
  bool multi_label = false;
  std::string fingerprint;    ///< of everything that decides what is learned: ids, texts, labels, media references with their sizes
  std::int64_t skipped = 0;   ///< rows left out because of ReadOptions::skip_bad
  std::string first_skipped;  ///< why the first of them was: the message that would have been thrown
};

}  // namespace mmtune::data
