#pragma once
// Normalizers: the `normalizer` section of tokenizer.json.

#include <memory>
#include <optional>
#include <string>

#include "core/json.h"
#include "text/aligned_text.h"

namespace mmtune::text {

/// Rewrites a text in place, keeping its alignment. One object serves many threads.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void normalize(AlignedText& text) const = 0;
};

struct BertNormalizerOptions {
  bool clean_text = true;
  bool handle_chinese_chars = true;
  bool strip_accents = true;
  bool lowercase = true;
};
std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options);
/// NFC, every run of white space as one space, lower case.
std::unique_ptr<Normalizer> make_clip_normalizer();

/// Reads a normalizer: BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace (of the patterns of patterns.h),
/// Prepend, Precompiled, Sequence. Throws Error naming `where` and the component.
std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& where);

}  // namespace mmtune::text
