// pith bench: how fast a model reads and writes, and what memory that takes, at any depth and with
// any method.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <memory>
#include <numeric>

#include "apps/bench_bound.h"
#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/process_memory.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/table.h"
#include "apps/units.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/random.h"
#include "base/roofline.h"
#include "convert/synthesize.h"
#include "kernels/kernels.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "runtime/likelihood.h"

namespace pith {
namespace {

struct BenchOptions {
  std::string model, geometry, type = "Q8_0", output = "md";
  std::string matmul = "int8";
  std::string prompts = "512", generations = "128", depths = "0", threads = "0";
  int repetitions = 5, tile_rows = 512;
  bool made_up = false;  // the depth
  bool no_bound = false;
  uint64_t memory = 0, seed = 1;
  std::vector<std::string> specs;
};

// "512,1024" as numbers.
std::vector<int> numbers(std::string_view option, const std::string& text) {
  std::vector<int> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    if (part.empty() || part.size() > 8 ||
        part.find_first_not_of("0123456789") != std::string::npos)
      throw Error(
          Errc::bad_option,
          std::string(option) + " needs whole numbers separated by commas, not '" + text + "'");
    out.push_back(std::stoi(part));
    at = comma + 1;
  }
  return out;
}

struct Test {
  int prompt = 0, generate = 0, depth = 0;
  std::string name() const {
    std::string text = prompt > 0 ? fmt::format("pp{}", prompt) : fmt::format("tg{}", generate);
    if (depth > 0) text += fmt::format(" @ d{}", depth);
    return text;
  }
};

struct Result {
  std::vector<double> seconds;  // of the timed part, one per repetition
  double ttft_seconds = 0;      // of depth and prompt together, median
  std::vector<double> shares;   // of a timed prompt that its method took
  size_t cache_bytes = 0;       // held at the end
  size_t allocator_peak = 0;    // pool and scratch of the forward pass
  size_t resident_peak = 0;     // of the process, without the weights
  Work work;                    // of the timed part
};

double median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::ranges::sort(x);
  return x.size() % 2 ? x[x.size() / 2] : (x[x.size() / 2 - 1] + x[x.size() / 2]) / 2;
}

std::vector<int32_t> random_tokens(int count, int vocab, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab)));
  return tokens;
}

// Touches every page of the weights, so that reading them from disk is not what is measured, and
// they count as resident from the start.
void touch(const Model& model) {
  volatile std::byte sink{};
  for (const GgufTensor& t : model.file().tensors())
    for (size_t i = 0; i < t.data.size(); i += 4096) sink = t.data[i];
  (void)sink;
}

Result run(Engine& engine, const Test& test, const std::string& spec, const BenchOptions& options,
           size_t resident_before, Monitor& monitor) {
  Result result;
  std::vector<double> ttfts;
  engine.pool().reset_peak();
  reset_peak_resident();
  const int vocab = engine.model().config().vocab;
  for (int r = 0; r < options.repetitions; ++r) {
    const auto session = engine.open(spec, {.temperature = 0});
    const auto tokens = random_tokens(test.depth + std::max(1, test.prompt), vocab,
                                      options.seed + static_cast<uint64_t>(r));
    const std::span<const int32_t> all(tokens);
    double before = 0;
    if (test.depth > 0) {
      const Stopwatch watch;
      const std::span<const int32_t> depth = all.first(static_cast<size_t>(test.depth));
      if (options.made_up)
        engine.make_up(*session, depth, monitor);
      else
        engine.prefill(*session, depth, monitor);
      before = watch.seconds();
    }
    if (test.prompt == 0 && test.depth == 0) engine.prefill(*session, all.first(1), monitor);
    const double compressed = session->compressor.stats().prompt_seconds;
    const Stopwatch watch;
    if (test.prompt > 0) {
      PromptWork work(engine.model(), engine.options().matmul);
      session->observer = &work;
      engine.prefill(*session, all.subspan(static_cast<size_t>(test.depth)), monitor);
      session->observer = nullptr;
      result.work = work.work();
      if (!options.made_up) ttfts.push_back(before + watch.seconds());
    } else {
      Session* const one = session.get();
      result.work = {};
      if (test.depth > 0 && !options.made_up) ttfts.push_back(before);
      for (int i = 0; i < test.generate; ++i) {
        monitor.check();
        monitor.progress("generate", i, test.generate);
        const int32_t token = most_likely(session->logits);
        engine.decode({&one, 1}, {&token, 1});
        // Rows come one by one, so the middle token stands for all.
        if (i == test.generate / 2)
          result.work = token_work(engine.model(), engine.options().matmul, *session->store,
                                   session->policy->store.k, !session->policy->reader);
      }
    }
    result.seconds.push_back(watch.seconds());
    if (test.prompt > 0)
      result.shares.push_back((session->compressor.stats().prompt_seconds - compressed) /
                              result.seconds.back());
    result.cache_bytes = session->store->bytes().total();
  }
  result.ttft_seconds = median(ttfts);
  result.allocator_peak = engine.pool().peak_bytes() + engine.scratch_bytes();
  const size_t peak = peak_resident_bytes();
  result.resident_peak = peak > resident_before ? peak - resident_before : 0;
  return result;
}

