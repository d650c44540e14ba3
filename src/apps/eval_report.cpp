#include "apps/eval_report.h"

#include <algorithm>
#include <fmt/format.h>
#include <functional>
#include <set>

#include "apps/eval_figures.h"
#include "apps/eval_options.h"
#include "apps/units.h"
#include "base/error.h"
#include "eval/task.h"

namespace pith {
namespace {

// What is shown together: cells of one model, its settings and a protocol.
struct Part {
  std::string model, settings, model_name, protocol;
  std::vector<EvalCell> cells;
  std::vector<EvalRow> rows;
  std::vector<int> lengths;
};

std::vector<Part> parts_of(const EvalReport& report) {
  std::vector<Part> parts;
  for (const EvalCell& cell : cells_of(report.rows)) {
    const EvalKey& key = cell.key;
    if (parts.empty() || parts.back().model != key.model || parts.back().settings != key.settings ||
        parts.back().protocol != key.protocol)
      parts.push_back({key.model, key.settings, cell.model_name, key.protocol, {}, {}, {}});
    Part& part = parts.back();
    if (part.lengths.empty() || part.lengths.back() != key.tokens)
      part.lengths.push_back(key.tokens);
    if (!key.task.empty()) part.rows.insert(part.rows.end(), cell.rows.begin(), cell.rows.end());
    part.cells.push_back(cell);
  }
  return parts;
}

std::vector<EvalCell> of_length(const Part& part, int tokens) {
  std::vector<EvalCell> cells;
  std::ranges::copy_if(part.cells, std::back_inserter(cells),
                       [&](const EvalCell& cell) { return cell.key.tokens == tokens; });
  return cells;
}

template <class Of>
auto distinct(const std::vector<EvalRow>& rows, Of&& of) {
  std::vector<std::decay_t<decltype(of(rows[0]))>> all;
  for (const EvalRow& row : rows)
    if (std::ranges::count(all, of(row)) == 0) all.push_back(of(row));
  return all;
}

// The command that makes these rows again.
std::string command_of(const EvalReport& report, const Part& part,
                       const std::vector<EvalRow>& rows) {
  const auto flags_of = [&](const std::string& settings) {
    const auto at = report.flags.find({part.model, settings});
    return at == report.flags.end() ? std::string() : at->second;
  };
  std::string command = "pith eval ";
  const std::string known = flags_of(part.settings);
  command += known.empty() ? "-m " + shell_word(part.model_name) : known;
  const auto add = [&](const char* flag, const std::string& value) {
    command += std::string(" \\\n  ") + flag + " " + shell_word(value);
  };
  for (const std::string& spec : distinct(rows, [](const EvalRow& row) { return row.key.spec; }))
    add("--kv", spec);
  // Suites by their names where all of their tasks are there.
  std::vector<std::string> names;
  for (const std::string& settings :
       distinct(rows, [](const EvalRow& row) { return row.key.settings; })) {
    if (settings == part.settings) continue;
    const std::string data = flags_of(settings);
    if (!data.empty()) command += " \\\n  " + data;
  }
  for (const EvalRow& row : rows)
    if (row.key.settings == part.settings && std::ranges::count(names, row.key.task) == 0)
      names.push_back(row.key.task);
  std::set<std::string> suites;
  for (const Task* task : tasks()) suites.insert(task->suite());
  for (const std::string& suite : suites) {
    const std::vector<const Task*> all = find_tasks(suite);
    if (all.size() < 2 || !std::ranges::all_of(all, [&](const Task* task) {
          return std::ranges::count(names, task->name()) > 0;
        }))
      continue;
    for (const Task* task : all) std::erase(names, task->name());
    names.push_back(suite);
  }
  const auto list = [](const auto& values) {
    std::string text;
    for (const auto& value : values) text += (text.empty() ? "" : ",") + fmt::format("{}", value);
    return text;
  };
  if (!names.empty()) add("--task", list(names));
  add("--lengths", list(distinct(rows, [](const EvalRow& row) { return row.key.tokens; })));
  add("--seeds", list(distinct(rows, [](const EvalRow& row) { return row.key.seed; })));
  int samples = 0;
  for (const EvalRow& row : rows) samples = std::max(samples, row.key.index + 1);
  add("--samples", std::to_string(samples));
  add("--protocol", part.protocol == "query-aware" ? "aware" : "agnostic");
  if (std::ranges::all_of(rows, [](const EvalRow& row) { return row.divergence.has_value(); }))
    command += " --fidelity";
  if (rows[0].throughput)
    command += " --batch-memory " + std::to_string(rows[0].throughput->limit_bytes);
  if (!report.results.empty()) add("--results", report.results);
  return command + " -o html";
}

struct Figure {
  std::string name;     // of its file, without ending
  std::string heading;  // under which it stands, once
  std::string caption;  // may hold markup
  Svg svg;
  std::string table;  // markup beside it
  std::vector<EvalRow> rows;
};

std::string score_text(const Mean& mean) {
  return fixed_text(100 * mean.mean, 1) +
         (mean.half_width ? " \xc2\xb1 " + fixed_text(100 * *mean.half_width, 1) : "");
}

// Tables scroll by keyboard where they are wider than the page.
std::string table_markup(const std::string& about, const std::vector<std::string>& head,
                         const std::vector<std::vector<std::string>>& rows,
                         const std::vector<bool>& strong = {}) {
  std::string out = fmt::format(
      "<div class=\"wide\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"{0}\">\n<table>\n<thead><tr>",
      xml_text(about));
  for (const std::string& cell : head)
    out += fmt::format("<th scope=\"col\">{}</th>", xml_text(cell));
  out += "</tr></thead>\n<tbody>\n";
  for (size_t r = 0; r < rows.size(); ++r) {
    out += r < strong.size() && strong[r] ? "<tr class=\"strong\">" : "<tr>";
    for (size_t c = 0; c < rows[r].size(); ++c)
      out += c == 0 ? fmt::format("<th scope=\"row\"><code>{}</code></th>", xml_text(rows[r][c]))
                    : fmt::format("<td>{}</td>", xml_text(rows[r][c]));
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n</div>\n";
}

std::string optional_text(const std::optional<double>& value, double scale, int decimals) {
  return value ? fixed_text(scale * *value, decimals) : "-";
}
std::string bytes_of(double bytes) {
  return bytes_text(static_cast<uint64_t>(bytes + 0.5));
}

std::string cost_table(const std::vector<EvalCell>& cells) {
  const std::vector<int> places = front_places(cells);
  const auto any = [&](auto part) {
    return std::ranges::any_of(cells, [&](const EvalCell& c) { return part(c.figures); });
  };
  const bool compared = any([](const EvalFigures& f) { return f.divergence.has_value(); });
  std::vector<std::string> head = {"spec",      "front",       "score",    "cache",
                                   "% of full", "at the end",  "peak",     "answer",
                                   "TTFT",      "compression", "per token"};
  const bool timed = any([](const EvalFigures& f) { return f.throughput.has_value(); });
  if (compared) head.insert(head.end(), {"KL", "same top 1", "mass kept"});
  if (timed) head.insert(head.end(), {"t/s alone", "batch", "t/s batch"});
  std::vector<std::vector<std::string>> rows;
  std::vector<bool> strong;
  for (size_t i = 0; i < cells.size(); ++i) {
    const EvalFigures& f = cells[i].figures;
    rows.push_back({cells[i].key.spec, places[i] > 0 ? std::to_string(places[i]) : "",
                    score_text(cells[i].score), bytes_of(f.prompt_bytes),
                    fixed_text(100 * f.share, 1), bytes_of(f.end_bytes),
                    f.parts ? bytes_of(f.parts->peak_bytes) : "-",
                    fixed_text(f.generated_tokens, 1), duration_text(f.first_seconds),
                    f.parts ? fixed_text(100 * f.parts->compress_share, 1) + " %" : "-",
                    fixed_text(1000 * f.token_seconds, 1) + " ms"});
    if (compared) {
      rows.back().push_back(optional_text(f.divergence, 1, 4));
      rows.back().push_back(f.agreement ? fixed_text(100 * *f.agreement, 1) + " %" : "-");
      rows.back().push_back(f.mass_kept ? fixed_text(100 * *f.mass_kept, 1) + " %" : "-");
    }
    if (timed && f.throughput) {
      rows.back().push_back(fixed_text(f.throughput->alone, 0));
      rows.back().push_back(
          fmt::format("{} in {}", f.throughput->sessions, bytes_text(f.throughput->limit_bytes)));
      rows.back().push_back(fixed_text(f.throughput->together, 0));
    } else if (timed) {
      rows.back().insert(rows.back().end(), 3, "-");
    }
    strong.push_back(places[i] > 0);
  }
  return table_markup("scores and costs by spec", head, rows, strong);
}

std::string task_table(const std::vector<EvalCell>& cells) {
  std::vector<std::string> head = {"spec"};
  std::vector<std::string> tasks, specs;
  for (const EvalCell& cell : cells) {
    if (std::ranges::count(tasks, cell.key.task) == 0) tasks.push_back(cell.key.task);
    if (std::ranges::count(specs, cell.key.spec) == 0) specs.push_back(cell.key.spec);
  }
  // The mean is the last column.
  std::ranges::stable_partition(tasks, [](const std::string& task) { return !task.empty(); });
  for (const std::string& task : tasks) head.push_back(task.empty() ? "mean" : task);
  std::vector<std::vector<std::string>> rows;
  for (const std::string& spec : specs) {
    std::vector<std::string>& row = rows.emplace_back(std::vector{spec});
    for (const std::string& task : tasks) {
      const auto at = std::ranges::find_if(cells, [&](const EvalCell& cell) {
        return cell.key.spec == spec && cell.key.task == task;
      });
      row.push_back(at == cells.end() ? "" : score_text(at->score));
    }
  }
  return table_markup("scores by task", head, rows);
}

std::string classes_table(const std::vector<EvalCell>& cells) {
  std::vector<std::vector<std::string>> rows;
  for (const EvalCell& cell : cells) {
    if (!cell.figures.parts) continue;
    std::vector<std::string>& row = rows.emplace_back(std::vector{cell.key.spec});
    for (const EvalFigures::Classes* held : {&cell.figures.parts->prompt, &cell.figures.parts->end})
      for (const double bytes :
           {held->keys, held->values, held->metadata, held->summaries, held->other})
        row.push_back(bytes_of(bytes));
  }
  return table_markup("bytes by class",
                      {"spec", "keys", "values", "metadata", "summaries", "other", "keys, end",
                       "values, end", "metadata, end", "summaries, end", "other, end"},
                      rows);
}

std::string safe_name(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '=';
    if (plain)
      out += c;
    else if (!out.empty() && out.back() != '-')
      out += '-';
  }
  return out.substr(0, 80);
}

std::vector<Figure> figures_of(const Part& part, size_t number) {
  std::vector<Figure> figures;
  const std::string prefix = fmt::format("{}-{}", number, part.protocol);
  const auto rows_of = [&](const std::function<bool(const EvalRow&)>& want) {
    std::vector<EvalRow> rows;
    std::ranges::copy_if(part.rows, std::back_inserter(rows), want);
    return rows;
  };
  for (const int tokens : part.lengths) {
    const std::vector<EvalCell> cells = of_length(part, tokens), last = last_of_specs(cells);
    const std::string length = count_text(static_cast<uint64_t>(tokens));
    const auto tasks_here = cells.size() / std::max<size_t>(last.size(), 1);
    const std::string what =
        tasks_here > 1 ? "The mean of the tasks" : "The score of " + cells[0].key.task;
    figures.push_back(
        {fmt::format("{}-score-{}", prefix, tokens), "Score against bytes",
         fmt::format("{} against what the cache holds after the prompt, at {} tokens. Filled marks "
                     "and the dashed line are the front: nothing measured holds less and scores "
                     "as much. Numbers are those of the table.",
                     xml_text(what), length),
         score_figure(last), cost_table(last),
         rows_of([&](const EvalRow& row) { return row.key.tokens == tokens; })});
  }
  for (const int tokens : part.lengths) {
    const std::vector<EvalCell> last = last_of_specs(of_length(part, tokens));
    if (std::ranges::none_of(last, [](const EvalCell& c) { return c.figures.parts.has_value(); }))
      continue;
    figures.push_back({fmt::format("{}-bytes-{}", prefix, tokens), "What is held",
                       fmt::format("Bytes after a prompt of {} tokens, by class.",
                                   count_text(static_cast<uint64_t>(tokens))),
                       bytes_figure(last), classes_table(last),
                       rows_of([&](const EvalRow& row) { return row.key.tokens == tokens; })});
  }
  const std::vector<EvalRow> needles = rows_of([](const EvalRow& row) { return row.depth >= 0; });
  for (const std::string& task : distinct(needles, [](const EvalRow& row) { return row.key.task; }))
    for (const std::string& spec :
         distinct(needles, [](const EvalRow& row) { return row.key.spec; })) {
      const std::vector<EvalRow> rows = rows_of([&](const EvalRow& row) {
        return row.depth >= 0 && row.key.spec == spec && row.key.task == task;
      });
      if (rows.empty()) continue;
      figures.push_back({fmt::format("{}-needle-{}-{}", prefix, safe_name(task), safe_name(spec)),
                         "Needles", xml_text(task), needle_figure(rows, spec), "", rows});
    }
  if (part.lengths.size() > 1) {
    const std::vector<EvalCell> last = last_of_specs(part.cells);
    const size_t specs =
        distinct(part.rows, [](const EvalRow& row) { return row.key.spec; }).size();
    figures.push_back(
        {prefix + "-speed", "Speed against length",
         specs > kSpeedSeries
             ? fmt::format("{} of {} specs; the tables have all of them.", kSpeedSeries, specs)
             : "Up to the first token, compression included, and for each token after it.",
         speed_figure(last), "", part.rows});
  }
  std::set<std::string> names;  // long ones are cut short
  for (Figure& figure : figures)
    for (int copy = 2; !names.insert(figure.name).second; ++copy)
      figure.name = figure.name.substr(0, figure.name.rfind("--")) + fmt::format("--{}", copy);
  return figures;
}

std::string command_markup(const std::string& command) {
  return fmt::format(
      "<details><summary>The command</summary><pre tabindex=\"0\">{}</pre></details>\n", [&] {
        // Line breaks stay.
        std::string out;
        for (size_t at = 0; at <= command.size();) {
          const size_t end = std::min(command.find('\n', at), command.size());
          out += (at > 0 ? "\n" : "") + xml_text(command.substr(at, end - at));
          at = end + 1;
        }
        return out;
      }());
}

constexpr std::string_view kStyle = R"css(
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; } p { margin: .3rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
nav ul { list-style: none; padding: 0; margin: .6rem 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.2rem; }
a { color: var(--c0); } code, pre { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; }
code { font-size: .9em; }
figure { margin: .8rem 0 1.6rem; } figure svg { max-width: 100%; height: auto; display: block; }
.maps { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: flex-start; }
.maps figure { margin: .4rem 0; max-width: 100%; } figcaption { max-width: 46rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right;
  white-space: nowrap; }
thead th { vertical-align: bottom; } th:first-child { text-align: left; font-weight: normal; }
thead th:first-child, .strong th:first-child, .strong td { font-weight: 600; }
details { margin: .3rem 0; font-size: .9rem; } summary { cursor: pointer; width: fit-content; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem .8rem; margin: .3rem 0; }
button { font: inherit; color: var(--ink); background: none; border: 1px solid var(--quiet);
  border-radius: .25rem; padding: 0 .6rem; cursor: pointer; }
a:focus-visible, summary:focus-visible, button:focus-visible, .wide:focus-visible,
pre:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px; }
@media print { body { max-width: none; } details, button { display: none; } }
)css";

