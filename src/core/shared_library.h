#pragma once
// A library that is loaded when it is first needed, and never closed: some leave handlers behind that run when the program ends, and others
// use it too. Linking libcurl, say, would cost every start of the program the loading of some thirty libraries behind it.

#include <optional>
#include <string>
#include <utility>

namespace mmtune {

class SharedLibrary {
 public:
  /// Who sees its symbols: this object alone, or every library that is loaded later (Open MPI loads parts of itself that look for them).
  enum class Symbols { own, global };
  /// Nothing, with the loader's reason, where `file` (looked for as dlopen does) cannot be loaded.
  static std::optional<SharedLibrary> open(const std::string& file, std::string& reason, Symbols symbols = Symbols::own);
  /// Throws Error that names the Debian package to install.
  SharedLibrary(const std::string& file, const std::string& package);

  /// The function `name`; `Function` is its type in the library's header. Throws Error where the library has none.
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(address(name));
  }
  /// The same; null, with the loader's reason, where the library has none.
  template <class Function>
  Function* find(const char* name, std::string& reason) const {
    return reinterpret_cast<Function*>(address(name, reason));
  }

 private:
  SharedLibrary(std::string file, void* handle) : file_(std::move(file)), handle_(handle) {}
  void* address(const char* name) const;
  void* address(const char* name, std::string& reason) const;

  std::string file_;
  void* handle_;
};

}  // namespace mmtune
