#include "apps/engine_arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/parallel.h"

namespace pith {

void declare_engine(Arguments& arguments, EngineArguments& engine, bool needs_model) {
  Argument& model = arguments.option("-m,--model", engine.model, "FILE", "the model, a GGUF file")
                        .completes(Complete::file);
  if (needs_model) model.required();
  declare_machine(arguments, engine);
}

void declare_machine(Arguments& arguments, EngineArguments& engine) {
  arguments.option("-t,--threads", engine.threads, "N", "threads; 0: one per core").between(0, 256);
  arguments
      .option("-c,--ctx-size", engine.context, "N",
              "most tokens of prompt and answer together; 0: what the model was trained for")
      .at_least(0);
  arguments.option("-b,--batch-size", engine.tile, "N", "rows of a prompt that run together")
      .between(1, 65536);
  arguments
      .bytes("--kv-memory", engine.cache_bytes,
             "hard limit of everything a session holds, such as 2GiB")
      .shows("three quarters of free memory");
  declare_matmul(arguments, engine.matmul);
}

void declare_matmul(Arguments& arguments, std::string& matmul) {
  arguments.choice(
      "--matmul", matmul, "int8|f32",
      "numbers in which products are formed; int8: activations that meet quantised weights in 8 "
      "bits, rows of prompts that meet F16 and BF16 in 14 where that is faster, and prompt "
      "attention in 16, if the model is not F32; f32: the slow reference");
}

void declare_exact(Arguments& arguments, EngineArguments& engine) {
  engine.exact = false;
  arguments.flag("--exact", engine.exact,
                 "when cache memory is short, drop no rows: prompts wait for each other, and an "
                 "answer alone ends with an error");
}

MatmulForm matmul_form(const std::string& name) {
  return name == "f32" ? MatmulForm::f32 : MatmulForm::int8;
}

namespace {

EngineOptions engine_options(const EngineArguments& arguments, bool reuse_prefixes) {
  EngineOptions options;
  options.threads = arguments.threads;
  options.cache_bytes = arguments.cache_bytes;
  options.tile_rows = arguments.tile;
  options.matmul = matmul_form(arguments.matmul);
  options.reuse_prefixes = reuse_prefixes;
  options.exact = arguments.exact;
  return options;
}

}  // namespace

std::unique_ptr<Engine> open_engine(const EngineArguments& arguments, bool reuse_prefixes) {
  return std::make_unique<Engine>(Model::load(arguments.model),
                                  engine_options(arguments, reuse_prefixes));
}

std::vector<std::unique_ptr<Engine>> open_engines(const EngineArguments& arguments,
                                                  bool reuse_prefixes, int count) {
  EngineOptions options = engine_options(arguments, reuse_prefixes);
  const std::shared_ptr<const Model> model = Model::load(arguments.model);
  std::vector<std::unique_ptr<Engine>> engines;
  engines.push_back(std::make_unique<Engine>(model, options));
  if (count == 1) return engines;
  const int threads = engines[0]->backend().threads().count();
  options.threads = std::max(1, threads / count);
  options.cache_bytes =
      std::max<size_t>(1, engines[0]->pool().limit_bytes() / static_cast<size_t>(count));
  engines.clear();
  while (engines.size() < static_cast<size_t>(count))
    engines.push_back(std::make_unique<Engine>(model, options));
  return engines;
}

int context_limit(const Engine& engine, const EngineArguments& arguments) {
  if (arguments.context > 0) return arguments.context;
  const int trained = engine.model().config().max_position;
  return trained > 0 ? trained : std::numeric_limits<int>::max();
}

void declare_spec(Arguments& arguments, std::string& spec) {
  arguments
      .option("--kv", spec, "SPEC",
              "how the cache is compressed, such as snapkv:budget=0.1; 'pith methods' lists them")
      .completes(Complete::method);
}

void declare_sampling(Arguments& arguments, SamplingArguments& sampling) {
  SamplingOptions& o = sampling.options;
  arguments.section("Sampling");
  arguments.option("--temp", o.temperature, "T", "temperature; 0: the most likely token")
      .at_least(0);
  arguments.option("--top-k", o.top_k, "K", "only the K most likely tokens; 0: all").at_least(0);
  arguments.option("--top-p", o.top_p, "P", "only the most likely tokens up to this mass; 1: all")
      .between(0, 1);
  arguments.option("--min-p", o.min_p, "P", "only tokens this likely relative to the best; 0: all")
      .between(0, 1);
  arguments.option("--typical", o.typical_p, "P", "locally typical sampling; 1: off").between(0, 1);
  arguments.option("--min-keep", o.min_keep, "N", "tokens that every filter leaves at least")
      .at_least(1);
  arguments
      .option("--repeat-last-n", o.penalty_last, "N",
              "tokens that penalties look back; 0: none, -1: all")
      .at_least(-1);
  arguments.option("--repeat-penalty", o.repeat_penalty, "X", "divides likelihood; 1: off")
      .at_least(0.01);
  arguments.option("--presence-penalty", o.presence_penalty, "X", "taken off once; 0: off");
  arguments.option("--frequency-penalty", o.frequency_penalty, "X",
                   "taken off per occurrence; 0: off");
  arguments.option("--mirostat", o.mirostat, "N", "2: mirostat 2 in place of the filters; 0: off")
      .between(0, 2);
  arguments.option("--mirostat-ent", o.mirostat_tau, "X", "surprise that mirostat aims at, tau")
      .at_least(0);
  arguments.option("--mirostat-lr", o.mirostat_eta, "X", "learning rate of mirostat, eta")
      .between(0, 1);
  arguments.option("-l,--logit-bias", sampling.logit_bias, "ID+BIAS",
                   "added to a token's logit, such as 15043+1 or 2-1.5; 2=-inf forbids");
  arguments.option("-s,--seed", o.seed, "N", "the same seed gives the same text");
  arguments.section("");
}

SamplingOptions sampling_options(const SamplingArguments& sampling) {
  SamplingOptions options = sampling.options;
  if (options.mirostat == 1)
    throw Error(Errc::bad_option, "--mirostat 1 is not known; 2 is its successor");
  for (const std::string& text : sampling.logit_bias) {
    const auto wrong = [&] {
      return Error(
          Errc::bad_option,
          "--logit-bias needs a token id and a number such as 15043+1, not '" + text + "'");
    };
    int32_t id = 0;
    const char* const end = text.data() + text.size();
    const auto [after, error] = std::from_chars(text.data(), end, id);
    if (error != std::errc() || id < 0 || after == end) throw wrong();
    if (*after != '=' && *after != '+' && *after != '-') throw wrong();
    float bias = 0;
    // from_chars takes "-1" but not "+1".
    const auto [stop, bias_error] = std::from_chars(*after == '-' ? after : after + 1, end, bias);
    if (bias_error != std::errc() || stop != end || std::isnan(bias)) throw wrong();
    options.logit_bias.emplace_back(id, bias);
  }
  return options;
}

}  // namespace pith
