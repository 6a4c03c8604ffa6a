#include "text/normalization_forms.h"

#include <algorithm>

#include "text/unicode.h"

namespace mmtune::text {

namespace {

// The edits of a decomposition in canonical order. Reordering takes the edits' changes along, as the reference package does, so a mark
// that moves forward also takes the place of what stood there.
void decompose_all(std::span<const Char> chars, bool compatibility, std::vector<Edit>& edits) {
  std::vector<std::pair<int, Edit>> marks;
  const auto flush = [&] {
    std::stable_sort(marks.begin(), marks.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& mark : marks) edits.push_back(mark.second);
    marks.clear();
  };
  for (const Char& c : chars) {
    const Decomposition parts = decompose(c.code, compatibility);
    for (int i = 0; i < parts.size; ++i) {
      const char32_t code = parts.codes[static_cast<std::size_t>(i)];
      const Edit edit{code, i == 0 ? 0 : 1};
      if (const int ccc = combining_class(code); ccc != 0) {
        marks.emplace_back(ccc, edit);
      } else {
        flush();
        edits.push_back(edit);
      }
    }
  }
  flush();
}

// Canonical composition in place. A composite consumes what its parts consumed.
void compose_all(std::vector<Edit>& edits) {
  std::size_t written = 0;
  std::size_t starter = 0;
  bool has_starter = false;
  int last_class = -1;  // of the last mark left standing after the starter; −1: none
  for (const Edit& edit : edits) {
    const int ccc = combining_class(edit.code);
    if (has_starter && (last_class == -1 || last_class < ccc)) {
      if (const auto composite = compose(edits[starter].code, edit.code)) {
        edits[starter] = {*composite, edits[starter].change + edit.change - 1};
        continue;
      }
    }
    if (ccc == 0) {
      starter = written;
      has_starter = true;
      last_class = -1;
    } else if (has_starter) {
      last_class = ccc;
    }
    edits[written++] = edit;
  }
  edits.resize(written);
}

}  // namespace

void to_form(AlignedText& text, NormalizationForm form) {
  if (text.is_ascii()) return;
  std::vector<Edit>& edits = text.edit_buffer();
  decompose_all(text.chars(), form == NormalizationForm::nfkc || form == NormalizationForm::nfkd, edits);
  if (form == NormalizationForm::nfc || form == NormalizationForm::nfkc) compose_all(edits);
  text.rewrite(edits, 0);
}

}  // namespace mmtune::text
