#pragma once
// Post-processors: the `post_processor` section of tokenizer.json. They put special tokens around one sequence or between two.

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::text {

/// A piece of a template: a sequence (0 or 1), or special tokens.
struct TemplatePiece {
  int sequence = -1;                ///< 0 or 1; −1 for special tokens
  std::vector<std::int64_t> ids;    ///< of the special tokens
  std::vector<std::string> tokens;  ///< beside ids
  std::int64_t type_id = 0;
};

/// What is made of one sequence and of two. Every kind of post-processor comes down to this.
struct PostProcessor {
  std::vector<TemplatePiece> single;
  std::vector<TemplatePiece> pair;

  /// How many special tokens are added.
  std::int64_t added(bool is_pair) const;
};

/// Nothing added: the first sequence has type 0, the second 1.
PostProcessor plain_post_processor();
/// [CLS] A [SEP] of type 0, B [SEP] of type 1.
PostProcessor bert_post_processor(const std::string& cls, std::int64_t cls_id, const std::string& sep, std::int64_t sep_id);

/// Reads a post-processor: TemplateProcessing, BertProcessing, or a Sequence of one. Throws Error naming `where` and the component.
PostProcessor read_post_processor(const Json& json, const std::string& where);

}  // namespace mmtune::text
