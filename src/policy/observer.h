// Somebody who looks on while a prompt is read and compressed: `pith trace`, and tests that
// recompute a method from what it was given. Looking on changes nothing but what is recorded.
// Called on the thread that runs the prompt; views are valid only during the call.
#pragma once

#include <span>

#include "policy/roles.h"

namespace pith {

class PromptObserver {
 public:
  virtual ~PromptObserver() = default;
  // How many of the last queries of a layer `layer_ended` wants to see, at least.
  virtual int window_queries() const { return 0; }
  // Whether `attended` wants every query of this layer, and DenseAttention::lse.
  virtual bool wants_tensors(int /*layer*/) const { return false; }
  // Rows [job.first_row, + tile) of a layer's prompt have attended. Queries and keys are rotated.
  virtual void attended(int /*layer*/, const DenseAttention& /*job*/) {}
  // A layer is complete, and its share is decided; what a later layer takes back shows in later
  // tables. scores: [heads, rows].
  virtual void layer_ended(const LayerTap& /*tap*/, ConstMat /*scores*/,
                           const BudgetTable& /*table*/) {}
  // What the router lets through to the next layer.
  virtual void routed(int /*layer*/, const StreamPlan& /*plan*/) {}
  // Everything is decided; positions are still those of the prompt, and no page is sealed yet.
  virtual void prompt_ended(const KvStore& /*store*/, const BudgetTable& /*table*/) {}
};

}  // namespace pith
