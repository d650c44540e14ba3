// How fast a test of `pith bench` could be on this machine at most: the multiply-adds and the bytes
// that it cannot do without, over what base/roofline.h measured. Norms, activations and everything
// else that grows with rows alone is left out, so no run reaches its bound.
#pragma once

#include <string_view>

#include "backend/cpu_backend.h"
#include "base/roofline.h"
#include "kv/store.h"
#include "model/model.h"
#include "policy/observer.h"

namespace pith {

struct Work {
  double float_products = 0, word_products = 0, byte_products = 0;  // multiply-adds, by number kind
  double read_bytes = 0;                                            // from memory
};

struct Bound {
  double seconds = 0;        // 0: unknown, as this machine's arithmetic is
  std::string_view by = {};  // "arithmetic" or "memory", whichever takes longer
};
Bound bound_of(const Work& work, const Roofline& roof);

// Counts a prompt while it is read: the rows that reach each layer and the keys that queries see,
// so what a method leaves out is not counted as work. Weights are read once. A probe's passes over
// the prompt are not seen and not counted.
class PromptWork final : public PromptObserver {
 public:
  PromptWork(const Model& model, MatmulForm form) : model_(model), form_(form) {}
  void attended(int layer, const DenseAttention& job) override;
  // Of what was read so far, with the last row's logits.
  Work work() const;

 private:
  const Model& model_;
  MatmulForm form_;
  Work work_;
  int layer_ = -1;
  int64_t next_row_ = 0;
};

// Of one generated token: all weights but those of other tokens' embeddings, and the rows that the
// store holds. A method whose tokens read some pages only (`reads_all` false) is not charged for
// rows.
Work token_work(const Model& model, MatmulForm form, const KvStore& store, Quant pages,
                bool reads_all);

}  // namespace pith
