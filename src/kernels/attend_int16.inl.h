// The form of attend.inl.h whose products are sums of 16-bit integers: a multiply-add of pairs does
// twice as many products as one of floats, and sums are exact. Queries have 13 bits, keys what is
// left of 31 for the sum over dim (14 bits at 64, 13 at 128), values 12, each row with a unit of
// its own; weights have 14 bits below the largest of their query and block. docs/numerics.md has
// what that costs. Nothing depends on finite rows that a query does not see.
//
//   logits = q k^T * unit of q * unit of k
//   w = exp(logits - max of the block) * units of v, as integers below their largest
//   out = out f + w v * unit of w
#pragma once

#include "kernels/attend.inl.h"
#include "kernels/pages_int8.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

constexpr float kMostQuery = 4095;
constexpr float kMostValue = 2047;
constexpr float kMostWeight = 16383;
static_assert(int64_t{16383} * 2047 * kKeyBlock < (int64_t{1} << 31));

// So that dim products of pairs stay below 2^31.
inline float most_key(int dim) {
  const int most = 0x7fffffff / (4095 * dim);
  return static_cast<float>(most < 32767 ? most : 32767);
}

struct Int16Memory : ChunkMemory {
  float* q;        // [queries * heads, dim / 2] pairs of codes; words are only moved as floats
  float* q_unit;   // [queries * heads], scaled
  float* codes;    // [kKeyBlock, dim / 2] of keys, before they are put in panels
  float* keys;     // [kKeyBlock / kPanel, dim / 2, kPanel] pairs along dim
  float* k_unit;   // [kKeyBlock]
  float* values;   // [panels of dim, kKeyBlock / 2, kPanel] pairs of rows `lanes` apart
  float* v_unit;   // [kKeyBlock]
  float* weights;  // [kChunk, kKeyBlock / 2] pairs of rows `lanes` apart
  float* w_unit;   // [kChunk]
  float* here;     // [kChunk] largest logit of the block
  float* share;    // [kChunk] of the block's weights in the state
};

inline int64_t int16_scratch(int64_t rows, int dim) {
  return kAlign + line_up(rows * dim / 2) + line_up(rows) +
         (dim + padded(dim) / 2 + 2) * kKeyBlock + kChunk * kKeyBlock / 2 + 3 * line_up(kChunk) +
         kChunkFloats;
}

// A row's numbers times `scale` are codes of at most `most`, whose unit is `unit`. Both are zero
// for numbers too small to code. The unit is NaN, and codes are anything, if a number is not
// finite.
struct Coding {
  float scale, unit;
};

inline Coding coding16(const float* x, int n, float most) {
  Vec odd = Vec::zero(), top = Vec::zero();
  for (int i = 0; i < n; i += Vec::lanes) {
    const Vec y = n - i < Vec::lanes ? Vec::load_part(x + i, n - i) : Vec::load(x + i);
    odd = mul_add(y, Vec::zero(), odd);
    top = max(abs(y), top);
  }
  const float size = largest(top), none = sum(odd);
  if (!(none == 0) || size < kLeastSize) return {0, none};
  return {most / size, size / most};
}

// Codes of 16 bits side by side: those of `low` in the lower halves.
inline IVec code_pairs(Vec low, Vec low_scale, Vec high, Vec high_scale) {
  const Vec round = Vec::all(0x1.8p23f);  // the integer is in the low bits then
  return (bits(mul_add(low, low_scale, round)) & IVec::all(0xffff)) |
         shift_left<16>(bits(mul_add(high, high_scale, round)));
}

// dim numbers as dim / 2 pairs of codes: number i beside number i + dim / 2. Returns the unit.
inline float code_row(const float* x, int dim, float most, float* to) {
  const auto [scale, unit] = coding16(x, dim, most);
  const Vec factor = Vec::all(scale);
  const int pairs = dim / 2;
  int i = 0;
  for (; i + Vec::lanes <= pairs; i += Vec::lanes)
    store(to + i,
          from_bits(code_pairs(Vec::load(x + i), factor, Vec::load(x + pairs + i), factor)));
  if (const int part = pairs - i; part > 0)
    store_part(to + i, part,
               from_bits(code_pairs(Vec::load_part(x + i, part), factor,
                                    Vec::load_part(x + pairs + i, part), factor)));
  return unit;
}

