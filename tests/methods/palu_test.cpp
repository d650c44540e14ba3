// palu, eigen: keys that lie before their rotation. What is read is what a float64 model of the
// store says, whatever rotation, positions and pages; a full set of directions changes nothing; and
// bytes are those of the kept numbers.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "policy/defaults.h"
#include "policy/low_rank.h"
#include "support/rotation.h"
#include "support/spec_sentences.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"
#include "support/toy_bases.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

using Doubles = std::vector<double>;

std::vector<float> frequencies(int pairs) {
  std::vector<float> inv_freq;
  for (int i = 0; i < pairs; ++i)
    inv_freq.push_back(std::pow(100.0f, -static_cast<float>(i) / static_cast<float>(pairs)));
  return inv_freq;
}

// The spec, storing f32 rows in every direction of an unturned basis.
std::shared_ptr<const Policy> in_every_direction(const std::string& spec, const KvShape& shape) {
  auto policy = std::const_pointer_cast<Policy>(make_policy(spec, shape));
  policy->store.basis = every_direction(with_unturned_keys(random_bases(shape), shape));
  return policy;
}

// Every architecture, pairing and scaling of the tiny models; prompts, answers and a further turn
// over coded rows.
TEST(Palu, ChangesNoLogitWithEveryDirectionKept) {
  for (const TinyModel& tiny : tiny_models()) {
    SCOPED_TRACE(tiny.name);
    Engine engine(loaded_tiny_model(tiny.name), tiny_options(2));
    const auto all = open_tiny(engine, "full:cache=f32,page=8");
    const auto session =
        engine.open(in_every_direction("full:cache=f32,page=8", engine.model().config().shape));
    const auto tokens = tiny_tokens(tiny, 110, 3);
    for (Session* one : {all.get(), session.get()}) {
      answer(engine, *one, std::span(tokens).first(50), 12);
      engine.prefill(*one, std::span(tokens).subspan(50));
    }
    for (size_t i = 0; i < all->logits.size(); ++i)
      ASSERT_NEAR(session->logits[i], all->logits[i], 1e-4);
    EXPECT_GT(session->store->bytes().sealed, 0u);
  }
}

// Rows that leave, move, come from other positions or are chosen by page: keys are still turned to
// where they belong.
TEST(Palu, StandsBesideEveryOtherRole) {
  for (const char* spec :
       {"snapkv:budget=40", "streaming_llm:budget=32,rerotate=true,reduce_every=4",
        "tova:budget=40,reduce_every=1", "gemfilter:budget=40,layer=0",
        "fastkv:tsp_rate=0.5,tsp_layer=0,budget=0.5", "quest:pages=3,dense_layers=0",
        "merge:budget=40", "kvzip:budget=0.5", "knorm+pyramidkv:budget=0.4"}) {
    SCOPED_TRACE(spec);
    const std::string whole = std::string(spec) + ",cache=f32,page=8";
    Engine engine(loaded_tiny_model("llama"), tiny_options(1));
    const auto plain = open_tiny(engine, whole);
    const auto session = engine.open(in_every_direction(whole, engine.model().config().shape));
    const auto tokens = tiny_tokens(tiny_model("llama"), 120, 5);
    for (Session* one : {plain.get(), session.get()}) {
      engine.prefill(*one, std::span(tokens).first(80));
      for (size_t i = 80; i < tokens.size(); ++i) engine.decode({&one, 1}, {&tokens[i], 1});
    }
    for (int l = 0; l < 2; ++l)
      for (int h = 0; h < 2; ++h)
        ASSERT_TRUE(std::ranges::equal(plain->store->at(l, h).positions(),
                                       session->store->at(l, h).positions()));
    for (size_t i = 0; i < plain->logits.size(); ++i)
      ASSERT_NEAR(session->logits[i], plain->logits[i], 1e-4);
  }
}

struct Case {
  int dim, pairs;
  bool half_split;
  std::vector<int32_t> positions;  // of rows 0, 1, ...
  int window = 0;
};

