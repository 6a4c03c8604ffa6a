#include "text/model.h"

#include "text/bpe.h"
#include "text/json_fields.h"
#include "text/unigram.h"
#include "text/wordpiece.h"

namespace mmtune::text {

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