bool is_format(const std::string& output) {
  return output == "md" || output == "json" || output == "jsonl" || output == "csv" ||
         output == "sql";
}

std::string roof_text(const Roofline& roof, int threads) {
  const std::string arithmetic =
      roof.flops > 0
          ? fmt::format(" {:.0f} Gop/s of floats, {:.0f} of 16-bit and {:.0f} of 8-bit integers,",
                        roof.flops / 1e9, roof.word_ops / 1e9, roof.byte_ops / 1e9)
          : "";
  return fmt::format("\nMeasured here with {} thread{}:{} {:.1f} GB/s read from memory.\n", threads,
                     threads == 1 ? "" : "s", arithmetic, roof.read_bytes / 1e9);
}

// A model file, or random weights in memory, which live as long as the model.
class BenchModel {
 public:
  BenchModel(const BenchOptions& options, const WeightFormat& format, Monitor& monitor) {
    if (!options.model.empty()) {
      model_ = Model::load(options.model);
      return;
    }
    bytes_ = geometry_bytes(options.geometry, format, options.seed, monitor);
    model_ = Model::load(GgufFile::parse(bytes_, options.geometry + " in memory"));
  }
  const std::shared_ptr<const Model>& model() const { return model_; }

 private:
  std::vector<std::byte> bytes_;
  std::shared_ptr<const Model> model_;
};

