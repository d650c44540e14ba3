#include "kv/head_image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "kv/store.h"

namespace pith {

HeadImage HeadCache::image() const {
  HeadImage image;
  image.sealed_pages = sealed_;
  if (tiered()) image.tiers = tiers_.span().first(static_cast<size_t>(sealed_));
  image.positions = positions_.span();
  image.scores = scores_.span();
  image.summaries = summaries_.span();
  for (const PseudoRow& row : pseudo_) {
    image.owned_pseudo.push_back(row.weight);
    image.owned_pseudo.insert(image.owned_pseudo.end(), row.k.begin(), row.k.end());
    image.owned_pseudo.insert(image.owned_pseudo.end(), row.v.begin(), row.v.end());
  }
  image.pseudo = image.owned_pseudo;
  for (const auto& [side, pages] : {std::pair(&k_, &image.k), std::pair(&v_, &image.v)})
    for (int p = 0; p * page_rows_ < rows(); ++p)
      pages->emplace_back(side->data[static_cast<size_t>(p)],
                          page_bytes(*side, p, rows(), sealed_));
  return image;
}

// Bytes of page p that rows fill.
size_t HeadCache::page_bytes(const Side& side, int page, int rows, int sealed) const {
  if (page < sealed) return format(side, page).bytes;
  return open_->bytes(open_rows(rows, static_cast<size_t>(page)), dim_);
}

// Of `rows` in all, those that lie in page p.
int HeadCache::open_rows(int rows, size_t page) const {
  return std::min(page_rows_, rows - static_cast<int>(page) * page_rows_);
}

std::string HeadCache::why_not(const HeadImage& image, const PageSummary* summary) const {
  const size_t rows = image.positions.size();
  if (rows > static_cast<size_t>(INT32_MAX) / 2) return "has too many rows";
  const int count = static_cast<int>(rows);
  const size_t pages =
      (rows + static_cast<size_t>(page_rows_) - 1) / static_cast<size_t>(page_rows_);
  if (image.scores.size() > rows || (spec_->keeps_scores && image.scores.size() < rows))
    return "has not one score per row";
  if (image.sealed_pages < 0 || image.sealed_pages > count / page_rows_)
    return "has more sealed pages than rows";
  const size_t floats = summary ? static_cast<size_t>(summary->floats(dim_)) : 0;
  if (image.summaries.size() != floats * static_cast<size_t>(image.sealed_pages))
    return "has not one summary per page";
  std::vector<int32_t> positions(image.positions.begin(), image.positions.end());
  if (spec_->keeps_dropped || tiered()) std::ranges::sort(positions);  // rows come in any order
  for (size_t i = 0; i < rows; ++i)
    if (positions[i] < (i == 0 ? 0 : positions[i - 1] + 1))
      return "has positions that do not ascend";
  const size_t one = 1 + 2 * static_cast<size_t>(dim_);
  if (image.pseudo.size() % one != 0) return "has pseudo rows of another size";
  for (size_t i = 0; i < image.pseudo.size(); i += one)
    if (!(image.pseudo[i] > 0) || !std::isfinite(image.pseudo[i]))
      return "has a pseudo row without weight";
  for (const auto& [side, side_pages] : {std::pair(&k_, &image.k), std::pair(&v_, &image.v)}) {
    if (side_pages->size() != pages) return "has not a page for every row";
    for (size_t p = static_cast<size_t>(image.sealed_pages); p < pages; ++p)
      if ((*side_pages)[p].size() !=
          page_bytes(*side, static_cast<int>(p), count, image.sealed_pages))
        return "has a page of another size";
  }
  const auto sealed = static_cast<size_t>(image.sealed_pages);
  if (image.tiers.size() != (tiered() ? sealed : 0)) return "has not one tier per sealed page";
  for (size_t p = 0; p < sealed; ++p) {
    const size_t tier = tiered() ? image.tiers[p] : 0;
    if (tier >= formats_.size()) return "has a page of a tier that there is not";
    for (const auto& [side, page] : {std::pair(&k_, image.k[p]), std::pair(&v_, image.v[p])}) {
      const Format& format = side->formats[tier];
      if (page.size() != format.bytes) return "has a page of another size";
      if (format.kernels->sound && !format.kernels->sound(page.data(), page_rows_, side->dim))
        return "has a page whose outliers lie outside of it";
    }
  }
  return {};
}

size_t HeadCache::restore_bytes(const HeadImage& image) const {
  const size_t rows = image.positions.size(), pages = image.k.size();
  const CountedArray<float> none;
  const CountedArray<const std::byte*> no_table;
  const size_t pseudo = image.pseudo.size() / (1 + 2 * static_cast<size_t>(dim_));
  size_t bytes = 2 * none.growth(rows) + none.growth(image.summaries.size()) +
                 none.growth(image.summaries.size()) +  // groups of pages have fewer
                 4 * no_table.growth(pages) + 2 * no_table.growth(pages) + 2 * none.growth(rows) +
                 pseudo * pseudo_cost() + 2 * none.growth(pseudo * static_cast<size_t>(dim_)) +
                 none.growth(pseudo);
  if (tiered()) bytes += 2 * CountedArray<uint8_t>().growth(pages);
  for (const auto* side : {&image.k, &image.v})
    for (size_t p = 0; p < pages; ++p)
      bytes += PagePool::page_cost(static_cast<int>(p) < image.sealed_pages
                                       ? (*side)[p].size()
                                       : open_bytes(open_rows(static_cast<int>(rows), p)));
  return bytes;
}

void HeadCache::restore(const HeadImage& image, const PageSummary* summary) {
  PITH_CHECK(rows() == 0 && pseudo_.empty(), "a head is restored into an empty one");
  PITH_CHECK(why_not(image, summary).empty(), "an image is checked before it is restored");
  for (const auto& [side, pages] : {std::pair(&k_, &image.k), std::pair(&v_, &image.v)}) {
    side->pages.hold(pages->size());
    side->data.hold(pages->size());
    for (size_t p = 0; p < pages->size(); ++p) {
      const bool sealed = static_cast<int>(p) < image.sealed_pages;
      const int open = open_rows(static_cast<int>(image.positions.size()), p);
      Page* page = pool_->acquire(sealed ? (*pages)[p].size() : open_bytes(open), side->what);
      side->pages.push_back(page);
      side->data.push_back(page->data);
      std::memcpy(page->data, (*pages)[p].data(), (*pages)[p].size());
    }
  }
  tiers_.append(image.tiers);
  positions_.append(image.positions);
  scores_.append(image.scores);
  unscored_ = static_cast<int>(image.positions.size() - image.scores.size());
  sealed_ = image.sealed_pages;
  summary_ = summary;
  summary_floats_ = summary ? summary->floats(dim_) : 0;
  summaries_.append(image.summaries);
  join_groups();
  std::vector<PseudoRow> pseudo;
  const auto dim = static_cast<size_t>(dim_);
  for (size_t at = 0; at < image.pseudo.size(); at += 1 + 2 * dim) {
    const std::span<const float> k = image.pseudo.subspan(at + 1, dim);
    const std::span<const float> v = image.pseudo.subspan(at + 1 + dim, dim);
    pseudo.push_back({{k.begin(), k.end()}, {v.begin(), v.end()}, image.pseudo[at]});
  }
  set_pseudo(std::move(pseudo));
  hold_chosen();
}

}  // namespace pith
