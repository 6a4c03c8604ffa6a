#include "train/wording.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "data/media.h"
#include "vision/image.h"

namespace mmtune::train {

namespace {

constexpr GroundingShape grounding{};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

[[noreturn]] void refuse_example(const data::Example& example, const std::string& what, const std::string& expected) {
  throw Error({.what = what, .where = "example " + printable(example.id), .expected = expected});
}

std::string usual_instruction(const std::string& task) {
  if (task == "caption") return "what does the image describe?";
  if (task == "ground") return "which region does the text \" {text} \" describe?";
  return "{text}";
}

}  // namespace

std::string clean_words(std::string_view text, std::int64_t words) {
  std::string lower;
  for (const char c : text) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const std::size_t first = lower.find_first_not_of(",.!?*#:;~");
  lower = first == std::string::npos ? std::string() : lower.substr(first);
  lower = replaced(replaced(replaced(lower, "-", " "), "/", " "), "<person>", "person");
  std::string clean;
  std::int64_t count = 0;
  for (std::size_t at = 0; at < lower.size() && count < words;) {
    const std::size_t begin = lower.find_first_not_of(" \t\r\n", at);
    if (begin == std::string::npos) break;
    at = std::min(lower.find_first_of(" \t\r\n", begin), lower.size());
    clean += (clean.empty() ? "" : " ") + lower.substr(begin, at - begin);
    ++count;
  }
  return clean;
}

std::string without_punctuation(std::string_view text) {
  std::string plain;
  for (const char c : text)
    if (!std::ispunct(static_cast<unsigned char>(c))) plain += c;
  return plain;
}

Wording::Wording(Setup setup) : setup_(std::move(setup)) {
  SequenceSection& section = setup_.section;
  if (section.instruction.empty()) section.instruction = usual_instruction(setup_.task);
  ranks_ = section.readout == Readout::rank || (section.readout == Readout::automatic && setup_.kind == AnswerKind::label);
  const bool needs_list = ranks_ || section.within_list || section.mask_loss;
  if (needs_list && setup_.classes.empty())
    throw UsageError({.what = "there is no list of answers to choose from",
                      .where = ranks_                ? "generate.readout"
                               : section.within_list ? "generate.within_list"
                                                     : "generate.mask_loss",
                      .expected = "labels in the data, or data.classes",
                      .got = "task = \"" + setup_.task + "\" with free answers"});
  for (std::size_t i = 0; i < setup_.classes.size(); ++i) {
    const auto found = section.names.find(setup_.classes[i]);
    class_of_.emplace(answer_words(found == section.names.end() ? setup_.classes[i] : found->second), static_cast<std::int64_t>(i));
  }
  for (const auto& [name, words] : section.names)
    if (std::find(setup_.classes.begin(), setup_.classes.end(), name) == setup_.classes.end())
      throw UsageError({.what = "no such class", .where = "generate.names", .got = "\"" + printable(name) + "\""});
  if (!setup_.classes.empty()) {
    if (class_of_.size() != setup_.classes.size())
      throw UsageError({.what = "two classes have the same words", .where = "generate.names", .hint = "give each words of its own"});
    std::vector<std::vector<std::int64_t>> candidates(setup_.classes.size());
    for (const auto& [words, number] : class_of_) {
      candidates[static_cast<std::size_t>(number)] = encode(words);
      if (candidates[static_cast<std::size_t>(number)].empty())
        throw Error({.what = "an answer of the list has no tokens",
                     .where = "class \"" + printable(setup_.classes[static_cast<std::size_t>(number)]) + "\""});
    }
    trie_.emplace(candidates, setup_.tokens.end);
  }
  if (setup_.kind != AnswerKind::box) return;
  const auto first = setup_.tokenizer->id_of("<bin_0>"), last = setup_.tokenizer->id_of("<bin_" + std::to_string(grounding.bins - 1) + ">");
  if (!first || !last || *last - *first != grounding.bins - 1)
    throw Error({.what = "the vocabulary has no tokens for places in a picture",
                 .where = "task = \"ground\"",
                 .expected = "<bin_0> to <bin_" + std::to_string(grounding.bins - 1) + ">"});
  first_bin_ = *first;
}

/// Words without special tokens.
std::vector<std::int64_t> Wording::encode(std::string_view text) const {
  if (text.empty()) return {};
  return setup_.tokenizer->encode(setup_.answer_lead + std::string(text), {.add_special_tokens = false, .with_offsets = false}).ids;
}

std::string Wording::answer_words(const std::string& text) const {
  if (!setup_.section.clean) return text;
  return clean_words(setup_.kind == AnswerKind::words ? without_punctuation(clean_words(text, setup_.section.max_words)) : text,
                     setup_.section.max_words);
}

std::string Wording::source(const data::Example& example) const {
  const auto words = [&](const std::optional<std::string>& text, const std::string& field) {
    if (!text) refuse_example(example, "lacks what the instruction asks for", field);
    return setup_.section.clean ? clean_words(*text, setup_.section.max_words) : *text;
  };
  std::string source = setup_.section.instruction;
  // The longer name first; what is put in is not searched again.
  std::string made;
  for (std::size_t at = 0; at < source.size();) {
    if (source.compare(at, 11, "{text_pair}") == 0) {
      made += words(example.text_pair, "text_pair");
      at += 11;
    } else if (source.compare(at, 6, "{text}") == 0) {
      made += words(example.text, "text");
      at += 6;
    } else {
      made += source[at++];
    }
  }
  return setup_.lead + made;
}

std::vector<std::int64_t> Wording::prompt(const data::Example& example) const {
  std::vector<std::int64_t> prompt = {setup_.tokens.start};
  if (setup_.section.answer_prompt == AnswerPrompt::nothing) return prompt;
  const std::vector<std::int64_t> asked =
      setup_.tokenizer->encode(source(example), {.add_special_tokens = false, .with_offsets = false}).ids;
  prompt.insert(prompt.end(), asked.begin(), asked.end());
  return prompt;
}

std::optional<std::pair<std::string, double>> Wording::best_answer(const data::Example& example) const {
  if (setup_.space) {
    const std::optional<data::AnswerScore> best = setup_.space->best(example);
    if (!best) return std::nullopt;
    return std::pair(setup_.space->answers()[static_cast<std::size_t>(best->answer)], best->score);
  }
  // The most common one; the first of equals.
  std::map<std::string, std::int64_t> counts;
  for (const std::string& answer : example.answers) ++counts[data::normal_answer(answer)];
  std::optional<std::pair<std::string, double>> best;
  std::int64_t most = 0;
  for (const std::string& answer : example.answers) {
    const std::string normal = data::normal_answer(answer);
    if (normal.empty() || counts[normal] <= most) continue;
    most = counts[normal];
    best = {normal, data::soft_score(most, static_cast<std::int64_t>(example.answers.size()))};
  }
  return best;
}

std::vector<std::int64_t> Wording::answer_tokens(const data::Example& example, double& confidence) const {
  switch (setup_.kind) {
    case AnswerKind::label: {
      if (example.labels.size() != 1) refuse_example(example, "has no label to learn", "one label");
      const std::string& name = setup_.classes.at(static_cast<std::size_t>(example.labels.front()));
      const auto found = setup_.section.names.find(name);
      return encode(answer_words(found == setup_.section.names.end() ? name : found->second));
    }
    case AnswerKind::annotators: {
      const auto best = best_answer(example);
      if (!best) refuse_example(example, "has no answer to learn", setup_.space ? "an answer of the list" : "an answer");
      if (setup_.section.confidence) confidence = best->second;
      return encode(answer_words(best->first));
    }
    case AnswerKind::box: {
      const auto [width, height] = picture_size(example);
      std::vector<std::int64_t> tokens;
      for (const std::int64_t bin : box_to_bins(true_box(example), width, height, grounding))
        tokens.push_back(first_bin_ + std::clamp<std::int64_t>(bin, 0, grounding.bins - 1));
      return tokens;
    }
    case AnswerKind::words:
      break;
  }
  if (example.answers.empty() && !example.text) refuse_example(example, "has no caption to learn", "the field text or answers");
  const std::string words = answer_words(example.answers.empty() ? *example.text : example.answers.front());
  std::vector<std::int64_t> tokens = encode(words);
  if (tokens.empty()) refuse_example(example, "has no words to learn", "a text");
  return tokens;
}

Taught Wording::taught(const data::Example& example) const {
  Taught taught{.said = prompt(example), .wanted = {}};
  taught.wanted.assign(taught.said.size() - 1, -1);
  const std::vector<std::int64_t> answer = answer_tokens(example, taught.confidence);
  taught.said.insert(taught.said.end(), answer.begin(), answer.end());
  taught.wanted.insert(taught.wanted.end(), answer.begin(), answer.end());
  taught.wanted.push_back(setup_.tokens.end);
  if (static_cast<std::int64_t>(taught.said.size()) > setup_.longest)
    refuse_example(example, "has a longer answer than the decoder can read", "at most " + std::to_string(setup_.longest - 1) + " tokens");
  return taught;
}

std::vector<std::int64_t> Wording::allowed(const std::vector<std::int64_t>& answer_so_far) const {
  std::int64_t node = backbones::CandidateTrie::root;
  for (const std::int64_t token : answer_so_far) {
    const auto next = trie_->child(node, token);
    if (!next) return {setup_.tokens.end};
    node = *next;
  }
  return trie_->following(node);
}

std::string Wording::words_of(std::span<const std::int64_t> tokens) const {
  while (!tokens.empty() && tokens.back() == setup_.tokens.end) tokens = tokens.first(tokens.size() - 1);
  const std::string text = setup_.tokenizer->decode(tokens);
  const std::size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? std::string() : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

std::optional<std::int64_t> Wording::class_of(std::string_view words) const {
  const auto found = class_of_.find(words);
  return found == class_of_.end() ? std::nullopt : std::optional(found->second);
}

BoxCorners Wording::true_box(const data::Example& example) {
  BoxCorners box{};
  std::size_t count = 0;
  if (example.answers.size() == 1) {
    const std::string& text = example.answers.front();
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at < end && count < box.size()) {
      while (at < end && (*at == ' ' || *at == ',')) ++at;
      const auto [next, error] = std::from_chars(at, end, box[count]);
      if (error != std::errc{} || !std::isfinite(box[count])) break;
      at = next;
      ++count;
    }
    if (at != end) count = 0;
  }
  if (count != box.size() || box[0] > box[2] || box[1] > box[3])
    refuse_example(example, "has no box", "one answer \"left,top,right,bottom\" in pixels");
  return box;
}

std::pair<double, double> Wording::picture_size(const data::Example& example) const {
  if (!example.image) refuse_example(example, "has no picture for its box", "the field image");
  const std::string key = example.image->display();
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = sizes_.find(key); found != sizes_.end()) return found->second;
  }
  const std::string bytes = data::read_media(*example.image);
  const vision::Image image = vision::decode_image(std::as_bytes(std::span(bytes)), key);
  const std::pair size(static_cast<double>(image.width), static_cast<double>(image.height));
  const std::lock_guard lock(mutex_);
  sizes_.emplace(key, size);
  return size;
}

std::optional<BoxCorners> Wording::box_of(std::span<const std::int64_t> tokens, const data::Example& example) const {
  BoxBins bins{};
  if (tokens.size() < bins.size()) return std::nullopt;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    bins[i] = tokens[i] - first_bin_;
    if (bins[i] < 0 || bins[i] >= grounding.bins) return std::nullopt;
  }
  const auto [width, height] = picture_size(example);
  return bins_to_box(bins, width, height, grounding);
}

}  // namespace mmtune::train
