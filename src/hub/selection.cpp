#include "hub/selection.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/listed.h"

namespace mmtune::hub {

namespace {

constexpr std::array needed{"config.json",
                            "generation_config.json",
                            "tokenizer.json",
                            "tokenizer_config.json",
                            "special_tokens_map.json",
                            "added_tokens.json",
                            "vocab.txt",
                            "vocab.json",
                            "merges.txt",
                            "*.model",
                            "preprocessor_config.json",
                            "processor_config.json",
                            "feature_extractor_config.json",
                            "projection.safetensors",
                            "adapter_config.json",
                            "adapter_model.safetensors"};
constexpr std::string_view single_weights = "model.safetensors";
constexpr std::array sharded_weights{"model.safetensors.index.json", "model-*-of-*.safetensors"};

/// Where a set "[…]" at `begin` ends (behind its bracket), and whether it has `c`; 0 where no bracket closes it.
std::size_t match_set(std::string_view pattern, std::size_t begin, char c, bool& has) {
  std::size_t at = begin + 1;
  const bool negated = at < pattern.size() && pattern[at] == '!';
  if (negated) ++at;
  const std::size_t first = at;
  has = false;
  for (; at < pattern.size() && (pattern[at] != ']' || at == first); ++at) {
    if (at + 2 < pattern.size() && pattern[at + 1] == '-' && pattern[at + 2] != ']') {
      has = has || (pattern[at] <= c && c <= pattern[at + 2]);
      at += 2;
    } else {
      has = has || pattern[at] == c;
    }
  }
  has = has != negated;
  return at < pattern.size() ? at + 1 : 0;
}

bool in_root(std::string_view path) {
  return path.find('/') == std::string_view::npos;
}

bool matches_any(std::string_view path, const auto& patterns) {
  return std::ranges::any_of(patterns, [&](const auto& pattern) { return matches_glob(path, pattern); });
}

[[noreturn]] void refuse_pickles(const std::string& repository, const std::string& what, const std::vector<std::string>& pickles) {
  throw Error({.what = what,
               .where = repository,
               .expected = "safetensors",
               .got = listed(pickles, 3) + ", pickled: loading such a file can run code that it carries",
               .hint = "--allow-pickle fetches it all the same"});
}

/// Weights in the repository's own folder that are pickled.
std::vector<std::string> pickled_weights(const Listing& listing) {
  std::vector<std::string> names;
  for (const RemoteFile& file : listing.files)
    if (in_root(file.path) && is_pickle(file.path) && (file.path.starts_with("pytorch_model") || file.path.starts_with("adapter_model")))
      names.push_back(file.path);
  return names;
}

}  // namespace

bool matches_glob(std::string_view path, std::string_view pattern) {
  if (pattern.ends_with('/')) return path.starts_with(pattern);
  // The usual walk with one place to go back to: behind the last star.
  std::size_t p = 0, s = 0, star = std::string_view::npos, resume = 0;
  while (s < path.size()) {
    bool has = false;
    std::size_t behind_set = 0;
    if (p < pattern.size() && pattern[p] == '[') behind_set = match_set(pattern, p, path[s], has);
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = s;
    } else if (behind_set > 0 && has) {
      p = behind_set;
      ++s;
    } else if (p < pattern.size() && behind_set == 0 && (pattern[p] == '?' || pattern[p] == path[s])) {
      ++p;
      ++s;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      s = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool is_pickle(std::string_view path) {
  constexpr std::array endings{".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"};
  std::string name(path);
  std::ranges::transform(name, name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return std::ranges::any_of(endings, [&](const char* ending) { return name.ends_with(ending); });
}

Selection select_files(const Listing& listing, const SelectionOptions& options, const std::string& repository) {
  const bool by_default = options.include.empty();
  const auto has = [&](std::string_view name) {
    return std::ranges::any_of(listing.files, [&](const RemoteFile& file) { return file.path == name; });
  };
  const bool single = has(single_weights);
  const bool safe_weights = single || has(sharded_weights[0]) || has("adapter_model.safetensors");
  if (by_default && !safe_weights && !options.allow_pickle) {
    if (const auto pickles = pickled_weights(listing); !pickles.empty())
      refuse_pickles(repository, "no weights that are safe to read", pickles);
  }
  for (const std::string& pattern : options.include) {
    std::vector<std::string> pickles;
    std::size_t matched = 0;
    for (const RemoteFile& file : listing.files) {
      if (!matches_glob(file.path, pattern)) continue;
      ++matched;
      if (is_pickle(file.path)) pickles.push_back(file.path);
    }
    if (matched == 0) throw Error({.what = "no file matches --include '" + printable(pattern) + "'", .where = repository});
    if (!options.allow_pickle && pickles.size() == matched)
      refuse_pickles(repository, "--include '" + printable(pattern) + "' matches nothing that is safe to read", pickles);
  }

  Selection selection;
  for (const RemoteFile& file : listing.files) {
    const bool weights = file.path == single_weights || (!single && matches_any(file.path, sharded_weights));
    const bool pickle = is_pickle(file.path);
    bool wanted = by_default ? in_root(file.path) && (weights || matches_any(file.path, needed)) : matches_any(file.path, options.include);
    if (by_default && options.allow_pickle && !safe_weights && in_root(file.path))
      wanted = wanted || pickle || file.path == "pytorch_model.bin.index.json";
    if (!wanted || matches_any(file.path, options.exclude)) continue;
    if (pickle && !options.allow_pickle) {
      selection.pickles.push_back(file.path);
    } else {
      selection.files.push_back(file);
    }
  }
  if (selection.files.empty()) throw Error({.what = "no file of the repository is asked for", .where = repository});
  return selection;
}

}  // namespace mmtune::hub
