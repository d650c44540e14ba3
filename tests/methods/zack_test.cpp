// zack: keys and values in the directions that matter. A full set of directions changes nothing,
// rows that lie in the kept ones lose nothing, and the bytes are those of the kept numbers.
#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "policy/defaults.h"
#include "support/spec_sentences.h"
#include "support/tiny_model.h"
#include "support/tiny_sessions.h"
#include "support/toy_bases.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

KvShape wide_shape() {
  return {.layers = 2, .query_heads = 4, .heads = 2, .dim = 64, .width = 32};
}

TEST(Zack, ChangesNoLogitWithEveryDirectionKept) {
  for (const char* name : {"llama", "llama_many_heads", "qwen3", "gemma3", "mpt"}) {
    SCOPED_TRACE(name);
    Engine engine(loaded_tiny_model(name), tiny_options(2));
    const KvShape& shape = engine.model().config().shape;
    auto turned = std::make_shared<Policy>();
    turned->spec = "every direction";
    turned->scorer = newest_first();
    turned->budget = keep_everything();
    turned->reducer = keep_best();
    turned->store = {.k = Quant::f32,
                     .v = Quant::f32,
                     .open = Quant::f32,
                     .basis = every_direction(random_bases(shape))};
    turned->store.page_rows = 8;
    const auto all = open_tiny(engine, "full:cache=f32,page=8");
    const auto session = engine.open(turned);
    const auto tokens = tiny_tokens(tiny_model(name), 150, 3);
    for (Session* one : {all.get(), session.get()}) {
      answer(engine, *one, std::span(tokens).first(70), 30);
      engine.prefill(*one, std::span(tokens).subspan(70));  // a turn over coded rows
    }
    for (size_t i = 0; i < all->logits.size(); ++i)
      ASSERT_NEAR(session->logits[i], all->logits[i], 1e-4);
    EXPECT_GT(session->store->bytes().sealed, session->store->bytes().open);
  }
}

// Rows that lie in the first `rank` directions of their head.
void flatten(const HeadBases& bases, size_t side, int rank, Mat rows) {
  const auto n = static_cast<size_t>(bases.dim);
  std::vector<float> flat(n);
  for (int64_t r = 0; r < rows.dim[0]; ++r) {
    std::ranges::fill(flat, 0.0f);
    for (size_t i = 0; i < static_cast<size_t>(rank); ++i) {
      const float* u = &bases.directions[(side * n + i) * n];
      float dot = 0;
      for (size_t d = 0; d < n; ++d) dot += u[d] * rows.row(r)[d];
      for (size_t d = 0; d < n; ++d) flat[d] += dot * u[d];
    }
    std::ranges::copy(flat, rows.row(r).begin());
  }
}

// All rows of the prompt lie in the directions that their side of their head keeps.
void plant_flat_rows(ToyPrompt& prompt, const HeadBases& bases, const std::vector<int>& ranks) {
  prompt.plant = [&](int layer, Cube, Cube k, Cube v) {
    for (int h = 0; h < bases.heads; ++h) {
      const auto side = static_cast<size_t>(layer * bases.heads + h), values = bases.sides() / 2;
      flatten(bases, side, ranks[side], k[h]);
      flatten(bases, values + side, ranks[values + side], v[h]);
    }
  };
}

TEST(Zack, LosesNothingOfRowsThatLieInTheKeptDirections) {
  const KvShape shape = wide_shape();
  const HeadBases bases = random_bases(shape);
  std::vector<int> ranks;
  for (size_t side = 0; side < bases.sides(); ++side)
    ranks.push_back(16 * static_cast<int>(side % 3 + 1));
  const std::string path = basis_file(bases, ranks);
  ToyPrompt low("zack:calibration=" + path, shape), full("full", shape),
      coded("zack:cache=q8,calibration=" + path, shape);
  for (ToyPrompt* prompt : {&low, &full, &coded}) {
    plant_flat_rows(*prompt, bases, ranks);
    prompt->prefill(160);
    prompt->decode(5);
  }
  for (size_t i = 0; i < full.outputs().size(); ++i) {
    EXPECT_NEAR(low.outputs()[i], full.outputs()[i], 2e-3);
    EXPECT_NEAR(coded.outputs()[i], full.outputs()[i], 3e-2);
  }
  // Five full pages, of so many numbers in f16 as the ranks say.
  size_t expected = 0;
  for (const int rank : ranks)
    expected += 5 * PagePool::page_cost(static_cast<size_t>(32 * 2 * rank));
  EXPECT_EQ(low.store().bytes().sealed, expected);
  EXPECT_LT(coded.store().bytes().sealed, expected * 6 / 10);
}

TEST(Zack, CutsRowsShortWhereTheirDirectionsAreTheirChannels) {
  const KvShape shape = wide_shape();
  const HeadBases bases = as_channels(random_bases(shape), true);
  std::vector<int> ranks;
  for (size_t side = 0; side < bases.sides(); ++side)
    ranks.push_back(16 * static_cast<int>(side % 4 + 1));
  ToyPrompt low("zack:calibration=" + basis_file(bases, ranks), shape), full("full", shape);
  for (const Basis& basis : low.policy().store.basis->k) EXPECT_TRUE(basis.leading());
  for (ToyPrompt* prompt : {&low, &full}) {
    plant_flat_rows(*prompt, bases, ranks);
    prompt->prefill(160);
    prompt->decode(5);
  }
  EXPECT_EQ(low.heads(), full.heads()) << "nothing is rounded twice";
  for (size_t i = 0; i < full.outputs().size(); ++i)
    EXPECT_NEAR(low.outputs()[i], full.outputs()[i], 1e-5);
}

