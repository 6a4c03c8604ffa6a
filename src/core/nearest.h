#pragma once
// "Did you mean …?": the known word that is closest to what the user typed.

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mmtune {

/// Smallest number of inserted, deleted, replaced and swapped neighbouring bytes that turns `a` into `b` (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`, the first of equals; nullopt when none is near enough to be what was meant (more than a third of
/// the longer word wrong, at least two bytes being always forgiven in words of four or more).
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace mmtune
