// hierarchy: Quest's page bounds (arXiv:2406.10774) with a second level over groups of 16 pages, in
// the manner of InfiniteHiP's staged scan (arXiv:2502.08910); methods.md 8.4. Pages are found best
// first: a group is opened only while its bound is above what has been found, so most of the index
// is never read, and the result is what scanning all of it would have given.
//
//   top-k   the `pages` best by upper bound
//   top-p   pages in descending order until they are sure to hold `mass` of the attention. A page
//           read has at least rows * exp(mean logit), by Jensen's inequality, a page or a group
//           that is left at most rows * exp(bound). For this a page's mean key is kept as well.
#include <algorithm>
#include <cmath>
#include <vector>

#include "policy/page_bounds.h"
#include "policy/registry.h"

namespace pith {
namespace {

constexpr int kGroup = 16;  // pages

struct Node {
  float bound;
  int32_t page;   // or the first page of a group
  int32_t pages;  // 1, or how many a group has
  bool group;
  // The top of the heap: the best bound, groups before pages and lower before higher at a tie.
  bool operator<(const Node& other) const {
    if (bound != other.bound) return bound < other.bound;
    if (group != other.group) return other.group;
    return page > other.page;
  }
};

// What was read, at least, and what is left, at most; in units of the bound of the first page
// found, which nothing that is left exceeds. Before there is one, bounds of groups may lie so far
// above those of their pages that a sum with them would lose all the rest.
struct ReadShare {
  double wanted = 0, scale = 1;
  bool begun = false;
  double top = 0, read = 0, left = 0;

  double most(const Node& node) const {
    return node.pages * std::exp(scale * (double{node.bound} - top));
  }
  double most(std::span<const Node> nodes) const {
    double sum = 0;
    for (const Node& node : nodes) sum += most(node);
    return sum;
  }
  void begins(const Node& first, std::span<const Node> rest) {
    if (wanted == 0) return;
    begun = true;
    top = first.bound;
    left = most(rest);
  }
  void joins(const Node& node) {
    if (begun) left += most(node);
  }
  void leaves(const Node& node) {
    if (begun) left = std::max(0.0, left - most(node));
  }
  void reads(double mean_logit) { read += std::exp(scale * (mean_logit - top)); }
  bool is_held(std::span<const Node> rest) {
    if (read == 0 || wanted >= 1 || read < wanted * (read + left)) return false;
    left = most(rest);  // anew: differences of large numbers may have left anything
    return read >= wanted * (read + left);
  }
};

class BestFirst final : public Reader {
 public:
  struct Settings {
    int pages = 64, dense_layers = 2;
    double mass = 0;
  };
  explicit BestFirst(const Settings& settings) : s_(settings) {}
  bool reads_all(int layer) const override { return layer < s_.dense_layers; }
  int floats(int dim) const override { return vectors() * dim; }
  void summarise(ConstMat k_page, std::span<float> summary) const override {
    bound_rows(k_page, summary);
    if (s_.mass == 0) return;
    const std::span<float> mean = summary.last(static_cast<size_t>(k_page.dim[1]));
    std::ranges::fill(mean, 0.0f);
    for (int64_t r = 0; r < k_page.dim[0]; ++r)
      for (size_t d = 0; d < mean.size(); ++d) mean[d] += k_page.row(r)[d];
    for (float& x : mean) x /= static_cast<float>(k_page.dim[0]);
  }
  int group_pages() const override { return kGroup; }
  void join(ConstMat summaries, std::span<float> group) const override {
    const size_t dim = group.size() / static_cast<size_t>(vectors());
    bound_bounds(summaries, group.first(2 * dim));
    std::ranges::fill(group.subspan(2 * dim), 0.0f);
  }

  void choose(const PageChoice& job, std::vector<int32_t>& pages) const override {
    if (s_.mass == 0) {
      search(job, job.q, pages);
    } else {  // what one query head needs, another may not
      for (int64_t g = 0; g < job.q.dim[0]; ++g)
        search(job, {job.q.data + g * job.q.stride[0], {1, job.q.dim[1]}, job.q.stride}, pages);
    }
    std::ranges::sort(pages);
    pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
  }

 private:
  int vectors() const { return s_.mass > 0 ? 3 : 2; }

  void search(const PageChoice& job, ConstMat q, std::vector<int32_t>& pages) const {
    const int32_t all = static_cast<int32_t>(job.summaries.dim[0]);
    std::vector<Node> heap;  // what was not read yet
    for (int32_t g = 0; g * kGroup < all; ++g)
      heap.push_back({most_in_group(q, job.groups.row(g)), g * kGroup,
                      std::min(kGroup, all - g * kGroup), true});
    std::make_heap(heap.begin(), heap.end());
    ReadShare mass{.wanted = s_.mass, .scale = job.scale};
    for (int found = 0; !heap.empty();) {
      if (s_.mass == 0 && found == s_.pages - 1) return;
      if (s_.mass > 0 && mass.is_held(heap)) return;
      std::pop_heap(heap.begin(), heap.end());
      const Node node = heap.back();
      heap.pop_back();
      mass.leaves(node);
      if (!node.group) {
        pages.push_back(node.page);
        if (++found == 1) mass.begins(node, heap);
        if (s_.mass > 0) mass.reads(mean_logit(q.row(0), job.summaries.row(node.page)));
        continue;
      }
      for (int32_t p = node.page; p < node.page + node.pages; ++p) {
        const Node page{most_in_group(q, job.summaries.row(p)), p, 1, false};
        mass.joins(page);
        heap.push_back(page);
        std::push_heap(heap.begin(), heap.end());
      }
    }
  }

  static double mean_logit(std::span<const float> q, std::span<const float> summary) {
    const std::span<const float> mean = summary.last(q.size());
    double sum = 0;
    for (size_t d = 0; d < q.size(); ++d) sum += double{q[d]} * double{mean[d]};
    return sum;
  }

  Settings s_;
};

const RegisterMethod hierarchy{{
    .name = "hierarchy",
    .summary = "find the pages a query needs through a tree of bounds",
    .source = "after arXiv:2406.10774 (Quest) and arXiv:2502.08910 (InfiniteHiP)",
    .family = "attention: sparse reading",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          BestFirst::Settings s;
          s.pages = o.count("pages", 64, "pages a query reads, the newest among them", 3);
          s.mass = o.ratio("mass", 0,
                           "read until this share of the attention is sure to be held; 0: a fixed "
                           "number of pages");
          if (s.mass > 0 && o.given("pages"))
            o.fail("give pages (a number) or mass (a share of the attention), not both");
          s.dense_layers = o.count("dense_layers", 2, "lowest layers that read everything");
          p.store.page_rows = o.count("page", 16, "rows of a page", kLeastPageRows, kMostPageRows);
          p.reader = std::make_unique<BestFirst>(s);
        },
    .cost = "a token: two numbers per channel of each group of 16 pages and of the pages of groups "
            "that are opened, and the rows of the pages read; memory: as quest, and a sixteenth "
            "more; with `mass` half as much again",
    .departures =
        {"Not a published method: InfiniteHiP compares with one key in the middle of a chunk, "
         "which is no bound; here nothing above what was read is missed.",
         "Query heads of a group share one set of pages: by the largest bound of any of them, or "
         "with `mass` what each of them needs.",
         "`mass` holds for certain: bounds from above of what is left against bounds from below "
         "of what is read. Where keys of a page differ much it reads nearly everything.",
         "The tree serves generated tokens. Prompts read everything unless a tile reader says "
         "otherwise."},
}};

}  // namespace
}  // namespace pith
