#include "apps/bench_bound.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "tensor/dtype.h"

namespace pith {
namespace {

// `rows` activation rows meet a matrix, of a prompt if `reading` (Backend::matmul_prompt).
void add_matrix(const WeightMatrix& w, double rows, MatmulForm form, bool reading, Work& work) {
  if (!w) return;
  const double products = rows * static_cast<double>(w.rows) * static_cast<double>(w.cols);
  const bool blocks = traits(w.dtype).block_elements > 1;
  const bool halves = reading && active_kernels().codes_halves &&
                      (w.dtype == DType::f16 || w.dtype == DType::bf16) && w.cols % 32 == 0;
  if (form == MatmulForm::int8 && (blocks || halves))
    (blocks ? work.byte_products : work.word_products) += products;
  else
    work.float_products += products;
}

double bytes_of(const WeightMatrix& w) {
  return w ? static_cast<double>(row_bytes(w.dtype, w.cols)) * static_cast<double>(w.rows) : 0;
}

double weight_bytes(const Model& model) {
  double bytes = bytes_of(model.weights().unembedding);
  for (const LayerWeights& w : model.weights().layers)
    for (const WeightMatrix& m : {w.wq, w.wk, w.wv, w.wo, w.gate, w.up, w.down})
      bytes += bytes_of(m);
  return bytes;
}

// Rows of the prompt that the query of row `row` sees in a head.
int64_t rows_seen(const DenseAttention& job, int64_t head, int64_t row) {
  int64_t oldest = 0;
  if (job.rule.window > 0) {
    const int32_t hidden = job.positions[static_cast<size_t>(row)] - job.rule.window;
    oldest = std::ranges::upper_bound(job.positions.first(static_cast<size_t>(row)), hidden) -
             job.positions.begin();
  }
  if (!job.reads) return row + 1 - oldest;
  int64_t seen = 0;
  for (const RowRange& range : job.reads->at(head, row / ReadPlan::kBlock))
    seen += std::max<int64_t>(0, std::min(range.last, row + 1) - std::max(range.first, oldest));
  return seen;
}

}  // namespace

Bound bound_of(const Work& work, const Roofline& roof) {
  double arithmetic = 0;
  for (const auto& [products, rate] : {std::pair(work.float_products, roof.flops),
                                       {work.word_products, roof.word_ops},
                                       {work.byte_products, roof.byte_ops}}) {
    if (products > 0 && rate <= 0) return {};
    if (products > 0) arithmetic += 2 * products / rate;
  }
  const double memory = work.read_bytes / roof.read_bytes;
  return memory > arithmetic ? Bound{memory, "memory"} : Bound{arithmetic, "arithmetic"};
}

void PromptWork::attended(int layer, const DenseAttention& job) {
  const LayerWeights& w = model_.weights().layers[static_cast<size_t>(layer)];
  if (layer != layer_ || job.first_row < next_row_)  // keys and values of all its rows
    for (const WeightMatrix& m : {w.wk, w.wv})
      add_matrix(m, static_cast<double>(job.k.dim[1]), form_, true, work_);
  layer_ = layer;
  next_row_ = job.first_row + job.q.dim[0];
  for (const WeightMatrix& m : {w.wq, w.wo, w.gate, w.up, w.down})
    add_matrix(m, static_cast<double>(job.q.dim[0]), form_, true, work_);

  const int64_t heads = job.k.dim[0];
  int64_t seen = 0;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t row = job.first_row; row < next_row_; ++row) seen += rows_seen(job, h, row);
    if (!job.cached.empty()) seen += job.q.dim[0] * job.cached[static_cast<size_t>(h)].rows();
  }
  const double products = 2.0 * static_cast<double>(seen) * static_cast<double>(job.q.dim[1]) /
                          static_cast<double>(heads) * static_cast<double>(job.q.dim[2]);
  const bool words = job.int16 && form_ == MatmulForm::int8;
  (words ? work_.word_products : work_.float_products) += products;
}

Work PromptWork::work() const {
  Work work = work_;
  add_matrix(model_.weights().unembedding, 1, form_, false, work);
  work.read_bytes = weight_bytes(model_);
  return work;
}

Work token_work(const Model& model, MatmulForm form, const KvStore& store, Quant pages,
                bool reads_all) {
  Work work;
  work.read_bytes = weight_bytes(model);
  for (const LayerWeights& w : model.weights().layers)
    for (const WeightMatrix& m : {w.wq, w.wk, w.wv, w.wo, w.gate, w.up, w.down})
      add_matrix(m, 1, form, false, work);
  add_matrix(model.weights().unembedding, 1, form, false, work);
  if (!reads_all) return work;
  const KvShape& shape = model.config().shape;
  const CacheBytes bytes = store.bytes();
  work.read_bytes += static_cast<double>(bytes.sealed + bytes.open + bytes.pseudo);
  (is_plain(pages) ? work.float_products : work.byte_products) +=
      2.0 * static_cast<double>(store.rows() * shape.group()) * shape.dim;
  return work;
}

}  // namespace pith
