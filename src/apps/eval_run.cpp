#include "apps/eval_run.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <iterator>
#include <optional>
#include <thread>

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
  SampleMonitor(std::set<std::string>& warnings, std::mutex& lock)
      : warnings_(warnings), lock_(lock) {}
  bool stopped() const override { return failed || interrupted(); }
  void warn(std::string_view sentence) override {
    const std::scoped_lock locked(lock_);
    warnings_.emplace(sentence);
  }

  std::atomic<bool> failed = false;  // by another worker

 private:
  std::set<std::string>& warnings_;
  std::mutex& lock_;
};

EngineArguments with_model(EngineArguments engine, const std::string& model) {
  engine.model = model;
  return engine;
}

}  // namespace

Evaluation::Evaluation(const EvalOptions& options, const std::string& model)
    : options_(options), model_(model) {
  for (auto& engine : open_engines(with_model(options.engine, model), options.share, options.jobs))
    workers_.push_back({std::move(engine), nullptr});
  read_materials();
  find_all_tasks();
  specs_ = specs_of(options, config().shape, config().digest);
  if (options.protocol != "agnostic") protocols_.push_back(Protocol::aware);
  if (options.protocol != "aware") protocols_.push_back(Protocol::agnostic);
  lengths_ = lengths_of(options);
  seeds_ = seeds_of(options);
  const ChosenChat chosen = chosen_chat(*workers_[0].engine, options.chat);
  for (Worker& worker : workers_)
    worker.runner = std::make_unique<SampleRunner>(*worker.engine, chosen.chat);
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

SampleRequest Evaluation::request(const SampleRunner& runner, int tokens, uint64_t seed,
                                  int index) const {
  SampleRequest out;
  out.tokens = &runner.text();
  out.materials = &materials_;
  out.seed = seed;
  out.index = index;
  out.max_tokens = tokens;
  out.wrapper_tokens = runner.wrapper_tokens();
  return out;
}

// Before anything is run or written.
void Evaluation::check_lengths() const {
  const int limit = context_limit(*workers_[0].engine, options_.engine);
  for (const int tokens : lengths_) {
    check_length(tokens, limit, count_text(static_cast<uint64_t>(tokens)));
    for (const Task* task : tasks_) task->make(request(*workers_[0].runner, tokens, seeds_[0], 0));
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

EvalKey Evaluation::key(const Index& index, const EvalSpec& spec, Protocol protocol) const {
  return {config().digest,    settings_of(*index.task),
          spec.text,          std::string(protocol_name(protocol)),
          index.task->name(), index.tokens,
          index.seed,         index.number,
          spec.files};
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
  if (options_.batch > 1) add("--batch", std::to_string(options_.batch));
  if (options_.jobs > 1) add("--jobs", std::to_string(options_.jobs));
  const std::string& digest = config().digest;
  results.note_flags(digest, settings_, flags);
  for (const EvalSpec& spec : specs_) results.note_files(digest, spec.text, spec.files);
  for (size_t i = 0; i < files_.size(); ++i)
    results.note_flags(digest, settings_of(*files_[i]), "--data " + shell_word(options_.data[i]));
}

void Evaluation::measure_throughputs(EvalResults& results) {
  SampleMonitor monitor(warnings_, lock_);
  for (const int tokens : lengths_)
    for (const EvalSpec& spec : specs_) {
      std::optional<Throughput> measured;
      for (const Task* task : tasks_) {
        const EvalKey of = key({task, tokens, 0, 0}, spec, Protocol::aware);
        if (results.has_throughput(of, options_.batch_bytes)) continue;
        if (!measured)
          measured = measure_throughput(*workers_[0].engine, spec.text, tokens,
                                        options_.batch_bytes, monitor);
        results.add_throughput(of, *measured);
      }
    }
}

void Evaluation::run(EvalResults& results, std::vector<EvalRow>& rows,
                     const std::function<void()>& done) {
  note_flags(results);
  if (options_.batch_bytes > 0) measure_throughputs(results);
  const std::vector<Index> all = indices();
  struct Job {
    Protocol protocol;
    std::span<const Index> together;
  };
  std::vector<Job> jobs;
  const auto most = static_cast<size_t>(options_.batch);
  for (const Protocol protocol : protocols_)
    for (size_t first = 0; first < all.size(); first += most)
      jobs.push_back({protocol, std::span(all).subspan(first, std::min(most, all.size() - first))});

  SampleMonitor monitor(warnings_, lock_);
  std::exception_ptr failure;  // the first
  std::atomic<size_t> next = 0;
  const auto work = [&](Worker& worker) {
    try {
      for (size_t job = next++; job < jobs.size(); job = next++)
        run_samples(worker, jobs[job].together, jobs[job].protocol, results, monitor, done);
    } catch (...) {
      const std::scoped_lock locked(lock_);
      if (!failure) failure = std::current_exception();
      monitor.failed = true;
    }
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < workers_.size(); ++i) others.emplace_back([&, i] { work(workers_[i]); });
    work(workers_[0]);
  }
  for (const auto& [protocol, together] : jobs)
    for (const Index& index : together)
      for (const EvalSpec& spec : specs_)
        std::ranges::move(results.rows(key(index, spec, protocol)), std::back_inserter(rows));
  if (failure) std::rethrow_exception(failure);
}

std::vector<Evaluation::Index> Evaluation::indices() const {
  std::vector<Index> all;
  for (const Task* task : tasks_)
    for (const int tokens : lengths_)
      for (const uint64_t seed : seeds_)
        for (int number = 0; number < samples_of(*task); ++number)
          all.push_back({task, tokens, seed, number});
  return all;
}

void Evaluation::each_sample(
    const std::function<void(const Task&, int, uint64_t, int, const Sample&)>& see) const {
  for (const auto& [task, tokens, seed, number] : indices())
    see(*task, tokens, seed, number,
        task->make(request(*workers_[0].runner, tokens, seed, number)));
}

void Evaluation::run_samples(Worker& worker, std::span<const Index> together, Protocol protocol,
                             EvalResults& results, Monitor& monitor,
                             const std::function<void()>& done) {
  std::vector<std::optional<Sample>> samples(together.size());
  std::vector<std::optional<FullAnswers>> full(together.size());
  const auto answer = [&](const std::string& spec, const std::vector<size_t>& of,
                          bool records) -> std::vector<std::vector<Outcome>> {
    std::vector<const Sample*> asked;
    std::vector<Watch> watches;
    for (const size_t i : of) {
      if (!samples[i])
        samples[i] = together[i].task->make(
            request(*worker.runner, together[i].tokens, together[i].seed, together[i].number));
      asked.push_back(&*samples[i]);
      Watch& watch = watches.emplace_back();
      watch.mass = options_.fidelity;
      if (records) watch.record = &full[i].emplace();
      if (!records && full[i]) watch.compare = &*full[i];
    }
    return worker.runner->run(asked, spec, protocol, monitor, watches, options_.batch);
  };
  for (const EvalSpec& spec : specs_) {
    std::vector<size_t> lacking, unrecorded;
    {
      const std::scoped_lock locked(lock_);
      for (size_t i = 0; i < together.size(); ++i)
        if (!results.has(key(together[i], spec, protocol), options_.fidelity)) lacking.push_back(i);
    }
    if (options_.fidelity)
      std::ranges::copy_if(lacking, std::back_inserter(unrecorded),
                           [&](size_t i) { return !full[i]; });
    const auto keep = [&](const std::vector<size_t>& of,
                          const std::vector<std::vector<Outcome>>& outcomes) {
      const std::scoped_lock locked(lock_);
      for (size_t i = 0; i < of.size(); ++i)
        results.add(key(together[of[i]], spec, protocol), model_, *samples[of[i]], outcomes[i]);
    };
    if (!unrecorded.empty()) {
      const std::vector<std::vector<Outcome>> outcomes = answer("full", unrecorded, true);
      if (spec.text == "full") {
        keep(unrecorded, outcomes);
        std::erase_if(lacking, [&](size_t i) { return std::ranges::count(unrecorded, i) > 0; });
      }
    }
    if (!lacking.empty()) keep(lacking, answer(spec.text, lacking, false));
    const std::scoped_lock locked(lock_);
    for (size_t i = 0; i < together.size(); ++i) done();
  }
  // Nobody asks about these again.
  if (worker.engine->prefixes()) worker.engine->prefixes()->clear();
}

}  // namespace pith
