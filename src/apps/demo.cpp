// pith demo: a long prompt hides needles; after one prefill per method each is asked for on a fork.
#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <memory>

#include "apps/command.h"
#include "apps/process_memory.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "convert/synthesize.h"
#include "eval/runner.h"
#include "eval/suites.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/likelihood.h"

namespace pith {
namespace {

constexpr int kMostExactTokens = 65536;

struct DemoOptions {
  std::string model = "models/pith-ref.gguf", file;
  bool exact = false;
  int tokens = 0, needles = 0, threads = 0, generate = 32;
  uint64_t seed = 1, memory = 0;
  std::vector<std::string> specs;
  std::string format = "md", keep;
};

struct Row {
  int found = 0;
  size_t cache_bytes = 0, peak_bytes = 0, peak_resident = 0;
  double ttft_seconds = 0, tokens_per_second = 0;
};

Row ask(Engine& engine, const std::string& spec, const RecallPrompt& prompt, int generate,
        Monitor& monitor) {
  Row row;
  engine.pool().reset_peak();
  reset_peak_resident();
  const auto session = engine.open(spec, {.temperature = 0});
  const Stopwatch watch;
  engine.prefill(*session, prompt.tokens, monitor);
  row.ttft_seconds = watch.seconds();
  row.cache_bytes = session->store->bytes().total();
  row.peak_bytes = engine.pool().peak_bytes();

  int decoded = 0;
  const Stopwatch decoding;
  for (const RecallNeedle& needle : prompt.needles) {
    monitor.check();
    const auto fork = session->fork();
    Session* const one = fork.get();
    engine.decode({&one, 1}, {&needle.key, 1});
    ++decoded;
    row.found += most_likely(fork->logits) == needle.value;
  }
  Session* const one = session.get();
  for (int i = 0; i < generate; ++i, ++decoded) {
    const int32_t token = most_likely(session->logits);
    engine.decode({&one, 1}, {&token, 1});
  }
  row.tokens_per_second = decoded / decoding.seconds();
  row.peak_resident = peak_resident_bytes();
  return row;
}

Row ask(Engine& engine, SampleRunner& runner, const std::string& spec, const Sample& sample,
        Monitor& monitor) {
  reset_peak_resident();
  Row row;
  double seconds = 0;
  int decoded = 0;
  for (const Outcome& one : runner.run(sample, spec, Protocol::agnostic, monitor)) {
    row.found += one.score == 1;
    row.cache_bytes = one.prompt_bytes.total();
    row.peak_bytes = std::max(row.peak_bytes, size_t{one.peak_bytes} - engine.scratch_bytes());
    if (one.question == 0) row.ttft_seconds = one.first_seconds;
    seconds += one.token_seconds * std::max(0, one.generated_tokens - 1);
    decoded += std::max(0, one.generated_tokens - 1);
  }
  if (seconds > 0) row.tokens_per_second = decoded / seconds;
  row.peak_resident = peak_resident_bytes();
  return row;
}

// Runs every spec and prints the table.
void compare(const DemoOptions& options, ProgressBar& bar,
             const std::function<Row(const std::string&)>& ask_one) {
  Table table({{"spec", "method", false},
               {"needles", "needles"},
               {"cache_bytes", "cache"},
               {"peak_bytes", "peak memory"},
               {"peak_resident_bytes", "peak RSS"},
               {"ttft_seconds", "TTFT"},
               {"tokens_per_second", "tokens/s"}});
  for (const std::string& spec : options.specs) {
    const Row o = ask_one(spec);
    bar.erase();
    table.add({{spec},
               {fmt::format("{}/{}", o.found, options.needles), std::to_string(o.found)},
               {bytes_text(o.cache_bytes), std::to_string(o.cache_bytes)},
               {bytes_text(o.peak_bytes), std::to_string(o.peak_bytes)},
               {bytes_text(o.peak_resident), std::to_string(o.peak_resident)},
               {duration_text(o.ttft_seconds), fmt::format("{:.4f}", o.ttft_seconds)},
               {fixed_text(o.tokens_per_second, 1), fmt::format("{:.2f}", o.tokens_per_second)}});
  }
  table.print(stdout, options.format);
  if (options.format == "md")
    fmt::print(
        "\ncache: bytes held after the prompt; peak memory: the most that prompt and cache held\n"
        "at once, both from the allocator. Again: pith demo{} --tokens {} --needles {} --seed {}\n",
        options.exact ? " --exact" : "", options.tokens, options.needles, options.seed);
}

int run_exact(DemoOptions options) {
  if (options.tokens == 0) options.tokens = 32768;
  if (options.needles == 0) options.needles = 20;
  if (options.specs.empty())
    options.specs = {"full", "fastkv:budget=0.1,window=32", "snapkv:budget=0.1",
                     "streaming_llm:budget=0.1"};
  ProgressBar bar;
  const RecallOptions recall{.seed = options.seed, .context = kMostExactTokens};
  if (!options.keep.empty()) write_recall_model(options.keep, recall, bar);
  const std::vector<std::byte> bytes = recall_model_bytes(recall);
  const auto model = Model::load(GgufFile::parse(bytes, "the recall model"));
  Engine engine(model, {.threads = options.threads, .cache_bytes = options.memory, .exact = true});
  // Every spec is checked before the first prompt runs.
  for (const std::string& spec : options.specs) make_policy(spec, model->config().shape);
  const RecallPrompt prompt = make_recall_prompt(options.tokens, options.needles, options.seed);

  if (options.format == "md") {
    fmt::print(
        "The recall model (constructed, not trained; {}) reads {} tokens that hide {} needles\n"
        "\"KEY VALUE\" and end with the list of the keys. One prefill per method; then each key\n"
        "is asked on a fork of the compressed cache.\n\n",
        bytes_text(model->weight_bytes()), count_text(options.tokens), options.needles);
    std::fflush(stdout);
  }
  compare(options, bar, [&](const std::string& spec) {
    return ask(engine, spec, prompt, options.generate, bar);
  });
  return 0;
}

int run_trained(DemoOptions options) {
  if (options.needles == 0) options.needles = 12;
  // The list of keys has some 10 tokens for each, and a number with its sentence some 20: the last
  // queries have to see all of the one, and votes to cover the other.
  if (options.specs.empty())
    options.specs = {"full", "fastkv:budget=0.1,window=128,width=21",
                     "snapkv:budget=0.1,window=128,width=21", "streaming_llm:budget=0.1"};
  ProgressBar bar;
  const auto model = Model::load(options.model);
  Engine engine(model, {.threads = options.threads, .cache_bytes = options.memory, .exact = true});
  for (const std::string& spec : options.specs) make_policy(spec, model->config().shape);
  if (options.tokens == 0)
    options.tokens = model->config().max_position > 0 ? model->config().max_position : 4096;
  Materials materials;
  if (!options.file.empty()) materials.haystack = read_file(options.file);
  SampleRunner runner(engine, std::nullopt);
  const Sample sample = asked_needles(options.needles)
                            ->make({.tokens = &runner.text(),
                                    .materials = &materials,
                                    .seed = options.seed,
                                    .max_tokens = options.tokens,
                                    .wrapper_tokens = runner.wrapper_tokens()});
  if (options.format == "md") {
    const Question& first = sample.questions.front();
    fmt::print(
        "{} ({}) reads {} tokens of {} that hide {} numbers\nand end with the list of their keys. "
        "One prefill per method; then each is asked on a\nfork of the compressed cache, such "
        "as: {} ...\n\n",
        options.model, bytes_text(model->weight_bytes()), count_text(options.tokens),
        options.file.empty() ? "made-up prose" : options.file, options.needles,
        (first.text + first.prefix).substr(1));
    std::fflush(stdout);
  }
  compare(options, bar,
          [&](const std::string& spec) { return ask(engine, runner, spec, sample, bar); });
  return 0;
}

}  // namespace

const Command kDemoCommand = {
    "demo", "answer a long prompt from a compressed cache, by several methods",
    "Lets a model read a long English text that hides numbers, and asks for each number after "
    "compression. The table shows what every method kept of them, and what it cost.\n\nWith "
    "--exact the model is the recall model, which is written down and not trained: it looks up "
    "what followed a key, at any distance, with certainty if nothing needed was dropped, and "
    "knows no language. See docs/recall_model.md.",
    "$ pith demo\n"
    "$ pith demo -f report.txt --needles 8 --kv full --kv kvzip:budget=0.2\n"
    "$ pith demo --exact --tokens 16384 --needles 100 --kv full --kv snapkv:budget=0.05\n"
    "$ pith demo -o json | jq '.[].needles'",
    [](Arguments& arguments) -> std::function<int()> {
      auto o = std::make_shared<DemoOptions>();
      arguments.option("-m,--model", o->model, "FILE", "the model that reads")
          .completes(Complete::file);
      arguments.option("-f,--file", o->file, "FILE", "the text that needles are hidden in")
          .completes(Complete::file)
          .shows("made-up prose");
      arguments.flag("--exact", o->exact, "the constructed recall model, on random words");
      arguments.option("--tokens", o->tokens, "N", "length of the prompt")
          .between(256, 1 << 20)
          .shows("what the model was trained for; 32768 with --exact");
      arguments.option("--needles", o->needles, "N", "needles to hide")
          .between(1, 200)
          .shows("12; 20 with --exact");
      arguments.option("--kv", o->specs, "SPEC", "a method to compare")
          .completes(Complete::method)
          .shows("four of them");
      arguments.option("-t,--threads", o->threads, "N", "threads; 0: one per core").at_least(0);
      arguments.bytes("--kv-memory", o->memory, "hard limit of all cache memory");
      arguments.option("--seed", o->seed, "N", "of model and prompt");
      arguments.option("--keep", o->keep, "FILE", "with --exact: keep the model as FILE")
          .completes(Complete::file);
      arguments.choice("-o,--output", o->format, "md|json|jsonl|csv", "format of the table");
      return [o] {
        if (o->exact && !o->file.empty())
          throw Error(Errc::bad_option,
                      "--file is for a model that reads text; leave out --file or --exact");
        if (o->exact && o->tokens > kMostExactTokens)
          throw Error(Errc::bad_option, fmt::format("--tokens is at most {} with --exact, not {}",
                                                    kMostExactTokens, o->tokens));
        if (!o->exact && !o->keep.empty())
          throw Error(Errc::bad_option, "--keep keeps the constructed model; add --exact");
        if (!o->exact && o->needles > kMostAskedNeedles)
          throw Error(Errc::bad_option,
                      fmt::format("--needles is at most {} without --exact, not {}",
                                  kMostAskedNeedles, o->needles));
        if (!o->exact && !std::filesystem::exists(o->model))
          throw Error(Errc::io, o->model +
                                    ": no such file here; name a model with --model, or "
                                    "take the constructed one with --exact");
        return o->exact ? run_exact(*o) : run_trained(*o);
      };
    }};

}  // namespace pith
