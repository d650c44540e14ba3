// What the methods say about themselves: the text behind `pith methods` and docs/methods.md. It
// comes from the same calls that read the options, so the two cannot disagree.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/registry.h"

namespace pith {

struct MethodHelp {
  const Method* method = nullptr;
  std::vector<std::string> roles;  // "scorer", "budget", "router", "tile reader", ...
  std::vector<OptionDoc> options;  // in the order of reading; own defaults of common ones too
};

// Defaults that depend on the model are those of a model of 32 layers.
MethodHelp describe(const Method& method);
// Options that every spec understands, with the defaults of methods that have no opinion.
std::vector<OptionDoc> describe_common_options();

// Of `auto`, which is no method: it chooses a spec.
std::vector<OptionDoc> describe_auto_options();
// What `auto` does, a paragraph each.
std::vector<std::string_view> describe_auto();

// docs/methods.md
std::string methods_markdown();

}  // namespace pith
