// Hostile texts through a small tokenizer; the first byte chooses its normalisation.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "encoding_checks.h"
#include "text/tokenizer.h"

namespace {

std::unique_ptr<mmtune::text::Tokenizer> make(const std::string& normalizer, const std::string& pre_tokenizer) {
  return mmtune::text::Tokenizer::from_json(R"({"added_tokens": [
      {"id": 3, "content": "[M]", "special": true, "single_word": false, "lstrip": true, "rstrip": true, "normalized": false},
      {"id": 9, "content": "caf\u00e9", "special": false, "single_word": true, "lstrip": false, "rstrip": true, "normalized": true}],
    "normalizer": )" + normalizer + R"(, "pre_tokenizer": )" +
                                                pre_tokenizer + R"(,
    "post_processor": {"type": "BertProcessing", "sep": ["[S]", 2], "cls": ["[C]", 1]},
    "model": {"unk_token": "[U]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
      "vocab": {"[U]": 0, "[C]": 1, "[S]": 2, "[M]": 3, "a": 4, "##a": 5, "the": 6, "##\u4e2d": 7, "\u00e9": 8}}})",
                                            "fuzz");
}

/// Byte-level BPE; half of the letters are unknown.
std::unique_ptr<mmtune::text::Tokenizer> make_bpe(const std::string& pre_tokenizer, const std::string& settings) {
  return mmtune::text::Tokenizer::from_json(R"({"pre_tokenizer": )" + pre_tokenizer + R"(,
    "post_processor": {"type": "RobertaProcessing", "sep": ["S", 1], "cls": ["C", 0], "trim_offsets": true, "add_prefix_space": true},
    "model": {"type": "BPE", )" + settings + R"(,
      "vocab": {"C": 0, "S": 1, "U": 2, "a": 3, "t": 4, "h": 5, "e": 6, "\u0120": 7, "th": 8, "the": 9, "\u0120the": 10, "aa": 11,
        "<0xE4>": 12, "<0xB8>": 13, "<0xAD>": 14, "\u00c3": 15, "\u0120\u0120": 16},
      "merges": [["t", "h"], ["th", "e"], ["\u0120", "the"], ["a", "a"], ["\u0120", "\u0120"]]}})",
                                            "fuzz");
}

std::vector<std::unique_ptr<mmtune::text::Tokenizer>> make_all() {
  std::vector<std::unique_ptr<mmtune::text::Tokenizer>> made;
  made.push_back(
      make(R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true})",
           R"({"type": "BertPreTokenizer"})"));
  made.push_back(make(R"({"type": "NFC"})", R"({"type": "Whitespace"})"));
  made.push_back(make(R"({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]})",
                      R"({"type": "Punctuation", "behavior": "MergedWithNext"})"));
  made.push_back(make(R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Strip", "strip_left": true, "strip_right": true},
      {"type": "Replace", "pattern": {"String": "a"}, "content": "the"}, {"type": "Prepend", "prepend": "_"}]})",
                      R"({"type": "WhitespaceSplit"})"));
  made.push_back(make_bpe(R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})", R"("unk_token": null)"));
  made.push_back(make_bpe(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Removed", "invert": true, "pattern":
      {"Regex": "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"}},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}]})",
                          R"("unk_token": "U", "fuse_unk": true)"));
  made.push_back(make_bpe(R"({"type": "WhitespaceSplit"})", R"("unk_token": "U", "byte_fallback": true, "ignore_merges": true)"));
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto tokenizers = make_all();
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  mmtune::fuzz::check_encodings(*tokenizers[data[0] % tokenizers.size()], text);
  return 0;
}
