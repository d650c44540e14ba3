#include <algorithm>
#include <cctype>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "apps/eval_figures.h"
#include "apps/eval_options.h"
#include "apps/eval_report.h"
#include "apps/eval_summary.h"
#include "apps/task_arguments.h"
#include "base/error.h"
#include "base/random.h"
#include "support/refusals.h"
#include "support/toy_calibration.h"
#include "tensor/kv_shape.h"

namespace pith {
namespace {

// The options that a plan makes, or why it is refused.
std::string refusal(const std::string& plan, const std::string& name = "p.json") {
  EvalOptions options;
  try {
    read_plan(plan, name, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::bad_file);
    return error.what();
  }
  return "nothing";
}

TEST(EvalPlan, SaysAllThatFlagsSay) {
  EvalOptions options;
  read_plan(R"({"models": ["a.gguf", "b.gguf"], "specs": "snapkv", "budgets": [0.017, 64, "2MiB"],
                "tasks": ["ruler", "needle"], "data": ["ruler=x.jsonl"], "lengths": [512, 4096],
                "seeds": [1, 18446744073709551615], "samples": 0, "protocol": "both",
                "chat": "none", "haystack": "h.txt", "questions": "q.jsonl",
                "results": "r.sqlite", "fidelity": true, "share_prompts": true, "context": 8192,
                "batch_memory": "64MiB", "matmul": "f32"})",
            "p.json", options);
  EXPECT_EQ(options.models, (std::vector<std::string>{"a.gguf", "b.gguf"}));
  EXPECT_EQ(options.specs, std::vector<std::string>{"snapkv"});
  EXPECT_EQ(split_list(options.budgets), (std::vector<std::string>{"0.017", "64", "2MiB"}));
  EXPECT_EQ(options.tasks, (std::vector<std::string>{"ruler", "needle"}));
  EXPECT_EQ(options.data, std::vector<std::string>{"ruler=x.jsonl"});
  EXPECT_EQ(lengths_of(options), (std::vector<int>{512, 4096}));
  EXPECT_EQ(seeds_of(options), (std::vector<uint64_t>{1, 18446744073709551615u}));
  EXPECT_EQ(options.samples, 0);
  EXPECT_EQ(options.protocol, "both");
  EXPECT_EQ(options.chat, "none");
  EXPECT_EQ(options.haystack + options.questions + options.results, "h.txtq.jsonlr.sqlite");
  EXPECT_TRUE(options.fidelity && options.share);
  EXPECT_EQ(options.engine.context, 8192);
  EXPECT_EQ(options.batch_bytes, 64u << 20);
  EXPECT_EQ(options.engine.matmul, "f32");
}

TEST(EvalPlan, LeavesWhatFlagsGave) {
  EvalOptions options;
  options.given = {"--samples", "--kv"};
  options.samples = 3;
  options.specs = {"full"};
  read_plan(R"({"samples": 50, "specs": ["knorm:budget=8"], "seeds": 7})", "p.json", options);
  EXPECT_EQ(options.samples, 3);
  EXPECT_EQ(options.specs, std::vector<std::string>{"full"});
  EXPECT_EQ(options.seeds, "7");
}

TEST(EvalPlan, IsRefusedByFileAndField) {
  EXPECT_EQ(refusal(R"({"sampels": 3})"),
            "p.json: \"sampels\" is no field of a plan; did you mean \"samples\"?");
  EXPECT_NE(refusal(R"({"zzz": 3})").find("there are models, specs, tasks"), std::string::npos);
  EXPECT_EQ(refusal(R"({"samples": "ten"})"),
            "p.json: \"samples\" needs a whole number that is not negative, not \"ten\"");
  EXPECT_EQ(refusal(R"({"samples": -1})"),
            "p.json: \"samples\" needs a whole number that is not negative, not -1");
  EXPECT_EQ(refusal(R"({"lengths": [4096, 8]})"),
            "p.json: \"lengths\" needs a list of whole numbers of at least 16, not [4096,8]");
  EXPECT_EQ(refusal(R"({"specs": [3]})"), "p.json: \"specs\" needs a list of texts, not [3]");
  EXPECT_EQ(refusal(R"({"specs": []})"), "p.json: \"specs\" is empty; leave it out or name some");
  EXPECT_EQ(refusal(R"({"protocol": "none"})"),
            "p.json: \"protocol\" needs \"agnostic\" or \"aware\" or \"both\", not \"none\"");
  EXPECT_EQ(refusal(R"({"batch_memory": "much"})"),
            "p.json: \"batch_memory\" needs bytes such as \"64MiB\", not \"much\"");
  EXPECT_EQ(refusal(R"({"fidelity": 1})"), "p.json: \"fidelity\" needs true or false, not 1");
  EXPECT_NE(refusal(R"({"budgets": [1.5]})").find("needs a list of shares"), std::string::npos);
  EXPECT_EQ(refusal(R"({"seeds": 1, "seeds": 2})"),
            "p.json: \"seeds\" stands there twice; leave one of them out");
  EXPECT_NE(refusal("{\"seeds\": 1,\n\n oops}").find("p.json:3: not JSON"), std::string::npos);
  EXPECT_EQ(refusal("[]"), "p.json: a plan is one JSON object, and this is array");
  EXPECT_NE(refusal("models: [a]", "p.yaml").find("plans are JSON"), std::string::npos);
}

