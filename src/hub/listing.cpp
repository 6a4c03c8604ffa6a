#include "hub/listing.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "hub/digest.h"
#include "io/hub_cache.h"

namespace mmtune::hub {

namespace {

constexpr std::size_t max_files = 100'000;

[[noreturn]] void refuse(const std::string& where, const std::string& what, const std::string& got = {}) {
  throw Error({.what = what, .where = where, .got = got});
}

std::optional<std::int64_t> size_of(const Json& object, const std::string& where, const std::string& path) {
  const auto size = object.find("size");
  if (size == object.end() || size->is_null()) return std::nullopt;
  if (!size->is_number_unsigned() || size->get<std::uint64_t>() > std::uint64_t{1} << 50)
    refuse(where, "the size of '" + printable(path) + "' is no number of bytes", printable(size->dump(-1, ' ', true), 60));
  return size->get<std::int64_t>();
}

std::string hash_of(const Json& object, const char* key, HashKind kind, const std::string& where, const std::string& path) {
  const auto hash = object.find(key);
  if (hash == object.end() || hash->is_null()) return {};
  if (!hash->is_string() || hash_kind(hash->get_ref<const std::string&>()) != kind)
    refuse(where, std::string("the ") + key + " of '" + printable(path) + "' is no hash", printable(hash->dump(-1, ' ', true), 100));
  return hash->get<std::string>();
}

RemoteFile parse_file(const Json& sibling, const std::string& where) {
  const auto name = sibling.is_object() ? sibling.find("rfilename") : sibling.end();
  if (!sibling.is_object() || name == sibling.end() || !name->is_string()) refuse(where, "a file of the list has no 'rfilename'");
  RemoteFile file{.path = name->get<std::string>(), .size = {}, .hash = {}};
  if (!is_safe_file_path(file.path))
    refuse(where, "the hub names a file that would lie outside its folder", "'" + printable(file.path) + "'");
  const auto lfs = sibling.find("lfs");
  if (lfs != sibling.end() && lfs->is_object()) {
    // A file in LFS: the sizes and hashes beside "lfs" may be those of its pointer.
    file.size = size_of(*lfs, where, file.path);
    file.hash = hash_of(*lfs, "sha256", HashKind::sha256, where, file.path);
  } else {
    file.size = size_of(sibling, where, file.path);
    file.hash = hash_of(sibling, "blobId", HashKind::git_sha1, where, file.path);
  }
  return file;
}

}  // namespace

bool is_safe_file_path(std::string_view path) {
  if (path.empty() || path.size() > 1000 || path.front() == '/' || (path.size() > 1 && path[1] == ':')) return false;
  if (printable(path, path.size()) != path || path.find('\\') != std::string_view::npos) return false;
  std::size_t begin = 0;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    begin = end + 1;
  }
  return true;
}

Listing parse_listing(std::string_view json, const std::string& where) {
  const Json answer = parse_json(json, where);
  if (!answer.is_object()) refuse(where, "not the answer of a hub: no JSON object");
  Listing listing;
  const auto commit = answer.find("sha");
  if (commit == answer.end() || !commit->is_string() || !io::is_commit_name(commit->get_ref<const std::string&>()))
    refuse(where, "not the answer of a hub: no commit in 'sha'");
  listing.commit = commit->get<std::string>();
  const auto siblings = answer.find("siblings");
  if (siblings == answer.end() || !siblings->is_array()) refuse(where, "not the answer of a hub: no list 'siblings'");
  if (siblings->size() > max_files) refuse(where, "more than 100000 files", std::to_string(siblings->size()));
  std::set<std::string_view> seen;
  listing.files.reserve(siblings->size());
  for (const Json& sibling : *siblings) {
    listing.files.push_back(parse_file(sibling, where));
    if (!seen.insert(listing.files.back().path).second) refuse(where, "a file stands there twice", printable(listing.files.back().path));
  }
  return listing;
}

}  // namespace mmtune::hub
