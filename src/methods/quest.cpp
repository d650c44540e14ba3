// Quest (arXiv:2406.10774): nothing is dropped; each query reads only the pages whose keys could
// score highest, by a bound from the smallest and largest key value of each channel.
// methods.md 9.12.
#include <algorithm>
#include <vector>

#include "policy/page_bounds.h"
#include "policy/registry.h"
#include "policy/select.h"

namespace pith {
namespace {

class BoundedPages final : public Reader {
 public:
  BoundedPages(int pages, int dense_layers) : pages_(pages), dense_layers_(dense_layers) {}
  bool reads_all(int layer) const override { return layer < dense_layers_; }
  int floats(int dim) const override { return 2 * dim; }
  void summarise(ConstMat k_page, std::span<float> summary) const override {
    bound_rows(k_page, summary);
  }

  // The rule of the CUDA path: the newest page, not full yet, is always read and is one of them.
  void choose(const PageChoice& job, std::vector<int32_t>& pages) const override {
    std::vector<float> bound(static_cast<size_t>(job.summaries.dim[0]));
    for (int64_t p = 0; p < job.summaries.dim[0]; ++p)
      bound[static_cast<size_t>(p)] = most_in_group(job.q, job.summaries.row(p));
    top_rows(bound, pages_ - 1, pages);
  }

 private:
  int pages_, dense_layers_;
};

const RegisterMethod quest{{
    .name = "quest",
    .summary = "let each query read only the pages that could matter most to it",
    .source = "arXiv:2406.10774",
    .family = "attention: sparse reading",
    .build =
        [](Options& o, const KvShape& /*shape*/, Policy& p) {
          const int pages = o.count("pages", 64, "pages a query reads, the newest among them", 3);
          const int dense = o.count("dense_layers", 2, "lowest layers that read everything");
          p.store.page_rows = o.count("page", 16, "rows of a page", kLeastPageRows, kMostPageRows);
          p.reader = std::make_unique<BoundedPages>(pages, dense);
        },
    .cost = "a token: two numbers per channel of each page, and the rows of `pages` pages; memory: "
            "two vectors in 32 bits per page and head, an eighth of K and V together at 16 rows "
            "and 16 bits",
    .departures =
        {"The rule is that of the CUDA code; the Python evaluation code ranks the newest page too.",
         "Query heads of a group share one set of pages, by the largest bound of any of them; the "
         "reference knows multi-head attention only.",
         "Bounds are kept in 32 bits and cover keys as they are stored."},
}};

}  // namespace
}  // namespace pith
