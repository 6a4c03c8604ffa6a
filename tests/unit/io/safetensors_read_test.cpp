#include <cstring>
#include <string>

#include "io/safetensors.h"
#include "support/support.h"
#include "unit/io/safetensors_bytes.h"

namespace mmtune::io {
namespace {

using test::length_prefix;
using test::open_bytes;
using test::safetensors_bytes;

const std::string four(4, '\1');

std::string tensor(std::string_view fields) {
  return "{\"a\":{" + std::string(fields) + "}}";
}

/// The error of a file with this header and this data.
#define EXPECT_REFUSED(header, data, part) EXPECT_ERROR(open_bytes(safetensors_bytes(header, data)), part)

// --- valid files ---

TEST(SafetensorsRead, TensorsAndMetadata) {
  const std::string bytes = safetensors_bytes(
      R"({"__metadata__":{"format":"pt","é":""},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},"h":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}})",
      "0123456789");
  const SafetensorsFile file = open_bytes(bytes);
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors()[0].name, "h") << "in the order of the data, not of the header";
  EXPECT_EQ(file.tensors()[0].dtype, DType::bf16);
  EXPECT_EQ(file.tensors()[0].elements(), 1);
  const TensorEntry* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(std::memcmp(w->data.data(), "23456789", 8), 0);
  EXPECT_EQ(file.find("none"), nullptr);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"é", ""}}));
  EXPECT_EQ(file.mapping(), nullptr);
}

TEST(SafetensorsRead, AnEmptyHeaderIsAFileWithoutTensors) {
  EXPECT_TRUE(open_bytes(safetensors_bytes("{}")).tensors().empty());
}

TEST(SafetensorsRead, PaddingBehindTheHeader) {
  EXPECT_TRUE(open_bytes(safetensors_bytes("{}      ")).tensors().empty());
  EXPECT_EQ(open_bytes(safetensors_bytes(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])") + "   ", four)).tensors().size(), 1U);
}

TEST(SafetensorsRead, RankZero) {
  EXPECT_TRUE(open_bytes(safetensors_bytes(tensor(R"("dtype":"F32","shape":[],"data_offsets":[0,4])"), four)).tensors()[0].shape.empty());
}

TEST(SafetensorsRead, ZeroSizedTensorsAnywhere) {
  const std::string bytes = safetensors_bytes(
      R"({"z":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}})",
      four);
  const SafetensorsFile file = open_bytes(bytes);
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "y");
  EXPECT_EQ(file.tensors()[2].name, "z");
  EXPECT_EQ(file.find("z")->elements(), 0);
}

TEST(SafetensorsRead, EveryDtype) {
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16, DType::i8, DType::u64,
                            DType::u32, DType::u16, DType::u8, DType::boolean, DType::f8_e4m3, DType::f8_e5m2}) {
    const std::string size = std::to_string(3 * size_of(dtype));
    const std::string header = tensor("\"dtype\":\"" + std::string(name_of(dtype)) + "\",\"shape\":[3],\"data_offsets\":[0," + size + "]");
    const std::string bytes = safetensors_bytes(header, std::string(3 * size_of(dtype), '\0'));
    EXPECT_EQ(open_bytes(bytes).tensors()[0].dtype, dtype);
  }
}