int run_bench(const BenchOptions& options) {
  ProgressBar bar;
  if (!options.model.empty() && !options.geometry.empty())
    throw Error(Errc::bad_option, "-m and --geometry are both given; which one is the model?");
  if (options.model.empty() && options.geometry.empty())
    throw Error(Errc::bad_option,
                "bench needs a model: -m FILE, or --geometry NAME for random weights of a known "
                "shape");
  WeightFormat format(DType::q8_0);
  if (!parse_weight_format(options.type, format))
    throw Error(Errc::bad_option, "--type: no weight format is called '" + options.type +
                                      "'; try F16, Q8_0, Q4_0 or Q4_K_M");
  if (!is_format(options.output)) {
    if (options.geometry.empty() || !options.output.ends_with(".gguf"))
      throw Error(Errc::bad_option,
                  "-o is md, json, jsonl, csv or sql, or with --geometry a FILE.gguf "
                  "to write, not '" +
                      options.output + "'");
    write_geometry(options.geometry, format, options.output, options.seed, bar);
    bar.erase();
    fmt::print("{}: {} {}, random weights, {}\n", options.output, options.geometry, options.type,
               bytes_text(std::filesystem::file_size(options.output)));
    return 0;
  }

  std::vector<Test> tests;
  for (int depth : numbers("-d", options.depths)) {
    for (int prompt : numbers("-p", options.prompts))
      if (prompt > 0) tests.push_back({prompt, 0, depth});
    for (int generate : numbers("-n", options.generations))
      if (generate > 0) tests.push_back({0, generate, depth});
  }
  if (tests.empty()) throw Error(Errc::bad_option, "nothing to measure: -p and -n are both 0");

  const BenchModel holder(options, format, bar);
  const std::shared_ptr<const Model>& model = holder.model();
  touch(*model);
  const ModelConfig& config = model->config();
  Table table({{"model", "model", false},
               {"weight_bytes", "size"},
               {"spec", "kv", false},
               {"isa", "isa", false},
               {"threads", "threads"},
               {"test", "test", false},
               {"tokens_per_second", "t/s"},
               {"tokens_per_second_stddev", "+-"},
               {"bound_tokens_per_second", "bound"},
               {"bound_share", "of bound"},
               {"bound_by", "by", false},
               {"ttft_seconds", "TTFT"},
               {"compression_share", "compression"},
               {"cache_bytes", "cache"},
               {"allocator_peak_bytes", "peak (allocator)"},
               {"resident_peak_bytes", "peak RSS - weights"}});
  std::string roofs;  // for people
  for (int threads : numbers("-t", options.threads)) {
    // What the process holds besides the model: its code and the libraries' state.
    const size_t resident_before = resident_bytes();
    Engine engine(model, {.threads = threads,
                          .cache_bytes = options.memory,
                          .tile_rows = options.tile_rows,
                          .matmul = matmul_form(options.matmul),
                          .exact = true});
    for (const std::string& spec : options.specs) make_policy(spec, config.shape);
    {  // warm-up: threads start, scratch pages are touched
      const auto session = engine.open("full");
      engine.prefill(*session, random_tokens(32, config.vocab, options.seed), bar);
    }
    const int count = engine.backend().threads().count();
    const Roofline* const roof = options.no_bound ? nullptr : &roofline(count);
    if (roof) roofs += roof_text(*roof, count);
    for (const std::string& spec : options.specs)
      for (const Test& test : tests) {
        const Result r = run(engine, test, spec, options, resident_before, bar);
        bar.erase();
        const int tokens = std::max(test.prompt, test.generate);
        std::vector<double> speeds;
        for (double s : r.seconds) speeds.push_back(tokens / s);
        const double mean =
            std::accumulate(speeds.begin(), speeds.end(), 0.0) / static_cast<double>(speeds.size());
        double square = 0;
        for (double s : speeds) square += (s - mean) * (s - mean);
        const double deviation =
            speeds.size() > 1 ? std::sqrt(square / static_cast<double>(speeds.size() - 1)) : 0;
        const double middle = median(speeds);
        const size_t weights = model->weight_bytes();
        const Bound bound = roof ? bound_of(r.work, *roof) : Bound{};
        // Work of a generation is one token's.
        const double most = bound.seconds > 0 ? std::max(test.prompt, 1) / bound.seconds : 0;
        table.add(
            {{config.name},
             {bytes_text(weights), std::to_string(weights)},
             {spec},
             {std::string(active_kernels().name)},
             {std::to_string(count)},
             {test.name()},
             {fixed_text(middle, 2), fmt::format("{:.4f}", middle)},
             {fixed_text(deviation, 2), fmt::format("{:.4f}", deviation)},
             {most > 0 ? fixed_text(most, 2) : "", most > 0 ? fmt::format("{:.4f}", most) : ""},
             {most > 0 ? fmt::format("{:.0f} %", 100 * middle / most) : "",
              most > 0 ? fmt::format("{:.4f}", middle / most) : ""},
             {std::string(bound.by)},
             {r.ttft_seconds > 0 ? duration_text(r.ttft_seconds) : "",
              r.ttft_seconds > 0 ? fmt::format("{:.4f}", r.ttft_seconds) : ""},
             {r.shares.empty() ? "" : fmt::format("{:.1f} %", 100 * median(r.shares)),
              r.shares.empty() ? "" : fmt::format("{:.5f}", median(r.shares))},
             {bytes_text(r.cache_bytes), std::to_string(r.cache_bytes)},
             {bytes_text(r.allocator_peak), std::to_string(r.allocator_peak)},
             {bytes_text(r.resident_peak), std::to_string(r.resident_peak)}});
      }
  }
  table.print(stdout, options.output, "pith_bench");
  if (options.output == "md") fmt::print("{}", roofs);
  return 0;
}

}  // namespace