const KvShape kShape{.layers = 4, .query_heads = 4, .heads = 2, .dim = 64, .width = 256};

std::vector<std::string> texts(const std::vector<EvalSpec>& specs) {
  std::vector<std::string> texts;
  for (const EvalSpec& spec : specs) texts.push_back(spec.text);
  return texts;
}

TEST(EvalBudgets, GoToSpecsThatTakeOneAndNameNone) {
  EvalOptions options;
  options.specs = {"full",
                   "snapkv",
                   "snapkv:window=16",
                   "knorm:budget=64",
                   "kivi:bits=4",
                   "fastkv:tsp_rate=0.3+kivi:bits=2"};
  options.budgets = "0.05,128";
  EXPECT_EQ(texts(specs_of(options, kShape, "")),
            (std::vector<std::string>{
                "full", "snapkv:budget=0.05", "snapkv:budget=128", "snapkv:window=16,budget=0.05",
                "snapkv:window=16,budget=128", "knorm:budget=64", "kivi:bits=4",
                "fastkv:tsp_rate=0.3,budget=0.05+kivi", "fastkv:tsp_rate=0.3,budget=128+kivi"}));
  options.budgets = "0.05,much";
  EXPECT_THROW(specs_of(options, kShape, ""), Error);
}

TEST(EvalBudgets, LeaveSpecsAloneThatRefuseThem) {
  const std::string file = test::toy_calibration(kShape);
  EvalOptions options;
  options.specs = {"razor:heads=" + file, "full", "snapkv", "spans:calibration=" + file};
  options.budgets = "0.05,128";
  EXPECT_EQ(texts(specs_of(options, kShape, "")),
            (std::vector<std::string>{"razor:heads=" + file, "full", "snapkv:budget=0.05",
                                      "snapkv:budget=128", "spans:calibration=" + file}));
}

TEST(EvalBudgets, SayWhatIsWrongOfSpecsAndOfAmounts) {
  const auto told = [](const char* spec, const char* budgets) {
    return test::told_by(Errc::bad_option, [&] {
      EvalOptions options;
      options.specs = {"full", spec};
      options.budgets = budgets;
      specs_of(options, kShape, "");
    });
  };
  EXPECT_NE(told("razor", "0.05").find("'heads' is missing"), std::string::npos);
  EXPECT_NE(told("snapkv", "0.1,3").find("at least 32 rows"), std::string::npos);
}

TEST(ShellWords, AreQuotedWhereTheyHaveToBe) {
  EXPECT_EQ(shell_word("snapkv:budget=0.1,window=8"), "snapkv:budget=0.1,window=8");
  EXPECT_EQ(shell_word("my file's"), "'my file'\\''s'");
  EXPECT_EQ(shell_word(""), "''");
}

EvalRow result(const std::string& spec, const std::string& task, int index, double score,
               uint64_t bytes = 100) {
  EvalRow row;
  row.key = {"digest", "chat=none", spec, "query-agnostic", task, 512, 42, index};
  row.model_name = "m.gguf";
  row.score = score;
  row.prompt_bytes = bytes;
  row.full_bytes = 1000;
  return row;
}

TEST(EvalCells, AreMeansOverSamplesAndThenOverTasks) {
  std::vector<EvalRow> rows;
  // Two questions of one sample count as one.
  for (const double score : {1.0, 0.0}) rows.push_back(result("full", "vt", 0, score));
  rows.push_back(result("full", "vt", 1, 1));
  rows.push_back(result("full", "cwe", 0, 0.25));
  rows.push_back(result("full", "cwe", 1, 0.25));
  const std::vector<EvalCell> cells = cells_of(rows);
  ASSERT_EQ(cells.size(), 3u);
  EXPECT_EQ(cells[0].score.count, 2);
  EXPECT_DOUBLE_EQ(cells[0].score.mean, 0.75);
  // Of 0.5 and 1, t of one degree of freedom is 12.706.
  EXPECT_NEAR(cells[0].score.half_width.value(), 12.706 * 0.25, 1e-3);
  EXPECT_EQ(cells[2].key.task, "");
  EXPECT_DOUBLE_EQ(cells[2].score.mean, 0.5);
  EXPECT_NEAR(cells[2].score.half_width.value(), 12.706 * 0.25 / 2, 1e-3);
  EXPECT_DOUBLE_EQ(cells[2].figures.share, 0.1);
}

