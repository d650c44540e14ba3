// Pairs of words in nonsense: "Luni toru." somewhere, and a list of names at the end. The word that
// followed the last of them is the answer; then the other names are asked one by one, turn by turn,
// of what the cache has kept of the prompt with their list. There is nothing to know and nothing to
// understand, so any model that repeats what it has seen can be measured, the constructed recall
// model (docs/recall_model.md) among them. Words are one token each where the tokenizer has such.
#include <algorithm>
#include <unordered_set>

#include "eval/fit.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

// Two syllables, as in "toru".
std::string nonsense(Random& random) {
  constexpr std::string_view kConsonants = "bdfghjklmnprstvz", kVowels = "aeiou";
  std::string word;
  for (int i = 0; i < 2; ++i) {
    word += kConsonants[random.below(kConsonants.size())];
    word += kVowels[random.below(kVowels.size())];
  }
  return word;
}

// Draws words of as few tokens as the tokenizer needs, each once.
class Drawer {
 public:
  Drawer(Random& random, const TokenText& tokens) : random_(random), tokens_(tokens) {}

  std::vector<std::string> draw(int count, bool names) {
    constexpr int kTries = 30;
    std::vector<std::string> words;
    while (static_cast<int>(words.size()) < count) {
      std::string best;
      int fewest = 0;
      for (int i = 0; i < kTries && fewest != 1; ++i) {
        std::string word = nonsense(random_);
        if (used_.contains(word)) continue;
        if (names) word[0] = static_cast<char>(word[0] - 'a' + 'A');
        // Tokenizers that begin a text with a blank count it with the word.
        const int found = std::min(tokens_.count(word), tokens_.count(" " + word));
        if (fewest == 0 || found < fewest) fewest = found, best = std::move(word);
      }
      if (best.empty()) continue;
      std::string plain = best;
      plain[0] = static_cast<char>(plain[0] | 32);
      used_.insert(std::move(plain));
      words.push_back(std::move(best));
    }
    return words;
  }

 private:
  Random& random_;
  const TokenText& tokens_;
  std::unordered_set<std::string> used_;
};

class RecallTask final : public Task {
 public:
  RecallTask(std::string name, std::string summary, int hidden, int listed)
      : Task(std::move(name), "recall", std::move(summary)), hidden_(hidden), listed_(listed) {}

  Sample make(const SampleRequest& request) const override {
    Random random = sample_random(name(), request.seed, request.index);
    Drawer drawer(random, *request.tokens);
    const std::vector<std::string> names = drawer.draw(hidden_, true),
                                   values = drawer.draw(hidden_, false),
                                   fillers = drawer.draw(kFillers, false);
    const uint64_t seed = random.next();
    return fit_sample(*this, request, hidden_, kMostSentences,
                      [&](int count) { return sample(names, values, fillers, count, seed); });
  }

 private:
  static constexpr int kFillers = 400, kMostSentences = 1 << 17;

  Sample sample(const std::vector<std::string>& names, const std::vector<std::string>& values,
                const std::vector<std::string>& fillers, int sentences, uint64_t seed) const {
    Random random(seed);
    std::vector<int> places = distinct_below(random, sentences, hidden_);
    std::vector<int> pair_at(static_cast<size_t>(sentences), -1);
    for (int i = 0; i < hidden_; ++i)
      pair_at[static_cast<size_t>(places[static_cast<size_t>(i)])] = i;
    Sample sample;
    for (const int pair : pair_at) {
      if (!sample.context.empty()) sample.context += ' ';
      if (pair >= 0) {
        const auto at = static_cast<size_t>(pair);
        sample.context += names[at] + " " + values[at] + ".";
        continue;
      }
      const int words = between(random, 6, 14);
      for (int w = 0; w < words; ++w)
        sample.context += (w > 0 ? " " : "") + fillers[random.below(fillers.size())];
      sample.context += '.';
    }
    for (int i = 0; i < listed_; ++i) {
      const auto at = static_cast<size_t>(i);
      sample.questions.push_back({". " + names[at], "", {values[at]}, {}});
    }
    std::string list;
    for (int i = listed_ - 1; i >= 0; --i) list += " " + names[static_cast<size_t>(i)];
    sample.questions[0].text = std::move(list);
    sample.turns = listed_ > 1;
    sample.metric = Metric::word;
    sample.max_new_tokens = 4;
    sample.wrapped = false;
    if (listed_ == 1)
      sample.depth = static_cast<int>(100 * static_cast<int64_t>(places[0]) / sentences);
    return sample;
  }

  int hidden_, listed_;
};

}  // namespace

void add_recall(TaskList& tasks) {
  const auto add = [&](const char* name, const char* summary, int hidden, int listed) {
    tasks.push_back(std::make_unique<RecallTask>(name, summary, hidden, listed));
  };
  add("recall_one", "the word that followed one of 8 names in nonsense", 8, 1);
  add("recall_few", "the same of 8 names out of 16, listed at once and asked one by one", 16, 8);
  add("recall_many", "the same of 24 names out of 48", 48, 24);
  tasks.push_back(asked_needles(16));
}

}  // namespace pith
