#pragma once
// The processes of one training. Under mpirun each computes its share of every batch, and one sum a step makes them agree.

#include <memory>
#include <span>
#include <string>

namespace mmtune::train {

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;  ///< from 0
  virtual int size() const = 0;
  bool shared() const { return size() > 1; }
  /// One process of a training writes what it leaves, and speaks to the user.
  bool leads() const { return rank() == 0; }

  /// Every process' values become their sum over all of them; all processes call it alike, from the thread that made this object. Throws
  /// Error where the library says that it failed.
  virtual void sum(std::span<float> values) = 0;
  /// Every process gives texts of its own, empty where another one gives it, and has all of them then: as many in every process, none
  /// longer than 16 MiB.
  void share(std::span<std::string> texts);
  /// All processes have come here once it returns.
  void wait();
  /// Ends all processes at once, this one with `code`.
  [[noreturn]] virtual void end_all(int code) = 0;
};

/// This process alone: nothing to sum.
std::unique_ptr<Communicator> alone();

/// The processes that mpirun started together with this one, or this one alone. The MPI library is loaded only where there are several
/// (mpirun says so in the environment; MMTUNE_MPI=1 says it for other launchers), so that nobody else pays for it. Throws Error where it
/// cannot be loaded: built without MPI.
std::unique_ptr<Communicator> open_communicator();

}  // namespace mmtune::train
