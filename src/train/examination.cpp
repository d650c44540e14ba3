#include "train/examination.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/likelihood.h"
#include "train/task_writer.h"

namespace pith {
namespace {

std::vector<int32_t> begin_with(const Tokenizer& tokenizer, std::span<const uint16_t> text) {
  std::vector<int32_t> tokens = {tokenizer.begin_token()};
  tokens.insert(tokens.end(), text.begin(), text.end());
  return tokens;
}

// Losses of all tokens but the first.
std::vector<double> losses_of(Engine& engine, const std::vector<int32_t>& tokens,
                              Monitor& monitor) {
  const auto session = engine.open("full");
  std::vector<double> losses;
  engine.prefill_all(
      *session, tokens,
      [&](int row, std::span<const float> logits) {
        const auto next = static_cast<size_t>(row) + 1;
        if (next < tokens.size()) losses.push_back(negative_log_likelihood(logits, tokens[next]));
      },
      monitor);
  return losses;
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

void read_text(Engine& engine, const Corpus& corpus, Examination& result, Monitor& monitor) {
  const Tokenizer& tokenizer = engine.tokenizer();
  Random random(result.options.seed, 1);
  double nats = 0, bytes = 0;
  for (int i = 0; i < result.options.text_windows; ++i) {
    monitor.progress("text", i, result.options.text_windows);
    const auto tokens = begin_with(tokenizer, corpus.passage(random, result.context - 1));
    const std::vector<double> losses = losses_of(engine, tokens, monitor);
    for (size_t at = 0; at < losses.size(); ++at) {
      nats += losses[at];
      bytes += static_cast<double>(tokenizer.piece(tokens[at + 1]).size());
    }
    result.text_tokens += static_cast<int64_t>(losses.size());
  }
  if (bytes > 0) result.bits_per_byte = nats / std::numbers::ln2 / bytes;
}

void copy_text(Engine& engine, const Corpus& corpus, Examination& result, Monitor& monitor) {
  const Tokenizer& tokenizer = engine.tokenizer();
  Random random(result.options.seed, 2);
  result.copy_tokens = std::min(1000, result.context / 3);
  const int repeats = result.options.text_windows;
  std::vector<double> first, second;
  for (int i = 0; i < repeats; ++i) {
    monitor.progress("copies", i, repeats);
    const auto passage = corpus.passage(random, result.copy_tokens);
    std::vector<int32_t> tokens = begin_with(tokenizer, passage);
    const std::vector<int32_t> line = tokenizer.encode_more("\n", false);
    tokens.insert(tokens.end(), line.begin(), line.end());
    tokens.insert(tokens.end(), passage.begin(), passage.end());
    const std::vector<double> losses = losses_of(engine, tokens, monitor);
    const auto count = static_cast<ptrdiff_t>(passage.size());
    first.insert(first.end(), losses.begin(), losses.begin() + count);
    second.insert(second.end(), losses.end() - count, losses.end());
  }
  result.first_copy = mean(first);
  result.second_copy = mean(second);
}

bool answers(Engine& engine, const LookupPrompt& prompt, const std::string& spec,
             Monitor& monitor) {
  const auto session = engine.open(spec);
  engine.prefill(*session, prompt.tokens, monitor);
  for (const int32_t wanted : prompt.answer) {
    if (most_likely(session->logits) != wanted) return false;
    Session* sessions[] = {session.get()};
    engine.decode(sessions, std::span(&wanted, 1));
  }
  return true;
}

void look_up(Engine& engine, const Corpus& corpus, Examination& result, Monitor& monitor) {
  // The window of the last row is there to show that the answer is read from the cache.
  struct Series {
    Lookup lookup;
    std::string spec;
    bool longest_only;
  };
  const Series all[] = {{Lookup::passkey, "full", false},
                        {Lookup::needle, "full", false},
                        {Lookup::eight_needles, "full", false},
                        {Lookup::passkey, "streaming_llm:sink=4,recent=128", true}};
  std::vector<int> lengths;
  constexpr int kRoomForAnswer = 32;
  for (int length = result.context; length >= 512 && lengths.size() < 3; length /= 2)
    lengths.insert(lengths.begin(), length - kRoomForAnswer);
  if (lengths.empty()) lengths.push_back(result.context - kRoomForAnswer);
  for (const Series& series : all) {
    for (const int length : lengths) {
      if (series.longest_only && length != lengths.back()) continue;
      DepthResult row{series.lookup, series.spec, length, {}};
      Random random(result.options.seed, uint64_t{3} << 32);
      bool fits = true;
      for (int d = 0; d < result.options.depths; ++d) {
        monitor.progress(lookup_name(series.lookup), d, result.options.depths);
        const double depth =
            result.options.depths > 1 ? static_cast<double>(d) / (result.options.depths - 1) : 0.5;
        int right = 0;
        for (int sample = 0; sample < result.options.samples; ++sample) {
          const LookupPrompt prompt =
              make_lookup(series.lookup, engine.tokenizer(), corpus, random, length, depth);
          fits = fits && !prompt.tokens.empty();
          if (fits) right += answers(engine, prompt, series.spec, monitor);
        }
        row.right.push_back(right);
      }
      if (fits) result.lookups.push_back(std::move(row));
    }
  }
}

}  // namespace

LookupPrompt make_lookup(Lookup lookup, const Tokenizer& tokenizer, const Corpus& corpus,
                         Random& random, int length, double depth) {
  const TaskSource source{tokenizer, corpus};
  const TaskWriter writer(source, random);
  const auto tokens_of = [&](const std::string& text) { return writer.encode(text).tokens; };
  const int count = lookup == Lookup::eight_needles ? 8 : 1;
  const std::vector<std::string> keys = values(ValueKind::words, count, source, random);
  const auto told = [lookup](const std::string& key, const std::string& drawn) {
    switch (lookup) {
      case Lookup::passkey:
        return " The pass key is " + drawn + ". Remember it. " + drawn + " is the pass key.";
      case Lookup::needle:
        return " One of the special magic numbers for " + key + " is: " + drawn + ".";
      default:
        return " The secret number of " + key + " is " + drawn + ".";
    }
  };
  std::vector<std::vector<int32_t>> needles;
  std::string number;
  for (const std::string& key : keys) {
    const std::string drawn = digits(random, lookup == Lookup::passkey ? 5 : 7);
    if (needles.empty()) number = drawn;
    needles.push_back(tokens_of(told(key, drawn)));
  }
  const std::string asked =
      lookup == Lookup::passkey ? "\nWhat is the pass key? The pass key is"
      : lookup == Lookup::needle
          ? "\nWhat is the special magic number for " + keys[0] +
                " mentioned in the provided text? The special magic number for " + keys[0] +
                " mentioned in the provided text is"
          : "\nThe secret number of " + keys[0] + " is";
  const std::vector<int32_t> question = tokens_of(asked);
  int room = length - 1 - static_cast<int>(question.size());
  for (const auto& needle : needles) room -= static_cast<int>(needle.size());
  if (room < length / 4) return {};

  std::vector<int32_t> text;
  std::vector<size_t> places;  // where sentences begin
  while (static_cast<int>(text.size()) < room) {
    const auto passage = corpus.passage(random, room - static_cast<int>(text.size()));
    const auto first = static_cast<size_t>(passage.data() - corpus.tokens().data());
    for (size_t i = 0; i < passage.size(); ++i) {
      if (i == 0 || corpus.begins_sentence(first + i)) places.push_back(text.size());
      text.push_back(passage[i]);
    }
  }
  places.push_back(text.size());
  // The needle that is asked for lies at its depth, the others anywhere.
  std::vector<std::pair<size_t, size_t>> order;  // place, needle
  for (size_t i = 0; i < needles.size(); ++i) {
    const double share = i == 0 ? depth : random.uniform();
    order.emplace_back(
        places[static_cast<size_t>(std::lround(share * static_cast<double>(places.size() - 1)))],
        i);
  }
  std::ranges::sort(order);
  LookupPrompt prompt;
  prompt.tokens.push_back(tokenizer.begin_token());
  size_t from = 0;
  for (const auto& [place, needle] : order) {
    prompt.tokens.insert(prompt.tokens.end(), text.begin() + static_cast<ptrdiff_t>(from),
                         text.begin() + static_cast<ptrdiff_t>(place));
    prompt.tokens.insert(prompt.tokens.end(), needles[needle].begin(), needles[needle].end());
    from = place;
  }
  prompt.tokens.insert(prompt.tokens.end(), text.begin() + static_cast<ptrdiff_t>(from),
                       text.end());
  prompt.tokens.insert(prompt.tokens.end(), question.begin(), question.end());
  prompt.answer = tokens_of(" " + number);
  return prompt;
}

Examination examine(Engine& engine, const Corpus& corpus, const ExaminationOptions& options,
                    Monitor& monitor) {
  Examination result;
  result.options = options;
  result.context = engine.model().config().max_position;
  read_text(engine, corpus, result, monitor);
  copy_text(engine, corpus, result, monitor);
  look_up(engine, corpus, result, monitor);
  return result;
}

}  // namespace pith
