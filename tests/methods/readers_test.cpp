// quest and hierarchy: which pages a query reads. Nothing is ever dropped.
#include <algorithm>
#include <cmath>
#include <set>

#include "base/random.h"
#include "gtest/gtest.h"
#include "policy/page_bounds.h"
#include "policy/registry.h"
#include "support/spec_sentences.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

constexpr int kDim = 16, kRows = 16;

struct Pages {
  std::vector<float> keys, summaries, groups;
  int count;
  ConstMat page(int p) const {
    return ConstMat::packed(keys.data() + static_cast<size_t>(p) * kRows * kDim, {kRows, kDim});
  }
};

Pages random_pages(const Reader& reader, int count, uint64_t seed) {
  Random random(seed);
  Pages pages{{}, {}, {}, count};
  for (int i = 0; i < count * kRows * kDim; ++i) pages.keys.push_back(random.normal());
  for (int p = 0; p < count; ++p)  // pages differ in where their keys point
    for (int r = 0; r < kRows; ++r)
      for (int d = 0; d < 4; ++d)
        pages.keys[static_cast<size_t>((p * kRows + r) * kDim + d)] += std::sin(0.7f * p + d) * 2;
  const size_t floats = static_cast<size_t>(reader.floats(kDim));
  pages.summaries.resize(floats * static_cast<size_t>(count));
  for (int p = 0; p < count; ++p)
    reader.summarise(pages.page(p), std::span(pages.summaries).subspan(p * floats, floats));
  if (const int each = reader.group_pages()) {
    const int groups = (count + each - 1) / each;
    pages.groups.resize(floats * static_cast<size_t>(groups));
    for (int g = 0; g < groups; ++g)
      reader.join(ConstMat::packed(pages.summaries.data() + static_cast<size_t>(g * each) * floats,
                                   {std::min(each, count - g * each), reader.floats(kDim)}),
                  std::span(pages.groups).subspan(g * floats, floats));
  }
  return pages;
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += double{a[d]} * double{b[d]};
  return sum;
}

// Quest's bound, written down: for each channel the better end.
double bound_of(std::span<const float> q, ConstMat page) {
  double sum = 0;
  for (int d = 0; d < kDim; ++d) {
    float low = page.row(0)[d], high = low;
    for (int r = 1; r < kRows; ++r) {
      low = std::min(low, page.row(r)[d]);
      high = std::max(high, page.row(r)[d]);
    }
    sum += std::max(double{q[d]} * low, double{q[d]} * high);
  }
  return sum;
}

std::vector<int32_t> chosen(const Reader& reader, const Pages& pages, ConstMat q, float scale) {
  const int floats = reader.floats(kDim);
  std::vector<int32_t> out;
  reader.choose(
      {.q = q,
       .summaries = ConstMat::packed(pages.summaries.data(), {pages.count, floats}),
       .groups = ConstMat::packed(pages.groups.data(),
                                  {static_cast<int64_t>(pages.groups.size()) / floats, floats}),
       .scale = scale},
      out);
  return out;
}

std::vector<int32_t> best_by_bound(const Pages& pages, ConstMat q, int count) {
  std::vector<std::pair<double, int32_t>> bounds;
  for (int p = 0; p < pages.count; ++p) {
    double most = -1e300;
    for (int64_t g = 0; g < q.dim[0]; ++g) most = std::max(most, bound_of(q.row(g), pages.page(p)));
    bounds.emplace_back(-most, p);
  }
  std::ranges::sort(bounds);
  std::vector<int32_t> best;
  for (int i = 0; i < std::min(count, pages.count); ++i)
    best.push_back(bounds[static_cast<size_t>(i)].second);
  std::ranges::sort(best);
  return best;
}

TEST(Readers, ChooseThePagesWithTheLargestBoundsOfAnyQueryOfTheGroup) {
  for (const char* spec : {"quest:pages=9", "hierarchy:pages=9"}) {
    const auto policy = make_policy(spec, toy_shape());
    for (const int count : {4, 8, 16, 17, 33, 100}) {
      const Pages pages = random_pages(*policy->reader, count, 7);
      Random random(11);
      for (int trial = 0; trial < 20; ++trial) {
        std::vector<float> q;
        for (int i = 0; i < 3 * kDim; ++i) q.push_back(random.normal());
        const ConstMat queries = ConstMat::packed(q.data(), {3, kDim});
        EXPECT_EQ(chosen(*policy->reader, pages, queries, 0.25f), best_by_bound(pages, queries, 8))
            << spec << " " << count;
      }
    }
  }
}

