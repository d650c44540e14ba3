// Needles in a haystack: RULER's eight (arXiv:2404.06654), and the grid of length by depth.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "eval/fit.h"
#include "eval/prose.h"
#include "eval/suites.h"
#include "eval/words.h"

namespace pith {
namespace {

constexpr std::string_view kTemplate =
    "Some special magic {T} are hidden within the following text. Make sure to memorize it. I will "
    "quiz you about the {T} afterwards.\n";
constexpr std::string_view kQuestion =
    "\nWhat are all the special magic {T} for {query} mentioned in the provided text?";
constexpr std::string_view kPrefix =
    " The special magic {T} for {query} mentioned in the provided text are";

enum class Hay { noise, essay, needles };
enum class Kind { words, numbers, uuids };

std::string_view plural(Kind kind) {
  return kind == Kind::words ? "words" : kind == Kind::numbers ? "numbers" : "uuids";
}

std::string draw(Random& random, Kind kind) {
  return kind == Kind::words     ? word_pair(random)
         : kind == Kind::numbers ? number(random, 7)
                                 : uuid(random);
}

// One that is not among `taken`.
std::string draw_other(Random& random, Kind kind, const std::vector<std::string>& taken) {
  std::string drawn = draw(random, kind);
  while (std::ranges::count(taken, drawn) > 0) drawn = draw(random, kind);
  return drawn;
}

struct NeedleShape {
  const char* name;
  const char* summary;
  Hay hay;
  Kind key, value;
  int keys = 1, values = 1, queries = 1;
};

constexpr NeedleShape kShapes[] = {
    {"niah_single_1", "one number in repeated noise", Hay::noise, Kind::words, Kind::numbers},
    {"niah_single_2", "one number in prose", Hay::essay, Kind::words, Kind::numbers},
    {"niah_single_3", "one uuid in prose", Hay::essay, Kind::words, Kind::uuids},
    {"niah_multikey_1", "one of four numbers in prose", Hay::essay, Kind::words, Kind::numbers, 4},
    {"niah_multikey_2", "one number among needles only", Hay::needles, Kind::words, Kind::numbers},
    {"niah_multikey_3", "one uuid among needles of uuids", Hay::needles, Kind::uuids, Kind::uuids},
    {"niah_multivalue", "four numbers of one key in prose", Hay::essay, Kind::words, Kind::numbers,
     1, 4},
    {"niah_multiquery", "four keys asked at once in prose", Hay::essay, Kind::words, Kind::numbers,
     4, 1, 4},
};

std::string needle(std::string_view kind, const std::string& key, const std::string& value) {
  return "One of the special magic " + std::string(kind) + " for " + key + " is: " + value + ".";
}

// Sentences with the needles at different ones of 40 depths.
std::string between_sentences(Random& random, const std::string& essay,
                              const std::vector<std::string>& needles) {
  const std::vector<std::string> sentences = split_sentences(essay);
  constexpr int kDepths = 40;
  std::vector<int> places;
  for (const int depth : distinct_below(random, kDepths, static_cast<int>(needles.size()))) {
    const double percent = std::round(100.0 * depth / (kDepths - 1));
    places.push_back(static_cast<int>(static_cast<double>(sentences.size()) * (percent / 100)));
  }
  std::ranges::sort(places);
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t i = 0; i < needles.size(); ++i) {
    const auto place = static_cast<size_t>(places[i]);
    parts.push_back(joined(std::span(sentences).subspan(at, place - at), " "));
    parts.push_back(needles[i]);
    at = place;
  }
  parts.push_back(joined(std::span(sentences).subspan(at), " "));
  return joined(parts, " ");
}

class NeedleTask final : public Task {
 public:
  explicit NeedleTask(const NeedleShape& shape)
      : Task(shape.name, "ruler", shape.summary), shape_(shape) {}

  Sample make(const SampleRequest& request) const override {
    std::vector<std::string> essay;
    if (shape_.hay == Hay::essay) essay = split_words(haystack_text(request, request.max_tokens));
    const int needles = std::max(shape_.keys, shape_.queries) * shape_.values;
    return fit_sample(*this, request, std::max(needles, shape_.hay == Hay::essay ? 20 : 1),
                      request.max_tokens, [&](int size) { return sized(request, essay, size); });
  }

 private:
  Sample sized(const SampleRequest& request, const std::vector<std::string>& essay,
               int size) const {
    Random random = sample_random(name(), request.seed, request.index);
    std::vector<std::string> keys, needles;
    std::vector<std::vector<std::string>> values;
    for (int k = 0; k < std::max(shape_.keys, shape_.queries); ++k) {
      const std::string key = draw_other(random, shape_.key, keys);
      keys.push_back(key);
      values.emplace_back();
      for (int v = 0; v < shape_.values; ++v) {
        values.back().push_back(draw(random, shape_.value));
        needles.push_back(needle(plural(shape_.value), key, values.back().back()));
      }
    }
    shuffle(needles, random);

    std::vector<std::string> queries, answers;
    for (const int k : distinct_below(random, static_cast<int>(keys.size()), shape_.queries)) {
      queries.push_back(keys[static_cast<size_t>(k)]);
      const auto& of_key = values[static_cast<size_t>(k)];
      answers.insert(answers.end(), of_key.begin(), of_key.end());
    }

    const std::string context = shape_.hay == Hay::essay
                                    ? between_sentences(random, first_words(essay, size), needles)
                                    : between_lines(random, size, keys, needles);
    const bool one = shape_.queries * shape_.values == 1;
    const std::string query = listed(queries);
    // Keys and the text around needles must not be made singular, so they are put in last.
    const auto text = [&](std::string_view form) {
      std::string out(form);
      std::string kind(plural(shape_.value));
      if (one) {
        out = replaced(std::move(out), "Some", "A");
        out = replaced(std::move(out), "are all", "is");
        out = replaced(std::move(out), "are", "is");
        kind.pop_back();
      }
      return replaced(replaced(std::move(out), "{T}", kind), "{query}", query);
    };
    Sample sample;
    sample.context = text(kTemplate) + context;
    sample.questions.push_back({text(kQuestion), text(kPrefix), answers, {}});
    sample.max_new_tokens = 128;
    return sample;
  }

