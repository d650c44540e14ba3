#include "calibrate/basis.h"

#include <Eigen/Dense>
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/kernels.h"
#include "policy/defaults.h"
#include "policy/observer.h"
#include "runtime/engine.h"
#include "runtime/likelihood.h"
#include "tensor/codec.h"

namespace pith {
namespace {

using Rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                        0, Eigen::OuterStride<>>;
using Moment = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Square = Eigen::MatrixXd;

// The sums of a run, in the order of their tensors.
constexpr size_t kQueries = 0, kKeys = 1, kValues = 2, kCount = 3, kUnturnedQueries = 4,
                 kUnturnedKeys = 5;

// [layers] null where nothing turns keys.
std::vector<std::shared_ptr<const KeyTurns>> turns_of(const KvShape& shape) {
  std::vector<std::shared_ptr<const KeyTurns>> turns;
  for (int l = 0; l < shape.layers; ++l) {
    const Rope rope = shape.rope(l);
    turns.push_back(rope.inv_freq.empty() ? nullptr : std::make_shared<KeyTurns>(rope));
  }
  return turns;
}

// Adds up q q^T of a group's queries, k k^T and v v^T for every key/value head; q q^T and k k^T
// also as they were before their rotation.
class MomentObserver final : public PromptObserver {
 public:
  MomentObserver(Engine& engine, SampleSums& sums)
      : engine_(engine),
        shape_(engine.model().config().shape),
        turns_(turns_of(shape_)),
        sums_(sums) {}

  bool wants_tensors(int) const override { return true; }

  void attended(int layer, const DenseAttention& job) override {
    const int64_t rows = job.q.dim[0], dim = shape_.dim;
    if (layer == 0) sums_.at(kCount)[0] += static_cast<float>(rows);
    const KeyTurns* turns = turns_[static_cast<size_t>(layer)].get();
    const auto positions =
        job.positions.subspan(static_cast<size_t>(job.first_row), static_cast<size_t>(rows));
    engine_.backend().threads().for_each(shape_.heads, [&](int64_t head, int) {
      const auto at = static_cast<size_t>((layer * shape_.heads + head) * dim * dim);
      const auto add = [&](size_t sum, const float* first, int64_t stride) {
        const Rows x(first, rows, dim, Eigen::OuterStride<>(stride));
        Eigen::Map<Moment>(sums_.at(sum).data() + at, dim, dim).noalias() += x.transpose() * x;
      };
      std::vector<float> back, scratch(turns ? turns->scratch_floats() : 0);
      const auto add_both = [&](size_t sum, size_t unturned, const float* first, int64_t stride) {
        add(sum, first, stride);
        if (!turns) return;
        back.resize(static_cast<size_t>(rows * dim));
        for (int64_t r = 0; r < rows; ++r)
          std::copy_n(first + r * stride, dim, back.data() + r * dim);
        turns->turn(active_kernels(), back.data(), shape_.dim, positions, -1, scratch.data());
        add(unturned, back.data(), dim);
      };
      for (int64_t g = head * shape_.group(); g < (head + 1) * shape_.group(); ++g)
        add_both(kQueries, kUnturnedQueries, job.q.data + g * job.q.stride[1], job.q.stride[0]);
      add_both(kKeys, kUnturnedKeys, job.k[head].row(job.first_row).data(), job.k.stride[1]);
      add(kValues, job.v[head].row(job.first_row).data(), job.v.stride[1]);
    });
  }

