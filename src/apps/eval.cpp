// pith eval: what compressed caches score on tasks, what they hold, and what they take.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/eval_results.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/stop.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "eval/datasets.h"
#include "eval/runner.h"

namespace pith {
namespace {

struct EvalOptions {
  EngineArguments engine;
  std::vector<std::string> specs, tasks, data;
  std::string lengths = "4096", seeds = "42", protocol = "agnostic";
  std::string haystack, questions, results, chat = "auto", format = "md";
  int samples = 10;
  bool share = false, list = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

template <class Number>
std::vector<Number> numbers(const std::string& text, const char* option, Number low) {
  std::vector<Number> out;
  for (const std::string& part : split(text)) {
    Number& number = out.emplace_back();
    const char* end = part.data() + part.size();
    const auto [at, error] = std::from_chars(part.data(), end, number);
    if (error != std::errc() || at != end || number < low)
      throw Error(Errc::bad_option, std::string(option) + " needs whole numbers of at least " +
                                        std::to_string(low) + ", separated by commas, not '" +
                                        text + "'");
  }
  if (out.empty()) throw Error(Errc::bad_option, std::string(option) + " is empty");
  return out;
}

std::string hash_text(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  char out[20];
  std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(hash));
  return out;
}

// Draws nothing itself: what is counted is samples.
class SampleMonitor final : public Monitor {
 public:
  bool stopped() const override { return interrupted(); }
};

// A cell of the table: one spec and protocol on one task at one length.
struct Cell {
  const Task* task;
  int tokens;
  std::string spec, protocol;
  std::vector<double> scores;  // of samples
  std::vector<EvalRow> rows;
};

class Evaluation {
 public:
  explicit Evaluation(const EvalOptions& options)
      : options_(options), engine_(open_engine(options.engine, options.share)) {
    read_materials();
    find_all_tasks();
    for (const std::string& spec :
         options.specs.empty() ? std::vector<std::string>{"full"} : options.specs) {
      const std::string known = engine_->open(spec)->policy->spec;
      if (std::ranges::count(specs_, known) == 0) specs_.push_back(known);
    }
    if (options.protocol != "agnostic") protocols_.push_back(Protocol::aware);
    if (options.protocol != "aware") protocols_.push_back(Protocol::agnostic);
    lengths_ = numbers<int>(options.lengths, "--lengths", 16);
    seeds_ = numbers<uint64_t>(options.seeds, "--seeds", 0);
    runner_ = std::make_unique<SampleRunner>(*engine_, chat_template());
    settings_ = "chat=" + chat_name_ + " matmul=" + options.engine.matmul +
                " haystack=" + hash_text(materials_.haystack) + " questions=" + questions_hash_;
    check_lengths();
    results_.emplace(options.results);
  }

  int run() {
    bool stopped = false;
    {
      ProgressBar bar;
      try {
        run_all(bar);
      } catch (const Error& error) {
        if (error.code() != Errc::interrupted || cells_.empty()) throw;
        stopped = true;
      }
    }
    print();
    if (stopped)
      std::fprintf(stderr, "pith: interrupted after %s of %s samples%s\n",
                   count_text(static_cast<uint64_t>(done_)).c_str(),
                   count_text(static_cast<uint64_t>(total_)).c_str(),
                   options_.results.empty() ? "; with --results FILE the next run would go on here"
                                            : "; the same command goes on from here");
    return stopped ? 130 : 0;
  }

 private:
  void read_materials() {
    if (!options_.haystack.empty()) materials_.haystack = read_file(options_.haystack);
    if (options_.questions.empty()) return;
    const std::string text = read_file(options_.questions);
    questions_hash_ = hash_text(text);
    materials_.questions = parse_document_questions(text, options_.questions);
  }

  void find_all_tasks() {
    const auto add = [&](const Task* task) {
      if (std::ranges::count(tasks_, task) == 0) tasks_.push_back(task);
    };
    for (const std::string& names : options_.tasks)
      for (const std::string& name : split(names))
        for (const Task* task : find_tasks(name)) add(task);
    for (const std::string& data : options_.data) {
      const size_t equals = data.find('=');
      if (equals == std::string::npos)
        throw Error(Errc::bad_option, "--data needs FORMAT=FILE, not '" + data + "'");
      const std::string file = data.substr(equals + 1), text = read_file(file);
      files_.push_back(load_dataset(data.substr(0, equals), text, file));
      hashes_[files_.back().get()] = hash_text(text);
      add(files_.back().get());
    }
    if (tasks_.empty())
      for (const Task* task : find_tasks("ruler")) add(task);
  }

