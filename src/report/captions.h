#pragma once
// Metrics of generated texts against references: BLEU-1 to 4 and CIDEr, with the arithmetic of the COCO caption evaluation.

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "report/metrics.h"

namespace mmtune::report {

/// Tokens of a caption in the manner of the Penn Treebank, as caption evaluation wants them: lower case; contractions apart (does n't,
/// dog 's, can not); words keep their hyphens, numbers their points and commas; punctuation (. ? ! , : ; - -- ... quotes, brackets) is left
/// out, other marks ($ % & # @ + * / =) stand alone. Ours, written after what Stanford's tokenizer does on captions; unusual texts may
/// differ.
std::vector<std::string> caption_tokens(std::string_view text);

/// A text and what it is compared with; at least one reference.
struct Captions {
  std::vector<std::string> candidate;
  std::vector<std::vector<std::string>> references;
};

/// BLEU (Papineni et al. 2002) of 1 to 4 words over the whole set: clipped counts and lengths are summed first; the reference length is
/// that of the reference nearest in length, the shorter of two equally near. 0 examples: NaN.
std::array<double, 4> bleu(std::span<const Captions> captions);
/// What one caption adds to them, by n − 1.
struct BleuCounts {
  std::array<double, 4> guessed{}, right{};
  double candidate_length = 0, reference_length = 0;
};
BleuCounts bleu_counts(const Captions& one);
/// The same over captions that were counted, each as often as `weights` says (a bootstrap's resample).
std::array<double, 4> bleu(std::span<const BleuCounts> captions, Weights weights = {});

/// CIDEr-D (Vedantam, Zitnick and Parikh 2015; what the COCO evaluation prints as CIDEr): n-grams of 1 to 4 words weighted by how rare they
/// are among the references of the set, clipped, with a Gaussian of width 6 over the difference in length, times 10.
/// One score a caption; the mean is the metric. A set of one example scores 0, for every word is in all of it.
std::vector<double> cider_d(std::span<const Captions> captions);

/// CIDEr without clipping and without the Gaussian: cosines of the same vectors, times 10.
std::vector<double> cider(std::span<const Captions> captions);

}  // namespace mmtune::report