 private:
  Engine& engine_;
  const KvShape& shape_;
  const std::vector<std::shared_ptr<const KeyTurns>> turns_;
  SampleSums& sums_;
};

// Queries as keys before their rotation meet them: turned by the distance between both, in the mean
// over all pairs of a query and a key at most so many rows before it in a prompt of `rows`.
Square over_distances(const Square& queries, const KeyTurns& turns, int64_t rows, int64_t window) {
  constexpr int64_t kDistances = 256;  // longer prompts are sampled, evenly but not periodically
  constexpr double kGolden = 0.6180339887498949;
  const int64_t reach = window > 0 ? std::min(rows, window) : rows;
  const auto dim = static_cast<int>(queries.rows());
  std::vector<float> scratch(turns.scratch_floats());
  Square sum = Square::Zero(dim, dim);
  double weights = 0;
  for (int64_t i = 0; i < std::min(reach, kDistances); ++i) {
    const double part = kGolden * static_cast<double>(i);
    const int64_t distance =
        reach <= kDistances
            ? i
            : static_cast<int64_t>((part - std::floor(part)) * static_cast<double>(reach));
    const std::vector<int32_t> by(static_cast<size_t>(dim), static_cast<int32_t>(distance));
    Moment turned = queries.cast<float>();
    for (int side = 0; side < 2; ++side) {
      turns.turn(active_kernels(), turned.data(), dim, by, 1, scratch.data());
      turned.transposeInPlace();
    }
    const auto pairs = static_cast<double>(rows - distance);
    sum += pairs * turned.cast<double>();
    weights += pairs;
  }
  return sum / weights;
}

Square per_row(std::span<const float> sum, size_t head, int dim, double rows) {
  const auto size = static_cast<size_t>(dim) * static_cast<size_t>(dim);
  return Eigen::Map<const Moment>(sum.data() + head * size, dim, dim).cast<double>() / rows;
}

// Sum over a group's query heads of W^T W, W being a head's columns of the output projection.
std::vector<Square> output_moments(const WeightMatrix& wo, const KvShape& shape) {
  Moment all(wo.rows, wo.cols);
  const size_t bytes = row_bytes(wo.dtype, wo.cols);
  for (int64_t r = 0; r < wo.rows; ++r)
    decode_row(wo.dtype, wo.data + static_cast<size_t>(r) * bytes, wo.cols,
               all.data() + r * wo.cols);
  std::vector<Square> moments;
  for (int h = 0; h < shape.heads; ++h) {
    Square& sum = moments.emplace_back(Square::Zero(shape.dim, shape.dim));
    for (int g = h * shape.group(); g < (h + 1) * shape.group(); ++g) {
      const Square columns = all.middleCols(g * shape.dim, shape.dim).cast<double>();
      sum.noalias() += columns.transpose() * columns;
    }
  }
  return moments;
}

// Directions that matter to both moments, and what each is worth: the product of what both have
// there. With moments of queries and keys that is how far products move without the direction; with
// values and the output projection, how far the head's output does.
void fill_side(const Square& a, const Square& b, float* directions, float* harm) {
  const double trace_a = a.trace(), trace_b = b.trace();
  Square both = Square::Zero(a.rows(), a.cols());
  if (trace_a > 0) both += a / trace_a;
  if (trace_b > 0) both += b / trace_b;
  const Eigen::SelfAdjointEigenSolver<Square> solved(both);
  const Square& vectors = solved.eigenvectors();  // columns, by rising eigenvalue
  const auto dim = static_cast<size_t>(a.rows());
  std::vector<double> worth(dim);
  for (size_t i = 0; i < dim; ++i) {
    const auto u = vectors.col(static_cast<Eigen::Index>(i));
    worth[i] = std::max(0.0, u.dot(a * u)) * std::max(0.0, u.dot(b * u));
  }
  std::vector<size_t> order(dim);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return worth[i]; });
  for (size_t i = 0; i < dim; ++i) {
    const auto u = vectors.col(static_cast<Eigen::Index>(order[i]));
    // A direction and its opposite are the same; the sign must not depend on the solver.
    Eigen::Index largest = 0;
    u.cwiseAbs().maxCoeff(&largest);
    const double sign = u(largest) < 0 ? -1 : 1;
    for (size_t d = 0; d < dim; ++d)
      directions[i * dim + d] = static_cast<float>(sign * u(static_cast<Eigen::Index>(d)));
    harm[i] = static_cast<float>(worth[order[i]]);
  }
}

// The turn of two channels by which the first gets most of what matters to both moments: cosine and
// sine, and what each is worth then.
struct Turn {
  double cosine = 1, sine = 0, first = 0, second = 0;
  Turn(const Square& a, const Square& b, int x, int y) {
    const auto of = [&](int i, int j) {
      const double trace_a = a.trace(), trace_b = b.trace();
      return (trace_a > 0 ? a(i, j) / trace_a : 0) + (trace_b > 0 ? b(i, j) / trace_b : 0);
    };
    const double angle = std::atan2(2 * of(x, y), of(x, x) - of(y, y)) / 2;
    cosine = std::cos(angle);
    sine = std::sin(angle);
    const auto worth = [&](double c, double s) {
      const auto form = [&](const Square& m) {
        return std::max(0.0, c * c * m(x, x) + 2 * c * s * m(x, y) + s * s * m(y, y));
      };
      return form(a) * form(b);
    };
    first = worth(cosine, sine);
    second = worth(-sine, cosine);
  }
};

