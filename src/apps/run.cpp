// pith run: continue a prompt.
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/generation.h"
#include "apps/resources.h"
#include "apps/run_many.h"
#include "apps/standard_output.h"
#include "apps/text_input.h"
#include "base/error.h"
#include "base/output_file.h"
#include "policy/registry.h"

namespace pith {
namespace {

struct RunOptions {
  EngineArguments engine;
  SamplingArguments sampling;
  TextArguments text;
  std::string spec = "full", save, load, span;
  int predict = -1;
  std::vector<std::string> stops;
  bool echo = false, literal = false, json = false, quiet = false;
  std::string prompts, opening;  // files: many prompts, and what all of them follow
  int sessions = 8;
  bool apart = false;
};

// "A:B", either of which may be left out.
std::optional<GenerateRequest::Span> parse_span(const std::string& text, size_t tokens) {
  if (text.empty()) return {};
  GenerateRequest::Span span{0, tokens};
  const auto refuse = [&] {
    throw Error(Errc::bad_option,
                "--compress-span: '" + text + "' is no span of tokens; write 10:900, 10: or :900");
  };
  const size_t colon = text.find(':');
  if (colon == std::string::npos) refuse();
  const auto read = [&](std::string_view digits, size_t& into) {
    if (digits.empty()) return;
    const char* const end = digits.data() + digits.size();
    const auto [at, error] = std::from_chars(digits.data(), end, into);
    if (error != std::errc() || at != end) refuse();
  };
  read(std::string_view(text).substr(0, colon), span.first);
  read(std::string_view(text).substr(colon + 1), span.last);
  return span;
}

std::unique_ptr<Session> open_session(const RunOptions& options, Engine& engine,
                                      const SamplingOptions& sampling) {
  if (options.load.empty()) return engine.open(options.spec, sampling);
  std::unique_ptr<Session> session = engine.load(options.load, sampling);
  const ModelConfig& config = engine.model().config();
  if (options.spec != "full" &&
      make_policy(options.spec, config.shape, config.digest)->spec != session->policy->spec)
    throw Error(Errc::bad_option, "--kv: " + options.load + " was compressed by '" +
                                      session->policy->spec +
                                      "'; leave --kv out, or give the same");
  return session;
}

std::vector<std::string> stop_strings(const RunOptions& options) {
  std::vector<std::string> stops;
  for (const std::string& stop : options.stops)
    stops.push_back(options.text.escapes ? unescape(stop) : stop);
  return stops;
}

int run_prompts(const RunOptions& options) {
  const auto refuse = [](const char* option, const char* why) {
    throw Error(Errc::bad_option, std::string(option) + " and --prompts: " + why);
  };
  if (options.text.given_prompt || !options.text.file.empty())
    refuse(options.text.given_prompt ? "-p" : "-f", "the prompts come from one place");
  if (!options.save.empty() || !options.load.empty())
    refuse(options.save.empty() ? "--load" : "--save", "a file holds one session");
  if (options.echo) refuse("--echo", "headings say which answer is whose");
  if (!options.span.empty())
    refuse("--compress-span", "prompts differ in length; --opening is what is compressed once");
  ManyOptions many;
  many.engine = options.engine;
  many.sampling = sampling_options(options.sampling);
  many.prompts = options.prompts;
  many.opening = options.opening;
  many.spec = options.spec;
  many.predict = options.predict;
  many.sessions = options.sessions;
  many.stops = stop_strings(options);
  many.escapes = options.text.escapes;
  many.literal = options.literal;
  many.json = options.json;
  many.quiet = options.quiet;
  many.exact = options.engine.exact;
  many.reuse = !options.apart;
  return run_many(many);
}

int run(const RunOptions& options) {
  if (!options.prompts.empty()) return run_prompts(options);
  if (!options.opening.empty())
    throw Error(Errc::bad_option, "--opening is what --prompts follow; give both, or -f");
  const SamplingOptions sampling = sampling_options(options.sampling);
  const bool resumes = !options.load.empty();
  if (!options.save.empty()) {
    refuse_same_file(options.engine.model, options.save);
    OutputFile::check(options.save);
  }
  const bool silent = resumes && !options.text.given_prompt && options.text.file.empty();
  const std::string text = silent ? "" : read_text(options.text, "prompt");
  const std::unique_ptr<Engine> engine = open_engine(options.engine);
  std::unique_ptr<Session> session = open_session(options, *engine, sampling);
  const Tokenizer& tokenizer = engine->tokenizer();
  const std::vector<int32_t> prompt = resumes ? tokenizer.encode_more(text, !options.literal)
                                              : tokenizer.encode_prompt(text, !options.literal);
  if (prompt.empty() && session->logits.empty())
    throw Error(Errc::bad_request, "the prompt is empty");
  if (options.echo && !options.json) {
    show_text(text);
  }
  GenerateRequest request;
  request.max_tokens = options.predict;
  request.context = context_limit(*engine, options.engine);
  request.stops = stop_strings(options);
  request.show = !options.json;
  request.goes_on = !options.save.empty();
  request.bar = !options.quiet;
  request.span = parse_span(options.span, prompt.size());
  if (request.span && session->policy->reduce_every > 0)
    throw Error(Errc::bad_option, "--compress-span: '" + session->policy->spec +
                                      "' drops rows while generating, whichever turn they are of; "
                                      "leave reduce_every at 0, or --compress-span out");
  Generated generated = generate_text(*engine, *session, prompt, request);
  if (generated.before_stop) session = std::move(generated.before_stop);
  if (!options.save.empty()) engine->save(*session, options.save);
  if (options.json) {
    JsonWriter json;
    json.object().key("model").value(options.engine.model);
    json.key("spec").value(session->policy->spec).key("seed").value(sampling.seed);
    json.key("warnings").array();
    for (const std::string& warning : session->warnings) json.value(warning);
    json.end();
    generated.write(json);
    std::fputs(json.end().text().c_str(), stdout);
  } else {
    std::fputc('\n', stdout);
    std::fflush(stdout);
    if (!options.quiet) std::fprintf(stderr, "%s\n", generated.figures().c_str());
  }
  return generated.finish == "interrupted" ? 130 : 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<RunOptions>();
  declare_engine(arguments, options->engine);
  declare_exact(arguments, options->engine);
  declare_spec(arguments, options->spec);
  declare_text(arguments, options->text, "prompt");
  arguments
      .option("-n,--predict", options->predict, "N",
              "tokens to generate at most; -1: until the model ends or the context is full")
      .at_least(-1);
  arguments.option("--stop", options->stops, "TEXT", "end before this text");
  arguments.option("--save", options->save, "FILE", "keep the compressed session, answer included")
      .completes(Complete::file);
  arguments
      .option("--load", options->load, "FILE",
              "go on where a saved session ended; the prompt, if any, follows its text")
      .completes(Complete::file);
  arguments.option("--compress-span", options->span, "A:B",
                   "compress tokens A to B of the prompt, B not included, and keep the others "
                   "whole; either may be left out");
  arguments.flag("--literal", options->literal, "text that looks like a special token stays text");
  arguments.flag("--echo", options->echo, "write the prompt before the answer");
  arguments.flag("--json", options->json, "write text, token ids and figures as JSON at the end");
  arguments.flag("-q,--quiet", options->quiet, "neither progress nor figures on stderr");
  arguments.section("Many prompts");
  arguments
      .option(
          "--prompts", options->prompts, "FILE",
          "answer each line of a file: texts, or JSON objects with \"prompt\" and, if it differs "
          "from the rest, \"kv\", \"predict\" and \"seed\"; '-': standard input")
      .completes(Complete::file);
  arguments
      .option("--opening", options->opening, "FILE",
              "a text that every prompt follows, such as a document before questions; methods that "
              "need no question (knorm, keydiff, kvdistill, kvzip, razor, streaming_llm) compress "
              "it once")
      .completes(Complete::file);
  arguments
      .option("--sessions", options->sessions, "N", "prompts that are in memory at a time, at most")
      .between(1, 4096);
  arguments.flag("--apart", options->apart, "prompts that begin the same share nothing");
  arguments.section("");
  declare_sampling(arguments, options->sampling);
  return [options] { return run(*options); };
}

}  // namespace

const Command kRunCommand = {
    "run",
    "continue a prompt",
    "Reads a prompt, compresses its cache as --kv says, and writes the continuation to standard "
    "output as it comes. A line with time to first token, tokens per second, the bytes of the "
    "cache and the peak of memory goes to standard error. The token that begins a text is added "
    "if the model expects it. Ctrl-C ends the answer; what was written stays. When an answer grows "
    "beyond --kv-memory, the rows that matter least go, unless --exact, and the line says how "
    "many.\n\n"
    "With --prompts, many prompts are answered at once, and --kv-memory is the limit of all of "
    "them together. What prompts that begin the same have in common is computed once, and held "
    "once by methods that keep every row. When memory runs short, such beginnings are forgotten "
    "first; then the rows of all sessions that matter least go, unless --exact; then the youngest "
    "session starts again later; a prompt that is too large by itself is refused. Answers come in "
    "the order of the prompts, each when it is complete.",
    "$ pith run -m model.gguf -p 'Once upon a time' -n 64\n"
    "$ pith run -m model.gguf -f report.txt --kv snapkv:budget=0.1 --temp 0\n"
    "$ pith run -m model.gguf -f mail.txt --compress-span 40:900 --kv knorm:budget=0.1\n"
    "$ pith run -m model.gguf -p 'Q: 2 + 2 = ?\\nA:' -e --stop '\\n'\n"
    "$ pith run -m model.gguf -f book.txt --kv snapkv:budget=0.02 -n 0 --save book.session\n"
    "$ pith run -m model.gguf --load book.session -p 'Who is Lydia?' -n 64\n"
    "$ pith run -m model.gguf --prompts questions.txt --kv-memory 2GiB --sessions 16 -n 64\n"
    "$ pith run -m model.gguf --opening book.txt --prompts questions.txt --kv kvzip:budget=0.1\n"
    "$ git diff | pith run -m model.gguf --kv fastkv:budget=0.1 --json",
    setup,
};

}  // namespace pith
