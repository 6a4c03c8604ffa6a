#include "data/row_parser.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.h"
#include "data/filter.h"

namespace mmtune::data {

namespace {

constexpr std::array<std::string_view, 10> known_fields = {"id",    "text",  "text_pair", "image",  "image_pair",
                                                           "audio", "video", "label",     "labels", "answers"};

bool is_modality(std::string_view field) {
  return field.starts_with("text") || field.starts_with("image") || field == "audio" || field == "video";
}

std::string field_names(const Json& row) {
  std::string names;
  for (const auto& [name, value] : row.items()) {
    if (names.size() > 200) return names + ", …";
    names += (names.empty() ? "" : ", ") + printable(name, 40);
  }
  return names;
}

bool is_pattern(std::string_view column) {
  const std::size_t open = column.find('{');
  return open != std::string_view::npos && column.find('}', open) != std::string_view::npos;
}

bool is_sound(std::string_view name) {
  for (const std::string_view ending : {".wav", ".flac", ".ogg", ".WAV", ".FLAC", ".OGG"}) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

}  // namespace

struct RowParser::Cursor {
  const Row& row;
  const Json* joined;
  const std::filesystem::path& joined_folder;
};

RowParser::RowParser(const ReadOptions& options, MediaIndex* media) : options_(options), media_(media) {
  std::error_code ignored;
  const std::filesystem::path path = options.path;
  folder_ = std::filesystem::is_directory(path, ignored) ? path : path.parent_path();
  for (const auto& [ours, theirs] : options.columns) {
    if (std::find(known_fields.begin(), known_fields.end(), ours) == known_fields.end()) {
      throw UsageError({.what = "no field of an example",
                        .where = "columns." + printable(ours),
                        .expected = "one of id, text, text_pair, image, image_pair, audio, video, label, labels, answers"});
    }
    if (theirs.empty()) throw UsageError({.what = "the column's name is empty", .where = "columns." + ours});
    columns_[ours] = theirs;
    if (is_modality(ours)) seen_[ours] = false;
  }
  for (const std::string_view field : known_fields) columns_.try_emplace(std::string(field), field);
  if (options.columns.contains("label") && options.columns.contains("labels")) {
    throw UsageError({.what = "give a column for label or for labels, not for both", .where = "columns"});
  }
  // A mapped label replaces the other spelling too, lest a file's own column of that name interfere.
  if (options.columns.contains("label")) columns_.erase("labels");
  if (options.columns.contains("labels")) columns_.erase("label");
}

RowParser::Value RowParser::find(const Cursor& cursor, const std::string& field) {
  if (const auto own = cursor.row.fields.find(field); own != cursor.row.fields.end() && !own->is_null()) return {&*own, false};
  if (cursor.joined == nullptr) return {};
  const auto other = cursor.joined->find(field);
  return other == cursor.joined->end() || other->is_null() ? Value{} : Value{&*other, true};
}

RowParser::Value RowParser::column(const Cursor& cursor, std::string_view ours) {
  const auto name = columns_.find(ours);
  if (name == columns_.end()) return {};
  if (const auto mark = seen_.find(ours); mark != seen_.end() && !mark->second) {
    mark->second = cursor.row.fields.contains(name->second) || (cursor.joined != nullptr && cursor.joined->contains(name->second));
  }
  return find(cursor, name->second);
}

const std::string& RowParser::source_name(std::string_view ours) const {
  return columns_.find(ours)->second;
}

void RowParser::fail(const Cursor& cursor, std::string_view ours, std::string what, std::string expected, std::string got,
                     std::string hint) const {
  throw Error({.what = "field '" + printable(source_name(ours)) + "': " + std::move(what),
               .where = cursor.row.where,
               .expected = std::move(expected),
               .got = std::move(got),
               .hint = std::move(hint)});
}

/// "pictures/{photo}.jpg" with the row's own values; nothing where the row lacks one of them.
std::optional<std::string> RowParser::filled(const Cursor& cursor, std::string_view pattern) const {
  std::string text;
  for (;;) {
    const std::size_t open = pattern.find('{'), close = pattern.find('}', open);
    if (open == std::string_view::npos || close == std::string_view::npos) return text + std::string(pattern);
    text += pattern.substr(0, open);
    // "{image_id:012}" fills with zeros from the left to twelve digits.
    std::string field(pattern.substr(open + 1, close - open - 1));
    std::size_t digits = 0;
    if (const std::size_t colon = field.rfind(":0"); colon != std::string::npos) {
      const char* const end = field.data() + field.size();
      const auto [read, failure] = std::from_chars(field.data() + colon + 2, end, digits);
      if (failure == std::errc() && read == end && digits <= 64) {
        field.resize(colon);
      } else {
        digits = 0;
      }
    }
    const Value value = find(cursor, field);
    if (value.json == nullptr) return std::nullopt;
    const auto own = scalar_text(*value.json);
    if (!own)
      throw Error({.what = "field '" + printable(field) + "': wrong type",
                   .where = cursor.row.where,
                   .expected = "a text or an integer",
                   .got = value.json->type_name()});
    text += (own->size() < digits ? std::string(digits - own->size(), '0') : "") + *own;
    pattern.remove_prefix(close + 1);
  }
}

ParsedRow RowParser::parse(const Row& row, const Json* joined, const std::filesystem::path& joined_folder) {
  std::optional<Row> completed;
  for (const auto& [ours, theirs] : columns_) {
    if (!is_pattern(theirs) || row.fields.contains(theirs)) continue;
    if (!completed) completed = row;
    if (auto text = filled(Cursor{row, joined, joined_folder}, theirs)) completed->fields[theirs] = std::move(*text);
  }
  return parse_completed(completed ? *completed : row, joined, joined_folder);
}

ParsedRow RowParser::parse_completed(const Row& row, const Json* joined, const std::filesystem::path& joined_folder) {
  if (first_fields_.empty()) first_fields_ = field_names(row.fields) + (joined == nullptr ? "" : "; joined: " + field_names(*joined));
  const Cursor cursor{row, joined, joined_folder};
  ParsedRow parsed;
  Example& example = parsed.example;
  example.id = id(cursor);
  example.text = text(cursor, "text");
  example.text_pair = text(cursor, "text_pair");
  example.image = media(cursor, "image", parsed.media_key);
  example.image_pair = media(cursor, "image_pair", parsed.media_key);
  example.audio = media(cursor, "audio", parsed.media_key);
  example.video = media(cursor, "video", parsed.media_key);
  take_shard(cursor, parsed);
  if (!example.text && !example.text_pair && !example.image && !example.image_pair && !example.audio && !example.video) {
    std::string hint = "say which field is what with data.columns";
    for (const auto& [ours, theirs] : options_.columns) hint += "; now " + ours + " = \"" + printable(theirs) + "\"";
    throw Error({.what = "the row has neither text nor image nor audio nor video",
                 .where = row.where,
                 .got = "the fields " + field_names(row.fields) + (joined == nullptr ? "" : "; joined: " + field_names(*joined)),
                 .hint = hint});
  }
  parsed.labels = labels(cursor);
  example.answers = answers(cursor);
  return parsed;
}

std::string RowParser::id(const Cursor& cursor) {
  const Value value = column(cursor, "id");
  // The joined row's id is another thing's: many rows may share it.
  if (value.json == nullptr || (value.from_join && !options_.columns.contains("id"))) return cursor.row.id;
  const auto text = scalar_text(*value.json);
  if (!text || text->empty()) fail(cursor, "id", "wrong type", "text or an integer", text ? "empty text" : value.json->type_name());
  return *text;
}

std::optional<std::string> RowParser::text(const Cursor& cursor, std::string_view ours) {
  const Value value = column(cursor, ours);
  if (value.json == nullptr) return std::nullopt;
  if (!value.json->is_string()) fail(cursor, ours, "wrong type", "text, or null for none", value.json->type_name());
  const auto& text = value.json->get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n\v\f") == std::string::npos) {
    fail(cursor, ours, "the text is empty", "", "", "leave the field out, or null, where there is no text");
  }
  return text;
}

std::optional<MediaRef> RowParser::media(const Cursor& cursor, std::string_view ours, std::string& key) {
  const Value value = column(cursor, ours);
  if (value.json == nullptr) return std::nullopt;
  if (!value.json->is_string()) fail(cursor, ours, "wrong type", "a path, or null for none", value.json->type_name());
  const auto& written = value.json->get_ref<const std::string&>();
  MediaRef media;
  try {
    media = parse_media(written, value.from_join ? cursor.joined_folder : folder_);
  } catch (const Error& error) {
    fail(cursor, ours, error.parts().what, error.parts().expected, error.parts().got, error.parts().hint);
  }
  return checked(cursor, ours, std::move(media), written, key);
}

std::optional<MediaRef> RowParser::checked(const Cursor& cursor, std::string_view ours, MediaRef media, std::string_view written,
                                           std::string& key) {
  std::uint64_t bytes = media.size;
  if (media_ != nullptr) {
    try {
      auto found = ours == "video" ? media_->find_video(std::move(media)) : media_->find(std::move(media));
      media = std::move(found.media);
      bytes = found.bytes;
    } catch (const Error& error) {
      fail(cursor, ours, error.what());
    }
  }
  key += std::string(ours) + "=" + std::string(written) + "=" + std::to_string(media.offset) + "+" + std::to_string(bytes) + "\n";
  return media;
}

std::uint64_t RowParser::count(const Cursor& cursor, const std::string& field, const Json& value) const {
  const auto text = scalar_text(value);
  std::uint64_t number = 0;
  if (text) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
    if (error == std::errc() && end == text->data() + text->size() && number < (std::uint64_t{1} << 62)) return number;
  }
  throw Error({.what = "field '" + field + "'",
               .where = cursor.row.where,
               .expected = "a number of bytes",
               .got = text ? "'" + printable(*text, 40) + "'" : value.type_name()});
}

