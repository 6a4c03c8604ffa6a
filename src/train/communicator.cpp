#include "train/communicator.h"

#include <sys/prctl.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/shared_library.h"
#include "mpi/functions.h"

namespace mmtune::train {

namespace {

class Alone final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void sum(std::span<float>) override {}
  [[noreturn]] void end_all(int code) override { std::_Exit(code); }
};

class Mpi final : public Communicator {
 public:
  explicit Mpi(const MmtuneMpi& functions) : functions_(functions) {}
  ~Mpi() override { functions_.close(); }

  int rank() const override { return functions_.rank; }
  int size() const override { return functions_.size; }

  void sum(std::span<float> values) override {
    const int code = functions_.sum(values.data(), values.size());
    if (code == 0) return;
    std::array<char, 256> text{};
    functions_.explain(code, text.data(), text.size());
    throw Error({.what = "the processes could not exchange their gradients", .where = "MPI", .got = printable(text.data())});
  }

  [[noreturn]] void end_all(int code) override {
    functions_.end_all(code);
    std::_Exit(code);
  }

 private:
  const MmtuneMpi& functions_;
};

/// How many processes the launcher says that it started.
long launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"})
    if (const char* const text = std::getenv(name)) return std::strtol(text, nullptr, 10);
  const char* const asked = std::getenv("MMTUNE_MPI");
  return asked != nullptr && std::string_view(asked) == "1" ? 2 : 1;
}

}  // namespace

void Communicator::share(std::span<std::string> texts) {
  if (!shared()) return;
  // A float holds every whole number up to 2^24: lengths first, then the bytes where one process has any and the others have zeros.
  std::vector<float> lengths, bytes;
  for (const std::string& text : texts) lengths.push_back(static_cast<float>(text.size()));
  sum(lengths);
  for (std::size_t i = 0; i < texts.size(); ++i)
    for (std::size_t b = 0; b < static_cast<std::size_t>(lengths[i]); ++b)
      bytes.push_back(texts[i].empty() ? 0.0F : static_cast<float>(static_cast<unsigned char>(texts[i][b])));
  sum(bytes);
  std::size_t at = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    texts[i].resize(static_cast<std::size_t>(lengths[i]));
    for (char& one : texts[i]) one = static_cast<char>(static_cast<unsigned char>(bytes[at++]));
  }
}

void Communicator::wait() {
  float none = 0;
  sum({&none, 1});
}

std::unique_ptr<Communicator> alone() {
  return std::make_unique<Alone>();
}

std::unique_ptr<Communicator> open_communicator() {
  if (launched() < 2) return alone();
  std::error_code ignored;
  const std::filesystem::path library = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / mmtune_mpi_library;
  // A process that waits for one that died cannot even notice a signal; when the launcher gives up and ends, so does it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string reason;
  const auto loaded = SharedLibrary::open(library.string(), reason, SharedLibrary::Symbols::global);
  if (!loaded)
    throw Error({.what = "started by mpirun, but the MPI part of this program cannot be loaded",
                 .where = library.string(),
                 .got = reason,
                 .hint = "install libopenmpi-dev and build again with -DMMTUNE_MPI=ON"});
  auto* const open = loaded->find<const MmtuneMpi*()>("mmtune_mpi_open", reason);
  const MmtuneMpi* const functions = open != nullptr ? open() : nullptr;
  if (functions == nullptr || functions->abi != mmtune_mpi_abi)
    throw Error({.what = "MPI could not be started, or its library belongs to another build", .where = library.string()});
  return std::make_unique<Mpi>(*functions);
}

}  // namespace mmtune::train
