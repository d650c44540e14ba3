#include "policy/output_norms.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/codec.h"

namespace pith {
namespace {

constexpr int64_t kRowsAtOnce = 512;  // bounds the scratch: rows x width

}  // namespace

void output_norms(Backend& ops, ConstCube v, const WeightMatrix& wo, OutputNorm norm, Mat out) {
  const int64_t heads = v.dim[0], rows = v.dim[1], dim = v.dim[2], group = out.dim[0] / heads;
  PITH_CHECK(wo.cols == out.dim[0] * dim && out.dim[1] == rows, "every query head has its columns");
  const int64_t part = std::min(kRowsAtOnce, std::max<int64_t>(1, rows));
  const auto floats = static_cast<size_t>(wo.rows * dim + part * wo.rows);
  const std::unique_ptr<Buffer> memory = ops.allocate(floats * sizeof(float));
  float* const own = static_cast<float*>(memory->data());  // [width, dim] columns of one head
  const size_t row_size = row_bytes(wo.dtype, wo.cols);
  std::vector<float> decoded(static_cast<size_t>(wo.cols * wo.rows));
  ops.threads().for_each(wo.rows, [&](int64_t r, int) {
    decode_row(wo.dtype, wo.data + static_cast<size_t>(r) * row_size, wo.cols,
               decoded.data() + r * wo.cols);
  });
  for (int64_t h = 0; h < heads * group; ++h) {
    for (int64_t r = 0; r < wo.rows; ++r)
      std::copy_n(decoded.data() + r * wo.cols + h * dim, dim, own + r * dim);
    const WeightMatrix columns{DType::f32, reinterpret_cast<const std::byte*>(own), wo.rows, dim};
    for (int64_t first = 0; first < rows; first += part) {
      const int64_t count = std::min(part, rows - first);
      const ConstCube head = v;
      const ConstMat all = head[h / group];
      const ConstMat some{all.data + first * all.stride[0], {count, dim}, all.stride};
      const Mat added = Mat::packed(own + wo.rows * dim, {count, wo.rows});
      ops.matmul(some, columns, added);
      const ConstMat seen = ops.to_host(added);
      ops.threads().for_each(count, [&](int64_t r, int) {
        double sum = 0;
        for (const float x : seen.row(r))
          sum += norm == OutputNorm::l1 ? std::abs(double{x}) : double{x} * x;
        out.row(h)[static_cast<size_t>(first + r)] =
            static_cast<float>(norm == OutputNorm::l1 ? sum : std::sqrt(sum));
      });
    }
  }
}

}  // namespace pith
