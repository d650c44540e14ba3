// The operations a transformer and the methods need, on views. One implementation per
// device. Float rows stay where the backend allocated them; scores, budgets and plans
// always live on the host. One caller at a time. A token's results are the same bits whatever
// it shares a call with, and however many threads work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/key_turns.h"
#include "kernels/table.h"
#include "tensor/kv_shape.h"
#include "tensor/view.h"

namespace pith {

class Threads;

class Buffer {  // memory of one backend; freed with it
 public:
  virtual ~Buffer() = default;
  virtual void* data() = 0;
  virtual size_t bytes() const = 0;
};

// How the pages of one list of rows are coded.
struct PageFormats {
  Quant k = Quant::f16, v = Quant::f16;
  bool operator==(const PageFormats&) const = default;
};

// One head of one session as a decode kernel sees it: coded pages, plain pages, pseudo rows.
// All are attended to separately and merged; see kernels/attn_state.h. The rows that are read are
// numbered 0 .. rows() - 1: the given sealed pages in order, then the open rows.
struct PagedHead {
  std::span<const std::byte*const> sealed_k, sealed_v;  // the full pages to read, in order
  Quant k_quant = Quant::f16, v_quant = Quant::f16;
  // Pages of a head may differ: each one's place in `formats`, whose keys meet queries as they are
  // (no PageKernels::prepare). None: all are k_quant, v_quant.
  std::span<const uint8_t> format_of;  // [sealed pages]
  std::span<const PageFormats> formats;
  PageFormats format(size_t page) const {
    return format_of.empty() ? PageFormats{k_quant, v_quant} : formats[format_of[page]];
  }
  int k_dim = 0, v_dim = 0;           // of sealed rows, after the basis
  const float* query_map = nullptr;   // [k_dim, dim] takes a query to sealed coordinates
  const float* output_map = nullptr;  // [v_dim, dim] takes their sum back; null: the first channels
  // Sealed keys lie as they were before their rotation. Queries are not mapped then: keys times
  // query_map, turned to their positions, are what queries meet as they are. Null: as above.
  const KeyTurns* key_turns = nullptr;

  std::span<const std::byte*const> open_k, open_v;  // plain, `open_quant`, [page_rows, dim]
  Quant open_quant = Quant::f16;
  int open_rows = 0;

  ConstMat pseudo_k, pseudo_v;  // [rows, dim]
  std::span<const float> pseudo_log_weight;

  std::span<const int32_t> positions;    // [rows()] of the rows read
  std::span<const int32_t> row_numbers;  // of the rows read, if they are not all of them
  int page_rows = 0;
  int rows() const { return static_cast<int>(sealed_k.size()) * page_rows + open_rows; }
};

struct RowRange {
  int64_t first = 0, last = 0;  // rows [first, last)
  bool operator==(const RowRange&) const = default;
};

// Which rows of its layer a prompt reads, for every head and every block of queries. Block b is the
// queries of rows [b * kBlock, (b + 1) * kBlock) of the layer, however the prompt is cut into
// tiles. A block's ranges ascend, do not overlap, begin and end at multiples of kKeyBlock (or at
// the end of the block's own rows) and take in the block's own rows; which of those a query sees is
// decided by causality and the rule. Rows of earlier turns are always read.
struct ReadPlan {
  static constexpr int64_t kBlock = 128;
  int64_t rows = 0, heads = 0;
  std::vector<std::vector<RowRange>> ranges;  // [heads * blocks()]

