#include "core/version.h"

namespace mmtune {

// The build defines both for this file alone, so that a new version recompiles one file.
std::string_view version() {
  return MMTUNE_VERSION;
}
std::string_view torch_version() {
  return MMTUNE_TORCH_VERSION;
}

}  // namespace mmtune
