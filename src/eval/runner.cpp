#include "eval/runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "eval/fidelity.h"
#include "eval/trace_record.h"

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

// Looks on for `pith eval`, and knows how long that took.
class TimedRecorder final : public PromptObserver {
 public:
  explicit TimedRecorder(int tokens) : record_(tokens, Watch::kMassQueries, {}) {}
  int window_queries() const override { return record_.window_queries(); }
  void layer_ended(const LayerTap& tap, ConstMat scores, const BudgetTable& table) override {
    const Clock clock;
    record_.layer_ended(tap, scores, table);
    seconds_ += clock.seconds();
  }
  void routed(int layer, const StreamPlan& plan) override { record_.routed(layer, plan); }
  void prompt_ended(const KvStore& store, const BudgetTable& table) override {
    const Clock clock;
    record_.prompt_ended(store, table);
    seconds_ += clock.seconds();
  }

  double seconds() const { return seconds_; }
  double mass_kept() const {
    double sum = 0;
    int heads = 0;
    for (const LayerTrace& layer : record_.layers())
      for (const HeadTrace& head : layer.heads) {
        sum += head.mass_kept;
        ++heads;
      }
    return heads > 0 ? sum / heads : 1;
  }

 private:
  TraceRecorder record_;
  double seconds_ = 0;
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

uint64_t SampleRunner::peak() {
  return std::max(peak_, engine_.pool().peak_bytes()) + engine_.scratch_bytes();
}

uint64_t SampleRunner::key_bytes(const CacheBytes& held) {
  const auto keys = static_cast<double>(engine_.pool().used_bytes(MemoryClass::pages_k));
  const auto values = static_cast<double>(engine_.pool().used_bytes(MemoryClass::pages_v));
  const auto pages = static_cast<double>(held.sealed + held.open);
  return keys + values > 0 ? static_cast<uint64_t>(pages * keys / (keys + values) + 0.5) : 0;
}

void SampleRunner::read(Session& session, std::span<const int32_t> tokens, const Watch& watch,
                        Reading& reading, Monitor& monitor) {
  const double before = session.compressor.stats().prompt_seconds;
  if (!watch.mass || !session.tokens.empty()) {
    engine_.prefill(session, tokens, monitor);
    reading.compressing += session.compressor.stats().prompt_seconds - before;
    return;
  }
  TimedRecorder record(static_cast<int>(tokens.size()));
  PromptObserver* const other = std::exchange(session.observer, &record);
  try {
    engine_.prefill(session, tokens, monitor);
  } catch (...) {
    session.observer = other;
    throw;
  }
  session.observer = other;
  reading.watching += record.seconds();
  reading.compressing += session.compressor.stats().prompt_seconds - before - record.seconds();
  reading.mass_kept = record.mass_kept();
}

void SampleRunner::compare(const Session& session, const FullAnswers::Answer& full, Outcome& out) {
  peak_ = std::max(peak_, engine_.pool().peak_bytes());
  {
    const std::unique_ptr<Session> fork = session.fork();
    Session* const one = fork.get();
    Fidelity fidelity;
    const size_t vocab = session.logits.size();
    for (size_t at = 0; at < full.logits.size(); at += vocab) {
      fidelity.compare(std::span(full.logits).subspan(at, vocab), fork->logits);
      const size_t token = at / vocab;
      if (at + vocab < full.logits.size()) engine_.decode({&one, 1}, {&full.tokens[token], 1});
    }
    out.divergence = fidelity.mean_divergence();
    out.agreement = fidelity.agreement();
  }
  engine_.pool().reset_peak();
}

Outcome SampleRunner::answer(Session& session, const Lender* lender, const Sample& sample,
                             size_t question, const Reading& reading, const Watch& watch,
                             Monitor& monitor) {
  Outcome out;
  out.question = static_cast<int>(question);
  out.prompt_tokens = static_cast<int>(session.tokens.size());
  out.prompt_bytes = held(session, lender);
  out.prompt_key_bytes = key_bytes(out.prompt_bytes);
  const KvShape& shape = engine_.model().config().shape;
  out.full_bytes = uint64_t{2} * sizeof(uint16_t) * static_cast<uint64_t>(shape.layers) *
                   static_cast<uint64_t>(shape.heads) * static_cast<uint64_t>(shape.dim) *
                   session.tokens.size();
  if (watch.compare) compare(session, watch.compare->answers[question], out);
  FullAnswers::Answer* const full = watch.record ? &watch.record->answers.emplace_back() : nullptr;
  const Tokenizer& tokenizer = engine_.tokenizer();
  const Clock clock;
  double first = 0, last = 0;
  engine_.generate(session, sample.max_new_tokens, [&](int32_t token) {
    monitor.check();
    if (std::ranges::find(stops_, token) != stops_.end()) return false;
    last = clock.seconds();
    if (out.generated_tokens++ == 0) first = last;
    if (full && out.generated_tokens <= FullAnswers::kTokens) {
      full->tokens.push_back(token);
      full->logits.insert(full->logits.end(), session.logits.begin(), session.logits.end());
    }
    out.output += tokenizer.piece(token);
    if (!sample.first_line) return true;
    // Nothing behind the first line counts.
    const size_t text = out.output.find_first_not_of('\n');
    return text == std::string::npos || out.output.find('\n', text) == std::string::npos;
  });
  if (full) {
    if (full->tokens.empty()) full->logits = session.logits;
    out.divergence = 0;
    out.agreement = 1;
  }
  out.first_seconds = reading.seconds + first;
  out.compress_seconds = std::max(reading.compressing, 0.0);
  if (out.generated_tokens > 1) out.token_seconds = (last - first) / (out.generated_tokens - 1);
  out.end_bytes = held(session, lender);
  out.end_key_bytes = key_bytes(out.end_bytes);
  out.peak_bytes = peak();
  out.mass_kept = reading.mass_kept;
  out.score = sample.grade(question, out.output);
  return out;
}

std::vector<Outcome> SampleRunner::run(const Sample& sample, std::string_view spec,
                                       Protocol protocol, Monitor& monitor, const Watch& watch) {
  std::vector<Outcome> outcomes;
  std::unique_ptr<Session> shared;  // the context, or the turns so far
  const auto open = [&] {
    shared.reset();
    peak_ = 0;
    engine_.pool().reset_peak();
    shared = engine_.open(spec, kGreedy);
    shared->observer = observer_;
  };
  Reading of_context;               // what every question of it counts
  std::optional<double> mass_kept;  // of the first turn
  for (size_t question = 0; question < sample.questions.size(); ++question) {
    monitor.check();
    const bool more = question + 1 < sample.questions.size();
    Clock clock;
    Reading reading;
    std::vector<int32_t> behind;  // what follows the context, or the turns so far
    if (shared && sample.turns) {
      behind = next_turn(sample, question);
    } else {
      const Pieces prompt = pieces(sample, question);
      behind = prompt.question;
      if (protocol == Protocol::aware) {
        behind.insert(behind.begin(), prompt.context.begin(), prompt.context.end());
        open();
      } else {
        if (!shared) {
          open();
          read(*shared, prompt.context, watch, of_context, monitor);
          of_context.seconds = clock.seconds() - of_context.watching;
          of_context.watching = 0;
          clock = {};
        }
        reading = of_context;
      }
    }
    // A further turn follows the true answer, not the one that is generated: that goes into a fork.
    // So does what is asked of the context alone, with the question.
    const bool forks_turn = sample.turns && more;
    const bool forks_context = !sample.turns && protocol == Protocol::agnostic && more;
    if (!forks_context) read(*shared, behind, watch, reading, monitor);
    const Lender lender{shared.get(), shared->store->bytes()};
    const std::unique_ptr<Session> fork = forks_turn || forks_context ? shared->fork() : nullptr;
    if (forks_context) read(*fork, behind, watch, reading, monitor);
    reading.seconds += clock.seconds() - reading.watching;
    if (question == 0) mass_kept = reading.mass_kept;
    if (!reading.mass_kept) reading.mass_kept = mass_kept;
    outcomes.push_back(answer(fork ? *fork : *shared, fork ? &lender : nullptr, sample, question,
                              reading, watch, monitor));
  }
  return outcomes;
}

}  // namespace pith
