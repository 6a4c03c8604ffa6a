#include "text/post_processor.h"

#include <map>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/vocabulary.h"

namespace mmtune::text {

namespace {

constexpr std::int64_t kLongestTemplate = 64;

using SpecialTokens = std::map<std::string, TemplatePiece>;

std::int64_t count_added(const std::vector<TemplatePiece>& pieces) {
  std::int64_t count = 0;
  for (const TemplatePiece& piece : pieces) count += static_cast<std::int64_t>(piece.ids.size());
  return count;
}

TemplatePiece special(const std::string& token, std::int64_t id, std::int64_t type_id) {
  return {.sequence = -1, .ids = {id}, .tokens = {token}, .type_id = type_id};
}

TemplatePiece sequence(int which, std::int64_t type_id) {
  return {.sequence = which, .ids = {}, .tokens = {}, .type_id = type_id};
}

std::pair<std::string, std::int64_t> read_named_id(JsonFields& fields, std::string_view key) {
  const Json& value = fields.array(key);
  if (value.size() != 2 || !value[0].is_string() || !value[1].is_number_unsigned() ||
      value[1].get<std::uint64_t>() > static_cast<std::uint64_t>(Vocabulary::kLargestId)) {
    fields.fail(key, "[token, id]", value);
  }
  return {value[0].get<std::string>(), value[1].get<std::int64_t>()};
}

SpecialTokens read_special_tokens(const Json& json, const std::string& where) {
  SpecialTokens result;
  for (const auto& [name, value] : json.items()) {
    JsonFields fields(value, where + "." + printable(name, 40));
    TemplatePiece piece;
    fields.string("id");
    for (const Json& id : fields.array("ids")) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(Vocabulary::kLargestId)) {
        fields.fail("ids", "a list of ids", id);
      }
      piece.ids.push_back(id.get<std::int64_t>());
    }
    for (const Json& token : fields.array("tokens")) {
      if (!token.is_string()) fields.fail("tokens", "a list of strings", token);
      piece.tokens.push_back(token.get<std::string>());
    }
    if (piece.ids.size() != piece.tokens.size()) {
      throw Error({.what = "ids and tokens have different lengths",
                   .where = fields.where(),
                   .got = std::to_string(piece.ids.size()) + " and " + std::to_string(piece.tokens.size())});
    }
    fields.finish();
    result.emplace(name, std::move(piece));
  }
  return result;
}

TemplatePiece read_piece(const Json& json, const SpecialTokens& specials, bool is_pair, const std::string& where) {
  JsonFields fields(json, where);
  if (fields.optional("Sequence") != nullptr) {
    JsonFields body(fields.any("Sequence"), where + ".Sequence");
    const std::string id = body.string("id");
    if (id != "A" && !(id == "B" && is_pair)) body.fail("id", is_pair ? "A or B" : "A", body.any("id"));
    const std::int64_t type_id = body.integer("type_id", 0, Vocabulary::kLargestId);
    body.finish();
    fields.finish();
    return sequence(id == "A" ? 0 : 1, type_id);
  }
  JsonFields body(fields.any("SpecialToken"), where + ".SpecialToken");
  const std::string id = body.string("id");
  const auto found = specials.find(id);
  if (found == specials.end()) {
    throw Error({.what = "special token '" + printable(id, 40) + "' is not among the template's special_tokens", .where = body.where()});
  }
  TemplatePiece piece = found->second;
  piece.type_id = body.integer("type_id", 0, Vocabulary::kLargestId);
  body.finish();
  fields.finish();
  return piece;
}

std::vector<TemplatePiece> read_pieces(JsonFields& fields, std::string_view key, const SpecialTokens& specials, bool is_pair) {
  std::vector<TemplatePiece> pieces;
  for (const Json& json : fields.array(key)) {
    const std::string where = fields.where() + "." + std::string(key) + "[" + std::to_string(pieces.size()) + "]";
    pieces.push_back(read_piece(json, specials, is_pair, where));
  }
  // A hostile file could otherwise make a huge result of an empty text.
  if (count_added(pieces) + static_cast<std::int64_t>(pieces.size()) > kLongestTemplate) {
    throw Error({.what = "template '" + std::string(key) + "' is too long",
                 .where = fields.where(),
                 .expected = "at most " + std::to_string(kLongestTemplate) + " pieces and tokens"});
  }
  return pieces;
}