TEST(EvalCells, SayNothingThatNotEveryRowHas) {
  std::vector<EvalRow> rows = {result("full", "vt", 0, 1), result("full", "vt", 1, 1)};
  rows[0].parts = EvalRow::Parts{};
  rows[0].divergence = 0.5;
  EXPECT_FALSE(figures_of(rows).parts || figures_of(rows).divergence);
  rows[1].parts = EvalRow::Parts{};
  rows[1].parts->prompt.keys = 50;
  rows[1].divergence = 1.5;
  EXPECT_DOUBLE_EQ(figures_of(rows).parts->prompt.keys, 25);
  EXPECT_DOUBLE_EQ(figures_of(rows).divergence.value(), 1);
}

TEST(ParetoFront, IsWhatNothingBeats) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<CostPoint> points(random.below(12));
    // Few values, so that many are equal.
    for (CostPoint& point : points)
      point = {static_cast<double>(random.below(5)), static_cast<double>(random.below(5))};
    const std::vector<bool> front = pareto_front(points);
    ASSERT_EQ(front.size(), points.size());
    for (size_t i = 0; i < points.size(); ++i) {
      bool beaten = false;
      for (const CostPoint& other : points)
        beaten |= other.cost <= points[i].cost && other.score >= points[i].score &&
                  (other.cost < points[i].cost || other.score > points[i].score);
      EXPECT_EQ(front[i], !beaten) << round << " " << i;
    }
  }
}

// What is not well-formed XML in the text, or nothing. Elements, attributes in double quotes, the
// five entities; no comments or sections.
std::string xml_fault(std::string_view text) {
  std::vector<std::string> open;
  const auto word = [&](size_t& at) {
    const size_t start = at;
    while (at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) ||
                                text[at] == '-' || text[at] == ':'))
      ++at;
    return std::string(text.substr(start, at - start));
  };
  const auto entity = [&](size_t at) {
    for (const std::string_view known : {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"})
      if (text.substr(at).starts_with(known)) return true;
    return false;
  };
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '&' && !entity(at)) return "a bare & at " + std::to_string(at);
    if (text[at] != '<') {
      ++at;
      continue;
    }
    if (text.substr(at).starts_with("<?xml")) {
      at = text.find("?>", at) + 2;
      continue;
    }
    const bool closes = text[at + 1] == '/';
    at += closes ? 2 : 1;
    const std::string name = word(at);
    if (name.empty()) return "no name at " + std::to_string(at);
    if (closes) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
      if (at >= text.size() || text[at++] != '>') return "</" + name + " does not end";
      continue;
    }
    std::set<std::string> names;
    for (;;) {
      while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
      if (at >= text.size()) return "<" + name + " does not end";
      if (text[at] == '/' || text[at] == '>') break;
      if (!names.insert(word(at)).second) return "an attribute of " + name + " is there twice";
      if (text.substr(at, 2) != "=\"") return "an attribute of " + name + " has no value";
      for (at += 2; at < text.size() && text[at] != '"'; ++at)
        if (text[at] == '<' || (text[at] == '&' && !entity(at))) return "a bare sign in " + name;
      ++at;
    }
    if (text[at] == '/')
      ++at;
    else
      open.push_back(name);
    if (at >= text.size() || text[at++] != '>') return "<" + name + " does not end";
  }
  return open.empty() ? "" : open.back() + " is not closed";
}

std::vector<std::string> parts_between(const std::string& text, const std::string& from,
                                       const std::string& to) {
  std::vector<std::string> parts;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at)) {
    const size_t end = text.find(to, at + from.size());
    parts.push_back(text.substr(at, end + to.size() - at));
    at = end;
  }
  return parts;
}

const std::vector<std::string> kReported = {"full", "snapkv:budget=0.1", "snapkv:budget=0.3",
                                            "a:file=\"<x & y>\",budget=0.1", "kivi"};

// Two tasks at two lengths, one of them needles at three depths; "kivi" is beaten.
EvalReport little_report() {
  EvalReport report;
  const double scores[] = {1, 0.5, 0.75, 0.25, 0.6};
  const uint64_t bytes[] = {1000, 120, 330, 90, 500};
  for (const char* const protocol : {"query-aware", "query-agnostic"})
    for (const int tokens : {512, 1024})
      for (size_t spec = 0; spec < kReported.size(); ++spec)
        for (const char* const task : {"needle", "vt"})
          for (int index = 0; index < 3; ++index) {
            EvalRow row = result(kReported[spec], task, index, scores[spec], bytes[spec]);
            row.key.protocol = protocol;
            row.key.tokens = tokens;
            row.first_seconds = 0.1 * tokens;
            row.token_seconds = 0.002;
            row.parts = EvalRow::Parts{};
            row.parts->prompt.keys = row.parts->prompt.values = bytes[spec] / 2;
            if (task == std::string("needle")) row.depth = 50 * index;
            report.rows.push_back(row);
          }
  report.flags[{"digest", "chat=none"}] = "-m m.gguf --chat none";
  report.results = "my results.sqlite";
  return report;
}

