// Attention of generated tokens over pages. A head's rows are cut into runs of about kRunRows rows,
// counted from row 0; each run has a softmax of its own, and the states of a head are merged in the
// order of rows by whichever thread ends its last run. So long heads are shared out over threads,
// short ones are bundled, and neither shows in the result.
#include <atomic>
#include <cmath>

#include "backend/cpu_backend_impl.h"
#include "base/error.h"
#include "kernels/attn_state.h"

namespace pith {
namespace {

constexpr int kRunRows = 1024;
constexpr int64_t kTaskRows = 128;  // at least, where a task is made of several short heads
constexpr int64_t kRunCost = 32;    // of starting a run, in rows
constexpr float kNothing = -std::numeric_limits<float>::infinity();

int pages_of(int rows, int page_rows) {
  return rows > 0 ? (rows + page_rows - 1) / page_rows : 0;
}

void check(const HeadAttention& job) {
  const PagedHead& head = job.head;
  const int64_t group = job.q.dim[0], dim = job.q.dim[1];
  const auto rows = static_cast<size_t>(head.rows());
  PITH_CHECK(job.out.dim == job.q.dim, "outputs are shaped like queries");
  PITH_CHECK(rows == 0 || head.page_rows > 0, "pages hold rows");
  PITH_CHECK(head.sealed_k.size() == head.sealed_v.size(), "keys and values are sealed together");
  PITH_CHECK(static_cast<int>(head.open_k.size()) >= pages_of(head.open_rows, head.page_rows) &&
                 static_cast<int>(head.open_v.size()) >= pages_of(head.open_rows, head.page_rows),
             "open rows lie in open pages");
  PITH_CHECK(head.sealed_k.empty() ||
                 ((head.query_map || head.k_dim <= dim) && (head.output_map || head.v_dim <= dim)),
             "sealed rows of other coordinates come with a map");
  PITH_CHECK(head.format_of.empty() || head.format_of.size() == head.sealed_k.size(),
             "pages that differ each have a format");
  PITH_CHECK((job.rule.window == 0 && job.rule.alibi.empty() && !head.key_turns) ||
                 head.positions.size() >= rows,
             "every row has a position");
  PITH_CHECK(job.rule.alibi.empty() ||
                 static_cast<int64_t>(job.rule.alibi.size()) >= job.first_query_head + group,
             "every query head has a slope");
  PITH_CHECK(head.pseudo_k.dim[0] == static_cast<int64_t>(head.pseudo_log_weight.size()) &&
                 head.pseudo_v.dim[0] == head.pseudo_k.dim[0],
             "every pseudo row has a weight");
  PITH_CHECK(job.probs.empty() || job.probs.size() == rows, "every row has a probability");
}

// Room for a page of keys that are brought to their positions: plain, then coded or cosines and
// sines.
size_t key_floats(const PagedHead& head, int dim) {
  const auto rows = static_cast<size_t>(head.page_rows);
  return rows * static_cast<size_t>(dim) +
         std::max(rows * static_cast<size_t>(head.k_dim), head.key_turns->scratch_floats());
}

// Keys of a sealed page that lie before their rotation, as queries meet them: [page_rows, dim].
void turned_keys(const KernelTable& table, const PagedHead& head, int page, int dim, float* keys) {
  const auto at = static_cast<size_t>(page), rows = static_cast<size_t>(head.page_rows);
  float* const coded = keys + rows * static_cast<size_t>(dim);
  lift_rows(table, head.format(at).k, head.sealed_k[at], head.page_rows, head.k_dim, head.query_map,
            dim, coded, keys);
  head.key_turns->turn(table, keys, dim, head.positions.subspan(at * rows, rows), 1, coded);
}

}  // namespace

// What one call of attend works on; kept between calls for its memory.
struct CpuBackend::PagedPlan {
  struct Job {
    size_t first_run = 0, runs = 0;
    size_t query = 0, mapped = 0;  // into `floats`: [group, dim] scaled, [group, k_dim] mapped
    size_t coded = 0;              // into `floats`: as the format of sealed keys wants them
    size_t logits = 0;             // into `floats`: [group, rows], if probabilities are wanted
  };
  struct Run {  // consecutive pages of one job in one system of coordinates
    size_t job = 0;
    int first_page = 0, last_page = 0, first_row = 0, rows = 0;
    size_t state = 0;  // into `floats`: [group] maxima, [group] sums, [group, width] values
    int width = 0;     // v_dim of sealed rows that an output map takes back, else dim
    bool lifted = false;
  };
  std::vector<Job> jobs;
  std::vector<Run> runs;
  std::vector<size_t> bundles;  // first run of each task, and one more
  std::vector<float> floats;
  std::vector<std::atomic<int>> left;  // runs of each job that are not done
  int most_logits = 0;                 // of a run, over its group
  int most_out = 0;                    // [group, dim]
  size_t most_keys = 0;                // of a page whose keys are brought to their positions
};

CpuBackend::CpuBackend(int threads, MatmulForm matmul)
    : threads_(threads),
      table_(active_kernels()),
      scratch_(static_cast<size_t>(threads_.count())),
      matmul_(matmul),
      paged_(std::make_unique<PagedPlan>()) {}

CpuBackend::~CpuBackend() = default;

void CpuBackend::plan_runs(std::span<const HeadAttention> jobs) {
  PagedPlan& plan = *paged_;
  plan.jobs.assign(jobs.size(), {});
  plan.runs.clear();
  plan.most_logits = plan.most_out = 0;
  plan.most_keys = 0;
  size_t floats = 0;
  int64_t rows = 0;
  for (size_t j = 0; j < jobs.size(); ++j) {
    check(jobs[j]);
    const PagedHead& head = jobs[j].head;
    PagedPlan::Job& at = plan.jobs[j];
    const int group = static_cast<int>(jobs[j].q.dim[0]), dim = static_cast<int>(jobs[j].q.dim[1]);
    const auto take = [&](int64_t count) {
      const size_t start = floats;
      floats += static_cast<size_t>(count);
      return start;
    };
    at.query = take(static_cast<int64_t>(group) * dim);
    const bool turned = head.key_turns != nullptr;
    const bool mapped = !turned && (head.query_map || (!head.sealed_k.empty() && head.k_dim < dim));
    at.mapped = mapped ? take(static_cast<int64_t>(group) * head.k_dim) : at.query;
    const PageKernels& keys = table_.page[static_cast<int>(head.k_quant)];
    const bool prepared = keys.prepare && !turned && !head.sealed_k.empty();
    at.coded =
        prepared ? take(static_cast<int64_t>(keys.query_floats(group, head.k_dim))) : at.mapped;
    if (!jobs[j].probs.empty()) at.logits = take(static_cast<int64_t>(group) * head.rows());
    at.first_run = plan.runs.size();
    if (turned && !head.sealed_k.empty())
      plan.most_keys = std::max(plan.most_keys, key_floats(head, dim));

    const int sealed = static_cast<int>(head.sealed_k.size());
    const int pages = sealed + pages_of(head.open_rows, head.page_rows);
    const int together = head.page_rows > 0 ? std::max(1, kRunRows / head.page_rows) : 1;
    int page = 0;
    do {  // a head without rows has one empty run, which finishes it
      PagedPlan::Run run{.job = j, .first_page = page};
      run.lifted = page < sealed && (head.output_map != nullptr || head.v_dim < dim);
      run.last_page = std::min(pages, (page / together + 1) * together);
      if (run.lifted) run.last_page = std::min(run.last_page, sealed);
      run.first_row = page * head.page_rows;
      run.rows = std::min(head.rows(), run.last_page * head.page_rows) - run.first_row;
      run.width = run.lifted ? head.v_dim : dim;
      run.state = take(static_cast<int64_t>(group) * (2 + run.width));
      plan.most_logits = std::max(plan.most_logits, group * run.rows);
      plan.runs.push_back(run);
      page = run.last_page;
    } while (page < pages);
    at.runs = plan.runs.size() - at.first_run;
    plan.most_out = std::max(plan.most_out, 2 * group * dim);
    rows += head.rows() + kRunCost * static_cast<int64_t>(at.runs);
  }
  if (plan.floats.size() < floats) plan.floats.resize(floats);
  if (plan.left.size() < jobs.size()) plan.left = std::vector<std::atomic<int>>(jobs.size());
  for (size_t j = 0; j < jobs.size(); ++j)
    plan.left[j].store(static_cast<int>(plan.jobs[j].runs), std::memory_order_relaxed);

  const int64_t enough = std::max(kTaskRows, rows / (int64_t{8} * threads_.count()));
  plan.bundles.clear();
  int64_t cost = enough;
  for (size_t r = 0; r < plan.runs.size(); ++r) {
    if (cost >= enough) {
      plan.bundles.push_back(r);
      cost = 0;
    }
    cost += plan.runs[r].rows + kRunCost;
  }
  plan.bundles.push_back(plan.runs.size());
}

// Queries take the scale once, and are brought to the coordinates of sealed keys.
void CpuBackend::scale_queries(std::span<const HeadAttention> jobs) {
  int64_t cost = 1;
  for (const HeadAttention& job : jobs)
    if (job.head.query_map && !job.head.key_turns)
      cost = std::max<int64_t>(cost, job.q.dim[0] * job.head.k_dim * 8);
  split(static_cast<int64_t>(jobs.size()), cost, [&](int64_t first, int64_t last, int) {
    for (auto j = static_cast<size_t>(first); j < static_cast<size_t>(last); ++j) {
      const HeadAttention& job = jobs[j];
      const int group = static_cast<int>(job.q.dim[0]), dim = static_cast<int>(job.q.dim[1]);
      float* q = paged_->floats.data() + paged_->jobs[j].query;
      for (int h = 0; h < group; ++h)
        for (int d = 0; d < dim; ++d)
          q[h * dim + d] = job.rule.scale * job.q.row(h)[static_cast<size_t>(d)];
      float* mapped = paged_->floats.data() + paged_->jobs[j].mapped;
      if (job.head.query_map && !job.head.key_turns)
        // A matrix is a page of f32 rows, and their scores are the mapped query.
        table_.page[static_cast<int>(Quant::f32)].score(
            reinterpret_cast<const std::byte*>(job.head.query_map), job.head.k_dim, dim, q, group,
            mapped, job.head.k_dim);
      else if (paged_->jobs[j].mapped != paged_->jobs[j].query)
        for (int h = 0; h < group; ++h)
          std::copy_n(q + h * dim, job.head.k_dim, mapped + h * job.head.k_dim);
      if (paged_->jobs[j].coded != paged_->jobs[j].mapped)
        table_.page[static_cast<int>(job.head.k_quant)].prepare(
            mapped, group, job.head.k_dim, paged_->floats.data() + paged_->jobs[j].coded);
    }
  });
}

void CpuBackend::attend_run(const HeadAttention& job, size_t index, float* memory) {
  const PagedPlan::Run& run = paged_->runs[index];
  const PagedPlan::Job& plan = paged_->jobs[run.job];
  const PagedHead& head = job.head;
  float* floats = paged_->floats.data();
  const int group = static_cast<int>(job.q.dim[0]), dim = static_cast<int>(job.q.dim[1]);
  const int sealed = static_cast<int>(head.sealed_k.size());
  // Logits lie where the caller wants probabilities, or in memory of this worker.
  const bool kept = !job.probs.empty();
  const int64_t stride = kept ? head.rows() : run.rows;
  float* logits = kept ? floats + plan.logits + run.first_row : memory;

  const int64_t oldest =
      job.rule.window > 0 ? static_cast<int64_t>(job.position) - job.rule.window : INT64_MIN;
  const auto seen = [&](int row) {
    return oldest == INT64_MIN || head.positions[static_cast<size_t>(row)] > oldest;
  };
  // Calls f(page kernels, page, first row in the run, rows, dim) for the pages a row of which is
  // seen; `values` says which side.
  const auto each_page = [&](bool values, auto f) {
    for (int p = run.first_page; p < run.last_page; ++p) {
      const int first = p * head.page_rows - run.first_row;
      const int rows = std::min(head.page_rows, run.rows - first);
      bool any = false;
      for (int r = 0; r < rows && !any; ++r) any = seen(run.first_row + first + r);
      if (!any) continue;
      if (p < sealed) {
        const auto at = static_cast<size_t>(p);
        const PageFormats formats = head.format(at);
        const Quant quant = values ? formats.v : formats.k;
        f(table_.page[static_cast<int>(quant)], values ? head.sealed_v[at] : head.sealed_k[at],
          first, rows, values ? head.v_dim : head.k_dim, floats + plan.coded);
      } else {
        const auto at = static_cast<size_t>(p - sealed);
        f(table_.page[static_cast<int>(head.open_quant)],
          values ? head.open_v[at] : head.open_k[at], first, rows, dim, floats + plan.query);
      }
    }
  };

  if (oldest != INT64_MIN)
    for (int h = 0; h < group; ++h) std::fill_n(logits + h * stride, run.rows, 0.0f);
  // Keys that lie before their rotation are brought to their positions behind the logits.
  float* const keys = memory + (kept ? 0 : group * run.rows);
  each_page(false, [&](const PageKernels& page, const std::byte* data, int first, int rows,
                       int coded, const float* q) {
    if (head.key_turns && run.first_row + first < sealed * head.page_rows) {
      turned_keys(table_, head, (run.first_row + first) / head.page_rows, dim, keys);
      table_.page[static_cast<int>(Quant::f32)].score(reinterpret_cast<const std::byte*>(keys),
                                                      rows, dim, floats + plan.query, group,
                                                      logits + first, stride);
      return;
    }
    page.score(data, rows, coded, q, group, logits + first, stride);
  });
  float* max = floats + run.state;
  float* sum = max + group;
  float* acc = sum + group;
  for (int h = 0; h < group; ++h) {
    float* z = logits + h * stride;
    if (job.rule.softcap > 0) table_.softcap(z, run.rows, job.rule.softcap);
    if (!job.rule.alibi.empty()) {
      const float slope = job.rule.alibi[job.first_query_head + h];
      for (int r = 0; r < run.rows; ++r)
        z[r] -= slope * static_cast<float>(job.position - head.positions[run.first_row + r]);
    }
    if (oldest != INT64_MIN)
      for (int r = 0; r < run.rows; ++r)
        if (!seen(run.first_row + r)) z[r] = kNothing;
    max[h] = table_.max(z, run.rows);
    sum[h] = table_.exp_minus_max(z, run.rows, max[h]);
  }
  std::fill_n(acc, group * run.width, 0.0f);
  each_page(true, [&](const PageKernels& page, const std::byte* data, int first, int rows,
                      int coded, const float*) {
    page.accumulate(data, rows, coded, logits + first, stride, group, acc);
  });
}

// Merges the runs of a job in the order of rows, then pseudo rows, and divides.
void CpuBackend::finish_job(const HeadAttention& job, size_t index, float* memory) {
  const PagedPlan::Job& plan = paged_->jobs[index];
  const PagedHead& head = job.head;
  float* floats = paged_->floats.data();
  const auto group = static_cast<size_t>(job.q.dim[0]), dim = static_cast<size_t>(job.q.dim[1]);
  const std::span<const PagedPlan::Run> runs(paged_->runs.data() + plan.first_run, plan.runs);
  const auto state = [&](const PagedPlan::Run& run, size_t h) {
    float* at = floats + run.state;
    const auto width = static_cast<size_t>(run.width);
    return AttnState{at[h], at[group + h], {at + 2 * group + h * width, width}};
  };
  for (size_t h = 0; h < group; ++h) {
    AttnState total{.acc = {memory + h * dim, dim}};
    std::ranges::fill(total.acc, 0.0f);
    size_t r = 0;
    if (runs[0].lifted) {  // what an output map takes back goes first, while it is small
      AttnState coded = state(runs[0], h);
      for (r = 1; r < runs.size() && runs[r].lifted; ++r) merge(coded, state(runs[r], h));
      if (head.output_map)
        table_.page[static_cast<int>(Quant::f32)].accumulate(
            reinterpret_cast<const std::byte*>(head.output_map), head.v_dim, static_cast<int>(dim),
            coded.acc.data(), head.v_dim, 1, total.acc.data());
      else
        std::ranges::copy(coded.acc, total.acc.begin());
      total.max = coded.max;
      total.sum = coded.sum;
    }
    for (; r < runs.size(); ++r) merge(total, state(runs[r], h));
    for (int64_t p = 0; p < head.pseudo_k.dim[0]; ++p) {
      float logit = table_.dot(floats + plan.query + h * dim, head.pseudo_k.row(p).data(),
                               static_cast<int64_t>(dim));
      if (job.rule.softcap > 0) logit = job.rule.softcap * std::tanh(logit / job.rule.softcap);
      absorb(total, logit + head.pseudo_log_weight[static_cast<size_t>(p)], head.pseudo_v.row(p));
    }
    finish(total, job.out.row(static_cast<int64_t>(h)));

    if (job.probs.empty()) continue;
    const size_t rows = job.probs.size();
    if (h == 0) std::ranges::fill(job.probs, 0.0f);
    for (const PagedPlan::Run& run : runs) {
      const AttnState part = state(run, h);
      if (!(part.sum > 0)) continue;
      const float share = std::exp(part.max - total.max) / total.sum;
      for (int i = run.first_row; i < run.first_row + run.rows; ++i)
        job.probs[static_cast<size_t>(i)] +=
            share * floats[plan.logits + h * rows + static_cast<size_t>(i)];
    }
  }
}

void CpuBackend::attend(std::span<const HeadAttention> jobs) {
  if (jobs.empty()) return;
  plan_runs(jobs);
  PagedPlan& plan = *paged_;
  reserve(std::max(static_cast<size_t>(plan.most_logits) + plan.most_keys,
                   static_cast<size_t>(plan.most_out)));
  scale_queries(jobs);
  const auto bundles = static_cast<int64_t>(plan.bundles.size()) - 1;
  threads_.for_each(bundles, [&](int64_t task, int worker) {
    const auto at = static_cast<size_t>(task);
    for (size_t r = plan.bundles[at]; r < plan.bundles[at + 1]; ++r) {
      const size_t j = plan.runs[r].job;
      attend_run(jobs[j], r, scratch(worker));
      // The last to leave sees the states of all others.
      if (plan.left[j].fetch_sub(1, std::memory_order_acq_rel) == 1)
        finish_job(jobs[j], j, scratch(worker));
    }
  });
}

}  // namespace pith