const Command kBenchCommand = {
    "bench", "measure speed and memory at any depth, with any method",
    "Reads prompts of random tokens (pp), then writes tokens (tg), after a depth of earlier tokens "
    "that is read first and not timed. Speeds are medians over the repetitions.\n\n"
    "TTFT is the time from the first token of the depth to the last of the prompt. Compression is "
    "the share of a prompt's time that went into scores, budgets, choosing, gathering and coding "
    "of rows. The allocator's "
    "peak counts everything a session held at once and the scratch of the forward pass; the "
    "system's figure beside it is the process's peak without the weights.\n\n"
    "The bound is how fast this machine could be at most, by the multiply-adds and the bytes of "
    "weights and cache that a test cannot do without, over the arithmetic and the memory speed "
    "that are measured in the same run. Work that a method saves is not counted.\n\n"
    "--geometry makes random weights of a known shape, in memory, or as a file with -o FILE.gguf "
    "that other GGUF engines load too.",
    "$ pith bench -m model.gguf -p 512 -n 128 -d 0,4096 -t 2\n"
    "$ pith bench --geometry llama-3.2-1b --type Q4_0 -p 32768 -n 0 -r 1 --kv full "
    "\\\n    --kv snapkv:budget=0.1\n"
    "$ pith bench --geometry qwen2.5-0.5b --type F16 -o qwen-random.gguf",
    [](Arguments& arguments) -> std::function<int()> {
      auto o = std::make_shared<BenchOptions>();
      arguments.option("-m,--model", o->model, "FILE", "a GGUF model").completes(Complete::file);
      std::string known;
      for (std::string_view name : geometry_names())
        known += (known.empty() ? "" : ", ") + std::string(name);
      arguments.option("--geometry", o->geometry, "NAME", "random weights of a shape: " + known);
      arguments.option(
          "--type", o->type, "TYPE",
          "format of the random weights: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q4_K_M and others");
      arguments.option("-p,--n-prompt", o->prompts, "N,...", "prompt lengths; 0: none");
      arguments.option("-n,--n-gen", o->generations, "N,...", "tokens to write; 0: none");
      arguments.option("-d,--n-depth", o->depths, "N,...", "tokens read before, not timed");
      arguments.flag("--made-up-depth", o->made_up,
                     "fill the depth with random keys and values instead of reading tokens: the "
                     "same rows, bytes and speed of what follows, in a fraction of the time");
      arguments.option("-r,--repetitions", o->repetitions, "N", "runs of every test")
          .between(1, 1000);
      arguments.option("-t,--threads", o->threads, "N,...", "thread counts; 0: one per core");
      arguments.option("-b,--tile", o->tile_rows, "N", "prompt rows that run together")
          .between(1, 8192);
      declare_matmul(arguments, o->matmul);
      arguments.flag("--no-bound", o->no_bound,
                     "leave out the bound, whose measurement takes about a second");
      arguments.option("--kv", o->specs, "SPEC", "methods to compare")
          .completes(Complete::method)
          .shows("full");
      arguments.bytes("--kv-memory", o->memory, "hard limit of all cache memory");
      arguments.option("--seed", o->seed, "N", "of weights and tokens");
      arguments.option("-o,--output", o->output, "FORMAT",
                       "md, json, jsonl, csv or sql; or FILE.gguf with --geometry");
      return [o] {
        if (o->specs.empty()) o->specs = {"full"};
        return run_bench(*o);
      };
    }};

}  // namespace pith
