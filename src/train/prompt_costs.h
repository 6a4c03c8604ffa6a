#pragma once
// What prompts cost at the attentions of a model, in each of the forms that they are computed and counted in: the arithmetic that APT's
// paper argues with, and that of what runs. Multiply-accumulates of one forward pass; docs/methods/apt.md explains the forms.

#include <cstdint>
#include <string>
#include <vector>

namespace mmtune::train {

/// An attention that gets prompts.
struct PromptPlace {
  std::int64_t rows = 0;     ///< of its queries
  std::int64_t charged = 0;  ///< rows that the paper counts: of all streams together
  std::int64_t width = 0;
  bool cross = false;  ///< its keys and values come from another stream
};

/// Diffusion beside the attentions, 2·N·p·d each, with its keys, 2·p·d·r, which do not depend on the example.
double apt_macs(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank);
/// The same without the keys, which inference may keep.
double apt_cached_macs(const std::vector<PromptPlace>& places, std::int64_t prompts);
std::int64_t apt_parameters(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank);

/// Deep prompts as published tables count them: queries, keys and values of the prompts, and all streams' rows at every place:
/// 3·p·d² + 2·N·p·d.
double deep_reported_macs(const std::vector<PromptPlace>& places, std::int64_t prompts);
/// Keys and values alone, made for every example: 2·p·d² + 2·N·p·d.
double deep_macs(const std::vector<PromptPlace>& places, std::int64_t prompts);
/// The same where they are made once for all examples: 2·N·p·d.
double deep_cached_macs(const std::vector<PromptPlace>& places, std::int64_t prompts);
std::int64_t deep_parameters(const std::vector<PromptPlace>& places, std::int64_t prompts);
/// The places of cross-attentions: where the released code of METER puts deep prompts.
std::vector<PromptPlace> cross_places(const std::vector<PromptPlace>& places);

/// One way to compute the effect of prompts, or to count what it costs.
struct PromptForm {
  std::string name;
  std::int64_t parameters = 0;
  double macs = 0;
  bool runs = true;  ///< false: a published way of counting, which no form of mmtune is
};

/// All of them at the same places, APT's own first.
struct PromptComparison {
  std::int64_t places = 0, prompts = 0, rank = 0;
  std::vector<PromptForm> forms;
};
PromptComparison compare_prompts(const std::vector<PromptPlace>& places, std::int64_t prompts, std::int64_t rank);

/// What `ours` saves against `other`, a share; `as_printed`: of both rounded to hundredths of a billion, as published tables give them.
double saving(double ours, double other, bool as_printed);

}  // namespace mmtune::train