// Channels of keys, those that turn together side by side, the pairs that matter most first; and
// how each pair is turned within itself.
void order_channels(const Square& a, const Square& b, const Rope& rope, int* channels, float* harm,
                    float* turns, float* turned_harm) {
  const auto dim = static_cast<int>(a.rows()), turned = static_cast<int>(rope.inv_freq.size());
  struct Pair {
    int first = 0, second = 0;
    double worth = 0;
  };
  std::vector<Pair> pairs;
  for (int i = 0; i < dim / 2; ++i) {
    Pair pair{2 * i, 2 * i + 1};  // channels that nothing turns may pair as they like
    if (rope.half_split && i < turned) pair = {i, i + turned};
    for (const int x : {pair.first, pair.second})
      for (const int y : {pair.first, pair.second}) pair.worth += a(x, y) * b(x, y);
    pairs.push_back(pair);
  }
  std::ranges::stable_sort(pairs, std::greater(), &Pair::worth);
  for (const Pair& pair : pairs) {
    const Turn turn(a, b, pair.first, pair.second);
    *turns++ = static_cast<float>(turn.cosine);
    *turns++ = static_cast<float>(turn.sine);
    *turned_harm++ = static_cast<float>(turn.first);
    *turned_harm++ = static_cast<float>(turn.second);
    for (const int channel : {pair.first, pair.second}) {
      *channels++ = channel;
      *harm++ = static_cast<float>(std::max(0.0, pair.worth) / 2);
    }
  }
}

HeadBases bases_from(const Engine& engine, const SampleSums& sums) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  const auto dim = static_cast<size_t>(shape.dim);
  HeadBases bases{shape.layers, shape.heads, shape.dim, {}, {}, {}, {}};
  bases.directions.resize(bases.sides() * dim * dim);
  bases.harm.resize(bases.sides() * dim);
  bases.channels.resize(bases.sides() / 2 * dim);
  for (std::vector<float>* of : {&bases.channel_harm, &bases.turns, &bases.turned_harm})
    of->resize(bases.sides() / 2 * dim);
  bases.unturned.resize(bases.sides() / 2 * dim * dim);
  bases.unturned_harm.resize(bases.sides() / 2 * dim);
  const double rows = std::max(1.0f, sums.at(kCount)[0]);
  const auto length = std::max<int64_t>(1, std::llround(rows / std::max(1, sums.done())));
  const auto turns = turns_of(shape);
  for (int l = 0; l < shape.layers; ++l) {
    const std::vector<Square> output = output_moments(engine.model().weights().layers[l].wo, shape);
    for (int h = 0; h < shape.heads; ++h) {
      const size_t k = static_cast<size_t>(l) * static_cast<size_t>(shape.heads) +
                       static_cast<size_t>(h),
                   v = bases.sides() / 2 + k;
      const Square queries = per_row(sums.at(kQueries), k, shape.dim, rows),
                   keys = per_row(sums.at(kKeys), k, shape.dim, rows),
                   values = per_row(sums.at(kValues), k, shape.dim, rows);
      fill_side(queries, keys, &bases.directions[k * dim * dim], &bases.harm[k * dim]);
      if (const KeyTurns* turning = turns[static_cast<size_t>(l)].get()) {
        const Square unturned =
            over_distances(per_row(sums.at(kUnturnedQueries), k, shape.dim, rows), *turning, length,
                           shape.window(l));
        fill_side(unturned, per_row(sums.at(kUnturnedKeys), k, shape.dim, rows),
                  &bases.unturned[k * dim * dim], &bases.unturned_harm[k * dim]);
      } else {
        std::copy_n(&bases.directions[k * dim * dim], dim * dim, &bases.unturned[k * dim * dim]);
        std::copy_n(&bases.harm[k * dim], dim, &bases.unturned_harm[k * dim]);
      }
      order_channels(queries, keys, config.shape.ropes[static_cast<size_t>(l)],
                     &bases.channels[k * dim], &bases.channel_harm[k * dim], &bases.turns[k * dim],
                     &bases.turned_harm[k * dim]);
      fill_side(output[static_cast<size_t>(h)], values, &bases.directions[v * dim * dim],
                &bases.harm[v * dim]);
    }
  }
  return bases;
}

bool turns_keys(const KvShape& shape) {
  return std::ranges::any_of(shape.ropes, [](const Rope& r) { return !r.inv_freq.empty(); });
}

