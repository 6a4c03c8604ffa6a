// Scenes: drawn the same again, their pictures where the caption says, and what is wrong of them is wrong.

#include "train/pretrain/scenes.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "support/support.h"
#include "vision/encode_jpeg.h"

namespace mmtune::train {
namespace {

constexpr std::int64_t side = 32;

struct Colour {
  const char* name;
  std::array<std::uint8_t, 3> value;
};
/// Far from the grounds' colours and from each other.
constexpr std::array<Colour, 3> colours = {{{"apple", {255, 0, 255}}, {"pear", {0, 255, 255}}, {"plum", {255, 128, 0}}}};

class Scenes : public testing::Test {
 protected:
  Scenes() {
    for (const Colour& colour : colours) {
      vision::Image image{.width = 16, .height = 16, .pixels = {}};
      for (int i = 0; i < 16 * 16; ++i) image.pixels.insert(image.pixels.end(), colour.value.begin(), colour.value.end());
      const std::string name = std::string(colour.name) + ".jpg";
      const std::vector<std::byte> bytes = vision::encode_jpeg(image, 100);
      folder_.write(name, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      pictures_.push_back({.id = colour.name, .image = {.file = folder_ / name}, .texts = {std::string("an ") + colour.name}});
    }
  }
  /// Which of the colours the middle of each field of the scene has; −1: the ground.
  static std::array<int, 4> fields(const vision::Image& image) {
    std::array<int, 4> found{-1, -1, -1, -1};
    for (std::int64_t field = 0; field < 4; ++field)
      for (std::int64_t y = 0; y < side / 2; ++y)
        for (std::int64_t x = 0; x < side / 2; ++x) {
          const std::uint8_t* pixel = image.pixels.data() + (((field / 2) * side / 2 + y) * side + (field % 2) * side / 2 + x) * 3;
          for (std::size_t c = 0; c < colours.size(); ++c) {
            int distance = 0;
            for (std::size_t i = 0; i < 3; ++i) distance += std::abs(int{pixel[i]} - int{colours[c].value[i]});
            if (distance < 24) found[static_cast<std::size_t>(field)] = static_cast<int>(c);
          }
        }
    return found;
  }
  test::TempFolder folder_;
  std::vector<Picture> pictures_;
};

TEST_F(Scenes, AreTheSameForTheSameNumbers) {
  const SceneMaker maker(pictures_, {}, side);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    data::Random first(seed), second(seed);
    const Scene a = maker.draw(first), b = maker.draw(second);
    EXPECT_EQ(a.image.pixels, b.image.pixels);
    EXPECT_EQ(a.right, b.right);
    EXPECT_EQ(a.wrong, b.wrong);
    EXPECT_NE(a.right, a.wrong);
  }
}

/// Reads the sentences of the grammar against the pixels.
bool holds(std::string text, const std::array<int, 4>& fields) {
  if (const auto ground = text.find(" on a "); ground != std::string::npos) text.resize(ground);
  const auto count_of = [&](int colour) { return std::count(fields.begin(), fields.end(), colour); };
  const auto all = 4 - count_of(-1);
  constexpr std::array<const char*, 5> numbers = {"no", "one", "two", "three", "four"};
  for (std::size_t n = 0; n < numbers.size(); ++n)
    if (text == "there are " + std::string(numbers[n]) + " pictures" || (n == 1 && text == "there is one picture"))
      return all == static_cast<std::int64_t>(n);
  for (int colour = 0; colour < static_cast<int>(colours.size()); ++colour) {
    const std::string noun = std::string("an ") + colours[static_cast<std::size_t>(colour)].name;
    if (text == "there is " + noun) return count_of(colour) > 0;
    if (text == "every picture shows " + noun) return count_of(colour) == all;
    if (text == "not every picture shows " + noun) return count_of(colour) != all;
    for (std::size_t n = 0; n < numbers.size(); ++n)
      for (const char* form : {"there are ", "there is "})
        for (const char* what : {" pictures of ", " picture of "})
          if (text == std::string(form) + numbers[n] + what + noun) return count_of(colour) == static_cast<std::int64_t>(n);
    constexpr std::array<const char*, 4> corners = {"at the top left", "at the top right", "at the bottom left", "at the bottom right"};
    for (std::size_t corner = 0; corner < corners.size(); ++corner)
      if (text == noun + " " + corners[corner]) return fields[corner] == colour;
    for (int second = 0; second < static_cast<int>(colours.size()); ++second) {
      const std::string other = std::string("an ") + colours[static_cast<std::size_t>(second)].name;
      const auto somewhere = [&](std::size_t a, std::size_t b, std::size_t c, std::size_t d) {
        return (fields[a] == colour && fields[b] == second) || (fields[c] == colour && fields[d] == second);
      };
      if (text == noun + " left of " + other) return somewhere(0, 1, 2, 3);
      if (text == noun + " right of " + other) return somewhere(1, 0, 3, 2);
      if (text == noun + " above " + other) return somewhere(0, 2, 1, 3);
      if (text == noun + " below " + other) return somewhere(2, 0, 3, 1);
    }
  }
  ADD_FAILURE() << "not a sentence of the grammar: " << text;
  return false;
}

TEST_F(Scenes, SayWhatIsTrueAndWhatIsNot) {
  const SceneMaker maker(pictures_, {.whole = 0.0, .most = 4, .repeat = 0.4, .ground = 0.0}, side);
  data::Random random(7);
  for (int i = 0; i < 3000; ++i) {
    const Scene scene = maker.draw(random);
    const std::array<int, 4> seen = fields(scene.image);
    EXPECT_TRUE(holds(scene.right, seen)) << scene.right;
    EXPECT_FALSE(holds(scene.wrong, seen)) << scene.wrong << " beside " << scene.right;
  }
}

TEST_F(Scenes, NamesAreTheShortestTextThatIsNoList) {
  EXPECT_EQ(SceneMaker::noun_of({.texts = {"a photo of a watch", "a watch"}}), "a watch");
  EXPECT_EQ(SceneMaker::noun_of({.texts = {"mahjong red dragon", "red, game"}}), "mahjong red dragon");
  EXPECT_EQ(SceneMaker::noun_of({.texts = {"red, game"}}), "red, game");
}

TEST_F(Scenes, RefusesPicturesOfOneName) {
  pictures_.resize(1);
  EXPECT_THROW(SceneMaker(pictures_, {}, side), Error);
}

}  // namespace
}  // namespace mmtune::train
