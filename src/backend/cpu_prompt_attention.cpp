// Attention of prompt tiles over dense rows, and what scorers ask for.
#include <cmath>

#include "backend/cpu_backend_impl.h"
#include "base/error.h"
#include "kernels/attn_state.h"

namespace pith {
namespace {

constexpr int64_t kTaskRows = 2048;    // query rows of one task, for which keys are packed once
constexpr int64_t kLeastQueries = 16;  // of one task
constexpr int64_t kCachedRows = 256;   // rows of earlier turns that are decoded at a time
constexpr int64_t kMassKeys = 2048;    // keys of one task that gathers what they receive
constexpr int64_t kMassQueries = 64;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

TileJob job_of(const AttentionRule& rule, ConstCube q, ConstCube k, int head, int group) {
  TileJob job;
  job.q = q.data + head * group * q.stride[1];
  job.q_row_stride = q.stride[0];
  job.queries = static_cast<int>(q.dim[0]);
  job.heads = group;
  job.k = k[head].data;
  job.kv_stride = k.stride[1];
  job.keys = k.dim[1];
  job.dim = static_cast<int>(q.dim[2]);
  job.scale = rule.scale;
  job.softcap = rule.softcap;
  job.window = rule.window;
  job.alibi = rule.alibi.empty() ? nullptr : rule.alibi.data() + head * group;
  return job;
}

// Narrows a job to queries [first, last) of it.
TileJob part_of(const TileJob& whole, int64_t first, int64_t last) {
  TileJob job = whole;
  job.q += first * job.q_row_stride;
  if (job.out) job.out += first * job.out_row_stride;
  job.max += first * job.heads;
  job.sum += first * job.heads;
  job.q_pos += first;
  job.first_row += first;
  job.queries = static_cast<int>(last - first);
  job.keys = std::min(job.keys, job.first_row + job.queries);
  return job;
}

void check(ConstCube q, ConstCube k, std::span<const int32_t> positions,
           const AttentionRule& rule) {
  PITH_CHECK(k.dim[0] > 0 && q.dim[1] % k.dim[0] == 0, "query heads share heads evenly");
  PITH_CHECK(q.dim[2] == k.dim[2] && q.dim[2] % 8 == 0, "head sizes agree, in eights");
  PITH_CHECK(q.stride[1] == q.dim[2], "query heads of a row stand side by side");
  PITH_CHECK(static_cast<int64_t>(positions.size()) >= k.dim[1], "every row has a position");
  PITH_CHECK(rule.alibi.empty() || static_cast<int64_t>(rule.alibi.size()) == q.dim[1],
             "every query head has a slope");
}

// Rows of earlier turns, decoded some pages at a time into plain rows.
class DecodedRows {
 public:
  DecodedRows(const KernelTable& table, const PagedHead& head, int dim, float* memory)
      : table_(table),
        head_(head),
        dim_(dim),
        k_(memory),
        v_(k_ + room() * dim),
        coded_(v_ + room() * dim) {}

  static size_t floats(const PagedHead& head, int dim) {
    const int64_t rows = std::max<int64_t>(kCachedRows, head.page_rows);
    const int64_t coded = std::max(head.k_dim, head.v_dim);
    const auto turns = static_cast<int64_t>(head.key_turns ? head.key_turns->scratch_floats() : 0);
    return static_cast<size_t>(2 * rows * dim + std::max(head.page_rows * coded, turns));
  }

  int pages() const {
    const int open = head_.open_rows;
    return static_cast<int>(head_.sealed_k.size()) +
           (open > 0 ? (open + head_.page_rows - 1) / head_.page_rows : 0);
  }
  int pages_at_once() const {
    return static_cast<int>(std::max<int64_t>(1, kCachedRows / std::max(1, head_.page_rows)));
  }