// One head of 24 rows in pages of 8, whose keys lie in `rank` of their directions before rotation.
struct Latent {
  explicit Latent(const Case& c, int rank, Quant quant)
      : inv_freq(frequencies(c.pairs)),
        rope{.inv_freq = inv_freq, .magnitude = 1.5f, .half_split = c.half_split},
        shape{.layers = 1,
              .query_heads = 2,
              .heads = 1,
              .dim = c.dim,
              .width = 8,
              .windows = {c.window},
              .ropes = {rope}},
        bases(with_unturned_keys(random_bases(shape), shape)) {
    spec.basis = basis_table(bases, std::vector<int>{rank, rank});
    spec.k = spec.v = quant;
    spec.open = Quant::f32;
    spec.page_rows = 8;
    store.emplace(shape, spec, pool);
    Random random(21);
    const auto rows = static_cast<int64_t>(c.positions.size());
    for (int64_t i = 0; i < rows * c.dim; ++i) {
      k.push_back(random.normal());
      v.push_back(random.normal());
    }
    HeadPlan plan;
    plan.keep.resize(c.positions.size());
    std::iota(plan.keep.begin(), plan.keep.end(), 0);
    store->at(0, 0).write(ConstMat::packed(k.data(), {rows, c.dim}),
                          ConstMat::packed(v.data(), {rows, c.dim}), c.positions, {}, plan);
    store->seal(nullptr);
  }

  // A row as it is read, by the definition: rotation, directions, rotation. `to`: its position
  // then.
  Doubles read_key(int row, int from, int to, int rank) const {
    const auto n = static_cast<size_t>(shape.dim);
    Doubles x(k.begin() + static_cast<std::ptrdiff_t>(row * shape.dim),
              k.begin() + static_cast<std::ptrdiff_t>((row + 1) * shape.dim));
    turn(rope, from, -1, x);
    x = in_directions(x, 0, rank);
    turn(rope, to, 1, x);
    EXPECT_EQ(x.size(), n);
    return x;
  }
  Doubles in_directions(const Doubles& x, size_t side, int rank) const {
    const auto n = static_cast<size_t>(shape.dim);
    Doubles flat(n);
    for (size_t i = 0; i < static_cast<size_t>(rank); ++i) {
      const float* u = &bases.directions[(side * n + i) * n];
      double dot = 0;
      for (size_t d = 0; d < n; ++d) dot += double{u[d]} * x[d];
      for (size_t d = 0; d < n; ++d) flat[d] += dot * double{u[d]};
    }
    return flat;
  }

  std::vector<float> inv_freq;
  Rope rope;
  KvShape shape;
  HeadBases bases;
  StoreSpec spec;
  PagePool pool;
  std::optional<KvStore> store;
  std::vector<float> k, v;
};

std::vector<Case> cases() {
  std::vector<int32_t> row(24), apart(24), far(24);
  std::iota(row.begin(), row.end(), 250);
  for (int i = 0; i < 24; ++i) {
    apart[static_cast<size_t>(i)] = i * i * 1201 + 7 * i;
    far[static_cast<size_t>(i)] = (1 << 24) - 12 + i;
  }
  return {{16, 8, false, row}, {16, 8, true, apart},  {24, 6, true, row},
          {32, 4, false, far}, {64, 32, true, apart}, {16, 8, true, row, /*window=*/10}};
}

TEST(Palu, ReadsWhatTheRotationAndTheDirectionsSay) {
  for (const Case& c : cases())
    for (const int rank : {c.dim / 2, c.dim / 4}) {
      SCOPED_TRACE(std::to_string(c.dim) + " " + std::to_string(rank));
      const Latent latent(c, rank, Quant::f32), half(c, rank, Quant::f16);
      std::vector<float> scratch;
      const ConstMat keys = latent.store->at(0, 0).keys(scratch);
      std::vector<float> half_scratch;
      const ConstMat halves = half.store->at(0, 0).keys(half_scratch);
      for (int r = 0; r < 24; ++r) {
        const int at = c.positions[static_cast<size_t>(r)];
        const Doubles expected = latent.read_key(r, at, at, rank);
        double length = 0;
        for (const double x : expected) length += x * x;
        for (size_t d = 0; d < expected.size(); ++d) {
          ASSERT_NEAR(keys.row(r)[d], expected[d], 2e-5) << r << " " << d;
          // Each coordinate is rounded by 2^-11 of itself, and rotations keep lengths.
          ASSERT_NEAR(halves.row(r)[d], expected[d], std::ldexp(std::sqrt(length), -11) + 2e-5);
        }
      }
    }
}

