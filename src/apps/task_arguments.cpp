#include "apps/task_arguments.h"

#include <algorithm>

#include "apps/units.h"
#include "base/error.h"
#include "model/model.h"

namespace pith {

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

ChosenChat chosen_chat(const Engine& engine, const std::string& wanted) {
  if (wanted == "none") return {};
  try {
    ChatTemplate chat =
        wanted == "auto" ? ChatTemplate::of(engine.model().file()) : ChatTemplate::named(wanted);
    std::string name(chat.family());
    return {std::move(chat), std::move(name)};
  } catch (const Error& error) {
    if (wanted != "auto" || error.code() != Errc::unsupported) throw;
    return {};
  }
}

void check_length(int length, int limit, const std::string& asked) {
  if (length > limit)
    throw Error(Errc::bad_request, "the model has a context of " +
                                       count_text(static_cast<uint64_t>(limit)) +
                                       " tokens and --lengths asks for " + asked +
                                       "; ask for less, or raise it with -c");
}

}  // namespace pith
