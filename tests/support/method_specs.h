// One spec for every registered method, with what it needs to have something to do on short
// prompts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "policy/describe.h"
#include "policy/registry.h"
#include "support/toy_adapter.h"
#include "support/toy_calibration.h"

namespace pith::test {

// Options without which a method would do nothing on prompts of a few hundred tokens.
inline std::string active(std::string_view name) {
  if (name == "razor") return "local=12,factor=8,induction=0.3";
  if (name == "tiers") return "page=8";
  return {};
}

// Options that switch off what a method does besides choosing rows.
inline std::string neutral_options(std::string_view name, const std::string& budget) {
  const bool share = budget.find('.') != std::string::npos;
  if (name == "fastkv") return share ? "tsp_rate=1" : "tsp_len=" + budget;
  if (name == "coverage") return "mass=1";
  if (name == "kivi" || name == "minikv") return "bits=16";
  if (name == "tiers") return "f16=1,q4=0,q2=0";
  if (name == "route" || name == "lazyllm") return "steps=0:1.0";
  return {};
}

inline std::vector<std::string> method_names() {
  std::vector<std::string> all;
  for (const Method& method : methods()) all.emplace_back(method.name);
  return all;
}

// "name:budget=...", with a calibration file if it needs one, and without a budget if it takes
// none. Files are made for the model of that digest.
inline std::string spec_of(const Method& method, const std::string& budget, const KvShape& shape,
                           bool neutral = false, const std::string& model_digest = "m") {
  const std::string name(method.name);
  std::string options;
  const auto add = [&](const std::string& option) {
    if (!option.empty()) options += (options.empty() ? ":" : ",") + option;
  };
  for (const OptionDoc& option : describe(method).options)
    if (option.type == "adapter")
      add(option.key + "=" + toy_adapter(shape, {.zero = neutral, .digest = model_digest}));
    else if (option.type == "calibration" && name != "fastkv" && name != "uncomp")
      add(option.key + "=" + toy_calibration(shape, model_digest));
  add(neutral ? neutral_options(name, budget) : active(name));
  const std::string plain = options;
  add("budget=" + budget);
  try {
    make_policy(name + options, shape);
    return name + options;
  } catch (const Error&) {
    return name + plain;
  }
}

}  // namespace pith::test
