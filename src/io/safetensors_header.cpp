#include "io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace mmtune::io {

namespace {

constexpr std::size_t max_rank = 64;  // LibTorch's own iterators go no further
constexpr int max_depth = 64;

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t size;
};

constexpr std::array dtype_rows = std::to_array<DTypeRow>({
    {DType::f64, "F64", 8},
    {DType::f32, "F32", 4},
    {DType::f16, "F16", 2},
    {DType::bf16, "BF16", 2},
    {DType::i64, "I64", 8},
    {DType::i32, "I32", 4},
    {DType::i16, "I16", 2},
    {DType::i8, "I8", 1},
    {DType::u64, "U64", 8},
    {DType::u32, "U32", 4},
    {DType::u16, "U16", 2},
    {DType::u8, "U8", 1},
    {DType::boolean, "BOOL", 1},
    {DType::f8_e4m3, "F8_E4M3", 1},
    {DType::f8_e5m2, "F8_E5M2", 1},
});

const DTypeRow& row_of(DType dtype) {
  const auto row = std::ranges::find(dtype_rows, dtype, &DTypeRow::dtype);
  MMTUNE_ASSERT(row != dtype_rows.end());
  return *row;
}

enum class Field : unsigned { dtype = 1, shape = 2, offsets = 4, unknown = 8 };

Field field_of(std::string_view key) {
  if (key == "dtype") return Field::dtype;
  if (key == "shape") return Field::shape;
  if (key == "data_offsets") return Field::offsets;
  return Field::unknown;
}

/// Where in the header's fixed shape the parser stands.
enum class Place { outside, top, metadata, tensor, shape, offsets, skipped };

class HeaderEvents : public nlohmann::json_sax<Json> {
 public:
  HeaderEvents(SafetensorsHeader& header, std::string where) : header_(header), where_(std::move(where)) {}

  bool null() override {
    // The reference reader takes a null __metadata__ for none.
    if (place_ == Place::top && in_metadata_) return true;
    return scalar("null");
  }
  bool boolean(bool value) override { return scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return scalar("a negative number, " + std::to_string(value)); }
  bool number_float(number_float_t /*value*/, const string_t& spelling) override {
    return scalar("a number outside of 64-bit integers, " + printable(spelling, 40));
  }
  bool binary(binary_t& /*value*/) override { return false; }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) return dimension(value);
    if (place_ != Place::offsets) return scalar("the number " + std::to_string(value));
    if (offsets_seen_ == 2) mistake("data_offsets has more than two numbers");
    (offsets_seen_++ == 0 ? tensor().begin : tensor().end) = value;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      header_.metadata.emplace(metadata_key_, std::move(value));
      return true;
    }
    if (place_ != Place::tensor || field_ != Field::dtype) return scalar("a string");
    const auto row = std::ranges::find(dtype_rows, std::string_view(value), &DTypeRow::name);
    if (row == dtype_rows.end())
      mistake("unknown dtype '" + printable(value, 40) + "'", "F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64 … U8 or BOOL");
    tensor().dtype = row->dtype;
    return true;
  }

  bool start_object(std::size_t /*elements*/) override {
    switch (place_) {
      case Place::outside:
        place_ = Place::top;
        return true;
      case Place::top:
        place_ = in_metadata_ ? Place::metadata : Place::tensor;
        return true;
      case Place::tensor:
        if (field_ == Field::unknown) return skip();
        break;
      case Place::skipped:
        return skip();
      default:
        break;
    }
    return scalar("an object");
  }

  bool start_array(std::size_t /*elements*/) override {
    if (place_ == Place::skipped || (place_ == Place::tensor && field_ == Field::unknown)) return skip();
    if (place_ != Place::tensor || field_ == Field::dtype) return scalar("an array");
    place_ = field_ == Field::shape ? Place::shape : Place::offsets;
    offsets_seen_ = 0;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::skipped) return unskip();
    if (place_ == Place::tensor) {
      if (!seen(Field::dtype)) mistake("no dtype");
      if (!seen(Field::shape)) mistake("no shape");
      if (!seen(Field::offsets)) mistake("no data_offsets");
      in_tensor_ = false;
    }
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::skipped) return unskip();
    if (place_ == Place::offsets && offsets_seen_ != 2) mistake("data_offsets has fewer than two numbers");
    place_ = Place::tensor;
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::top) return top_key(name);
    if (place_ == Place::metadata) {
      if (header_.metadata.contains(name)) mistake("the metadata key '" + printable(name) + "' is there twice");
      metadata_key_ = std::move(name);
      return true;
    }
    if (place_ == Place::tensor) {
      field_ = field_of(name);
      if (field_ != Field::unknown && seen(field_)) mistake("the field '" + name + "' is there twice");
      fields_seen_ |= static_cast<unsigned>(field_);
    }
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const nlohmann::detail::exception& error) override {
    throw Error({.what = "the header is not valid JSON: " + describe_json_error(error), .where = where_});
  }

 private:
  HeaderTensor& tensor() { return header_.tensors.back(); }
  bool seen(Field field) const { return (fields_seen_ & static_cast<unsigned>(field)) != 0; }

  [[noreturn]] void mistake(const std::string& what, const std::string& expected = {}, const std::string& got = {}) {
    const std::string whose = in_tensor_ ? "tensor '" + printable(tensor().name) + "': " : "the header: ";
    throw Error({.what = whose + what, .where = where_, .expected = expected, .got = got});
  }

  bool top_key(string_t& name) {
    in_metadata_ = std::string_view(name) == "__metadata__";
    in_tensor_ = !in_metadata_;
    if (in_metadata_) {
      if (metadata_seen_) mistake("'__metadata__' is there twice");
      metadata_seen_ = true;
      return true;
    }
    if (!names_.insert(name).second) {
      throw Error({.what = "the tensor name '" + printable(name) + "' is there twice", .where = where_});
    }
    header_.tensors.push_back({.name = std::move(name)});
    fields_seen_ = 0;
    return true;
  }

  bool dimension(std::uint64_t size) {
    auto& shape = tensor().shape;
    if (shape.size() == max_rank) mistake("too many dimensions", "at most " + std::to_string(max_rank));
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      mistake("a dimension overflows", "at most 2^63 - 1", std::to_string(size));
    }
    shape.push_back(static_cast<std::int64_t>(size));
    return true;
  }

  /// Something that stands where it has no business; inside a field that we do not know, anything goes.
  bool scalar(const std::string& got) {
    switch (place_) {
      case Place::outside:
        mistake("not a JSON object", {}, got);
      case Place::top:
        mistake(in_metadata_ ? "'__metadata__' is not an object" : "not an object", "an object", got);
      case Place::metadata:
        mistake("the metadata value of '" + printable(metadata_key_) + "' is not a string", "a string", got);
      case Place::shape:
        mistake("bad shape", "whole numbers from 0", got);
      case Place::offsets:
        mistake("bad data_offsets", "two whole numbers from 0", got);
      case Place::tensor:
        if (field_ == Field::dtype) mistake("bad dtype", "a string", got);
        if (field_ == Field::shape) mistake("bad shape", "an array", got);
        if (field_ == Field::offsets) mistake("bad data_offsets", "an array", got);
        return true;
      case Place::skipped:
        return true;
    }
    return true;
  }

  bool skip() {
    place_ = Place::skipped;
    if (++skipped_depth_ > max_depth) mistake("JSON nested too deep", "at most " + std::to_string(max_depth) + " levels");
    return true;
  }
  bool unskip() {
    if (--skipped_depth_ == 0) place_ = Place::tensor;
    return true;
  }

  SafetensorsHeader& header_;
  std::string where_;
  std::unordered_set<std::string> names_;
  std::string metadata_key_;
  Place place_ = Place::outside;
  Field field_ = Field::unknown;
  unsigned fields_seen_ = 0;
  int offsets_seen_ = 0, skipped_depth_ = 0;
  bool in_metadata_ = false, in_tensor_ = false, metadata_seen_ = false;
};

