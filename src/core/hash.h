#pragma once
// XXH3 fingerprints: cache keys, backbone identity, data fingerprints. Not for security.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mmtune {

/// A streaming 128-bit fingerprint. Adding "a" then "b" differs from adding "ab" only if the caller frames the pieces: use add_field.
class Fingerprint {
 public:
  Fingerprint();
  ~Fingerprint();
  Fingerprint(Fingerprint&&) noexcept;
  Fingerprint& operator=(Fingerprint&&) noexcept;
  Fingerprint& add(std::span<const std::byte> bytes);
  Fingerprint& add_field(std::string_view text);  ///< length first, then the bytes
  Fingerprint& add_field(std::int64_t number);
  std::string hex() const;  ///< 32 lower-case hexadecimal digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A 64-bit mix of a seed and a counter: the seed of one step's or one example's random generator.
std::uint64_t mix_seed(std::uint64_t seed, std::uint64_t counter);

}  // namespace mmtune