TEST(EvalReport, IsDrawnInWellFormedPictures) {
  const EvalReport report = little_report();
  const std::string page = report_page(report);
  const auto files = report_files(report);
  // Of each protocol: two of scores, two of bytes, five of needles and one of speed.
  ASSERT_EQ(files.size(), 20u);
  std::set<std::string> names;
  for (const auto& [name, text] : files) {
    EXPECT_EQ(xml_fault(text), "") << name;
    EXPECT_EQ(text.find("var("), std::string::npos) << name;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  const std::vector<std::string> drawn = parts_between(page, "<svg", "</svg>");
  EXPECT_EQ(drawn.size(), files.size());
  for (const std::string& svg : drawn) EXPECT_EQ(xml_fault(svg), "");
}

TEST(EvalReport, ShowsEverySpecAndNeedsNothingFromElsewhere) {
  const std::string page = report_page(little_report());
  for (const std::string& spec : kReported)
    EXPECT_NE(page.find("<th scope=\"row\"><code>" + xml_text(spec) + "</code></th>"),
              std::string::npos)
        << spec;
  for (const char* const needed :
       {"src=\"", "<link", "<img", "http:", "https:", "url(", "@import", "fetch("})
    EXPECT_EQ(page.find(needed), std::string::npos) << needed;
  EXPECT_EQ(page.find("<x & y>"), std::string::npos);
}

TEST(EvalReport, MarksTheFront) {
  const std::string page = report_page(little_report());
  const std::vector<std::string> pictures = parts_between(page, "<svg", "</svg>");
  // In order of bytes; kivi scores less than the smaller snapkv:budget=0.3.
  const std::vector<std::string> front = {kReported[3], kReported[1], kReported[2], "full"};
  std::map<std::string, int> marked;
  for (const std::string& title : parts_between(pictures[0], "<title>", "</title>"))
    for (size_t place = 0; place < front.size(); ++place) {
      const std::string said = "number " + std::to_string(place + 1) + " of the front";
      if (title.find(said) == std::string::npos) continue;
      EXPECT_NE(title.find(xml_text(front[place]) + ": score"), std::string::npos) << title;
      ++marked[front[place]];
    }
  EXPECT_EQ(marked.size(), front.size());
  EXPECT_EQ(page.find("<tr class=\"strong\"><th scope=\"row\"><code>kivi</code>"),
            std::string::npos);
  EXPECT_NE(page.find("<tr class=\"strong\"><th scope=\"row\"><code>full</code></th><td>4</td>"),
            std::string::npos);
}

TEST(EvalReport, NamesTheCommandOfEveryFigure) {
  const std::string page = report_page(little_report());
  const std::vector<std::string> commands = parts_between(page, "<pre", "</pre>");
  ASSERT_EQ(commands.size(), 22u);  // and of each protocol's tasks
  for (const std::string& command : commands) {
    EXPECT_NE(command.find("pith eval -m m.gguf --chat none \\\n"), std::string::npos);
    EXPECT_NE(command.find("--results 'my results.sqlite'"), std::string::npos);
    EXPECT_NE(command.find("--samples 3"), std::string::npos);
  }
  EXPECT_NE(commands[0].find("--lengths 512 \\\n"), std::string::npos);
  EXPECT_NE(commands[0].find("--task needle,vt"), std::string::npos);
  EXPECT_NE(commands[0].find("--protocol aware"), std::string::npos);
}

TEST(EvalFamilies, AreSpecsWithoutTheirBudgets) {
  EXPECT_EQ(family_of("snapkv:budget=0.1"), "snapkv");
  EXPECT_EQ(family_of("fastkv:tsp_rate=0.2,budget=0.1+kivi:bits=2"),
            "fastkv:tsp_rate=0.2+kivi:bits=2");
  EXPECT_EQ(family_of("snapkv:budget=64,window=8"), "snapkv:window=8");
  EXPECT_EQ(family_of("full"), "full");
}

TEST(Xml, IsWrittenFromAnyText) {
  EXPECT_EQ(xml_text("a<b> & \"c\"\x01"), "a&lt;b&gt; &amp; &quot;c&quot; ");
  EXPECT_EQ(xml_text("\xff\xc3\xa9"), "\xef\xbf\xbd\xc3\xa9");
}

}  // namespace
}  // namespace pith