  // Pages [first, last); returns the rows they hold.
  int decode(int first, int last) {
    int rows = 0;
    for (int p = first; p < last; ++p) {
      const int sealed = static_cast<int>(head_.sealed_k.size());
      const int64_t at = static_cast<int64_t>(rows) * dim_;
      if (p < sealed) {
        const auto page = static_cast<size_t>(p);
        const PageFormats formats = head_.format(page);
        lift_rows(table_, formats.k, head_.sealed_k[page], head_.page_rows, head_.k_dim,
                  head_.query_map, dim_, coded_, k_ + at);
        lift_rows(table_, formats.v, head_.sealed_v[page], head_.page_rows, head_.v_dim,
                  head_.output_map, dim_, coded_, v_ + at);
        if (head_.key_turns)
          head_.key_turns->turn(table_, k_ + at, dim_,
                                head_.positions.subspan(page * static_cast<size_t>(head_.page_rows),
                                                        static_cast<size_t>(head_.page_rows)),
                                1, coded_);
        rows += head_.page_rows;
      } else {
        const int before = (p - sealed) * head_.page_rows;
        const int count = std::min(head_.page_rows, head_.open_rows - before);
        const PageKernels& open = table_.page[static_cast<int>(head_.open_quant)];
        const auto page = static_cast<size_t>(p - sealed);
        open.decode(head_.open_k[page], 0, count, dim_, k_ + at);
        open.decode(head_.open_v[page], 0, count, dim_, v_ + at);
        rows += count;
      }
    }
    return rows;
  }
  const float* k() const { return k_; }
  const float* v() const { return v_; }

 private:
  int64_t room() const { return std::max<int64_t>(kCachedRows, head_.page_rows); }