  int64_t blocks() const { return (rows + kBlock - 1) / kBlock; }
  bool reads_all() const { return ranges.empty(); }
  void clear() { ranges.clear(); }  // everything is read
  void begin(int64_t plan_heads, int64_t plan_rows) {
    heads = plan_heads;
    rows = plan_rows;
    ranges.assign(static_cast<size_t>(heads * blocks()), {});
  }
  std::vector<RowRange>& at(int64_t head, int64_t block) {
    return ranges[static_cast<size_t>(head * blocks() + block)];
  }
  std::span<const RowRange> at(int64_t head, int64_t block) const {
    return ranges[static_cast<size_t>(head * blocks() + block)];
  }
};

// Causal attention of a tile of queries over the dense rows of the layer being prefilled.
struct DenseAttention {
  ConstCube q;                             // [tile, query_heads, dim], after RoPE
  ConstCube k, v;                          // [heads, rows, dim]
  std::span<const PagedHead> cached = {};  // [heads] rows of earlier turns, all older; or empty
  int64_t first_row = 0;                   // row index of the tile's first query
  std::span<const int32_t> positions;      // [rows] of the layer's rows
  AttentionRule rule;
  bool int16 = false;  // products may be sums of 16-bit integers: for models that are coded anyway
  Cube out;  // [tile, query_heads, dim]; without data, like v: only `column_mass` is wanted
  Mass mass = Mass::none;
  // [heads, rows] attention each row received so far, by `mass`; or [query_heads, rows].
  Mat column_mass = {};
  // [tile] what a query's attention is divided by before it is gathered; empty: 1.
  std::span<const float> mass_divisor = {};
  Mat lse = {};  // [tile, query_heads] log of the sum of exp(logit); empty: not wanted
  const ReadPlan* reads = nullptr;  // of all `rows`; null: every row is read
};

// Attention of one generated token in one head. Positions of the head's rows are read only where
// the rule has a window or slopes; neither applies to pseudo rows, which have no position.
struct HeadAttention {
  ConstMat q;  // [group, dim], after RoPE
  PagedHead head;
  int32_t position = 0;      // of the query
  int first_query_head = 0;  // for ALiBi slopes
  AttentionRule rule;
  Mat out;  // [group, dim]
  // One per row read, summed over the group: shares of everything read, pseudo rows included.
  std::span<float> probs = {};  // empty: not wanted
};

// What the last queries of a prompt pay to every row of a layer.
struct WindowMass {
  ConstCube q;                         // [window, query_heads, dim], after RoPE: the newest rows
  ConstCube k;                         // [heads, rows, dim]
  std::span<const int32_t> positions;  // [rows]
  AttentionRule rule;
  // Host, [query_heads, rows]: softmax probabilities summed over the window; without data:
  // unwanted.
  Mat out;
  // Host, [window, query_heads]: ln of the sum of exp over a query's logits; the probability of a
  // row is exp(logit - log_sum). Without data: unwanted.
  Mat log_sum = {};
};

enum class Gate { silu, gelu_tanh };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual const Threads& threads() const = 0;
  // Memory that calls share and that is held between them, beside what `allocate` gave out.
  virtual size_t scratch_bytes() const { return 0; }
  // Zeroed lazily by the system, and given back to it when freed. Throws Error{no_memory}.
  virtual std::unique_ptr<Buffer> allocate(size_t bytes) = 0;

  // Dense maths of a block. x and out are [rows, features].
  virtual void embed(const WeightMatrix& table, std::span<const int32_t> tokens, float scale,
                     Mat out) = 0;
  virtual void matmul(ConstMat x, const WeightMatrix& w, Mat out) = 0;  // out = x w^T
  // The same for rows of a prompt, whose products with F16 and BF16 weights may be sums of 16-bit
  // integers (docs/numerics.md).
  virtual void matmul_prompt(ConstMat x, const WeightMatrix& w, Mat out) { matmul(x, w, out); }
  virtual void rms_norm(ConstMat x, std::span<const float> gain, float eps, Mat out) = 0;
  virtual void layer_norm(ConstMat x, std::span<const float> gain, std::span<const float> bias,
                          float eps, Mat out) = 0;  // bias may be empty
  // Rotates each row to its position; `turn` -1 takes it back, for methods that want
  // queries and keys as they were before. heads is [rows, heads, dim].
  virtual void rope(Cube heads, std::span<const int32_t> positions, const Rope& rope, int turn) = 0;
  virtual void gate(Gate gate, ConstMat x, ConstMat up, Mat out) = 0;  // out = f(x) * up
  virtual void gelu(ConstMat x, Mat out) = 0;                          // the exact (erf) form
  virtual void add(ConstMat x, Mat into) = 0;
  virtual void add_row(std::span<const float> bias, Mat into) = 0;  // to every row
  virtual void clamp(float limit, Mat into) = 0;                    // to [-limit, limit]
  virtual void softcap(float cap, Mat into) = 0;                    // cap * tanh(x / cap)
  virtual void gather(ConstMat x, std::span<const int32_t> rows,
                      Mat out) = 0;  // may overlap if ascending

  // Attention.
  virtual void attend(const DenseAttention& job) = 0;
  virtual void attend(std::span<const HeadAttention> jobs) = 0;  // balanced by rows read

  // What scorers ask for; results are host memory.
  virtual void window_mass(const WindowMass& job) = 0;
  virtual void row_norms(ConstCube x, Mat out) = 0;  // [heads, rows, dim] -> [heads, rows]

  // A host copy of rows for a method that has no operation of its own yet.
  // Free on the CPU; slow, and counted in the statistics, elsewhere.
  virtual ConstMat to_host(ConstMat x) = 0;
};

}  // namespace pith
