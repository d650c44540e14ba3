// The few numbers of a model that the cache and the methods need.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pith {

// Rotary position embedding as the model defines it, scaling included: pair i turns by
// position * inv_freq[i]. Pairs beyond inv_freq are left alone (partial rotation).
struct Rope {
  std::span<const float> inv_freq;  // [rotated dim / 2]; empty: no rotation (ALiBi models)
  float magnitude = 1;              // YaRN's attention factor; applied once, forwards only
  bool half_split = false;          // pairs (i, i + n/2), not neighbours (2i, 2i + 1)
};

struct KvShape {
  int layers = 0;
  int query_heads = 0;  // per layer
  int heads = 0;        // key/value heads per layer
  int dim = 0;          // of one head; a multiple of 8
  int width = 0;        // of the residual stream
  std::vector<int> windows =
      {};  // [layers] sliding windows in tokens, 0: none; empty: no layer has one
  // [layers] how keys turn with their positions; the numbers lie in the model. Empty: not at all.
  std::vector<Rope> ropes = {};

  int group() const { return query_heads / heads; }  // query heads that share a head
  Rope rope(int layer) const { return ropes.empty() ? Rope{} : ropes[static_cast<size_t>(layer)]; }
  int window(int layer) const { return windows.empty() ? 0 : windows[static_cast<size_t>(layer)]; }
};

// How logits become attention in one layer; the same for prompt and generation.
struct AttentionRule {
  float scale = 1;                    // of q . k
  float softcap = 0;                  // logit = cap * tanh(logit / cap); 0: none
  int window = 0;                     // only rows with position > query position - window; 0: all
  std::span<const float> alibi = {};  // [query_heads] slope of -(distance); empty: none
};

}  // namespace pith
