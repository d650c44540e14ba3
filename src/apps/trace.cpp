// pith trace: what a method keeps of a prompt, row by row, and what that costs.
#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <numeric>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/json_writer.h"
#include "apps/npz.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/text_input.h"
#include "apps/trace_html.h"
#include "apps/units.h"
#include "base/error.h"
#include "base/output_file.h"
#include "eval/trace_record.h"

namespace pith {
namespace {

struct TraceOptions {
  EngineArguments engine;
  TextArguments text;
  std::string spec = "full", output, html, tensors;
  int window = 32;
  bool all = false, literal = false;
};

// "0,4-7" or "all" as layers, ascending.
std::vector<int> layer_list(const std::string& text, int layers) {
  std::vector<int> list;
  if (text.empty()) return list;
  const auto refuse = [&] {
    throw Error(Errc::bad_option, fmt::format("--tensors names layers from 0 to {}, as in 0,4-7, "
                                              "or all; not '{}'",
                                              layers - 1, text));
  };
  const auto number = [&](std::string_view part) {
    if (part.empty() || part.size() > 6 ||
        part.find_first_not_of("0123456789") != std::string_view::npos)
      refuse();
    const int layer = std::stoi(std::string(part));
    if (layer >= layers) refuse();
    return layer;
  };
  if (text == "all") {
    list.resize(static_cast<size_t>(layers));
    std::iota(list.begin(), list.end(), 0);
    return list;
  }
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view part = std::string_view(text).substr(at, comma - at);
    const size_t dash = part.find('-');
    const int first = number(part.substr(0, dash));
    const int last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (last < first) refuse();
    for (int layer = first; layer <= last; ++layer) list.push_back(layer);
    at = comma + 1;
  }
  std::ranges::sort(list);
  list.erase(std::ranges::unique(list).begin(), list.end());
  return list;
}

template <class Numbers>
void write_array(JsonWriter& json, std::string_view key, const Numbers& numbers) {
  json.key(key).array();
  for (const auto& number : numbers) json.value(number);
  json.end();
}

std::string json_text(const Trace& trace, const TraceRecorder& record, bool all) {
  JsonWriter json(1);
  json.object().key("model").value(trace.model).key("spec").value(trace.spec);
  json.key("window").value(record.window());
  json.key("cache_bytes").value(trace.cache_bytes);
  json.key("full_cache_bytes").value(trace.full_cache_bytes);
  write_array(json, "tokens", trace.tokens);
  write_array(json, "text", trace.pieces);
  json.key("layers").array();
  for (const LayerTrace& layer : record.layers()) {
    json.object().key("rows").value(layer.tokens.size());
    if (layer.tokens.size() < trace.tokens.size()) write_array(json, "row_tokens", layer.tokens);
    json.key("heads").array();
    for (const HeadTrace& head : layer.heads) {
      json.object().key("budget");
      if (head.budget == BudgetTable::kAll)
        json.null();
      else
        json.value(head.budget);
      json.key("bytes").value(head.bytes).key("mass_kept").value(head.mass_kept);
      json.key("pseudo_rows").value(head.pseudo_rows);
      write_array(json, "kept", head.kept);
      write_array(json, "kept_scores", head.kept_scores);
      if (all) {
        write_array(json, "scores", head.scores);
        write_array(json, "mass", head.mass);
      }
      json.end();
    }
    json.end().end();
  }
  return json.end().end().text();
}

void write_npz(const std::string& path, const Trace& trace, const TraceRecorder& record) {
  NpzWriter npz(path);
  const auto layers = static_cast<int64_t>(record.layers().size());
  const auto heads = static_cast<int64_t>(record.layers()[0].heads.size());
  npz.add("tokens", trace.tokens, {static_cast<int64_t>(trace.tokens.size())});
  std::vector<int32_t> budgets, pseudo;
  std::vector<int64_t> bytes;
  std::vector<float> mass;
  for (const LayerTrace& layer : record.layers())
    for (const HeadTrace& head : layer.heads) {
      budgets.push_back(head.budget);
      pseudo.push_back(head.pseudo_rows);
      bytes.push_back(static_cast<int64_t>(head.bytes));
      mass.push_back(static_cast<float>(head.mass_kept));
    }
  npz.add("budgets", budgets, {layers, heads});
  npz.add("pseudo_rows", pseudo, {layers, heads});
  npz.add("bytes", bytes, {layers, heads});
  npz.add("mass_kept", mass, {layers, heads});
  for (int64_t l = 0; l < layers; ++l) {
    const LayerTrace& layer = record.layers()[static_cast<size_t>(l)];
    const auto rows = static_cast<int64_t>(layer.tokens.size());
    const std::string name = fmt::format("layer{}.", l);
    npz.add(name + "tokens", layer.tokens, {rows});
    std::vector<float> scores, paid;
    for (const HeadTrace& head : layer.heads) {
      scores.insert(scores.end(), head.scores.begin(), head.scores.end());
      paid.insert(paid.end(), head.mass.begin(), head.mass.end());
    }
    npz.add(name + "scores", scores, {heads, rows});
    npz.add(name + "mass", paid, {heads, rows});
    for (int64_t h = 0; h < heads; ++h) {
      const HeadTrace& head = layer.heads[static_cast<size_t>(h)];
      npz.add(fmt::format("{}head{}.kept", name, h), head.kept,
              {static_cast<int64_t>(head.kept.size())});
    }
  }
  for (const LayerTensors& t : record.tensors()) {
    const std::string name = fmt::format("layer{}.", t.layer);
    npz.add(name + "q", t.q, {t.rows, t.query_heads, t.dim});
    npz.add(name + "q_before_rope", t.q_before_rope, {t.rows, t.query_heads, t.dim});
    npz.add(name + "k", t.k, {t.heads, t.rows, t.dim});
    npz.add(name + "k_before_rope", t.k_before_rope, {t.heads, t.rows, t.dim});
    npz.add(name + "v", t.v, {t.heads, t.rows, t.dim});
    npz.add(name + "attended", t.attended, {t.rows, t.query_heads, t.dim});
    npz.add(name + "lse", t.lse, {t.rows, t.query_heads});
    npz.add(name + "hidden", t.hidden, {t.rows, t.width});
  }
  npz.commit();
}

// What every token adds to the text. Bytes of a character that is not whole yet wait for the
// token that completes it.
std::vector<std::string> pieces_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  std::vector<std::string> pieces;
  Utf8Stream stream;
  for (const int32_t token : tokens) {
    std::string piece = stream.feed(tokenizer.piece(token));
    if (piece.empty() && tokenizer.piece(token).empty()) piece = tokenizer.name(token);
    pieces.push_back(std::move(piece));
  }
  if (!pieces.empty()) pieces.back() += stream.flush();
  return pieces;
}

