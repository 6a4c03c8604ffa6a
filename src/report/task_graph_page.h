#pragma once
// What a task graph looks like: a clustered heat map, tasks joined with their neighbours, and a page with both.

#include <cstddef>
#include <string>
#include <vector>

#include "report/drawing.h"

namespace mmtune::report {

struct ShownTask {
  std::string name, modality, kind, run;
  std::size_t examples = 0;
  double loss = 0;
};

struct TaskGraphPage {
  std::string source;  ///< the graph's file
  std::string options;
  std::vector<ShownTask> tasks = {};
  std::vector<std::vector<double>> similarity = {}, cosine = {};
  std::vector<std::vector<std::size_t>> skipped = {};
  std::size_t components = 0;
  std::vector<std::size_t> order = {};  ///< alike tasks side by side
  std::vector<std::string> layers = {};
  std::vector<std::vector<std::vector<double>>> by_layer = {};  ///< [i][j][layer], NaN: nothing compared; filled where j != i
  std::size_t neighbours = 3;                                   ///< that every task is joined with
};

/// Rows and columns in `order`; the darker, the more alike. The scale runs from the least to the greatest similarity of two tasks.
Drawing heat_map(const TaskGraphPage& page);
/// Tasks as discs coloured by modality, each joined with its nearest neighbours; alike tasks lie close (stress majorisation from a circle).
Drawing neighbour_graph(const TaskGraphPage& page);
/// The standalone picture: both, one above the other.
Drawing task_graph_picture(const TaskGraphPage& page);
std::string task_graph_page(const TaskGraphPage& page);

}  // namespace mmtune::report
