#include "apps/generation.h"

#include <algorithm>
#include <cstdio>
#include <fmt/core.h>
#include <limits>

#include "apps/process_memory.h"
#include "apps/progress_bar.h"
#include "apps/resources.h"
#include "apps/standard_output.h"
#include "apps/stop.h"
#include "apps/stop_strings.h"
#include "apps/units.h"
#include "base/error.h"

namespace pith {

double Generated::prompt_rate() const {
  return prompt_seconds > 0 ? static_cast<double>(prompt_tokens) / prompt_seconds : 0;
}

double Generated::generate_rate() const {
  return tokens.size() > 1 && generate_seconds > 0
             ? static_cast<double>(tokens.size() - 1) / generate_seconds
             : 0;
}

std::string Generated::figures() const {
  std::string line =
      fmt::format("prompt {} tokens at {:.1f}/s", count_text(prompt_tokens), prompt_rate());
  if (!tokens.empty()) {
    line += fmt::format(", first token after {}, generated {}", duration_text(first_seconds),
                        count_text(tokens.size()));
    if (tokens.size() > 1) line += fmt::format(" at {:.1f}/s", generate_rate());
  }
  const double share = full_cache_bytes > 0 ? 100.0 * static_cast<double>(cache_bytes) /
                                                  static_cast<double>(full_cache_bytes)
                                            : 0;
  line += fmt::format(", cache {} ({:.1f} % of full f16), peak memory {}", bytes_text(cache_bytes),
                      share, bytes_text(peak_rss_bytes));
  if (evicted_pages > 0) line += "," + evicted();
  return line;
}

std::string Generated::evicted() const {
  if (evicted_pages == 0) return {};
  return fmt::format(" {} pages ({} rows) evicted", count_text(evicted_pages),
                     count_text(evicted_rows));
}

void Generated::write(JsonWriter& json) const {
  json.key("text").value(text).key("tokens").array();
  for (const int32_t token : tokens) json.value(token);
  json.end().key("finish").value(finish).key("prompt_tokens").value(prompt_tokens);
  json.key("ttft_seconds").value(first_seconds);
  json.key("prompt_tokens_per_second").value(prompt_rate());
  json.key("tokens_per_second").value(generate_rate());
  json.key("cache_bytes").value(cache_bytes).key("full_cache_bytes").value(full_cache_bytes);
  json.key("evicted_rows").value(evicted_rows).key("evicted_pages").value(evicted_pages);
  json.key("peak_rss_bytes").value(peak_rss_bytes);
}

namespace {

// A stop string may begin several tokens before it is complete, and those are in the cache by then.
// So a fork is kept from before the token that may begin one, until the text shows that none did.
class BeforeStop {
 public:
  // `known` bytes belong to the text, `added` of them since the last look; `waiting` whether more
  // may. The newest token is among them and not in the cache.
  void look(const Session& session, size_t known, size_t added, bool waiting) {
    if (!waiting) {
      fork_.reset();
    } else if (held_bytes_ <= known && (!fork_ || added > 0)) {
      try {
        fork_ = session.fork();
      } catch (const Error& error) {
        if (error.code() != Errc::no_memory) throw;
        fork_.reset();  // the conversation will be read again
      }
    }
  }
  // The fork shares its pages, so none of them could be freed while it lasts.
  void make_way() { fork_.reset(); }
  void take(std::string_view piece) { held_bytes_ += piece.size(); }
  // The newest session whose cache has nothing but `text`; null if that is the one generating.
  std::unique_ptr<Session> last(const std::string& text) {
    return held_bytes_ > text.size() ? std::move(fork_) : nullptr;
  }

