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

size_t SampleRunner::peak() const {
  return std::max(peak_, engine_.pool().peak_bytes());
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
  peak_ = peak();
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

// Questions whose answers are to be written together.
class SampleRunner::Batch {
 public:
  Batch(SampleRunner& runner, int together, Monitor& monitor)
      : runner_(runner), together_(static_cast<size_t>(std::max(together, 1))), monitor_(monitor) {}

  Monitor& monitor() { return monitor_; }
  // That are asked and not answered yet.
  size_t held_bytes() const {
    size_t bytes = 0;
    for (const Asked& asked : asked_) bytes += asked.session->store->bytes().total();
    return bytes;
  }
  void add(Asked asked) {
    asked_.push_back(std::move(asked));
    if (asked_.size() == together_) answer();
  }
  void answer() {
    runner_.answer(asked_, monitor_);
    asked_.clear();
  }
  // Once more without the others if there is no memory beside them.
  void with_room(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      if (error.code() != Errc::no_memory || asked_.empty()) throw;
      answer();
      action();
    }
  }

 private:
  SampleRunner& runner_;
  const size_t together_;
  Monitor& monitor_;
  std::vector<Asked> asked_;
};

void SampleRunner::ask(std::unique_ptr<Session> session, const Sample& sample,
                       const Reading& reading, const Watch& watch, Outcome& out, Batch& batch) {
  out.prompt_tokens = static_cast<int>(session->tokens.size());
  out.prompt_bytes = session->store->bytes(Count::whole);
  const KvShape& shape = engine_.model().config().shape;
  out.full_bytes = uint64_t{2} * sizeof(uint16_t) * static_cast<uint64_t>(shape.layers) *
                   static_cast<uint64_t>(shape.heads) * static_cast<uint64_t>(shape.dim) *
                   session->tokens.size();
  out.first_seconds = reading.seconds;
  out.compress_seconds = std::max(reading.compressing, 0.0);
  out.mass_kept = reading.mass_kept;
  out.peak_bytes = peak() - std::min(peak(), batch.held_bytes());
  const auto question = static_cast<size_t>(out.question);
  if (watch.compare) compare(*session, watch.compare->answers[question], out);
  FullAnswers::Answer* const record = watch.record ? &watch.record->answers[question] : nullptr;
  batch.add({std::move(session), &sample, record, &out});
}

// Nothing if the answer ends here.
std::optional<int32_t> SampleRunner::next_token(Asked& asked,
                                                const std::function<double()>& seconds) {
  Session& session = *asked.session;
  const Sample& sample = *asked.sample;
  Outcome& out = *asked.out;
  if (out.generated_tokens == sample.max_new_tokens) return std::nullopt;
  const double before = seconds();
  std::vector<float> logits = session.logits;
  const int32_t token = session.sampler.sample(logits, session.tokens);
  if (engine_.ends_generation(token) || std::ranges::find(stops_, token) != stops_.end())
    return std::nullopt;
  const double now = seconds();
  if (out.generated_tokens++ == 0)
    out.first_seconds += now - before;
  else
    out.token_seconds += now - asked.last;
  asked.last = now;
  if (asked.record && out.generated_tokens <= FullAnswers::kTokens) {
    asked.record->tokens.push_back(token);
    asked.record->logits.insert(asked.record->logits.end(), session.logits.begin(),
                                session.logits.end());
  }
  out.output += engine_.tokenizer().piece(token);
  if (!sample.first_line) return token;
  // Nothing behind the first line counts.
  const size_t text = out.output.find_first_not_of('\n');
  const bool ended = text != std::string::npos && out.output.find('\n', text) != std::string::npos;
  return ended ? std::nullopt : std::optional(token);
}

// Alone, a session might have lost no rows for want of memory.
void SampleRunner::decode_exactly(std::span<Session* const> sessions,
                                  std::span<const int32_t> tokens) {
  while (engine_.write_step(sessions, tokens) != Progress::done) {
    size_t needed = 0;
    for (const Session* session : sessions) needed += engine_.bytes_needed(*session);
    if (!engine_.prefixes() || !engine_.prefixes()->release(needed))
      throw Error(Errc::no_memory, "no memory for so many answers at once");
  }
}

