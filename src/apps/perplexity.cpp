// pith perplexity: how well a model predicts a text, and how far a compressed cache is from the
// full one while it does.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "apps/engine_arguments.h"
#include "apps/json_writer.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/stop.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "eval/fidelity.h"

namespace pith {
namespace {

constexpr int kLongestDefault = 4096;

struct PerplexityOptions {
  EngineArguments engine;
  TextArguments text;
  std::vector<std::string> specs;
  int prompt_tokens = -1;
  int windows = 0;
  std::string format = "md";
};

struct Window {
  std::vector<int32_t> tokens;
  size_t first_scored;  // tokens before it are the prompt
};

// What one spec showed over all windows.
struct Row {
  std::string spec;
  Fidelity fidelity;
  uint64_t cache_bytes = 0, full_bytes = 0;  // sums over the windows, at their ends
};

// Turns the progress of one window's prompt into progress of the whole command.
class WindowMonitor final : public Monitor {
 public:
  WindowMonitor(ProgressBar& bar, int64_t total) : bar_(bar), total_(total) {}
  // `tokens` of the command are done when this part of the work is; `share` of a token's work is
  // this part.
  void start(int64_t before, int64_t tokens) {
    before_ = before;
    tokens_ = tokens;
  }
  void progress(std::string_view, int64_t done, int64_t total) override {
    bar_.progress("perplexity", before_ + tokens_ * done / std::max<int64_t>(total, 1), total_);
  }
  bool stopped() const override { return interrupted(); }

 private:
  ProgressBar& bar_;
  int64_t total_, before_ = 0, tokens_ = 0;
};

std::vector<Window> cut_windows(const std::vector<int32_t>& text, int32_t begin, size_t length,
                                const PerplexityOptions& options) {
  std::vector<Window> windows;
  const size_t lead = begin >= 0 ? 1 : 0;
  const size_t fresh = length - lead;
  for (size_t at = 0; at < text.size(); at += fresh) {
    if (options.windows > 0 && windows.size() == static_cast<size_t>(options.windows)) break;
    Window window;
    if (begin >= 0) window.tokens.push_back(begin);
    const size_t end = std::min(at + fresh, text.size());
    window.tokens.insert(window.tokens.end(), text.begin() + static_cast<std::ptrdiff_t>(at),
                         text.begin() + static_cast<std::ptrdiff_t>(end));
    const size_t whole = windows.empty() ? window.tokens.size() : length;
    window.first_scored = options.prompt_tokens >= 0
                              ? std::max<size_t>(static_cast<size_t>(options.prompt_tokens), 1)
                              : std::max<size_t>(whole / 2, 1);
    if (window.first_scored < window.tokens.size()) windows.push_back(std::move(window));
  }
  return windows;
}

void count_cache(const Engine& engine, const Session& session, Row& row) {
  row.cache_bytes += session.store->bytes().total();
  row.full_bytes += full_cache_bytes(engine.model().config().shape, session.tokens.size());
}

// The full cache alone: the whole window is one prompt.
void score_window(Engine& engine, const Window& window, Row& row, WindowMonitor& monitor) {
  const std::unique_ptr<Session> session = engine.open("full");
  engine.prefill_all(
      *session, window.tokens,
      [&](int at, std::span<const float> logits) {
        const size_t next = static_cast<size_t>(at) + 1;
        if (next >= window.first_scored && next < window.tokens.size())
          row.fidelity.add(logits, window.tokens[next]);
      },
      monitor);
  count_cache(engine, *session, row);
}

// All specs at once: the prompt of the window is read and compressed by each, then the rest is fed
// token by token to all of them as one batch.
void compare_window(Engine& engine, const Window& window, std::vector<Row>& rows,
                    WindowMonitor& monitor, int64_t before) {
  const std::span<const int32_t> tokens = window.tokens;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> batch;
  const auto count = static_cast<int64_t>(rows.size());
  const auto prompt = static_cast<int64_t>(window.first_scored);
  for (const Row& row : rows) {
    const auto index = static_cast<int64_t>(batch.size());
    monitor.start(before + prompt * index / count, prompt / count);
    batch.push_back(sessions.emplace_back(engine.open(row.spec)).get());
    engine.prefill(*batch.back(), tokens.first(window.first_scored), monitor);
  }
  std::vector<int32_t> fed(rows.size());
  for (size_t next = window.first_scored; next < tokens.size(); ++next) {
    monitor.check();
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].fidelity.add(batch[i]->logits, tokens[next]);
      if (i > 0) rows[i].fidelity.compare(batch[0]->logits, batch[i]->logits);
    }
    if (next + 1 == tokens.size()) break;
    std::ranges::fill(fed, tokens[next]);
    engine.decode(batch, fed);
    monitor.start(before + static_cast<int64_t>(next), 1);
    monitor.progress("perplexity", 1, 1);
  }
  for (size_t i = 0; i < rows.size(); ++i) count_cache(engine, *batch[i], rows[i]);
}

