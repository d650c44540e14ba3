// pith calibrate profile: what specs cost a model on this machine, for --kv auto.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/calibrate_text.h"
#include "apps/command.h"
#include "apps/help.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/table.h"
#include "apps/task_arguments.h"
#include "apps/units.h"
#include "base/error.h"
#include "base/output_file.h"
#include "base/parallel.h"
#include "calibrate/calibration_file.h"
#include "calibrate/profile.h"
#include "eval/runner.h"
#include "policy/guard.h"

namespace pith {
namespace {

struct ProfileOptions {
  EngineArguments engine;
  std::string out, format = "md", protocol = "aware", chat = "auto";
  std::string lengths = "2048,4096", tasks;
  std::vector<std::string> specs;
  int samples = 4;
  uint64_t seed = 42;
  bool only = false, all = false;
};

// Of which those are taken that the model can do with its full cache.
constexpr const char* kTasks =
    "recall_one,recall_few,recall_many,niah_single_2,niah_multikey_1,niah_multivalue,vt,qa_1,"
    "kv_retrieval";
constexpr double kCanDo = 0.1;  // a score

std::vector<int> parse_lengths(const std::string& text, int limit) {
  std::vector<int> lengths;
  for (const std::string& part : split_list(text)) {
    if (part.size() > 8 || part.find_first_not_of("0123456789") != std::string::npos ||
        std::stoi(part) < 64)
      throw Error(
          Errc::bad_option,
          "--lengths needs whole numbers of at least 64, separated by commas, not '" + text + "'");
    lengths.push_back(std::stoi(part));
    check_length(lengths.back(), limit, part);
  }
  if (lengths.empty()) throw Error(Errc::bad_option, "--lengths is empty");
  std::ranges::sort(lengths);
  lengths.erase(std::ranges::unique(lengths).begin(), lengths.end());
  return lengths;
}

class ProfileRun {
 public:
  explicit ProfileRun(const ProfileOptions& options)
      : options_(options),
        out_(
            options.out.empty()
                ? std::filesystem::path(options.engine.model).replace_extension("cal.gguf").string()
                : options.out) {
    refuse_same_file(options.engine.model, out_);
    OutputFile::check(out_);
    apart_ = open_engine(options.engine);
    shared_ = open_engine(options.engine, true);
    const ChosenChat chosen = chosen_chat(*apart_, options.chat);
    alone_.emplace(*apart_, chosen.chat);
    together_.emplace(*shared_, chosen.chat);
    protocol_ = options.protocol == "aware" ? Protocol::aware : Protocol::agnostic;
    plan_.lengths = parse_lengths(options.lengths, context_limit(*apart_, options.engine));
    plan_.samples = options.samples;
    plan_.seed = options.seed;
    plan_.protocol = protocol_name(protocol_);
    plan_.machine = machine_line(apart_->backend().threads().count());
    const ModelConfig& config = apart_->model().config();
    plan_.settings =
        "model " + config.digest + " chat " + chosen.name + " matmul " + options.engine.matmul;
    find_specs();
  }

  int run() {
    ProgressBar bar;
    find_tasks_it_can_do(bar);
    const ModelConfig& config = apart_->model().config();
    const std::string part = out_ + ".profile.part";
    const Profile profile = measure_profile(
        plan_, config.shape, part, [&](const ProfileJob& job) { return measure(job, bar); }, bar);
    bar.erase();
    add_calibration(out_, config.digest,
                    {.kind = "profile",
                     .made_by = "pith calibrate profile, " + version_text(),
                     .seed = plan_.seed,
                     .notes = profile_notes(profile)},
                    profile_tensors(profile, config.shape));
    std::error_code none;
    std::filesystem::remove(part, none);
    print(profile, config.shape);
    return 0;
  }

 private:
  void find_specs() {
    const auto add = [&](const std::string& spec) {
      const std::shared_ptr<const Policy> policy = apart_->open(spec)->policy;
      if (policy->undecided)
        throw Error(Errc::bad_option, "--kv: 'auto' chooses from what this measures; name specs");
      if (std::ranges::count(plan_.specs, policy->spec) == 0) plan_.specs.push_back(policy->spec);
    };
    add("full");
    if (!options_.only)
      for (const std::string& spec : profile_candidates()) add(spec);
    for (const std::string& spec : options_.specs) add(spec);
  }

