#include "text/sentencepiece_file.h"

#include <bit>
#include <cmath>
#include <functional>
#include <unordered_set>

#include "core/error.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

constexpr std::size_t kMostPieces = 4'000'000;
constexpr std::size_t kLongestPiece = 4096;
constexpr int kDeepestGroup = 16;

enum class Wire : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, group_begin = 3, group_end = 4, fixed32 = 5 };

/// The fields of one message, one after another.
class Message {
 public:
  Message(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::uint64_t tag = varint();
    number_ = tag >> 3;
    wire_ = static_cast<Wire>(tag & 7);
    if (number_ == 0 || number_ > 0x1FFFFFFF || (tag & 7) > 5) fail("a field of number " + std::to_string(number_) + " cannot be");
    return true;
  }

  std::uint64_t number() const { return number_; }
  const std::string& where() const { return where_; }

  std::string_view text(const char* name) {
    expect(Wire::bytes, name);
    return take(varint(), name);
  }
  std::uint64_t integer(const char* name) {
    expect(Wire::varint, name);
    return varint();
  }
  bool boolean(const char* name) { return integer(name) != 0; }
  float number32(const char* name) {
    expect(Wire::fixed32, name);
    std::uint32_t bits = 0;
    const std::string_view four = take(4, name);
    for (int i = 3; i >= 0; --i) bits = bits << 8 | static_cast<unsigned char>(four[static_cast<std::size_t>(i)]);
    return std::bit_cast<float>(bits);
  }

  void skip() { skip(0); }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error({.what = what, .where = where_ + ", byte " + std::to_string(at_), .hint = "the file is damaged or no SentencePiece model"});
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == bytes_.size()) fail("a number is cut off");
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      if (shift == 63 && byte > 1) break;
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number has more than 64 bits");
  }

  std::string_view take(std::uint64_t size, const char* name) {
    if (size > bytes_.size() - at_) fail(std::string("field '") + name + "' is longer than what is left");
    const std::string_view taken = bytes_.substr(at_, size);
    at_ += size;
    return taken;
  }

  void expect(Wire wire, const char* name) const {
    if (wire_ != wire)
      fail(std::string("field '") + name + "' has the wrong wire type " + std::to_string(static_cast<std::uint32_t>(wire_)));
  }

  void skip(int depth) {
    switch (wire_) {
      case Wire::varint:
        varint();
        return;
      case Wire::fixed64:
        take(8, "unknown");
        return;
      case Wire::bytes:
        take(varint(), "unknown");
        return;
      case Wire::fixed32:
        take(4, "unknown");
        return;
      case Wire::group_begin: {
        if (depth >= kDeepestGroup) fail("groups are nested too deeply");
        const std::uint64_t opened = number_;
        while (next()) {
          if (wire_ == Wire::group_end && number_ == opened) return;
          skip(depth + 1);
        }
        fail("a group has no end");
      }
      case Wire::group_end:
        fail("a group ends that did not begin");
    }
  }

  std::string_view bytes_;
  std::string where_;
  std::size_t at_ = 0;
  std::uint64_t number_ = 0;
  Wire wire_ = Wire::varint;
};

bool is_utf8(std::string_view text) {
  std::string again;
  for (std::size_t at = 0; at < text.size();) append_utf8(again, next_code_point(text, at));
  return again == text;
}

Piece read_piece(std::string_view bytes, const std::string& where) {
  Message message(bytes, where);
  Piece piece;
  while (message.next()) {
    switch (message.number()) {
      case 1:
        piece.text = message.text("piece");
        break;
      case 2:
        piece.score = message.number32("score");
        break;
      case 3: {
        const std::uint64_t type = message.integer("type");
        if (type < 1 || type > 6) message.fail("unknown piece type " + std::to_string(type));
        piece.type = static_cast<PieceType>(type);
        break;
      }
      default:
        message.skip();
    }
  }
  if (piece.text.empty()) message.fail("a piece is empty");
  if (piece.text.size() > kLongestPiece) message.fail("a piece is too long");
  if (!is_utf8(piece.text)) message.fail("piece '" + printable(piece.text, 40) + "' is not UTF-8");
  if (!std::isfinite(piece.score)) message.fail("the score of piece '" + printable(piece.text, 40) + "' is no number");
  return piece;
}