Table table_of(const std::vector<Row>& rows) {
  const bool compared = rows.size() > 1;
  std::vector<Table::Column> columns = {{"spec", "spec", false},      {"tokens", "tokens"},
                                        {"nll", "NLL/token"},         {"nll_sum", "NLL sum"},
                                        {"perplexity", "perplexity"}, {"perplexity_error", "+/-"}};
  if (compared)
    columns.insert(columns.end(), {{"kl_mean", "KL mean"},
                                   {"kl_median", "KL median"},
                                   {"kl_99", "KL 99 %"},
                                   {"kl_max", "KL max"},
                                   {"top1_agreement", "same top 1"}});
  columns.push_back({"cache_bytes", "cache"});
  columns.push_back({"cache_share", "of full"});
  // Shown with a few decimals, written with all of them.
  const auto number = [](double value, int decimals) {
    return Table::Cell(fixed_text(value, decimals), JsonWriter(0).value(value).text());
  };
  Table table(columns);
  for (const Row& row : rows) {
    const Fidelity& f = row.fidelity;
    std::vector<Table::Cell> cells = {
        row.spec,
        {count_text(static_cast<uint64_t>(f.tokens)), std::to_string(f.tokens)},
        number(f.mean_nll(), 5),
        number(f.nll, 3),
        number(f.perplexity(), 4),
        number(f.perplexity_error(), 4)};
    if (compared && &row == &rows[0]) {
      cells.insert(cells.end(), 5, Table::Cell("-", ""));
    } else if (compared) {
      cells.push_back(number(f.mean_divergence(), 6));
      cells.push_back(number(f.divergence_quantile(0.5), 6));
      cells.push_back(number(f.divergence_quantile(0.99), 5));
      cells.push_back(number(f.divergence_quantile(1), 4));
      cells.push_back(number(f.agreement(), 4));
    }
    cells.push_back({bytes_text(row.cache_bytes), std::to_string(row.cache_bytes)});
    cells.push_back(number(row.full_bytes > 0 ? static_cast<double>(row.cache_bytes) /
                                                    static_cast<double>(row.full_bytes)
                                              : 0,
                           4));
    table.add(std::move(cells));
  }
  return table;
}

int perplexity(const PerplexityOptions& options) {
  const std::string text = read_text(options.text, "text");
  const std::unique_ptr<Engine> engine = open_engine(options.engine);
  const Tokenizer& tokenizer = engine->tokenizer();
  std::vector<Row> rows(1);
  rows[0].spec = "full";
  for (const std::string& spec : options.specs)
    rows.push_back({engine->open(spec)->policy->spec, {}, 0, 0});

  const int limit = context_limit(*engine, options.engine);
  const int length = options.engine.context > 0 ? limit : std::min(limit, kLongestDefault);
  if (length < 3) throw Error(Errc::bad_option, "-c must be at least 3 here");
  const std::vector<Window> windows = cut_windows(
      tokenizer.encode(text, false), tokenizer.adds_begin() ? tokenizer.begin_token() : -1,
      static_cast<size_t>(length), options);
  if (windows.empty())
    throw Error(Errc::bad_request,
                "the text has no token behind the prompt of a window; give a longer text or a "
                "smaller --prompt-tokens");
  int64_t total = 0, before = 0;
  for (const Window& window : windows) total += static_cast<int64_t>(window.tokens.size());

  bool stopped = false;
  {
    ProgressBar bar;
    WindowMonitor monitor(bar, total);
    try {
      for (const Window& window : windows) {
        const auto tokens = static_cast<int64_t>(window.tokens.size());
        monitor.start(before, tokens);
        if (rows.size() == 1)
          score_window(*engine, window, rows[0], monitor);
        else
          compare_window(*engine, window, rows, monitor, before);
        before += tokens;
      }
    } catch (const Error& error) {
      if (error.code() != Errc::interrupted || rows[0].fidelity.tokens == 0) throw;
      stopped = true;
    }
  }
  table_of(rows).print(stdout, options.format);
  if (stopped)
    std::fprintf(stderr, "pith: interrupted; the figures are of %s of %s tokens\n",
                 count_text(static_cast<uint64_t>(before)).c_str(),
                 count_text(static_cast<uint64_t>(total)).c_str());
  return stopped ? 130 : 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<PerplexityOptions>();
  declare_engine(arguments, options->engine);
  declare_text(arguments, options->text, "text");
  arguments
      .option("--kv", options->specs, "SPEC", "also compare this compression with the full cache")
      .completes(Complete::method);
  arguments
      .option("--prompt-tokens", options->prompt_tokens, "N",
              "tokens of each window that are prompt and not scored; -1: half the window")
      .at_least(-1);
  arguments.option("--windows", options->windows, "N", "windows to read at most; 0: all")
      .at_least(0);
  arguments.format(options->format);
  return [options] { return perplexity(*options); };
}

}  // namespace

const Command kPerplexityCommand = {
    "perplexity",
    "measure how well a model predicts a text, and what a compressed cache changes",
    "The text is cut into windows of -c tokens (by default the model's context, but 4096 at most) "
    "that do not overlap; each begins with the model's begin token if it uses one. The first half "
    "of a window, or --prompt-tokens of it, is the prompt; the tokens behind it are scored.\n\n"
    "Without --kv, a window is read at once. With --kv, the prompt is read and compressed by every "
    "spec, then the scored tokens are fed one by one to all of them and to the full cache in the "
    "same pass (teacher forcing), so compressed rows answer for every scored token. The prompt "
    "knows nothing of what follows: the protocol is query-agnostic.\n\n"
    "NLL is natural. KL is the divergence of a spec's next-token distribution from the full "
    "cache's, per token; 'same top 1' is how often both agree on the most likely token. Cache "
    "figures are sums over the windows, taken at their ends.",
    "$ pith perplexity -m model.gguf -f wiki.test.raw -c 2048\n"
    "$ pith perplexity -m model.gguf -f book.txt -c 8192 --windows 4 \\\n"
    "    --kv snapkv:budget=0.1 --kv streaming_llm:budget=0.1",
    setup,
};

}  // namespace pith
