#include "eval/runner.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "base/error.h"

namespace pith {
namespace {

constexpr SamplingOptions kGreedy = {.temperature = 0};

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

std::string_view protocol_name(Protocol protocol) {
  return protocol == Protocol::aware ? "query-aware" : "query-agnostic";
}

std::vector<int32_t> ModelText::encode(std::string_view text) const {
  return tokenizer_.encode(text, false);
}

std::string ModelText::decode(std::span<const int32_t> tokens) const {
  return tokenizer_.decode({tokens.begin(), tokens.end()});
}

SampleRunner::SampleRunner(Engine& engine, std::optional<ChatTemplate> chat)
    : engine_(engine), chat_(std::move(chat)), text_(engine.tokenizer()) {
  if (chat_) stops_ = chat_->stop_tokens(engine.tokenizer());
}

int SampleRunner::wrapper_tokens() const {
  const Tokenizer& tokenizer = engine_.tokenizer();
  const std::vector<ChatMessage> empty = {{"user", ""}};
  // One for what meets at the seam between context and question.
  return static_cast<int>(tokenizer.encode_prompt(chat_ ? chat_->render(empty) : "", true).size()) +
         1;
}

SampleRunner::Pieces SampleRunner::pieces(const Sample& sample, size_t question) const {
  const Tokenizer& tokenizer = engine_.tokenizer();
  const Question& asked = sample.questions[question];
  std::string before = sample.shown_question + sample.shown_answer + sample.context;
  std::string behind = asked.text + asked.prefix;
  const bool wrapped = chat_ && sample.wrapped;
  if (wrapped) {
    std::vector<ChatMessage> messages;
    if (!sample.shown_question.empty()) {
      messages.push_back({"user", sample.shown_question});
      messages.push_back({"assistant", sample.shown_answer});
    }
    messages.push_back({"user", sample.context + asked.text});
    const std::string whole = chat_->render(messages);
    // Templates strip space around a message, so the question's end is looked for, not assumed.
    const size_t at = whole.rfind(sample.context);
    if (at == std::string::npos)
      throw Error(Errc::unsupported, "the chat template changes the text of a message");
    const size_t end = at + sample.context.size();
    before = whole.substr(0, end);
    behind = whole.substr(end) + asked.prefix;
  }
  Pieces out{tokenizer.encode_prompt(before, wrapped), tokenizer.encode_more(behind, wrapped)};
  if (tokenizer.adds_end() && !out.context.empty() && out.context.back() == tokenizer.end_token())
    out.context.pop_back();
  return out;
}

std::vector<int32_t> SampleRunner::next_turn(const Sample& sample, size_t question) const {
  const Tokenizer& tokenizer = engine_.tokenizer();
  const std::string& before = sample.questions[question - 1].answers[0];
  const Question& asked = sample.questions[question];
  if (!chat_ || !sample.wrapped)
    return tokenizer.encode_more(before + asked.text + asked.prefix, false);
  // What a conversation has more with this turn than without its answer and question.
  const ChatMessage first = {"user", "x"};
  const std::vector<ChatMessage> one = {first};
  const std::vector<ChatMessage> three = {first, {"assistant", before}, {"user", asked.text}};
  const std::string known = chat_->render(one), whole = chat_->render(three);
  if (!whole.starts_with(known))
    throw Error(Errc::unsupported, "the chat template changes earlier turns of a conversation");
  return tokenizer.encode_more(whole.substr(known.size()) + asked.prefix, true);
}

Outcome SampleRunner::answer(Session& session, const Sample& sample, size_t question,
                             double seconds_before, double prompt_seconds, Monitor& monitor) {
  Outcome out;
  out.question = static_cast<int>(question);
  out.prompt_tokens = static_cast<int>(session.tokens.size());
  out.prompt_bytes = session.store->bytes();
  const KvShape& shape = engine_.model().config().shape;
  out.full_bytes = uint64_t{2} * 2 * static_cast<uint64_t>(shape.layers) *
                   static_cast<uint64_t>(shape.heads) * static_cast<uint64_t>(shape.dim) *
                   session.tokens.size();
  const Tokenizer& tokenizer = engine_.tokenizer();
  const Clock clock;
  double last = 0;
  engine_.generate(session, sample.max_new_tokens, [&](int32_t token) {
    monitor.check();
    if (std::ranges::find(stops_, token) != stops_.end()) return false;
    last = clock.seconds();
    if (out.generated_tokens++ == 0) out.first_seconds = seconds_before + prompt_seconds + last;
    out.output += tokenizer.piece(token);
    // Nothing behind the first line counts.
    return !(sample.first_line && out.output.find_first_not_of('\n') != std::string::npos &&
             out.output.find('\n', out.output.find_first_not_of('\n')) != std::string::npos);
  });
  if (out.generated_tokens == 0) out.first_seconds = seconds_before + prompt_seconds;
  if (out.generated_tokens > 1)
    out.token_seconds =
        (last - (out.first_seconds - seconds_before - prompt_seconds)) / (out.generated_tokens - 1);
  out.end_bytes = session.store->bytes();
  out.score = sample.grade(question, out.output);
  return out;
}

std::vector<Outcome> SampleRunner::run(const Sample& sample, std::string_view spec,
                                       Protocol protocol, Monitor& monitor) {
  std::vector<Outcome> outcomes;
  std::unique_ptr<Session> shared;  // the context, or the turns so far
  double shared_seconds = 0;
  for (size_t question = 0; question < sample.questions.size(); ++question) {
    monitor.check();
    const Clock clock;
    if (!shared || !sample.turns) {
      const Pieces prompt = pieces(sample, question);
      if (protocol == Protocol::aware) {
        std::vector<int32_t> tokens = prompt.context;
        tokens.insert(tokens.end(), prompt.question.begin(), prompt.question.end());
        shared = engine_.open(spec, kGreedy);
        engine_.prefill(*shared, tokens, monitor);
        shared_seconds = 0;
      } else {
        if (!shared) {
          shared = engine_.open(spec, kGreedy);
          engine_.prefill(*shared, prompt.context, monitor);
          shared_seconds = clock.seconds();
        }
        const Clock of_question;
        if (!sample.turns) {
          const std::unique_ptr<Session> asked = shared->fork();
          engine_.prefill(*asked, prompt.question, monitor);
          outcomes.push_back(
              answer(*asked, sample, question, shared_seconds, of_question.seconds(), monitor));
          continue;
        }
        engine_.prefill(*shared, prompt.question, monitor);
      }
    } else {
      engine_.prefill(*shared, next_turn(sample, question), monitor);
    }
    const double seconds = clock.seconds();
    // A further turn follows the true answer, so what is generated here goes into a fork.
    const bool more = sample.turns && question + 1 < sample.questions.size();
    const std::unique_ptr<Session> fork = more ? shared->fork() : nullptr;
    outcomes.push_back(answer(fork ? *fork : *shared, sample, question, 0, seconds, monitor));
  }
  return outcomes;
}

Mean mean_of(std::span<const double> values) {
  // 97.5 % quantiles of Student's t, by degrees of freedom; 1.96 + 2.4 / f is within 1 % beyond.
  constexpr std::array kQuantiles = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447,
                                     2.365,  2.306, 2.262, 2.228, 2.201, 2.179};
  Mean out;
  out.count = static_cast<int>(values.size());
  if (values.empty()) return out;
  for (const double value : values) out.mean += value / out.count;
  if (out.count < 2) return out;
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  const auto freedom = static_cast<size_t>(out.count - 1);
  const double quantile = freedom <= kQuantiles.size() ? kQuantiles[freedom - 1]
                                                       : 1.96 + 2.5 / static_cast<double>(freedom);
  out.half_width = quantile * std::sqrt(squares / static_cast<double>(freedom) / out.count);
  return out;
}

}  // namespace pith
