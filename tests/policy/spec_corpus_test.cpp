// Specs that somebody mistyped, a script mangled or an enemy wrote: each is answered with one
// sentence or is a policy whose canonical text is a fixed point.
#include <algorithm>
#include <set>

#include "base/random.h"
#include "gtest/gtest.h"
#include "support/spec_sentences.h"

namespace pith::test {
namespace {

const std::vector<std::string> kSpecs = {
    "full",
    "snapkv:budget=0.1",
    "snapkv:window=16,width=5,pool=mean,budget=2048",
    "knorm:budget=512MiB,sink=4,recent=16",
    "streaming_llm:budget=0.05,rerotate=true,reduce_every=8",
    "streaming_llm:recent=508",
    "fastkv:tsp_layer=7,tsp_rate=0.3,budget=0.1",
    "fastkv:tsp_len=4096,budget=512,page=64,cache=f32",
    "fastkv:tsp_layer=auto,calibration=\"no such file.gguf\"",
    "fastkv:tsp_layer=15,tsp_rate=0.2,budget=0.1 + knorm",
    "snapkv:budget=0.1 + fastkv:tsp_rate=0.4",
};

const std::vector<std::string> kByHand = {
    "+",
    "++",
    ":",
    "=",
    ",",
    "\"",
    "\"\"",
    ":::",
    "full:",
    "full:,",
    "full:=",
    "full::",
    "FULL",
    "full full",
    "full,knorm",
    "full;knorm",
    "full|knorm",
    "snapkv=0.1",
    "snapkv:0.1",
    "snapkv:budget:0.1",
    "snapkv:budget=0,1",
    "snapkv:budget=-1",
    "snapkv:budget=0",
    "snapkv:budget=0.0",
    "snapkv:budget=1",
    "snapkv:budget=1.0000001",
    "snapkv:budget=2.0",
    "snapkv:budget=1e999",
    "snapkv:budget=-0.1",
    "snapkv:budget=inf",
    "snapkv:budget=nan",
    "snapkv:budget=0x10",
    "snapkv:budget=.1",
    "snapkv:budget=1.",
    "snapkv:budget=1e-1",
    "snapkv:budget=99999999999999999999",
    "snapkv:budget=0B",
    "snapkv:budget=1B",
    "snapkv:budget=99999999999TiB",
    "snapkv:budget=1e3MiB",
    "snapkv:budget=MiB",
    "snapkv:budget=..MiB",
    "snapkv:budget=1.2.3MiB",
    "snapkv:budget=10 MiB",
    "snapkv:budget=10mib",
    "snapkv:budget=10M",
    "snapkv:budget=64%",
    "snapkv:budget==64",
    "snapkv:budget=64=",
    "snapkv:budget=\"64\"",
    "snapkv:budget=\"64",
    "snapkv:budget=64\"",
    "snapkv:\"budget\"=64",
    "snapkv:budget=64,Budget=64",
    "snapkv:window=0,budget=64",
    "snapkv:window=-1,budget=64",
    "snapkv:window=4097,budget=64",
    "snapkv:width=2,budget=64",
    "snapkv:pool=,budget=64",
    "snapkv:pool=|,budget=64",
    "snapkv:pool=max|mean,budget=64",
    "snapkv:page=33,budget=64",
    "snapkv:cache=f8,budget=64",
    "snapkv:sink=2147483648,budget=64",
    "snapkv:sink=1073741824,recent=1073741824,budget=0.5",
    "snapkv:reduce_every=-1,budget=64",
    "fastkv:tsp_layer=-1",
    "fastkv:tsp_layer=AUTO",
    "fastkv:tsp_rate=1.01",
    "fastkv:tsp_rate=-0",
    "fastkv:tsp_rate=0,budget=64",
    "fastkv:tsp_len=0",
    "fastkv:calibration=/",
    "fastkv:window=4096",
    "streaming_llm:rerotate",
    "streaming_llm:rerotate=",
    "streaming_llm:sink=0,recent=0",
    "streaming_llm:recent=0",
    "streaming_llm:budget=4",
    "streaming_llm:budget=5",
    "snapkv+snapkv",
    "knorm:budget=64+",
    "+knorm:budget=64",
    "knorm:budget=64++full",
    "full+fastkv",
    "full+streaming_llm:recent=3",
    "razor:share=0.2",
    "kivi:bits=2",
    "--help",
    "../../etc/passwd",
    "$(reboot)",
    "%s%n",
    "{}",
    "[1,2]",
    "snapkv\n:budget=64",
    "\xef\xbb\xbf"
    "full",
    "full\x7f",
    "\xc3\xa9",
    "full:\t\t",
    "snapkv: budget = 64 ",
    " snapkv :budget=64",
    "full +",
};

// Nothing that moves a terminal's cursor. Names of files are shown as they are.
// The longest names every method there is; what a spec holds is cut.
bool one_sentence(const std::string& text) {
  return !text.empty() && text.size() < 1000 &&
         std::ranges::none_of(text, [](unsigned char c) { return c < 32 || c == 127; });
}

// Throws nothing but Error; a policy's canonical text parses to itself.
void expect_answer(const std::string& spec) {
  std::string text;
  try {
    const auto policy = make_policy(spec, llama_shape());
    ASSERT_NE(policy->scorer, nullptr) << spec;
    ASSERT_NE(policy->budget, nullptr) << spec;
    ASSERT_NE(policy->reducer, nullptr) << spec;
    EXPECT_EQ(make_policy(policy->spec, llama_shape())->spec, policy->spec) << spec;
  } catch (const Error& error) {
    EXPECT_TRUE(one_sentence(error.what())) << spec.substr(0, 200) << "\n"
                                            << std::string(error.what()).substr(0, 2000);
  }
}

std::string mutated(Random& random) {
  static constexpr std::string_view kBytes = "+:,=\"'. -_|0159aezMB\n\t\x01\x80\xff";
  const auto pick = [&](size_t n) { return static_cast<size_t>(random.below(n)); };
  std::string spec = kSpecs[pick(kSpecs.size())];
  for (size_t edits = 1 + pick(4); edits > 0; --edits) {
    const size_t at = pick(spec.size() + 1);
    const char byte = kBytes[pick(kBytes.size())];
    switch (pick(7)) {
      case 0:
        spec.insert(at, 1, byte);
        break;
      case 1:
        spec.erase(at, 1 + pick(5));
        break;
      case 2:
        if (at < spec.size()) spec[at] = byte;
        break;
      case 3:
        spec.insert(at, spec.substr(pick(spec.size() + 1), pick(12)));
        break;
      case 4:
        spec += (random.below(2) ? "+" : ",") + kSpecs[pick(kSpecs.size())];
        break;
      case 5:
        spec = spec.substr(0, at);
        break;
      default:
        if (at < spec.size()) spec[at] = static_cast<char>(random.below(256));
    }
  }
  return spec;
}

TEST(SpecCorpus, AnswersHandWrittenNonsense) {
  EXPECT_GE(kByHand.size(), 100u);
  for (const std::string& spec : kByHand) expect_answer(spec);
}

TEST(SpecCorpus, AnswersThousandsOfMutations) {
  Random random(2);
  std::set<std::string> seen;
  while (seen.size() < 4000) {
    const std::string spec = mutated(random);
    if (seen.insert(spec).second) expect_answer(spec);
  }
}

TEST(SpecCorpus, AnswersLongSpecsInTime) {
  expect_answer(std::string(1 << 20, '+'));
  expect_answer(std::string(1 << 20, 'a'));
  expect_answer("snapkv:" + std::string(1 << 20, ','));
  expect_answer("snapkv:budget=" + std::string(1 << 20, '9'));
  expect_answer("snapkv:" + std::string(1 << 20, 'w') + "=1,budget=64");
  std::string many = "snapkv:budget=64";
  for (int i = 0; i < 3000; ++i) many += ",window" + std::to_string(i) + "=1";
  expect_answer(many);
}

}  // namespace
}  // namespace pith::test
