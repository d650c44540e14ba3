// Answers of the tiny models, which several tests compare bit for bit.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/same_bits.h"
#include "support/tiny_model.h"

namespace pith::test {

inline std::shared_ptr<const Model> loaded_tiny_model(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Model>> loaded;
  auto& model = loaded[name];
  if (!model) model = Model::load(write_tiny_model(tiny_model(name)));
  return model;
}

inline EngineOptions tiny_options(int threads, int tile_rows = 512,
                                  size_t cache_bytes = size_t{256} << 20) {
  return {.threads = threads, .cache_bytes = cache_bytes, .tile_rows = tile_rows};
}

// Takes calibration files of any model.
inline std::unique_ptr<Session> open_tiny(Engine& engine, const std::string& spec) {
  return engine.open(make_policy(spec, engine.model().config().shape));
}

// Logits after the prompt and after each of `steps` greedy tokens, one after the other.
inline std::vector<float> answer(Engine& engine, Session& session, std::span<const int32_t> prompt,
                                 int steps) {
  engine.prefill(session, prompt);
  std::vector<float> all = session.logits;
  Session* const one = &session;
  for (int i = 0; i < steps; ++i) {
    const auto best = std::max_element(session.logits.begin(), session.logits.end());
    const auto token = static_cast<int32_t>(best - session.logits.begin());
    engine.decode({&one, 1}, {&token, 1});
    all.insert(all.end(), session.logits.begin(), session.logits.end());
  }
  return all;
}

inline std::vector<float> answer(const std::string& model, const EngineOptions& how,
                                 const std::string& spec, std::span<const int32_t> prompt,
                                 int steps) {
  Engine engine(loaded_tiny_model(model), how);
  const auto session = open_tiny(engine, spec);
  return answer(engine, *session, prompt, steps);
}

}  // namespace pith::test