TEST(Palu, AttendsToKeysAtTheirPositions) {
  const auto ops = make_cpu_backend(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(std::to_string(c.dim) + (c.half_split ? " split" : ""));
    const int rank = c.dim / 4;
    const Latent latent(c, rank, Quant::f32);
    const int position = c.positions.back() + 1;
    Random random(4);
    std::vector<float> q(static_cast<size_t>(2 * c.dim)), out(q.size()), tile(q.size());
    for (float& x : q) x = random.normal();
    const AttentionRule rule{.scale = 0.3f, .window = c.window};
    std::vector<float> probs(24);
    const HeadAttention job{.q = ConstMat::packed(q.data(), {2, c.dim}),
                            .head = latent.store->at(0, 0).paged({}),
                            .position = position,
                            .rule = rule,
                            .out = Mat::packed(out.data(), {2, c.dim}),
                            .probs = probs};
    ops->attend({&job, 1});
    // What a query head gives a row, before all are divided by their sum.
    const auto weight = [&](int h, int r) {
      const int at = c.positions[static_cast<size_t>(r)];
      if (c.window > 0 && at <= position - c.window) return 0.0;
      const Doubles key = latent.read_key(r, at, at, rank);
      double logit = 0;
      for (int d = 0; d < c.dim; ++d)
        logit += double{q[static_cast<size_t>(h * c.dim + d)]} * key[static_cast<size_t>(d)];
      return std::exp(0.3 * logit);
    };
    for (int h = 0; h < 2; ++h) {
      Doubles weights, sum(static_cast<size_t>(c.dim));
      double all = 0;
      for (int r = 0; r < 24; ++r) {
        weights.push_back(weight(h, r));
        all += weights.back();
      }
      for (int r = 0; r < 24; ++r) {
        const Doubles value = latent.in_directions(
            Doubles(latent.v.begin() + r * c.dim, latent.v.begin() + (r + 1) * c.dim), 1, rank);
        for (size_t d = 0; d < sum.size(); ++d) sum[d] += weights[r] / all * value[d];
      }
      for (size_t d = 0; d < sum.size(); ++d)
        ASSERT_NEAR(out[static_cast<size_t>(h * c.dim) + d], sum[d], 1e-4);
    }
    // A prompt reads the same rows, decoded a few pages at a time.
    const PagedHead head = latent.store->at(0, 0).paged({});
    const std::vector<float> nothing(static_cast<size_t>(c.dim));
    std::vector<float> one(static_cast<size_t>(c.dim), 0.0f), alone(q.size());
    const int32_t now[] = {position};
    for (const bool cached : {true, false}) {
      Cube to = Cube::packed((cached ? tile : alone).data(), {1, 2, c.dim});
      ops->attend(DenseAttention{
          .q = ConstCube::packed(q.data(), {1, 2, c.dim}),
          .k = ConstCube::packed(nothing.data(), {1, 1, c.dim}),
          .v = ConstCube::packed(one.data(), {1, 1, c.dim}),
          .cached = cached ? std::span<const PagedHead>(&head, 1) : std::span<const PagedHead>(),
          .first_row = 0,
          .positions = now,
          .rule = rule,
          .out = to});
    }
    // The tile's own row has logit 0 and value 0: it only takes a share.
    for (int h = 0; h < 2; ++h) {
      double all = 0;
      for (int r = 0; r < 24; ++r) all += weight(h, r);
      for (int d = 0; d < c.dim; ++d) {
        const auto at = static_cast<size_t>(h * c.dim + d);
        ASSERT_NEAR(tile[at], out[at] * all / (all + 1), 1e-4);
      }
    }
  }
}

TEST(Palu, MovesRowsToOtherPositionsWithoutCodingThemAgain) {
  const Case c = cases()[1];
  Latent latent(c, 8, Quant::f16);
  HeadCache& head = latent.store->at(0, 0);
  std::vector<float> before, after;
  head.keys(before);
  std::vector<int32_t> closed(24);
  std::iota(closed.begin(), closed.end(), 0);
  int turned = 0;
  EXPECT_EQ(head.repack(closed, [&](Mat, std::span<const int32_t>) { ++turned; }), 0);
  EXPECT_EQ(turned, 0) << "all pages are sealed";
  head.keys(after);
  for (int r = 0; r < 24; ++r) {
    Doubles key(before.begin() + r * c.dim, before.begin() + (r + 1) * c.dim);
    turn(latent.rope, c.positions[static_cast<size_t>(r)], -1, key);
    turn(latent.rope, r, 1, key);
    for (size_t d = 0; d < key.size(); ++d)
      ASSERT_NEAR(after[static_cast<size_t>(r * c.dim) + d], key[d], 2e-5);
  }
}