inline void lay_out(const TileJob& job, Int16Memory& m) {
  const int64_t rows = static_cast<int64_t>(job.queries) * job.heads, pairs = job.dim / 2;
  m.q = aligned(job.scratch);
  m.q_unit = m.q + line_up(rows * pairs);
  m.codes = m.q_unit + line_up(rows);
  m.keys = m.codes + pairs * kKeyBlock;
  m.k_unit = m.keys + pairs * kKeyBlock;
  m.values = m.k_unit + kKeyBlock;
  m.v_unit = m.values + padded(job.dim) * kKeyBlock / 2;
  m.weights = m.v_unit + kKeyBlock;
  m.w_unit = m.weights + kChunk * kKeyBlock / 2;
  m.here = m.w_unit + line_up(kChunk);
  m.share = m.here + line_up(kChunk);
  lay_out_chunk(m.share + line_up(kChunk), m);
  for (int64_t r = 0; r < rows; ++r)
    m.q_unit[r] =
        job.scale * code_row(job.q + r / job.heads * job.q_row_stride + r % job.heads * job.dim,
                             job.dim, kMostQuery, m.q + r * pairs);
}

inline void load_keys(const TileJob& job, const KeyBlock& b, const Int16Memory& m) {
  const int pairs = job.dim / 2;
  const float most = most_key(job.dim);
  for (int r = 0; r < kKeyBlock; ++r)
    m.k_unit[r] = r < b.rows ? code_row(job.k + (b.row0 + r) * job.kv_stride, job.dim, most,
                                        m.codes + r * pairs)
                             : 0;
  transpose_rows(m.codes, pairs, b.rows, pairs, m.keys);
  load_positions(job, b, m);
}

inline void load_values(const TileJob& job, const KeyBlock& b, const Int16Memory& m) {
  float scale[kKeyBlock];
  for (int r = 0; r < kKeyBlock; ++r) {
    const Coding coding =
        r < b.rows ? coding16(job.v + (b.row0 + r) * job.kv_stride, job.dim, kMostValue) : Coding{};
    scale[r] = coding.scale;
    m.v_unit[r] = coding.unit;
  }
  for (int i = 0; i < kKeyBlock / 2; ++i) {
    const int row = i / Vec::lanes * 2 * Vec::lanes + i % Vec::lanes;
    if (row >= b.rows) break;  // weights of rows that are not there are zero
    const int other = row + Vec::lanes < b.rows ? row + Vec::lanes : row;
    const float* low = job.v + (b.row0 + row) * job.kv_stride;
    const float* high = job.v + (b.row0 + other) * job.kv_stride;
    const Vec low_scale = Vec::all(scale[row]), high_scale = Vec::all(scale[other]);
    float* to = m.values + static_cast<int64_t>(i) * kPanel;
    for (int d = 0; d < job.dim; d += Vec::lanes) {
      const int part = job.dim - d;
      const bool whole = part >= Vec::lanes;
      store(to + static_cast<int64_t>(d / kPanel) * kPanel * (kKeyBlock / 2) + d % kPanel,
            from_bits(code_pairs(
                whole ? Vec::load(low + d) : Vec::load_part(low + d, part), low_scale,
                whole ? Vec::load(high + d) : Vec::load_part(high + d, part), high_scale)));
    }
  }
}

// total[r][j] = sum over i < n of the pair products a[r * a_stride + i] . b[i * kPanel ...].
template <int Rows, int Vecs>
inline void pair_sums(const float* a, int64_t a_stride, const float* b, int n,
                      IVec (&total)[Rows][Vecs]) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) total[r][j] = IVec::zero();
  for (int i = 0; i < n; ++i, b += kPanel) {
    IVec x[Vecs];
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) x[j] = bits(Vec::load(b + j * Vec::lanes));
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const IVec y = pair_at(a + r * a_stride + i);
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) total[r][j] = add_pairs(y, x[j], total[r][j]);
    }
  }
}

