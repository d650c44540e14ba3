// `pith eval` of one model: everything is checked when it is made, and measured when it runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "apps/eval_options.h"
#include "apps/eval_results.h"
#include "eval/runner.h"

namespace pith {

class Evaluation {
 public:
  // Opens the model, reads all files and makes the first sample of every task and length. The
  // options outlive it.
  Evaluation(const EvalOptions& options, const std::string& model);

  int64_t samples() const;  // over all specs
  // First the throughput of every spec and length, if it is asked for. Then one sample after the
  // other, or as many as --batch and --jobs say, with every spec; what is in the results is taken
  // from there. Rows are added in the order of the tables. `done` is never called twice at once.
  // Throws interrupted.
  void run(EvalResults& results, std::vector<EvalRow>& rows, const std::function<void()>& done);

  // What `auto` did not do as it was asked: sentences, each once.
  // Every sample that run() would ask about, in its order.
  void each_sample(const std::function<void(const Task&, int tokens, uint64_t seed, int index,
                                            const Sample&)>& see) const;
  const std::set<std::string>& warnings() const { return warnings_; }

 private:
  void read_materials();
  void find_all_tasks();
  SampleRequest request(const SampleRunner& runner, int tokens, uint64_t seed, int number) const;
  const ModelConfig& config() const { return workers_[0].engine->model().config(); }
  void check_lengths() const;
  int samples_of(const Task& task) const;
  std::string settings_of(const Task& task) const;
  struct Index {
    const Task* task;
    int tokens;
    uint64_t seed;
    int number;
  };
  EvalKey key(const Index& index, const EvalSpec& spec, Protocol protocol) const;
  std::vector<Index> indices() const;  // of every sample, in the order of run()
  void note_flags(EvalResults& results) const;
  void measure_throughputs(EvalResults& results);
  // One of those that work side by side.
  struct Worker {
    std::unique_ptr<Engine> engine;
    std::unique_ptr<SampleRunner> runner;
  };
  void run_samples(Worker& worker, std::span<const Index> together, Protocol protocol,
                   EvalResults& results, Monitor& monitor, const std::function<void()>& done);

  const EvalOptions& options_;
  const std::string model_;
  std::vector<Worker> workers_;
  std::mutex lock_;  // what workers share: results, warnings, progress
  Materials materials_;
  std::string questions_hash_ = "own", settings_;
  std::vector<const Task*> tasks_;
  std::vector<std::unique_ptr<const Task>> files_;
  std::map<const Task*, std::string> hashes_;
  std::vector<EvalSpec> specs_;
  std::vector<Protocol> protocols_;
  std::vector<int> lengths_;
  std::vector<uint64_t> seeds_;
  std::set<std::string> warnings_;
};

}  // namespace pith