TEST(SafetensorsRead, EmptyAndOddNames) {
  const std::string bytes = safetensors_bytes(
      R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0000/\n":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "ab");
  EXPECT_NE(open_bytes(bytes).find(""), nullptr);
}

TEST(SafetensorsRead, UnknownFieldsAreSkippedAsTheReferenceDoes) {
  const std::string bytes = safetensors_bytes(
      tensor(R"("x":{"y":[1,{"z":[null,true,"s",-1,1.5]}]},"dtype":"U8","x":3,"shape":[1],"data_offsets":[0,1],"w":[])"), "a");
  EXPECT_EQ(open_bytes(bytes).tensors().size(), 1U);
}

TEST(SafetensorsRead, NullMetadataIsNone) {
  EXPECT_TRUE(open_bytes(safetensors_bytes(R"({"__metadata__":null})")).metadata().empty());
}

// --- the header's length ---

TEST(SafetensorsRead, TooShortForALength) {
  EXPECT_ERROR(open_bytes(""), "too short for a safetensors file");
  EXPECT_ERROR(open_bytes("1234567"), "expected at least 8 bytes, got 7");
}

TEST(SafetensorsRead, HeaderLengthAboveTheLimit) {
  EXPECT_ERROR(open_bytes(length_prefix(100'000'001) + "{}"), "length is absurd");
  EXPECT_ERROR(open_bytes(length_prefix(~std::uint64_t{0}) + "{}"), "length is absurd");
}

TEST(SafetensorsRead, HeaderLengthBehindTheEnd) {
  EXPECT_ERROR(open_bytes(length_prefix(3) + "{}"), "the file ends inside the header: expected 3 bytes of header, got 2");
}

TEST(SafetensorsRead, HeaderLengthZero) {
  EXPECT_ERROR(open_bytes(length_prefix(0)), "does not begin with '{'");
}

// --- the header's text ---

TEST(SafetensorsRead, HeaderMustBeginWithABrace) {
  EXPECT_REFUSED(" {}", "", "does not begin with '{'");
  EXPECT_REFUSED("[]", "", "does not begin with '{'");
}

TEST(SafetensorsRead, InvalidUtf8) {
  EXPECT_REFUSED("{\"\xff\":{}}", "", "UTF-8");
}

TEST(SafetensorsRead, InvalidJson) {
  for (const char* header : {"{", "{}x", "{\"a\"}", "{\"a\":}", "{\"a\":{\"dtype\":\"F32\"", "{}{}", "{\"a\":1,}"}) {
    EXPECT_ERROR(open_bytes(safetensors_bytes(header)), "x.safetensors: ");
  }
  EXPECT_REFUSED(std::string("{}\0", 3), "", "NUL");
}

TEST(SafetensorsRead, NestingIsBounded) {
  EXPECT_REFUSED(tensor("\"x\":" + std::string(1'000'000, '[')), "", "nested too deep");
}

TEST(SafetensorsRead, DuplicateTensorNames) {
  EXPECT_REFUSED(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "",
                 "the tensor name 'a' is there twice");
}

TEST(SafetensorsRead, DuplicateFields) {
  EXPECT_REFUSED(tensor(R"("dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0])"), "",
                 "tensor 'a': the field 'dtype' is there twice");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0])"), "", "the field 'shape' is there twice");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[0],"data_offsets":[0,0],"data_offsets":[0,0])"), "",
                 "the field 'data_offsets' is there twice");
}

TEST(SafetensorsRead, DuplicateMetadata) {
  EXPECT_REFUSED(R"({"__metadata__":{"k":"1","k":"2"}})", "", "the metadata key 'k' is there twice");
  EXPECT_REFUSED(R"({"__metadata__":{},"__metadata__":{}})", "", "'__metadata__' is there twice");
}

TEST(SafetensorsRead, MetadataIsStringsOnly) {
  EXPECT_REFUSED(R"({"__metadata__":{"k":1}})", "", "the metadata value of 'k' is not a string");
  EXPECT_REFUSED(R"({"__metadata__":{"k":{}}})", "", "the metadata value of 'k' is not a string");
  EXPECT_REFUSED(R"({"__metadata__":[]})", "", "'__metadata__' is not an object");
}

TEST(SafetensorsRead, ATensorIsAnObject) {
  for (const char* value : {"null", "1", "\"F32\"", "[]", "true"}) {
    EXPECT_REFUSED("{\"a\":" + std::string(value) + "}", "", "tensor 'a': not an object");
  }
}

TEST(SafetensorsRead, MissingFields) {
  EXPECT_REFUSED(tensor(R"("shape":[0],"data_offsets":[0,0])"), "", "tensor 'a': no dtype");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","data_offsets":[0,0])"), "", "tensor 'a': no shape");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[0])"), "", "tensor 'a': no data_offsets");
}

// --- dtype, shape, offsets ---

TEST(SafetensorsRead, UnknownDtype) {
  EXPECT_REFUSED(tensor(R"("dtype":"F31","shape":[0],"data_offsets":[0,0])"), "", "tensor 'a': unknown dtype 'F31'");
  EXPECT_REFUSED(tensor(R"("dtype":"f32","shape":[0],"data_offsets":[0,0])"), "", "unknown dtype 'f32'");
  EXPECT_REFUSED(tensor(R"("dtype":1,"shape":[0],"data_offsets":[0,0])"), "", "tensor 'a': bad dtype");
  EXPECT_REFUSED(tensor(R"("dtype":["F32"],"shape":[0],"data_offsets":[0,0])"), "", "tensor 'a': bad dtype");
}

TEST(SafetensorsRead, ShapesAreWholeNumbers) {
  for (const char* shape : {"[-1]", "[1.0]", "[1e0]", "[\"1\"]", "[null]", "[[1]]", "[{}]", "1", "null", "{}", "[18446744073709551616]"}) {
    EXPECT_REFUSED(tensor("\"dtype\":\"U8\",\"shape\":" + std::string(shape) + ",\"data_offsets\":[0,1]"), "a", "tensor 'a': bad shape");
  }
}

