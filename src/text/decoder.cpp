#include "text/decoder.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "text/byte_level.h"
#include "text/json_fields.h"
#include "text/metaspace.h"
#include "text/patterns.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr int kMostComponents = 256;
constexpr std::size_t kLongestLiteral = 4096;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// The bytes with U+FFFD where they are no UTF-8.
std::string valid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) append_utf8(text, next_code_point(bytes, at));
  return text;
}

bool is_utf8(std::string_view bytes) {
  return valid_utf8(bytes) == bytes;
}

/// `text` with every `from` (not empty), from the left, as `to`.
std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out += text.substr(at, found - at);
    if (found == std::string_view::npos) return out;
    out += to;
    at = found + from.size();
  }
}

std::string cleaned(std::string text) {
  static constexpr std::array<std::array<std::string_view, 2>, 11> kRules = {{{" .", "."},
                                                                              {" ?", "?"},
                                                                              {" !", "!"},
                                                                              {" ,", ","},
                                                                              {" ' ", "'"},
                                                                              {" n't", "n't"},
                                                                              {" 'm", "'m"},
                                                                              {" do not", " don't"},
                                                                              {" 's", "'s"},
                                                                              {" 've", "'ve"},
                                                                              {" 're", "'re"}}};
  for (const auto& [from, to] : kRules) text = replaced(text, from, to);
  return text;
}

class ByteLevelDecoder : public Decoder {
 public:
  ByteLevelDecoder() {
    bytes_.fill(-1);
    for (int byte = 0; byte < 256; ++byte) bytes_[byte_letter(static_cast<unsigned char>(byte))] = byte;
  }

  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes, spelled;
    for (const std::string& token : tokens) {
      spelled.clear();
      bool all = true;
      for (std::size_t at = 0; at < token.size() && all;) {
        const char32_t code = next_code_point(token, at);
        const int byte = code < bytes_.size() ? bytes_[code] : -1;
        all = byte >= 0;
        spelled += static_cast<char>(byte);
      }
      bytes += all ? spelled : token;
    }
    tokens.assign(1, valid_utf8(bytes));
  }

 private:
  std::array<int, 512> bytes_{};
};

class WordPieceDecoder : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}

  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) {
        if (tokens[i].starts_with(prefix_)) {
          tokens[i].erase(0, prefix_.size());
        } else {
          tokens[i].insert(0, " ");
        }
      }
      if (cleanup_) tokens[i] = cleaned(std::move(tokens[i]));
    }
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class MetaspaceDecoder : public Decoder {
 public:
  explicit MetaspaceDecoder(const Metaspace& settings) : prepends_(settings.prepend != PrependScheme::never) {
    append_utf8(symbol_, settings.replacement);
  }

  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = replaced(tokens[i], symbol_, i == 0 && prepends_ ? "" : " ");
  }

 private:
  std::string symbol_;
  bool prepends_;
};

class SuffixDecoder : public Decoder {
 public:
  explicit SuffixDecoder(std::string suffix) : suffix_(std::move(suffix)) {}

  void apply(std::vector<std::string>& tokens) const override {
    for (std::size_t i = 0; i < tokens.size() && !suffix_.empty(); ++i) {
      tokens[i] = replaced(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
    }
  }

 private:
  std::string suffix_;
};

/// The byte of a token such as <0xE4>.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  int byte = 0;
  for (const char digit : token.substr(3, 2)) {
    const char* digits = "0123456789ABCDEFabcdef";
    const auto found = std::string_view(digits).find(digit);
    if (found == std::string_view::npos) return std::nullopt;
    byte = byte * 16 + static_cast<int>(found < 16 ? found : found - 6);
  }
  return static_cast<char>(byte);
}

class ByteFallbackDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (is_utf8(bytes)) {
        out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), std::string(kReplacement));
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const auto byte = byte_of(token)) {
        bytes += *byte;
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    tokens = std::move(out);
  }
};

class FuseDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string all;
    for (const std::string& token : tokens) all += token;
    tokens.resize(1);
    tokens.front() = std::move(all);
  }
};

class StripDecoder : public Decoder {
 public:
  StripDecoder(std::string content, std::size_t start, std::size_t stop) : content_(std::move(content)), start_(start), stop_(stop) {}

  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      for (std::size_t n = 0; n < start_ && token.starts_with(content_); ++n) token.erase(0, content_.size());
      for (std::size_t n = 0; n < stop_ && token.ends_with(content_); ++n) token.erase(token.size() - content_.size());
    }
  }

 private:
  std::string content_;
  std::size_t start_;
  std::size_t stop_;
};