void SampleRunner::answer(std::vector<Asked>& batch, Monitor& monitor) {
  const Clock clock;
  std::vector<Asked*> going;
  for (Asked& asked : batch) going.push_back(&asked);
  while (!going.empty()) {
    monitor.check();
    std::vector<Session*> sessions;
    std::vector<int32_t> tokens;
    std::erase_if(going, [&](Asked* asked) {
      const std::optional<int32_t> token = next_token(*asked, [&] { return clock.seconds(); });
      if (!token) return true;
      sessions.push_back(asked->session.get());
      tokens.push_back(*token);
      return false;
    });
    if (sessions.empty()) break;
    if (batch.size() == 1)
      engine_.decode(sessions, tokens);
    else
      decode_exactly(sessions, tokens);
  }
  for (Asked& asked : batch) {
    Outcome& out = *asked.out;
    if (asked.record) {
      if (asked.record->tokens.empty()) asked.record->logits = asked.session->logits;
      out.divergence = 0;
      out.agreement = 1;
    }
    if (out.generated_tokens > 1) out.token_seconds /= out.generated_tokens - 1;
    out.end_bytes = asked.session->store->bytes(Count::whole);
    // Of several, what the pool had most was not of one of them.
    out.peak_bytes = std::max<uint64_t>(
        out.peak_bytes, batch.size() == 1 ? peak() : asked.session->store->bytes().total());
    out.peak_bytes += engine_.scratch_bytes();
    out.score = asked.sample->grade(static_cast<size_t>(out.question), out.output);
  }
}

std::vector<Outcome> SampleRunner::run(const Sample& sample, std::string_view spec,
                                       Protocol protocol, Monitor& monitor, const Watch& watch) {
  const Sample* const one = &sample;
  return std::move(run({&one, 1}, spec, protocol, monitor, {&watch, 1}, 1)[0]);
}

std::vector<std::vector<Outcome>> SampleRunner::run(std::span<const Sample* const> samples,
                                                    std::string_view spec, Protocol protocol,
                                                    Monitor& monitor,
                                                    std::span<const Watch> watches, int together) {
  for (;; together /= 2) {
    std::vector<std::vector<Outcome>> outcomes(samples.size());
    try {
      Batch batch(*this, together, monitor);
      for (size_t i = 0; i < samples.size(); ++i)
        run_sample(*samples[i], spec, protocol, watches.empty() ? Watch{} : watches[i], outcomes[i],
                   batch);
      batch.answer();
      return outcomes;
    } catch (const Error& error) {
      if (error.code() != Errc::no_memory || together <= 1) throw;
    }
  }
}

void SampleRunner::run_sample(const Sample& sample, std::string_view spec, Protocol protocol,
                              const Watch& watch, std::vector<Outcome>& outcomes, Batch& batch) {
  Monitor& monitor = batch.monitor();
  outcomes.resize(sample.questions.size());
  if (watch.record) watch.record->answers.assign(sample.questions.size(), {});
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
          batch.with_room([&] { read(*shared, prompt.context, watch, of_context, monitor); });
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
    std::unique_ptr<Session> asked;
    const auto fork = [&] { asked = shared->fork(); };
    if (forks_context)
      batch.with_room(fork);
    else
      batch.with_room([&] { read(*shared, behind, watch, reading, monitor); });
    if (forks_turn) batch.with_room(fork);
    if (forks_context) batch.with_room([&] { read(*asked, behind, watch, reading, monitor); });
    if (!asked) asked = std::move(shared);
    reading.seconds += clock.seconds() - reading.watching;
    if (question == 0) mass_kept = reading.mass_kept;
    if (!reading.mass_kept) reading.mass_kept = mass_kept;
    outcomes[question].question = static_cast<int>(question);
    ask(std::move(asked), sample, reading, watch, outcomes[question], batch);
  }
}

}  // namespace pith