KvShape wide_shape(std::span<const float> inv_freq) {
  KvShape shape{.layers = 2, .query_heads = 4, .heads = 2, .dim = 64, .width = 32};
  shape.ropes.assign(2, {.inv_freq = inv_freq, .magnitude = 1, .half_split = true});
  return shape;
}

TEST(Palu, TakesTheBytesOfTheKeptNumbers) {
  const std::vector<float> inv_freq = frequencies(32);
  const KvShape shape = wide_shape(inv_freq);
  const HeadBases bases = random_bases(shape);
  std::vector<int> ranks;
  for (size_t side = 0; side < bases.sides(); ++side)
    ranks.push_back(16 * static_cast<int>(side % 4 + 1));
  const std::string path = basis_file(bases, ranks), start = ":calibration=" + path;
  size_t expected = 0;
  for (const int rank : ranks)
    expected += 5 * PagePool::page_cost(static_cast<size_t>(32 * 2 * rank));
  ToyPrompt prompt("palu" + start, shape);
  prompt.prefill(160);
  prompt.decode(3);
  EXPECT_EQ(prompt.store().bytes().sealed, expected);
  const auto numbers = [&](const std::string& spec) {
    int sum = 0;
    const auto policy = make_policy(spec, shape);
    for (const auto* side : {&policy->store.basis->k, &policy->store.basis->v})
      for (const Basis& basis : *side) sum += basis.rank > 0 ? basis.rank : shape.dim;
    return sum;
  };
  EXPECT_EQ(numbers("palu" + start), 2 * (16 + 32 + 48 + 64));
  EXPECT_EQ(numbers("palu:size=0.5," + start.substr(1)), 8 * 32);
  EXPECT_EQ(numbers("palu:size=0.3,ranks=even,step=4," + start.substr(1)), 8 * 64 * 3 / 40 * 4);
  // Codes are those of coordinates, and stay near them.
  ToyPrompt coded("palu" + start + "+kivi:bits=8", shape), plain("palu" + start, shape);
  for (ToyPrompt* p : {&coded, &plain}) p->prefill(320);
  EXPECT_LT(coded.store().bytes().sealed, plain.store().bytes().sealed * 7 / 10);
  const ToyHead a = coded.head(1, 1), b = plain.head(1, 1);
  for (size_t i = 0; i < a.k.size(); ++i) ASSERT_NEAR(a.k[i], b.k[i], 0.25);
}

TEST(Palu, SessionsAreSavedAndForkedBitForBit) {
  Engine engine(loaded_tiny_model("llama"), tiny_options(1));
  const ModelConfig& config = engine.model().config();
  const HeadBases bases = random_bases(config.shape);
  const std::string spec = "palu:size=0.5,step=2,page=8,calibration=" +
                           basis_file(bases, std::vector<int>(bases.sides(), 4), config.digest);
  const auto session = engine.open(spec);
  const auto tokens = tiny_tokens(tiny_model("llama"), 90, 8);
  engine.prefill(*session, std::span(tokens).first(60));
  const std::string path = fresh_folder() + "palu.session";
  engine.save(*session, path);
  const auto loaded = engine.load(path);
  EXPECT_EQ(loaded->store->bytes().total(), session->store->bytes().total());
  const auto fork = session->fork();
  for (size_t i = 60; i < 90; ++i)
    for (Session* one : {session.get(), loaded.get(), fork.get()})
      engine.decode({&one, 1}, {&tokens[i], 1});
  EXPECT_TRUE(same_bits(session->logits, loaded->logits));
  EXPECT_TRUE(same_bits(session->logits, fork->logits));
  const auto full = open_tiny(engine, "full:page=8");
  engine.prefill(*full, std::span(tokens).first(60));
  EXPECT_LT(session->store->bytes().sealed, full->store->bytes().total());
}

TEST(Palu, IsTheSameAsZackWhereNothingTurnsKeys) {
  Engine engine(loaded_tiny_model("mpt"), tiny_options(1));
  HeadBases bases = random_bases(engine.model().config().shape);
  bases.unturned.assign(
      bases.directions.begin(),
      bases.directions.begin() + static_cast<std::ptrdiff_t>(bases.directions.size() / 2));
  bases.unturned_harm.assign(
      bases.harm.begin(), bases.harm.begin() + static_cast<std::ptrdiff_t>(bases.harm.size() / 2));
  const std::string options = ":size=0.5,step=2,page=8,calibration=" +
                              basis_file(bases, std::vector<int>(bases.sides(), 4));
  const auto tokens = tiny_tokens(tiny_model("mpt"), 60, 8);
  const auto palu = open_tiny(engine, "palu" + options), zack = open_tiny(engine, "zack" + options);
  EXPECT_TRUE(same_bits(answer(engine, *palu, tokens, 10), answer(engine, *zack, tokens, 10)));
}

