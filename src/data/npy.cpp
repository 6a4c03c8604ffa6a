#include "data/npy.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "data/media.h"

namespace mmtune::data {

namespace {

constexpr std::size_t kLongestHeader = std::size_t{64} << 10;
constexpr std::uint64_t kMostValues = std::uint64_t{1} << 40;

[[noreturn]] void fail(const std::string& where, std::string what, std::string expected = {}, std::string got = {}) {
  throw Error({.what = std::move(what), .where = where, .expected = std::move(expected), .got = std::move(got)});
}

/// The literal of Python's dict that NumPy writes: three keys with a string, a boolean and a tuple of integers.
class Dictionary {
 public:
  Dictionary(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  NpyHeader read() {
    NpyHeader header;
    bool has_type = false, has_order = false, has_shape = false;
    expect('{');
    while (!take('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && !has_type) {
        has_type = true;
        read_type(string(), header);
      } else if (key == "fortran_order" && !has_order) {
        has_order = true;
        if (boolean()) fail(where_, "an array in Fortran order is not supported");
      } else if (key == "shape" && !has_shape) {
        has_shape = true;
        header.shape = tuple();
      } else {
        damaged();
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    spaces();
    if (at_ != text_.size() || !has_type || !has_order || !has_shape) damaged();
    return header;
  }

 private:
  [[noreturn]] void damaged() const {
    fail(where_, "the header of the array is damaged", "{'descr': …, 'fortran_order': False, 'shape': (…)}");
  }

  void spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    spaces();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) damaged();
  }
  std::string string() {
    expect('\'');
    const std::size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) damaged();
    std::string found(text_.substr(at_, end - at_));
    at_ = end + 1;
    return found;
  }
  bool boolean() {
    spaces();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    damaged();
  }
  std::vector<std::uint64_t> tuple() {
    std::vector<std::uint64_t> sizes;
    expect('(');
    while (!take(')')) {
      spaces();
      std::uint64_t size = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error != std::errc() || sizes.size() == 32) damaged();
      at_ = static_cast<std::size_t>(end - text_.data());
      sizes.push_back(size);
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return sizes;
  }

  void read_type(const std::string& type, NpyHeader& header) const {
    const bool known = type.size() == 3 && (type[0] == '|' || type[0] == '<') &&
                       std::string_view("uifb").find(type[1]) != std::string_view::npos &&
                       std::string_view("1248").find(type[2]) != std::string_view::npos && (type[0] == '<' || type[2] == '1');
    if (!known)
      fail(where_, "unsupported type of values", "little-endian numbers, such as '|u1' or '<i8'", "'" + printable(type, 40) + "'");
    header.kind = type[1];
    header.width = static_cast<std::uint64_t>(type[2] - '0');
  }

  std::string_view text_;
  std::string where_;
  std::size_t at_ = 0;
};

}  // namespace

std::uint64_t NpyHeader::count() const {
  std::uint64_t values = 1;
  for (const std::uint64_t size : shape) values *= size;
  return values;
}

NpyHeader read_npy_header(std::string_view head, std::uint64_t file_size, const std::string& where) {
  constexpr std::string_view kMagic = "\x93NUMPY";
  if (!head.starts_with(kMagic) || head.size() < 10) fail(where, "not a NumPy array");
  const auto version = static_cast<unsigned char>(head[6]);
  if (version < 1 || version > 3 || head[7] != 0) fail(where, "unsupported version of the array's format", "1.0 to 3.0");
  const std::size_t bytes = version == 1 ? 2 : 4;
  if (head.size() < 8 + bytes) fail(where, "the header of the array is cut off");
  std::uint64_t length = 0;
  for (std::size_t i = bytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(head[8 + i]);
  if (length > kLongestHeader || length > head.size() - 8 - bytes) fail(where, "the header of the array is longer than the file or 64 KiB");
  NpyHeader header = Dictionary(head.substr(8 + bytes, length), where).read();
  header.begin = 8 + bytes + length;
  std::uint64_t values = 1;
  for (const std::uint64_t size : header.shape) {
    if (size != 0 && values > kMostValues / size) fail(where, "the array is too large");
    values *= size;
  }
  const std::uint64_t expected = header.begin + values * header.width;
  if (expected != file_size) {
    fail(where, "the file has another size than its shape gives", std::to_string(expected) + " bytes", std::to_string(file_size));
  }
  return header;
}

NpyHeader read_npy_header(const std::filesystem::path& path) {
  const MediaFile file(path);
  std::string head(std::min<std::uint64_t>(file.size(), kLongestHeader + 12), '\0');
  file.read(0, head);
  return read_npy_header(head, file.size(), path.string());
}

std::vector<std::int64_t> read_npy_integers(const std::filesystem::path& path) {
  const NpyHeader header = read_npy_header(path);
  if (header.shape.size() != 1 || (header.kind != 'u' && header.kind != 'i')) {
    fail(path.string(), "the array is no list of integers");
  }
  MMTUNE_ASSERT(header.width >= 1 && header.width <= 8);
  std::string bytes(header.count() * header.width, '\0');
  MediaFile(path).read(header.begin, bytes);
  std::vector<std::int64_t> values;
  for (std::size_t at = 0; at < bytes.size(); at += header.width) {
    std::uint64_t bits = 0;
    for (std::size_t i = header.width; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[at + i]);
    const std::uint64_t sign = std::uint64_t{1} << (8 * header.width - 1);
    if (header.kind == 'u' && header.width == 8 && bits >= sign) fail(path.string(), "a value is too large");
    // A negative value of fewer bytes has its sign copied upwards.
    if (header.kind == 'i' && header.width < 8 && (bits & sign) != 0) bits |= ~(2 * sign - 1);
    values.push_back(static_cast<std::int64_t>(bits));
  }
  return values;
}

}  // namespace mmtune::data