/// {"shard", "offset", "size", "member"} without a media field of its own: the range is the example's picture, or its sound where the
/// member's name says so.
void RowParser::take_shard(const Cursor& cursor, ParsedRow& parsed) {
  const Value shard = find(cursor, "shard");
  if (shard.json == nullptr) return;
  // All four belong to the row that names the shard.
  const Json& fields = shard.from_join ? *cursor.joined : cursor.row.fields;
  const auto sibling = [&](const std::string& field) -> const Json* {
    const auto found = fields.find(field);
    return found == fields.end() || found->is_null() ? nullptr : &*found;
  };
  const auto fault = [&](const std::string& field, const std::string& what) -> Error {
    return Error({.what = "field '" + field + "': " + what, .where = cursor.row.where});
  };
  const Json* member = sibling("member");
  if (member != nullptr && !member->is_string()) throw fault("member", std::string("expected a name, got ") + member->type_name());
  const std::string name = member == nullptr ? "" : member->get<std::string>();
  const bool sound = is_sound(name);
  std::optional<MediaRef>& target = sound ? parsed.example.audio : parsed.example.image;
  if (target) return;

  const Json* offset = sibling("offset");
  const Json* size = sibling("size");
  if ((offset == nullptr) != (size == nullptr)) throw fault(offset == nullptr ? "offset" : "size", "is missing beside the other");
  if (offset == nullptr && member == nullptr) throw fault("shard", "stands without offset and size, or member");
  if (!shard.json->is_string() || shard.json->get_ref<const std::string&>().empty()) throw fault("shard", "expected a path");
  if (member != nullptr) {
    if (const auto wrong = member_name_fault(name); !wrong.empty()) throw fault("member", "the name " + std::string(wrong));
  }
  MediaRef media;
  const auto& written = shard.json->get_ref<const std::string&>();
  try {
    media = parse_media(written, shard.from_join ? cursor.joined_folder : folder_);
  } catch (const Error& error) {
    throw fault("shard", error.what());
  }
  if (!media.member.empty()) throw fault("shard", "expected a path without '#'");
  media.member = name;
  if (offset != nullptr) {
    media.offset = count(cursor, "offset", *offset);
    media.size = count(cursor, "size", *size);
    if (media.size == 0) throw fault("size", "the range is empty");
  }
  if (!sound) media.form = read_picture_form(fields, media.size, cursor.row.where);
  target = checked(cursor, sound ? "audio" : "image", std::move(media), written + "#" + name, parsed.media_key);
}

