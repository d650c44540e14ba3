#include "apps/run_many.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <fmt/core.h>
#include <limits>
#include <map>

#include "apps/json_writer.h"
#include "apps/process_memory.h"
#include "apps/progress_bar.h"
#include "apps/prompts_file.h"
#include "apps/resources.h"
#include "apps/standard_output.h"
#include "apps/stop.h"
#include "apps/stop_strings.h"
#include "apps/text_input.h"
#include "apps/units.h"
#include "base/error.h"
#include "policy/registry.h"
#include "runtime/scheduler.h"

namespace pith {
namespace {

// A prompt, and its answer as it grows.
struct Item {
  explicit Item(const std::vector<std::string>& strings) : stops(strings) {}
  FilePrompt prompt;
  std::string spec;
  uint64_t seed = 0;
  size_t prompt_tokens = 0;
  Utf8Stream characters;
  StopStrings stops;
  std::string text;
  Answer answer;
  bool ended = false;

  std::string finish() const {
    if (stops.hit()) return "stop_string";
    switch (answer.ending) {
      case Ending::stop:
        return "stop";
      case Ending::length:
        return "length";
      case Ending::cancelled:
        return "interrupted";
      case Ending::refused:
        return "refused";
    }
    return "";
  }
};

// The beginning of a text on one line, for the heading of its answer.
std::string heading(std::string_view text) {
  constexpr size_t kMost = 60;
  std::string line;
  for (const char c : text.substr(0, kMost)) line += c == '\n' || c == '\t' ? ' ' : c;
  if (text.size() > kMost) {
    while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xC0) == 0x80)
      line.pop_back();
    if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xC0) line.pop_back();
    line += "...";
  }
  return line;
}

class Run {
 public:
  explicit Run(const ManyOptions& options)
      : options_(options), engine_(open_engine(options.engine, options.reuse)) {
    SchedulerOptions how;
    how.most_sessions = options.sessions;
    scheduler_ = std::make_unique<Scheduler>(*engine_, how);
  }

  // Reads the file's prompts into requests; nothing is computed yet.
  void submit(std::vector<FilePrompt> prompts) {
    if (!options_.opening.empty()) {
      opening_ = engine_->tokenizer().encode_prompt(read_file(options_.opening), !options_.literal);
      if (opening_.empty())
        throw Error(Errc::bad_request, options_.opening + ": the opening is empty; leave it out");
    }
    std::vector<std::vector<int32_t>> texts;
    for (FilePrompt& prompt : prompts) {
      Item& item = items_.emplace_back(options_.stops);
      item.prompt = std::move(prompt);
      texts.push_back(submit(item));
    }
    common_ = have_common_beginnings(std::move(texts));
  }

  void work() {
    ProgressBar bar(!options_.quiet);
    const auto total = static_cast<int64_t>(items_.size());
    try {
      while (!interrupted() && scheduler_->step(bar)) {
        if (take_answers() > 0) {
          bar.erase();
          show();
        }
        bar.progress("answers", done_, total);
      }
    } catch (const Error& error) {
      if (error.code() != Errc::interrupted) throw;
    }
    stopped_ = interrupted() && done_ < total;
    for (const auto& [id, item] : by_id_)
      if (!item->ended) scheduler_->cancel(id);
    while (scheduler_->step()) continue;
    take_answers();
    seconds_ = watch_.seconds();
  }

  int finish() {
    if (options_.json) {
      std::fputs(json().c_str(), stdout);
    } else {
      show();
    }
    flush_output();
    for (const Item& item : items_)
      for (const std::string& warning : item.answer.warnings)
        std::fprintf(stderr, "pith: %s: %s\n", item.prompt.where.c_str(), warning.c_str());
    if (!options_.json && !options_.quiet) {
      for (const std::string& sentence : sentences())
        std::fprintf(stderr, "%s\n", sentence.c_str());
      std::fprintf(stderr, "%s\n", figures().c_str());
    }
    if (stopped_) return 130;
    return refused() > 0 ? 1 : 0;
  }

