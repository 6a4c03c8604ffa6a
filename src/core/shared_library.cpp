#include "core/shared_library.h"

#include <dlfcn.h>

#include "core/error.h"

namespace mmtune {

namespace {

std::string last_reason() {
  const char* const text = ::dlerror();
  return printable(text != nullptr ? text : "no reason");
}

}  // namespace

std::optional<SharedLibrary> SharedLibrary::open(const std::string& file, std::string& reason, Symbols symbols) {
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | (symbols == Symbols::global ? RTLD_GLOBAL : RTLD_LOCAL));
  if (handle != nullptr) return SharedLibrary(file, handle);
  reason = last_reason();
  return std::nullopt;
}

SharedLibrary::SharedLibrary(const std::string& file, const std::string& package)
    : file_(file), handle_(::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr)
    throw Error({.what = "cannot load the library",
                 .where = file,
                 .got = last_reason(),
                 .hint = "install it with: sudo apt-get install " + package});
}

void* SharedLibrary::address(const char* name) const {
  void* address = ::dlsym(handle_, name);
  if (address == nullptr) throw Error({.what = std::string("the library has no function ") + name, .where = file_});
  return address;
}

void* SharedLibrary::address(const char* name, std::string& reason) const {
  void* address = ::dlsym(handle_, name);
  if (address == nullptr) reason = last_reason();
  return address;
}

}  // namespace mmtune