TEST(Readers, BoundsAreNeverBelowWhatAKeyOfThePageGives) {
  const auto policy = make_policy("hierarchy", toy_shape());
  const Pages pages = random_pages(*policy->reader, 40, 3);
  Random random(5);
  const int floats = policy->reader->floats(kDim);
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<float> q;
    for (int i = 0; i < kDim; ++i) q.push_back(random.normal());
    for (int p = 0; p < 40; ++p) {
      const std::span<const float> summary(pages.summaries.data() + p * floats,
                                           static_cast<size_t>(floats));
      const std::span<const float> group(pages.groups.data() + p / 16 * floats,
                                         static_cast<size_t>(floats));
      const float bound = upper_bound(q, summary);
      for (int r = 0; r < kRows; ++r) EXPECT_GE(bound, dot(q, pages.page(p).row(r)) - 1e-5);
      EXPECT_GE(upper_bound(q, group), bound) << "to the last bit: the search relies on it";
    }
  }
}

// Attention over pages whose bounds are tight: what is read must hold the share that was asked for.
TEST(Hierarchy, ReadsPagesUntilTheyHoldTheMass) {
  const auto policy = make_policy("hierarchy:mass=0.9", toy_shape());
  for (const double sharpness : {0.2, 1.0, 3.0}) {
    Pages pages = random_pages(*policy->reader, 64, 9);
    for (int p = 0; p < 64; ++p)  // all keys of a page alike: bounds are exact
      for (int r = 1; r < kRows; ++r)
        std::copy_n(&pages.keys[static_cast<size_t>(p * kRows) * kDim], kDim,
                    &pages.keys[static_cast<size_t>(p * kRows + r) * kDim]);
    const std::vector<float> keys = pages.keys;
    const size_t floats = static_cast<size_t>(policy->reader->floats(kDim));
    for (int p = 0; p < 64; ++p)
      policy->reader->summarise(pages.page(p),
                                std::span(pages.summaries).subspan(p * floats, floats));
    for (int g = 0; g < 4; ++g)
      policy->reader->join(
          ConstMat::packed(pages.summaries.data() + static_cast<size_t>(g) * 16 * floats,
                           {16, static_cast<int64_t>(floats)}),
          std::span(pages.groups).subspan(g * floats, floats));
    Random random(2);
    std::vector<float> q;
    for (int i = 0; i < kDim; ++i) q.push_back(random.normal() * static_cast<float>(sharpness));
    const auto read = chosen(*policy->reader, pages, ConstMat::packed(q.data(), {1, kDim}), 0.25f);
    std::vector<std::pair<double, int>> mass;
    double all = 0, held = 0;
    for (int p = 0; p < 64; ++p) {
      mass.emplace_back(-std::exp(0.25 * dot(q, pages.page(p).row(0))), p);
      all -= mass.back().first;
      if (std::ranges::binary_search(read, p)) held -= mass.back().first;
    }
    EXPECT_GE(held, 0.9 * all);
    std::ranges::sort(mass);
    size_t fewest = 0;
    for (double sum = 0; sum < 0.9 * all; ++fewest) sum -= mass[fewest].first;
    EXPECT_GE(read.size(), fewest);
    EXPECT_LE(read.size(), fewest + 16) << "groups not opened count with their bounds";
  }
}

// The share is one of the attention itself, however loose bounds are: it is checked against all
// rows of all pages. Bounds of groups lie hundreds of nats above those of their pages.
TEST(Hierarchy, HoldsTheMassOfTheAttentionForCertain) {
  const auto policy = make_policy("hierarchy:mass=0.9", toy_shape());
  Pages pages = random_pages(*policy->reader, 64, 21);
  Random random(4);
  for (const float sharpness : {0.01f, 0.3f, 1.0f, 10.0f, 300.0f})
    for (int trial = 0; trial < 10; ++trial) {
      std::vector<float> q;
      for (int i = 0; i < kDim; ++i) q.push_back(random.normal() * sharpness);
      const auto read = chosen(*policy->reader, pages, ConstMat::packed(q.data(), {1, kDim}), 1);
      double top = -1e300, all = 0, held = 0;
      for (int p = 0; p < 64; ++p)
        for (int r = 0; r < kRows; ++r) top = std::max(top, dot(q, pages.page(p).row(r)));
      for (int p = 0; p < 64; ++p)
        for (int r = 0; r < kRows; ++r) {
          const double share = std::exp(dot(q, pages.page(p).row(r)) - top);
          all += share;
          if (std::ranges::binary_search(read, p)) held += share;
        }
      EXPECT_GE(held, 0.9 * all) << sharpness;
      if (sharpness < 0.1f) {
        EXPECT_LT(read.size(), 63u) << "bounds are tight";
      }
    }
}

