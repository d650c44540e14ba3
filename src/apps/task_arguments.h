// What commands that run tasks read in the same way.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "text/chat.h"

namespace pith {

// The parts between commas.
std::vector<std::string> split_list(const std::string& text);

// --chat: none, or a template and the name of its family.
struct ChosenChat {
  std::optional<ChatTemplate> chat;
  std::string name = "none";
};
// `wanted`: a family's name, none, or auto for the model's own; a model without a template is asked
// in plain text. Throws bad_option where no family has the name.
ChosenChat chosen_chat(const Engine& engine, const std::string& wanted);

// Throws bad_request where a length of --lengths is above `limit`, of context_limit. `asked`: the
// length as the sentence names it.
void check_length(int length, int limit, const std::string& asked);

}  // namespace pith
