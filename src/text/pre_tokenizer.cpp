#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/json_fields.h"
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

/// Words end at white space; every punctuation character is a word of its own.
class BertPreTokenizer : public PreTokenizer {
 public:
  void split(const AlignedText& text, Range word, std::vector<Range>& out) const override {
    const auto chars = text.chars();
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

class WhitespaceSplit : public PreTokenizer {
 public:
  void split(const AlignedText& text, Range word, std::vector<Range>& out) const override {
    const auto chars = text.chars();
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
class Whitespace : public PreTokenizer {
 public:
  void split(const AlignedText& text, Range word, std::vector<Range>& out) const override {
    const auto chars = text.chars();
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

class Punctuation : public PreTokenizer {
 public:
  explicit Punctuation(Delimiter behaviour) : behaviour_(behaviour) {}

  void split(const AlignedText& text, Range word, std::vector<Range>& out) const override {
    const auto chars = text.chars();
    std::uint32_t begin = word.begin;
    for (std::uint32_t i = word.begin; i <= word.end; ++i) {
      if (i > begin && i < word.end && !cut_before(chars[i - 1].code, chars[i].code)) continue;
      if (i > begin && !(behaviour_ == Delimiter::removed && is_punctuation(chars[begin].code))) out.push_back({begin, i});
      begin = i;
    }
  }

 private:
  bool is_punctuation(char32_t code) const { return (table_(code) & kPunctuation) != 0; }

  bool cut_before(char32_t previous, char32_t next) const {
    const bool before = is_punctuation(previous);
    const bool after = is_punctuation(next);
    switch (behaviour_) {
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

  Delimiter behaviour_;
  PropertyTable table_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}

  void split(const AlignedText& text, Range word, std::vector<Range>& out) const override {
    std::vector<Range> words{word};
    std::vector<Range> next;
    for (const auto& part : parts_) {
      next.clear();
      for (const Range& range : words) part->split(text, range, next);
      words.swap(next);
    }
    out.insert(out.end(), words.begin(), words.end());
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

std::unique_ptr<PreTokenizer> read_punctuation(JsonFields& fields) {
  const std::string behaviour = fields.optional("behavior") != nullptr ? fields.string("behavior") : "Isolated";
  if (behaviour == "Removed") return std::make_unique<Punctuation>(Delimiter::removed);
  if (behaviour == "Isolated") return std::make_unique<Punctuation>(Delimiter::isolated);
  if (behaviour == "MergedWithPrevious") return std::make_unique<Punctuation>(Delimiter::merged_with_previous);
  if (behaviour == "MergedWithNext") return std::make_unique<Punctuation>(Delimiter::merged_with_next);
  if (behaviour == "Contiguous") return std::make_unique<Punctuation>(Delimiter::contiguous);
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
    made = read_punctuation(fields);
  } else if (type == "Sequence") {
    made = read_sequence(fields, left);
  } else {
    refuse_component(where, type, "BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation or Sequence");
  }
  fields.finish();
  return made;
}

}  // namespace

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer() {
  return std::make_unique<BertPreTokenizer>();
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where) {
  int left = kMostComponents;
  return read_component(json, where, left);
}

}  // namespace mmtune::text