  std::optional<ChatTemplate> chat_template() {
    if (options_.chat == "none") return std::nullopt;
    try {
      ChatTemplate chat = options_.chat == "auto" ? ChatTemplate::of(engine_->model().file())
                                                  : ChatTemplate::named(options_.chat);
      chat_name_ = chat.family();
      return chat;
    } catch (const Error& error) {
      // A model without a template is asked in plain text.
      if (options_.chat != "auto" || error.code() != Errc::unsupported) throw;
      return std::nullopt;
    }
  }

  SampleRequest request(int tokens, uint64_t seed, int index) const {
    SampleRequest out;
    out.tokens = &runner_->text();
    out.materials = &materials_;
    out.seed = seed;
    out.index = index;
    out.max_tokens = tokens;
    out.wrapper_tokens = runner_->wrapper_tokens();
    return out;
  }

  // Before anything is run or written.
  void check_lengths() {
    const int limit = context_limit(*engine_, options_.engine);
    for (const int tokens : lengths_) {
      if (tokens > limit)
        throw Error(Errc::bad_request, "the model has a context of " +
                                           count_text(static_cast<uint64_t>(limit)) +
                                           " tokens and --lengths asks for " +
                                           count_text(static_cast<uint64_t>(tokens)) +
                                           "; ask for less, or raise it with -c");
      for (const Task* task : tasks_) task->make(request(tokens, seeds_[0], 0));
    }
  }

  int samples_of(const Task& task) const {
    if (task.samples() == 0) return std::max(options_.samples, 1);
    return options_.samples > 0 ? std::min(options_.samples, task.samples()) : task.samples();
  }

  EvalKey key(const Task& task, int tokens, uint64_t seed, int index, const std::string& spec,
              Protocol protocol) const {
    const auto file = hashes_.find(&task);
    return {engine_->model().config().digest,
            settings_ + (file == hashes_.end() ? "" : " data=" + file->second),
            spec,
            std::string(protocol_name(protocol)),
            task.name(),
            tokens,
            seed,
            index};
  }

  void run_all(ProgressBar& bar) {
    for (const Task* task : tasks_)
      total_ +=
          static_cast<int64_t>(samples_of(*task)) *
          static_cast<int64_t>(lengths_.size() * seeds_.size() * specs_.size() * protocols_.size());
    bar.progress("eval", 0, total_);
    for (const Protocol protocol : protocols_)
      for (const Task* task : tasks_)
        for (const int tokens : lengths_) {
          std::vector<Cell> cells;
          for (const std::string& spec : specs_)
            cells.push_back({task, tokens, spec, std::string(protocol_name(protocol)), {}, {}});
          try {
            for (const uint64_t seed : seeds_)
              for (int index = 0; index < samples_of(*task); ++index)
                run_sample(*task, tokens, seed, index, protocol, cells, bar);
          } catch (...) {
            keep(cells);
            throw;
          }
          keep(cells);
        }
  }

  void keep(std::vector<Cell>& cells) {
    for (Cell& cell : cells)
      if (!cell.rows.empty()) cells_.push_back(std::move(cell));
  }

  // One sample with every spec; what is in the results is taken from there.
  void run_sample(const Task& task, int tokens, uint64_t seed, int index, Protocol protocol,
                  std::vector<Cell>& cells, ProgressBar& bar) {
    std::optional<Sample> sample;
    for (Cell& cell : cells) {
      const EvalKey of = key(task, tokens, seed, index, cell.spec, protocol);
      if (!results_->has(of)) {
        if (!sample) sample = task.make(request(tokens, seed, index));
        results_->add(of, options_.engine.model, *sample,
                      runner_->run(*sample, cell.spec, protocol, monitor_));
      }
      const std::vector<EvalRow> rows = results_->rows(of);
      double score = 0;
      for (const EvalRow& row : rows) score += row.score / static_cast<double>(rows.size());
      cell.scores.push_back(score);
      cell.rows.insert(cell.rows.end(), rows.begin(), rows.end());
      bar.progress("eval", ++done_, total_);
    }
  }

  static std::vector<Table::Column> columns(bool with_protocol) {
    std::vector<Table::Column> out = {{"spec", "spec", false},
                                      {"task", "task", false},
                                      {"tokens", "tokens"},
                                      {"samples", "samples"},
                                      {"score", "score"},
                                      {"score_error", "+/- 95 %"},
                                      {"prompt_tokens", "prompt"},
                                      {"cache_bytes", "cache"},
                                      {"cache_share", "of full"},
                                      {"end_bytes", "at the end"},
                                      {"generated_tokens", "answer"},
                                      {"ttft_seconds", "TTFT"},
                                      {"seconds_per_token", "per token"}};
    if (with_protocol) out.insert(out.begin(), {"protocol", "protocol", false});
    return out;
  }