std::shared_ptr<const Policy> storing(std::shared_ptr<const BasisTable> table) {
  auto policy = std::make_shared<Policy>();
  policy->spec = "the search for ranks";
  policy->scorer = newest_first();
  policy->budget = keep_everything();
  policy->reducer = keep_best();
  policy->store.basis = std::move(table);
  return policy;
}

// A token's successors are judged behind at most so many others, so that judging many candidates
// takes no longer than reading the prompts.
constexpr size_t kContext = 512;

}  // namespace

std::vector<RankJudgement> judge_ranks(Engine& engine,
                                       std::span<const std::vector<int32_t>> prompts, int judged,
                                       const HeadBases& bases,
                                       std::span<const std::vector<int>> candidates,
                                       const Monitor& monitor) {
  std::vector<RankJudgement> judgements(candidates.size());
  std::vector<std::shared_ptr<const Policy>> policies = {storing(nullptr)};
  for (const std::vector<int>& ranks : candidates)
    policies.push_back(storing(basis_table(bases, ranks)));
  OnlyStops stops(monitor);
  double tokens = 0;
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.size() < 2) continue;
    const size_t last = std::min(static_cast<size_t>(judged), prompt.size() / 2);
    const size_t begin = prompt.size() - last;
    const size_t context = std::min(begin, kContext);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> batch;
    for (const auto& policy : policies) {
      sessions.push_back(engine.open(policy));
      engine.prefill(*sessions.back(), std::span(prompt).subspan(begin - context, context), stops);
      batch.push_back(sessions.back().get());
    }
    for (size_t i = begin; i < prompt.size(); ++i) {
      stops.check();
      engine.decode(batch, std::vector<int32_t>(batch.size(), prompt[i]));
      const std::vector<float>& full = batch[0]->logits;
      const int32_t best = most_likely(full);
      for (size_t c = 0; c < candidates.size(); ++c) {
        const std::vector<float>& logits = batch[c + 1]->logits;
        judgements[c].divergence += kl_divergence(full, logits);
        if (most_likely(logits) == best) ++judgements[c].agreement;
      }
      ++tokens;
    }
  }
  for (RankJudgement& j : judgements) {
    j.divergence /= std::max(1.0, tokens);
    j.agreement = tokens > 0 ? j.agreement / tokens : 1;
  }
  return judgements;
}

namespace {

// Products that move in one layer do not matter as much as in another, nor keys as values: each
// side of each layer is halved alone, and what that does to the model's answers becomes the unit
// that harm is counted in, nats per token. Returns the units of the first `groups` of them.
std::vector<double> units_of(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                             const BasisOptions& options, const HeadBases& bases, size_t groups,
                             Monitor& monitor) {
  constexpr size_t kAtOnce = 8;
  const auto heads = static_cast<size_t>(bases.heads), dim = static_cast<size_t>(bases.dim);
  const int step = std::min(options.step, bases.dim);
  const int half = std::max(step, bases.dim / 2 / step * step);
  std::vector<double> units(groups, 1.0);
  if (half >= bases.dim) return units;
  for (size_t first = 0; first < groups; first += kAtOnce) {
    monitor.progress("layers", static_cast<int64_t>(first), static_cast<int64_t>(groups));
    monitor.check();
    std::vector<std::vector<int>> candidates;
    for (size_t g = first; g < std::min(groups, first + kAtOnce); ++g) {
      std::vector<int>& ranks = candidates.emplace_back(bases.sides(), bases.dim);
      std::fill_n(ranks.begin() + static_cast<std::ptrdiff_t>(g * heads), heads, half);
    }
    const auto judgements =
        judge_ranks(engine, prompts, options.judged, bases, candidates, monitor);
    for (size_t c = 0; c < candidates.size(); ++c) {
      const auto harm = std::span(bases.harm).subspan((first + c) * heads * dim, heads * dim);
      double left_out = 0;
      for (size_t i = 0; i < harm.size(); ++i)
        if (i % dim >= static_cast<size_t>(half)) left_out += static_cast<double>(harm[i]);
      units[first + c] = left_out > 0 ? judgements[c].divergence / left_out : 0;
    }
  }
  monitor.progress("layers", static_cast<int64_t>(groups), static_cast<int64_t>(groups));
  return units;
}

// Counts the harm of a group of heads in its unit.
void count_in(std::span<const double> units, size_t numbers, std::span<float> harm) {
  for (size_t i = 0; i < harm.size(); ++i)
    harm[i] = static_cast<float>(static_cast<double>(harm[i]) * units[i / numbers]);
}

void weigh(Engine& engine, std::span<const std::vector<int32_t>> prompts,
           const BasisOptions& options, HeadBases& bases, Monitor& monitor) {
  const KvShape& shape = engine.model().config().shape;
  const auto layers = static_cast<size_t>(bases.layers),
             numbers = static_cast<size_t>(bases.heads) * static_cast<size_t>(bases.dim);
  const std::vector<double> units = units_of(engine, prompts, options, bases, 2 * layers, monitor);
  const HeadBases unturned = with_unturned_keys(bases, shape);
  count_in(
      turns_keys(shape) ? units_of(engine, prompts, options, unturned, layers, monitor) : units,
      numbers, bases.unturned_harm);
  for (std::vector<float>* of : {&bases.harm, &bases.channel_harm, &bases.turned_harm})
    count_in(units, numbers, *of);
}

}  // namespace

