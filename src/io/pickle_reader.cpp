#include "io/pickle_values.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "io/pickle_opcodes.h"

namespace mmtune::io {

namespace {

using Kind = PickleValue::Kind;
using Op = PickleOpcode;

constexpr std::size_t largest_pickle = std::size_t{64} << 20;
constexpr std::size_t most_values = std::size_t{1} << 20;
constexpr std::size_t longest_name = 1024;
constexpr std::size_t highest_rank = 64;

constexpr std::array<std::pair<std::string_view, DType>, 10> storages = {{{"torch.FloatStorage", DType::f32},
                                                                          {"torch.DoubleStorage", DType::f64},
                                                                          {"torch.HalfStorage", DType::f16},
                                                                          {"torch.BFloat16Storage", DType::bf16},
                                                                          {"torch.LongStorage", DType::i64},
                                                                          {"torch.IntStorage", DType::i32},
                                                                          {"torch.ShortStorage", DType::i16},
                                                                          {"torch.CharStorage", DType::i8},
                                                                          {"torch.ByteStorage", DType::u8},
                                                                          {"torch.BoolStorage", DType::boolean}}};

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  Pickle run() {
    if (bytes_.size() > largest_pickle)
      throw Error({.what = "the pickle is too large", .where = where_, .expected = "at most 64 MiB", .got = std::to_string(bytes_.size())});
    while (!stopped_) {
      op_at_ = at_;
      step(static_cast<Op>(number(1)));
    }
    if (at_ != bytes_.size()) fail("bytes behind its end");
    pickle_.root = pop();
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error({.what = "the pickle is damaged: " + what, .where = where_, .got = "byte " + std::to_string(op_at_)});
  }

  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) fail("it ends early");
    const auto part = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return part;
  }
  std::uint64_t number(std::size_t width) {
    const auto field = take(width);
    std::uint64_t value = 0;
    for (std::size_t i = width; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(field[i]);
    return value;
  }
  std::string text(std::uint64_t count) {
    const auto part = take(count);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  std::string line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
    const std::size_t end = rest.substr(0, longest_name + 1).find('\n');
    if (end == std::string_view::npos) fail("a name without an end");
    at_ += end + 1;
    return std::string(rest.substr(0, end));
  }

  PickleValue& value(std::uint32_t id) { return pickle_.values[id]; }
  PickleValue& make(Kind kind) {
    if (pickle_.values.size() >= most_values) fail("more than a million values");
    stack_.push_back(static_cast<std::uint32_t>(pickle_.values.size()));
    pickle_.values.push_back({.kind = kind});
    return pickle_.values.back();
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::uint32_t pop() {
    if (stack_.size() <= floor()) fail("nothing is left to take");
    const std::uint32_t id = stack_.back();
    stack_.pop_back();
    return id;
  }
  PickleValue& top() {
    if (stack_.size() <= floor()) fail("nothing is there to work on");
    return value(stack_.back());
  }
  std::vector<std::uint32_t> pop_to_mark() {
    if (marks_.empty()) fail("no mark");
    std::vector<std::uint32_t> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void make_tuple(std::size_t count) {
    std::vector<std::uint32_t> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    make(Kind::tuple).items = std::move(items);
  }

  void remember(std::uint64_t place) {
    // Places are numbered as they come; one far beyond would only make the table large.
    if (place > memo_.size() + 1 || place >= most_values) fail("a memo place beyond all others");
    top();
    if (place >= memo_.size()) memo_.resize(place + 1, unset);
    memo_[place] = stack_.back();
  }
  void recall(std::uint64_t place) {
    if (place >= memo_.size() || memo_[place] == unset) fail("a memo place that was never filled");
    if (stack_.size() >= largest_pickle) fail("too much at once");
    stack_.push_back(memo_[place]);
  }

  void make_global(const std::string& module, const std::string& name) {
    if (module.size() + name.size() > longest_name) fail("a name without an end");
    make(Kind::global).text = module + "." + name;
  }

  /// A call that is described, not made.
  void call() {
    const std::uint32_t arguments = pop(), callable = pop();
    if (value(arguments).kind != Kind::tuple) fail("arguments that are no tuple");
    const Kind kind = value(callable).kind;
    if (kind != Kind::global && kind != Kind::opaque) fail("a call of what is no function");
    const std::string name = value(callable).text;
    if (kind == Kind::global && name == "torch._utils._rebuild_tensor_v2") return make_tensor(arguments);
    const bool empty = value(arguments).items.empty();
    if (kind == Kind::global && name == "collections.OrderedDict" && empty) {
      make(Kind::dictionary);
    } else {
      make(Kind::opaque).text = name;
    }
  }

  std::int64_t whole(std::uint32_t id) {
    const PickleValue& one = value(id);
    if (one.kind != Kind::integer || one.integer < 0) fail("a tensor whose sizes are no sizes");
    return one.integer;
  }
  std::vector<std::int64_t> wholes(std::uint32_t id) {
    const PickleValue& list = value(id);
    if (list.kind != Kind::tuple || list.items.size() > highest_rank) fail("a tensor whose sizes are no sizes");
    std::vector<std::int64_t> numbers;
    for (const std::uint32_t item : list.items) numbers.push_back(whole(item));
    return numbers;
  }
  void make_tensor(std::uint32_t arguments) {
    const std::size_t count = value(arguments).items.size();
    if (count < 6 || count > 7) fail("a tensor with too few or too many parts");
    const std::vector<std::uint32_t> given = value(arguments).items;
    if (value(given[0]).kind != Kind::storage) fail("a tensor without a storage");
    const std::int64_t first = whole(given[1]);
    std::vector<std::int64_t> shape = wholes(given[2]), strides = wholes(given[3]);
    if (shape.size() != strides.size()) fail("a tensor whose sizes and strides differ in number");
    PickleValue& tensor = make(Kind::tensor);
    tensor.items = {given[0]};
    tensor.integer = first;
    tensor.shape = std::move(shape);
    tensor.strides = std::move(strides);
  }

  /// ("storage", class, key, device, elements)
  void make_storage() {
    const std::uint32_t described = pop();
    if (value(described).items.size() != 5) fail("something outside the pickle that is no storage");
    const PickleValue id = value(described);
    const auto is = [&](std::size_t i, Kind kind) { return value(id.items[i]).kind == kind; };
    if (id.kind != Kind::tuple || !is(0, Kind::text) || value(id.items[0]).text != "storage" || !is(1, Kind::global) ||
        !is(2, Kind::text) || !is(3, Kind::text) || !is(4, Kind::integer) || value(id.items[4]).integer < 0 ||
        value(id.items[2]).text.size() > longest_name)
      fail("something outside the pickle that is no storage");
    const std::string& name = value(id.items[1]).text;
    const auto* const known = std::find_if(storages.begin(), storages.end(), [&](const auto& one) { return one.first == name; });
    if (known == storages.end())
      throw Error({.what = "a storage of an unknown class", .where = where_, .expected = "one of torch's", .got = printable(name)});
    const std::string key = value(id.items[2]).text;
    const std::int64_t elements = value(id.items[4]).integer;
    PickleValue& storage = make(Kind::storage);
    storage.text = key;
    storage.integer = elements;
    storage.dtype = known->second;
  }

  void add_items(std::vector<std::uint32_t> items, Kind kind, const char* what) {
    PickleValue& target = top();
    if (target.kind == Kind::opaque) return;
    if (target.kind != kind || (kind == Kind::dictionary && items.size() % 2 != 0)) fail(what);
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  void make_long(std::uint64_t count) {
    if (count > 8) {
      take(count);
      make(Kind::opaque).text = "an integer beyond 64 bits";
      return;
    }
    const std::uint64_t raw = number(static_cast<std::size_t>(count));
    const std::size_t spare = 64 - 8 * static_cast<std::size_t>(count);
    make(Kind::integer).integer = count == 0 ? 0 : static_cast<std::int64_t>(raw << spare) >> spare;
  }

  /// True where the opcode makes a plain value.
  bool step_value(Op op) {
    switch (op) {
      case Op::none:
        make(Kind::none);
        return true;
      case Op::newtrue:
      case Op::newfalse:
        make(Kind::boolean).integer = op == Op::newtrue ? 1 : 0;
        return true;
      case Op::binint:
        make(Kind::integer).integer = static_cast<std::int32_t>(number(4));
        return true;
      case Op::binint1:
      case Op::binint2: {
        const std::uint64_t raw = number(op == Op::binint1 ? 1 : 2);
        make(Kind::integer).integer = static_cast<std::int64_t>(raw);
        return true;
      }
      case Op::long1:
        make_long(number(1));
        return true;
      case Op::binfloat: {
        std::uint64_t raw = 0;
        for (const std::byte one : take(8)) raw = raw << 8 | std::to_integer<std::uint64_t>(one);
        make(Kind::real).real = std::bit_cast<double>(raw);
        return true;
      }
      case Op::short_binunicode:
      case Op::short_binstring:
      case Op::short_binbytes:
      case Op::binunicode:
      case Op::binstring:
      case Op::binbytes:
      case Op::binunicode8: {
        const bool is_short = op == Op::short_binunicode || op == Op::short_binstring || op == Op::short_binbytes;
        std::string content = text(number(is_short ? 1 : op == Op::binunicode8 ? 8 : 4));
        make(Kind::text).text = std::move(content);
        return true;
      }
      case Op::empty_list:
        make(Kind::list);
        return true;
      case Op::empty_dict:
        make(Kind::dictionary);
        return true;
      case Op::empty_tuple:
        make(Kind::tuple);
        return true;
      case Op::empty_set:
        make(Kind::opaque).text = "builtins.set";
        return true;
      default:
        return false;
    }
  }

  /// True where the opcode gathers values.
  bool step_container(Op op) {
    switch (op) {
      case Op::tuple1:
        make_tuple(1);
        return true;
      case Op::tuple2:
        make_tuple(2);
        return true;
      case Op::tuple3:
        make_tuple(3);
        return true;
      case Op::tuple:
      case Op::list:
      case Op::dict: {
        std::vector<std::uint32_t> items = pop_to_mark();
        if (op == Op::dict && items.size() % 2 != 0) fail("a dictionary with a key without a value");
        make(op == Op::tuple ? Kind::tuple : op == Op::list ? Kind::list : Kind::dictionary).items = std::move(items);
        return true;
      }
      case Op::frozenset:
        pop_to_mark();
        make(Kind::opaque).text = "builtins.frozenset";
        return true;
      case Op::append: {
        const std::uint32_t item = pop();
        add_items({item}, Kind::list, "an item for what is no list");
        return true;
      }
      case Op::appends:
        add_items(pop_to_mark(), Kind::list, "items for what is no list");
        return true;
      case Op::additems:
        pop_to_mark();
        if (top().kind != Kind::opaque) fail("items for what is no set");
        return true;
      case Op::setitem: {
        const std::uint32_t item = pop(), key = pop();
        add_items({key, item}, Kind::dictionary, "an item for what is no dictionary");
        return true;
      }
      case Op::setitems:
        add_items(pop_to_mark(), Kind::dictionary, "items for what is no dictionary");
        return true;
      default:
        return false;
    }
  }

  void step(Op op) {
    if (step_value(op) || step_container(op)) return;
    switch (op) {
      case Op::proto:
        if (number(1) > 5) fail("an unknown protocol");
        return;
      case Op::frame:
        number(8);
        return;
      case Op::stop:
        stopped_ = true;
        return;
      case Op::mark:
        marks_.push_back(stack_.size());
        return;
      case Op::pop:
        pop();
        return;
      case Op::pop_mark:
        pop_to_mark();
        return;
      case Op::dup:
        top();
        stack_.push_back(stack_.back());
        return;
      case Op::binput:
        return remember(number(1));
      case Op::long_binput:
        return remember(number(4));
      case Op::memoize:
        return remember(memo_.size());
      case Op::binget:
        return recall(number(1));
      case Op::long_binget:
        return recall(number(4));
      case Op::global: {
        const std::string module = line(), name = line();
        return make_global(module, name);
      }
      case Op::stack_global: {
        const std::uint32_t name = pop(), module = pop();
        for (const std::uint32_t part : {module, name})
          if (value(part).kind != Kind::text || value(part).text.size() > longest_name) fail("a name that is none");
        return make_global(std::string(value(module).text), std::string(value(name).text));
      }
      case Op::reduce:
      case Op::newobj:
        return call();
      case Op::build:
        // Attributes of a dictionary (a state_dict's _metadata) or of something opaque.
        pop();
        if (top().kind != Kind::dictionary && top().kind != Kind::opaque) fail("attributes for " + describe(top()));
        return;
      case Op::binpersid:
        return make_storage();
      default:
        break;
    }
    char code[8];
    std::snprintf(code, sizeof code, "0x%02x", static_cast<unsigned>(op));
    throw Error({.what = "the pickle uses an opcode that tensors and their names need not",
                 .where = where_,
                 .got = std::string(code) + " at byte " + std::to_string(op_at_)});
  }

  static constexpr std::uint32_t unset = 0xffffffff;
  std::span<const std::byte> bytes_;
  const std::string& where_;
  std::size_t at_ = 0, op_at_ = 0;
  bool stopped_ = false;
  Pickle pickle_;
  std::vector<std::uint32_t> stack_, memo_;
  std::vector<std::size_t> marks_;
};

}  // namespace

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& where) {
  return Machine(bytes, where).run();
}

}  // namespace mmtune::io