  static Table::Cell figure(double value, int decimals) {
    return {fixed_text(value, decimals), JsonWriter(0).value(value).text()};
  }

  static std::vector<Table::Cell> figures(const std::vector<EvalRow>& rows) {
    double prompt = 0, bytes = 0, full = 0, end = 0, answer = 0, first = 0, each = 0;
    for (const EvalRow& row : rows) {
      prompt += row.prompt_tokens;
      bytes += static_cast<double>(row.prompt_bytes);
      full += static_cast<double>(row.full_bytes);
      end += static_cast<double>(row.end_bytes);
      answer += row.generated_tokens;
      first += row.first_seconds;
      each += row.token_seconds;
    }
    const auto n = static_cast<double>(rows.size());
    const auto bytes_cell = [&](double sum) {
      const auto mean = static_cast<uint64_t>(std::llround(sum / n));
      return Table::Cell(bytes_text(mean), std::to_string(mean));
    };
    return {figure(prompt / n, 0),
            bytes_cell(bytes),
            figure(full > 0 ? bytes / full : 0, 4),
            bytes_cell(end),
            figure(answer / n, 1),
            {duration_text(first / n), JsonWriter(0).value(first / n).text()},
            {fixed_text(1000 * each / n, 1) + " ms", JsonWriter(0).value(each / n).text()}};
  }

  void add_row(Table& table, const std::string& protocol, const std::string& spec,
               const std::string& task, int tokens, const Mean& mean,
               const std::vector<EvalRow>& rows) const {
    std::vector<Table::Cell> cells;
    if (!protocol.empty()) cells.emplace_back(protocol);
    cells.emplace_back(spec);
    cells.emplace_back(task);
    cells.push_back({count_text(static_cast<uint64_t>(tokens)), std::to_string(tokens)});
    cells.emplace_back(std::to_string(mean.count));
    cells.push_back(figure(100 * mean.mean, 1));
    cells.push_back(mean.half_width ? figure(100 * *mean.half_width, 1) : Table::Cell("-", ""));
    for (Table::Cell& cell : figures(rows)) cells.push_back(std::move(cell));
    table.add(std::move(cells));
  }

  // All cells of a protocol, and for several tasks their mean by spec and length.
  void fill(Table& table, Protocol protocol, bool with_protocol) const {
    const std::string name(protocol_name(protocol));
    for (const int tokens : lengths_)
      for (const std::string& spec : specs_) {
        Mean all;
        double squares = 0;
        int tasks = 0;
        bool known = true;
        std::vector<EvalRow> rows;
        for (const Cell& cell : cells_) {
          if (cell.tokens != tokens || cell.spec != spec || cell.protocol != name) continue;
          const Mean mean = mean_of(cell.scores);
          add_row(table, with_protocol ? name : "", spec, cell.task->name(), tokens, mean,
                  cell.rows);
          all.count += mean.count;
          all.mean += mean.mean;
          known = known && mean.half_width.has_value();
          squares += mean.half_width ? *mean.half_width * *mean.half_width : 0;
          ++tasks;
          rows.insert(rows.end(), cell.rows.begin(), cell.rows.end());
        }
        if (tasks < 2) continue;
        all.mean /= tasks;
        if (known) all.half_width = std::sqrt(squares) / tasks;
        add_row(table, with_protocol ? name : "", spec, "mean of tasks", tokens, all, rows);
      }
  }

  void print() const {
    if (options_.format != "md") {
      Table table(columns(true));
      for (const Protocol protocol : protocols_) fill(table, protocol, true);
      table.print(stdout, options_.format);
      return;
    }
    for (const Protocol protocol : protocols_) {
      Table table(columns(false));
      fill(table, protocol, false);
      std::printf("%s%s, %s\n\n", protocol == protocols_[0] ? "" : "\n",
                  std::string(protocol_name(protocol)).c_str(),
                  chat_name_ == "none" ? "plain prompts" : ("chat template " + chat_name_).c_str());
      table.print(stdout, options_.format);
    }
  }

