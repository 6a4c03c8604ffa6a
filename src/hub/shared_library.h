#pragma once
// A library that is loaded when it is first needed: linking libcurl would cost every start of the program the loading of some thirty
// libraries behind it.

#include <string>

namespace mmtune::hub {

class SharedLibrary {
 public:
  /// Loads `file` ("libcurl.so.4"). Throws Error that names the Debian package to install.
  SharedLibrary(const std::string& file, const std::string& package);
  /// The function `name`; `Function` is its type in the library's header. Throws Error where the library has none.
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(address(name));
  }

 private:
  void* address(const char* name) const;

  std::string file_;
  void* handle_;  ///< never closed: libraries such as OpenSSL leave handlers behind that run when the program ends
};

}  // namespace mmtune::hub
