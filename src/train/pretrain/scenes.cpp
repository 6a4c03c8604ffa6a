#include "train/pretrain/scenes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string_view>

#include "core/error.h"
#include "data/dataset.h"

namespace mmtune::train {

namespace {

struct Ground {
  const char* name;
  std::array<std::uint8_t, 3> colour;
};
constexpr std::array<Ground, 8> grounds = {{{"black", {0, 0, 0}},
                                            {"white", {255, 255, 255}},
                                            {"grey", {128, 128, 128}},
                                            {"red", {200, 30, 30}},
                                            {"green", {30, 150, 40}},
                                            {"blue", {40, 60, 200}},
                                            {"yellow", {240, 220, 50}},
                                            {"brown", {120, 75, 40}}}};
constexpr std::array<const char*, 5> numbers = {"no", "one", "two", "three", "four"};
constexpr std::array<std::array<const char*, 2>, 2> corners = {
    {{"at the top left", "at the top right"}, {"at the bottom left", "at the bottom right"}}};

std::int64_t below(data::Random& random, std::int64_t n) {
  return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(n)));
}

void paste(const vision::Image& picture, std::int64_t x, std::int64_t y, vision::Image& canvas) {
  for (std::int64_t row = 0; row < picture.height; ++row)
    std::memcpy(canvas.pixels.data() + ((y + row) * canvas.width + x) * 3, picture.pixels.data() + row * picture.width * 3,
                static_cast<std::size_t>(picture.width * 3));
}

std::string count_of(std::int64_t count, const std::string& noun) {
  const std::string number = numbers[static_cast<std::size_t>(count)];
  return "there " + std::string(count == 1 ? "is " : "are ") + number + (count == 1 ? " picture of " : " pictures of ") + noun;
}

}  // namespace

std::string SceneMaker::noun_of(const Picture& picture) {
  const std::string* shortest = nullptr;
  for (const std::string& text : picture.texts)
    if ((shortest == nullptr || text.size() < shortest->size()) && (text.find(',') == std::string::npos || picture.texts.size() == 1))
      shortest = &text;
  return shortest != nullptr ? *shortest : std::string();
}

SceneMaker::SceneMaker(const std::vector<Picture>& pictures, const ScenesSection& section, std::int64_t side)
    : pictures_(pictures), section_(section), side_(side) {
  std::map<std::string, std::vector<std::size_t>> nouns;
  double total = 0;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const Picture& picture = pictures[i];
    if (picture.texts.empty() || !(picture.weight > 0)) continue;
    const std::string bytes = data::read_media(picture.image);
    nouns[noun_of(picture)].push_back(kept_.size());
    kept_.push_back({.index = static_cast<std::int64_t>(i),
                     .noun = noun_of(picture),
                     .image = vision::resize(vision::decode_image(std::as_bytes(std::span(bytes)), picture.image.display()), side, side,
                                             vision::Filter::bicubic)});
    until_.push_back(total += picture.weight);
  }
  if (nouns.size() < 2)
    throw Error({.what = "scenes cannot be composed",
                 .where = "data.pictures",
                 .expected = "pictures with at least two different texts",
                 .got = std::to_string(nouns.size())});
  names_ = nouns.size();
  same_.resize(kept_.size());
  for (const auto& [noun, members] : nouns) {
    for (const std::size_t member : members) same_[member] = {by_noun_.size(), members.size()};
    by_noun_.insert(by_noun_.end(), members.begin(), members.end());
  }
}

const SceneMaker::Kept& SceneMaker::any(data::Random& random) const {
  const auto found = std::upper_bound(until_.begin(), until_.end(), random.share() * until_.back());
  return kept_[std::min<std::size_t>(static_cast<std::size_t>(found - until_.begin()), kept_.size() - 1)];
}

const SceneMaker::Kept& SceneMaker::other_than(const std::vector<Placed>& placed, data::Random& random) const {
  const auto shown = [&](const Kept& kept) {
    return std::any_of(placed.begin(), placed.end(), [&](const Placed& item) { return item.kept->noun == kept.noun; });
  };
  constexpr int tries = 100;
  for (int i = 0; i < tries; ++i)
    if (const Kept& drawn = any(random); !shown(drawn)) return drawn;
  // A list in which nearly all weight lies on what the scene shows.
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return !shown(kept); });
  MMTUNE_ASSERT(found != kept_.end());
  return *found;
}

Scene SceneMaker::whole(data::Random& random) const {
  const Kept& kept = any(random);
  const Picture& picture = pictures_[static_cast<std::size_t>(kept.index)];
  Scene scene{.image = picture.mirror && random.below(2) == 0 ? vision::flip_horizontal(kept.image) : kept.image,
              .right = picture.texts[random.below(picture.texts.size())],
              .wrong = {},
              .pictures = {kept.index}};
  const Kept& other = other_than({{.kept = &kept}}, random);
  const Picture& stranger = pictures_[static_cast<std::size_t>(other.index)];
  scene.wrong = stranger.texts[random.below(stranger.texts.size())];
  return scene;
}