TEST(Hierarchy, ReadsEverythingForAMassOfOne) {
  const auto policy = make_policy("hierarchy:mass=1.0", toy_shape());
  const Pages pages = random_pages(*policy->reader, 40, 5);
  const std::vector<float> q(kDim, 50.0f);
  EXPECT_EQ(chosen(*policy->reader, pages, ConstMat::packed(q.data(), {1, kDim}), 1).size(), 40u);
}

TEST(Quest, ReadsThePageOfAPlantedKeyAndTheNewestRows) {
  for (const char* name : {"quest", "hierarchy"}) {
    ToyPrompt prompt(std::string(name) + ":pages=4,cache=f32"), full("full:page=16,cache=f32");
    for (ToyPrompt* p : {&prompt, &full}) {
      p->plant = [](int, Cube q, Cube k, Cube) {
        for (int h = 0; h < 2; ++h) k[h].row(200)[6] = 40;
        (void)q;
      };
      p->prefill(500);
    }
    // The planted key gets nearly all attention of queries with a positive channel 6.
    prompt.decode(20);
    full.decode(20);
    const std::vector<float> queries = prompt.last_queries(3);
    int tested = 0;
    for (int h = 0; h < 4; ++h) {
      if (queries[static_cast<size_t>(h) * 16 + 6] < 1) continue;
      ++tested;
      for (size_t d = 0; d < 16; ++d) {
        const size_t i = static_cast<size_t>((3 * 4 + h) * 16) + d;
        EXPECT_NEAR(prompt.outputs()[i], full.outputs()[i], 0.02) << name;
      }
    }
    EXPECT_EQ(prompt.heads(), full.heads()) << "nothing is dropped";
    (void)tested;
  }
}

TEST(Readers, ReadEverythingInTheDenseLayers) {
  for (const char* name : {"quest", "hierarchy"}) {
    ToyPrompt prompt(std::string(name) + ":pages=3"), full("full:page=16");
    for (ToyPrompt* p : {&prompt, &full}) {
      p->prefill(400);
      p->decode(3);
    }
    const auto layer = [](const ToyPrompt& p, int l) {
      return std::vector<float>(p.outputs().begin() + l * 64, p.outputs().begin() + (l + 1) * 64);
    };
    for (int l = 0; l < 2; ++l) EXPECT_EQ(layer(prompt, l), layer(full, l));
    for (int l = 2; l < 4; ++l) EXPECT_NE(layer(prompt, l), layer(full, l));
  }
}

// The tree in the store, after rows left, were generated and a fork went its own way, is the one
// that would be made anew.
TEST(Hierarchy, KeepsItsTreeWhileRowsComeAndGo) {
  ToyPrompt prompt("hierarchy:pages=5,dense_layers=0+h2o:budget=700,reduce_every=5");
  prompt.prefill(900);
  prompt.decode(60);
  const auto fork = prompt.fork();
  fork->decode(23);
  for (ToyPrompt* p : {&prompt, fork.get()})
    for (int l = 0; l < 4; ++l) {
      const HeadCache& cache = std::as_const(p->store()).at(l, 1);
      const ConstMat summaries = cache.summaries(), groups = cache.groups();
      ASSERT_EQ(groups.dim[0], (summaries.dim[0] + 15) / 16);
      ASSERT_GT(groups.dim[0], 2);
      for (int64_t g = 0; g < groups.dim[0]; ++g)
        for (int64_t d = 0; d < 16; ++d) {
          float low = 1e9f, high = -1e9f;
          for (int64_t s = g * 16; s < std::min(summaries.dim[0], (g + 1) * 16); ++s) {
            low = std::min(low, summaries.row(s)[static_cast<size_t>(d)]);
            high = std::max(high, summaries.row(s)[static_cast<size_t>(16 + d)]);
          }
          EXPECT_EQ(groups.row(g)[static_cast<size_t>(d)], low);
          EXPECT_EQ(groups.row(g)[static_cast<size_t>(16 + d)], high);
        }
    }
}

TEST(Readers, RefuseWhatContradictsItself) {
  EXPECT_EQ(answer("quest+hierarchy"), "both 'quest' and 'hierarchy' bring a reader");
  EXPECT_EQ(answer("hierarchy:pages=8,mass=0.9"),
            "hierarchy: give pages (a number) or mass (a share of the attention), not both");
  EXPECT_EQ(answer("quest:pages=2"), "quest: 'pages' must be at least 3");
}

}  // namespace
}  // namespace pith::test
