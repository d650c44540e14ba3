// A backend that does no arithmetic and counts what it is asked for: what a step of a large prompt
// costs, in no time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "backend/backend.h"
#include "backend/cpu_backend.h"

namespace pith::test {

// Counts the multiply-adds it is asked for and does none of them.
class MeterBackend final : public Backend {
 public:
  int64_t products = 0;                      // since somebody set it to 0
  int64_t prompt_products = 0;               // those with rows of prompts among them
  int64_t widest_tile = 0;                   // rows of one product
  int64_t integer_jobs = 0, float_jobs = 0;  // attention of prompts, by what it may sum

  std::string_view name() const override { return "meter"; }
  const Threads& threads() const override { return real_->threads(); }
  std::unique_ptr<Buffer> allocate(size_t bytes) override { return real_->allocate(bytes); }
  void matmul(ConstMat x, const WeightMatrix& w, Mat) override {
    products += x.dim[0] * w.rows * w.cols;
    widest_tile = std::max(widest_tile, x.dim[0]);
  }
  void matmul_prompt(ConstMat x, const WeightMatrix& w, Mat out) override {
    prompt_products += x.dim[0] * w.rows * w.cols;
    matmul(x, w, out);
  }
  void attend(const DenseAttention& job) override {
    const int64_t rows = job.q.dim[0];
    int64_t seen = rows * job.first_row + rows * (rows + 1) / 2;
    for (const PagedHead& head : job.cached) seen += rows * head.rows() / job.k.dim[0];
    products += 2 * seen * job.q.dim[1] * job.q.dim[2];
    ++(job.int16 ? integer_jobs : float_jobs);
  }

  void embed(const WeightMatrix&, std::span<const int32_t>, float, Mat) override {}
  void rms_norm(ConstMat, std::span<const float>, float, Mat) override {}
  void layer_norm(ConstMat, std::span<const float>, std::span<const float>, float, Mat) override {}
  void rope(Cube, std::span<const int32_t>, const Rope&, int) override {}
  void gate(Gate, ConstMat, ConstMat, Mat) override {}
  void gelu(ConstMat, Mat) override {}
  void add(ConstMat, Mat) override {}
  void add_row(std::span<const float>, Mat) override {}
  void clamp(float, Mat) override {}
  void softcap(float, Mat) override {}
  void gather(ConstMat, std::span<const int32_t>, Mat) override {}
  void attend(std::span<const HeadAttention>) override {}
  void window_mass(const WindowMass&) override {}
  void row_norms(ConstCube, Mat) override {}
  ConstMat to_host(ConstMat x) override { return x; }

 private:
  std::unique_ptr<Backend> real_ = make_cpu_backend(1);
};

}  // namespace pith::test
