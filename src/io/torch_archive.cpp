#include "io/torch_archive.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "core/error.h"
#include "io/stored_zip.h"

namespace mmtune::io {

namespace {

using Kind = PickleValue::Kind;

/// All tensors together may be this many times as large as the file: tied weights are one storage, but a few bytes must not become a disk
/// full of zeros.
constexpr std::uint64_t most_times_the_file = 4;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class Members {
 public:
  Members(std::span<const std::byte> bytes, const std::string& where) : where_(where) {
    if (!text_of(bytes).starts_with("PK\x03\x04"))
      throw Error({.what = "is no archive of torch.save",
                   .where = where,
                   .expected = "a zip archive (PyTorch 1.6 and later)",
                   .hint = "an older file is converted by loading and saving it with PyTorch, if you trust where it comes from"});
    for (ZipMember& member : read_stored_zip(bytes, where)) {
      std::string name = member.name;
      members_.emplace(std::move(name), std::move(member));
    }
    for (const auto& [name, member] : members_)
      if (name.ends_with("/data.pkl")) folder_ = name.substr(0, name.size() - std::string_view("data.pkl").size());
    if (folder_.empty()) throw Error({.what = "the zip archive holds no data.pkl", .where = where, .expected = "a file of torch.save"});
  }

  /// Its checksum is computed at the first use. Null where there is none of this name.
  const ZipMember* find(const std::string& name) {
    const auto found = members_.find(folder_ + name);
    if (found == members_.end()) return nullptr;
    if (checked_.insert(name).second) check_crc(found->second, where_);
    return &found->second;
  }

 private:
  const std::string& where_;
  std::map<std::string, ZipMember> members_;
  std::set<std::string> checked_;
  std::string folder_;
};

/// A place in memory that a tensor's description names.
struct View {
  std::uint64_t elements = 1;  ///< of the tensor
  bool in_order = true;        ///< rows behind each other without holes
};

/// Throws Error where it reaches beyond its storage.
View checked_view(const PickleValue& tensor, std::int64_t storage_elements, const std::string& name) {
  const auto refuse = [&] {
    throw Error({.what = "a tensor reaches beyond its storage", .where = name, .expected = std::to_string(storage_elements) + " elements"});
  };
  constexpr std::int64_t limit = std::int64_t{1} << 48;
  View view;
  for (const std::int64_t size : tensor.shape) {
    if (size > limit || (size > 0 && view.elements > static_cast<std::uint64_t>(limit / size))) refuse();
    view.elements *= static_cast<std::uint64_t>(size);
  }
  if (view.elements == 0) return view;
  std::int64_t last = tensor.integer, expected = 1;
  if (last > limit) refuse();
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    const std::int64_t size = tensor.shape[i], stride = tensor.strides[i];
    if (size == 1) continue;
    if (stride > limit / size) refuse();
    last += (size - 1) * stride;
    if (last > limit) refuse();
    view.in_order = view.in_order && stride == expected;
    expected *= size;
  }
  if (last >= storage_elements) refuse();
  return view;
}

/// The elements in the order of the tensor's own axes.
std::unique_ptr<std::vector<std::byte>> gathered(const PickleValue& tensor, std::span<const std::byte> storage, std::size_t width,
                                                 std::uint64_t elements) {
  auto copy = std::make_unique<std::vector<std::byte>>(static_cast<std::size_t>(elements) * width);
  std::vector<std::int64_t> index(tensor.shape.size(), 0);
  std::int64_t from = tensor.integer;
  std::byte* to = copy->data();
  for (std::uint64_t i = 0; i < elements; ++i, to += width) {
    std::memcpy(to, storage.data() + static_cast<std::size_t>(from) * width, width);
    for (std::size_t axis = index.size(); axis-- > 0;) {
      from += tensor.strides[axis];
      if (++index[axis] < tensor.shape[axis]) break;
      from -= tensor.strides[axis] * tensor.shape[axis];
      index[axis] = 0;
    }
  }
  return copy;
}

}  // namespace

