#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/random.h"
#include "convert/recall_vocabulary.h"
#include "convert/synthesize.h"

namespace pith {
namespace {

constexpr int kNeedleTokens = 3;  // key, value, full stop

// `count` different numbers below `limit`, in random order.
std::vector<int> draw(Random& random, int count, int limit) {
  std::vector<int> all(static_cast<size_t>(limit));
  for (int i = 0; i < limit; ++i) all[static_cast<size_t>(i)] = i;
  for (int i = 0; i < count; ++i) {
    const auto left = static_cast<uint64_t>(limit - i);
    std::swap(all[static_cast<size_t>(i)],
              all[static_cast<size_t>(i) + static_cast<size_t>(random.below(left))]);
  }
  all.resize(static_cast<size_t>(count));
  return all;
}

}  // namespace

RecallPrompt make_recall_prompt(int tokens, int needles, uint64_t seed) {
  const auto fail = [](const std::string& why) { throw Error(Errc::bad_option, why); };
  if (needles < 1 || needles > RecallWords::kNameCount)
    fail("needles must be between 1 and " + std::to_string(RecallWords::kNameCount) + ", not " +
         std::to_string(needles) + ": the recall model has one name for each");
  // "<s>", the needles, and the list of keys after a full stop.
  const int least = 2 + needles * (kNeedleTokens + 1);
  if (tokens < least)
    fail("a prompt of " + std::to_string(tokens) + " tokens has no room for " +
         std::to_string(needles) + " needles, which need at least " + std::to_string(least));

  Random random(seed);
  RecallPrompt prompt;
  const std::vector<int> names = draw(random, needles, RecallWords::kNameCount);
  const std::vector<int> values = draw(random, needles, RecallWords::kValueCount);
  // The haystack is [1, end); part i of it begins at 1 + i * length / needles.
  const int end = tokens - needles - 1, length = end - 1;
  const auto part = [&](int i) {
    return 1 + static_cast<int>(static_cast<int64_t>(length) * i / needles);
  };
  for (int i = 0; i < needles; ++i) {
    const int room = part(i + 1) - part(i) - kNeedleTokens;
    const int start = part(i) + static_cast<int>(random.below(static_cast<uint64_t>(room) + 1));
    prompt.needles.push_back({.key = RecallWords::kNames + names[static_cast<size_t>(i)],
                              .value = RecallWords::kValues + values[static_cast<size_t>(i)],
                              .position = start + 1});
  }

  prompt.tokens.push_back(RecallWords::kBegin);
  size_t next = 0;        // needle
  int sentence_left = 5;  // words
  while (prompt.tokens.size() < static_cast<size_t>(end)) {
    const int at = static_cast<int>(prompt.tokens.size());
    const int needle_at = next < prompt.needles.size() ? prompt.needles[next].position - 1 : end;
    if (at == needle_at) {
      const RecallNeedle& needle = prompt.needles[next++];
      prompt.tokens.insert(prompt.tokens.end(), {needle.key, needle.value, RecallWords::kFullStop});
      sentence_left = 5;
    } else if (sentence_left == 0 || at + 1 == needle_at) {
      prompt.tokens.push_back(RecallWords::kFullStop);
      sentence_left = 6 + static_cast<int>(random.below(9));
    } else {
      const auto word = random.below(static_cast<uint64_t>(RecallWords::kFillerCount));
      prompt.tokens.push_back(RecallWords::kFillers + static_cast<int32_t>(word));
      --sentence_left;
    }
  }
  prompt.tokens.push_back(RecallWords::kFullStop);
  const std::vector<int> order = draw(random, needles, needles);
  std::vector<RecallNeedle> listed;
  listed.reserve(order.size());
  for (const int i : order) listed.push_back(prompt.needles[static_cast<size_t>(i)]);
  for (const RecallNeedle& needle : listed) prompt.tokens.push_back(needle.key);
  prompt.needles = std::move(listed);
  return prompt;
}

}  // namespace pith
