#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/byte_level.h"
#include "text/json_fields.h"
#include "text/metaspace.h"
#include "text/patterns.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr int kMostComponents = 256;  // honest files have a handful; each one is a pass over the text

/// Property bits with a table for ASCII.
class PropertyTable {
 public:
  PropertyTable() {
    for (char32_t code = 0; code < ascii_.size(); ++code) ascii_[code] = static_cast<std::uint16_t>(properties(code));
  }
  std::uint32_t operator()(char32_t code) const { return code < ascii_.size() ? ascii_[code] : properties(code); }

 private:
  std::array<std::uint16_t, 128> ascii_{};
};

/// A pre-tokenizer that leaves the code points as they are.
class Splitter : public PreTokenizer {
 public:
  void apply(PreTokenized& text) const final {
    text.split([this](std::span<const Char> chars, Range word, std::vector<Range>& out) { split(chars, word, out); });
  }

 private:
  /// Appends to `out` the words (not empty, in order) that `word` of `chars` splits into.
  virtual void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const = 0;
};

/// Words end at white space; every punctuation character is a word of its own.
class BertPreTokenizer : public Splitter {
  void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const override {
    std::uint32_t begin = word.begin;
    const auto end_word = [&](std::uint32_t end) {
      if (end > begin) out.push_back({begin, end});
      begin = end + 1;
    };
    for (std::uint32_t i = word.begin; i < word.end; ++i) {
      const auto bits = table_(chars[i].code);
      if ((bits & (kWhitespace | kPunctuation)) == 0) continue;
      end_word(i);
      if ((bits & kWhitespace) == 0) out.push_back({i, i + 1});
    }
    end_word(word.end);
  }

 private:
  PropertyTable table_;
};

class WhitespaceSplit : public Splitter {
  void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const override {
    std::uint32_t begin = word.begin;
    for (std::uint32_t i = word.begin; i <= word.end; ++i) {
      if (i < word.end && (table_(chars[i].code) & kWhitespace) == 0) continue;
      if (i > begin) out.push_back({begin, i});
      begin = i + 1;
    }
  }

 private:
  PropertyTable table_;
};

/// Runs of word characters and runs of what is neither word character nor white space: \w+|[^\w\s]+.
class Whitespace : public Splitter {
  void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const override {
    std::uint32_t begin = word.begin;
    std::uint32_t kind = kWhitespace;
    for (std::uint32_t i = word.begin; i <= word.end; ++i) {
      const std::uint32_t next = i < word.end ? table_(chars[i].code) & (kWhitespace | kWord) : kWhitespace;
      if (next == kind && i < word.end) continue;
      if (i > begin && kind != kWhitespace) out.push_back({begin, i});
      begin = i;
      kind = next;
    }
  }

 private:
  PropertyTable table_;
};

enum class Delimiter { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Whether words are cut between two neighbours of which each is a delimiter or not (neighbours that are not are never cut).
bool is_cut(Delimiter behaviour, bool before, bool after) {
  switch (behaviour) {
    case Delimiter::removed:
    case Delimiter::isolated:
      return before || after;
    case Delimiter::merged_with_previous:
      return before;
    case Delimiter::merged_with_next:
      return after;
    case Delimiter::contiguous:
      return before != after;
  }
  return true;
}

class Punctuation : public Splitter {
 public:
  explicit Punctuation(Delimiter behaviour) : behaviour_(behaviour) {}

 private:
  void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const override {
    std::uint32_t begin = word.begin;
    for (std::uint32_t i = word.begin; i <= word.end; ++i) {
      if (i > begin && i < word.end && !cut_before(chars[i - 1].code, chars[i].code)) continue;
      if (i > begin && !(behaviour_ == Delimiter::removed && is_punctuation(chars[begin].code))) out.push_back({begin, i});
      begin = i;
    }
  }

  bool is_punctuation(char32_t code) const { return (table_(code) & kPunctuation) != 0; }

  bool cut_before(char32_t previous, char32_t next) const { return is_cut(behaviour_, is_punctuation(previous), is_punctuation(next)); }

  Delimiter behaviour_;
  PropertyTable table_;
};

/// Splits at the matches of a pattern, or (`invert`) at what lies between them.
class Split : public Splitter {
 public:
  Split(std::unique_ptr<Pattern> pattern, Delimiter behaviour, bool invert)
      : pattern_(std::move(pattern)), behaviour_(behaviour), invert_(invert) {}

