// The class behind make_cpu_backend. Its parts: cpu_backend.cpp has memory and work on single
// numbers, cpu_dense.cpp products, norms and rotation, cpu_prompt_attention.cpp tiles of a prompt
// and what scorers ask for, cpu_paged_attention.cpp generation.
//
// Results never depend on the number of threads: what one output number is made of, and in which
// order, follows from shapes alone. Only the cut into tasks looks at threads.
//
// One caller at a time: workers have scratch memory that calls share.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu_backend.h"
#include "base/parallel.h"
#include "kernels/kernels.h"

namespace pith {

// The plain rows [rows, dim] of a sealed page: coded rows times `map` [coded_dim, dim]; without a
// map, their first channels. coded: room for [rows, coded_dim].
void lift_rows(const KernelTable& table, Quant quant, const std::byte* page, int rows,
               int coded_dim, const float* map, int dim, float* coded, float* to);

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, MatmulForm matmul);
  ~CpuBackend() override;

  std::string_view name() const override { return "cpu"; }
  const Threads& threads() const override { return threads_; }
  size_t scratch_bytes() const override;
  std::unique_ptr<Buffer> allocate(size_t bytes) override;

  void embed(const WeightMatrix& table, std::span<const int32_t> tokens, float scale,
             Mat out) override;
  void matmul(ConstMat x, const WeightMatrix& w, Mat out) override;
  void matmul_prompt(ConstMat x, const WeightMatrix& w, Mat out) override;
  void rms_norm(ConstMat x, std::span<const float> gain, float eps, Mat out) override;
  void layer_norm(ConstMat x, std::span<const float> gain, std::span<const float> bias, float eps,
                  Mat out) override;
  void rope(Cube heads, std::span<const int32_t> positions, const Rope& rope, int turn) override;
  void gate(Gate gate, ConstMat x, ConstMat up, Mat out) override;
  void gelu(ConstMat x, Mat out) override;
  void add(ConstMat x, Mat into) override;
  void add_row(std::span<const float> bias, Mat into) override;
  void clamp(float limit, Mat into) override;
  void softcap(float cap, Mat into) override;
  void gather(ConstMat x, std::span<const int32_t> rows, Mat out) override;

  void attend(const DenseAttention& job) override;
  void attend(std::span<const HeadAttention> jobs) override;

  void window_mass(const WindowMass& job) override;
  void row_norms(ConstCube x, Mat out) override;
  ConstMat to_host(ConstMat x) override { return x; }

 private:
  // Calls body(first, last, worker) for runs of [0, items), with `first` a multiple of `multiple`.
  // One item costs about `cost` nanoseconds; what is not worth a thread stays on this one.
  template <class Body>
  void split(int64_t items, int64_t cost, const Body& body, int64_t multiple = 1) const {
    if (items <= 0) return;
    const int64_t units = (items + multiple - 1) / multiple;
    const int64_t wanted = std::min(items * cost / kLeastTask, int64_t{8} * threads_.count());
    const int64_t tasks = std::clamp<int64_t>(wanted, 1, units);
    threads_.for_each(tasks, [&](int64_t task, int worker) {
      const int64_t first = units * task / tasks * multiple;
      const int64_t last = std::min(items, units * (task + 1) / tasks * multiple);
      body(first, last, worker);
    });
  }
  static constexpr int64_t kLeastTask = 4000;  // nanoseconds; handing a task over takes some 300

  // Makes room for so many floats per worker, before a parallel region.
  void reserve(size_t floats);
  float* scratch(int worker) { return scratch_[static_cast<size_t>(worker)].get(); }

  // cpu_dense.cpp
  void multiply(ConstMat x, const WeightMatrix& w, Mat out, bool coded);
  void plain_matmul(ConstMat x, const WeightMatrix& w, Mat out);
  void coded_matmul(ConstMat x, const WeightMatrix& w, Mat out);
  std::byte* reserve_coded(size_t bytes);

  // Cosines and sines of a run of rows, kept because keys follow queries, and layers each other.
  struct Turns {
    std::vector<int32_t> positions;
    std::vector<float> inv_freq;
    float magnitude = 1;
    int turn = 0;
    std::vector<float> cos, sin;  // [positions, pairs], magnitude included
  };
  void fill_turns(std::span<const int32_t> positions, const Rope& rope, int turn);

  // cpu_prompt_attention.cpp
  void gather_column_mass(const DenseAttention& job, int group);

  // cpu_paged_attention.cpp
  struct PagedPlan;
  void plan_runs(std::span<const HeadAttention> jobs);
  void scale_queries(std::span<const HeadAttention> jobs);
  void attend_run(const HeadAttention& job, size_t run, float* memory);
  void finish_job(const HeadAttention& job, size_t index, float* memory);

  Threads threads_;
  const KernelTable& table_;
  std::vector<std::unique_ptr<float[]>> scratch_;  // [threads]
  size_t scratch_floats_ = 0;
  MatmulForm matmul_;
  std::unique_ptr<std::byte[]> coded_;  // activations of one product
  size_t coded_bytes_ = 0;
  Turns turns_;
  std::vector<float> state_max_, state_sum_;  // of a prompt tile: [heads, queries, group]
  std::unique_ptr<PagedPlan> paged_;
};

}  // namespace pith
