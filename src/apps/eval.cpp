// pith eval: what compressed caches score on tasks, what they hold, and what they take.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "apps/command.h"
#include "apps/eval_report.h"
#include "apps/eval_run.h"
#include "apps/eval_summary.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "base/output_file.h"
#include "eval/words.h"

namespace pith {
namespace {

int list_tasks(const std::string& format) {
  Table table(
      {{"task", "task", false}, {"suite", "suite", false}, {"asks_for", "asks for", false}});
  for (const Task* task : tasks()) table.add({task->name(), task->suite(), task->summary()});
  table.print(stdout, format);
  return 0;
}

void print_results(const std::vector<EvalRow>& rows, const std::string& format) {
  const std::vector<EvalCell> cells = cells_of(rows);
  if (format != "md") {
    eval_table(cells).print(stdout, format);
    return;
  }
  const auto same_run = [&](size_t a, size_t b) {
    const EvalKey &one = cells[a].key, &other = cells[b].key;
    return one.model == other.model && one.settings == other.settings &&
           one.protocol == other.protocol;
  };
  const bool one_model = std::ranges::all_of(
      cells, [&](const EvalCell& cell) { return cell.key.model == cells[0].key.model; });
  for (size_t first = 0, last = 0; first < cells.size(); first = last) {
    while (last < cells.size() && same_run(first, last)) ++last;
    const std::span<const EvalCell> run = std::span(cells).subspan(first, last - first);
    std::printf("%s%s%s, %s\n\n", first > 0 ? "\n" : "",
                one_model ? "" : (run[0].model_name + ": ").c_str(), run[0].key.protocol.c_str(),
                prompts_text(run[0].key.settings).c_str());
    score_table(run).print(stdout, "md");
    std::printf("\nHeld after the prompt and at the end\n\n");
    bytes_table(run).print(stdout, "md");
  }
}

// Many samples may have one each.
void show_warnings(const std::set<std::string>& warnings) {
  constexpr size_t kMost = 3;
  size_t shown = 0;
  for (const std::string& warning : warnings) {
    if (shown++ == kMost) break;
    std::fprintf(stderr, "pith: %s\n", warning.c_str());
  }
  if (warnings.size() > kMost)
    std::fprintf(stderr, "pith: and %s more such warnings\n",
                 count_text(warnings.size() - kMost).c_str());
}

// Before long work whose figures go there.
void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw Error(Errc::io, path + ": no folder can be made there: " + error.message());
}

int measure(const EvalOptions& options, std::optional<EvalResults>& results,
            std::vector<EvalRow>& rows) {
  if (options.models.empty()) throw Error(Errc::bad_option, "-m FILE is missing: which model?");
  std::vector<std::unique_ptr<Evaluation>> evaluations;
  int64_t done = 0, total = 0;
  for (const std::string& model : options.models) {
    evaluations.push_back(std::make_unique<Evaluation>(options, model));
    total += evaluations.back()->samples();
  }
  if (!options.figures.empty()) make_folder(options.figures);
  results.emplace(options.results);
  bool stopped = false;
  {
    ProgressBar bar;
    bar.progress("eval", 0, total);
    try {
      for (const auto& evaluation : evaluations)
        evaluation->run(*results, rows, [&] { bar.progress("eval", ++done, total); });
    } catch (const Error& error) {
      if (error.code() != Errc::interrupted || rows.empty()) throw;
      stopped = true;
    }
  }
  for (const auto& evaluation : evaluations) show_warnings(evaluation->warnings());
  if (!stopped) return 0;
  std::fprintf(stderr, "pith: interrupted after %s of %s samples%s\n",
               count_text(static_cast<uint64_t>(done)).c_str(),
               count_text(static_cast<uint64_t>(total)).c_str(),
               options.results.empty() ? "; with --results FILE the next run would go on here"
                                       : "; the same command goes on from here");
  return 130;
}

void show(const EvalOptions& options, EvalResults& results, const std::vector<EvalRow>& rows) {
  if (options.format != "html" && options.figures.empty()) {
    print_results(rows, options.format);
    return;
  }
  EvalReport report{rows, {}, options.results};
  for (const EvalRow& row : rows) {
    const std::pair of(row.key.model, row.key.settings);
    if (!report.flags.contains(of)) report.flags[of] = results.flags(of.first, of.second);
  }
  if (!options.figures.empty())
    for (const auto& [name, text] : report_files(report))
      write_file((std::filesystem::path(options.figures) / name).string(), text);
  if (options.format == "html")
    std::fputs(report_page(report).c_str(), stdout);
  else
    print_results(rows, options.format);
}

// The samples themselves, each with its true answers; nothing is asked of a model.
int show_samples(const EvalOptions& options) {
  if (options.models.empty())
    throw Error(Errc::bad_option, "-m FILE is missing: whose tokens are samples fitted to?");
  Evaluation(options, options.models[0])
      .each_sample(
          [&](const Task& task, int tokens, uint64_t seed, int index, const Sample& sample) {
            if (options.format == "json") {
              JsonWriter line(0);
              line.object().key("task").value(task.name()).key("tokens").value(tokens);
              line.key("seed").value(seed).key("sample").value(index);
              line.key("context").value(sample.context).key("questions").array();
              for (const Question& question : sample.questions) {
                line.object().key("question").value(question.text + question.prefix);
                line.key("answers").array();
                for (const std::string& answer : question.answers) line.value(answer);
                line.end().end();
              }
              std::printf("%s\n", line.end().end().text().c_str());
              return;
            }
            std::printf("%s", sample.context.c_str());
            for (const Question& question : sample.questions)
              std::printf("%s%s %s", question.text.c_str(), question.prefix.c_str(),
                          joined(question.answers, ", ").c_str());
            std::printf("\n\n");
          });
  return 0;
}

int evaluate(EvalOptions& options) {
  if (options.list) return list_tasks(options.format == "html" ? "md" : options.format);
  if (!options.plan.empty()) read_plan(read_file(options.plan), options.plan, options);
  if (options.show) return show_samples(options);
  if (options.report_only && options.results.empty())
    throw Error(Errc::bad_option, "--report-only shows what --results FILE holds; name the file");
  std::optional<EvalResults> results;
  std::vector<EvalRow> rows;
  int code = 0;
  if (options.report_only) {
    for (const char* const flag :
         {"--model", "--kv", "--budget", "--task", "--data", "--lengths", "--samples", "--seeds",
          "--protocol", "--fidelity", "--batch-memory", "--share-prompts"})
      if (options.given.contains(flag))
        throw Error(Errc::bad_option, std::string("--report-only shows all that the file holds; ") +
                                          "leave " + flag + " out");
    results.emplace(options.results, EvalResults::Open::existing);
    rows = results->all();
    if (rows.empty())
      throw Error(Errc::bad_file,
                  options.results + ": holds no results; run without --report-only");
    if (!options.figures.empty()) make_folder(options.figures);
  } else {
    code = measure(options, results, rows);
  }
  show(options, *results, rows);
  return code;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<EvalOptions>();
  arguments
      .operand("PLAN", options->plan,
               "a JSON file that says what is measured; flags win over its fields")
      .completes(Complete::file);
  arguments.option("-m,--model", options->models, "FILE", "a model, a GGUF file")
      .completes(Complete::file);
  declare_machine(arguments, options->engine);
  arguments.section("What is measured");
  arguments
      .option("--kv", options->specs, "SPEC",
              "a compression to measure; without any, the full cache")
      .completes(Complete::method);
  arguments.option("--budget", options->budgets, "AMOUNT,...",
                   "measure every spec that takes a budget and names none with each of "
                   "these, such as 0.017,0.1 or 64MiB");
  arguments.option("--task", options->tasks, "NAME,...", "tasks or suites; see --list")
      .shows("ruler, unless there is --data");
  arguments.option("--data", options->data, "FORMAT=FILE",
                   "also a published data set, such as longbench=multi_news.jsonl; formats: "
                   "ruler, longbench, infinitebench, loogle, longeval, kv-retrieval");
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
  arguments.flag("--fidelity", options->fidelity,
                 "also compare every spec with the full cache, on what that answers: "
                 "KL divergence, same most likely token; and the attention mass kept");
  arguments.bytes("--batch-memory", options->batch_bytes,
                  "also measure tokens per second, alone and with as many sessions at once as "
                  "hold no more than this, such as 64MiB");
  arguments.flag("--share-prompts", options->share,
                 "compute what specs have in common of a prompt once; times to first token then "
                 "leave that out");
  arguments
      .option("--batch", options->batch, "N",
              "samples that are answered at once by each spec: same answers, faster with large "
              "models; per token times are those of the batch")
      .at_least(1);
  arguments
      .option("--jobs", options->jobs, "N",
              "samples that are worked on side by side, each with its part of the threads: faster "
              "with small models; times are those of such a part")
      .between(1, kMostJobs);
  arguments.section("What samples are made of");
  arguments
      .option("--haystack", options->haystack, "FILE", "text to hide things in; without, our own")
      .completes(Complete::file);
  arguments
      .option("--questions", options->questions, "FILE",
              "questions and documents for qa_1 and qa_2, as docs/evaluation.md says; "
              "without, our own")
      .completes(Complete::file);
  arguments.option("--chat", options->chat, "FAMILY",
                   "chat template: a family's name, none, or auto for the model's own");
  arguments.section("Results");
  arguments
      .option("--results", options->results, "FILE",
              "keep every answer in this SQLite file, and go on from what is in it")
      .completes(Complete::file);
  arguments.flag("--report-only", options->report_only,
                 "measure nothing: show all that the file of --results holds");
  arguments
      .option("--figures", options->figures, "FOLDER",
              "write the figures of the report there, as SVG files for papers")
      .completes(Complete::folder);
  arguments.flag("--list", options->list, "list the tasks instead");
  arguments.flag("--show", options->show,
                 "print the samples and their answers instead; with -o json one object per line");
  arguments.choice("-o,--output", options->format, "md|json|csv|html",
                   "how results are shown; html: a report with figures, one page that asks for "
                   "nothing from elsewhere");
  arguments.flag("--json", options->format, "json", "the same as -o json");
  arguments.note_given(options->given);
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
    "The peak is the most that was held at once, a prompt in flight and the forward pass's memory "
    "too. TTFT counts everything up to the first token of an answer; compression is the share of "
    "it that went into scores, budgets, choosing and coding of rows. Held bytes come by class: "
    "pages of keys and of values, metadata (positions, scores, page tables), summaries of pages, "
    "and other (pseudo rows, dropped tokens).\n\n"
    "With --fidelity, the full cache answers first, and every spec is fed its answer token by "
    "token: KL is the mean divergence from the full cache's distributions, 'same top 1' how often "
    "both find the same token most likely, over at most 64 tokens of an answer. 'Mass kept' is the "
    "share of the attention of the last 32 queries of the compressed text that goes to kept rows, "
    "a mean over heads. Times leave these measurements out.\n\n"
    "With --batch-memory, tokens per second are measured once for each spec and length, with "
    "made-up "
    "keys and values: of one session, and in sum of as many as fit the limit, 64 at most.\n\n"
    "With --results, a row per question is written as soon as its sample is done: a command that "
    "was stopped goes on where it was, and the file can be read with any SQLite tool. A spec whose "
    "calibration, profile or adapter file has changed since is measured again. Without, results "
    "are "
    "only shown.\n\n"
    "The report of -o html has scores against bytes with the front of what nothing beats, bytes by "
    "class, needles by length and depth, speed against length, scores by task, and with each "
    "figure the command that makes it and a button that saves it as a PNG file.\n\n"
    "A spec that takes no budget, such as full or razor, is measured once beside those that have "
    "each of --budget.\n\n"
    "A PLAN is one JSON object. Its fields are models, specs, budgets, tasks, data, lengths, "
    "seeds, samples, protocol, chat, haystack, questions, results, fidelity, batch, jobs, "
    "batch_memory, share_prompts, context and matmul; all may be left out. Names of files are "
    "relative to the "
    "current folder.",
    "$ pith eval --list\n"
    "$ pith eval -m model.gguf --kv full --kv snapkv:budget=0.1 --samples 50 \\\n"
    "    --results ruler.sqlite\n"
    "$ pith eval -m model.gguf --task needle --lengths 2048,4096 --samples 11 --kv kvzip \\\n"
    "    --budget 0.05,0.1,0.3 --fidelity\n"
    "$ pith eval -m model.gguf --data longbench=multi_news.jsonl --task vt --protocol both\n"
    "$ pith eval plan.json --samples 2\n"
    "$ pith eval --results ruler.sqlite --report-only -o html > ruler.html",
    setup,
};

}  // namespace pith