// Calls step(rows now, first) with a constant number of rows until `rows` are done.
template <class Step>
inline void by_rows(int rows, Step step) {
  int r = 0;
  const auto run = [&]<int Rows>() {
    for (; r + Rows <= rows; r += Rows) step.template operator()<Rows>(r);
  };
  run.template operator()<kTileRows>();
  if constexpr (kTileRows > 4) run.template operator()<4>();
  if constexpr (kTileRows > 2) run.template operator()<2>();
  run.template operator()<1>();
}

// As for floats.
inline int load_logits(const TileJob& job, const KeyBlock& b, const Int16Memory& m, int row,
                       int rows, int& width) {
  const int last = (row + rows - 1) / job.heads, pairs = job.dim / 2;
  const int seen = lesser(b.rows, job.first_row + last - b.row0 + 1);
  width = (seen + kPanel - 1) / kPanel * kPanel;
  for (int c = 0; c < width; c += kPanel)
    by_rows(rows, [&]<int Rows>(int r0) {
      IVec total[Rows][kTileVecs];
      pair_sums(m.q + static_cast<int64_t>(row + r0) * pairs, pairs,
                m.keys + static_cast<int64_t>(c) * pairs, pairs, total);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec unit = Vec::all(m.q_unit[row + r0 + r]);
#pragma GCC unroll 4
        for (int j = 0; j < kTileVecs; ++j)
          store(m.p + (r0 + r) * kKeyBlock + c + j * Vec::lanes,
                to_float(total[r][j]) * (unit * Vec::load(m.k_unit + c + j * Vec::lanes)));
      }
    });
  return seen;
}

// exp(x) for x = t ln 2 below zero, within 2e-7 of it; exactly 0 from t = -127 on. The polynomial
// is a minimax fit that is exactly 1 at 0.
inline Vec exp2_below_zero(Vec t) {
  constexpr float kRound = 0x1.8p23f;
  t = max(Vec::all(-127.0f), t);  // NaN stays
  const Vec shifted = t + Vec::all(kRound);
  const Vec f = t - (shifted - Vec::all(kRound));
  Vec p = Vec::all(1.3264729641377926e-3f);
  p = mul_add(p, f, Vec::all(9.671514853835106e-3f));
  p = mul_add(p, f, Vec::all(5.550733581185341e-2f));
  p = mul_add(p, f, Vec::all(0.24022242426872253f));
  p = mul_add(p, f, Vec::all(0.6931470036506653f));
  p = mul_add(p, f, Vec::all(1.0f));
  return from_bits(bits(p) + shift_left<23>(bits(shifted)));
}

// One vector per query row of a chunk, whole vectors of rows.
constexpr int kChunkLanes = (kChunk + Vec::lanes - 1) / Vec::lanes * Vec::lanes;
using RowLanes = float[kChunkLanes][Vec::lanes];

// to[r] = how(...) of the lanes of row r: of `lanes` rows at a time, so that one row does not wait
// for the other.
template <class How>
inline void reduce_lanes(RowLanes& from, int rows, float* to, How how) {
  for (int r = rows; r % Vec::lanes != 0; ++r) store(from[r], Vec::zero());
  for (int r = 0; r < rows; r += Vec::lanes) {
    Vec x[Vec::lanes];
#pragma GCC unroll 16
    for (int i = 0; i < Vec::lanes; ++i) x[i] = Vec::load(from[r + i]);
    transpose(x);
#pragma GCC unroll 4
    for (int n = Vec::lanes / 2; n > 0; n /= 2)
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) x[i] = how(x[i], x[i + n]);
    store(to + r, x[0]);
  }
}

