#include "text/model.h"

#include "text/bpe.h"
#include "text/json_fields.h"
#include "text/unicode.h"
#include "text/unigram.h"
#include "text/wordpiece.h"

namespace mmtune::text {

void encode_word(std::span<const Char> word, ModelBuffers& buffers) {
  buffers.bytes.clear();
  buffers.starts.clear();
  for (const Char& c : word) {
    buffers.starts.push_back(static_cast<std::uint32_t>(buffers.bytes.size()));
    append_utf8(buffers.bytes, c.code);
  }
  buffers.starts.push_back(static_cast<std::uint32_t>(buffers.bytes.size()));
}

std::vector<std::int64_t> byte_ids(const Vocabulary& vocabulary) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::vector<std::int64_t> ids;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const std::string token = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    ids.push_back(vocabulary.find(token).value_or(-1));
  }
  return ids;
}

std::unique_ptr<Model> read_model(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  // Files of early versions do not name the model; only its settings tell which it is.
  const bool is_list = json.contains("vocab") && json["vocab"].is_array();
  const std::string otherwise = json.contains("merges") ? "BPE" : is_list ? "Unigram" : "WordPiece";
  const std::string type = fields.optional("type") != nullptr ? fields.string("type") : otherwise;
  if (type != "WordPiece" && type != "BPE" && type != "Unigram") refuse_component(where, type, "WordPiece, BPE or Unigram");
  auto made = type == "BPE" ? read_bpe(fields) : type == "Unigram" ? read_unigram(fields) : read_wordpiece(fields);
  fields.finish();
  return made;
}

}  // namespace mmtune::text
