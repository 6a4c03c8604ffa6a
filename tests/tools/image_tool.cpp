// What the parity tests drive. Every command prints a line "HEIGHT WIDTH" and then raw bytes: RGB for pictures, float32 planes for
// processed ones. Files are named on the command line, or one a line on standard input where there is none.
//   mmtune_image_tool decode [FILE...]
//   mmtune_image_tool resize WIDTH HEIGHT FILTER [FILE...]      (FILTER is PIL's number)
//   mmtune_image_tool process FOLDER [FILE...]
//   mmtune_image_tool describe FOLDER
// A picture that is refused prints "error MESSAGE" in place of the size and the bytes.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "vision/image.h"
#include "vision/processor.h"

namespace {

using mmtune::vision::Filter;
using mmtune::vision::Image;

Image read_picture(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw mmtune::Error({.what = "cannot be opened", .where = file});
  const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  return mmtune::vision::decode_image(std::as_bytes(std::span(bytes.data(), bytes.size())), file);
}

template <typename Value>
void print(std::int64_t height, std::int64_t width, const std::vector<Value>& values) {
  std::cout << height << ' ' << width << '\n';
  std::cout.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(Value)));
}

void print(const Image& image) {
  print(image.height, image.width, image.pixels);
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return 2;
  const std::string& command = arguments[0];
  constexpr Filter filters[] = {Filter::nearest, Filter::lanczos, Filter::bilinear, Filter::bicubic, Filter::box, Filter::hamming};
  const std::size_t options = command == "resize" ? 3 : command == "process" || command == "describe" ? 1 : 0;
  if (arguments.size() < 1 + options) return 2;
  std::unique_ptr<mmtune::vision::ImageProcessor> processor;
  if (options == 1) processor = mmtune::vision::ImageProcessor::open(arguments[1]);
  if (command == "describe") {
    std::cout << processor->describe() << '\n';
    return 0;
  }
  std::vector<std::string> files(arguments.begin() + 1 + static_cast<std::ptrdiff_t>(options), arguments.end());
  if (files.empty()) {
    for (std::string line; std::getline(std::cin, line);) files.push_back(line);
  }
  for (const std::string& file : files) {
    try {
      const Image image = read_picture(file);
      if (command == "decode") {
        print(image);
      } else if (command == "resize") {
        print(mmtune::vision::resize(image, std::stoll(arguments[1]), std::stoll(arguments[2]),
                                     filters[static_cast<std::size_t>(std::stoul(arguments[3])) % std::size(filters)]));
      } else if (command == "process") {
        const auto pixels = (*processor)(image);
        print(pixels.height, pixels.width, pixels.values);
      } else {
        return 2;
      }
    } catch (const mmtune::Error& error) {
      std::cout << "error " << error.what() << '\n';
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** values) {
  try {
    return run({values + 1, values + count});
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
