#pragma once
// Post-processors: the `post_processor` section of tokenizer.json. They put special tokens around one sequence or between two.

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/added_tokens.h"

namespace mmtune::text {

/// A piece of a template: a sequence (0 or 1), or special tokens.
struct TemplatePiece {
  int sequence = -1;                ///< 0 or 1; −1 for special tokens
  std::vector<std::int64_t> ids;    ///< of the special tokens
  std::vector<std::string> tokens;  ///< beside ids
  std::int64_t type_id = 0;
};

/// How offsets lose the spaces that byte-level tokens begin and end with.
enum class OffsetTrim {
  none,
  all_spaces,     ///< every one
  but_the_added,  ///< a first token's only space stays: it was added and is not in the text
};

/// What is made of one sequence and of two. Every kind of post-processor comes down to this.
struct PostProcessor {
  std::vector<TemplatePiece> single;
  std::vector<TemplatePiece> pair;
  OffsetTrim trim = OffsetTrim::none;

  /// How many special tokens are added.
  std::int64_t added(bool is_pair) const;
};

/// Nothing added: the first sequence has type 0, the second 1.
PostProcessor plain_post_processor();
/// [CLS] A [SEP] of type 0, B [SEP] of type 1.
PostProcessor bert_post_processor(const std::string& cls, std::int64_t cls_id, const std::string& sep, std::int64_t sep_id);

/// <s> A </s>, with </s> B </s> behind it for a pair, all of type 0.
PostProcessor roberta_post_processor(const std::string& cls, std::int64_t cls_id, const std::string& sep, std::int64_t sep_id);

/// `begin` A `end` of type 0, with `begin` B `end` of type 1 behind it for a pair; nullptr: not there. As transformers makes it of
/// add_bos_token and add_eos_token.
PostProcessor framing_post_processor(const AddedToken* begin, const AddedToken* end);
/// A `end`, with B `end` behind it for a pair, all of type 0.
PostProcessor ending_post_processor(const AddedToken& end);

/// Reads a post-processor: TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, or a Sequence of one of them, ByteLevel
/// before it or not. Throws Error naming `where` and the component.
PostProcessor read_post_processor(const Json& json, const std::string& where);

}  // namespace mmtune::text
