#include "train/pretrain/word_pieces.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "io/checkpoint.h"
#include "nn/weights.h"
#include "text/tokenizer.h"

namespace mmtune::train {

namespace {

constexpr std::array<const char*, WordPieces::specials> special_pieces = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

bool is_single(std::string_view token) {
  if (token.starts_with("##")) token.remove_prefix(2);
  return token.size() == 1 && static_cast<unsigned char>(token.front()) < 128;
}

}  // namespace

WordPieces choose_word_pieces(const std::filesystem::path& model, const std::vector<std::string>& texts, std::int64_t count) {
  const std::unique_ptr<text::Tokenizer> tokenizer = text::Tokenizer::open(model);
  const std::string where = model.string();
  WordPieces pieces;
  for (const char* token : special_pieces) {
    const std::optional<std::int64_t> id = tokenizer->id_of(token);
    if (!id) throw Error({.what = "the tokenizer has no such piece", .where = where, .expected = token});
    pieces.tokens.emplace_back(token);
    pieces.rows.push_back(*id);
  }
  const std::set<std::int64_t> special(pieces.rows.begin(), pieces.rows.end());
  std::set<std::int64_t> kept;
  for (std::int64_t id = 0; id < tokenizer->vocabulary_size(); ++id)
    if (const std::optional<std::string> token = tokenizer->token_of(id); token && !special.contains(id) && is_single(*token))
      kept.insert(id);
  const std::int64_t room = count - WordPieces::specials;
  if (static_cast<std::int64_t>(kept.size()) > room)
    throw UsageError({.what = "too few pieces for single characters",
                      .where = "model.vocabulary",
                      .expected = "at least " + std::to_string(kept.size() + WordPieces::specials),
                      .got = std::to_string(count)});
  std::map<std::int64_t, std::int64_t> uses;
  for (const std::string& text : texts)
    for (const std::int64_t id : tokenizer->encode(text, {.add_special_tokens = false, .with_offsets = false}).ids) ++uses[id];
  std::vector<std::pair<std::int64_t, std::int64_t>> used;  // minus how often, id
  for (const auto& [id, often] : uses)
    if (!special.contains(id)) used.emplace_back(-often, id);
  std::sort(used.begin(), used.end());
  for (const auto& [often, id] : used)
    if (static_cast<std::int64_t>(kept.size()) < room) kept.insert(id);
  for (std::int64_t id = 0; id < tokenizer->vocabulary_size() && static_cast<std::int64_t>(kept.size()) < room; ++id) {
    const std::optional<std::string> token = tokenizer->token_of(id);
    if (token && !special.contains(id) && !token->starts_with("[unused")) kept.insert(id);
  }
  for (const std::int64_t id : kept) {
    pieces.tokens.push_back(*tokenizer->token_of(id));
    pieces.rows.push_back(id);
  }
  pieces.lowercase = tokenizer->encode("A", {.add_special_tokens = false}).ids == tokenizer->encode("a", {.add_special_tokens = false}).ids;
  return pieces;
}

void WordPieces::write(const std::filesystem::path& folder, std::int64_t longest) const {
  std::string lines;
  for (const std::string& token : tokens) lines += token + "\n";
  const Json config = {{"tokenizer_class", "BertTokenizer"},
                       {"do_lower_case", lowercase},
                       {"model_max_length", longest},
                       {"pad_token", "[PAD]"},
                       {"unk_token", "[UNK]"},
                       {"cls_token", "[CLS]"},
                       {"sep_token", "[SEP]"},
                       {"mask_token", "[MASK]"}};
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw Error({.what = "cannot make the folder: " + error.message(), .where = folder.string()});
  write_file_atomically(folder / "vocab.txt", lines);
  write_file_atomically(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

at::Tensor embeddings_of(const WordPieces& pieces, const std::filesystem::path& model, std::int64_t width, double deviation) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(model);
  const nn::Weights weights = nn::Weights::of(checkpoint, {"", "bert."}, "embeddings.word_embeddings.weight");
  const auto shape = weights.shape_of("embeddings.word_embeddings.weight");
  if (!shape || shape->size() != 2)
    throw Error({.what = "not a BERT", .where = model.string(), .expected = "embeddings.word_embeddings.weight"});
  const at::Tensor all = weights.tensor("embeddings.word_embeddings.weight", *shape);
  const at::Tensor rows = all.index_select(0, at::tensor(pieces.rows, at::kLong));
  const auto [u, s, v] = at::linalg_svd(rows - rows.mean(0, true), false);
  const std::int64_t kept = std::min(width, s.size(0));
  const at::Tensor strongest = u.slice(1, 0, kept) * s.slice(0, 0, kept);
  const at::Tensor scaled = strongest * (deviation / strongest.pow(2).mean().sqrt().clamp_min(1e-12));
  return at::constant_pad_nd(scaled, {0, width - kept}).contiguous();
}

}  // namespace mmtune::train