class ReplaceDecoder : public Decoder {
 public:
  ReplaceDecoder(std::unique_ptr<Pattern> pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void apply(std::vector<std::string>& tokens) const override {
    std::vector<Char> chars;
    std::vector<Match> parts;
    for (std::string& token : tokens) {
      text::decode(token, chars);
      parts.clear();
      pattern_->find(chars, {0, static_cast<std::uint32_t>(chars.size())}, parts);
      std::string out;
      for (const Match& part : parts) {
        if (part.is_match) out += content_;
        for (std::uint32_t i = part.range.begin; i < part.range.end && !part.is_match; ++i) append_utf8(out, chars[i].code);
      }
      token = std::move(out);
    }
  }

 private:
  std::unique_ptr<Pattern> pattern_;
  std::string content_;
};

/// Of speech models: what stands there several times in a row counts once, the blank not at all.
class CtcDecoder : public Decoder {
 public:
  CtcDecoder(std::string pad, std::string delimiter, bool cleanup)
      : pad_(std::move(pad)), delimiter_(std::move(delimiter)), cleanup_(cleanup) {}

  void apply(std::vector<std::string>& tokens) const override {
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    for (std::string& token : tokens) {
      if (!pad_.empty()) token = replaced(token, pad_, "");
      if (cleanup_) token = replaced(cleaned(std::move(token)), delimiter_, " ");
    }
    std::erase(tokens, "");
  }

 private:
  std::string pad_;
  std::string delimiter_;
  bool cleanup_;
};

class DecoderSequence : public Decoder {
 public:
  explicit DecoderSequence(std::vector<std::unique_ptr<Decoder>> parts) : parts_(std::move(parts)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& part : parts_) part->apply(tokens);
  }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

std::string read_literal(JsonFields& fields, std::string_view key) {
  std::string text = fields.string(key);
  if (text.size() > kLongestLiteral) {
    throw Error({.what = "'" + std::string(key) + "' is too long",
                 .where = fields.where(),
                 .expected = "at most " + std::to_string(kLongestLiteral) + " bytes",
                 .got = std::to_string(text.size())});
  }
  return text;
}

std::unique_ptr<Decoder> read_component(const Json& json, const std::string& where, int& left);

std::unique_ptr<Decoder> read_sequence(JsonFields& fields, int& left) {
  std::vector<std::unique_ptr<Decoder>> parts;
  for (const Json& part : fields.array("decoders")) {
    parts.push_back(read_component(part, fields.where() + "[" + std::to_string(parts.size()) + "]", left));
  }
  return std::make_unique<DecoderSequence>(std::move(parts));
}

std::unique_ptr<Decoder> read_strip(JsonFields& fields) {
  std::string content = read_literal(fields, "content");
  if (to_utf32(content).size() != 1) fields.fail("content", "one character", fields.any("content"));
  const auto start = static_cast<std::size_t>(fields.integer("start", 0, 1 << 20));
  return std::make_unique<StripDecoder>(std::move(content), start, static_cast<std::size_t>(fields.integer("stop", 0, 1 << 20)));
}

std::unique_ptr<Decoder> read_component(const Json& json, const std::string& where, int& left) {
  if (--left < 0) throw Error({.what = "too many components", .where = where, .expected = "at most " + std::to_string(kMostComponents)});
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  std::unique_ptr<Decoder> made;
  if (type == "ByteLevel") {
    made = make_byte_level_decoder();
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);  // of the pre-tokenizer of this name
  } else if (type == "WordPiece") {
    std::string prefix = read_literal(fields, "prefix");
    made = make_wordpiece_decoder(std::move(prefix), fields.boolean("cleanup"));
  } else if (type == "Metaspace") {
    made = std::make_unique<MetaspaceDecoder>(read_metaspace(fields));
  } else if (type == "BPEDecoder") {
    made = std::make_unique<SuffixDecoder>(read_literal(fields, "suffix"));
  } else if (type == "ByteFallback") {
    made = std::make_unique<ByteFallbackDecoder>();
  } else if (type == "Fuse") {
    made = std::make_unique<FuseDecoder>();
  } else if (type == "Strip") {
    made = read_strip(fields);
  } else if (type == "Replace") {
    auto pattern = read_pattern(fields.any("pattern"), where + ".pattern");
    made = std::make_unique<ReplaceDecoder>(std::move(pattern), read_literal(fields, "content"));
  } else if (type == "CTC") {
    std::string pad = read_literal(fields, "pad_token");
    std::string delimiter = read_literal(fields, "word_delimiter_token");
    if (delimiter.empty()) fields.fail("word_delimiter_token", "a token", fields.any("word_delimiter_token"));
    made = std::make_unique<CtcDecoder>(std::move(pad), std::move(delimiter), fields.boolean("cleanup"));
  } else if (type == "Sequence") {
    made = read_sequence(fields, left);
  } else {
    refuse_component(where, type, "ByteLevel, WordPiece, Metaspace, BPEDecoder, ByteFallback, Fuse, Strip, Replace, CTC or Sequence");
  }
  fields.finish();
  return made;
}

}  // namespace

std::unique_ptr<Decoder> make_byte_level_decoder() {
  return std::make_unique<ByteLevelDecoder>();
}

std::unique_ptr<Decoder> make_wordpiece_decoder(std::string prefix, bool cleanup) {
  return std::make_unique<WordPieceDecoder>(std::move(prefix), cleanup);
}

std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& where) {
  int left = kMostComponents;
  return read_component(json, where, left);
}

}  // namespace mmtune::text
