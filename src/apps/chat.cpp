// pith chat: a conversation, on a terminal or from a pipe, over one compressed cache.
#include "text/chat.h"

#include <cstdio>
#include <iostream>
#include <memory>
#include <unistd.h>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/generation.h"
#include "apps/stop.h"
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
        chat_(chat_template()),
        sampling_(sampling_options(options.sampling)) {
    clear();
  }

  void clear() {
    open();
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  // Answers on standard output. False if Ctrl-C cut the answer short; what there is of it stays. A
  // message that cannot be answered (Error) is forgotten.
  bool say(const std::string& message) {
    messages_.push_back({"user", message});
    try {
      answer();
    } catch (...) {
      messages_.pop_back();
      throw;
    }
    return last_.finish != "interrupted";
  }

  void stats() const {
    std::printf("%s, family %s: %zu tokens, cache %s\n", session_->policy->spec.c_str(),
                std::string(chat_.family()).c_str(), session_->tokens.size(),
                bytes_text(session_->store->bytes().total()).c_str());
    if (!last_.tokens.empty()) std::printf("%s\n", last_.figures().c_str());
  }

 private:
  ChatTemplate chat_template() const {
    if (options_.family.empty()) return ChatTemplate::of(engine_->model().file());
    const Tokenizer& tokenizer = engine_->tokenizer();
    const std::string_view end = tokenizer.name(tokenizer.end_token());
    return end.empty() ? ChatTemplate::named(options_.family)
                       : ChatTemplate::named(options_.family, end);
  }

  void open() {
    session_ = engine_->open(options_.spec, sampling_);
    held_.clear();
    last_ = {};
  }

  // Only what is new of the conversation is fed: the cache holds the turns before, as the template
  // writes them. Where it writes an earlier turn differently later on, everything is read again.
  void answer() {
    const std::string whole = chat_.render(messages_);
    if (!whole.starts_with(held_)) open();
    const Tokenizer& tokenizer = engine_->tokenizer();
    const std::vector<int32_t> fresh =
        held_.empty() ? tokenizer.encode_prompt(whole, true)
                      : tokenizer.encode_more(std::string_view(whole).substr(held_.size()), true);
    GenerateRequest request;
    request.max_tokens = options_.predict;
    request.context = context_limit(*engine_, options_.engine);
    request.stops = chat_.stops();
    request.stop_tokens = chat_.stop_tokens(tokenizer);
    request.bar = !options_.quiet;
    request.goes_on = true;
    last_ = generate_text(*engine_, *session_, fresh, request);
    std::fputc('\n', stdout);
    std::fflush(stdout);
    if (last_.evicted_pages > 0 && !options_.quiet)
      std::fprintf(stderr, "cache at its limit of %s:%s\n",
                   bytes_text(engine_->pool().limit_bytes()).c_str(), last_.evicted().c_str());
    if (last_.before_stop) session_ = std::move(last_.before_stop);
    held_ = whole + last_.held;
    messages_.push_back({"assistant", last_.text});
    // Some templates write the blank that the answer begins with themselves.
    std::string& content = messages_.back().content;
    if (content.starts_with(' ') && !chat_.render(messages_, false).starts_with(held_))
      content.erase(0, 1);
  }

  const ChatOptions& options_;
  std::unique_ptr<Engine> engine_;
  ChatTemplate chat_;
  SamplingOptions sampling_;
  std::unique_ptr<Session> session_;
  std::vector<ChatMessage> messages_;
  std::string held_;  // the text that the cache stands for
  Generated last_;
};

void obey(const std::string& command, Conversation& conversation) {
  if (command == "/help")
    std::fputs(kHelp, stdout);
  else if (command == "/clear")
    conversation.clear();
  else if (command == "/stats")
    conversation.stats();
  else
    std::printf("There is no command %s; /help lists them.\n", command.c_str());
  std::fflush(stdout);
}

int chat(const ChatOptions& options) {
  Conversation conversation(options);
  const bool terminal = ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0;
  if (terminal) std::fputs("/help lists the commands, /quit leaves.\n", stdout);
  std::string message;
  while (read_message(terminal, message)) {
    if (message.empty()) continue;
    if (message == "/quit" || message == "/exit") break;
    if (message.starts_with('/')) {
      obey(message, conversation);
      continue;
    }
    try {
      const bool whole = conversation.say(message);
      if (!whole && !terminal) return 130;
    } catch (const Error& error) {
      // A person can say something else; a pipe cannot.
      if (!terminal || error.code() == Errc::io) throw;
      std::fprintf(stderr, "%s\n", error.what());
    }
    forget_interrupt();
  }
  if (terminal) std::fputc('\n', stdout);
  return interrupted() ? 130 : 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<ChatOptions>();
  declare_engine(arguments, options->engine);
  declare_exact(arguments, options->engine);
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
  arguments.flag("-q,--quiet", options->quiet, "neither progress nor notes on stderr");
  declare_sampling(arguments, options->sampling);
  return [options] { return chat(*options); };
}

}  // namespace

const Command kChatCommand = {
    "chat",
    "talk with a model",
    "Reads messages line by line and answers each as it comes, over one session: earlier turns "
    "stay in the cache as --kv left them, and only what is new is read. When an answer grows "
    "beyond "
    "--kv-memory, the rows that matter least go, unless --exact. /help lists what a line may ask "
    "beside messages. Input from a pipe works too, one message a line.",
    "$ pith chat -m model.gguf --kv snapkv:budget=2048\n"
    "$ pith chat -m model.gguf --system 'Answer in one sentence.' --chat-template chatml\n"
    "$ echo 'Who wrote Emma?' | pith chat -m model.gguf -q",
    setup,
};

}  // namespace pith
