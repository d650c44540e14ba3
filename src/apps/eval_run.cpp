#include "apps/eval_run.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "apps/stop.h"
#include "apps/task_arguments.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "eval/datasets.h"

namespace pith {
namespace {

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
  explicit SampleMonitor(std::set<std::string>& warnings) : warnings_(warnings) {}
  bool stopped() const override { return interrupted(); }
  void warn(std::string_view sentence) override { warnings_.emplace(sentence); }

 private:
  std::set<std::string>& warnings_;
};

EngineArguments with_model(EngineArguments engine, const std::string& model) {
  engine.model = model;
  return engine;
}

}  // namespace

Evaluation::Evaluation(const EvalOptions& options, const std::string& model)
    : options_(options),
      model_(model),
      engine_(open_engine(with_model(options.engine, model), options.share)) {
  read_materials();
  find_all_tasks();
  const ModelConfig& config = engine_->model().config();
  specs_ = specs_of(options, config.shape, config.digest);
  if (options.protocol != "agnostic") protocols_.push_back(Protocol::aware);
  if (options.protocol != "aware") protocols_.push_back(Protocol::agnostic);
  lengths_ = lengths_of(options);
  seeds_ = seeds_of(options);
  ChosenChat chosen = chosen_chat(*engine_, options.chat);
  runner_ = std::make_unique<SampleRunner>(*engine_, std::move(chosen.chat));
  settings_ = "chat=" + chosen.name + " matmul=" + options.engine.matmul +
              " haystack=" + hash_text(materials_.haystack) + " questions=" + questions_hash_;
  check_lengths();
}

void Evaluation::read_materials() {
  if (!options_.haystack.empty()) materials_.haystack = read_file(options_.haystack);
  if (options_.questions.empty()) return;
  const std::string text = read_file(options_.questions);
  questions_hash_ = hash_text(text);
  materials_.questions = parse_document_questions(text, options_.questions);
}

void Evaluation::find_all_tasks() {
  const auto add = [&](const Task* task) {
    if (std::ranges::count(tasks_, task) == 0) tasks_.push_back(task);
  };
  for (const std::string& names : options_.tasks)
    for (const std::string& name : split_list(names))
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

SampleRequest Evaluation::request(int tokens, uint64_t seed, int index) const {
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
void Evaluation::check_lengths() const {
  const int limit = context_limit(*engine_, options_.engine);
  for (const int tokens : lengths_) {
    check_length(tokens, limit, count_text(static_cast<uint64_t>(tokens)));
    for (const Task* task : tasks_) task->make(request(tokens, seeds_[0], 0));
  }
}

int Evaluation::samples_of(const Task& task) const {
  if (task.samples() == 0) return std::max(options_.samples, 1);
  return options_.samples > 0 ? std::min(options_.samples, task.samples()) : task.samples();
}

int64_t Evaluation::samples() const {
  int64_t samples = 0;
  for (const Task* task : tasks_) samples += samples_of(*task);
  return samples *
         static_cast<int64_t>(lengths_.size() * seeds_.size() * specs_.size() * protocols_.size());
}

std::string Evaluation::settings_of(const Task& task) const {
  const auto file = hashes_.find(&task);
  return settings_ + (file == hashes_.end() ? "" : " data=" + file->second);
}

EvalKey Evaluation::key(const Task& task, int tokens, uint64_t seed, int index,
                        const std::string& spec, Protocol protocol) const {
  return {engine_->model().config().digest,
          settings_of(task),
          spec,
          std::string(protocol_name(protocol)),
          task.name(),
          tokens,
          seed,
          index};
}

// What a report needs to name a command that makes the same rows.
void Evaluation::note_flags(EvalResults& results) const {
  std::string flags = "-m " + shell_word(model_);
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) flags += std::string(" ") + name + " " + shell_word(value);
  };
  if (options_.engine.context > 0) add("-c", std::to_string(options_.engine.context));
  if (options_.engine.matmul != "int8") add("--matmul", options_.engine.matmul);
  if (options_.chat != "auto") add("--chat", options_.chat);
  add("--haystack", options_.haystack);
  add("--questions", options_.questions);
  if (options_.share) flags += " --share-prompts";
  const std::string& digest = engine_->model().config().digest;
  results.note_flags(digest, settings_, flags);
  for (size_t i = 0; i < files_.size(); ++i)
    results.note_flags(digest, settings_of(*files_[i]), "--data " + shell_word(options_.data[i]));
}

void Evaluation::measure_throughputs(EvalResults& results) {
  SampleMonitor monitor(warnings_);
  for (const int tokens : lengths_)
    for (const std::string& spec : specs_) {
      std::optional<Throughput> measured;
      for (const Task* task : tasks_) {
        const EvalKey of = key(*task, tokens, 0, 0, spec, Protocol::aware);
        if (results.has_throughput(of, options_.batch_bytes)) continue;
        if (!measured)
          measured = measure_throughput(*engine_, spec, tokens, options_.batch_bytes, monitor);
        results.add_throughput(of, *measured);
      }
    }
}

void Evaluation::run(EvalResults& results, std::vector<EvalRow>& rows,
                     const std::function<void()>& done) {
  note_flags(results);
  if (options_.batch_bytes > 0) measure_throughputs(results);
  for (const Protocol protocol : protocols_)
    each_index([&](const Task& task, int tokens, uint64_t seed, int index) {
      run_sample(task, tokens, seed, index, protocol, results, rows, done);
    });
}

void Evaluation::each_index(
    const std::function<void(const Task&, int, uint64_t, int)>& visit) const {
  for (const Task* task : tasks_)
    for (const int tokens : lengths_)
      for (const uint64_t seed : seeds_)
        for (int index = 0; index < samples_of(*task); ++index) visit(*task, tokens, seed, index);
}

void Evaluation::each_sample(
    const std::function<void(const Task&, int, uint64_t, int, const Sample&)>& see) const {
  each_index([&](const Task& task, int tokens, uint64_t seed, int index) {
    see(task, tokens, seed, index, task.make(request(tokens, seed, index)));
  });
}

void Evaluation::run_sample(const Task& task, int tokens, uint64_t seed, int index,
                            Protocol protocol, EvalResults& results, std::vector<EvalRow>& rows,
                            const std::function<void()>& done) {
  SampleMonitor monitor(warnings_);
  std::optional<Sample> sample;
  std::optional<FullAnswers> full;
  for (const std::string& spec : specs_) {
    const EvalKey of = key(task, tokens, seed, index, spec, protocol);
    if (!results.has(of, options_.fidelity)) {
      if (!sample) sample = task.make(request(tokens, seed, index));
      std::vector<Outcome> outcomes;
      Watch watch{.mass = options_.fidelity};
      if (options_.fidelity && !full) {
        watch.record = &full.emplace();
        outcomes = runner_->run(*sample, "full", protocol, monitor, watch);
        watch.record = nullptr;
      }
      if (spec != "full" || outcomes.empty()) {
        if (full) watch.compare = &*full;
        outcomes = runner_->run(*sample, spec, protocol, monitor, watch);
      }
      results.add(of, model_, *sample, outcomes);
    }
    const std::vector<EvalRow> known = results.rows(of);
    rows.insert(rows.end(), known.begin(), known.end());
    done();
  }
}

}  // namespace pith
