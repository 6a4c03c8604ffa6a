#include "hub/shared_library.h"

#include <dlfcn.h>

#include "core/error.h"

namespace mmtune::hub {

SharedLibrary::SharedLibrary(const std::string& file, const std::string& package)
    : file_(file), handle_(::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr)
    throw Error({.what = "cannot load the library", .where = file, .hint = "install it with: sudo apt-get install " + package});
}

void* SharedLibrary::address(const char* name) const {
  void* address = ::dlsym(handle_, name);
  if (address == nullptr) throw Error({.what = std::string("the library has no function ") + name, .where = file_});
  return address;
}

}  // namespace mmtune::hub
