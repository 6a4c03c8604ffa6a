#include "text/model.h"

#include "text/bpe.h"
#include "text/json_fields.h"
#include "text/wordpiece.h"

namespace mmtune::text {

std::unique_ptr<Model> read_model(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  // Files of early versions do not name the model; only its settings tell which it is.
  const std::string otherwise = json.contains("merges") ? "BPE" : "WordPiece";
  const std::string type = fields.optional("type") != nullptr ? fields.string("type") : otherwise;
  if (type != "WordPiece" && type != "BPE") refuse_component(where, type, "WordPiece or BPE");
  auto made = type == "BPE" ? read_bpe(fields) : read_wordpiece(fields);
  fields.finish();
  return made;
}

}  // namespace mmtune::text