  Sample make(const Task& task, int tokens, int index) const {
    SampleRequest request;
    request.tokens = &alone_->text();
    request.materials = &materials_;
    request.seed = plan_.seed + static_cast<uint64_t>(index);
    request.index = index;
    request.max_tokens = tokens;
    request.wrapper_tokens = alone_->wrapper_tokens();
    return task.make(request);
  }

  static double score_of(const std::vector<Outcome>& outcomes) {
    double score = 0;
    for (const Outcome& outcome : outcomes) score += outcome.score;
    return score / static_cast<double>(outcomes.size());
  }

  void find_tasks_it_can_do(Monitor& monitor) {
    std::vector<const Task*> named;
    const std::string& names = options_.tasks;
    for (const std::string& name : split_list(names.empty() ? kTasks : names))
      for (const Task* task : find_tasks(name))
        if (std::ranges::count(named, task) == 0) named.push_back(task);
    OnlyStops stops(monitor);
    std::string left_out;
    int64_t tried = 0;
    for (const Task* task : named) {
      monitor.progress("tasks", tried++, static_cast<int64_t>(named.size()));
      double score = 0;
      for (int index = 0; index < 2; ++index)
        score += score_of(together_->run(make(*task, plan_.lengths.front(), index), "full",
                                         protocol_, stops)) /
                 2;
      if (score >= kCanDo) {
        tasks_.push_back(task);
        plan_.tasks.push_back(task->name());
      } else {
        left_out += (left_out.empty() ? "" : ", ") + task->name();
      }
    }
    if (tasks_.empty())
      throw Error(Errc::bad_request, "the model can do none of the tasks " + left_out +
                                         " with its full cache, so there is nothing that a "
                                         "compressed one could keep; name others with --task");
    if (!left_out.empty())
      monitor.warn("left out, as the model cannot do them with its full cache: " + left_out);
  }

  ProfileSample measure(const ProfileJob& job, Monitor& monitor) {
    const auto at = std::tuple(job.length, job.task, job.sample);
    if (!sample_ || made_ != at) {
      sample_ = make(*tasks_[static_cast<size_t>(job.task)],
                     plan_.lengths[static_cast<size_t>(job.length)], job.sample);
      made_ = at;
    }
    KeptMass mass;
    SampleRunner& runner = job.timed ? *alone_ : *together_;
    runner.let_watch(&mass);
    OnlyStops stops(monitor);
    const std::vector<Outcome> outcomes =
        runner.run(*sample_, plan_.specs[static_cast<size_t>(job.spec)], protocol_, stops);
    runner.let_watch(nullptr);
    ProfileSample out;
    out.score = score_of(outcomes);
    out.prompt_tokens = outcomes[0].prompt_tokens;
    out.bytes = static_cast<double>(outcomes[0].prompt_bytes.total());
    out.first_seconds = outcomes[0].first_seconds;
    out.token_seconds = outcomes[0].token_seconds;
    out.mass = mass.mean();
    out.kept = mass.shares();
    return out;
  }

