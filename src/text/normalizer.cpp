#include "text/normalizer.h"

#include <vector>

#include "core/base64.h"
#include "core/error.h"
#include "text/charsmap.h"
#include "text/json_fields.h"
#include "text/normalization_forms.h"
#include "text/patterns.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr std::size_t kLongestLiteral = 4096;
constexpr int kMostComponents = 256;  // honest files have a handful; each one is a pass over the text

void lowercase(AlignedText& text) {
  if (text.is_ascii()) {
    text.map([](char32_t code) { return code >= U'A' && code <= U'Z' ? code + 32 : code; });
    return;
  }
  std::vector<Edit>& edits = text.edit_buffer();
  for (const Char& c : text.chars()) {
    const auto lower = to_lower(c.code);
    edits.push_back({lower[0], 0});
    if (lower[1] != 0) edits.push_back({lower[1], 1});
  }
  text.rewrite(edits, 0);
}

bool has_property(char32_t code, std::uint32_t wanted) {
  return (properties(code) & wanted) != 0;
}

class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const BertNormalizerOptions& options) : options_(options) {
    for (char32_t code = 0; code < cleaned_.size(); ++code) {
      const auto bits = properties(code);
      cleaned_[code] = bits & kControl ? 0 : bits & kWhitespace ? ' ' : static_cast<char>(code);
    }
  }

  void normalize(AlignedText& text) const override {
    if (options_.clean_text) clean(text);
    if (options_.handle_chinese_chars && !text.is_ascii()) space_chinese(text);
    if (options_.strip_accents && !text.is_ascii()) {
      to_form(text, NormalizationForm::nfd);
      text.filter([](char32_t code) { return code < 0x80 || !has_property(code, kNonspacing); });
    }
    if (options_.lowercase) lowercase(text);
  }

 private:
  void clean(AlignedText& text) const {
    bool removes = false;
    text.map([&](char32_t code) -> char32_t {
      char32_t cleaned = code;
      if (code < cleaned_.size()) {
        cleaned = static_cast<unsigned char>(cleaned_[code]);
      } else if (const auto bits = properties(code); bits & kControl) {
        cleaned = 0;
      } else if (bits & kWhitespace) {
        cleaned = U' ';
      }
      removes = removes || cleaned == 0;
      return cleaned;
    });
    if (removes) text.filter([](char32_t code) { return code != 0; });
  }

  static void space_chinese(AlignedText& text) {
    bool found = false;
    std::vector<Edit>& edits = text.edit_buffer();
    for (const Char& c : text.chars()) {
      if (c.code >= 0x3400 && has_property(c.code, kChinese)) {
        edits.insert(edits.end(), {{U' ', 0}, {c.code, 1}, {U' ', 1}});
        found = true;
      } else {
        edits.push_back({c.code, 0});
      }
    }
    if (found) text.rewrite(edits, 0);
  }

  BertNormalizerOptions options_;
  std::array<char, 128> cleaned_{};  ///< what clean_text makes of ASCII: 0 is removed
};

class FormNormalizer : public Normalizer {
 public:
  explicit FormNormalizer(NormalizationForm form) : form_(form) {}
  void normalize(AlignedText& text) const override { to_form(text, form_); }

 private:
  NormalizationForm form_;
};

class Lowercase : public Normalizer {
 public:
  void normalize(AlignedText& text) const override { lowercase(text); }
};

class StripAccents : public Normalizer {
 public:
  void normalize(AlignedText& text) const override {
    if (text.is_ascii()) return;
    text.filter([](char32_t code) { return code < 0x80 || !has_property(code, kCombining); });
  }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void normalize(AlignedText& text) const override {
    const auto chars = text.chars();
    Range kept{0, static_cast<std::uint32_t>(chars.size())};
    while (left_ && kept.begin < kept.end && has_property(chars[kept.begin].code, kWhitespace)) ++kept.begin;
    while (right_ && kept.begin < kept.end && has_property(chars[kept.end - 1].code, kWhitespace)) --kept.end;
    text.keep_only(kept);
  }

 private:
  bool left_;
  bool right_;
};