TEST(SafetensorsRead, ShapeOverflows) {
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0])"), "", "a dimension overflows");
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), "", "the product of its shape overflows");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), "", "the product of its shape overflows");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "",
                 "the product of its shape overflows");
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"), "",
                 "the product of its shape overflows");
}

TEST(SafetensorsRead, AbsurdRank) {
  std::string shape = "[1";
  for (int i = 0; i < 64; ++i) shape += ",1";
  EXPECT_REFUSED(tensor("\"dtype\":\"U8\",\"shape\":" + shape + "],\"data_offsets\":[0,1]"), "a", "too many dimensions");
}

TEST(SafetensorsRead, OffsetsAreTwoWholeNumbers) {
  for (const char* offsets : {"[-4,0]", "[0,-4]", "[0.0,4]", "[\"0\",4]", "[0,null]", "4", "null", "[[0,4]]", "[0,18446744073709551616]"}) {
    EXPECT_REFUSED(tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + std::string(offsets)), four,
                   "tensor 'a': bad data_offsets");
  }
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), four, "more than two numbers");
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4])"), four, "fewer than two numbers");
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[])"), four, "fewer than two numbers");
}

TEST(SafetensorsRead, ReversedOffsets) {
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), four, "tensor 'a': data_offsets are reversed");
}

TEST(SafetensorsRead, OffsetsThatDoNotMatchTheShape) {
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), four,
                 "do not match dtype and shape: expected 8 bytes, got 4");
}

TEST(SafetensorsRead, OffsetsBehindTheEnd) {
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), four, "ends behind the end of the file");
  EXPECT_REFUSED(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615])"), four,
                 "ends behind the end");
}

TEST(SafetensorsRead, OverlappingTensors) {
  EXPECT_REFUSED(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", four,
                 "tensor 'b': overlaps another tensor: expected data from offset 3, got 2");
  EXPECT_REFUSED(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", four,
                 "overlaps");
  EXPECT_REFUSED(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", four,
                 "overlaps");
}

TEST(SafetensorsRead, Holes) {
  EXPECT_REFUSED(tensor(R"("dtype":"U8","shape":[3],"data_offsets":[1,4])"), four, "tensor 'a': a hole in front of its data");
  EXPECT_REFUSED(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})", four,
                 "tensor 'b': a hole in front of its data");
}

TEST(SafetensorsRead, MissingAndTrailingBytes) {
  const std::string header = tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])");
  EXPECT_REFUSED(header, "abc", "ends behind the end of the file, which is truncated or damaged: expected at most offset 3, got 4");
  EXPECT_REFUSED(header, "abcde", "bytes behind the last tensor: expected 4 bytes of data, got 5");
  EXPECT_REFUSED("{}", "a", "bytes behind the last tensor");
}

TEST(SafetensorsRead, EveryTruncationIsAnError) {
  const std::string bytes = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"h":{"dtype":"F16","shape":[],"data_offsets":[8,10]}})",
      "0123456789");
  EXPECT_EQ(open_bytes(bytes).tensors().size(), 2U);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string cut = bytes.substr(0, size);
    EXPECT_THROW(open_bytes(cut), Error) << size << " bytes";
  }
}

TEST(SafetensorsRead, AHostileHeaderCostsLittleMemory) {
  // Millions of values in a field that nobody asked for, and a shape without end: neither builds a tree.
  std::string many = "\"x\":[0";
  for (int i = 0; i < 1'000'000; ++i) many += ",0";
  EXPECT_EQ(open_bytes(safetensors_bytes(tensor(many + R"(],"dtype":"U8","shape":[0],"data_offsets":[0,0])"))).tensors().size(), 1U);
}

// --- files ---

TEST(SafetensorsRead, FilesAreMappedAndNamed) {
  const test::TempFolder folder;
  const auto path = folder.write("m.safetensors", safetensors_bytes(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), four));
  const SafetensorsFile file = SafetensorsFile::open(path);
  ASSERT_NE(file.mapping(), nullptr);
  EXPECT_EQ(file.where(), path.string());
  EXPECT_EQ(file.tensors()[0].data.data() + 4, file.mapping()->bytes().data() + file.mapping()->bytes().size());
  EXPECT_ERROR(SafetensorsFile::open(folder.write("short.safetensors", "123")), "short.safetensors: too short");
  EXPECT_ERROR(SafetensorsFile::open(folder / "none.safetensors"), "none.safetensors: cannot open");
}

}  // namespace
}  // namespace mmtune::io
