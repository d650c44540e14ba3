// XAttention (arXiv:2503.16428): a block of 128 x 128 logits is judged by the sums along its
// antidiagonals, `stride` apart. A block of queries reads the best blocks until their share of the
// estimated attention is reached; its own and the first always.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/parallel.h"
#include "kernels/kernels.h"
#include "policy/ranges.h"
#include "policy/registry.h"

namespace pith {
namespace {

class Antidiagonals final : public TileReader {
 public:
  Antidiagonals(double threshold, int stride) : threshold_(threshold), stride_(stride) {}

  void choose(const TileTap& tap, ReadPlan& plan) const override {
    if (threshold_ >= 1) {
      plan.clear();
      return;
    }
    // Slices of `stride` keys lie one after the other already; the last one is filled up by zeros.
    const int64_t wide = stride_ * tap.k.dim[2];
    const int64_t slices = (plan.rows + stride_ - 1) / stride_, whole = plan.rows / stride_;
    std::vector<float> tails(static_cast<size_t>(plan.heads * wide), 0.0f);
    for (int64_t h = 0; h < plan.heads && whole < slices; ++h)
      for (int64_t r = whole * stride_; r < plan.rows; ++r)
        std::ranges::copy(tap.k[h].row(r),
                          tails.begin() + h * wide + (r - whole * stride_) * tap.k.dim[2]);
    const int64_t blocks = plan.blocks();
    tap.ops.threads().for_each(plan.heads * blocks, [&](int64_t task, int) {
      const int64_t head = task % plan.heads, block = blocks - 1 - task / plan.heads;
      std::vector<uint8_t> read(static_cast<size_t>(block + 1), 0);
      for (int g = 0; g < tap.shape.group(); ++g)
        mark(tap, head, head * tap.shape.group() + g, block, tails.data() + head * wide, read);
      plan.at(head, block) =
          marked_ranges(read, std::min(plan.rows, (block + 1) * ReadPlan::kBlock));
    });
  }

 private:
  // Marks what one query head of a block reads. `tail`: the last, partial slice of keys.
  void mark(const TileTap& tap, int64_t head, int64_t query_head, int64_t block, const float* tail,
            std::vector<uint8_t>& read) const {
    const int64_t dim = tap.k.dim[2], wide = stride_ * dim, rows = tap.k.dim[1];
    const int64_t each = ReadPlan::kBlock / stride_;  // slices of a block
    const int64_t first = block * ReadPlan::kBlock;
    const int64_t count = std::min(each, (rows - first + stride_ - 1) / stride_);
    // Queries of a slice in reverse, so that equal places in a slice lie on an antidiagonal.
    std::vector<float> q(static_cast<size_t>(count * wide), 0.0f);
    for (int64_t a = 0; a < count; ++a)
      for (int64_t s = 0; s < stride_; ++s) {
        const int64_t row = first + a * stride_ + stride_ - 1 - s;
        if (row < rows)
          std::ranges::copy(tap.q[row].row(query_head), q.begin() + a * wide + s * dim);
      }
    const int64_t seen = block * each + count;  // slices of keys
    const int64_t whole = std::min(seen, rows / stride_);
    std::vector<float> logits(static_cast<size_t>(count * seen));
    const PageKernels& plain = active_kernels().page[static_cast<size_t>(Quant::f32)];
    plain.score(reinterpret_cast<const std::byte*>(tap.k[head].data), static_cast<int>(whole),
                static_cast<int>(wide), q.data(), static_cast<int>(count), logits.data(), seen);
    for (int64_t a = 0; a < count && whole < seen; ++a)
      logits[static_cast<size_t>(a * seen + whole)] =
          active_kernels().dot(q.data() + a * wide, tail, wide);

    const auto scale = static_cast<double>(tap.rule.scale) / stride_;
    std::vector<double> mass(static_cast<size_t>(block + 1), 0.0);
    for (int64_t a = 0; a < count; ++a) {
      const float* const z = logits.data() + a * seen;
      const int64_t own = block * each + a;
      int64_t begin = 0;  // the first slice that the window has not left behind
      const int64_t query_row = std::min(rows - 1, first + a * stride_);
      while (tap.rule.window > 0 && begin < own &&
             tap.positions[std::min(rows, (begin + 1) * stride_) - 1] <=
                 tap.positions[query_row] - tap.rule.window)
        ++begin;
      double most = z[own], sum = 0;
      for (int64_t b = begin; b <= own; ++b) most = std::max<double>(most, z[b]);
      for (int64_t b = begin; b <= own; ++b) sum += std::exp((z[b] - most) * scale);
      for (int64_t b = begin; b <= own; ++b)
        mass[static_cast<size_t>(b / each)] += std::exp((z[b] - most) * scale) / sum;
    }
    read[0] = read[static_cast<size_t>(block)] = 1;
    double covered = mass[0] + (block > 0 ? mass[static_cast<size_t>(block)] : 0);
    std::vector<int64_t> order(static_cast<size_t>(std::max<int64_t>(0, block - 1)));
    std::iota(order.begin(), order.end(), int64_t{1});
    std::ranges::stable_sort(order, std::greater(), [&](int64_t b) { return mass[b]; });
    for (const int64_t b : order) {
      if (covered >= threshold_ * static_cast<double>(count)) break;
      covered += mass[static_cast<size_t>(b)];
      read[static_cast<size_t>(b)] = 1;
    }
  }

  double threshold_;
  int stride_;
};

const RegisterMethod xattention{{
    .name = "xattention",
    .summary = "read the blocks of a prompt that antidiagonal sums say matter",
    .source = "arXiv:2503.16428",
    .family = "attention: sparse reading",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const double threshold =
              o.ratio("threshold", 0.9, "share of the estimated attention that is read; 1: all");
          const std::string stride =
              o.word("stride", "16", "4|8|16|32", "rows between the antidiagonals that are summed");
          p.tile_reader = std::make_unique<Antidiagonals>(threshold, std::stoi(stride));
        },
    .cost = "a prompt: 1 / stride of the product of queries and keys, to save most of attention "
            "where it is sparse; the queries of one layer are held; a token: nothing",
    .departures =
        {"Blocks are chosen for each query head and read by its whole group: the union. The "
         "reference repeats keys for every query head.",
         "threshold=1 reads every row, bit for bit the full prompt; the reference may leave out "
         "blocks whose mass rounds to nothing.",
         "Soft caps and ALiBi slopes are not part of the estimate; windows are.",
         "One threshold for all heads; the paper's tuned table per head is not used."},
}};

}  // namespace
}  // namespace pith
