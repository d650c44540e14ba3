// Runs samples of tasks through a model with compressed caches, and says what each answer scored,
// held and took.
#pragma once

#include <cstdint>
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
  // Looks on while contexts are compressed, and further turns; null: nobody. Not owned.
  void let_watch(PromptObserver* observer) { observer_ = observer; }
  // Greedy answers to all questions of the sample. Throws what Engine::prefill does.
  std::vector<Outcome> run(const Sample& sample, std::string_view spec, Protocol protocol,
                           Monitor& monitor);

 private:
  struct Pieces {
    std::vector<int32_t> context, question;
  };
  Pieces pieces(const Sample& sample, size_t question) const;
  // A further turn: the true answer of the one before, and the question.
  std::vector<int32_t> next_turn(const Sample& sample, size_t question) const;
  // A session that forks answer for, and what it held before there was any.
  struct Lender {
    const Session* session;
    CacheBytes alone;
  };
  static CacheBytes held(const Session& session, const Lender* lender);
  // `seconds`: what reading the prompt took.
  Outcome answer(Session& session, const Lender* lender, const Sample& sample, size_t question,
                 double seconds, Monitor& monitor);

  Engine& engine_;
  const std::optional<ChatTemplate> chat_;
  std::vector<int32_t> stops_;
  const ModelText text_;
  PromptObserver* observer_ = nullptr;
};

}  // namespace pith
