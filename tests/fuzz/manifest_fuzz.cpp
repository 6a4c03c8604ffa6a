// Any bytes as JSON lines, through the parser of rows: examples come out, or an Error. References are not looked up on the disk. The
// first byte chooses the options.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>

#include "core/error.h"
#include "data/filter.h"
#include "data/row_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const unsigned choice = data[0];
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  mmtune::data::ReadOptions options;
  options.path = "fuzz.jsonl";
  options.multi_label = (choice & 1) != 0;
  options.require_labels = (choice & 2) != 0;
  if ((choice & 4) != 0) options.columns = {{"text", "question"}, {"label", "answer"}};
  if ((choice & 8) != 0) options.where = {{"split", "train"}, {"n", ">=1"}};
  mmtune::data::Filter filter(options.where);
  mmtune::data::RowParser parser(options, nullptr);
  // With 16, every row is joined to the one before it.
  std::optional<mmtune::Json> before;
  const auto sink = [&](mmtune::data::Row&& row) {
    if (!filter.passes(row.fields)) return;
    const auto parsed = parser.parse(row, before ? &*before : nullptr, "other");
    const auto& example = parsed.example;
    MMTUNE_ASSERT(example.text || example.text_pair || example.image || example.image_pair || example.audio || example.video);
    MMTUNE_ASSERT(!example.id.empty());
    MMTUNE_ASSERT(!parsed.labels || options.multi_label || parsed.labels->size() == 1);
    if ((choice & 16) != 0) before = row.fields;
  };
  std::istringstream in(text);
  try {
    if ((choice & 32) != 0) {
      mmtune::data::read_separated(in, "fuzz.csv", ',', true, sink);
    } else {
      mmtune::data::read_json_lines(in, "fuzz.jsonl", sink);
    }
    parser.check_columns_seen();
  } catch (const mmtune::Error&) {
    // What the reader is for.
  }
  return 0;
}