  void print(const Profile& profile, const KvShape& shape) const {
    Table table({{"spec", "spec", false},
                 {"front", "front", false},
                 {"tokens", "tokens"},
                 {"samples", "samples"},
                 {"score", "score"},
                 {"score_error", "+/-"},
                 {"cache_bytes", "cache"},
                 {"cache_share", "of full"},
                 {"most_bytes", "at most"},
                 {"mass", "attention kept"},
                 {"ttft_seconds", "TTFT"},
                 {"seconds_per_token", "per token"}});
    const auto figure = [](double value, int decimals) {
      return Table::Cell{fixed_text(value, decimals), JsonWriter(0).value(value).text()};
    };
    const auto bytes = [](double value) {
      const auto whole = static_cast<uint64_t>(std::llround(value));
      return Table::Cell{bytes_text(whole), std::to_string(whole)};
    };
    const double full = 4.0 * shape.layers * shape.heads * shape.dim;
    for (size_t l = 0; l < profile.lengths.size(); ++l)
      for (const ProfilePoint& point : profile.points) {
        if (!point.front && !options_.all && options_.format == "md") continue;
        const ProfileCell& cell = point.cells[l];
        const double tokens = profile.lengths[l];
        table.add(
            {point.spec,
             std::string(point.front ? "yes" : ""),
             figure(tokens, 0),
             std::to_string(profile.samples[l]),
             figure(100 * cell.score, 1),
             figure(100 * cell.score_error, 1),
             bytes(cell.bytes * tokens),
             figure(cell.bytes / full, 4),
             bytes(cell.most_bytes * tokens),
             figure(cell.mass, 4),
             {duration_text(cell.first_seconds), JsonWriter(0).value(cell.first_seconds).text()},
             {fixed_text(1000 * cell.token_seconds, 1) + " ms",
              JsonWriter(0).value(cell.token_seconds).text()}});
      }
    if (options_.format == "md")
      std::printf("%s, %s, on %s\n\n", profile.protocol.c_str(),
                  std::filesystem::path(out_).filename().c_str(), profile.machine.c_str());
    table.print(stdout, options_.format);
  }

  const ProfileOptions& options_;
  const std::string out_;
  std::unique_ptr<Engine> apart_, shared_;  // the second computes what specs have in common once
  std::optional<SampleRunner> alone_, together_;
  Protocol protocol_ = Protocol::aware;
  Materials materials_;
  ProfilePlan plan_;
  std::vector<const Task*> tasks_;
  std::optional<Sample> sample_;
  std::tuple<int, int, int> made_;
};

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<ProfileOptions>();
  declare_engine(arguments, options->engine);
  arguments
      .operand("OUT", options->out,
               "the calibration file, a GGUF file; what other calibrations wrote there stays")
      .shows("the model's name with .cal.gguf")
      .completes(Complete::file);
  arguments
      .option("--kv", options->specs, "SPEC", "a spec to measure beside the ones that always are")
      .completes(Complete::method);
  arguments.flag("--only", options->only, "measure the specs of --kv alone, and the full cache");
  arguments.option("--task", options->tasks, "NAME,...", "tasks or suites; see 'pith eval --list'")
      .shows("retrieval of several kinds");
  arguments.option("--lengths", options->lengths, "N,...",
                   "tokens of a prompt and its answer together, at which all is measured");
  arguments
      .option("--samples", options->samples, "N",
              "samples per task and length, each of its own seed")
      .between(1, 10000);
  arguments.option("-s,--seed", options->seed, "N", "of the first sample");
  arguments.choice("--protocol", options->protocol, "aware|agnostic",
                   "aware: the question is compressed with its context; agnostic: it follows");
  arguments.option("--chat", options->chat, "FAMILY",
                   "chat template: a family's name, none, or auto for the model's own");
  arguments.flag("--all", options->all, "show all specs, not only the front");
  arguments.format(options->format);
  return [options] { return ProfileRun(*options).run(); };
}

}  // namespace

const Command kCalibrateProfileCommand = {
    "calibrate profile",
    "measure what specs keep, hold and take, for --kv auto",
    "Runs tasks with many specs at several lengths and writes down what each keeps of the full "
    "cache's score, the bytes it holds, the attention that stays and the time it takes on this "
    "machine. --kv auto then chooses among them by the length of a prompt. Tasks that the model "
    "cannot do with its full cache are left out. The table has the front: the specs of which "
    "nothing else scores as much at every length with fewer bytes.\n\n"
    "Work that specs have in common is done once; what a prompt takes is timed without that, on "
    "the first sample of each length. What it has so far is kept in OUT.profile.part, so a run "
    "that is stopped goes on where it was.",
    "$ pith calibrate profile -m model.gguf --lengths 2048,8192 model.cal.gguf\n"
    "$ pith run -m model.gguf -f report.txt --kv auto:quality=0.98,calibration=model.cal.gguf",
    setup,
};

}  // namespace pith