std::optional<std::vector<std::string>> RowParser::labels(const Cursor& cursor) {
  const Value one = column(cursor, "label");
  const Value many = column(cursor, "labels");
  if (one.json != nullptr && many.json != nullptr) fail(cursor, "labels", "the row has a label and labels; only one of them may be there");
  const std::string_view ours = many.json != nullptr ? "labels" : "label";
  const Value value = many.json != nullptr ? many : one;
  if (value.json == nullptr) {
    if (options_.require_labels || options_.shots > 0) {
      throw Error({.what = "the row has no label",
                   .where = cursor.row.where,
                   .expected = "the field '" + source_name(columns_.contains("label") ? "label" : "labels") + "'",
                   .got = "the fields " + field_names(cursor.row.fields)});
    }
    return std::nullopt;
  }
  if (options_.multi_label) return label_list(cursor, ours, *value.json);
  if (value.json->is_array()) fail(cursor, ours, "wrong type", "one label", "a list", "set multi_label = true for lists");
  return std::vector<std::string>{label_text(cursor, ours, *value.json)};
}

std::vector<std::string> RowParser::label_list(const Cursor& cursor, std::string_view ours, const Json& value) const {
  std::vector<std::string> labels;
  if (value.is_array()) {
    for (const Json& item : value) labels.push_back(label_text(cursor, ours, item));
  } else if (value.is_string() && !options_.label_separator.empty() && cursor.row.untyped) {
    std::string_view rest = value.get_ref<const std::string&>();
    for (;;) {
      const std::size_t end = rest.find(options_.label_separator);
      labels.push_back(label_text(cursor, ours, Json(std::string(rest.substr(0, end)))));
      if (end == std::string_view::npos) break;
      rest.remove_prefix(end + options_.label_separator.size());
    }
  } else {
    labels.push_back(label_text(cursor, ours, value));
  }
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  return labels;
}