class Replace : public Normalizer {
 public:
  Replace(std::unique_ptr<Pattern> pattern, std::u32string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void normalize(AlignedText& text) const override {
    std::vector<Match> parts;
    pattern_->find(text.chars(), {0, static_cast<std::uint32_t>(text.size())}, parts);
    std::vector<Range> found;
    for (const Match& part : parts) {
      if (part.is_match) found.push_back(part.range);
    }
    if (!found.empty()) text.replace(found, content_);
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::u32string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::u32string prefix) : prefix_(std::move(prefix)) {}
  void normalize(AlignedText& text) const override {
    if (text.empty() || prefix_.empty()) return;
    std::vector<Edit>& edits = text.edit_buffer();
    for (const char32_t code : prefix_) edits.push_back({code, edits.empty() ? 0 : 1});
    // The first code point of the text has been replaced by the prefix; it comes back as a new one with the same place.
    for (const Char& c : text.chars()) edits.push_back({c.code, edits.size() == prefix_.size() ? 1 : 0});
    text.rewrite(edits, 0);
  }

 private:
  std::u32string prefix_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  void normalize(AlignedText& text) const override {
    for (const auto& part : parts_) part->normalize(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

std::u32string read_literal(JsonFields& fields, std::string_view key) {
  const std::string text = fields.string(key);
  if (text.size() > kLongestLiteral) {
    throw Error({.what = "'" + std::string(key) + "' is too long",
                 .where = fields.where(),
                 .expected = "at most " + std::to_string(kLongestLiteral) + " bytes",
                 .got = std::to_string(text.size())});
  }
  return to_utf32(text);
}

std::unique_ptr<Normalizer> read_bert(JsonFields& fields) {
  BertNormalizerOptions options;
  options.clean_text = fields.boolean("clean_text");
  options.handle_chinese_chars = fields.boolean("handle_chinese_chars");
  options.lowercase = fields.boolean("lowercase");
  options.strip_accents = fields.boolean_or("strip_accents", options.lowercase);
  return make_bert_normalizer(options);
}

std::unique_ptr<Normalizer> read_replace(JsonFields& fields) {
  auto pattern = read_pattern(fields.any("pattern"), fields.where() + ".pattern");
  return std::make_unique<Replace>(std::move(pattern), read_literal(fields, "content"));
}

std::unique_ptr<Normalizer> read_component(const Json& json, const std::string& where, int& left);

std::unique_ptr<Normalizer> read_sequence(JsonFields& fields, int& left) {
  std::vector<std::unique_ptr<Normalizer>> parts;
  for (const Json& part : fields.array("normalizers")) {
    parts.push_back(read_component(part, fields.where() + "[" + std::to_string(parts.size()) + "]", left));
  }
  return std::make_unique<NormalizerSequence>(std::move(parts));
}

std::unique_ptr<Normalizer> read_component(const Json& json, const std::string& where, int& left) {
  if (--left < 0) throw Error({.what = "too many components", .where = where, .expected = "at most " + std::to_string(kMostComponents)});
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  std::unique_ptr<Normalizer> made;
  if (type == "BertNormalizer") {
    made = read_bert(fields);
  } else if (type == "Sequence") {
    made = read_sequence(fields, left);
  } else if (type == "NFC") {
    made = std::make_unique<FormNormalizer>(NormalizationForm::nfc);
  } else if (type == "NFD") {
    made = std::make_unique<FormNormalizer>(NormalizationForm::nfd);
  } else if (type == "NFKC") {
    made = std::make_unique<FormNormalizer>(NormalizationForm::nfkc);
  } else if (type == "NFKD") {
    made = std::make_unique<FormNormalizer>(NormalizationForm::nfkd);
  } else if (type == "Lowercase") {
    made = std::make_unique<Lowercase>();
  } else if (type == "StripAccents") {
    made = std::make_unique<StripAccents>();
  } else if (type == "Strip") {
    const bool left = fields.boolean("strip_left");
    made = std::make_unique<Strip>(left, fields.boolean("strip_right"));
  } else if (type == "Replace") {
    made = read_replace(fields);
  } else if (type == "Prepend") {
    made = std::make_unique<Prepend>(read_literal(fields, "prepend"));
  } else if (type == "Precompiled") {
    made = make_precompiled(Charsmap(decode_base64(fields.string("precompiled_charsmap"), where + ".precompiled_charsmap"), where));
  } else {
    refuse_component(where, type,
                     "BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace, Prepend, Precompiled or Sequence");
  }
  fields.finish();
  return made;
}

}  // namespace

std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options) {
  return std::make_unique<BertNormalizer>(options);
}

std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& where) {
  int left = kMostComponents;
  return read_component(json, where, left);
}

std::unique_ptr<Normalizer> make_clip_normalizer() {
  std::vector<std::unique_ptr<Normalizer>> parts;
  parts.push_back(std::make_unique<FormNormalizer>(NormalizationForm::nfc));
  parts.push_back(std::make_unique<Replace>(make_known_expression("\\s+"), U" "));
  parts.push_back(std::make_unique<Lowercase>());
  return std::make_unique<NormalizerSequence>(std::move(parts));
}

}  // namespace mmtune::text
