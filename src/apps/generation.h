// Generating text for a terminal: whole characters as they come, stop strings, Ctrl-C, figures.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/json_writer.h"
#include "runtime/engine.h"

namespace pith {

struct Generated {
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish;  // "stop", "length", "stop_string", "interrupted"
  size_t prompt_tokens = 0;
  double prompt_seconds = 0;    // to the logits of the prompt's last token
  double first_seconds = 0;     // to the first token: TTFT
  double generate_seconds = 0;  // from the first token to the last
  uint64_t cache_bytes = 0, full_cache_bytes = 0, peak_rss_bytes = 0;
  uint64_t evicted_rows = 0, evicted_pages = 0;  // for want of memory, over all heads
  // With GenerateRequest::goes_on: the beginning of `text` that a further turn finds in the cache,
  // and, if a stop string had been read before it was recognised, the session as it was without.
  std::string held;
  std::unique_ptr<Session> before_stop;
  double prompt_rate() const;    // tokens per second
  double generate_rate() const;  // tokens per second after the first
  std::string evicted() const;   // " 3 pages (90 rows) evicted"; nothing if none was
  // One line for people.
  std::string figures() const;
  void write(JsonWriter& json) const;  // as keys of an open object
};

struct GenerateRequest {
  int max_tokens = -1;  // -1: until the model ends
  int context = 0;      // most tokens the session may hold
  std::vector<std::string> stops;
  std::vector<int32_t> stop_tokens;  // beside those that end every text of the model
  bool show = true;                  // write the text to stdout as it comes
  bool bar = true;                   // progress of the prompt on stderr
  bool goes_on = false;              // a further turn follows; see Generated::held
  // Tokens [first, last) of the prompt are compressed, the others stay whole; without: as the spec
  // says.
  struct Span {
    size_t first = 0, last = 0;
  };
  std::optional<Span> span;
};

// Feeds `prompt` to the session and generates. Ctrl-C ends the text, not the process. Throws
// bad_request if the prompt does not fit the context or has no such span; interrupted if the prompt
// was cut short.
Generated generate_text(Engine& engine, Session& session, const std::vector<int32_t>& prompt,
                        const GenerateRequest& request);

}  // namespace pith
