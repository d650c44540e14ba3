// Rows of `pith eval` summed up: a cell per model, protocol, length, spec and task, tables of them,
// and which specs nothing beats.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/eval_results.h"
#include "apps/table.h"
#include "eval/metrics.h"

namespace pith {

// Means over questions. What not every row has is nothing.
struct EvalFigures {
  double prompt_tokens = 0, generated_tokens = 0;
  double prompt_bytes = 0, end_bytes = 0;
  double share = 0;  // prompt bytes of those of a full f16 cache
  double first_seconds = 0, token_seconds = 0;
  struct Classes {  // bytes; metadata: positions, scores, page tables; other: pseudo and dropped
    double keys = 0, values = 0, metadata = 0, summaries = 0, other = 0;
  };
  struct Parts {
    Classes prompt, end;
    double peak_bytes = 0;
    double compress_share = 0;  // of the time to the first token
  };
  std::optional<Parts> parts;
  std::optional<double> divergence, agreement, mass_kept;
  std::optional<Throughput> throughput;
};
EvalFigures figures_of(std::span<const EvalRow> rows);

struct EvalCell {
  EvalKey key;  // without seed and index; an empty task: the mean of all
  std::string model_name;
  Mean score;  // over samples; a mean of tasks weighs tasks alike
  EvalFigures figures;
  std::vector<EvalRow> rows;
};

// In the order of `rows`: by model and settings, protocol, length, spec, task, and behind the tasks
// of a spec, if there are several, their mean. What settings say of one data set is left out.
std::vector<EvalCell> cells_of(std::span<const EvalRow> rows);

// json, csv: one table of everything.
Table eval_table(std::span<const EvalCell> cells);
// md: scores and costs, and what is held by class; of cells of one model and protocol.
Table score_table(std::span<const EvalCell> cells);
Table bytes_table(std::span<const EvalCell> cells);

// "plain prompts", "chat template llama3"
std::string prompts_text(const std::string& settings);

struct CostPoint {
  double cost = 0, score = 0;
};
// Which points are on the Pareto front: no other costs as little and scores as much, and less or
// more in one of the two. Equal points share their fate.
std::vector<bool> pareto_front(std::span<const CostPoint> points);

}  // namespace pith
