// Any bytes as CSV and as TSV: records come out, or an Error.
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/csv.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const bool quotes : {true, false}) {
    std::istringstream in(text);
    try {
      mmtune::data::CsvReader reader(in, "fuzz.csv", quotes ? ',' : '\t', quotes);
      std::vector<std::string> fields;
      std::size_t last = 0;
      while (reader.next(fields)) {
        MMTUNE_ASSERT(!fields.empty() && reader.line() > last);
        last = reader.line();
        for (const std::string& field : fields) MMTUNE_ASSERT(mmtune::data::is_utf8(field));
      }
    } catch (const mmtune::Error&) {
      // What the reader is for.
    }
  }
  return 0;
}
