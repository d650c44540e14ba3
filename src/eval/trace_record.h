// What `pith trace` writes down while a prompt is read: which rows every head kept, by which scores
// and budgets, and how much of the attention that the prompt's end pays went with the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kv/store.h"
#include "policy/observer.h"

namespace pith {

// Rows of a layer are named by the index of their token in the prompt, whatever became of their
// positions.
struct HeadTrace {
  int budget = 0;             // rows it may hold; BudgetTable::kAll: any number
  std::vector<int32_t> kept;  // ascending
  std::vector<float> kept_scores;
  std::vector<float> scores;  // [rows of the layer], as the scorer gave them
  std::vector<float> mass;    // [rows of the layer] share of the last queries' attention; sum 1
  int pseudo_rows = 0;
  size_t bytes = 0;
  double mass_kept = 1;  // of `mass`
};

struct LayerTrace {
  std::vector<int32_t> tokens;  // of its rows: index in the prompt; fewer after a router
  std::vector<HeadTrace> heads;
};

// Tensors of one layer, rows as in LayerTrace::tokens.
struct LayerTensors {
  int layer = 0;
  int64_t rows = 0, heads = 0, query_heads = 0, dim = 0, width = 0;
  std::vector<float> q, q_before_rope;  // [rows, query_heads, dim]
  std::vector<float> k, k_before_rope;  // [heads, rows, dim]
  std::vector<float> v;                 // [heads, rows, dim]
  std::vector<float> attended;          // [rows, query_heads, dim]
  std::vector<float> lse;               // [rows, query_heads]
  std::vector<float> hidden;            // [rows, width], output of the layer
};

class TraceRecorder final : public PromptObserver {
 public:
  // `window` queries at the end of the prompt say what attention was worth. `tensors`: layers.
  TraceRecorder(int tokens, int window, std::vector<int> tensors);

  int window_queries() const override { return window_; }
  bool wants_tensors(int layer) const override;
  void attended(int layer, const DenseAttention& job) override;
  void layer_ended(const LayerTap& tap, ConstMat scores, const BudgetTable& table) override;
  void routed(int layer, const StreamPlan& plan) override;
  void prompt_ended(const KvStore& store, const BudgetTable& table) override;

  // After the prompt: the bytes that heads hold once their pages are sealed.
  void weigh(const KvStore& store);

  const std::vector<LayerTrace>& layers() const { return layers_; }
  const std::vector<LayerTensors>& tensors() const { return tensors_; }
  int window() const { return window_; }

 private:
  LayerTensors* tensors_of(int layer);

  int window_;
  std::vector<int> wanted_;
  std::vector<int32_t> tokens_;  // of the rows that travel
  std::vector<std::vector<int32_t>> layer_positions_;
  std::vector<LayerTrace> layers_;
  std::vector<LayerTensors> tensors_;
};

}  // namespace pith
