// Driven by tokenizer.py: `tokenize_bench FOLDER TEXTS` encodes all texts once for each line on stdin ("offsets" or "ids") and answers
// with the seconds it took and the number of tokens. TEXTS holds u32 size and UTF-8 bytes of each text.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "text/tokenizer.h"

namespace {

std::vector<std::string> read_texts(const char* path) {
  const std::string bytes = mmtune::read_file(path);
  std::vector<std::string> texts;
  for (std::size_t at = 0; at + 4 <= bytes.size();) {
    std::uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof size);
    texts.push_back(bytes.substr(at + 4, size));
    at += 4 + size;
  }
  return texts;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenize_bench FOLDER TEXTS\n");
    return 2;
  }
  try {
    const auto tokenizer = mmtune::text::Tokenizer::open(argv[1]);
    const auto texts = read_texts(argv[2]);
    for (std::string line; std::getline(std::cin, line);) {
      const mmtune::text::EncodeOptions options{.max_length = 1 << 30, .with_offsets = line == "offsets"};
      std::vector<mmtune::text::Encoding> encodings;
      encodings.reserve(texts.size());
      const auto start = std::chrono::steady_clock::now();
      for (const auto& text : texts) encodings.push_back(tokenizer->encode(text, options));
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::size_t tokens = 0;
      for (const auto& encoding : encodings) tokens += encoding.ids.size();
      std::cout << took.count() << " " << tokens << std::endl;
    }
  } catch (const mmtune::Error& error) {
    std::fprintf(stderr, "tokenize_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