 private:
  std::unique_ptr<Session> fork_;
  size_t held_bytes_ = 0;  // of generated text in the cache
};

// One turn, or up to three of which the second is compressed.
void read_prompt(Engine& engine, Session& session, std::span<const int32_t> prompt,
                 const std::optional<GenerateRequest::Span>& span, Monitor& monitor) {
  if (!span) {
    engine.prefill(session, prompt, monitor);
    return;
  }
  if (span->first >= span->last || span->last > prompt.size())
    throw Error(Errc::bad_request, "--compress-span: tokens " + std::to_string(span->first) +
                                       " to " + std::to_string(span->last) +
                                       " are no span of a prompt of " + count_text(prompt.size()) +
                                       " tokens; 'pith tokenize' counts them");
  const struct {
    size_t first, last;
    Turn turn;
  } turns[] = {{0, span->first, Turn::whole},
               {span->first, span->last, Turn::compressed},
               {span->last, prompt.size(), Turn::whole}};
  session.coming_tokens = static_cast<int>(prompt.size());
  for (const auto& [first, last, turn] : turns)
    if (first < last) engine.prefill(session, prompt.subspan(first, last - first), monitor, turn);
}

}  // namespace

Generated generate_text(Engine& engine, Session& session, const std::vector<int32_t>& prompt,
                        const GenerateRequest& request) {
  const size_t context = request.context > 0 ? static_cast<size_t>(request.context)
                                             : std::numeric_limits<size_t>::max();
  const size_t held = session.tokens.size() + prompt.size();
  if (held > context)
    throw Error(Errc::bad_request, "the prompt has " + count_text(held) +
                                       " tokens and the context " + count_text(context) +
                                       "; shorten the one or raise the other with -c");
  const size_t room =
      std::min(context - held, static_cast<size_t>(std::numeric_limits<int>::max()));
  const int limit = request.max_tokens < 0 ? static_cast<int>(room)
                                           : std::min(request.max_tokens, static_cast<int>(room));
  Generated out;
  out.prompt_tokens = prompt.size();
  const Stopwatch watch;
  if (!prompt.empty()) {  // a loaded session may go on without one
    ProgressBar bar(request.bar);
    read_prompt(engine, session, prompt, request.span, bar);
  }
  out.prompt_seconds = watch.seconds();

  Utf8Stream characters;
  StopStrings stops(request.stops);
  BeforeStop before;
  size_t known = 0;  // bytes of the text that no stop string can take back
  const size_t first = session.tokens.size();
  const int64_t rows_before = session.rows_squeezed, pages_before = session.pages_squeezed;
  const Tokenizer& tokenizer = engine.tokenizer();
  const auto show = [&](const std::string& text) {
    out.text += text;
    if (!request.show || text.empty()) return;
    show_text(text);
  };
  double last_seconds = 0;
  bool ended = false;  // at one of the request's tokens
  const Finish finish = engine.generate(session, limit, [&](int32_t token) {
    if (interrupted()) return false;
    if (std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end()) {
      ended = true;
      return false;
    }
    last_seconds = watch.seconds();
    if (out.tokens.empty()) out.first_seconds = last_seconds;
    out.tokens.push_back(token);
    const std::string_view piece = tokenizer.piece(token);
    const std::string certain = stops.feed(piece);
    known += certain.size();
    show(characters.feed(certain));
    if (stops.hit()) return false;
    if (request.goes_on) {
      before.look(session, known, certain.size(), stops.waiting());
      before.take(piece);
      if (engine.bytes_needed(session) > engine.pool().free_bytes()) before.make_way();
    }
    return true;
  });
  show(characters.feed(stops.flush()));
  show(characters.flush());
  out.generate_seconds = last_seconds - out.first_seconds;
  out.finish = stops.hit()                       ? "stop_string"
               : ended || finish == Finish::stop ? "stop"
               : finish == Finish::length        ? "length"
                                                 : "interrupted";
  if (request.goes_on) {
    if (stops.hit()) out.before_stop = before.last(out.text);
    const Session& held = out.before_stop ? *out.before_stop : session;
    for (size_t i = first; i < held.tokens.size(); ++i) out.held += tokenizer.piece(held.tokens[i]);
  }
  out.evicted_rows = static_cast<uint64_t>(session.rows_squeezed - rows_before);
  out.evicted_pages = static_cast<uint64_t>(session.pages_squeezed - pages_before);
  out.cache_bytes = session.store->bytes().total();
  out.full_cache_bytes = full_cache_bytes(engine.model().config().shape, session.tokens.size());
  out.peak_rss_bytes = peak_resident_bytes();
  return out;
}

}  // namespace pith
