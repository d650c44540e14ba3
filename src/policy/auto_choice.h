// `auto`: a spec is chosen when the first prompt is there, by its length, from what a profile
// measured (policy/profile.h). This is the choice itself, a function without memory; who asks for
// it is the session (runtime/session.h), and what holds the choice to its promise while the prompt
// is compressed is the guard (policy/guard.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policy/options.h"
#include "policy/profile.h"

namespace pith {

struct Policy;

// What is asked for; 0 asks for nothing.
struct Wish {
  uint64_t memory = 0;  // bytes that the session may hold once its prompt is read
  double quality = 0;   // of the full cache's score
  double ttft = 0;      // seconds to the first token
  int tokens = 0;       // the session is to be chosen for so many, if that is more than the prompt
};

struct Choice {
  std::string spec;
  Wish wish;
  int tokens = 0;  // it was chosen for
  // What is to be expected: the score less its error, where nothing better is known 0; bytes mean
  // and most.
  double score = 0, bytes = 0, most_bytes = 0, first_seconds = 0, token_seconds = 0;
  std::vector<float> floors;          // [layers, heads + 1] for the guard
  std::vector<std::string> warnings;  // sentences: where less is known than was asked
};

// Of all specs that keep what is asked for, the one with the fewest bytes; if no quality is asked
// for, the one with the best score and of those the fewest bytes. Between measured lengths bytes
// and times are interpolated per token and a score is the lower one. Outside of them (an eighth is
// still inside) bytes and times are bounds, only half the loss is allowed, at every length, and the
// choice warns; a prompt shorter than all keeps everything if it may. quality=1 keeps everything.
// Throws bad_request with what would be nearest if nothing keeps what is asked.
Choice choose(const Profile& profile, const Wish& wish, int prompt_tokens);

// "3.25 MiB"
std::string bytes_words(double bytes);

// What a spec that begins with "auto" stands for until the first prompt is there.
struct Undecided {
  Wish wish;
  std::string file;
  Profile profile;
  KvShape shape;
  std::string model_digest;
};

// Reads the options of `auto`; the file is read too, unless they only describe themselves.
Undecided read_auto(Options& options, const KvShape& shape, std::string_view model_digest);
// The policy of a spec that was chosen, with its guard. Throws what choose and make_policy do.
std::shared_ptr<const Policy> decide(const Undecided& undecided, int prompt_tokens);

}  // namespace pith