void read_trainer(std::string_view bytes, const std::string& where, SentencePieceFile& file) {
  Message message(bytes, where);
  while (message.next()) {
    switch (message.number()) {
      case 3: {
        const std::uint64_t kind = message.integer("model_type");
        if (kind != 1 && kind != 2) {
          throw Error({.what = "unsupported model_type " + (kind == 3   ? std::string("WORD")
                                                            : kind == 4 ? std::string("CHAR")
                                                                        : std::to_string(kind)),
                       .where = where,
                       .expected = "UNIGRAM or BPE"});
        }
        file.kind = kind == 1 ? SentencePieceKind::unigram : SentencePieceKind::bpe;
        break;
      }
      case 24:
        if (message.boolean("treat_whitespace_as_suffix")) {
          throw Error({.what = "treat_whitespace_as_suffix is not supported", .where = where});
        }
        break;
      case 35:
        file.byte_fallback = message.boolean("byte_fallback");
        break;
      case 44:
        file.unknown_surface = message.text("unk_surface");
        break;
      default:
        message.skip();
    }
  }
}

void read_normalizer(std::string_view bytes, const std::string& where, SentencePieceFile& file) {
  Message message(bytes, where);
  while (message.next()) {
    switch (message.number()) {
      case 2:
        file.charsmap = message.text("precompiled_charsmap");
        break;
      case 3:
        file.add_dummy_prefix = message.boolean("add_dummy_prefix");
        break;
      case 4:
        file.remove_extra_whitespaces = message.boolean("remove_extra_whitespaces");
        break;
      case 5:
        file.escape_whitespaces = message.boolean("escape_whitespaces");
        break;
      default:
        message.skip();
    }
  }
}

void refuse_denormalizer(std::string_view bytes, const std::string& where) {
  Message message(bytes, where);
  while (message.next()) {
    if (message.number() != 2) {
      message.skip();
    } else if (!message.text("precompiled_charsmap").empty()) {
      throw Error({.what = "a denormalizer is not supported", .where = where});
    }
  }
}

void check(const SentencePieceFile& file, const std::string& where) {
  std::unordered_set<std::string_view> seen;
  std::size_t unknown = 0, bytes = 0;
  for (const Piece& piece : file.pieces) {
    if (!seen.insert(piece.text).second) {
      throw Error({.what = "piece '" + printable(piece.text, 40) + "' stands there twice", .where = where});
    }
    unknown += piece.type == PieceType::unknown ? 1 : 0;
    bytes += piece.type == PieceType::byte ? 1 : 0;
  }
  if (unknown != 1) {
    throw Error({.what = "wrong number of unknown pieces", .where = where, .expected = "one", .got = std::to_string(unknown)});
  }
  if (bytes != (file.byte_fallback ? 256U : 0U)) {
    throw Error({.what = "wrong number of byte pieces",
                 .where = where,
                 .expected = file.byte_fallback ? "256 with byte_fallback" : "none without byte_fallback",
                 .got = std::to_string(bytes)});
  }
}

}  // namespace

SentencePieceFile read_sentencepiece_file(std::string_view bytes, const std::string& where) {
  Message message(bytes, where);
  SentencePieceFile file;
  while (message.next()) {
    switch (message.number()) {
      case 1:
        if (file.pieces.size() == kMostPieces) message.fail("too many pieces");
        file.pieces.push_back(read_piece(message.text("pieces"), where + ": piece " + std::to_string(file.pieces.size())));
        break;
      case 2:
        read_trainer(message.text("trainer_spec"), where + ": trainer_spec", file);
        break;
      case 3:
        read_normalizer(message.text("normalizer_spec"), where + ": normalizer_spec", file);
        break;
      case 5:
        refuse_denormalizer(message.text("denormalizer_spec"), where + ": denormalizer_spec");
        break;
      default:
        message.skip();
    }
  }
  check(file, where);
  return file;
}

}  // namespace mmtune::text