/// Bytes of the tensor. Zero dimensions count as one for the overflow check, so that strides cannot overflow either.
std::uint64_t checked_bytes(const HeaderTensor& tensor, const std::string& where) {
  std::uint64_t bytes = size_of(tensor.dtype);
  bool empty = false;
  for (const std::int64_t dimension : tensor.shape) {
    empty = empty || dimension == 0;
    const auto factor = static_cast<std::uint64_t>(std::max<std::int64_t>(dimension, 1));
    if (bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / factor) {
      throw Error({.what = "tensor '" + printable(tensor.name) + "': the product of its shape overflows 64 bits", .where = where});
    }
    bytes *= factor;
  }
  return empty ? 0 : bytes;
}

void check_layout(std::vector<HeaderTensor>& tensors, std::uint64_t data_bytes, const std::string& where) {
  for (const HeaderTensor& tensor : tensors) {
    const auto mistake = [&](const std::string& what, std::string expected, std::string got) {
      throw Error({.what = "tensor '" + printable(tensor.name) + "': " + what,
                   .where = where,
                   .expected = std::move(expected),
                   .got = std::move(got)});
    };
    if (tensor.end < tensor.begin) {
      mistake("data_offsets are reversed", {}, "[" + std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) + "]");
    }
    const std::uint64_t bytes = checked_bytes(tensor, where);
    if (tensor.end - tensor.begin != bytes) {
      mistake("data_offsets do not match dtype and shape", std::to_string(bytes) + " bytes", std::to_string(tensor.end - tensor.begin));
    }
    if (tensor.end > data_bytes) {
      mistake("its data ends behind the end of the file, which is truncated or damaged", "at most offset " + std::to_string(data_bytes),
              std::to_string(tensor.end));
    }
  }
  std::ranges::stable_sort(tensors, {}, [](const HeaderTensor& tensor) { return std::tuple(tensor.begin, tensor.end); });
  std::uint64_t covered = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != covered) {
      throw Error({.what = "tensor '" + printable(tensor.name) +
                           "': " + (tensor.begin < covered ? "overlaps another tensor" : "a hole in front of its data"),
                   .where = where,
                   .expected = "data from offset " + std::to_string(covered),
                   .got = std::to_string(tensor.begin)});
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    throw Error({.what = "bytes behind the last tensor",
                 .where = where,
                 .expected = std::to_string(covered) + " bytes of data",
                 .got = std::to_string(data_bytes)});
  }
}

}  // namespace

std::size_t size_of(DType dtype) {
  return row_of(dtype).size;
}

std::string_view name_of(DType dtype) {
  return row_of(dtype).name;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& where) {
  if (!text.starts_with('{'))
    throw Error({.what = "the header does not begin with '{'", .where = where, .hint = "not a safetensors file?"});
  refuse_json_nul(text, where);
  SafetensorsHeader header;
  HeaderEvents events(header, where);
  Json::sax_parse(text.begin(), text.end(), &events);
  check_layout(header.tensors, data_bytes, where);
  return header;
}

}  // namespace mmtune::io
