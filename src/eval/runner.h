// Runs samples of tasks through a model with compressed caches, and says what each answer scored,
// held and took.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "eval/task.h"
#include "kv/store.h"
#include "runtime/engine.h"
#include "text/chat.h"

namespace pith {

// Query-aware: context and question are compressed as one prompt. Query-agnostic: the context is
// compressed alone, once, and each question is asked of a fork of that. Never in one table.
enum class Protocol { aware, agnostic };
std::string_view protocol_name(Protocol protocol);

// Of one question.
struct Outcome {
  int question = 0;
  double score = 0;
  std::string output;
  int prompt_tokens = 0, generated_tokens = 0;
  // Held after the prompt, and after the answer, as if nothing of it were shared.
  CacheBytes prompt_bytes, end_bytes;
  uint64_t full_bytes = 0;  // of an f16 cache of the prompt
  // From nothing to the first token of the answer: with a context that is shared, the time it took
  // counts in full for each of its questions.
  double first_seconds = 0;
  double token_seconds = 0;  // of each token after the first; 0 if there is none
  // Of first_seconds: what the compression took, scores, budgets, choosing and coding.
  double compress_seconds = 0;
  // The most that was held at once since the session of the prompt was opened: everything counted
  // in the pool, a prompt in flight too, and the scratch of the forward pass.
  uint64_t peak_bytes = 0;
  // Where they are asked for, see Watch.
  std::optional<double> divergence, agreement, mass_kept;
};

// What the full cache answers to the questions of a sample, and how likely every token was to it.
struct FullAnswers {
  static constexpr int kTokens = 64;  // of each answer at most: logits are large
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<float> logits;  // [tokens, vocab] before each token; of an empty answer one row
  };
  std::vector<Answer> answers;  // by question
};

// What is measured beside the answers. It takes no part in their times and peaks.
struct Watch {
  // The spec is "full": keeps what it answers.
  FullAnswers* record = nullptr;
  // Feeds the full cache's answers token by token (teacher forcing): Outcome::divergence is the
  // mean KL divergence from the full cache's distributions, agreement how often both hold the same
  // token for the most likely.
  const FullAnswers* compare = nullptr;
  // Outcome::mass_kept: of the attention that the last kMassQueries queries of the text that is
  // compressed pay to rows of their layer, the share that goes to rows that are kept; a mean over
  // heads. Further turns have that of the first.
  bool mass = false;
  static constexpr int kMassQueries = 32;
};

// A model's tokenizer, as tasks see it. The tokenizer outlives it.
class ModelText final : public TokenText {
 public:
  explicit ModelText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> tokens) const override;

 private:
  const Tokenizer& tokenizer_;
};

class SampleRunner {
 public:
  // Without a template, prompts are plain text. The engine outlives it and has a tokenizer.
  SampleRunner(Engine& engine, std::optional<ChatTemplate> chat);

  const TokenText& text() const { return text_; }
  // What is around each sample: begin token, template.
  int wrapper_tokens() const;
  // Looks on while contexts are compressed, and further turns, unless Watch::mass does; null:
  // nobody. Not owned.
  void let_watch(PromptObserver* observer) { observer_ = observer; }
  // Greedy answers to all questions of the sample. Throws what Engine::prefill does.
  std::vector<Outcome> run(const Sample& sample, std::string_view spec, Protocol protocol,
                           Monitor& monitor, const Watch& watch = {});
  // The same of several samples. Up to `together` answers are written at once, fewer where memory
  // is short: what they say and hold is the same, and a token takes as long as that of the batch.
  // `watches`: of each sample, or none.
  std::vector<std::vector<Outcome>> run(std::span<const Sample* const> samples,
                                        std::string_view spec, Protocol protocol, Monitor& monitor,
                                        std::span<const Watch> watches, int together);

 private:
  struct Pieces {
    std::vector<int32_t> context, question;
  };
  Pieces pieces(const Sample& sample, size_t question) const;
  // A further turn: the true answer of the one before, and the question.
  std::vector<int32_t> next_turn(const Sample& sample, size_t question) const;
  // What reading the prompt took.
  struct Reading {
    double seconds = 0, compressing = 0;
    double watching = 0;  // neither counts in the others
    std::optional<double> mass_kept;
  };
  void read(Session& session, std::span<const int32_t> tokens, const Watch& watch, Reading& reading,
            Monitor& monitor);
  // A question whose prompt is read, and the answer as far as it is written.
  struct Asked {
    std::unique_ptr<Session> session;
    const Sample* sample;
    FullAnswers::Answer* record;  // or null
    Outcome* out;
    double last = 0;  // when the last token was there
  };
  class Batch;
  void run_sample(const Sample& sample, std::string_view spec, Protocol protocol,
                  const Watch& watch, std::vector<Outcome>& outcomes, Batch& batch);
  void ask(std::unique_ptr<Session> session, const Sample& sample, const Reading& reading,
           const Watch& watch, Outcome& out, Batch& batch);
  void answer(std::vector<Asked>& batch, Monitor& monitor);
  void decode_exactly(std::span<Session* const> sessions, std::span<const int32_t> tokens);
  std::optional<int32_t> next_token(Asked& asked, const std::function<double()>& seconds);
  void compare(const Session& session, const FullAnswers::Answer& full, Outcome& out);
  size_t peak() const;

  Engine& engine_;
  const std::optional<ChatTemplate> chat_;
  std::vector<int32_t> stops_;
  const ModelText text_;
  PromptObserver* observer_ = nullptr;
  size_t peak_ = 0;  // of the pool, before what was watched
};

}  // namespace pith