// Draws a figure in the colours of paper, at twice its size, and saves it. Pages that may not run
// scripts have no buttons.
constexpr std::string_view kSavesPictures = R"js(
function savePicture(figure) {
  const svg = figure.querySelector('svg').cloneNode(true);
  const style = document.createElementNS(svg.namespaceURI, 'style');
  style.textContent = document.getElementById('paper').textContent;
  svg.prepend(style);
  const drawn = new Image();
  drawn.onload = () => {
    const canvas = document.createElement('canvas');
    canvas.width = 2 * svg.viewBox.baseVal.width;
    canvas.height = 2 * svg.viewBox.baseVal.height;
    const paper = canvas.getContext('2d');
    paper.fillStyle = '#fff';
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(drawn, 0, 0, canvas.width, canvas.height);
    const link = document.createElement('a');
    link.download = figure.id + '.png';
    link.href = canvas.toDataURL('image/png');
    link.click();
  };
  drawn.src = 'data:image/svg+xml;charset=utf-8,' +
      encodeURIComponent(new XMLSerializer().serializeToString(svg));
}
for (const figure of document.querySelectorAll('figure')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Save as PNG';
  button.setAttribute('aria-label', 'Save as PNG: ' + figure.id);
  button.addEventListener('click', () => savePicture(figure));
  figure.querySelector('figcaption').append(button);
}
)js";

}  // namespace