void TorchArchive::read(std::span<const std::byte> bytes, const std::string& where) {
  Members members(bytes, where);
  if (const ZipMember* order = members.find("byteorder"); order != nullptr && text_of(order->data) != "little")
    throw Error(
        {.what = "the file's byte order is not supported", .where = where, .expected = "little", .got = printable(text_of(order->data))});
  const ZipMember* const data = members.find("data.pkl");
  MMTUNE_ASSERT(data != nullptr);
  pickle_ = read_pickle(data->data, where);
  const PickleValue& root = pickle_.at(pickle_.root);
  const PickleValue* named = pickle_.find(root, "state_dict");
  if (named == nullptr) named = pickle_.find(root, "model");  // fairseq
  if (named != nullptr && named->kind != Kind::dictionary) named = nullptr;
  const PickleValue& tensors = named != nullptr ? *named : root;
  if (tensors.kind != Kind::dictionary)
    throw Error({.what = "the file holds no dictionary of tensors", .where = where, .got = describe(tensors)});

  std::uint64_t total = 0;
  std::map<std::string, std::uint32_t> found;
  for (std::size_t i = 0; i + 1 < tensors.items.size(); i += 2) {
    const PickleValue &key = pickle_.at(tensors.items[i]), &value = pickle_.at(tensors.items[i + 1]);
    if (key.kind == Kind::text && printable(key.text, key.text.size()) != key.text)
      throw Error({.what = "a tensor's name is no plain text", .where = where, .got = printable(key.text)});
    if (key.kind != Kind::text) throw Error({.what = "a tensor's name is no text", .where = where, .got = describe(key)});
    if (value.kind != Kind::tensor)
      throw Error({.what = "not a tensor where only tensors are read" + std::string(named != nullptr ? " (state_dict or model)" : ""),
                   .where = where + ": \"" + printable(key.text) + "\"",
                   .expected = "a tensor",
                   .got = describe(value)});
    found[key.text] = tensors.items[i + 1];
  }
  for (const auto& [name, id] : found) {
    const PickleValue& tensor = pickle_.at(id);
    const PickleValue& storage = pickle_.at(tensor.items.front());
    const std::string place = where + ": \"" + printable(name) + "\"";
    const std::size_t width = size_of(storage.dtype);
    const ZipMember* const member = members.find("data/" + storage.text);
    if (member == nullptr)
      throw Error({.what = "the tensor's storage is missing in the archive", .where = place, .got = printable(storage.text)});
    if (member->data.size() % width != 0 || member->data.size() / width != static_cast<std::uint64_t>(storage.integer))
      throw Error({.what = "the tensor's storage has another size than it says",
                   .where = place,
                   .expected = std::to_string(storage.integer) + " elements",
                   .got = std::to_string(member->data.size()) + " bytes"});
    const View view = checked_view(tensor, storage.integer, place);
    if (view.elements > most_times_the_file * bytes.size() / width || total > most_times_the_file * bytes.size() - view.elements * width)
      throw Error({.what = "the tensors are together much larger than the file", .where = place});
    total += view.elements * width;
    TensorEntry entry{.name = name, .dtype = storage.dtype, .shape = tensor.shape, .data = {}};
    if (view.elements > 0 && view.in_order) {
      entry.data = member->data.subspan(static_cast<std::size_t>(tensor.integer) * width, static_cast<std::size_t>(view.elements) * width);
    } else if (view.elements > 0) {
      copies_.push_back(gathered(tensor, member->data, width, view.elements));
      entry.data = *copies_.back();
    }
    tensors_.push_back(std::move(entry));
  }
}

TorchArchive TorchArchive::open(const std::filesystem::path& path) {
  TorchArchive archive;
  archive.mapping_ = MappedFile::open(path);
  archive.read(archive.mapping_->bytes(), path.string());
  return archive;
}

TorchArchive TorchArchive::from_bytes(std::span<const std::byte> bytes, const std::string& where) {
  TorchArchive archive;
  archive.read(bytes, where);
  return archive;
}

const TensorEntry* TorchArchive::find(std::string_view name) const {
  const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                      [](const TensorEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

std::optional<std::int64_t> TorchArchive::hyper_parameter(std::string_view name) const {
  const PickleValue* all = pickle_.find(pickle_.at(pickle_.root), "hyper_parameters");
  if (all == nullptr) return std::nullopt;
  if (const PickleValue* config = pickle_.find(*all, "config")) all = config;
  const PickleValue* const value = pickle_.find(*all, name);
  return value != nullptr && value->kind == Kind::integer ? std::optional(value->integer) : std::nullopt;
}

}  // namespace mmtune::io
