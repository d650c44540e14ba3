// What is kept does not depend on how the work was cut: tiles of a prompt, threads, instruction
// sets.
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/method_specs.h"
#include "support/tiny_model.h"
#include "support/toy_prompt.h"

namespace pith::test {
namespace {

using Rows = std::vector<std::vector<int32_t>>;

std::shared_ptr<const Model> tiny_llama() {
  static const auto model = Model::load(write_tiny_model(tiny_model("llama")));
  return model;
}

struct Outcome {
  Rows kept;
  std::vector<float> logits;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const std::string& spec, const EngineOptions& how) {
  Engine engine(tiny_llama(), how);
  const auto session = engine.open(make_policy(spec, tiny_llama()->config().shape));
  engine.prefill(*session, tiny_tokens(tiny_model("llama"), 130));
  Session* const one = session.get();
  for (const int32_t token : tiny_tokens(tiny_model("llama"), 12, 5))
    engine.decode({&one, 1}, {&token, 1});
  Outcome outcome;
  outcome.logits = session->logits;
  const KvShape& shape = tiny_llama()->config().shape;
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h) {
      const auto rows = std::as_const(*session->store).at(l, h).positions();
      outcome.kept.emplace_back(rows.begin(), rows.end());
    }
  return outcome;
}

TEST(Selection, IsTheSameHoweverThePromptIsCutAndOnAnyNumberOfThreads) {
  const EngineOptions whole{.threads = 1, .cache_bytes = size_t{64} << 20, .tile_rows = 512};
  for (const Method& method : methods()) {
    const std::string spec = spec_of(method, "0.15", tiny_llama()->config().shape);
    const Outcome expected = run(spec, whole);
    EngineOptions cut = whole;
    cut.tile_rows = 37;
    cut.threads = 2;
    EXPECT_TRUE(run(spec, cut) == expected) << spec;
  }
}

// instruction_sets_test.sh compares what this writes under every PITH_ISA.
TEST(Selection, IsWrittenDownForOtherInstructionSetsToCompare) {
  const char* path = std::getenv("PITH_KEPT_ROWS");
  if (path == nullptr) GTEST_SKIP() << "PITH_KEPT_ROWS names no file";
  std::ofstream out(path);
  for (const Method& method : methods()) {
    ToyPrompt prompt(spec_of(method, "0.15", toy_shape()), toy_shape(), 2);
    prompt.prefill(600);
    prompt.decode(40);
    for (int l = 0; l < 4; ++l)
      for (int h = 0; h < 2; ++h) {
        out << method.name << ' ' << l << ' ' << h << ':';
        for (const int32_t row : prompt.kept(l, h)) out << ' ' << row;
        out << '\n';
      }
  }
  EXPECT_TRUE(out.flush());
}

}  // namespace
}  // namespace pith::test
