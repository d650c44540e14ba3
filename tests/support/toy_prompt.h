// A prompt without a model: random rows for a few layers and heads, driven through a real
// Compressor, a real KvStore and a real Backend. What a method keeps can be read off the store.
// The rows of a token depend on seed, layer, head and the token's number in the session alone, so
// sessions that are interleaved, forked or run on more threads see the same numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "kv/store.h"
#include "policy/compressor.h"

namespace pith::test {

inline KvShape toy_shape() {
  return {.layers = 4, .query_heads = 4, .heads = 2, .dim = 16, .width = 32};
}

struct ToyHead {  // a copy of what a head holds
  std::vector<int32_t> positions;
  std::vector<float> k, v;  // [rows, dim]
  bool operator==(const ToyHead&) const = default;
};

class ToyPrompt {
 public:
  explicit ToyPrompt(std::string_view spec, KvShape shape = toy_shape(), int threads = 1,
                     uint64_t seed = 1);
  ToyPrompt(std::shared_ptr<const Policy> policy, KvShape shape, int threads, uint64_t seed);
  ~ToyPrompt();

  // Called for every layer before it is compressed; may plant keys, values or queries, all after
  // rotation: q [rows, query_heads, dim], k and v [heads, rows, dim]. For passes of a probe too.
  std::function<void(int layer, Cube q, Cube k, Cube v)> plant;

  // [query_heads] slopes; empty: none. To be set before the first prompt.
  std::vector<float> alibi;

  void prefill(int tokens);  // a prompt, or a further turn
  void begin(int tokens);    // the same in steps: begin, then layers until false
  bool run_layer();
  void abandon() { store_->rewind(); }  // the prompt that was begun
  void decode(int tokens);
  std::unique_ptr<ToyPrompt> fork() const;

  int rows_into(int layer) const { return rows_into_[static_cast<size_t>(layer)]; }
  // Positions, as the rows lie; of a policy with tiers, where pages have another order, sorted.
  std::vector<int32_t> kept(int layer, int head) const;
  ToyHead head(int layer, int head) const;
  std::vector<ToyHead> heads() const;                         // all of them
  const std::vector<float>& outputs() const { return out_; }  // of the last decoded token
  // Queries of the last decoded token, [query_heads, dim], after rotation.
  std::vector<float> last_queries(int layer) const;
  std::vector<float> scores(int layer, int head) const;  // the lane
  // A token's key before rotation.
  std::vector<float> raw_key(int layer, int head, int token) const;

  WeightMatrix output_projection() const;  // of every layer

  const Policy& policy() const { return *policy_; }
  const KvShape& shape() const { return shape_; }
  KvStore& store() { return *store_; }
  PagePool& pool() { return *pool_; }
  Compressor& compressor() { return *compressor_; }
  const std::vector<float>& inv_freq() const { return inv_freq_; }
  int tokens() const { return tokens_; }
  int layers_run() const { return layers_run_; }  // of all prompts, restarts included

 private:
  ToyPrompt(const ToyPrompt& other, std::unique_ptr<KvStore> store);
  AttentionRule rule_of(const KvShape& shape, int layer) const;
  Rope rope() const { return {.inv_freq = inv_freq_, .magnitude = 1, .half_split = true}; }
  void run_probe(int round);
  void fill(int layer, int kind, int token, int heads, float* out) const;
  void make_rows(int layer, std::span<const int32_t> tokens, std::span<const int32_t> positions);

  KvShape shape_;
  std::shared_ptr<const Policy> policy_;
  uint64_t seed_;
  std::vector<float> inv_freq_;
  std::shared_ptr<Backend> ops_;
  std::shared_ptr<PagePool> pool_;
  std::unique_ptr<KvStore> store_;
  std::unique_ptr<Compressor> compressor_;
  int tokens_ = 0;  // fed and generated
  // The prompt in flight.
  int layer_ = 0, prompt_tokens_ = 0, layers_run_ = 0;
  std::vector<int32_t> stream_, positions_;  // token numbers and positions that still travel
  std::vector<uint8_t> adapted_;             // of them, once a router has said so
  std::vector<int> rows_into_;
  std::vector<float> q_data_, k_data_, v_data_, out_;
  mutable std::vector<float> wo_;
  std::vector<std::vector<float>> last_q_;  // [layers]
  Cube q_, k_, v_;                          // [rows, query_heads, dim], [heads, rows, dim]
};

}  // namespace pith::test
