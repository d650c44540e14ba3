#include "runtime/prefix_cache.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/parallel.h"
#include "runtime/session.h"

namespace pith {
namespace {

// How an entry holds rows: exactly.
const StoreSpec kExact = {.k = Quant::f32, .v = Quant::f32, .open = Quant::f32};

}  // namespace

PrefixUse prefix_use(const Policy& policy, const KvShape& shape) {
  const Demand demand = policy.demand();
  const std::string name = "'" + policy.spec + "' ";
  const auto nothing = [&](const char* why) {
    return PrefixUse{Reuse::nothing, name + why + ", so every prompt is read from its first token"};
  };
  if (policy.adapter)
    return {Reuse::nothing,
            name +
                "reads a text with its adapter, so only a text that is given as the opening of "
                "several prompts is read once",
            1, /*opens=*/true};
  if (policy.router)
    return nothing("decides by the whole prompt which tokens reach the upper layers");
  if (policy.tile_reader) return nothing("decides by the whole prompt what is read of it");
  if (demand.prompt_mass != Mass::none)
    return nothing("adds up the attention of all tokens of a prompt");
  if (demand.hidden || demand.layer_queries)
    return nothing("looks at more of a token than its key and value");
  const int computed = std::max(1, demand.window_queries);
  if (policy.keeps_all() && shape.windows.empty())
    return {Reuse::pages,
            name +
                "keeps every row, so prompts that begin the same share the work and the pages "
                "of what they have in common",
            computed};
  const bool opens = demand.window_queries == 0 && !policy.keeps_all();
  return {Reuse::work,
          name +
              (policy.keeps_all() ? "keeps less of the layers that have a sliding window"
                                  : "chooses among the rows of the whole prompt") +
              ", so prompts that begin the same share the work of what they have in common, and "
              "each holds rows of its own",
          computed, opens};
}

Prefix::Prefix(const KvShape& shape, PagePool& pool)
    : pool_(pool), rows_(std::make_unique<KvStore>(shape, kExact, pool)) {}

Prefix::Prefix(const Prefix& begins, int rows)
    : pool_(begins.pool_),
      tokens_(begins.tokens_.begin(), begins.tokens_.begin() + rows),
      rows_(begins.rows_->fork_first(rows)) {}

void Prefix::copy_rows(int layer, int rows, Cube k, Cube v, const Threads& threads) const {
  threads.for_each(k.dim[0], [&](int64_t h, int) {
    const HeadCache& head = std::as_const(*rows_).at(layer, static_cast<int>(h));
    head.copy_keys(0, rows, k[h].data);
    head.copy_values(0, rows, v[h].data);
  });
}

bool Prefix::add_layer(int layer, ConstCube k, ConstCube v, std::span<const int32_t> positions,
                       int until, size_t spare) {
  const int have = rows_->at(layer, 0).rows();
  PITH_CHECK(until <= static_cast<int>(positions.size()), "rows that are there are remembered");
  if (have >= until) return true;
  const size_t needed = rows_->bytes_for_layer(until - have);
  if (needed > pool_.free_bytes() || spare > pool_.free_bytes() - needed) return false;
  HeadPlan plan;
  plan.keep.resize(static_cast<size_t>(until - have));
  std::iota(plan.keep.begin(), plan.keep.end(), have);
  for (int h = 0; h < static_cast<int>(k.dim[0]); ++h)
    rows_->at(layer, h).write(k[h], v[h], positions, {}, plan);
  return true;
}

PrefixCache::PrefixCache(const KvShape& shape, PagePool& pool) : shape_(shape), pool_(pool) {}
PrefixCache::~PrefixCache() = default;

std::unique_ptr<Session> PrefixCache::fork_opening(const Policy& policy,
                                                   std::span<const int32_t> tokens) {
  for (Opening& opening : openings_) {
    const Session& kept = *opening.session;
    if (kept.policy->identity() != policy.identity() || !std::ranges::equal(kept.tokens, tokens))
      continue;
    opening.last_use = ++uses_;
    if (kept.store->bytes_for_fork() > pool_.free_bytes()) return nullptr;
    ++stats_.openings;
    return kept.fork();
  }
  return nullptr;
}

void PrefixCache::keep_opening(const Session& session) {
  for (const Opening& opening : openings_)
    if (opening.session->policy->identity() == session.policy->identity() &&
        opening.session->tokens == session.tokens)
      return;
  if (session.store->bytes_for_fork() <= pool_.free_bytes())
    openings_.push_back({session.fork(), ++uses_});
}

int common_beginning(std::span<const int32_t> a, std::span<const int32_t> b) {
  return static_cast<int>(std::ranges::mismatch(a, b).in1 - a.begin());
}

PrefixCache::Match PrefixCache::longest(std::span<const int32_t> prompt) const {
  Match best;
  for (const auto& entry : entries_) {
    const int rows = common_beginning(entry->tokens_, prompt);
    if (rows > best.rows ||
        (rows == best.rows && best.prefix && entry->last_use_ > best.prefix->last_use_))
      best = {entry, rows};
  }
  return best;
}

void PrefixCache::begin(Session& session) {
  PromptReuse& reuse = session.reuse;
  reuse.forget();
  const TokenStream& stream = session.stream;
  const int tokens = stream.prompt_tokens;
  if (reuse.alone || session.observer || stream.made_up || stream.each_logits ||
      static_cast<int>(session.tokens.size()) != tokens)
    return;
  const PrefixUse use = prefix_use(*session.policy, shape_);
  if (use.what == Reuse::nothing) return;

  const Match match = longest(session.tokens);
  const int rows = std::min(match.rows, tokens - use.computed);
  if (rows >= kLeastTokens) {
    reuse.known = match.prefix;
    reuse.rows = rows;
    match.prefix->last_use_ = ++uses_;
    const auto pages = match.prefix->pages_.find(session.policy->identity());
    if (use.what == Reuse::pages && pages != match.prefix->pages_.end()) {
      // Rows of the tail stay open, as they would be without the others.
      const StoreSpec& store = session.policy->store;
      reuse.page_rows =
          std::max(
              0, std::min({rows, pages->second->store->sealed_rows(), tokens - store.tail_rows})) /
          store.page_rows * store.page_rows;
      if (reuse.page_rows > 0) reuse.pages = {pages->second, pages->second->store.get()};
    }
  }
  const int until = std::min(tokens, reuse.remember);
  if (until < kLeastTokens || until <= match.rows) return;
  if (reuse.known) {
    if (reuse.known->bytes_to_extend() > pool_.free_bytes()) return;
    reuse.record = std::make_shared<Prefix>(*reuse.known, reuse.rows);
  } else {
    reuse.record = std::make_shared<Prefix>(shape_, pool_);
  }
  reuse.until = until;
}

void PrefixCache::end(Session& session) {
  PromptReuse& reuse = session.reuse;
  ++stats_.prompts;
  if (reuse.rows > 0) {
    ++stats_.helped;
    stats_.tokens += reuse.rows;
    stats_.rows_shared += int64_t{reuse.page_rows} * shape_.layers * shape_.heads;
    session.reused_tokens += reuse.rows;
  }
  std::shared_ptr<Prefix> entry;
  if (reuse.record) {
    entry = std::move(reuse.record);
    entry->tokens_.assign(session.tokens.begin(), session.tokens.begin() + reuse.until);
    entry->last_use_ = ++uses_;
    std::erase_if(entries_, [&](const auto& other) {  // what the new one begins with
      return other->tokens() <= entry->tokens() &&
             std::equal(other->tokens_.begin(), other->tokens_.end(), entry->tokens_.begin());
    });
    entries_.push_back(entry);
  } else if (reuse.known) {
    for (const auto& other : entries_)
      if (other == reuse.known) entry = other;
  }
  reuse.forget();
  if (entry && prefix_use(*session.policy, shape_).what == Reuse::pages)
    keep_pages(*entry, session);
}

// Sealed pages of a session whose prompt begins with the entry or like it.
void PrefixCache::keep_pages(Prefix& prefix, const Session& session) const {
  const int each = session.policy->store.page_rows;
  const int rows =
      std::min(common_beginning(prefix.tokens_, session.tokens), session.store->sealed_rows()) /
      each * each;
  const auto had = prefix.pages_.find(session.policy->identity());
  if (had != prefix.pages_.end() && had->second->store->sealed_rows() >= rows) return;
  if (rows == 0 || session.store->bytes_for_fork() > pool_.free_bytes()) return;
  prefix.pages_[session.policy->identity()] = std::make_shared<const Prefix::Pages>(
      Prefix::Pages{session.policy, session.store->fork_first(rows)});
}

bool PrefixCache::release(size_t bytes) {
  bool dropped = false;
  while (bytes > pool_.free_bytes()) {
    auto entry = entries_.end();
    for (auto at = entries_.begin(); at != entries_.end(); ++at)
      if (at->use_count() == 1 &&
          (entry == entries_.end() || (*at)->last_use_ < (*entry)->last_use_))
        entry = at;
    const auto opening = std::ranges::min_element(openings_, {}, &Opening::last_use);
    if (opening != openings_.end() &&
        (entry == entries_.end() || opening->last_use < (*entry)->last_use_))
      openings_.erase(opening);
    else if (entry != entries_.end())
      entries_.erase(entry);
    else
      break;
    ++stats_.dropped;
    dropped = true;
  }
  return dropped;
}

void PrefixCache::clear() {
  std::erase_if(entries_, [](const auto& entry) { return entry.use_count() == 1; });
  openings_.clear();
}

size_t PrefixCache::bytes() const {
  size_t bytes = 0;
  for (const auto& entry : entries_) {
    bytes += entry->rows_->bytes().total();
    for (const auto& [identity, pages] : entry->pages_) bytes += pages->store->bytes().total();
  }
  for (const Opening& opening : openings_) bytes += opening.session->store->bytes().total();
  return bytes;
}

}  // namespace pith
