#include "tensor_file.h"

#include "print.h"

namespace mmtune::cli {

void write_tensor_file(const std::string& path, std::span<const io::TensorEntry> tensors, bool json) {
  io::write_safetensors(path, tensors);
  Json answer = {{"out", path}, {"tensors", Json::object()}};
  std::string line;
  for (const io::TensorEntry& tensor : tensors) {
    const std::string dtype(io::name_of(tensor.dtype));
    answer["tensors"][tensor.name] = {{"dtype", dtype}, {"shape", tensor.shape}};
    line += (line.empty() ? "" : ", ") + tensor.name + " " + dtype + " " + Json(tensor.shape).dump();
  }
  if (json) {
    print_json(answer);
  } else {
    print(path + ": " + line + "\n");
  }
}

}  // namespace mmtune::cli
