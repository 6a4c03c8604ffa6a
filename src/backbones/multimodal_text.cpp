#include "backbones/multimodal_text.h"

#include <optional>
#include <string>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

namespace fs = std::filesystem;

/// Longest instruction that a Q-Former gets, special tokens included; the beginning of a longer one is left out.
constexpr std::size_t longest_question = 128;

TokenIds plain(const text::Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.add_special_tokens = false, .with_offsets = false}).ids;
}

std::int64_t special(const text::Tokenizer& tokenizer, std::string_view token, const fs::path& folder) {
  const std::optional<std::int64_t> id = tokenizer.id_of(token);
  if (!id)
    throw Error({.what = "the tokenizer lacks a token of the family's prompts", .where = folder.string(), .expected = std::string(token)});
  return *id;
}

TokenIds joined(std::initializer_list<TokenIds> parts) {
  TokenIds all;
  for (const TokenIds& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// A line's end as one token where the vocabulary has its byte: said by itself, SentencePiece would put a space in front of it.
TokenIds newline(const text::Tokenizer& tokenizer) {
  if (const std::optional<std::int64_t> byte = tokenizer.id_of("<0x0A>")) return {*byte};
  return plain(tokenizer, "\n");
}

/// The end symbol where it is text, which the released code tokenises together with the answer in front of it.
std::string_view spoken_end(MultimodalFamily family) {
  if (family == MultimodalFamily::minigpt4) return "\n";
  return family == MultimodalFamily::vpgtrans ? "###" : "";
}

/// Sequences of section 6 of the method's specification, as the released code builds them.
PromptFormat format_of(MultimodalFamily family, bool encoder_decoder, const text::Tokenizer& tokenizer, const fs::path& folder) {
  const auto say = [&](std::string_view text) { return plain(tokenizer, text); };
  const auto token = [&](std::string_view text) { return special(tokenizer, text, folder); };
  PromptFormat format;
  if (encoder_decoder) {
    format.training.tail = {token("</s>")};
    format.answer_end = {token("</s>")};
    format.generation = format.training;
    if (family == MultimodalFamily::blip2) {
      format.generation.behind = say("Question:");
      format.generation.tail = joined({say("Answer:"), {token("</s>")}});
    }
    return format;
  }
  switch (family) {
    case MultimodalFamily::minigpt4:
    case MultimodalFamily::vpgtrans:
      format.training = {.before = joined({{token("<s>")}, say("<Img>")}), .behind = say("</Img>"), .tail = {}};
      format.scoring = format.training;
      format.answer_end = family == MultimodalFamily::minigpt4 ? newline(tokenizer) : say("###");
      format.generation = {
          .before = joined({{token("<s>")}, say("###Human: <Img>")}), .behind = say("</Img>"), .tail = say("###Assistant:")};
      break;
    case MultimodalFamily::instructblip:
    case MultimodalFamily::bliva:
      // The released code's tokenizer takes the end symbol for the beginning's.
      format.training.behind = {token("</s>")};
      format.answer_end = {token("</s>")};
      format.generation = format.training;
      if (family == MultimodalFamily::bliva) {
        format.scores_patches = false;
        format.generation.behind = joined({{token("</s>")}, say("Question:")});
        format.generation.tail = say("Short answer:");
      }
      break;
    case MultimodalFamily::blip2:
      // OPT's tokenizer begins every text with the end symbol. The released code never trains an answer here; this is the consistent form.
      format.training.behind = {token("</s>")};
      format.scoring = format.training;
      format.answer_end = {token("</s>")};
      format.generation = {.before = {}, .behind = joined({{token("</s>")}, say("Question:")}), .tail = say("Answer:")};
      break;
    case MultimodalFamily::llava:
      format.training = {.before = joined({{token("<s>")}, say("USER:")}), .behind = newline(tokenizer), .tail = say("ASSISTANT:")};
      format.scoring = format.generation = format.training;
      format.answer_end = {token("</s>")};
      break;
  }
  return format;
}

}  // namespace

MultimodalText MultimodalText::open(const fs::path& folder, MultimodalLm& model) {
  MultimodalText text;
  text.family_ = model.multimodal().family;
  text.tokenizer_ = text::Tokenizer::open(folder);
  if (model.multimodal().reads_instruction) {
    const fs::path own = folder / "qformer_tokenizer";
    std::error_code ignored;
    if (!fs::is_directory(own, ignored))
      throw Error({.what = "the tokenizer of the Q-Former is missing", .where = own.string(), .expected = "BERT's vocabulary"});
    text.qformer_tokenizer_ = text::Tokenizer::open(own);
  }
  model.set_format(format_of(text.family_, model.multimodal().encoder_decoder, *text.tokenizer_, folder));
  text.answer_end_ = model.format().answer_end;
  return text;
}

Instruction MultimodalText::instruction(std::string_view text) const {
  Instruction made{.words = plain(*tokenizer_, text), .qformer = {}};
  if (!qformer_tokenizer_) return made;
  made.qformer = qformer_tokenizer_->encode(text, {.with_offsets = false}).ids;
  // Truncated on the left, between [CLS] and [SEP].
  if (made.qformer.size() > longest_question) {
    const auto first = made.qformer.begin() + 1;
    made.qformer.erase(first, first + static_cast<std::ptrdiff_t>(made.qformer.size() - longest_question));
  }
  return made;
}

TokenIds MultimodalText::tokens(std::string_view text) const {
  TokenIds ids = plain(*tokenizer_, text);
  if (ids.empty())
    throw Error({.what = "an answer has no tokens", .where = "\"" + printable(text) + "\"", .expected = "a text that is not empty"});
  return ids;
}

TokenIds MultimodalText::answer(std::string_view text) const {
  if (const std::string_view end = spoken_end(family_); !end.empty()) {
    tokens(text);  // refuses a text without tokens
    return tokens(std::string(text) + std::string(end));
  }
  return joined({tokens(text), answer_end_});
}

TokenIds MultimodalText::candidate(std::string_view text, SequenceFormat format) const {
  return format == SequenceFormat::official ? tokens(text) : answer(text);
}

}  // namespace mmtune::backbones
