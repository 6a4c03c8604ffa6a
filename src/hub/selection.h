#pragma once
// Which files of a repository are fetched.

#include <string>
#include <string_view>
#include <vector>

#include "hub/listing.h"

namespace mmtune::hub {

struct SelectionOptions {
  std::vector<std::string> include;  ///< globs; empty: what mmtune reads
  std::vector<std::string> exclude;  ///< globs
  bool allow_pickle = false;
};

struct Selection {
  std::vector<RemoteFile> files;     ///< in the listing's order
  std::vector<std::string> pickles;  ///< would have been taken, were they not pickles
};

/// `*` stands for any characters, '/' too, `?` for one, `[abc]` for one of several (`[!abc]`: none of them): as in huggingface_hub.
/// A pattern that ends with '/' stands for all that lies in that folder.
bool matches_glob(std::string_view path, std::string_view pattern);

/// Whether loading such a file with the usual tools may run code that it carries: .bin, .pt, .pth, .ckpt, .pkl and the like.
bool is_pickle(std::string_view path);

/// The files that `options` asks for. Without `include`: configuration, tokenizer, processor, and the weights as safetensors (the single
/// file where there is one, else the shards and their index; an adapter's too). Throws Error{where = `repository`}: weights only as
/// pickles, a pattern of `include` that matches nothing or only pickles.
Selection select_files(const Listing& listing, const SelectionOptions& options, const std::string& repository);

}  // namespace mmtune::hub
