#pragma once
// Scenes composed of pictures, with something true and something wrong said of each: pairs that teach which words belong to which part of
// a picture, where it lies, and how many there are. The pictures and their names are the data's; the grammar is ours.

#include <cstdint>
#include <string>
#include <vector>

#include "data/random.h"
#include "train/pretrain/pairs_recipe.h"
#include "train/pretrain/pictures.h"
#include "vision/image.h"

namespace mmtune::train {

struct Scene {
  vision::Image image;                 ///< side × side
  std::string right;                   ///< true of the scene
  std::string wrong;                   ///< not true of it
  std::vector<std::int64_t> pictures;  ///< of the list, in the order they were placed
};

class SceneMaker {
 public:
  /// Decodes every picture that has a text. `pictures` must outlive it. Throws Error naming a picture that cannot be read, or the list
  /// where fewer than two different names are in it.
  SceneMaker(const std::vector<Picture>& pictures, const ScenesSection& section, std::int64_t side);

  /// A scene that depends on the state of `random` alone.
  Scene draw(data::Random& random) const;
  /// Every word that draw() may use besides the pictures' own texts, in sentences.
  static std::vector<std::string> phrases();
  /// What a picture is called in a sentence: the shortest of its texts that is no list.
  static std::string noun_of(const Picture& picture);

 private:
  struct Kept {
    std::int64_t index = 0;  ///< in the list
    std::string noun;
    vision::Image image;
  };
  struct Placed {
    const Kept* kept = nullptr;
    std::int64_t column = 0, row = 0;  ///< of the 2 × 2 fields
  };
  const Kept& any(data::Random& random) const;
  const Kept& other_than(const std::vector<Placed>& placed, data::Random& random) const;
  Scene whole(data::Random& random) const;
  void tell(const std::vector<Placed>& placed, data::Random& random, Scene& scene) const;

  const std::vector<Picture>& pictures_;
  ScenesSection section_;
  std::int64_t side_;
  std::vector<Kept> kept_;
  std::vector<double> until_;                              ///< sum of the weights up to each, for drawing
  std::vector<std::pair<std::size_t, std::size_t>> same_;  ///< of each kept picture: where those of its noun lie in by_noun_
  std::size_t names_ = 0;                                  ///< different ones
  std::vector<std::size_t> by_noun_;                       ///< kept pictures, those of one noun together
};

}  // namespace mmtune::train