OffsetTrim read_trim(JsonFields& fields) {
  const bool added = fields.boolean("add_prefix_space");
  if (!fields.boolean("trim_offsets")) return OffsetTrim::none;
  return added ? OffsetTrim::but_the_added : OffsetTrim::all_spaces;
}

// Of one processor, or of ByteLevel, which only trims, and one that does not trim.
PostProcessor read_sequence(JsonFields& fields) {
  const Json& parts = fields.array("processors");
  const std::string where = fields.where() + ".processors";
  const auto refuse = [&] {
    throw Error({.what = "unsupported sequence of post-processors", .where = where, .expected = "one, or ByteLevel and then one other"});
  };
  if (parts.empty() || parts.size() > 2) refuse();
  PostProcessor first = read_post_processor(parts[0], where + "[0]");
  if (parts.size() == 1) return first;
  PostProcessor second = read_post_processor(parts[1], where + "[1]");
  if (parts[0]["type"] != "ByteLevel" || (first.trim != OffsetTrim::none && second.trim != OffsetTrim::none)) refuse();
  if (second.trim == OffsetTrim::none) second.trim = first.trim;
  return second;
}

}  // namespace

std::int64_t PostProcessor::added(bool is_pair) const {
  return count_added(is_pair ? pair : single);
}

PostProcessor plain_post_processor() {
  return {.single = {sequence(0, 0)}, .pair = {sequence(0, 0), sequence(1, 1)}};
}

PostProcessor bert_post_processor(const std::string& cls, std::int64_t cls_id, const std::string& sep, std::int64_t sep_id) {
  PostProcessor made;
  made.single = {special(cls, cls_id, 0), sequence(0, 0), special(sep, sep_id, 0)};
  made.pair = made.single;
  made.pair.push_back(sequence(1, 1));
  made.pair.push_back(special(sep, sep_id, 1));
  return made;
}

PostProcessor roberta_post_processor(const std::string& cls, std::int64_t cls_id, const std::string& sep, std::int64_t sep_id) {
  PostProcessor made;
  made.single = {special(cls, cls_id, 0), sequence(0, 0), special(sep, sep_id, 0)};
  made.pair = made.single;
  made.pair.insert(made.pair.end(), {special(sep, sep_id, 0), sequence(1, 0), special(sep, sep_id, 0)});
  return made;
}

PostProcessor framing_post_processor(const AddedToken* begin, const AddedToken* end) {
  PostProcessor made;
  for (const int which : {0, 1}) {
    if (begin != nullptr) made.pair.push_back(special(begin->content, begin->id, which));
    made.pair.push_back(sequence(which, which));
    if (end != nullptr) made.pair.push_back(special(end->content, end->id, which));
    if (which == 0) made.single = made.pair;
  }
  return made;
}

PostProcessor ending_post_processor(const AddedToken& end) {
  const TemplatePiece last = special(end.content, end.id, 0);
  return {.single = {sequence(0, 0), last}, .pair = {sequence(0, 0), last, sequence(1, 0), last}};
}

PostProcessor read_post_processor(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  const std::string type = fields.string("type");
  PostProcessor made;
  if (type == "TemplateProcessing") {
    const SpecialTokens specials = read_special_tokens(fields.object("special_tokens"), where + ".special_tokens");
    made.single = read_pieces(fields, "single", specials, false);
    made.pair = read_pieces(fields, "pair", specials, true);
  } else if (type == "BertProcessing") {
    const auto [sep, sep_id] = read_named_id(fields, "sep");
    const auto [cls, cls_id] = read_named_id(fields, "cls");
    made = bert_post_processor(cls, cls_id, sep, sep_id);
  } else if (type == "RobertaProcessing") {
    const auto [sep, sep_id] = read_named_id(fields, "sep");
    const auto [cls, cls_id] = read_named_id(fields, "cls");
    made = roberta_post_processor(cls, cls_id, sep, sep_id);
    made.trim = read_trim(fields);
  } else if (type == "ByteLevel") {
    made = plain_post_processor();
    made.trim = read_trim(fields);
    fields.boolean_or("use_regex", true);  // of the pre-tokenizer of this name
  } else if (type == "Sequence") {
    made = read_sequence(fields);
  } else {
    refuse_component(where, type, "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or Sequence");
  }
  fields.finish();
  return made;
}

}  // namespace mmtune::text