 private:
  // Returns the prompt's tokens.
  std::vector<int32_t> submit(Item& item) {
    const FilePrompt& prompt = item.prompt;
    const std::string text = options_.escapes ? unescape(prompt.text) : prompt.text;
    Request request;
    request.prompt = opening_;
    const Tokenizer& tokenizer = engine_->tokenizer();
    const std::vector<int32_t> own = opening_.empty()
                                         ? tokenizer.encode_prompt(text, !options_.literal)
                                         : tokenizer.encode_more(text, !options_.literal);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.opening = static_cast<int>(opening_.size());
    request.spec = item.spec = prompt.spec.value_or(options_.spec);
    request.sampling = options_.sampling;
    request.sampling.seed = item.seed = prompt.seed.value_or(options_.sampling.seed);
    request.exact = options_.exact;
    item.prompt_tokens = request.prompt.size();
    std::vector<int32_t> tokens = request.prompt;
    const auto context = static_cast<size_t>(context_limit(*engine_, options_.engine));
    if (tokens.size() > context) {
      item.answer.ending = Ending::refused;
      item.answer.why = "the prompt has " + count_text(tokens.size()) + " tokens and the context " +
                        count_text(context) + "; shorten the one or raise the other with -c";
      item.ended = true;
      ++done_;
      return {};
    }
    const int room = static_cast<int>(context - tokens.size());
    const int wanted = prompt.predict.value_or(options_.predict);
    request.max_tokens = wanted < 0 ? room : std::min(wanted, room);
    request.on_token = [this, &item](int32_t token) {
      item.text += item.characters.feed(item.stops.feed(engine_->tokenizer().piece(token)));
      return !item.stops.hit();
    };
    try {
      const int64_t id = scheduler_->submit(std::move(request));
      by_id_[id] = &item;
    } catch (const Error& error) {
      throw Error(error.code(), prompt.where + ": " + error.what());
    }
    return tokens;
  }

  // Whether any two prompts begin with the same tokens, more than a few.
  static bool have_common_beginnings(std::vector<std::vector<int32_t>> texts) {
    std::ranges::sort(texts);
    for (size_t i = 1; i < texts.size(); ++i)
      if (common_beginning(texts[i - 1], texts[i]) >= PrefixCache::kLeastTokens) return true;
    return false;
  }

  size_t take_answers() {
    std::vector<Answer> answers = scheduler_->take_answers();
    for (Answer& answer : answers) {
      Item& item = *by_id_.at(answer.id);
      item.text += item.characters.feed(item.stops.flush());
      item.text += item.characters.flush();
      item.answer = std::move(answer);
      item.ended = true;
      ++done_;
    }
    return answers.size();
  }

  // Answers that are complete, as long as those before them are.
  void show() {
    if (options_.json) return;
    for (; shown_ < items_.size() && items_[shown_].ended; ++shown_) {
      const Item& item = items_[shown_];
      if (item.finish() == "interrupted") return;
      std::string block = fmt::format("==> {}: {} <==\n", shown_ + 1, heading(item.prompt.text));
      block += item.answer.ending == Ending::refused && !item.stops.hit()
                   ? "[refused: " + item.answer.why + "]"
                   : item.text;
      block += "\n\n";
      show_text(block);
    }
  }

  int64_t refused() const {
    return std::ranges::count_if(items_, [](const Item& i) { return i.finish() == "refused"; });
  }

  // What the methods in use let prompts share, if there was something to share.
  std::vector<std::string> sentences() const {
    std::vector<std::string> all;
    if (!common_ || !options_.reuse) return all;
    for (const auto& [spec, use] : uses())
      if (use.what != Reuse::pages && (opening_.empty() || !use.opens)) all.push_back(use.why);
    return all;
  }

  std::map<std::string, PrefixUse> uses() const {
    std::map<std::string, PrefixUse> uses;
    const ModelConfig& config = engine_->model().config();
    for (const Item& item : items_) {
      if (uses.contains(item.spec)) continue;
      const auto policy = make_policy(item.spec, config.shape, config.digest);
      uses[item.spec] = prefix_use(*policy, config.shape);
    }
    return uses;
  }

  struct Sums {
    uint64_t prompt_tokens = 0, reused_tokens = 0, tokens = 0, rows = 0, pages = 0;
    int preemptions = 0;
  };
  Sums sums() const {
    Sums sums;
    for (const Item& item : items_) {
      sums.prompt_tokens += item.prompt_tokens;
      sums.reused_tokens += static_cast<uint64_t>(item.answer.reused_tokens);
      sums.tokens += item.answer.tokens.size();
      sums.preemptions += item.answer.preemptions;
      sums.rows += static_cast<uint64_t>(item.answer.rows_squeezed);
      sums.pages += static_cast<uint64_t>(item.answer.pages_squeezed);
    }
    return sums;
  }

