// pith chat: a conversation, on a terminal or from a pipe, over one compressed cache.
#include "text/chat.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <unistd.h>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/generation.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"

namespace pith {
namespace {

struct ChatOptions {
  EngineArguments engine;
  SamplingArguments sampling;
  std::string spec = "full", system, family;
  int predict = -1;
  bool quiet = false;
};

constexpr const char* kHelp =
    "/help     this list\n"
    "/clear    forget the conversation and free its cache\n"
    "/stats    tokens, bytes of the cache, figures of the last answer\n"
    "/quit     leave; so does the end of input\n"
    "Anything else is a message. A line that ends in \\ goes on in the next one.\n";

// A message from standard input; false at its end.
bool read_message(bool terminal, std::string& message) {
  message.clear();
  std::string line;
  for (;;) {
    if (terminal) {
      std::fputs(message.empty() ? "> " : ". ", stdout);
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line)) return !message.empty();
    if (!line.ends_with('\\')) break;
    line.back() = '\n';
    message += line;
  }
  message += line;
  return true;
}

class Conversation {
 public:
  explicit Conversation(const ChatOptions& options)
      : options_(options),
        engine_(open_engine(options.engine)),
        chat_(options.family.empty() ? ChatTemplate::of(engine_->model().file())
                                     : ChatTemplate::named(options.family)),
        sampling_(sampling_options(options.sampling)) {
    clear();
  }

  void clear() {
    open();
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  // Only what is new of the conversation is fed: the cache holds the turns before, as the template
  // writes them. Where it writes an earlier turn differently later on, everything is read again.
  bool say(const std::string& message) {
    messages_.push_back({"user", message});
    const std::string whole = chat_.render(messages_);
    if (!whole.starts_with(fed_)) open();
    const bool first = fed_.empty();
    const std::string fresh = whole.substr(fed_.size());
    const Tokenizer& tokenizer = engine_->tokenizer();
    GenerateRequest request;
    request.max_tokens = options_.predict;
    request.context = context_limit(*engine_, options_.engine);
    request.stops = chat_.stops();
    request.stop_tokens = chat_.stop_tokens(tokenizer);
    request.bar = !options_.quiet;
    last_ = generate_text(
        *engine_, *session_,
        first ? tokenizer.encode_prompt(fresh, true) : tokenizer.encode(fresh, true), request);
    std::fputc('\n', stdout);
    std::fflush(stdout);
    fed_ = whole + last_.text;
    messages_.push_back({"assistant", last_.text});
    return last_.finish != "interrupted";
  }

  void stats() const {
    std::printf("%s, family %s: %zu tokens, cache %s\n", session_->policy->spec.c_str(),
                std::string(chat_.family()).c_str(), session_->tokens.size(),
                bytes_text(session_->store->bytes().total()).c_str());
    if (!last_.tokens.empty()) std::printf("%s\n", last_.figures().c_str());
  }

 private:
  void open() {
    session_ = engine_->open(options_.spec, sampling_);
    fed_.clear();
    last_ = {};
  }

  const ChatOptions& options_;
  std::unique_ptr<Engine> engine_;
  ChatTemplate chat_;
  SamplingOptions sampling_;
  std::unique_ptr<Session> session_;
  std::vector<ChatMessage> messages_;
  std::string fed_;  // the text that the session has read and written
  Generated last_;
};

int chat(const ChatOptions& options) {
  Conversation conversation(options);
  const bool terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
  if (terminal) std::fputs("/help lists the commands, /quit leaves.\n", stdout);
  std::string message;
  while (read_message(terminal, message)) {
    if (message.empty()) continue;
    if (message == "/quit" || message == "/exit") break;
    if (message == "/help") {
      std::fputs(kHelp, stdout);
    } else if (message == "/clear") {
      conversation.clear();
    } else if (message == "/stats") {
      conversation.stats();
    } else if (message.starts_with('/')) {
      std::printf("There is no command %s; /help lists them.\n", message.c_str());
    } else if (!conversation.say(message) && !terminal) {
      return 130;
    }
  }
  if (terminal) std::fputc('\n', stdout);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<ChatOptions>();
  declare_engine(arguments, options->engine);
  declare_spec(arguments, options->spec);
  arguments.option("--system", options->system, "TEXT", "instruction that opens the conversation");
  std::string known;
  for (const std::string_view family : ChatTemplate::families())
    known += (known.empty() ? "" : ", ") + std::string(family);
  arguments.option(
      "--chat-template", options->family, "FAMILY",
      "how messages are written: " + known + "; by default what the model's file says");
  arguments
      .option("-n,--predict", options->predict, "N", "tokens of an answer at most; -1: no limit")
      .at_least(-1);
  arguments.flag("-q,--quiet", options->quiet, "no progress on stderr");
  declare_sampling(arguments, options->sampling);
  return [options] { return chat(*options); };
}

}  // namespace

const Command kChatCommand = {
    "chat",
    "talk with a model",
    "Reads messages line by line and answers each as it comes, over one session: earlier turns "
    "stay in the cache as --kv left them, and only what is new is read. /help lists what a line "
    "may ask beside messages. Input from a pipe works too, one message a line.",
    "$ pith chat -m model.gguf --kv snapkv:budget=2048\n"
    "$ pith chat -m model.gguf --system 'Answer in one sentence.' --chat-template chatml\n"
    "$ echo 'Who wrote Emma?' | pith chat -m model.gguf -q",
    setup,
};

}  // namespace pith
