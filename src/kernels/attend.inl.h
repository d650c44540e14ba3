// Causal attention of a tile of queries over dense rows, in the flash form: keys are visited in
// blocks of kKeyBlock rows counted from row 0, and a running state (maximum, sum, weighted values)
// is kept per query and head. Three steps per block, for some dozens of query rows at a time:
//
//   logits = q k^T          lanes along keys; the block's keys are transposed once per call
//   p = exp(logits - max)   the states' maxima and sums move on
//   out = out f + p v       lanes along dim; f takes the old values to the new maximum
//
// Both products run through `multiply`, which keeps kTileRows x kTileVecs vectors in registers.
// Every number of the result is one chain of additions in the order of rows (or of dim), so it
// depends on nothing but its own query: not on tiles, neighbours or the number of keys behind it.
//
// With TileJob::int16 both products are sums of integers, see attend_int16.inl.h.
#pragma once

#include "kernels/table.h"
#include "kernels/vec_math.inl.h"

namespace pith {
namespace {
namespace PITH_TARGET {

// Registers for accumulators: 12 of 16 (AVX2), 24 of 32 (AVX-512, NEON).
constexpr int kTileRows = Vec::lanes == 16 ? 12 : Vec::lanes == 1 ? 2 : 6;
constexpr int kTileVecs = Vec::lanes == 4 ? 4 : Vec::lanes == 1 ? 4 : 2;
constexpr int kPanel = kTileVecs * Vec::lanes;  // keys, or numbers of a value, side by side
constexpr int kChunk = 24;                      // query rows between logits and values
static_assert(kKeyBlock % kPanel == 0 && kChunk % kTileRows == 0);

// ---- the product

// c[r] = c[r] * factor[r] + sum over i < n of a[r * a_stride + i] * b[i * kPanel ...], for `Rows`
// rows and `Vecs` vectors side by side; with Part, c has only `part` numbers of its vector. No
// factor means that c starts from zero. b is packed, because rows a power of two apart share few
// sets of the first cache.
template <int Rows, int Vecs, bool Part>
inline void multiply(const float* a, int64_t a_stride, const float* b, int n, const float* factor,
                     float* const* c, int64_t c_offset, int part) {
  Vec total[Rows][Vecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) {
      total[r][j] = Vec::zero();
      if (factor) {
        const float* from = c[r] + c_offset + j * Vec::lanes;
        total[r][j] = (Part ? Vec::load_part(from, part) : Vec::load(from)) * Vec::all(factor[r]);
      }
    }
  for (int i = 0; i < n; ++i, b += kPanel) {
    Vec x[Vecs];
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) x[j] = Vec::load(b + j * Vec::lanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec y = Vec::all(a[r * a_stride + i]);
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) total[r][j] = mul_add(y, x[j], total[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) {
      float* to = c[r] + c_offset + j * Vec::lanes;
      if (Part)
        store_part(to, part, total[r][j]);
      else
        store(to, total[r][j]);
    }
}

// The same for any number of rows.
template <int Vecs, bool Part = false>
inline void multiply_rows(int rows, const float* a, int64_t a_stride, const float* b, int n,
                          const float* factor, float* const* c, int64_t c_offset, int part = 0) {
  int r = 0;
  const auto step = [&](auto run, int count) {
    for (; r + count <= rows; r += count)
      run(a + r * a_stride, a_stride, b, n, factor ? factor + r : nullptr, c + r, c_offset, part);
  };
  step(multiply<kTileRows, Vecs, Part>, kTileRows);
  if constexpr (kTileRows > 4) step(multiply<4, Vecs, Part>, 4);
  if constexpr (kTileRows > 2) step(multiply<2, Vecs, Part>, 2);
  step(multiply<1, Vecs, Part>, 1);
}

// ---- one call

// What lies in TileJob::scratch.
struct ChunkMemory {
  float* p;       // [kChunk, kKeyBlock] logits, then exponentials
  float* factor;  // [kChunk]
  float* k_pos;   // [kKeyBlock] relative to the block's first
};
struct TileMemory : ChunkMemory {
  float* q;       // [queries * heads, dim], scaled
  float* keys;    // [kKeyBlock / kPanel, dim, kPanel] transposed; columns without a key are zero
  float* values;  // [panels of dim, kKeyBlock, kPanel]; columns behind dim are zero
};

constexpr int64_t kAlign = 16;  // floats, a cache line

constexpr int64_t line_up(int64_t floats) {
  return (floats + kAlign - 1) / kAlign * kAlign;
}

inline int64_t padded(int dim) {
  return static_cast<int64_t>(dim + kPanel - 1) / kPanel * kPanel;
}

constexpr int64_t kChunkFloats = kChunk * kKeyBlock + line_up(kChunk) + kKeyBlock;

inline int64_t float_scratch(int64_t rows, int dim) {
  return kAlign + line_up(rows * dim) + (dim + padded(dim)) * kKeyBlock + kChunkFloats;
}

inline float* aligned(float* scratch) {
  const auto floats = reinterpret_cast<uintptr_t>(scratch) / sizeof(float);
  return scratch + (kAlign - static_cast<int64_t>(floats % kAlign)) % kAlign;
}

inline void lay_out_chunk(float* at, ChunkMemory& m) {
  m.p = at;
  m.factor = m.p + kChunk * kKeyBlock;
  m.k_pos = m.factor + line_up(kChunk);
}

inline void lay_out(const TileJob& job, TileMemory& m) {
  const int64_t rows = static_cast<int64_t>(job.queries) * job.heads;
  m.q = aligned(job.scratch);
  m.keys = m.q + line_up(rows * job.dim);
  m.values = m.keys + static_cast<int64_t>(job.dim) * kKeyBlock;
  lay_out_chunk(m.values + padded(job.dim) * kKeyBlock, m);
  for (int i = 0; i < job.queries; ++i) {
    const float* from = job.q + i * job.q_row_stride;
    float* to = m.q + static_cast<int64_t>(i) * job.heads * job.dim;
    for (int64_t d = 0; d < static_cast<int64_t>(job.heads) * job.dim; ++d)
      to[d] = from[d] * job.scale;
  }
}

// A block of keys and the queries that see any of it.
struct KeyBlock {
  int64_t row0;     // of the block
  int rows;         // that exist, up to kKeyBlock
  int first, last;  // queries [first, last)
};

inline int lesser(int64_t a, int64_t b) {
  return static_cast<int>(a < b ? a : b);
}

// Whether the window of query i has left row `row` behind.
inline bool behind(const TileJob& job, int i, int64_t row) {
  return job.window > 0 &&
         static_cast<int64_t>(job.k_pos[row]) <= static_cast<int64_t>(job.q_pos[i]) - job.window;
}

inline KeyBlock block_at(const TileJob& job, int64_t row0) {
  KeyBlock b{row0, lesser(kKeyBlock, job.keys - row0), 0, job.queries};
  if (row0 > job.first_row) b.first = lesser(row0 - job.first_row, job.queries);
  while (b.last > b.first && behind(job, b.last - 1, row0 + b.rows - 1)) --b.last;
  return b;
}

// The first block that the first query sees a row of; positions ascend, so do windows.
inline int64_t first_block(const TileJob& job) {
  int64_t low = job.first_key / kKeyBlock, high = (job.keys + kKeyBlock - 1) / kKeyBlock;
  if (job.window <= 0 || job.queries == 0) return low * kKeyBlock;
  while (low < high) {  // the first block whose last row is not behind
    const int64_t middle = (low + high) / 2;
    const int64_t last = lesser(kKeyBlock, job.keys - middle * kKeyBlock) - 1;
    if (behind(job, 0, middle * kKeyBlock + last))
      low = middle + 1;
    else
      high = middle;
  }
  return low * kKeyBlock;
}

// `n` words of each of `rows` rows, panel by panel of rows: [kKeyBlock / kPanel, n, kPanel]. Rows
// up to kKeyBlock that are not there are zeros.
inline void transpose_rows(const float* x, int64_t stride, int rows, int n, float* to) {
  for (int r0 = 0; r0 < kKeyBlock; r0 += Vec::lanes) {
    float* panel = to + static_cast<int64_t>(r0 / kPanel) * kPanel * n + r0 % kPanel;
    for (int d = 0; d < n; d += Vec::lanes) {
      const int part = n - d;  // of a vector, at the end of a row
      Vec lanes[Vec::lanes];
      for (int r = 0; r < Vec::lanes; ++r) {
        const float* from = x + (r0 + r) * stride + d;
        if (r0 + r >= rows)
          lanes[r] = Vec::zero();
        else
          lanes[r] = part < Vec::lanes ? Vec::load_part(from, part) : Vec::load(from);
      }
      transpose(lanes);
      for (int c = 0; c < Vec::lanes && c < part; ++c)
        store(panel + static_cast<int64_t>(d + c) * kPanel, lanes[c]);
    }
  }
}

inline void load_positions(const TileJob& job, const KeyBlock& b, const ChunkMemory& m) {
  if (!job.alibi) return;
  for (int r = 0; r < kKeyBlock; ++r) {
    const int64_t row = b.row0 + (r < b.rows ? r : b.rows - 1);
    m.k_pos[r] = static_cast<float>(job.k_pos[row] - job.k_pos[b.row0]);
  }
}

inline void load_keys(const TileJob& job, const KeyBlock& b, const TileMemory& m) {
  transpose_rows(job.k + b.row0 * job.kv_stride, job.kv_stride, b.rows, job.dim, m.keys);
  load_positions(job, b, m);
}

inline void load_values(const TileJob& job, const KeyBlock& b, const TileMemory& m) {
  for (int r = 0; r < b.rows; ++r) {
    const float* from = job.v + (b.row0 + r) * job.kv_stride;
    float* to = m.values + static_cast<int64_t>(r) * kPanel;
    for (int d = 0; d < job.dim; d += Vec::lanes) {
      const int part = job.dim - d;
      store(to + static_cast<int64_t>(d / kPanel) * kPanel * kKeyBlock + d % kPanel,
            part < Vec::lanes ? Vec::load_part(from + d, part) : Vec::load(from + d));
    }
  }
}

// Logits of query rows [row, row + rows) into m.p, in as many columns as the last of them sees,
// rounded up to whole panels. Columns are masked later. Returns how many it sees.
inline int load_logits(const TileJob& job, const KeyBlock& b, const TileMemory& m, int row,
                       int rows, int& width) {
  const int last = (row + rows - 1) / job.heads;
  const int seen = lesser(b.rows, job.first_row + last - b.row0 + 1);
  width = (seen + kPanel - 1) / kPanel * kPanel;
  float* to[kChunk];
  for (int r = 0; r < rows; ++r) to[r] = m.p + r * kKeyBlock;
  for (int c = 0; c < width; c += kPanel)
    multiply_rows<kTileVecs>(rows, m.q + static_cast<int64_t>(row) * job.dim, job.dim,
                             m.keys + static_cast<int64_t>(c) * job.dim, job.dim, nullptr, to, c);
  return seen;
}

// Soft cap, ALiBi, masks: products become the logits of one query row. Returns the largest of
// every lane.
inline Vec finish_lanes(const TileJob& job, const KeyBlock& b, const ChunkMemory& m, int row,
                        int width, float* x) {
  const int i = row / job.heads, head = row % job.heads;
  if (job.softcap > 0) {
    const Vec cap = Vec::all(job.softcap), inverse = Vec::all(1 / job.softcap);
    for (int c = 0; c < width; c += Vec::lanes)
      store(x + c, cap * tanh(Vec::load(x + c) * inverse));
  }
  if (job.alibi) {
    // Differences of positions are exact up to 2^24, however large the positions.
    const Vec slope = Vec::all(-job.alibi[head]);
    const Vec distance = Vec::all(static_cast<float>(job.q_pos[i] - job.k_pos[b.row0]));
    for (int c = 0; c < width; c += Vec::lanes)
      store(x + c, mul_add(slope, distance - Vec::load(m.k_pos + c), Vec::load(x + c)));
  }
  int begin = 0;
  const int end = lesser(b.rows, job.first_row + i - b.row0 + 1);
  while (begin < end && behind(job, i, b.row0 + begin)) ++begin;
  for (int c = 0; c < begin; ++c) x[c] = -__builtin_inff();
  for (int c = end > 0 ? end : 0; c < width; ++c) x[c] = -__builtin_inff();
  Vec most = Vec::load(x);
  for (int c = Vec::lanes; c < width; c += Vec::lanes) most = max(Vec::load(x + c), most);
  return most;
}

inline float finish_logits(const TileJob& job, const KeyBlock& b, const ChunkMemory& m, int row,
                           int width, float* x) {
  return largest(finish_lanes(job, b, m, row, width, x));
}

// x = exp(x - max); returns the sum.
inline float exponentials(float* x, int width, float max) {
  const Vec shift = Vec::all(max);
  Vec total = Vec::zero();
  for (int c = 0; c < width; c += Vec::lanes) {
    const Vec p = exp(Vec::load(x + c) - shift);
    store(x + c, p);
    total = total + p;
  }
  return sum(total);
}

inline float one_exp(float x) {  // the same bits as a lane of `exponentials`
  float lanes[Vec::lanes];
  store(lanes, exp(Vec::all(x)));
  return lanes[0];
}

// out = out * factor + p v for the chunk whose rows are at `out`.
inline void add_values(const TileJob& job, const TileMemory& m, int rows, int seen,
                       float* const* out) {
  for (int d = 0; d < job.dim; d += kPanel) {
    const float* v = m.values + static_cast<int64_t>(d) * kKeyBlock;
    if (d + kPanel <= job.dim) {
      multiply_rows<kTileVecs>(rows, m.p, kKeyBlock, v, seen, m.factor, out, d);
      continue;
    }
    int c = d;
    for (; c + Vec::lanes <= job.dim; c += Vec::lanes)
      multiply_rows<1>(rows, m.p, kKeyBlock, v + (c - d), seen, m.factor, out, c);
    if constexpr (Vec::lanes > 8)  // dim is a multiple of 8
      if (c < job.dim)
        multiply_rows<1, true>(rows, m.p, kKeyBlock, v + (c - d), seen, m.factor, out, c,
                               job.dim - c);
  }
}

inline void attend_chunk(const TileJob& job, const KeyBlock& b, const TileMemory& m, int row,
                         int rows) {
  int width = 0;
  const int seen = load_logits(job, b, m, row, rows, width);
  float* out[kChunk];
  for (int r = 0; r < rows; ++r) {
    const int i = (row + r) / job.heads, head = (row + r) % job.heads;
    float* x = m.p + r * kKeyBlock;
    const float here = finish_logits(job, b, m, row + r, width, x);
    const float before = job.max[row + r];
    const float most = here > before ? here : before;
    out[r] =
        job.v ? job.out + i * job.out_row_stride + static_cast<int64_t>(head) * job.dim : nullptr;
    if (!(here > -__builtin_inff())) {  // sees nothing of this block: the state stays
      m.factor[r] = 1;
      for (int c = 0; c < width; ++c) x[c] = 0;
      continue;
    }
    m.factor[r] = one_exp(before - most);
    job.sum[row + r] = job.sum[row + r] * m.factor[r] + exponentials(x, width, most);
    job.max[row + r] = most;
  }
  if (job.v) add_values(job, m, rows, seen, out);
}

// Asks for rows [from, to) of the keys, and of the values, ahead of their use.
inline void fetch_rows(const TileJob& job, bool values, int64_t from, int64_t to) {
  constexpr int kLine = 16;  // floats
  for (int64_t r = from; r < to && r < job.keys; ++r)
    for (int d = 0; d < job.dim; d += kLine) {
      __builtin_prefetch(job.k + r * job.kv_stride + d, 0, 2);
      if (values) __builtin_prefetch(job.v + r * job.kv_stride + d, 0, 2);
    }
}

// Calls chunk(block, memory, row, rows) for every block and every run of query rows that sees it.
template <class Memory, class Chunk>
inline void visit_keys(const TileJob& job, bool values, Chunk chunk) {
  Memory m;
  lay_out(job, m);
  const int64_t beyond = lesser(job.keys, job.first_row + job.queries);
  for (int64_t row0 = first_block(job); row0 < beyond; row0 += kKeyBlock) {
    const KeyBlock b = block_at(job, row0);
    if (b.first >= b.last) continue;
    load_keys(job, b, m);
    if (values) load_values(job, b, m);
    const int begin = b.first * job.heads, end = b.last * job.heads;
    const int64_t next = row0 + kKeyBlock;
    for (int row = begin; row < end; row += kChunk) {
      const auto share = [&](int at) {
        return next + int64_t{kKeyBlock} * (lesser(at, end) - begin) / (end - begin);
      };
      fetch_rows(job, values, share(row), share(row + kChunk));
      chunk(b, m, row, end - row < kChunk ? end - row : kChunk);
    }
  }
}

template <class Memory>
inline void attend_keys(const TileJob& job) {
  visit_keys<Memory>(job, job.v != nullptr,
                     [&](const KeyBlock& b, const Memory& m, int row, int rows) {
                       attend_chunk(job, b, m, row, rows);
                     });
}

// ---- attention that rows received

// into[c] = how(into[c], x[c]) for the `n` columns that are rows.
template <class How>
inline void gather_mass(const float* x, int n, float* into, How how) {
  int c = 0;
  for (; c + Vec::lanes <= n; c += Vec::lanes)
    store(into + c, how(Vec::load(into + c), Vec::load(x + c)));
  if (c < n) store_part(into + c, n - c, how(Vec::load_part(into + c, n - c), Vec::load(x + c)));
}

template <class Memory>
inline void mass_of_keys(const TileJob& job, Mass how, float* mass, int64_t mass_stride) {
  visit_keys<Memory>(job, false, [&](const KeyBlock& b, const Memory& m, int row, int rows) {
    int width = 0;
    const int seen = load_logits(job, b, m, row, rows, width);
    for (int r = row; r < row + rows; ++r) {
      if (!(job.sum[r] > 0)) continue;
      float* x = m.p + (r - row) * kKeyBlock;
      finish_logits(job, b, m, r, width, x);
      const Vec shift = Vec::all(job.max[r]), share = Vec::all(1 / job.sum[r]);
      for (int c = 0; c < width; c += Vec::lanes)
        store(x + c, exp(Vec::load(x + c) - shift) * share);
      float* into = mass + (r % job.heads) * mass_stride + b.row0;
      if (how == Mass::sum)
        gather_mass(x, seen, into, [](Vec a, Vec p) { return a + p; });
      else if (how == Mass::squares)
        gather_mass(x, seen, into, [](Vec a, Vec p) { return mul_add(p, p, a); });
      else if (how == Mass::most)
        gather_mass(x, seen, into, [](Vec a, Vec p) { return max(a, p); });
    }
  });
}

}  // namespace PITH_TARGET
}  // namespace
}  // namespace pith
