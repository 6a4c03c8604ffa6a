// Decodes pictures and makes pixel_values with a number of threads; one pass over the list a line read from standard input, so that a
// driver can alternate with another program. Prints the seconds of every pass.
//   images_bench MODEL_FOLDER THREADS FILE_LIST

#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "core/files.h"
#include "vision/image.h"
#include "vision/processor.h"

int main(int count, char** values) {
  using mmtune::vision::ImageProcessor;
  if (count != 4) {
    std::cerr << "usage: images_bench MODEL_FOLDER THREADS FILE_LIST\n";
    return 2;
  }
  try {
    const auto processor = ImageProcessor::open(values[1]);
    const int threads = std::stoi(values[2]);
    std::vector<std::string> pictures;
    std::ifstream list(values[3]);
    for (std::string file; std::getline(list, file);) pictures.push_back(mmtune::read_file(file));

    for (std::string line; std::getline(std::cin, line);) {
      std::atomic<std::size_t> next = 0;
      std::atomic<std::size_t> values_made = 0;
      const auto start = std::chrono::steady_clock::now();
      const auto work = [&] {
        for (std::size_t i = next++; i < pictures.size(); i = next++) {
          const auto bytes = std::as_bytes(std::span(pictures[i].data(), pictures[i].size()));
          values_made += (*processor)(mmtune::vision::decode_image(bytes, "picture")).values.size();
        }
      };
      std::vector<std::jthread> others;
      for (int i = 1; i < threads; ++i) others.emplace_back(work);
      work();
      others.clear();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::cout << seconds.count() << ' ' << values_made << std::endl;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