Scene SceneMaker::draw(data::Random& random) const {
  if (random.share() < section_.whole) return whole(random);
  const std::int64_t field = side_ / 2, smallest = std::max<std::int64_t>(field * 5 / 8, 1);
  const std::int64_t count = 1 + below(random, section_.most);
  std::vector<std::int64_t> fields = {0, 1, 2, 3};
  data::shuffle(fields, random);
  const std::size_t ground = random.below(grounds.size());
  Scene scene{.image = {.width = side_, .height = side_, .pixels = {}}, .right = {}, .wrong = {}, .pictures = {}};
  scene.image.pixels.resize(static_cast<std::size_t>(side_ * side_ * 3));
  for (std::size_t i = 0; i < scene.image.pixels.size(); ++i) scene.image.pixels[i] = grounds[ground].colour[i % 3];
  std::vector<Placed> placed;
  for (std::int64_t i = 0; i < count; ++i) {
    const Kept* kept = &any(random);
    // One name at least stays out, for what is wrong is said with it.
    std::set<std::string_view> shown{kept->noun};
    for (const Placed& item : placed) shown.insert(item.kept->noun);
    if (i > 0 && (random.share() < section_.repeat || shown.size() == names_)) {
      const auto [begin, size] = same_[static_cast<std::size_t>(placed.back().kept - kept_.data())];
      kept = &kept_[by_noun_[begin + random.below(size)]];
    }
    const std::int64_t place = fields[static_cast<std::size_t>(i)];
    placed.push_back({.kept = kept, .column = place % 2, .row = place / 2});
    const std::int64_t size = smallest + below(random, field - smallest + 1);
    const bool mirrored = pictures_[static_cast<std::size_t>(kept->index)].mirror && random.below(2) == 0;
    const vision::Image small = vision::resize(kept->image, size, size, vision::Filter::bicubic);
    const std::int64_t x = placed.back().column * field + below(random, field - size + 1);
    const std::int64_t y = placed.back().row * field + below(random, field - size + 1);
    paste(mirrored ? vision::flip_horizontal(small) : small, x, y, scene.image);
    scene.pictures.push_back(kept->index);
  }
  tell(placed, random, scene);
  if (random.share() < section_.ground) {
    const std::size_t other = (ground + 1 + random.below(grounds.size() - 1)) % grounds.size();
    // Half of the time the ground alone is what is wrong.
    const bool ground_wrong = random.below(2) == 0;
    scene.wrong = (ground_wrong ? scene.right : scene.wrong) + " on a " + grounds[ground_wrong ? other : ground].name + " ground";
    scene.right += std::string(" on a ") + grounds[ground].name + " ground";
  }
  return scene;
}

void SceneMaker::tell(const std::vector<Placed>& placed, data::Random& random, Scene& scene) const {
  const auto count = static_cast<std::int64_t>(placed.size());
  const Placed& one = placed[random.below(placed.size())];
  const std::string& noun = one.kept->noun;
  const auto of_noun = [&](const std::string& name) {
    return std::count_if(placed.begin(), placed.end(), [&](const Placed& item) { return item.kept->noun == name; });
  };
  const std::string other = other_than(placed, random).noun;
  const std::int64_t alike = of_noun(noun);
  const auto another = [&](std::int64_t right, std::int64_t least, std::int64_t most) {
    const std::int64_t drawn = least + below(random, most - least);
    return drawn >= right ? drawn + 1 : drawn;
  };
  enum Kind { how_many, how_many_alike, there_is, where, beside, every, kinds };
  switch (below(random, kinds)) {
    case how_many: {
      const auto all = [](std::int64_t n) {
        return std::string(n == 1 ? "there is one picture" : "there are ") +
               (n == 1 ? "" : std::string(numbers[static_cast<std::size_t>(n)]) + " pictures");
      };
      scene.right = all(count);
      scene.wrong = all(another(count, 1, 4));
      return;
    }
    case how_many_alike:
      scene.right = count_of(alike, noun);
      scene.wrong = random.below(2) == 0 ? count_of(another(alike, 0, 4), noun) : count_of(alike, other);
      return;
    case where:
      if (alike == 1) {
        const std::int64_t place = one.row * 2 + one.column, elsewhere = (place + 1 + below(random, 3)) % 4;
        scene.right = noun + " " + corners[static_cast<std::size_t>(one.row)][static_cast<std::size_t>(one.column)];
        scene.wrong = random.below(2) == 0
                          ? noun + " " + corners[static_cast<std::size_t>(elsewhere / 2)][static_cast<std::size_t>(elsewhere % 2)]
                          : other + " " + corners[static_cast<std::size_t>(one.row)][static_cast<std::size_t>(one.column)];
        return;
      }
      break;
    case beside:
      for (const Placed& second : placed) {
        if (alike != 1 || of_noun(second.kept->noun) != 1 || &second == &one || (second.row != one.row && second.column != one.column))
          continue;
        const bool level = second.row == one.row, first = level ? one.column < second.column : one.row < second.row;
        const std::string before = level ? " left of " : " above ", behind = level ? " right of " : " below ";
        scene.right = noun + (first ? before : behind) + second.kept->noun;
        scene.wrong = random.below(2) == 0 ? noun + (first ? behind : before) + second.kept->noun
                                           : other + (first ? before : behind) + second.kept->noun;
        return;
      }
      break;
    case every: {
      const bool true_of_all = alike == count;
      const std::string all = "every picture shows " + noun, not_all = "not every picture shows " + noun;
      scene.right = true_of_all ? all : not_all;
      scene.wrong = true_of_all ? (random.below(2) == 0 ? not_all : "every picture shows " + other) : all;
      return;
    }
    default:
      break;
  }
  const std::string there = "there is ", there_not = "there is no picture of ";
  if (random.below(4) == 0) {
    scene.right = there_not + other;
    scene.wrong = there_not + noun;
  } else {
    scene.right = there + noun;
    scene.wrong = random.below(4) == 0 ? there_not + noun : there + other;
  }
}

std::vector<std::string> SceneMaker::phrases() {
  std::vector<std::string> all = {
      "there is no picture of", "there are pictures", "not every picture shows", "left of", "right of", "above", "below", "on a ground"};
  for (const Ground& ground : grounds) all.emplace_back(ground.name);
  for (const char* number : numbers) all.emplace_back(number);
  for (const auto& row : corners)
    for (const char* corner : row) all.emplace_back(corner);
  return all;
}

}  // namespace mmtune::train
