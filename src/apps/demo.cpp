// pith demo: a long prompt hides needles; after one prefill per method each is asked for on a fork.
#include <algorithm>
#include <fmt/format.h>
#include <memory>

#include "apps/command.h"
#include "apps/process_memory.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/table.h"
#include "apps/units.h"
#include "base/error.h"
#include "convert/synthesize.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/likelihood.h"

namespace pith {
namespace {

struct DemoOptions {
  int tokens = 32768, needles = 20, threads = 0, generate = 32;
  uint64_t seed = 1, memory = 0;
  std::vector<std::string> specs;
  std::string format = "md", keep;
};

struct Outcome {
  int found = 0;
  size_t cache_bytes = 0, peak_bytes = 0, peak_resident = 0;
  double ttft_seconds = 0, tokens_per_second = 0;
};

Outcome ask(Engine& engine, const std::string& spec, const RecallPrompt& prompt, int generate,
            Monitor& monitor) {
  Outcome outcome;
  engine.pool().reset_peak();
  reset_peak_resident();
  const auto session = engine.open(spec, {.temperature = 0});
  const Stopwatch watch;
  engine.prefill(*session, prompt.tokens, monitor);
  outcome.ttft_seconds = watch.seconds();
  outcome.cache_bytes = session->store->bytes().total();
  outcome.peak_bytes = engine.pool().peak_bytes();

  int decoded = 0;
  const Stopwatch decoding;
  for (const RecallNeedle& needle : prompt.needles) {
    monitor.check();
    const auto fork = session->fork();
    Session* const one = fork.get();
    engine.decode({&one, 1}, {&needle.key, 1});
    ++decoded;
    outcome.found += most_likely(fork->logits) == needle.value;
  }
  Session* const one = session.get();
  for (int i = 0; i < generate; ++i, ++decoded) {
    const int32_t token = most_likely(session->logits);
    engine.decode({&one, 1}, {&token, 1});
  }
  outcome.tokens_per_second = decoded / decoding.seconds();
  outcome.peak_resident = peak_resident_bytes();
  return outcome;
}

int run_demo(const DemoOptions& options) {
  ProgressBar bar;
  const RecallOptions recall{.seed = options.seed, .context = std::max(65536, options.tokens)};
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
  Table table({{"spec", "method", false},
               {"needles", "needles"},
               {"cache_bytes", "cache"},
               {"peak_bytes", "peak memory"},
               {"peak_resident_bytes", "peak RSS"},
               {"ttft_seconds", "TTFT"},
               {"tokens_per_second", "tokens/s"}});
  for (const std::string& spec : options.specs) {
    const Outcome o = ask(engine, spec, prompt, options.generate, bar);
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
        "at once, both from the allocator. Again: pith demo --tokens {} --needles {} --seed {}\n",
        options.tokens, options.needles, options.seed);
  return 0;
}

}  // namespace

const Command kDemoCommand = {
    "demo", "answer a long prompt from a compressed cache, by several methods",
    "Writes the constructed recall model, lets it read a long prompt that hides needles, and asks "
    "for each needle after compression. The table shows what every method kept of them, and what "
    "it cost.\n\nThe model looks up what followed a key, at any distance, with certainty if "
    "nothing needed was dropped; it knows no language. See docs/recall_model.md.",
    "$ pith demo\n"
    "$ pith demo --tokens 16384 --needles 100 --kv full --kv snapkv:budget=0.05\n"
    "$ pith demo -o json | jq '.[].needles'",
    [](Arguments& arguments) -> std::function<int()> {
      auto o = std::make_shared<DemoOptions>();
      arguments.option("--tokens", o->tokens, "N", "length of the prompt").between(256, 65536);
      arguments.option("--needles", o->needles, "N", "needles to hide").between(1, 200);
      arguments.option("--kv", o->specs, "SPEC", "a method to compare")
          .completes(Complete::method)
          .shows("four of them");
      arguments.option("-t,--threads", o->threads, "N", "threads; 0: one per core").at_least(0);
      arguments.bytes("--kv-memory", o->memory, "hard limit of all cache memory");
      arguments.option("--seed", o->seed, "N", "of model and prompt");
      arguments.option("--keep", o->keep, "FILE", "keep the model as FILE")
          .completes(Complete::file);
      arguments.choice("-o,--output", o->format, "md|json|jsonl|csv", "format of the table");
      return [o] {
        if (o->specs.empty())
          o->specs = {"full", "fastkv:budget=0.1,window=32", "snapkv:budget=0.1",
                      "streaming_llm:budget=0.1"};
        return run_demo(*o);
      };
    }};

}  // namespace pith
