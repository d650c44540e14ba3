#include "eval/fit.h"

#include <algorithm>

#include "base/error.h"
#include "eval/prose.h"
#include "eval/words.h"

namespace pith {

int sample_tokens(const Sample& sample, const SampleRequest& request) {
  const TokenText& text = *request.tokens;
  int most = 0, behind = 0;
  for (size_t i = 0; i < sample.questions.size(); ++i) {
    const Question& question = sample.questions[i];
    if (!sample.turns || i == 0) {
      most = std::max(most, text.count(sample.prompt(i)));
    } else {
      // A further turn: the true answer of the one before, and this question behind it.
      const std::string& before = sample.questions[i - 1].answers[0];
      behind += text.count(before + question.text + question.prefix) + 1 + request.wrapper_tokens;
    }
  }
  return most + behind + sample.max_new_tokens + request.wrapper_tokens;
}

Sample fit_sample(const Task& task, const SampleRequest& request, int least, int most,
                  const std::function<Sample(int)>& make) {
  const int limit = request.max_tokens;
  Sample best = make(least);
  int fits = least, tokens = sample_tokens(best, request);
  if (tokens > limit)
    throw Error(Errc::bad_request, "the shortest sample of " + task.name() + " has " +
                                       std::to_string(tokens) + " tokens with its answer, and " +
                                       std::to_string(limit) + " were asked for; ask for more");
  int too_large = std::max(most, least) + 1;
  bool tried_larger = false;
  double rate = 0;  // tokens that one more adds, by the latest two that were tried
  // By interpolation, which takes a few steps; by halves where that does not get on.
  for (int step = 0; too_large - fits > 1; ++step) {
    int64_t next = int64_t{fits} * 2 + 1;
    if (tried_larger && step % 4 == 3) {
      next = fits + (too_large - fits) / 2;
    } else if (rate > 0) {
      next = fits + static_cast<int64_t>((limit - tokens) / rate);
    }
    next = std::clamp<int64_t>(next, fits + 1, too_large - 1);
    Sample sample = make(static_cast<int>(next));
    const int found = sample_tokens(sample, request);
    rate = static_cast<double>(found - tokens) / static_cast<double>(next - fits);
    if (found <= limit) {
      fits = static_cast<int>(next);
      tokens = found;
      best = std::move(sample);
    } else {
      too_large = static_cast<int>(next);
      tried_larger = true;
    }
  }
  return best;
}

std::string haystack_text(const SampleRequest& request, int words) {
  if (request.materials && !request.materials->haystack.empty()) return request.materials->haystack;
  return write_prose(sample_random("haystack", request.seed, 0).next(), words);
}

}  // namespace pith