std::string RowParser::label_text(const Cursor& cursor, std::string_view ours, const Json& value) const {
  const auto text = scalar_text(value);
  if (!text) fail(cursor, ours, "wrong type", "a name, an integer or a boolean", value.is_number() ? value.dump() : value.type_name());
  if (text->empty()) fail(cursor, ours, "the label is empty", "", "", "leave the field out, or null, where there is none");
  return *text;
}

std::vector<std::string> RowParser::answers(const Cursor& cursor) {
  const Value value = column(cursor, "answers");
  if (value.json == nullptr) return {};
  std::vector<std::string> answers;
  const auto add = [&](const Json& item) {
    const auto text = scalar_text(item);
    if (!text) fail(cursor, "answers", "wrong type", "a text or a list of texts", item.type_name());
    answers.push_back(*text);
  };
  if (!value.json->is_array()) {
    add(*value.json);
  } else {
    for (const Json& item : *value.json) add(item);
  }
  return answers;
}

void RowParser::check_columns_seen() const {
  if (!options_.columns_must_exist) return;
  for (const auto& [ours, seen] : seen_) {
    if (seen) continue;
    throw Error({.what = "no row has the field '" + printable(source_name(ours)) + "' that columns." + ours + " names",
                 .where = options_.path,
                 .hint = "the first row has " + first_fields_});
  }
}

}  // namespace mmtune::data
