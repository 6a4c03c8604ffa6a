#pragma once
// Several trained adapters side by side, their outputs joined at every site: by attention (AdapterFusion, Pfeiffer et al. 2021, arXiv
// 2005.00247) or by softmax coefficients (the output mixing that the code of π-Tuning has, commented out). Unlike an average of their
// tensors neither can become one adapter: every one of them is computed, in training and afterwards.

#include <memory>

#include "experts/expert.h"

namespace mmtune::experts {

std::unique_ptr<ExpertRecipe> fusion_recipe();

}  // namespace mmtune::experts