  std::string between_lines(Random& random, int size, const std::vector<std::string>& keys,
                            const std::vector<std::string>& needles) const {
    std::vector<std::string> lines;
    for (int i = 0; i < size; ++i) {
      if (shape_.hay == Hay::noise) {
        lines.emplace_back(kNoise);
        continue;
      }
      const std::string key = draw_other(random, shape_.key, keys);
      lines.push_back(needle(plural(shape_.value), key, draw(random, shape_.value)));
    }
    std::vector<int> places = distinct_below(random, size, static_cast<int>(needles.size()));
    std::ranges::sort(places, std::greater());
    for (size_t i = 0; i < needles.size(); ++i) lines.insert(lines.begin() + places[i], needles[i]);
    return joined(lines, "\n");
  }

  const NeedleShape shape_;
};

// Numbers in prose, and at the end whose will be asked for; each is asked of the context alone.
// Methods that choose by the last queries see all keys, whatever the protocol. A key stands right
// before its value, in the text as in the question, so that a model of a few million weights finds
// the one by the other.
class AskedNeedles final : public Task {
 public:
  explicit AskedNeedles(int needles)
      : Task("recall_numbers", "recall", "numbers in prose, listed at once and asked one by one"),
        needles_(needles) {}

  Sample make(const SampleRequest& request) const override {
    const std::vector<std::string> essay = split_words(haystack_text(request, request.max_tokens));
    return fit_sample(*this, request, std::max(needles_, 20), request.max_tokens, [&](int size) {
      Random random = sample_random(name(), request.seed, request.index);
      std::vector<std::string> keys, needles;
      Sample sample;
      for (int i = 0; i < needles_; ++i) {
        std::string key = draw_other(random, Kind::words, keys);
        const std::string value = number(random, 7);
        std::string said = "The secret number of ";
        said.append(key).append(" is");
        sample.questions.push_back({"\n", said, {value}, {}});
        needles.push_back(said.append(" ").append(value).append("."));
        keys.push_back(std::move(key));
      }
      shuffle(needles, random);
      sample.context = "\n" + between_sentences(random, first_words(essay, size), needles) +
                       "\nThe secret numbers of " + listed(keys) + " will be asked for.";
      sample.max_new_tokens = 16;
      sample.first_line = true;
      return sample;
    });
  }

 private:
  const int needles_;
};

// gkamradt/LLMTest_NeedleInAHaystack: one sentence at a depth of the haystack's tokens, moved back
// to the end of a sentence. Samples go through the depths 0, 10, ..., 100 %.
class GridTask final : public Task {
 public:
  GridTask() : Task("needle", "needle", "one sentence at each depth of the haystack") {}

  Sample make(const SampleRequest& request) const override {
    const TokenText& text = *request.tokens;
    const std::string haystack = haystack_text(request, request.max_tokens);
    std::vector<int32_t> hay = text.encode(haystack);
    if (hay.empty()) throw Error(Errc::bad_request, "the haystack has no text");
    for (size_t i = 0; hay.size() < static_cast<size_t>(request.max_tokens); ++i)
      hay.push_back(hay[i]);
    // Not at the same depths of the same text for every seed: it begins at a sentence of its own.
    const int depth = request.index % 11 * 10;
    return fit_sample(*this, request, 0, request.max_tokens, [&](int size) {
      const std::span<const int32_t> kept = std::span(hay).first(static_cast<size_t>(size));
      auto at = static_cast<size_t>(size * depth / 100);
      if (depth < 100)
        while (at > 0 && !ends_sentence(text, kept[at - 1])) --at;
      Sample sample;
      sample.context = text.decode(kept.first(at)) + kNeedle + text.decode(kept.subspan(at));
      sample.questions.push_back({"\n\nWhat is the best thing to do in San Francisco?",
                                  "\nThe best thing to do in San Francisco is:",
                                  {"eat", "sandwich", "sit", "Dolores", "Park", "sunny", "day"},
                                  {}});
      sample.max_new_tokens = 32;
      sample.depth = depth;
      return sample;
    });
  }

 private:
  static constexpr const char* kNeedle =
      "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
      "sunny "
      "day.\n";

  static bool ends_sentence(const TokenText& text, int32_t token) {
    const std::string piece = text.decode(std::span(&token, 1));
    const size_t last = piece.find_last_not_of(" \n");
    return last != std::string::npos && piece[last] == '.';
  }
};

}  // namespace

std::unique_ptr<const Task> asked_needles(int needles) {
  return std::make_unique<AskedNeedles>(needles);
}

void add_needles(TaskList& tasks) {
  for (const NeedleShape& shape : kShapes) tasks.push_back(std::make_unique<NeedleTask>(shape));
  tasks.push_back(std::make_unique<GridTask>());
}

}  // namespace pith
