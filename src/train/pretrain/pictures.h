#pragma once
// The list of pictures that a tower is pretrained on.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/example.h"

namespace mmtune::train {

struct Picture {
  std::string id;
  data::MediaRef image;
  std::vector<std::string> texts;                              ///< what it shows, in any number of ways; may be empty
  std::vector<std::pair<std::string, std::string>> questions;  ///< with their answers; may be empty
  double weight = 1.0;                                         ///< how often it is drawn, against the others
  bool mirror = true;  ///< whether its mirror image shows the same thing (not so for letters and digits)
};

struct PictureList {
  std::vector<Picture> pictures;
  std::string fingerprint;  ///< of every row and of the sizes of the media files
};

/// Reads JSON lines {"image": "FILE" or "SHARD.tar#MEMBER", "offset", "size", "texts": […],
/// "questions": [["question", "answer"], …], "weight", "mirror", "id"}; only the image is
/// required, paths are relative to the list. Throws Error naming file and line: bad JSON, wrong types, a negative weight, a missing file;
/// or the file alone where there is no picture with a weight.
PictureList read_pictures(const std::filesystem::path& path);

}  // namespace mmtune::train