int run(const TraceOptions& options) {
  if (options.output.empty() && options.html.empty())
    throw Error(Errc::bad_option, "nothing to write: name a file with -o or --html");
  const bool npz = options.output.ends_with(".npz");
  if (!options.output.empty() && options.output != "-" && !npz &&
      !options.output.ends_with(".json"))
    throw Error(Errc::bad_option,
                "-o: '" + options.output + "' ends in neither .json nor .npz, nor is it -");
  if (!options.tensors.empty() && !npz)
    throw Error(Errc::bad_option, "--tensors are written to an .npz file; name one with -o");
  if (options.html == "-")
    throw Error(Errc::bad_option, "--html needs the name of a file, not '-'");
  if (!options.html.empty() && options.html == options.output)
    throw Error(Errc::bad_option, "-o and --html name the same file; name two");
  for (const std::string& path : {options.output, options.html})
    if (!path.empty() && path != "-") {
      refuse_same_file(options.engine.model, path);
      OutputFile::check(path);
    }
  const std::string text = read_text(options.text, "prompt");
  const std::unique_ptr<Engine> engine = open_engine(options.engine);
  const std::unique_ptr<Session> session = engine->open(options.spec);

  Trace trace;
  trace.model = options.engine.model;
  trace.spec = session->policy->spec;
  trace.tokens = engine->tokenizer().encode_prompt(text, !options.literal);
  if (trace.tokens.empty()) throw Error(Errc::bad_request, "the prompt is empty");
  const int count = static_cast<int>(trace.tokens.size());
  if (const int limit = context_limit(*engine, options.engine); limit > 0 && count > limit)
    throw Error(Errc::bad_request, fmt::format("the prompt has {} tokens and the context {}; "
                                               "raise it with -c",
                                               count, limit));
  trace.pieces = pieces_of(engine->tokenizer(), trace.tokens);

  const KvShape& shape = engine->model().config().shape;
  TraceRecorder record(count, options.window, layer_list(options.tensors, shape.layers));
  session->observer = &record;
  ProgressBar bar;
  engine->prefill(*session, trace.tokens, bar);
  bar.erase();
  record.weigh(*session->store);
  trace.cache_bytes = session->store->bytes().total();
  trace.full_cache_bytes = full_cache_bytes(shape, trace.tokens.size());

  if (options.output == "-")
    fmt::print("{}\n", json_text(trace, record, options.all));
  else if (npz)
    write_npz(options.output, trace, record);
  else if (!options.output.empty())
    write_file(options.output, json_text(trace, record, options.all) + "\n");
  if (!options.html.empty()) write_file(options.html, trace_page(trace, record));
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<TraceOptions>();
  declare_engine(arguments, options->engine);
  declare_spec(arguments, options->spec);
  declare_text(arguments, options->text, "prompt");
  arguments
      .option("-o,--output", options->output, "FILE",
              "FILE.json, FILE.npz for NumPy, or - for JSON on standard output")
      .completes(Complete::file);
  arguments
      .option("--html", options->html, "FILE",
              "a page that shows the text by how many heads kept it; needs no network")
      .completes(Complete::file);
  arguments.option("--tensors", options->tensors, "LAYERS",
                   "also queries, keys, values, outputs and hidden states of these layers "
                   "(0,4-7 or all), into the .npz file");
  arguments
      .option("--window", options->window, "N",
              "queries at the end of the prompt whose attention counts as mass")
      .between(1, 4096);
  arguments.flag("--all", options->all, "JSON with scores and mass of every row, not of kept ones");
  arguments.flag("--literal", options->literal, "text that looks like a special token stays text");
  return [options] { return run(*options); };
}

}  // namespace

const Command kTraceCommand = {
    "trace",
    "show what a method keeps of a prompt",
    "Reads a prompt, compresses its cache as --kv says, and writes down per layer and head: the "
    "budget, which tokens were kept, their scores, the bytes held, and the attention mass kept, "
    "which is the share of what the last queries of the prompt pay that goes to kept rows.\n\n"
    "Tokens are counted from 0 at the start of the prompt. Arrays of an .npz file: tokens; "
    "budgets, bytes, mass_kept, pseudo_rows [layers, heads]; layerL.tokens [rows], layerL.scores "
    "and layerL.mass [heads, rows], layerL.headH.kept; with --tensors layerL.q and q_before_rope "
    "[rows, query heads, dim], k, k_before_rope and v [heads, rows, dim], attended, lse (log of "
    "the sum of exponentials of a query's logits), hidden [rows, width].",
    "$ pith trace -m model.gguf -f report.txt --kv snapkv:budget=0.1 --html kept.html\n"
    "$ pith trace -m model.gguf -p 'Once upon a time' --kv knorm:budget=0.5 -o -\n"
    "$ pith trace -m model.gguf -f report.txt --kv snapkv:budget=0.1 -o trace.npz --tensors 0,5",
    setup,
};

}  // namespace pith