HeadBases find_bases(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                     const BasisOptions& options, const std::string& progress_file,
                     Monitor& monitor) {
  const ModelConfig& config = engine.model().config();
  const KvShape& shape = config.shape;
  if (std::ranges::none_of(prompts, [](const auto& prompt) { return prompt.size() >= 2; }))
    throw Error(Errc::bad_request, "the text has no two tokens");
  const size_t heads = static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
  const std::vector<int64_t> dims = {shape.dim, shape.dim, shape.heads, shape.layers};
  const std::vector<float> zero(heads * static_cast<size_t>(shape.dim * shape.dim), 0.0f);
  SampleSums sums(progress_file, "bases 2 " + config.digest + " " + text_digest(prompts),
                  {{"queries", dims, zero},
                   {"keys", dims, zero},
                   {"values", dims, zero},
                   {"count", {1}, {0.0f}},
                   {"unturned_queries", dims, zero},
                   {"unturned_keys", dims, zero}});
  const int64_t samples = static_cast<int64_t>(prompts.size());
  while (sums.done() < samples) {
    monitor.progress("prompts", sums.done(), samples);
    monitor.check();
    MomentObserver observer(engine, sums);
    look_at_prompt(engine, prompts[static_cast<size_t>(sums.done())], observer, monitor);
    sums.finish_sample();
  }
  monitor.progress("prompts", samples, samples);

  HeadBases bases = bases_from(engine, sums);
  weigh(engine, prompts, options, bases, monitor);
  return bases;
}

namespace {

// The fewest ranks that keep the target, and what they keep.
std::pair<std::vector<int>, double> find_ranks(Engine& engine,
                                               std::span<const std::vector<int32_t>> prompts,
                                               const BasisOptions& options, const HeadBases& bases,
                                               Monitor& monitor) {
  const int step = std::min(options.step, bases.dim);
  // Steps behind the first of every side: the fewest that keep the target. All of them always do.
  const int64_t first = static_cast<int64_t>(bases.sides()) * step;
  int64_t low = -1, high = (bases.coordinates() - first + step - 1) / step;
  const int64_t tries = static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(high)));
  std::pair<std::vector<int>, double> found{std::vector<int>(bases.sides(), bases.dim), 1.0};
  for (int64_t tried = 0; high - low > 1; ++tried) {
    monitor.progress("ranks", std::min(tried, tries), tries + 1);
    monitor.check();
    const int64_t middle = (low + high) / 2;
    const std::vector<std::vector<int>> ranks = {ranks_of_size(bases, first + middle * step, step)};
    const double agreement =
        judge_ranks(engine, prompts, options.judged, bases, ranks, monitor)[0].agreement;
    if (agreement >= options.target) {
      high = middle;
      found = {ranks[0], agreement};
    } else {
      low = middle;
    }
  }
  monitor.progress("ranks", tries + 1, tries + 1);
  return found;
}

}  // namespace

BasisFinding find_basis(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                        const BasisOptions& options, const std::string& progress_file,
                        Monitor& monitor) {
  const KvShape& shape = engine.model().config().shape;
  BasisFinding found;
  found.bases = find_bases(engine, prompts, options, progress_file, monitor);
  std::tie(found.ranks, found.agreement) =
      find_ranks(engine, prompts, options, found.bases, monitor);
  found.unturned_ranks = found.ranks;
  found.unturned_agreement = found.agreement;
  if (turns_keys(shape))
    std::tie(found.unturned_ranks, found.unturned_agreement) =
        find_ranks(engine, prompts, options, with_unturned_keys(found.bases, shape), monitor);
  return found;
}

}  // namespace pith
