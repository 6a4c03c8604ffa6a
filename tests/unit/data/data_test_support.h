#pragma once
// What the tests of data share: a folder that goes away, and archives made byte by byte.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/error.h"

namespace mmtune::data::test {

/// An empty folder, removed with everything in it at the end.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "mmtune_data_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Writes a file (folders made as needed) and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

/// The message of the Error that `action` throws, or "no error".
template <class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline void expect_contains(const std::string& text, std::string_view part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

struct TarEntry {
  std::string name;
  std::string content;
  char type = '0';
  std::string prefix;
  bool posix = true;  ///< false: a header from before POSIX, without magic
};

inline std::string padded(std::string bytes) {
  bytes.resize((bytes.size() + 511) / 512 * 512, '\0');
  return bytes;
}

/// Writes the checksum that the header's other bytes call for.
inline void seal(std::string& header) {
  header.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char digits[8];
  std::snprintf(digits, sizeof digits, "%06o", sum);
  header.replace(148, 8, std::string(digits, 6) + std::string("\0 ", 2));
}

inline std::string tar_header(const TarEntry& entry) {
  std::string header(512, '\0');
  header.replace(0, entry.name.size(), entry.name);
  header.replace(100, 7, "0000644");
  char size[16];
  std::snprintf(size, sizeof size, "%011zo", entry.content.size());
  header.replace(124, 11, size);
  header[156] = entry.type;
  if (entry.posix) {
    header.replace(257, 8, std::string("ustar\00000", 8));
    header.replace(345, entry.prefix.size(), entry.prefix);
  }
  seal(header);
  return header;
}

inline std::string tar_entry(const TarEntry& entry) {
  return tar_header(entry) + padded(entry.content);
}
inline std::string tar_end() {
  return std::string(1024, '\0');
}

/// "21 path=folder/a.png\n": the length counts its own digits.
inline std::string pax_record(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  std::size_t length = rest.size() + 1;
  while (std::to_string(length).size() + rest.size() != length) ++length;
  return std::to_string(length) + rest;
}

/// The folder of real data sets that may lie beside the project; empty where it is not there.
inline std::filesystem::path shared_data() {
  const char* named = std::getenv("MMTUNE_SHARED");
  const std::filesystem::path folder = named != nullptr ? named : std::filesystem::path(MMTUNE_SOURCE_DIR) / ".." / "shared";
  return std::filesystem::is_directory(folder / "data") ? folder / "data" : std::filesystem::path();
}

}  // namespace mmtune::data::test
