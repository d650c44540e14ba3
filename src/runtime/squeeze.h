// Frees cache memory at once by dropping the rows that matter least, over many sessions, layers and
// heads (KV-Compress, arXiv:2410.00161, section 3; methods.md 8.1): what a scheduler does before it
// makes anybody wait.
//
// A head gives memory back by whole pages, so its rows, sorted by relevance, are cut into blocks
// that free a page each; the price of a block is the relevance of its most relevant row, and the
// cheapest blocks of all heads go. Rows that stay close up, and fill their pages, so that rows in
// codes are still all in codes: this takes no memory before it frees some. Nor does it list rows,
// for all heads at once, to do so.
//
// Relevance is the score of sessions that keep a running one (their policy reduces while
// generating and scores rows that were generated too), and the size of the value over the size of
// the key for the others (PagedEviction, arXiv:2509.04377), which costs nothing until it is asked
// for. Each session's is divided by its mean, so that sessions can be compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/session.h"

namespace pith {

struct SqueezeRule {
  int sinks = 4, recent = 32;  // rows of each head that stay, or more if the policy says so
};

struct Squeezed {
  size_t bytes = 0;            // that the pool has more
  std::vector<int64_t> rows;   // that each session lost, over all heads
  std::vector<int64_t> pages;  // the same in pages, of keys and of values
};

// Tries to free `bytes` of the pool that the sessions share. Sessions in a prompt and those whose
// positions or order of rows mean something else (they repack, call tokens back, or store rows in
// tiers) are left alone, and so are rows in pages that forks share: without them from one session,
// the pages would be there for the other.
Squeezed squeeze(std::span<Session* const> sessions, size_t bytes, const SqueezeRule& rule = {});
// Tries to have so many bytes free, and some more for what comes next.
Squeezed squeeze_until_free(std::span<Session* const> sessions, size_t bytes,
                            const SqueezeRule& rule = {});

}  // namespace pith
