// What tasks are written with: our own lists of English words, and keys and values drawn from a
// generator.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"

namespace pith {

std::span<const std::string_view> nouns();       // countable things, singular
std::span<const std::string_view> adjectives();  // before such a thing
std::span<const std::string_view> verbs();       // to do something, base form
std::span<const std::string_view> people();      // given names
std::span<const std::string_view> places();      // invented towns

// `count` different words in random order: of the lists while they last, else of them and of two
// nouns put together. At most largest_vocabulary().
std::vector<std::string> distinct_words(Random& random, int count);
int largest_vocabulary();

int between(Random& random, int low, int high);              // both included
std::string number(Random& random, int digits);              // the first is not 0
std::string letters(Random& random, char first, int count);  // "A": upper case
std::string uuid(Random& random);                            // version 4
std::string word_pair(Random& random);                       // "quiet-harbor"
std::string with_article(std::string_view word);             // "an acorn", "a barn"
// "a", "a, and b", "a, b, and c".
std::string listed(std::span<const std::string> items);
std::string joined(std::span<const std::string> items, std::string_view separator);
// `text` with every `from` replaced.
std::string replaced(std::string text, std::string_view from, std::string_view to);

template <class T>
void shuffle(std::vector<T>& items, Random& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}
// `count` different numbers below n, in random order. At most n.
std::vector<int> distinct_below(Random& random, int n, int count);

// The generator of one sample of one task: different for every name, seed and index.
Random sample_random(std::string_view task, uint64_t seed, int index);

}  // namespace pith
