#include <cmath>
#include <torch/autograd.h>

#include "train/network.h"

namespace pith {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Queries [first, first + count) of all heads against the keys before `keys`.
struct Block {
  int64_t first, count, keys;
};

// Sets scores of keys that a query may not see, [batch, group * count, keys].
void hide(Tensor& scores, const Block& block, int64_t group, const Looking& looking) {
  const Tensor all = scores.view({scores.size(0), group, block.count, block.keys});
  if (looking.recent <= 0) {
    const Tensor later = torch::ones({block.count, block.count}, torch::kBool).triu(1);
    all.narrow(3, block.first, block.count).masked_fill_(later.to(scores.device()), -INFINITY);
    return;
  }
  const Tensor key = torch::arange(block.keys).unsqueeze(0);
  const Tensor query = torch::arange(block.first, block.first + block.count).unsqueeze(1);
  const Tensor hidden =
      key.gt(query).logical_or(key.ge(looking.sink).logical_and(key.le(query - looking.recent)));
  all.masked_fill_(hidden.to(scores.device()), -INFINITY);
}

// Probabilities of one block, [batch, group * count, keys].
Tensor probabilities(const Tensor& q, const Tensor& k, const Block& block, int64_t group,
                     double scale, const Looking& looking) {
  Tensor scores = torch::bmm(q, k.narrow(1, 0, block.keys).transpose(1, 2)).mul_(scale);
  hide(scores, block, group, looking);
  return torch::softmax(scores, -1);
}

// The block's rows of [batch, group, length, dim] as [batch, group * count, dim].
Tensor rows_of(const Tensor& x, const Block& block) {
  return x.narrow(2, block.first, block.count)
      .reshape({x.size(0), x.size(1) * block.count, x.size(3)});
}

class CausalAttention : public torch::autograd::Function<CausalAttention> {
 public:
  // q: [batch, group, length, dim]; k, v: [batch, length, dim]; all contiguous.
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Looking& looking) {
    context->save_for_backward({q, k, v});
    context->saved_data["looking"] =
        std::vector<int64_t>{looking.sink, looking.recent, looking.block};
    Tensor out = torch::empty_like(q);
    each_block(q, looking.block, [&](const Block& block) {
      const Tensor p = probabilities(rows_of(q, block), k, block, q.size(1), scale(q), looking);
      out.narrow(2, block.first, block.count)
          .copy_(torch::bmm(p, v.narrow(1, 0, block.keys))
                     .view({q.size(0), q.size(1), block.count, q.size(3)}));
    });
    return out;
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const auto numbers = context->saved_data["looking"].toIntVector();
    const Looking looking{numbers[0], numbers[1], numbers[2]};
    const Tensor d_out = gradients[0].contiguous();
    Tensor dq = torch::empty_like(q), dk = torch::zeros_like(k), dv = torch::zeros_like(v);
    each_block(q, looking.block, [&](const Block& block) {
      const Tensor queries = rows_of(q, block), d_rows = rows_of(d_out, block);
      const Tensor p = probabilities(queries, k, block, q.size(1), scale(q), looking);
      const Tensor dp = torch::bmm(d_rows, v.narrow(1, 0, block.keys).transpose(1, 2));
      const Tensor ds = torch::_softmax_backward_data(dp, p, -1, p.scalar_type()).mul_(scale(q));
      dv.narrow(1, 0, block.keys).add_(torch::bmm(p.transpose(1, 2), d_rows));
      dk.narrow(1, 0, block.keys).add_(torch::bmm(ds.transpose(1, 2), queries));
      dq.narrow(2, block.first, block.count)
          .copy_(torch::bmm(ds, k.narrow(1, 0, block.keys))
                     .view({q.size(0), q.size(1), block.count, q.size(3)}));
    });
    return {dq, dk, dv, Tensor()};
  }

 private:
  static double scale(const Tensor& q) { return 1 / std::sqrt(static_cast<double>(q.size(3))); }

  template <typename Work>
  static void each_block(const Tensor& q, int64_t block_rows, const Work& work) {
    const int64_t length = q.size(2);
    for (int64_t first = 0; first < length; first += block_rows) {
      const int64_t count = std::min(block_rows, length - first);
      work(Block{first, count, first + count});
    }
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Looking& looking) {
  const int64_t rows = q.size(0), queries = q.size(1), length = q.size(2), dim = q.size(3);
  const int64_t heads = k.size(1), group = queries / heads;
  const Tensor out =
      CausalAttention::apply(q.reshape({rows * heads, group, length, dim}).contiguous(),
                             k.reshape({rows * heads, length, dim}).contiguous(),
                             v.reshape({rows * heads, length, dim}).contiguous(), looking);
  return out.view({rows, queries, length, dim})
      .transpose(1, 2)
      .reshape({rows, length, queries * dim});
}

}  // namespace pith
