#include "eval/runner.h"

#include <algorithm>
#include <chrono>

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

CacheBytes SampleRunner::held(const Session& session, const Lender* lender) {
  CacheBytes bytes = session.store->bytes();
  if (lender == nullptr) return bytes;
  // Of pages that both own, each counts half; what the lender counts less since is the other half.
  const CacheBytes now = lender->session->store->bytes(), &alone = lender->alone;
  for (const auto part : {&CacheBytes::sealed, &CacheBytes::open, &CacheBytes::pseudo,
                          &CacheBytes::lanes, &CacheBytes::summaries, &CacheBytes::dropped})
    bytes.*part += alone.*part - std::min(now.*part, alone.*part);
  return bytes;
}

Outcome SampleRunner::answer(Session& session, const Lender* lender, const Sample& sample,
                             size_t question, double seconds, Monitor& monitor) {
  Outcome out;
  out.question = static_cast<int>(question);
  out.prompt_tokens = static_cast<int>(session.tokens.size());
  out.prompt_bytes = held(session, lender);
  const KvShape& shape = engine_.model().config().shape;
  out.full_bytes = uint64_t{2} * sizeof(uint16_t) * static_cast<uint64_t>(shape.layers) *
                   static_cast<uint64_t>(shape.heads) * static_cast<uint64_t>(shape.dim) *
                   session.tokens.size();
  const Tokenizer& tokenizer = engine_.tokenizer();
  const Clock clock;
  double first = 0, last = 0;
  engine_.generate(session, sample.max_new_tokens, [&](int32_t token) {
    monitor.check();
    if (std::ranges::find(stops_, token) != stops_.end()) return false;
    last = clock.seconds();
    if (out.generated_tokens++ == 0) first = last;
    out.output += tokenizer.piece(token);
    if (!sample.first_line) return true;
    // Nothing behind the first line counts.
    const size_t text = out.output.find_first_not_of('\n');
    return text == std::string::npos || out.output.find('\n', text) == std::string::npos;
  });
  out.first_seconds = seconds + first;
  if (out.generated_tokens > 1) out.token_seconds = (last - first) / (out.generated_tokens - 1);
  out.end_bytes = held(session, lender);
  out.score = sample.grade(question, out.output);
  return out;
}

std::vector<Outcome> SampleRunner::run(const Sample& sample, std::string_view spec,
                                       Protocol protocol, Monitor& monitor) {
  std::vector<Outcome> outcomes;
  std::unique_ptr<Session> shared;  // the context, or the turns so far
  double context_seconds = 0;
  for (size_t question = 0; question < sample.questions.size(); ++question) {
    monitor.check();
    const bool more = question + 1 < sample.questions.size();
    const Clock clock;
    double seconds = 0;
    std::vector<int32_t> behind;  // what follows the context, or the turns so far
    if (shared && sample.turns) {
      behind = next_turn(sample, question);
    } else {
      const Pieces prompt = pieces(sample, question);
      behind = prompt.question;
      if (protocol == Protocol::aware) {
        behind.insert(behind.begin(), prompt.context.begin(), prompt.context.end());
        shared = engine_.open(spec, kGreedy);
        shared->observer = observer_;
      } else if (!shared) {
        shared = engine_.open(spec, kGreedy);
        shared->observer = observer_;
        engine_.prefill(*shared, prompt.context, monitor);
        context_seconds = clock.seconds();
      } else {
        seconds = context_seconds;
      }
    }
    // A further turn follows the true answer, not the one that is generated: that goes into a fork.
    // So does what is asked of the context alone, with the question.
    const bool forks_turn = sample.turns && more;
    const bool forks_context = !sample.turns && protocol == Protocol::agnostic && more;
    if (!forks_context) engine_.prefill(*shared, behind, monitor);
    const Lender lender{shared.get(), shared->store->bytes()};
    const std::unique_ptr<Session> fork = forks_turn || forks_context ? shared->fork() : nullptr;
    if (forks_context) engine_.prefill(*fork, behind, monitor);
    seconds += clock.seconds();
    outcomes.push_back(answer(fork ? *fork : *shared, fork ? &lender : nullptr, sample, question,
                              seconds, monitor));
  }
  return outcomes;
}

}  // namespace pith