// Turns the logits of a chunk into weights below those of their row's largest, m.here: integers in
// pairs of keys `lanes` apart. Leaves the sums of the exponentials in `total`, and in `size` the
// largest weights, `kChunkLanes` each.
inline void weigh(const Int16Memory& m, int rows, int width, const float* v_unit, float* total,
                  float* size) {
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr int kVecs = kKeyBlock / Vec::lanes;
  const Vec log2e = Vec::all(kLog2e);
  alignas(64) RowLanes sums, most;
  for (int r = 0; r < rows; ++r) {
    float* x = m.p + r * kKeyBlock;
    // A query that sees nothing of this block has weights of zero.
    const bool sees = m.here[r] > -__builtin_inff();
    for (int c = sees ? width : 0; c < kKeyBlock; c += Vec::lanes)
      store(x + c, Vec::all(-__builtin_inff()));
    const Vec shift = Vec::all(sees ? m.here[r] : 0);
    Vec sum = Vec::zero(), top = Vec::zero();
#pragma GCC unroll 4
    for (int i = 0; i < kVecs; ++i) {
      const Vec p = exp2_below_zero((Vec::load(x + i * Vec::lanes) - shift) * log2e);
      const Vec w = p * Vec::load(v_unit + i * Vec::lanes);
      sum = sum + p;
      top = max(w, top);
      store(x + i * Vec::lanes, w);
    }
    store(sums[r], sum);
    store(most[r], top);
  }
  reduce_lanes(sums, rows, total, [](Vec a, Vec b) { return a + b; });
  reduce_lanes(most, rows, size, [](Vec a, Vec b) { return max(a, b); });
  for (int r = 0; r < rows; ++r) {
    const float* w = m.p + r * kKeyBlock;
    float* to = m.weights + r * (kKeyBlock / 2);
    const Vec inverse = Vec::all(size[r] > kLeastSize ? kMostWeight / size[r] : 0);
#pragma GCC unroll 4
    for (int i = 0; i < kVecs; i += 2) {
      const Vec a = Vec::load(w + i * Vec::lanes), b = Vec::load(w + (i + 1) * Vec::lanes);
      store(to + i / 2 * Vec::lanes, from_bits(code_pairs(a, inverse, b, inverse)));
    }
  }
}

// Columns [d, d + Vecs * lanes) of out = out * factor + w v.
template <int Vecs, bool Part = false>
inline void add_weighted(const Int16Memory& m, int rows, int width, const float* v,
                         float* const* out, int d, int part = 0) {
  by_rows(rows, [&]<int Rows>(int r0) {
    IVec total[Rows][Vecs];
    pair_sums(m.weights + r0 * (kKeyBlock / 2), kKeyBlock / 2, v, width / 2, total);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec factor = Vec::all(m.factor[r0 + r]), unit = Vec::all(m.w_unit[r0 + r]);
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) {
        float* to = out[r0 + r] + d + j * Vec::lanes;
        const Vec before = (Part ? Vec::load_part(to, part) : Vec::load(to)) * factor;
        const Vec now = mul_add(to_float(total[r][j]), unit, before);
        if (Part)
          store_part(to, part, now);
        else
          store(to, now);
      }
    }
  });
}

inline void add_values(const TileJob& job, const Int16Memory& m, int rows, int width,
                       float* const* out) {
  for (int d = 0; d < job.dim; d += kPanel) {
    const float* v = m.values + static_cast<int64_t>(d) * (kKeyBlock / 2);
    if (d + kPanel <= job.dim) {
      add_weighted<kTileVecs>(m, rows, width, v, out, d);
      continue;
    }
    int c = d;
    for (; c + Vec::lanes <= job.dim; c += Vec::lanes)
      add_weighted<1>(m, rows, width, v + (c - d), out, c);
    if constexpr (Vec::lanes > 8)  // dim is a multiple of 8
      if (c < job.dim) add_weighted<1, true>(m, rows, width, v + (c - d), out, c, job.dim - c);
  }
}