 private:
  void split(std::span<const Char> chars, Range word, std::vector<Range>& out) const override {
    std::vector<Match> parts;
    pattern_->find(chars, word, parts);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const bool delimiter = parts[i].is_match != invert_;
      if (delimiter && behaviour_ == Delimiter::removed) continue;
      const bool before = i > 0 && parts[i - 1].is_match != invert_;
      // Neighbours that are both no delimiters are matches of an inverted pattern, and stay apart.
      const bool may_join = i > 0 && (before || delimiter || behaviour_ == Delimiter::contiguous);
      if (may_join && !is_cut(behaviour_, before, delimiter)) {
        out.back().end = parts[i].range.end;
      } else {
        out.push_back(parts[i].range);
      }
    }
  }

  std::unique_ptr<Pattern> pattern_;
  Delimiter behaviour_;
  bool invert_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}

  void apply(PreTokenized& text) const override {
    for (const auto& part : parts_) part->apply(text);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

Delimiter read_behaviour(JsonFields& fields) {
  const std::string behaviour = fields.optional("behavior") != nullptr ? fields.string("behavior") : "Isolated";
  if (behaviour == "Removed") return Delimiter::removed;
  if (behaviour == "Isolated") return Delimiter::isolated;
  if (behaviour == "MergedWithPrevious") return Delimiter::merged_with_previous;
  if (behaviour == "MergedWithNext") return Delimiter::merged_with_next;
  if (behaviour == "Contiguous") return Delimiter::contiguous;
  fields.fail("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", fields.any("behavior"));
}

std::unique_ptr<PreTokenizer> read_component(const Json& json, const std::string& where, int& left);

std::unique_ptr<PreTokenizer> read_sequence(JsonFields& fields, int& left) {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  for (const Json& part : fields.array("pretokenizers")) {
    parts.push_back(read_component(part, fields.where() + "[" + std::to_string(parts.size()) + "]", left));
  }
  return std::make_unique<PreTokenizerSequence>(std::move(parts));
}

std::unique_ptr<PreTokenizer> read_component(const Json& json, const std::string& where, int& left) {
  if (--left < 0) throw Error({.what = "too many components", .where = where, .expected = "at most " + std::to_string(kMostComponents)});
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  std::unique_ptr<PreTokenizer> made;
  if (type == "BertPreTokenizer") {
    made = make_bert_pre_tokenizer();
  } else if (type == "Whitespace") {
    made = std::make_unique<Whitespace>();
  } else if (type == "WhitespaceSplit") {
    made = std::make_unique<WhitespaceSplit>();
  } else if (type == "Punctuation") {
    made = std::make_unique<Punctuation>(read_behaviour(fields));
  } else if (type == "Split") {
    auto pattern = read_pattern(fields.any("pattern"), where + ".pattern");
    fields.string("behavior");
    const Delimiter behaviour = read_behaviour(fields);
    made = std::make_unique<Split>(std::move(pattern), behaviour, fields.boolean("invert"));
  } else if (type == "ByteLevel") {
    fields.boolean("trim_offsets");  // of the post-processor of this name
    const bool add_prefix_space = fields.boolean("add_prefix_space");
    made = make_byte_level(add_prefix_space, fields.boolean_or("use_regex", true));
  } else if (type == "Metaspace") {
    made = make_metaspace(read_metaspace(fields));
  } else if (type == "Sequence") {
    made = read_sequence(fields, left);
  } else {
    refuse_component(where, type, "BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, Split, ByteLevel, Metaspace or Sequence");
  }
  fields.finish();
  return made;
}

}  // namespace

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer() {
  return std::make_unique<BertPreTokenizer>();
}

std::unique_ptr<PreTokenizer> make_clip_pre_tokenizer() {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  parts.push_back(std::make_unique<Split>(make_clip_pattern(true), Delimiter::removed, true));
  parts.push_back(make_byte_level(false, true));
  return std::make_unique<PreTokenizerSequence>(std::move(parts));
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where) {
  int left = kMostComponents;
  return read_component(json, where, left);
}

}  // namespace mmtune::text
