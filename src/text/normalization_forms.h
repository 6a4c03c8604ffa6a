#pragma once
// Unicode normalisation forms of an aligned text.

#include "text/aligned_text.h"

namespace mmtune::text {

enum class NormalizationForm { nfc, nfd, nfkc, nfkd };

/// Brings the text into the form. A code point that comes of a decomposition stands for what the decomposed one stood for; a composite
/// stands for what its first part stood for.
void to_form(AlignedText& text, NormalizationForm form);

}  // namespace mmtune::text
