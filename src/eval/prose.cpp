#include "eval/prose.h"

#include <array>
#include <span>

#include "eval/words.h"

namespace pith {
namespace {

// {p} the scene's person, {q} another one, {h} either of them, {t} its town, {o} another one, {n}
// a thing, {a} a quality; {e}, {v} and {x} are drawn from the lists below.
constexpr std::array kOpenings = std::to_array<std::string_view>({
    "{p} came to {t} in the {e}, when the {n} by the {n} was still {a}.",
    "In the {e} {p} walked from {t} with a {a} {n} under one arm.",
    "Nobody in {t} remembered who had built the {a} {n}, but {p} meant to find out.",
    "{p} had lived in {t} for most of a lifetime before the {n} was sold.",
    "On the road to {t}, {p} and {q} stopped beside a {a} {n}.",
    "The people of {t} spoke of little but the {n} that {p} had brought home.",
    "It was {e} when {p} opened the door of the {n} in {t}.",
    "A letter from {q} reached {p} in {t}, folded inside a {a} {n}.",
});
constexpr std::array kMiddles = std::to_array<std::string_view>({
    "{h} put the {n} beside the {n} and {x}.",
    "The {n} was {a}, and the {n} behind it was {a} as well.",
    "\"You should see the {n} once more,\" said {q}, who {x}.",
    "{q} had wanted to {v} for years, though a {a} {n} was in the way.",
    "There was a {a} {n} on the table, and nobody could say whose it was.",
    "{h} asked whether the {n} might be mended before the {e}.",
    "Some said that a {n} so {a} could only have come from {o}.",
    "They talked about the {n} until the lamps were lit, and then {x}.",
    "From the window one could see the {n}, {a} and {a} in the evening light.",
    "{p} promised to {v}, and {q} promised nothing at all.",
    "Every {n} in the house had a name, and the {a} one was called after a {n}.",
    "\"I have never trusted a {a} {n},\" {q} answered.",
    "The price of a {n} had risen since the {e}, so {p} {x}.",
    "Between the {n} and the {n} ran a {a} path that few people used.",
    "At noon the {n} arrived, more {a} than anyone had expected.",
    "{h} began to {v}, slowly at first, as {q} had once shown them.",
    "What {q} liked best was the {n}, because it was {a} and asked for nothing.",
    "The old {n} had been painted twice, and it was still {a}.",
});
constexpr std::array kEndings = std::to_array<std::string_view>({
    "In the end the {n} stayed where it was, and {p} {x}.",
    "By the time the {e} came round again, {t} had a new {n}.",
    "{q} kept the {n}, and nobody in {t} ever asked for it.",
    "So {p} went back to {o}, and the {a} {n} was soon forgotten.",
    "They agreed to {v} the next day, if the weather was kind.",
    "That was the last time {p} saw {q} or the {a} {n}.",
});
constexpr std::array kTimes = std::to_array<std::string_view>({
    "spring",
    "summer",
    "autumn",
    "winter",
    "early morning",
    "late afternoon",
    "rainy season",
    "harvest",
    "first frost",
    "long evening",
});
constexpr std::array kDeeds = std::to_array<std::string_view>({
    "learn the old songs",
    "sail to the islands",
    "mend the roof",
    "plant another row of beans",
    "write it all down",
    "leave before sunrise",
    "cross the river",
    "paint the shutters",
    "ask for advice",
    "look for the key",
    "build a smaller one",
    "begin again",
    "keep bees",
    "sell the orchard",
    "teach the children",
    "follow the coast road",
});
constexpr std::array kActs = std::to_array<std::string_view>({
    "sat down without a word",
    "went out to look at the sea",
    "counted the coins again",
    "laughed for the first time that week",
    "wrote a short reply",
    "waited for the bell",
    "made a pot of tea",
    "carried the wood inside",
    "thought of the journey home",
    "left the gate open",
    "turned the key twice",
    "listened to the rain",
    "asked for a second opinion",
    "drew a small map",
    "fell asleep by the fire",
    "tied the boat to the post",
    "read the notice aloud",
    "said nothing more about it",
});

struct Scene {
  std::string_view person, other, town, elsewhere;
};

std::string_view pick(Random& random, std::span<const std::string_view> list) {
  return list[random.below(list.size())];
}

bool begins_with_vowel(std::string_view word) {
  return std::string_view("aeiou").find(word[0]) != std::string_view::npos;
}

void add_word(std::string& out, std::string_view word) {
  if (begins_with_vowel(word) && (out.ends_with(" a ") || out.ends_with("A ")))
    out.insert(out.size() - 1, "n");
  out += word;
}

std::string sentence(Random& random, std::string_view form, const Scene& scene) {
  std::string out;
  for (size_t at = 0; at < form.size();) {
    if (form[at] != '{') {
      out += form[at++];
      continue;
    }
    const size_t end = form.find('}', at);
    const std::string_view slot = form.substr(at + 1, end - at - 1);
    at = end + 1;
    if (slot == "p") out += scene.person;
    if (slot == "q") out += scene.other;
    if (slot == "t") out += scene.town;
    if (slot == "o") out += scene.elsewhere;
    if (slot == "h") out += random.below(2) == 0 ? scene.person : scene.other;
    if (slot == "n") add_word(out, pick(random, nouns()));
    if (slot == "a") add_word(out, pick(random, adjectives()));
    if (slot == "v") out += pick(random, kDeeds);
    if (slot == "e") add_word(out, pick(random, kTimes));
    if (slot == "x") out += pick(random, kActs);
  }
  return out;
}

std::string paragraph(Random& random) {
  const std::vector<int> who = distinct_below(random, static_cast<int>(people().size()), 2);
  const std::vector<int> where = distinct_below(random, static_cast<int>(places().size()), 2);
  const Scene scene{people()[static_cast<size_t>(who[0])], people()[static_cast<size_t>(who[1])],
                    places()[static_cast<size_t>(where[0])],
                    places()[static_cast<size_t>(where[1])]};
  std::string out = sentence(random, pick(random, kOpenings), scene);
  const int middles = between(random, 3, 7);
  // No form twice in a paragraph.
  for (const int form : distinct_below(random, static_cast<int>(kMiddles.size()), middles))
    out += " " + sentence(random, kMiddles[static_cast<size_t>(form)], scene);
  return out + " " + sentence(random, pick(random, kEndings), scene);
}

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

}  // namespace

std::string write_prose(uint64_t seed, int words) {
  Random random(seed);
  std::string out;
  for (int written = 0; written < words;) {
    if (!out.empty()) out += "\n\n";
    const std::string next = paragraph(random);
    written += static_cast<int>(split_words(next).size());
    out += next;
  }
  return out;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    while (at < text.size() && is_space(text[at])) ++at;
    size_t end = at;
    while (end < text.size() && !is_space(text[end])) ++end;
    if (end > at) words.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

std::string first_words(const std::vector<std::string>& words, int count) {
  std::string out;
  for (int i = 0; i < count && !words.empty(); ++i) {
    if (i > 0) out += ' ';
    out += words[static_cast<size_t>(i) % words.size()];
  }
  return out;
}

std::vector<std::string> split_sentences(std::string_view text) {
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t at = 0; at + 2 < text.size(); ++at) {
    const bool ends = text[at] == '.' || text[at] == '!' || text[at] == '?' ||
                      (at > begin && text[at] == '"' &&
                       (text[at - 1] == '.' || text[at - 1] == '!' || text[at - 1] == '?'));
    const char next = text[at + 2];
    if (!ends || !is_space(text[at + 1]) || !((next >= 'A' && next <= 'Z') || next == '"'))
      continue;
    sentences.emplace_back(text.substr(begin, at + 1 - begin));
    begin = at + 2;
  }
  if (begin < text.size()) sentences.emplace_back(text.substr(begin));
  return sentences;
}

}  // namespace pith