// States of `rows` query rows move on to the larger of `before` and `here`: `factor` takes what
// they hold to it, and `share` what comes.
inline void move_states(const Int16Memory& m, float* state_max, int rows) {
  for (int r = 0; r < rows; r += Vec::lanes) {
    const int part = rows - r;
    const Vec here = Vec::load(m.here + r);
    const Vec before =
        part < Vec::lanes ? Vec::load_part(state_max + r, part) : Vec::load(state_max + r);
    const Vec most = max(here, before);
    const Mask nothing = less(most, Vec::all(-0x1.fffffep127f));  // -inf - -inf is no number
    store(m.factor + r, select(nothing, Vec::all(1), exp(before - most)));
    store(m.share + r, select(nothing, Vec::zero(), exp(here - most)));
    if (part < Vec::lanes)
      store_part(state_max + r, part, most);
    else
      store(state_max + r, most);
  }
}

// Whether products are logits as they are: every row of the chunk sees every key of a full block.
inline bool sees_all(const TileJob& job, const KeyBlock& b, int row, int rows) {
  return job.softcap <= 0 && !job.alibi && b.rows == kKeyBlock &&
         b.row0 + kKeyBlock - 1 <= job.first_row + row / job.heads &&
         !behind(job, (row + rows - 1) / job.heads, b.row0);
}

inline Vec most_lanes(const float* x) {
  Vec most = Vec::load(x);
#pragma GCC unroll 4
  for (int c = Vec::lanes; c < kKeyBlock; c += Vec::lanes) most = max(Vec::load(x + c), most);
  return most;
}

inline void attend_chunk(const TileJob& job, const KeyBlock& b, const Int16Memory& m, int row,
                         int rows) {
  int width = 0;
  load_logits(job, b, m, row, rows, width);
  const bool plain = sees_all(job, b, row, rows);
  float* out[kChunk];
  alignas(64) RowLanes most;
  int i = row / job.heads, head = row % job.heads;
  for (int r = 0; r < rows; ++r) {
    float* x = m.p + r * kKeyBlock;
    store(most[r], plain ? most_lanes(x) : finish_lanes(job, b, m, row + r, width, x));
    if (job.v) out[r] = job.out + i * job.out_row_stride + static_cast<int64_t>(head) * job.dim;
    if (++head == job.heads) {
      head = 0;
      ++i;
    }
  }
  reduce_lanes(most, rows, m.here, [](Vec x, Vec y) { return max(x, y); });
  move_states(m, job.max + row, rows);
  Vec odd = Vec::zero();  // NaN if a value is no number
  for (int c = 0; job.v && c < kKeyBlock; c += Vec::lanes)
    odd = mul_add(Vec::load(m.v_unit + c), Vec::zero(), odd);
  const Vec none = Vec::all(sum(odd));
  alignas(64) float total[kChunkLanes], size[kChunkLanes];
  // Any units do where the sum alone is wanted.
  weigh(m, rows, width, job.v ? m.v_unit : m.k_unit, total, size);
  for (int r = 0; r < rows; r += Vec::lanes) {
    const Vec share = Vec::load(m.share + r);
    store(m.w_unit + r, Vec::load(size + r) * Vec::all(1 / kMostWeight) * share + none);
    float* to = job.sum + row + r;
    const Vec now = Vec::load(total + r) * share, factor = Vec::load(m.factor + r);
    if (rows - r < Vec::lanes)
      store_part(to, rows - r, mul_add(Vec::load_part(to, rows - r), factor, now));
    else
      store(to, mul_add(Vec::load(to), factor, now));
  }
  if (job.v) add_values(job, m, rows, width, out);
}

// ---- the kernels

inline size_t tile_scratch(int queries, int heads, int dim) {
  const int64_t rows = static_cast<int64_t>(queries) * heads;
  const int64_t a = float_scratch(rows, dim), b = int16_scratch(rows, dim);
  return static_cast<size_t>(a > b ? a : b);
}

inline void attend_tile(const TileJob& job) {
  if (job.int16)
    attend_keys<Int16Memory>(job);
  else
    attend_keys<TileMemory>(job);
}

inline void tile_mass(const TileJob& job, Mass how, float* mass, int64_t mass_stride) {
  if (job.int16)
    mass_of_keys<Int16Memory>(job, how, mass, mass_stride);
  else
    mass_of_keys<TileMemory>(job, how, mass, mass_stride);
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith
