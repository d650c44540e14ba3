// Holds the heads of a prompt to a share of attention. A profile says how much of the last queries'
// attention each head kept, at least, on prompts that were answered well; a head that would keep
// less of this prompt keeps more rows, and tokens that would not travel on do. What was needed goes
// into CompressionStats, and where a limit of memory forbids it, that is counted, too.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "policy/observer.h"
#include "policy/roles.h"

namespace pith {

// Whose attention is counted: the last prompt queries, unpooled.
inline constexpr int kMassQueries = 32;
std::unique_ptr<const Scorer> attention_of_last_queries();

struct Guard {
  std::vector<float> floors;  // [layers, heads + 1] shares; the last: of tokens that travel on
  int most_rows = 0;          // a head may have on average; 0: no limit
  std::unique_ptr<const Scorer> scorer = attention_of_last_queries();

  float floor(const KvShape& shape, int layer, int head) const {
    return floors[static_cast<size_t>(layer) * static_cast<size_t>(shape.heads + 1) +
                  static_cast<size_t>(head)];
  }
  float travel_floor(const KvShape& shape, int layer) const {
    return floor(shape, layer, shape.heads);
  }
};

// The fewest rows, protected ones included, that hold `share` of the mass if rows go in the order
// of their scores. Both spans have a number per row.
int rows_for_share(std::span<const float> scores, std::span<const float> mass, double share,
                   Protect protect);
// The share that so many of them hold.
double share_of_rows(std::span<const float> scores, std::span<const float> mass, int rows,
                     Protect protect);

// Measures for a session's first prompt what a guard would ask for: which share of the last
// queries' attention each head holds when everything is decided, of the rows that reached its
// layer.
class KeptMass final : public PromptObserver {
 public:
  int window_queries() const override { return kMassQueries; }
  void layer_ended(const LayerTap& tap, ConstMat scores, const BudgetTable& table) override;
  void routed(int layer, const StreamPlan& plan) override;
  void prompt_ended(const KvStore& store, const BudgetTable& table) override;

  // [layers, heads + 1] the last: of tokens that travelled on from the layer; empty before a prompt
  // ended.
  const std::vector<float>& shares() const { return shares_; }
  double mean() const;  // over heads

 private:
  struct Layer {
    std::vector<int32_t> positions;
    std::vector<float> mass;  // [heads, rows]
    float travels = 1;
  };
  std::vector<Layer> layers_;
  std::vector<float> shares_;
  double mean_ = 0;
};

}  // namespace pith
