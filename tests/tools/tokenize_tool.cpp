// Encodes what the parity tests send: `tokenize_tool TOKENIZER` with a model folder or a tokenizer.json, records on stdin, encodings on
// stdout. Numbers are little-endian.
//   record:   u8 flags (1: a pair, 2: without special tokens), i32 max_length (−1: none given), text, [text]; a text is u32 size, bytes
//   encoding: u32 n, n × i32 of ids, type ids, attention mask, special tokens mask, begins, ends; n × text of tokens
//             or u32 0xFFFFFFFF and the error's text
// `tokenize_tool --decode TOKENIZER` decodes instead:
//   record:   u8 flags (1: skip special tokens), u32 n, n × i32 ids; answer: text
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "text/tokenizer.h"

namespace {

using mmtune::text::EncodeOptions;
using mmtune::text::Encoding;
using mmtune::text::Tokenizer;

bool read_bytes(void* into, std::size_t size) {
  return std::fread(into, 1, size, stdin) == size;
}

template <typename T>
T read_number() {
  T value{};
  if (!read_bytes(&value, sizeof value)) throw std::runtime_error("truncated record");
  return value;
}

std::string read_text() {
  std::string text(read_number<std::uint32_t>(), '\0');
  if (!read_bytes(text.data(), text.size())) throw std::runtime_error("truncated text");
  return text;
}

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, const std::string& text) {
  append(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

void append_encoding(std::string& out, const Encoding& encoding) {
  append(out, static_cast<std::uint32_t>(encoding.ids.size()));
  for (const auto* column : {&encoding.ids, &encoding.type_ids, &encoding.attention_mask, &encoding.special_tokens_mask}) {
    for (const auto value : *column) append(out, static_cast<std::int32_t>(value));
  }
  for (const auto& [begin, end] : encoding.offsets) append(out, static_cast<std::int32_t>(begin));
  for (const auto& [begin, end] : encoding.offsets) append(out, static_cast<std::int32_t>(end));
  for (const auto& token : encoding.tokens) append_text(out, token);
}

void run(const Tokenizer& tokenizer) {
  std::uint8_t flags = 0;
  while (read_bytes(&flags, 1)) {
    EncodeOptions options{.add_special_tokens = (flags & 2) == 0, .with_tokens = true};
    const auto max_length = read_number<std::int32_t>();
    if (max_length >= 0) options.max_length = max_length;
    const std::string text = read_text();
    std::string out;
    try {
      append_encoding(out, flags & 1 ? tokenizer.encode_pair(text, read_text(), options) : tokenizer.encode(text, options));
    } catch (const mmtune::Error& error) {
      out.clear();
      append(out, std::uint32_t{0xFFFFFFFF});
      append_text(out, error.what());
    }
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
}

void run_decode(const Tokenizer& tokenizer) {
  std::uint8_t flags = 0;
  while (read_bytes(&flags, 1)) {
    std::vector<std::int64_t> ids(read_number<std::uint32_t>());
    for (auto& id : ids) id = read_number<std::int32_t>();
    std::string out;
    append_text(out, tokenizer.decode(ids, (flags & 1) != 0));
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool decodes = argc == 3 && std::string(argv[1]) == "--decode";
  if (argc != (decodes ? 3 : 2)) {
    std::fprintf(stderr, "usage: tokenize_tool [--decode] FOLDER|TOKENIZER.json < records > encodings\n");
    return 2;
  }
  try {
    const std::filesystem::path path = argv[argc - 1];
    const auto tokenizer =
        std::filesystem::is_directory(path) ? Tokenizer::open(path) : Tokenizer::from_json(mmtune::read_file(path), path.string());
    decodes ? run_decode(*tokenizer) : run(*tokenizer);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenize_tool: %s\n", error.what());
    return 1;
  }
  return 0;
}