TEST(Palu, SaysWhatIsWrongWithASpec) {
  const std::vector<float> inv_freq = frequencies(32);
  const KvShape shape = wide_shape(inv_freq);
  HeadBases bases = random_bases(shape);
  const std::vector<int> ranks(bases.sides(), 64);
  const std::string start = "palu:calibration=" + basis_file(bases, ranks);
  EXPECT_EQ(answer("palu", shape),
            "palu: 'calibration' is missing; `pith calibrate basis` makes the file");
  EXPECT_EQ(answer(start + ",size=0.1", shape),
            "palu: 'size' must be at least 256B, one step for every head");
  EXPECT_EQ(answer(start + ",ranks=even", shape),
            "palu: 'ranks' must be adaptive where there is no size to be shared out");
  EXPECT_EQ(answer(start + "+snapkv:budget=0.2", shape), "ok: " + start + ",budget=0.2+snapkv");
  EXPECT_EQ(answer(start + "+eigen" + start.substr(4), shape),
            "both 'palu' and 'eigen' bring a basis");
  bases.unturned = bases.unturned_harm = {};
  const std::string old = basis_file(bases, ranks);  // as it was written before there was palu
  for (const char* method : {"palu", "eigen"})
    EXPECT_EQ(answer(method + (":calibration=" + old), shape),
              "the calibration file knows no directions of keys before their rotation; run 'pith "
              "calibrate basis' again");
  EXPECT_EQ(answer("zack:calibration=" + old, shape), "ok: zack:calibration=" + old);
}

// Of every rank that heads of a layer may have with one share lost by each, the least that stay
// within the error, found by trying all of them.
TEST(Eigen, KeepsTheLeastThatLeavesALayerWithinItsError) {
  KvShape shape{.layers = 3, .query_heads = 4, .heads = 4, .dim = 32, .width = 32};
  HeadBases bases = random_bases(shape);
  Random random(6);
  for (size_t side = 0; side < bases.sides(); ++side) {
    const float slope = random.uniform(0.05f, 0.6f), height = random.uniform(0.1f, 10.0f);
    for (size_t d = 0; d < 32; ++d)
      bases.harm[side * 32 + d] = height * std::exp(-slope * static_cast<float>(d));
  }
  const auto lost = [&](size_t side, int rank) {
    double sum = 0;
    for (size_t d = static_cast<size_t>(rank); d < 32; ++d)
      sum += double{bases.harm[side * 32 + d]};
    return sum;
  };
  for (const double error : {0.0, 0.03, 0.1, 0.4, 1.0})
    for (const int step : {4, 16}) {
      const std::vector<int> ranks = ranks_of_error(bases, error, step);
      for (size_t layer = 0; layer < 6; ++layer) {
        double all = 0;
        for (size_t h = 0; h < 4; ++h) all += lost(layer * 4 + h, 0);
        int least = 4 * 32;
        for (size_t from = 0; from < 4; ++from)  // the head whose share decides, and its rank
          for (int rank = step; rank <= 32; rank += step) {
            const double share =
                lost(layer * 4 + from, rank) / lost(layer * 4 + from, 0) * (1 + 1e-12);
            double off = 0;
            int sum = 0;
            for (size_t h = 0; h < 4; ++h) {
              int r = step;
              while (lost(layer * 4 + h, r) > share * lost(layer * 4 + h, 0)) r += step;
              off += lost(layer * 4 + h, r);
              sum += r;
            }
            if (off <= error * error * all) least = std::min(least, sum);
          }
        EXPECT_EQ(std::accumulate(ranks.begin() + static_cast<std::ptrdiff_t>(layer * 4),
                                  ranks.begin() + static_cast<std::ptrdiff_t>(layer * 4 + 4), 0),
                  least)
            << error << " " << step << " " << layer;
      }
    }
  EXPECT_NE(make_policy("eigen:error=0.2,calibration=" +
                            basis_file(bases, std::vector<int>(bases.sides(), 32)),
                        shape)
                ->store.basis,
            nullptr);
}

}  // namespace
}  // namespace pith::test
