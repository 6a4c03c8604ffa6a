#include "core/hash.h"

#include <xxhash.h>

#include <array>
#include <new>

#include "core/error.h"

namespace mmtune {

struct Fingerprint::State {
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> xxh{XXH3_createState()};
};

Fingerprint::Fingerprint() : state_(std::make_unique<State>()) {
  if (!state_->xxh) throw std::bad_alloc();
  XXH3_128bits_reset(state_->xxh.get());
}
Fingerprint::~Fingerprint() = default;
Fingerprint::Fingerprint(Fingerprint&&) noexcept = default;
Fingerprint& Fingerprint::operator=(Fingerprint&&) noexcept = default;

Fingerprint& Fingerprint::add(std::span<const std::byte> bytes) {
  MMTUNE_ASSERT(state_ != nullptr);
  XXH3_128bits_update(state_->xxh.get(), bytes.data(), bytes.size());
  return *this;
}

Fingerprint& Fingerprint::add_field(std::string_view text) {
  add_field(static_cast<std::int64_t>(text.size()));
  return add(std::as_bytes(std::span(text)));
}

Fingerprint& Fingerprint::add_field(std::int64_t number) {
  // Little-endian whatever the machine: fingerprints are written into files that travel.
  std::array<std::byte, 8> bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(static_cast<std::uint64_t>(number) >> (8 * i));
  return add(bytes);
}

std::string Fingerprint::hex() const {
  MMTUNE_ASSERT(state_ != nullptr);
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->xxh.get()));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

std::uint64_t mix_seed(std::uint64_t seed, std::uint64_t counter) {
  const std::array<std::uint64_t, 2> words = {seed, counter};
  return XXH3_64bits(words.data(), sizeof words);
}

}  // namespace mmtune
