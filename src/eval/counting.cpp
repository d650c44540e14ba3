// RULER's common words and frequent words: the whole context counts, not a place in it.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "base/error.h"
#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

std::string numbered(std::span<const std::string> words) {
  std::string out;
  for (size_t i = 0; i < words.size(); ++i)
    out += (i > 0 ? " " : "") + std::to_string(i + 1) + ". " + words[i];
  return out;
}

class CommonWordsTask final : public Task {
 public:
  CommonWordsTask() : Task("cwe", "ruler", "the ten words that appear most often in a list") {}

  Sample make(const SampleRequest& request) const override {
    // The short form where the long one does not fit, too.
    const bool small =
        request.max_tokens < 4096 ||
        sample_tokens(sized(request, kCommon + 1, false), request) > request.max_tokens;
    return fit_sample(*this, request, kCommon + 1, largest_vocabulary(),
                      [&](int words) { return sized(request, words, small); });
  }

 private:
  static constexpr int kCommon = 10;
  static constexpr const char* kQuestion =
      "\nQuestion: What are the 10 most common words in the above list?";
  static constexpr const char* kPrefix =
      " Answer: The top 10 words that appear most often in the list are:";

  Sample sized(const SampleRequest& request, int words, bool small) const {
    Random random = sample_random(name(), request.seed, request.index);
    const Block shown = small ? block(random, 20, 3, 1) : block(random, 40, 10, 3);
    const Block asked = small ? block(random, words, 6, 1) : block(random, words, 30, 3);
    Sample sample;
    sample.shown_question = context_text(shown) + kQuestion;
    sample.shown_answer = std::string(kPrefix) + " " + numbered(shown.common) + "\n";
    sample.context = context_text(asked);
    sample.questions.push_back({kQuestion, kPrefix, asked.common, {}});
    sample.max_new_tokens = 120;
    return sample;
  }

  struct Block {
    std::vector<std::string> common;
    std::string list;
  };

  static Block block(Random& random, int words, int often, int seldom) {
    const std::vector<std::string> drawn = distinct_words(random, words);
    Block out;
    std::vector<std::string> all;
    for (int i = 0; i < words; ++i) {
      const std::string& word = drawn[static_cast<size_t>(i)];
      if (i < kCommon) out.common.push_back(word);
      all.insert(all.end(), static_cast<size_t>(i < kCommon ? often : seldom), word);
    }
    shuffle(all, random);
    out.list = numbered(all);
    return out;
  }
  static std::string context_text(const Block& block) {
    return "Below is a numbered list of words. In these words, some appear more often than others. "
           "Memorize the ones that appear most often.\n" +
           block.list;
  }
};

class FrequentWordsTask final : public Task {
 public:
  FrequentWordsTask() : Task("fwe", "ruler", "the three most frequent words of a coded text") {}

  Sample make(const SampleRequest& request) const override {
    const int room = request.max_tokens - kAnswerTokens;
    const int vocabulary = std::max(room / kAnswerTokens, 6);
    // From 42 words on, rank 4 is at least one more than rank 5 (1.6 and 1.02).
    constexpr int kLeast = 100;
    const int step = std::max(request.max_tokens / 32, 1);
    return fit_sample(*this, request, 0, request.max_tokens / step + 1, [&](int steps) {
      Random random = sample_random(name(), request.seed, request.index);
      std::set<std::string> distinct;
      while (static_cast<int>(distinct.size()) < vocabulary)
        distinct.insert(letters(random, 'a', 6));
      std::vector<std::string> ranked(distinct.begin(), distinct.end());
      shuffle(ranked, random);
      ranked[0] = "...";
      const int words = kLeast + steps * step;
      std::vector<std::string> text;
      for (int k = 1; k <= vocabulary; ++k) {
        const double share = 6 / (std::numbers::pi * std::numbers::pi) / (double{1} * k * k);
        text.insert(text.end(), static_cast<size_t>(words * share),
                    ranked[static_cast<size_t>(k) - 1]);
      }
      shuffle(text, random);
      Sample sample;
      sample.context =
          "Read the following coded text and track the frequency of each coded word. Find the "
          "three most frequently appeared coded words. " +
          joined(text, " ");
      sample.questions.push_back(
          {"\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are "
           "the three most frequently appeared words in the above coded text?",
           " Answer: According to the coded text above, the three most frequently appeared words "
           "are:",
           {ranked[1], ranked[2], ranked[3]},
           {}});
      sample.max_new_tokens = kAnswerTokens;
      return sample;
    });
  }

 private:
  static constexpr int kAnswerTokens = 50;
};

}  // namespace

void add_counting(TaskList& tasks) {
  tasks.push_back(std::make_unique<CommonWordsTask>());
  tasks.push_back(std::make_unique<FrequentWordsTask>());
}

}  // namespace pith
