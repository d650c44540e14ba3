#include "apps/eval_summary.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "apps/json_writer.h"
#include "apps/units.h"

namespace pith {
namespace {

// Without what belongs to one data set only.
std::string common_settings(const std::string& settings) {
  return settings.substr(0, settings.find(" data="));
}

bool same_run(const EvalKey& a, const EvalKey& b) {
  return a.model == b.model && a.settings == b.settings && a.protocol == b.protocol &&
         a.tokens == b.tokens;
}

Mean score_of(const std::vector<EvalRow>& rows) {
  std::vector<double> scores;
  for (size_t first = 0, last = 0; first < rows.size(); first = last) {
    double sum = 0;
    const EvalKey& sample = rows[first].key;
    for (; last < rows.size() && rows[last].key.seed == sample.seed &&
           rows[last].key.index == sample.index && rows[last].key.settings == sample.settings;
         ++last)
      sum += rows[last].score;
    scores.push_back(sum / static_cast<double>(last - first));
  }
  return mean_of(scores);
}

EvalCell mean_cell(std::span<const EvalCell> tasks) {
  EvalCell all = tasks[0];
  all.key.task.clear();
  all.score = {};
  all.rows.clear();
  double squares = 0;
  bool known = true;
  for (const EvalCell& task : tasks) {
    all.score.count += task.score.count;
    all.score.mean += task.score.mean / static_cast<double>(tasks.size());
    known = known && task.score.half_width.has_value();
    squares += task.score.half_width.value_or(0) * task.score.half_width.value_or(0);
    all.rows.insert(all.rows.end(), task.rows.begin(), task.rows.end());
  }
  if (known) all.score.half_width = std::sqrt(squares) / static_cast<double>(tasks.size());
  all.figures = figures_of(all.rows);
  return all;
}

Table::Cell figure(double value, int decimals) {
  return {fixed_text(value, decimals), JsonWriter(0).value(value).text()};
}
Table::Cell figure_if(const std::optional<double>& value, int decimals) {
  return value ? figure(*value, decimals) : Table::Cell("-", "");
}
Table::Cell bytes_cell(double value) {
  const auto bytes = static_cast<uint64_t>(std::llround(value));
  return {bytes_text(bytes), std::to_string(bytes)};
}
Table::Cell bytes_if(bool known, double value) {
  return known ? bytes_cell(value) : Table::Cell("-", "");
}
Table::Cell share_cell(bool known, double value) {
  return known ? Table::Cell(fixed_text(100 * value, 1) + " %", JsonWriter(0).value(value).text())
               : Table::Cell("-", "");
}
Table::Cell count_cell(int count) {
  return {count_text(static_cast<uint64_t>(count)), std::to_string(count)};
}

std::string task_name(const EvalCell& cell) {
  return cell.key.task.empty() ? "mean of tasks" : cell.key.task;
}

using Cells = std::vector<Table::Cell>;

void add_score(Cells& to, const EvalCell& cell) {
  const EvalFigures& f = cell.figures;
  to.emplace_back(cell.key.spec);
  to.emplace_back(task_name(cell));
  to.push_back(count_cell(cell.key.tokens));
  to.emplace_back(std::to_string(cell.score.count));
  to.push_back(figure(100 * cell.score.mean, 1));
  to.push_back(cell.score.half_width ? figure(100 * *cell.score.half_width, 1)
                                     : Table::Cell("-", ""));
  to.push_back(figure(f.prompt_tokens, 0));
  to.push_back(bytes_cell(f.prompt_bytes));
  to.push_back(figure(f.share, 4));
  to.push_back(bytes_cell(f.end_bytes));
  to.push_back(bytes_if(f.parts.has_value(), f.parts ? f.parts->peak_bytes : 0));
  to.push_back(figure(f.generated_tokens, 1));
  to.push_back({duration_text(f.first_seconds), JsonWriter(0).value(f.first_seconds).text()});
  to.push_back(share_cell(f.parts.has_value(), f.parts ? f.parts->compress_share : 0));
  to.push_back(
      {fixed_text(1000 * f.token_seconds, 1) + " ms", JsonWriter(0).value(f.token_seconds).text()});
}
const std::vector<Table::Column> kScoreColumns = {{"spec", "spec", false},
                                                  {"task", "task", false},
                                                  {"tokens", "tokens"},
                                                  {"samples", "samples"},
                                                  {"score", "score"},
                                                  {"score_error", "+/- 95 %"},
                                                  {"prompt_tokens", "prompt"},
                                                  {"cache_bytes", "cache"},
                                                  {"cache_share", "of full"},
                                                  {"end_bytes", "at the end"},
                                                  {"peak_bytes", "peak"},
                                                  {"generated_tokens", "answer"},
                                                  {"ttft_seconds", "TTFT"},
                                                  {"compression_share", "compression"},
                                                  {"seconds_per_token", "per token"}};

void add_fidelity(Cells& to, const EvalFigures& f) {
  to.push_back(figure_if(f.divergence, 5));
  to.push_back(figure_if(f.agreement, 4));
  to.push_back(figure_if(f.mass_kept, 4));
}
const std::vector<Table::Column> kFidelityColumns = {
    {"kl_mean", "KL"}, {"top1_agreement", "same top 1"}, {"mass_kept", "mass kept"}};

void add_throughput(Cells& to, const EvalFigures& f) {
  const Throughput measured = f.throughput.value_or(Throughput{});
  const bool known = f.throughput.has_value();
  to.push_back(bytes_if(known, static_cast<double>(measured.limit_bytes)));
  to.push_back(known ? Table::Cell(std::to_string(measured.sessions)) : Table::Cell("-", ""));
  to.push_back(figure_if(known ? std::optional(measured.alone) : std::nullopt, 0));
  to.push_back(figure_if(known ? std::optional(measured.together) : std::nullopt, 0));
}
const std::vector<Table::Column> kThroughputColumns = {{"batch_limit_bytes", "limit"},
                                                       {"batch_sessions", "batch"},
                                                       {"tokens_per_second", "t/s alone"},
                                                       {"batch_tokens_per_second", "t/s batch"}};

void add_classes(Cells& to, const EvalFigures& f) {
  const EvalFigures::Parts parts = f.parts.value_or(EvalFigures::Parts{});
  for (const EvalFigures::Classes* const held : {&parts.prompt, &parts.end})
    for (const double bytes :
         {held->keys, held->values, held->metadata, held->summaries, held->other})
      to.push_back(bytes_if(f.parts.has_value(), bytes));
}
const std::vector<Table::Column> kClassColumns = {
    {"cache_key_bytes", "keys"},          {"cache_value_bytes", "values"},
    {"cache_metadata_bytes", "metadata"}, {"cache_summary_bytes", "summaries"},
    {"cache_other_bytes", "other"},       {"end_key_bytes", "keys at the end"},
    {"end_value_bytes", "values"},        {"end_metadata_bytes", "metadata"},
    {"end_summary_bytes", "summaries"},   {"end_other_bytes", "other"}};

std::vector<Table::Column> joined(std::vector<Table::Column> to,
                                  const std::vector<Table::Column>& more) {
  to.insert(to.end(), more.begin(), more.end());
  return to;
}

}  // namespace

EvalFigures figures_of(std::span<const EvalRow> rows) {
  EvalFigures f;
  if (rows.empty()) return f;
  const double each = 1.0 / static_cast<double>(rows.size());
  double full = 0, compressing = 0, token_seconds = 0;
  int writing = 0;
  f.parts.emplace();
  f.divergence = f.agreement = f.mass_kept = 0;
  for (const EvalRow& row : rows) {
    f.prompt_tokens += each * row.prompt_tokens;
    f.generated_tokens += each * row.generated_tokens;
    f.prompt_bytes += each * static_cast<double>(row.prompt_bytes);
    f.end_bytes += each * static_cast<double>(row.end_bytes);
    full += each * static_cast<double>(row.full_bytes);
    f.first_seconds += each * row.first_seconds;
    // An answer of one token has no time per token.
    token_seconds += row.token_seconds;
    if (row.generated_tokens > 1) ++writing;
    f.throughput = row.throughput;  // the same of all rows of a spec and length
    const auto add = [each](std::optional<double>& to, const std::optional<double>& value) {
      if (to && value)
        *to += each * *value;
      else
        to.reset();
    };
    add(f.divergence, row.divergence);
    add(f.agreement, row.agreement);
    add(f.mass_kept, row.mass_kept);
    if (!row.parts) f.parts.reset();
    if (!f.parts) continue;
    const auto add_held = [each](EvalFigures::Classes& to, const EvalRow::Held& held) {
      to.keys += each * static_cast<double>(held.keys);
      to.values += each * static_cast<double>(held.values);
      to.metadata += each * static_cast<double>(held.lanes);
      to.summaries += each * static_cast<double>(held.summaries);
      to.other += each * static_cast<double>(held.pseudo + held.dropped);
    };
    add_held(f.parts->prompt, row.parts->prompt);
    add_held(f.parts->end, row.parts->end);
    f.parts->peak_bytes += each * static_cast<double>(row.parts->peak_bytes);
    compressing += each * row.parts->compress_seconds;
  }
  if (writing > 0) f.token_seconds = token_seconds / writing;
  f.share = full > 0 ? f.prompt_bytes / full : 0;
  if (f.parts && f.first_seconds > 0) f.parts->compress_share = compressing / f.first_seconds;
  return f;
}

std::vector<EvalCell> cells_of(std::span<const EvalRow> rows) {
  std::vector<EvalCell> cells;
  std::map<std::vector<std::string>, size_t> known;
  for (const EvalRow& row : rows) {
    EvalKey key = row.key;
    key.settings = common_settings(key.settings);
    key.seed = 0;
    key.index = 0;
    const auto [at, fresh] = known.try_emplace(
        {key.model, key.settings, key.protocol, std::to_string(key.tokens), key.spec, key.task},
        cells.size());
    if (fresh) cells.push_back({key, row.model_name, {}, {}, {}});
    cells[at->second].rows.push_back(row);
  }
  // Groups come where their first cell is.
  const auto order = [&](const auto& part) {
    std::map<std::string, size_t> first;
    for (size_t i = 0; i < cells.size(); ++i) first.try_emplace(part(cells[i]), i);
    return [first, part](const EvalCell& cell) { return first.at(part(cell)); };
  };
  const auto run = order([](const EvalCell& c) { return c.key.model + "\n" + c.key.settings; });
  const auto protocol = order([](const EvalCell& c) { return c.key.protocol; });
  const auto spec = order([](const EvalCell& c) { return c.key.spec; });
  const auto task = order([](const EvalCell& c) { return c.key.task; });
  std::vector<std::pair<std::vector<size_t>, size_t>> places;
  for (size_t i = 0; i < cells.size(); ++i) {
    const EvalCell& c = cells[i];
    places.push_back(
        {{run(c), protocol(c), static_cast<size_t>(c.key.tokens), spec(c), task(c)}, i});
  }
  std::ranges::sort(places);
  std::vector<EvalCell> sorted;
  size_t first = 0;  // of the spec's tasks
  const auto end_spec = [&] {
    if (sorted.size() > first + 1) sorted.push_back(mean_cell(std::span(sorted).subspan(first)));
    first = sorted.size();
  };
  for (const auto& [place, i] : places) {
    EvalCell& cell = cells[i];
    if (first < sorted.size() &&
        !(same_run(sorted[first].key, cell.key) && sorted[first].key.spec == cell.key.spec))
      end_spec();
    cell.score = score_of(cell.rows);
    cell.figures = figures_of(cell.rows);
    sorted.push_back(std::move(cell));
  }
  end_spec();
  return sorted;
}

Table eval_table(std::span<const EvalCell> cells) {
  Table table(joined(
      joined(joined({{"model", "model", false}, {"protocol", "protocol", false}}, kScoreColumns),
             kFidelityColumns),
      joined(kThroughputColumns, kClassColumns)));
  for (const EvalCell& cell : cells) {
    Cells row = {cell.model_name, cell.key.protocol};
    add_score(row, cell);
    add_fidelity(row, cell.figures);
    add_throughput(row, cell.figures);
    add_classes(row, cell.figures);
    table.add(std::move(row));
  }
  return table;
}

Table score_table(std::span<const EvalCell> cells) {
  const bool compared = std::ranges::any_of(
      cells, [](const EvalCell& cell) { return cell.figures.divergence.has_value(); });
  const bool timed = std::ranges::any_of(
      cells, [](const EvalCell& cell) { return cell.figures.throughput.has_value(); });
  std::vector<Table::Column> columns = kScoreColumns;
  if (compared) columns = joined(columns, kFidelityColumns);
  if (timed) columns = joined(columns, kThroughputColumns);
  Table table(columns);
  for (const EvalCell& cell : cells) {
    Cells row;
    add_score(row, cell);
    if (compared) add_fidelity(row, cell.figures);
    if (timed) add_throughput(row, cell.figures);
    table.add(std::move(row));
  }
  return table;
}

Table bytes_table(std::span<const EvalCell> cells) {
  Table table(joined({{"spec", "spec", false}, {"tokens", "tokens"}}, kClassColumns));
  for (size_t i = 0; i < cells.size(); ++i) {
    const EvalCell& cell = cells[i];
    // The last of a spec is the mean of its tasks, or its only one.
    const bool last = i + 1 == cells.size() || cells[i + 1].key.spec != cell.key.spec ||
                      !same_run(cells[i + 1].key, cell.key);
    if (!last) continue;
    Cells row = {cell.key.spec, count_cell(cell.key.tokens)};
    add_classes(row, cell.figures);
    table.add(std::move(row));
  }
  return table;
}

std::string prompts_text(const std::string& settings) {
  const size_t at = settings.find("chat=");
  const std::string chat =
      at == std::string::npos ? "none" : settings.substr(at + 5, settings.find(' ', at) - at - 5);
  return chat == "none" ? "plain prompts" : "chat template " + chat;
}

std::vector<bool> pareto_front(std::span<const CostPoint> points) {
  std::vector<size_t> order(points.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::sort(order, [&](size_t a, size_t b) {
    return points[a].cost != points[b].cost ? points[a].cost < points[b].cost
                                            : points[a].score > points[b].score;
  });
  std::vector<bool> front(points.size(), false);
  const CostPoint* last = nullptr;  // of the front
  for (const size_t i : order) {
    const CostPoint& point = points[i];
    const bool same = last && point.cost == last->cost && point.score == last->score;
    if (last && point.score <= last->score && !same) continue;
    front[i] = true;
    last = &point;
  }
  return front;
}

}  // namespace pith