  const KernelTable& table_;
  const PagedHead& head_;
  int dim_;
  float *k_, *v_;  // [room, dim]
  float* coded_;   // [page_rows, k_dim or v_dim], then cosines and sines
};

// Starts the states of `job` with the rows of earlier turns and the rows that stand for others.
void attend_cached(const KernelTable& table, const PagedHead& head, const TileJob& whole,
                   float* memory) {
  DecodedRows rows(table, head, whole.dim, memory);
  TileJob job = whole;
  job.k = rows.k();
  job.v = rows.v();
  job.kv_stride = job.dim;
  int64_t done = 0;
  for (int p = 0; p < rows.pages(); p += rows.pages_at_once()) {
    job.keys = rows.decode(p, std::min(rows.pages(), p + rows.pages_at_once()));
    job.first_row = job.keys;  // all of them are older than any query
    job.k_pos = head.positions.data() + done;
    table.attend_tile(job);
    done += job.keys;
  }

  const auto dim = static_cast<size_t>(whole.dim);
  for (int64_t r = 0; r < head.pseudo_k.dim[0]; ++r) {
    const float weight = head.pseudo_log_weight[static_cast<size_t>(r)];
    for (int i = 0; i < whole.queries; ++i)
      for (int h = 0; h < whole.heads; ++h) {
        const int64_t at = static_cast<int64_t>(i) * whole.heads + h;
        const float* q = whole.q + i * whole.q_row_stride + h * whole.dim;
        float logit = whole.scale * table.dot(q, head.pseudo_k.row(r).data(), whole.dim);
        if (whole.softcap > 0) logit = whole.softcap * std::tanh(logit / whole.softcap);
        AttnState state{whole.max[at],
                        whole.sum[at],
                        {whole.out + i * whole.out_row_stride + h * whole.dim, dim}};
        absorb(state, logit + weight, head.pseudo_v.row(r));
        whole.max[at] = state.max;
        whole.sum[at] = state.sum;
      }
  }
}

void check(const ReadPlan& plan, const DenseAttention& job) {
  PITH_CHECK(plan.rows == job.k.dim[1] && plan.heads == job.k.dim[0], "a plan is of all rows");
  PITH_CHECK(static_cast<int64_t>(plan.ranges.size()) == plan.heads * plan.blocks(),
             "every block has ranges");
  const int64_t last = (job.first_row + job.q.dim[0] - 1) / ReadPlan::kBlock;
  for (int64_t head = 0; head < plan.heads; ++head)
    for (int64_t block = job.first_row / ReadPlan::kBlock; block <= last; ++block) {
      const int64_t first_row = block * ReadPlan::kBlock;
      const int64_t end = std::min(plan.rows, first_row + ReadPlan::kBlock);
      int64_t before = 0, covered = first_row;
      for (const RowRange& range : plan.at(head, block)) {
        PITH_CHECK(range.first >= before && range.last > range.first, "ranges ascend");
        PITH_CHECK(range.first % kKeyBlock == 0, "ranges begin at a block of keys");
        PITH_CHECK(range.last % kKeyBlock == 0 || range.last >= end, "ranges end at a block");
        before = range.last;
        if (range.first <= covered) covered = std::max(covered, range.last);
      }
      PITH_CHECK(covered >= end, "queries read the rows of their own block");
    }
}

// Calls visit(job) with the parts of `whole` that read one run of keys each: all of it without a
// plan. Ranges of a query come in ascending order.
template <class Visit>
void visit_reads(const ReadPlan* plan, int64_t head, const TileJob& whole, const Visit& visit) {
  if (!plan) {
    visit(whole);
    return;
  }
  for (int64_t i = 0; i < whole.queries;) {
    const int64_t block = (whole.first_row + i) / ReadPlan::kBlock;
    const int64_t end =
        std::min<int64_t>(whole.queries, (block + 1) * ReadPlan::kBlock - whole.first_row);
    for (const RowRange& range : plan->at(head, block)) {
      TileJob part = part_of(whole, i, end);
      part.first_key = std::max(part.first_key, range.first);
      part.keys = std::min(part.keys, range.last);
      if (part.first_key < part.keys) visit(part);
    }
    i = end;
  }
}

}  // namespace

void lift_rows(const KernelTable& table, Quant quant, const std::byte* page, int rows,
               int coded_dim, const float* map, int dim, float* coded, float* to) {
  const PageKernels& kernels = table.page[static_cast<int>(quant)];
  if (!map && coded_dim == dim) {
    kernels.decode(page, 0, rows, dim, to);
    return;
  }
  kernels.decode(page, 0, rows, coded_dim, coded);
  std::fill_n(to, static_cast<int64_t>(rows) * dim, 0.0f);
  for (int r = 0; !map && r < rows; ++r)
    std::copy_n(coded + static_cast<int64_t>(r) * coded_dim, coded_dim,
                to + static_cast<int64_t>(r) * dim);
  if (!map) return;
  // A matrix is a page of f32 rows, and its rows are summed up with the coded numbers.
  table.page[static_cast<int>(Quant::f32)].accumulate(reinterpret_cast<const std::byte*>(map),
                                                      coded_dim, dim, coded, coded_dim, rows, to);
}

void CpuBackend::attend(const DenseAttention& job) {
  const int64_t tile = job.q.dim[0];
  check(job.q, job.k, job.positions, job.rule);
  const bool answers = job.out.data != nullptr;
  if (answers) {
    PITH_CHECK(job.v.dim == job.k.dim && job.v.stride[1] == job.k.stride[1],
               "values lie like keys");
    PITH_CHECK(job.out.dim == job.q.dim && job.out.stride[1] == job.out.dim[2],
               "outputs are shaped like queries");
  } else {
    PITH_CHECK(job.cached.empty(), "rows of earlier turns add to outputs");
  }
  PITH_CHECK(job.first_row >= 0 && job.first_row + tile <= job.k.dim[1], "queries are rows");
  PITH_CHECK(job.cached.empty() || static_cast<int64_t>(job.cached.size()) == job.k.dim[0],
             "earlier turns have the same heads");
  for (const PagedHead& head : job.cached)
    PITH_CHECK(static_cast<int>(head.positions.size()) >= head.rows(), "every row has a position");
  if (tile == 0) return;
  if (job.reads) check(*job.reads, job);
  const bool int16 = job.int16 && matmul_ == MatmulForm::int8;
  const int heads = static_cast<int>(job.k.dim[0]);
  const int group = static_cast<int>(job.q.dim[1]) / heads;
  const int dim = static_cast<int>(job.q.dim[2]);
  const auto states = static_cast<size_t>(tile * job.q.dim[1]);
  state_max_.assign(states, kNothing);
  state_sum_.assign(states, 0);

  // Long tasks pack keys less often, short ones are shared out more evenly.
  const int64_t even = tile * heads / (int64_t{4} * threads_.count());
  const int64_t most = std::max(kLeastQueries, kTaskRows / group);
  const int64_t queries = std::min(tile, std::clamp(even, kLeastQueries, most));
  const int64_t pieces = (tile + queries - 1) / queries;
  const size_t tile_floats = table_.tile_scratch(static_cast<int>(queries), group, dim);
  size_t cached_floats = 0;
  for (const PagedHead& head : job.cached)
    cached_floats = std::max(cached_floats, DecodedRows::floats(head, dim));
  reserve(tile_floats + cached_floats);

  threads_.for_each(heads * pieces, [&](int64_t task, int worker) {
    const int head = static_cast<int>(task % heads);
    const int64_t piece = pieces - 1 - task / heads;  // the last queries see most rows
    TileJob whole = job_of(job.rule, job.q, job.k, head, group);
    whole.int16 = int16;
    whole.first_row = job.first_row;
    whole.q_pos = job.positions.data() + job.first_row;
    whole.k_pos = job.positions.data();
    if (answers) {
      whole.v = job.v[head].data;
      whole.out = job.out.data + head * group * job.out.stride[1];
      whole.out_row_stride = job.out.stride[0];
    }
    whole.max = state_max_.data() + head * tile * group;
    whole.sum = state_sum_.data() + head * tile * group;
    whole.scratch = scratch(worker);
    const TileJob part = part_of(whole, piece * queries, std::min(tile, (piece + 1) * queries));
    for (int i = 0; answers && i < part.queries; ++i)
      std::fill_n(part.out + i * part.out_row_stride, static_cast<int64_t>(group) * dim, 0.0f);
    if (!job.cached.empty())
      attend_cached(table_, job.cached[static_cast<size_t>(head)], part,
                    part.scratch + tile_floats);
    visit_reads(job.reads, head, part, [&](const TileJob& run) { table_.attend_tile(run); });
    for (int i = 0; answers && i < part.queries; ++i)
      for (int h = 0; h < group; ++h) {
        const float sum = part.sum[static_cast<int64_t>(i) * group + h];
        const std::span<float> out(part.out + i * part.out_row_stride + h * dim,
                                   static_cast<size_t>(dim));
        finish({0, sum, out}, out);
        if (job.lse.dim[0] > 0)
          job.lse.row(piece * queries + i)[static_cast<size_t>(head) * group + h] =
              part.max[static_cast<int64_t>(i) * group + h] + std::log(sum);
      }
  });
  if (job.mass != Mass::none) gather_column_mass(job, group);
}

void CpuBackend::gather_column_mass(const DenseAttention& job, int group) {
  const bool int16 = job.int16 && matmul_ == MatmulForm::int8;
  const int64_t tile = job.q.dim[0], heads = job.k.dim[0], seen = job.first_row + tile;
  const bool each = job.column_mass.dim[0] == job.q.dim[1] && group > 1;  // query head
  PITH_CHECK((job.column_mass.dim[0] == heads || each) && job.column_mass.dim[1] >= seen,
             "every row has a place for what it receives");
  PITH_CHECK(job.mass_divisor.empty() || static_cast<int64_t>(job.mass_divisor.size()) == tile,
             "every query has a divisor");
  if (!job.mass_divisor.empty())
    for (int64_t i = 0; i < heads * tile * group; ++i)
      state_sum_[static_cast<size_t>(i)] *= job.mass_divisor[static_cast<size_t>(i / group % tile)];
  const int64_t queries = std::min(tile, kMassQueries), chunks = (seen + kMassKeys - 1) / kMassKeys;
  reserve(table_.tile_scratch(static_cast<int>(queries), group, static_cast<int>(job.q.dim[2])));
  // Tasks own their keys and walk through the queries in order, so sums do not depend on threads.
  threads_.for_each(heads * chunks, [&](int64_t task, int worker) {
    const int head = static_cast<int>(task / chunks);
    TileJob whole = job_of(job.rule, job.q, job.k, head, group);
    whole.int16 = int16;
    whole.first_row = job.first_row;
    whole.q_pos = job.positions.data() + job.first_row;
    whole.k_pos = job.positions.data();
    whole.max = state_max_.data() + head * tile * group;
    whole.sum = state_sum_.data() + head * tile * group;
    whole.scratch = scratch(worker);
    whole.first_key = task % chunks * kMassKeys;
    whole.keys = std::min(whole.first_key + kMassKeys, seen);
    float* const into = job.column_mass.row(each ? head * group : head).data();
    for (int64_t i = 0; i < tile; i += queries)
      visit_reads(job.reads, head, part_of(whole, i, std::min(tile, i + queries)),
                  [&](const TileJob& run) {
                    table_.tile_mass(run, job.mass, into, each ? job.column_mass.stride[0] : 0);
                  });
  });
}

void CpuBackend::window_mass(const WindowMass& job) {
  const int64_t window = job.q.dim[0], heads = job.k.dim[0], rows = job.k.dim[1];
  check(job.q, job.k, job.positions, job.rule);
  PITH_CHECK(window <= rows, "the window is part of the rows");
  PITH_CHECK(job.out.dim[0] == job.q.dim[1] && job.out.dim[1] == rows,
             "every query head and row has a place for its mass");
  const int group = static_cast<int>(job.q.dim[1] / heads);
  for (int64_t h = 0; h < job.out.dim[0]; ++h) std::ranges::fill(job.out.row(h), 0.0f);
  if (window == 0) return;

  // Keys are cut into chunks: their states first, then, with all of them merged, their mass.
  const int64_t chunks = (rows + kMassKeys - 1) / kMassKeys;
  const int64_t states = window * group;
  std::vector<float> max(static_cast<size_t>(heads * chunks * states), kNothing);
  std::vector<float> sum(max.size(), 0);
  reserve(table_.tile_scratch(static_cast<int>(window), group, static_cast<int>(job.q.dim[2])));
  const auto chunk = [&](int64_t task, int worker) {
    TileJob tile = job_of(job.rule, job.q, job.k, static_cast<int>(task / chunks), group);
    tile.first_row = rows - window;
    tile.q_pos = job.positions.data() + tile.first_row;
    tile.k_pos = job.positions.data();
    tile.first_key = task % chunks * kMassKeys;
    tile.keys = std::min(tile.first_key + kMassKeys, rows);
    tile.scratch = scratch(worker);
    tile.max = max.data() + task * states;
    tile.sum = sum.data() + task * states;
    return tile;
  };
  threads_.for_each(heads * chunks,
                    [&](int64_t task, int worker) { table_.attend_tile(chunk(task, worker)); });
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t s = 0; s < states; ++s) {
      const int64_t at = head * chunks * states + s;
      AttnState all{max[static_cast<size_t>(at)], sum[static_cast<size_t>(at)], {}};
      for (int64_t c = 1; c < chunks; ++c) {
        const auto other = static_cast<size_t>(at + c * states);
        merge(all, {max[other], sum[other], {}});
      }
      max[static_cast<size_t>(at)] = all.max;
      sum[static_cast<size_t>(at)] = all.sum;
    }
  threads_.for_each(heads * chunks, [&](int64_t task, int worker) {
    TileJob tile = chunk(task, worker);
    const int64_t head = task / chunks;
    tile.max = max.data() + head * chunks * states;
    tile.sum = sum.data() + head * chunks * states;
    table_.tile_mass(tile, Mass::sum, job.out.row(head * group).data(), job.out.stride[0]);
  });
}

void CpuBackend::row_norms(ConstCube x, Mat out) {
  PITH_CHECK(out.dim[0] == x.dim[0] && out.dim[1] == x.dim[1], "every row has one norm");
  const int64_t rows = x.dim[1];
  split(x.dim[0] * rows, x.dim[2] / 4, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const float* row = x[i / rows].row(i % rows).data();
      out.row(i / rows)[static_cast<size_t>(i % rows)] = std::sqrt(table_.dot(row, row, x.dim[2]));
    }
  });
}

}  // namespace pith
