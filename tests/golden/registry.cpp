// The one list of methods with golden cases.

#include "golden.h"

namespace mmtune::golden {

std::vector<Kind> all_kinds() {
  std::vector<Kind> all;
  for (const auto& kinds : {mope_kinds, apt_vilt_kinds, apt_meter_kinds, apt_crosslayer_kinds, apt_operator_kinds, apt_task_kinds,
                            pi_module_kinds, pi_model_kinds, pi_ofa_kinds, tvp_prompt_kinds, tvp_data_kinds, tvp_model_kinds}) {
    for (Kind& kind : kinds()) all.push_back(std::move(kind));
  }
  return all;
}

}  // namespace mmtune::golden
