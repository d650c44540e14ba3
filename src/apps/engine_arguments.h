// Flags that commands which run a model share, under llama.cpp's names where it has one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "apps/arguments.h"
#include "runtime/engine.h"

namespace pith {

struct EngineArguments {
  std::string model;
  int threads = 0;
  int context = 0;
  int tile = 512;
  uint64_t cache_bytes = 0;
  std::string matmul = "int8";
  bool exact = true;  // EngineOptions::exact: what is measured is what was asked for
};
// -m -t -c -b --kv-memory --matmul
void declare_engine(Arguments& arguments, EngineArguments& engine, bool needs_model = true);
// The same without -m.
void declare_machine(Arguments& arguments, EngineArguments& engine);
void declare_matmul(Arguments& arguments, std::string& matmul);
MatmulForm matmul_form(const std::string& name);
std::unique_ptr<Engine> open_engine(const EngineArguments& arguments, bool reuse_prefixes = false);
// Several that share a model and, in even parts, threads and memory; at least one thread each.
std::vector<std::unique_ptr<Engine>> open_engines(const EngineArguments& arguments,
                                                  bool reuse_prefixes, int count);
// Tokens that a session may hold: -c, or what the model was trained for, or no limit if neither is
// known.
int context_limit(const Engine& engine, const EngineArguments& arguments);

// --exact, for commands that would rather answer than measure; without it rows may go.
void declare_exact(Arguments& arguments, EngineArguments& engine);

// --kv for one spec.
void declare_spec(Arguments& arguments, std::string& spec);

struct SamplingArguments {
  SamplingOptions options;
  std::vector<std::string> logit_bias;  // "15043+1", "2=-inf"
};
void declare_sampling(Arguments& arguments, SamplingArguments& sampling);
// With logit biases read. Throws bad_option.
SamplingOptions sampling_options(const SamplingArguments& sampling);

}  // namespace pith