TEST(Zack, StoresKeysInPairsOfTheirOwnChannels) {
  const KvShape shape = wide_shape();
  const HeadBases bases = random_bases(shape);
  const std::vector<int> ranks(bases.sides(), 64);
  ToyPrompt prompt("zack:form=pairs,ranks=even,size=0.25,calibration=" + basis_file(bases, ranks),
                   shape),
      full("full", shape);
  for (ToyPrompt* one : {&prompt, &full}) one->prefill(64);
  for (int l = 0; l < 2; ++l)
    for (int h = 0; h < 2; ++h) {
      const ToyHead kept = prompt.head(l, h), all = full.head(l, h);
      for (size_t i = 0; i < all.k.size(); ++i) {
        const bool stays = (static_cast<int>(i % 64) ^ 6) < 16;
        EXPECT_EQ(kept.k[i], stays ? all.k[i] : 0.0f) << "channel " << i % 64;
      }
    }
}

TEST(Zack, SpendsASizeToTheLastStep) {
  const KvShape shape = wide_shape();
  const HeadBases bases = random_bases(shape);
  const std::string path = basis_file(bases, std::vector<int>(bases.sides(), 64));
  const auto stored = [&](const std::string& options) {
    const auto policy = make_policy("zack:calibration=" + path + options, shape);
    int numbers = 0;
    for (const auto* side : {&policy->store.basis->k, &policy->store.basis->v})
      for (const Basis& basis : *side) numbers += basis.rank > 0 ? basis.rank : shape.dim;
    return numbers;
  };
  EXPECT_EQ(stored(""), 8 * 64);
  EXPECT_EQ(stored(",size=0.5"), 8 * 32);
  EXPECT_EQ(stored(",size=0.5,ranks=even"), 8 * 32);
  EXPECT_EQ(stored(",size=0.3"), 8 * 64 * 3 / 10 / 16 * 16);
  EXPECT_EQ(stored(",size=0.3,step=4"), 8 * 64 * 3 / 10 / 4 * 4);
  EXPECT_EQ(stored(",size=0.5KiB"), 256);
}

// Fewer numbers and fewer bits multiply, to the byte; and to the number, codes are those of the
// coordinates.
TEST(Zack, CoordinatesAreStoredInAsManyBitsAsKiviSays) {
  const KvShape shape = wide_shape();
  const HeadBases bases = random_bases(shape);
  std::vector<int> ranks;
  for (size_t side = 0; side < bases.sides(); ++side)
    ranks.push_back(16 * static_cast<int>(side % 4 + 1));
  const std::string zack = "zack:calibration=" + basis_file(bases, ranks);
  ToyPrompt plain(zack + "+kivi:bits=16", shape), full("full:page=64", shape);
  for (ToyPrompt* p : {&plain, &full}) {
    plant_flat_rows(*p, bases, ranks);
    p->prefill(320);
  }
  for (const int bits : {2, 4, 8}) {
    ToyPrompt coded(zack + "+kivi:bits=" + std::to_string(bits), shape);
    plant_flat_rows(coded, bases, ranks);
    coded.prefill(320);
    size_t expected = 0;
    for (size_t side = 0; side < ranks.size(); ++side) {
      const auto rank = static_cast<size_t>(ranks[side]),
                 codes = 64 * rank * static_cast<size_t>(bits) / 8;
      const size_t spans = side < 4 ? 4 * rank : 4 * 64;  // of a channel; of a row of up to 64
      expected += 5 * PagePool::page_cost(codes + spans);
    }
    EXPECT_EQ(coded.store().bytes().sealed, expected) << bits;
    double off = 0, size = 0;
    for (int l = 0; l < 2; ++l)
      for (int h = 0; h < 2; ++h) {
        const ToyHead got = coded.head(l, h), was = plain.head(l, h);
        for (size_t i = 0; i < was.k.size(); ++i) {
          off += std::pow(got.k[i] - was.k[i], 2) + std::pow(got.v[i] - was.v[i], 2);
          size += std::pow(was.k[i], 2) + std::pow(was.v[i], 2);
        }
      }
    // Rows of normal numbers span some five of their deviations.
    EXPECT_LT(std::sqrt(off / size), 5.0 / ((1 << bits) - 1) / std::sqrt(12.0)) << bits;
  }
  const auto all = full.heads(), low = plain.heads();
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < all[i].k.size(); ++j) ASSERT_NEAR(low[i].k[j], all[i].k[j], 4e-3);
}

TEST(Zack, SaysWhatIsWrongWithASpec) {
  const KvShape shape = wide_shape();
  const HeadBases bases = random_bases(shape);
  const std::string path = basis_file(bases, std::vector<int>(bases.sides(), 64));
  const std::string start = "zack:calibration=" + path;
  EXPECT_EQ(answer("zack", shape),
            "zack: 'calibration' is missing; `pith calibrate basis` makes the file");
  EXPECT_EQ(answer(start + ",size=0.1", shape),
            "zack: 'size' must be at least 256B, one step for every head");
  EXPECT_EQ(answer(start + ",size=100", shape),
            "zack: 'size' must be a share of all coordinates (0.5) or bytes per token (6KiB)");
  EXPECT_EQ(answer(start + ",ranks=even", shape),
            "zack: 'ranks' must be adaptive where there is no size to be shared out");
  EXPECT_EQ(answer(start + ",form=pairs", shape),
            "zack: 'form' must be rotated where no size is given");
  EXPECT_EQ(answer(start + ",form=pairs,size=0.5,step=15", shape),
            "zack: 'step' must be even where pairs are kept");
  EXPECT_EQ(answer(start + "+snapkv:budget=0.2", shape), "ok: " + start + ",budget=0.2+snapkv");
}

}  // namespace
}  // namespace pith::test