  const EvalOptions& options_;
  std::unique_ptr<Engine> engine_;
  Materials materials_;
  std::string questions_hash_ = "own", settings_, chat_name_ = "none";
  std::vector<const Task*> tasks_;
  std::vector<std::unique_ptr<const Task>> files_;
  std::map<const Task*, std::string> hashes_;
  std::vector<std::string> specs_;
  std::vector<Protocol> protocols_;
  std::vector<int> lengths_;
  std::vector<uint64_t> seeds_;
  std::unique_ptr<SampleRunner> runner_;
  std::optional<EvalResults> results_;
  SampleMonitor monitor_;
  std::vector<Cell> cells_;
  int64_t done_ = 0, total_ = 0;
};

int list_tasks(const std::string& format) {
  Table table(
      {{"task", "task", false}, {"suite", "suite", false}, {"asks_for", "asks for", false}});
  for (const Task* task : tasks()) table.add({task->name(), task->suite(), task->summary()});
  table.print(stdout, format);
  return 0;
}

int evaluate(const EvalOptions& options) {
  if (options.list) return list_tasks(options.format);
  if (options.engine.model.empty())
    throw Error(Errc::bad_option, "-m FILE is missing: which model?");
  return Evaluation(options).run();
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<EvalOptions>();
  declare_engine(arguments, options->engine, false);
  arguments.section("What is measured");
  arguments
      .option("--kv", options->specs, "SPEC",
              "a compression to measure; without any, the full cache")
      .completes(Complete::method);
  arguments.option("--task", options->tasks, "NAME,...", "tasks or suites; see --list")
      .shows("ruler, unless there is --data");
  arguments.option("--data", options->data, "FORMAT=FILE",
                   "also a published data set, such as longbench=multi_news.jsonl; formats: ruler, "
                   "longbench, infinitebench, loogle, longeval, kv-retrieval");
  arguments.option("--lengths", options->lengths, "N,...",
                   "tokens of a prompt and its answer together");
  arguments
      .option("--samples", options->samples, "N",
              "samples per task, length and seed; 0: all of a data set")
      .at_least(0);
  arguments.option("--seeds", options->seeds, "N,...", "seeds of generated samples");
  arguments.choice(
      "--protocol", options->protocol, "agnostic|aware|both",
      "agnostic: the context is compressed before the question is known; aware: with it");
  arguments.flag("--share-prompts", options->share,
                 "compute what specs have in common of a prompt once; times to first token then "
                 "leave that out");
  arguments.section("What samples are made of");
  arguments
      .option("--haystack", options->haystack, "FILE", "text to hide things in; without, our own")
      .completes(Complete::file);
  arguments
      .option("--questions", options->questions, "FILE",
              "questions and documents for qa_1 and qa_2, as docs/evaluation.md says; without, our "
              "own")
      .completes(Complete::file);
  arguments.option("--chat", options->chat, "FAMILY",
                   "chat template: a family's name, none, or auto for the model's own");
  arguments.section("Results");
  arguments
      .option("--results", options->results, "FILE",
              "keep every answer in this SQLite file, and go on from what is in it")
      .completes(Complete::file);
  arguments.flag("--list", options->list, "list the tasks instead");
  arguments.format(options->format);
  return [options] { return evaluate(*options); };
}

}  // namespace

const Command kEvalCommand = {
    "eval",
    "measure what compressed caches score on long-context tasks, hold and take",
    "Every task is made from seeds, fitted to the length by the model's own tokenizer, and graded "
    "as its suite does; docs/evaluation.md has the sources. Scores are means over samples times "
    "100, with 95 % confidence intervals; 'mean of tasks' weighs tasks alike. Answers are "
    "greedy.\n\n"
    "Under the query-agnostic protocol the context is read and compressed once, and each question "
    "is asked of a fork of it; under the query-aware one the question is part of the prompt that "
    "is compressed. Their figures do not belong in one table.\n\n"
    "Cache figures are means: after the prompt, their share of a full f16 cache, and at the end. "
    "TTFT counts everything up to the first token of an answer, compression too.\n\n"
    "With --results, a row per question is written as soon as its sample is done: a command that "
    "was stopped goes on where it was, and the file can be read with any SQLite tool. Without, "
    "results are only shown.",
    "$ pith eval --list\n"
    "$ pith eval -m model.gguf --kv full --kv snapkv:budget=0.1 --samples 50 \\\n"
    "    --results ruler.sqlite\n"
    "$ pith eval -m model.gguf --task needle --lengths 2048,4096 --samples 11 --kv "
    "kvzip:budget=0.3\n"
    "$ pith eval -m model.gguf --data longbench=multi_news.jsonl --task vt --protocol both",
    setup,
};

}  // namespace pith
