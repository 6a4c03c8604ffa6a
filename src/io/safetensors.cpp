#include "io/safetensors.h"

#include <array>
#include <limits>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "io/pickle.h"
#include "io/safetensors_header.h"

namespace mmtune::io {

namespace {

constexpr std::size_t length_bytes = 8;
constexpr std::uint64_t max_header_bytes = 100'000'000;  // the reference reader's limit

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = length_bytes; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

std::string_view header_text(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < length_bytes) {
    throw Error({.what = "too short for a safetensors file",
                 .where = where,
                 .expected = "at least 8 bytes",
                 .got = std::to_string(bytes.size()),
                 .hint = bytes.empty() ? "the file is empty" : ""});
  }
  const std::uint64_t length = little_endian(bytes);
  if (length > max_header_bytes) {
    throw Error({.what = "the header's length is absurd: not a safetensors file, or damaged",
                 .where = where,
                 .expected = "at most " + std::to_string(max_header_bytes) + " bytes",
                 .got = std::to_string(length)});
  }
  if (length > bytes.size() - length_bytes) {
    throw Error({.what = "the file ends inside the header",
                 .where = where,
                 .expected = std::to_string(length) + " bytes of header",
                 .got = std::to_string(bytes.size() - length_bytes),
                 .hint = "truncated; fetch it again"});
  }
  return {reinterpret_cast<const char*>(bytes.data()) + length_bytes, static_cast<std::size_t>(length)};
}

/// Bytes that dtype and shape ask for.
std::size_t expected_bytes(const TensorEntry& tensor, const std::string& where) {
  std::uint64_t bytes = size_of(tensor.dtype);
  for (const std::int64_t dimension : tensor.shape) {
    if (dimension < 0) throw Error({.what = "tensor '" + printable(tensor.name) + "': a negative dimension", .where = where});
    const auto factor = static_cast<std::uint64_t>(dimension);
    if (factor > 0 && bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / factor) {
      throw Error({.what = "tensor '" + printable(tensor.name) + "': the product of its shape overflows 64 bits", .where = where});
    }
    bytes *= factor;
  }
  return static_cast<std::size_t>(bytes);
}

std::string make_header(std::span<const TensorEntry> tensors, const std::map<std::string, std::string>& metadata,
                        const std::string& where) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  std::uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.name == "__metadata__") throw Error({.what = "a tensor cannot be called '__metadata__'", .where = where});
    if (!names.insert(tensor.name).second) {
      throw Error({.what = "two tensors are called '" + printable(tensor.name) + "'", .where = where});
    }
    if (const std::size_t bytes = expected_bytes(tensor, where); bytes != tensor.data.size()) {
      throw Error({.what = "tensor '" + printable(tensor.name) + "': its data does not match dtype and shape",
                   .where = where,
                   .expected = std::to_string(bytes) + " bytes",
                   .got = std::to_string(tensor.data.size())});
    }
    header[tensor.name] = {
        {"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::type_error& error) {
    throw Error({.what = "a tensor's name or the metadata is not valid UTF-8: " + describe_json_error(error), .where = where});
  }
  text.resize((text.size() + length_bytes - 1) / length_bytes * length_bytes, ' ');
  if (text.size() > max_header_bytes) {
    throw Error({.what = "the header would be too large for any reader",
                 .where = where,
                 .expected = "at most " + std::to_string(max_header_bytes) + " bytes",
                 .got = std::to_string(text.size())});
  }
  return text;
}

}  // namespace

std::int64_t TensorEntry::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dimension : shape) product *= dimension;
  return product;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  auto mapping = MappedFile::open(path);
  refuse_pickle(mapping->bytes(), path);
  SafetensorsFile file = from_bytes(mapping->bytes(), path.string());
  file.mapping_ = std::move(mapping);
  return file;
}

SafetensorsFile SafetensorsFile::from_bytes(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text = header_text(bytes, where);
  const auto data = bytes.subspan(length_bytes + text.size());
  SafetensorsHeader header = parse_safetensors_header(text, data.size(), where);
  SafetensorsFile file;
  file.where_ = where;
  file.metadata_ = std::move(header.metadata);
  file.tensors_.reserve(header.tensors.size());
  for (HeaderTensor& tensor : header.tensors) {
    file.index_.emplace(tensor.name, file.tensors_.size());
    file.tensors_.push_back(
        {.name = std::move(tensor.name),
         .dtype = tensor.dtype,
         .shape = std::move(tensor.shape),
         .data = data.subspan(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.end - tensor.begin))});
  }
  return file;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorEntry> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string header = make_header(tensors, metadata, path.string());
  write_file_atomically(path, [&](const ByteSink& sink) {
    std::array<std::byte, length_bytes> length;
    for (std::size_t i = 0; i < length_bytes; ++i) length[i] = static_cast<std::byte>(header.size() >> (8 * i));
    sink(length);
    sink(std::as_bytes(std::span(header)));
    for (const TensorEntry& tensor : tensors) sink(tensor.data);
  });
}

}  // namespace mmtune::io