std::string report_page(const EvalReport& report) {
  const std::vector<Part> parts = parts_of(report);
  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n"
      "<title>What compressed caches score</title>\n<style>\n"
      ":root {{ color-scheme: light dark; {} }}\n"
      "@media (prefers-color-scheme: dark) {{ :root {{ {} }} }}\n{}{}</style>\n"
      "<style id=\"paper\" media=\"not all\">\n{}</style>\n</head>\n<body>\n"
      "<h1>What compressed caches score</h1>\n",
      kLightColors, kDarkColors, kStyle, kSvgClasses, paper_classes());
  std::set<std::string> samples;
  for (const EvalRow& row : report.rows)
    samples.insert(fmt::format("{} {} {} {} {} {}", row.key.model, row.key.settings, row.key.task,
                               row.key.tokens, row.key.seed, row.key.index));
  page += fmt::format(
      "<p class=\"quiet\">{} samples, {} questions answered. Scores are means over samples times "
      "100 with 95 % confidence intervals (Student's t); bytes and times are means over questions."
      "</p>\n<nav aria-label=\"Contents\"><ul>\n",
      count_text(samples.size()), count_text(report.rows.size()));
  for (size_t i = 0; i < parts.size(); ++i)
    page += fmt::format("<li><a href=\"#part{}\">{}, {}</a></li>\n", i + 1,
                        xml_text(parts[i].model_name), parts[i].protocol);
  page += "</ul></nav>\n<main>\n";
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    page += fmt::format(
        "<section id=\"part{0}\" aria-labelledby=\"head{0}\">\n"
        "<h2 id=\"head{0}\">{1}, {2}</h2>\n<p class=\"quiet\">{3}; {4}</p>\n",
        i + 1, xml_text(part.model_name), part.protocol,
        part.protocol == "query-aware" ? "the question is compressed with its context"
                                       : "the context is compressed before the question is known",
        xml_text(prompts_text(part.settings)));
    std::string heading;
    for (const Figure& figure : figures_of(part, i + 1)) {
      if (figure.heading != heading) {
        if (heading == "Needles") page += "</div>\n";
        heading = figure.heading;
        page += fmt::format("<h3>{}</h3>\n", heading);
        if (heading == "Needles")
          page += "<p class=\"quiet\">Scores by length and depth.</p>\n<div class=\"maps\">\n";
      }
      page += fmt::format("<figure id=\"{}\">\n{}<figcaption>{}\n{}</figcaption>\n</figure>\n{}",
                          xml_text(figure.name), figure.svg.inline_text(), figure.caption,
                          command_markup(command_of(report, part, figure.rows)), figure.table);
    }
    if (heading == "Needles") page += "</div>\n";
    page += "<h3>Scores by task</h3>\n";
    for (const int tokens : part.lengths)
      page += fmt::format("<p class=\"quiet\">{} tokens</p>\n{}",
                          count_text(static_cast<uint64_t>(tokens)),
                          task_table(of_length(part, tokens)));
    page += command_markup(command_of(report, part, part.rows)) + "</section>\n";
  }
  return page + fmt::format("</main>\n<script>{}</script>\n</body>\n</html>\n", kSavesPictures);
}

std::vector<std::pair<std::string, std::string>> report_files(const EvalReport& report) {
  std::vector<std::pair<std::string, std::string>> files;
  const std::vector<Part> parts = parts_of(report);
  for (size_t i = 0; i < parts.size(); ++i)
    for (const Figure& figure : figures_of(parts[i], i + 1))
      files.emplace_back(figure.name + ".svg", figure.svg.file_text());
  return files;
}

}  // namespace pith