  std::string figures() const {
    const Sums all = sums();
    const auto answers = static_cast<uint64_t>(done_) - static_cast<uint64_t>(interrupted_items());
    std::string line = fmt::format("{} of {} answers in {}", count_text(answers),
                                   count_text(items_.size()), duration_text(seconds_));
    if (refused() > 0) line += fmt::format(", {} of them refused", refused());
    line += fmt::format("; prompts {} tokens", count_text(all.prompt_tokens));
    if (all.reused_tokens > 0)
      line +=
          fmt::format(", {} of them computed for an earlier one", count_text(all.reused_tokens));
    line += fmt::format(", generated {}", count_text(all.tokens));
    if (seconds_ > 0)
      line += fmt::format(" at {:.1f}/s", static_cast<double>(all.tokens) / seconds_);
    line += fmt::format("; cache {} at most of {}", bytes_text(engine_->pool().peak_bytes()),
                        bytes_text(engine_->pool().limit_bytes()));
    if (all.pages > 0)
      line +=
          fmt::format(", {} pages ({} rows) evicted", count_text(all.pages), count_text(all.rows));
    if (all.preemptions > 0) line += fmt::format(", {} preemptions", all.preemptions);
    return line + ", peak memory " + bytes_text(peak_resident_bytes());
  }

  int64_t interrupted_items() const {
    return std::ranges::count_if(items_, [](const Item& i) { return i.finish() == "interrupted"; });
  }

  std::string json() const {
    JsonWriter json;
    json.object().key("model").value(options_.engine.model).key("answers").array();
    for (const Item& item : items_) {
      json.object().key("where").value(item.prompt.where).key("spec").value(item.spec);
      json.key("warnings").array();
      for (const std::string& warning : item.answer.warnings) json.value(warning);
      json.end();
      json.key("seed").value(item.seed).key("text").value(item.text).key("tokens").array();
      for (const int32_t token : item.answer.tokens) json.value(token);
      json.end().key("finish").value(item.finish());
      if (item.finish() == "refused") json.key("why").value(item.answer.why);
      json.key("prompt_tokens").value(item.prompt_tokens);
      json.key("reused_tokens").value(item.answer.reused_tokens);
      json.key("preemptions").value(item.answer.preemptions);
      json.key("evicted_rows").value(item.answer.rows_squeezed);
      json.key("evicted_pages").value(item.answer.pages_squeezed).end();
    }
    json.end().key("reuse").array();
    if (options_.reuse)
      for (const auto& [spec, use] : uses())
        json.object()
            .key("spec")
            .value(spec)
            .key("shares")
            .value(use.what == Reuse::pages         ? "pages"
                   : use.opens && !opening_.empty() ? "opening"
                   : use.what == Reuse::work        ? "work"
                                                    : "nothing")
            .key("why")
            .value(use.why)
            .end();
    const Sums all = sums();
    json.end().key("seconds").value(seconds_).key("prompt_tokens").value(all.prompt_tokens);
    json.key("reused_tokens").value(all.reused_tokens).key("tokens").value(all.tokens);
    json.key("preemptions").value(all.preemptions).key("evicted_rows").value(all.rows);
    json.key("evicted_pages").value(all.pages);
    json.key("peak_cache_bytes").value(engine_->pool().peak_bytes());
    json.key("cache_limit_bytes").value(engine_->pool().limit_bytes());
    json.key("peak_rss_bytes").value(peak_resident_bytes()).end();
    return json.text() + "\n";
  }

  const ManyOptions& options_;
  const std::unique_ptr<Engine> engine_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<int32_t> opening_;
  std::deque<Item> items_;  // addresses stay
  std::map<int64_t, Item*> by_id_;
  const Stopwatch watch_;
  size_t shown_ = 0;
  int64_t done_ = 0;
  double seconds_ = 0;
  bool common_ = false, stopped_ = false;
};

}  // namespace

int run_many(const ManyOptions& options) {
  std::vector<FilePrompt> prompts = parse_prompts(
      read_file(options.prompts), options.prompts == "-" ? "standard input" : options.prompts);
  Run run(options);
  run.submit(std::move(prompts));
  run.work();
  return run.finish();
}

}  // namespace pith
