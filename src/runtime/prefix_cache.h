// What prompts that begin the same have in common, computed once and, where it can be, held once.
//
// The keys and values of a token depend on the tokens before it and on nothing else. The cache
// keeps those of the beginnings of prompts as the forward pass computed them; a session whose
// prompt begins the same starts behind them, and answers bit for bit as if it had computed them
// itself. A session that keeps every row of its prompt in order also shares the sealed pages of the
// beginning (coded ones too: kivi, zack) with all others of its spec, copy on write. What a session
// cannot take over exactly it does not take over; prefix_use() says what that is, and why.
//
// Where a method chooses rows, its choice depends on what follows, so no pages can be shared
// exactly. They can if a request says that the beginning of its prompt is a turn of its own, a
// document that questions follow: an opening. Methods that need no question choose the same rows of
// it for everybody, and keep the session that has read it; each request goes on from a fork.
// Prompts with an opening of other methods are read as one turn, so that the choice sees the
// question.
//
// Entries are counted in the pool like everything else, and nobody waits for them: they are made
// from memory that is free, and are the first thing to go when there is too little (`release`).
//
//   session = ( begin, tiles of the prompt, end )?       between feed and the first token
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kv/store.h"
#include "policy/policy.h"
#include "tensor/view.h"

namespace pith {

struct Session;

enum class Reuse { nothing, work, pages };

struct PrefixUse {
  Reuse what = Reuse::nothing;
  std::string why;   // a sentence for people: what is shared, and why not more
  int computed = 1;  // last tokens of a prompt that are computed in any case
  // Whether rows of an opening are chosen without what follows it.
  bool opens = false;
};
PrefixUse prefix_use(const Policy& policy, const KvShape& shape);

// Tokens that both begin with.
int common_beginning(std::span<const int32_t> a, std::span<const int32_t> b);

// The beginning of some prompts.
class Prefix {
 public:
  Prefix(const KvShape& shape, PagePool& pool);
  // One that goes on behind the first `rows` tokens of another and shares its memory. The caller
  // has asked for begins.bytes_to_extend().
  Prefix(const Prefix& begins, int rows);

  int tokens() const { return static_cast<int>(tokens_.size()); }
  size_t bytes_to_extend() const { return rows_->bytes_for_fork(); }
  // Keys and values of the first `rows` tokens in a layer, into [heads, any, dim].
  void copy_rows(int layer, int rows, Cube k, Cube v, const Threads& threads) const;
  // Adds the rows of a layer up to `until`, which its session has there. False if that would leave
  // less than `spare` bytes free in the pool; then nothing was added.
  bool add_layer(int layer, ConstCube k, ConstCube v, std::span<const int32_t> positions, int until,
                 size_t spare);

 private:
  friend class PrefixCache;
  // The sealed pages of the sessions of a policy.
  struct Pages {
    std::shared_ptr<const Policy> policy;  // outlives the store
    std::unique_ptr<KvStore> store;
  };
  PagePool& pool_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<KvStore> rows_;                              // f32, open
  std::map<std::string, std::shared_ptr<const Pages>> pages_;  // by Policy::identity
  int64_t last_use_ = 0;
};

// What a session's prompt in flight takes from others, and leaves to them.
struct PromptReuse {
  std::shared_ptr<const Prefix> known = nullptr;   // null: nothing
  int rows = 0;                                    // of `known` that are not computed again
  std::shared_ptr<const KvStore> pages = nullptr;  // of `known`, to be shared
  int page_rows = 0;                               // rows of `pages` that are
  std::shared_ptr<Prefix> record = nullptr;  // grows by the layers that were computed; or null
  int until = 0;                             // tokens of it
  int remember = INT32_MAX;  // most tokens that are worth recording; set by the owner
  bool alone = false;        // takes nothing and leaves nothing

  void forget() { *this = {.remember = remember, .alone = alone}; }  // the prompt is over
};

class PrefixCache {
 public:
  struct Stats {
    int64_t prompts = 0, helped = 0;  // that were read, and that found a beginning
    int64_t tokens = 0;               // not computed again
    int64_t rows_shared = 0;          // of sealed pages, over all heads
    int64_t openings = 0;             // that were taken over whole
    int64_t dropped = 0;              // entries, for want of memory
  };
  // Fewer tokens than this are not worth an entry, nor taking from one.
  static constexpr int kLeastTokens = 32;

  PrefixCache(const KvShape& shape, PagePool& pool);  // the pool outlives it
  ~PrefixCache();

  // Looks up what the prompt that was fed may take over, and begins to record what it has more.
  // Nothing is in the session's cache yet. Sessions with earlier turns or an observer are left
  // alone.
  void begin(Session& session);
  void end(Session& session);

  // A session of the policy that has read these tokens as its only turn; null if there is none, or
  // no memory for it. Its sampler is the other one's.
  std::unique_ptr<Session> fork_opening(const Policy& policy, std::span<const int32_t> tokens);
  // Keeps a fork of a session that has read an opening and nothing else, if there is memory.
  void keep_opening(const Session& session);

  // Drops entries that no prompt in flight uses, the one longest unused first, until so many bytes
  // are free. False if there was none.
  bool release(size_t bytes);
  void clear();  // drops all of these

  int entries() const { return static_cast<int>(entries_.size() + openings_.size()); }
  size_t bytes() const;  // as KvStore::bytes, over all entries
  const Stats& stats() const { return stats_; }

 private:
  struct Match {
    std::shared_ptr<Prefix> prefix;
    int rows = 0;  // that begin the same
  };
  Match longest(std::span<const int32_t> prompt) const;
  void keep_pages(Prefix& prefix, const Session& session) const;
  struct Opening {
    std::unique_ptr<Session> session;
    int64_t last_use = 0;
  };

  const KvShape shape_;
  PagePool& pool_;
  std::vector<std::shared_ptr<Prefix>> entries_;
  std::vector<Opening> openings_;
  int64_t uses_ = 0;
  Stats stats_;
};

}  // namespace pith
