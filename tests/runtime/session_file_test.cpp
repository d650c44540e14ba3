// A session that went through a file is the session it was; a file that is not what was written
// is refused in a sentence.
#define XXH_INLINE_ALL
#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <xxhash.h>

#include "base/error.h"
#include "base/random.h"
#include "policy/calibration.h"
#include "policy/registry.h"
#include "runtime/engine.h"
#include "support/method_specs.h"
#include "support/same_bits.h"
#include "support/tiny_model.h"

namespace pith {
namespace {

using test::tiny_model;
using test::tiny_tokens;

std::shared_ptr<const Model> model(const std::string& name) {
  return Model::load(test::write_tiny_model(tiny_model(name)));
}

std::string path(const std::string& name) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "session_files";
  std::filesystem::create_directories(folder);
  return (folder / name).string();
}

std::vector<char> bytes_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& file, std::span<const char> bytes) {
  std::ofstream(file, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::vector<float> go_on(Engine& engine, Session& session, std::span<const int32_t> turn,
                         int steps) {
  std::vector<float> all = session.logits;
  const auto walk = [&] {
    Session* const one = &session;
    for (int i = 0; i < steps; ++i) {
      const auto token =
          static_cast<int32_t>(std::ranges::max_element(session.logits) - session.logits.begin());
      engine.decode({&one, 1}, {&token, 1});
      all.insert(all.end(), session.logits.begin(), session.logits.end());
    }
  };
  walk();
  engine.prefill(session, turn);
  walk();
  return all;
}

std::string error_of(Engine& engine, const std::string& file) {
  try {
    engine.load(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_the_same_after_a_file(Engine& engine, const std::string& spec,
                                  std::span<const int32_t> prompt) {
  const auto session = engine.open(spec);
  engine.prefill(*session, prompt.first(90));
  const std::string file = path("same.session");
  engine.save(*session, file);
  const auto restored = engine.load(file);
  EXPECT_EQ(restored->policy, session->policy) << "the two use one policy";
  EXPECT_EQ(restored->tokens, session->tokens);
  EXPECT_EQ(restored->store->rows(), session->store->rows());
  EXPECT_EQ(restored->compressor.stats().rows_kept, session->compressor.stats().rows_kept);
  const auto turn = prompt.subspan(90);
  EXPECT_TRUE(test::same_bits(go_on(engine, *session, turn, 5), go_on(engine, *restored, turn, 5)))
      << engine.model().config().arch << " " << spec;
}

TEST(SessionFile, GivesTheSameLogitsBitForBitForEveryArchitecture) {
  for (const char* name : {"llama", "gemma3", "mpt"}) {
    Engine engine(model(name), {.threads = 1, .cache_bytes = size_t{64} << 20});
    const auto prompt = tiny_tokens(tiny_model(name), 150);
    for (const char* spec : {"full", "snapkv:budget=40,reduce_every=3", "fastkv:budget=0.2",
                             "full:cache=f32", "kivi:bits=2,group=32,outliers=1%"})
      expect_the_same_after_a_file(engine, spec, prompt);
  }
}

class SessionFileOf : public ::testing::TestWithParam<std::string> {};

TEST_P(SessionFileOf, GivesTheSameLogitsBitForBit) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const ModelConfig& config = engine.model().config();
  std::string spec;
  try {
    spec = test::spec_of(*find_method(GetParam()), "40", config.shape, false, config.digest);
    make_policy(spec, config.shape, config.digest);
  } catch (const Error& error) {
    GTEST_SKIP() << "no file of random numbers is enough: " << error.what();
  }
  expect_the_same_after_a_file(engine, spec, tiny_tokens(tiny_model("llama"), 150));
}
INSTANTIATE_TEST_SUITE_P(Methods, SessionFileOf, ::testing::ValuesIn(test::method_names()),
                         [](const auto& info) { return info.param; });

TEST(SessionFile, IsRefusedWhereAFileOfItsSpecHasOtherContents) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const ModelConfig& config = engine.model().config();
  const std::string calibration = path("directions.gguf");
  const auto calibrate = [&](float value) {
    const KvShape& shape = config.shape;
    const auto count = static_cast<size_t>(shape.layers * shape.heads * shape.dim);
    const CalibrationTensor directions{"queries.direction",
                                       {shape.dim, shape.heads, shape.layers},
                                       std::vector<float>(count, value)};
    save_calibration(calibration, config.digest, "a test", std::span(&directions, 1));
  };
  calibrate(1);
  {
    const auto session = engine.open("qfilter:budget=40,calibration=" + calibration);
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), 60));
    engine.save(*session, path("calibrated.session"));
  }
  EXPECT_NE(engine.load(path("calibrated.session")), nullptr);
  calibrate(2);
  const std::string sentence = error_of(engine, path("calibrated.session"));
  EXPECT_NE(sentence.find("has other contents"), std::string::npos) << sentence;
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
  calibrate(1);
  EXPECT_NE(engine.load(path("calibrated.session")), nullptr);
}

TEST(Engine, SharesAPolicyAndItsBasesWhileAnybodyUsesIt) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const std::string spec = "full:cache=q8,rotate=hadamard";
  {
    const auto one = engine.open(spec);
    const size_t bases = engine.pool().used_bytes(MemoryClass::bases);
    EXPECT_EQ(bases, one->policy->store.basis->bytes());
    EXPECT_GT(bases, 0u);
    const auto two = engine.open(spec);
    EXPECT_EQ(one->policy, two->policy);
    EXPECT_EQ(engine.pool().used_bytes(MemoryClass::bases), bases);
    EXPECT_NE(engine.open("full:cache=q8")->policy, one->policy);
  }
  EXPECT_EQ(engine.pool().used_bytes(), 0u);
  Engine small(model("llama"), {.threads = 1, .cache_bytes = 64});
  EXPECT_THROW(small.open(spec), Error);
}

TEST(SessionFile, HoldsAsMuchMemoryAsTheSessionThatWasSaved) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto session = engine.open("snapkv:budget=50");
  engine.prefill(*session, tiny_tokens(tiny_model("llama"), 200));
  engine.save(*session, path("size.session"));
  const size_t before = engine.pool().used_bytes();
  const auto restored = engine.load(path("size.session"));
  const size_t added = engine.pool().used_bytes() - before;
  EXPECT_LE(added, before + before / 16);
  EXPECT_GE(added, before - before / 16);
}

TEST(SessionFile, IsRefusedIfTheCacheLimitIsTooSmallForIt) {
  const auto file = path("large.session");
  {
    Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
    const auto session = engine.open("full");
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), 200));
    engine.save(*session, file);
  }
  Engine small(model("llama"), {.threads = 1, .cache_bytes = 20000});
  EXPECT_NE(error_of(small, file).find("raise --kv-memory"), std::string::npos)
      << error_of(small, file);
  EXPECT_EQ(small.pool().used_bytes(), 0u);
}

TEST(SessionFile, OfAnotherModelIsRefusedBeforeAnythingIsRead) {
  Engine one(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  Engine other(model("qwen3"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto session = one.open("full");
  one.prefill(*session, tiny_tokens(tiny_model("llama"), 20));
  one.save(*session, path("other.session"));
  EXPECT_NE(error_of(other, path("other.session")).find("another model"), std::string::npos);
}

// As if it had been written so.
void seal_again(std::vector<char>& bytes) {
  const uint64_t length = bytes.size();
  std::memcpy(bytes.data() + bytes.size() - 24, &length, sizeof length);
  const XXH128_hash_t sum = XXH3_128bits(bytes.data(), bytes.size() - 16);
  std::memcpy(bytes.data() + bytes.size() - 16, &sum.low64, 8);
  std::memcpy(bytes.data() + bytes.size() - 8, &sum.high64, 8);
}

// Whoever makes a file whose checksum is right may tell lies, and crashes nobody.
TEST(SessionFile, OfASealedLieIsRefusedOrASessionThatGoesOn) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto file = path("sealed.session"), broken = path("lie.session");
  int refused = 0;
  for (const char* spec :
       {"snapkv:budget=40", "kivi:bits=2,group=32,outliers=1%", "tiers:page=8"}) {
    {
      const auto session = engine.open(spec);
      engine.prefill(*session, tiny_tokens(tiny_model("llama"), 80));
      engine.save(*session, file);
    }
    const std::vector<char> whole = bytes_of(file);
    Random random(11);
    for (int i = 0; i < 160; ++i) {
      std::vector<char> bytes = whole;
      // Everywhere; numbers of lists and headers of pages lie at the beginnings of words.
      for (int n = 0; n < 1 + i % 3; ++n) {
        size_t at = 12 + static_cast<size_t>(random.below(whole.size() - 36));
        if (i % 2 == 0) at = at / 4 * 4;
        bytes[at] = i % 5 == 0 ? '\xff' : static_cast<char>(bytes[at] ^ (1 << random.below(8)));
      }
      seal_again(bytes);
      put(broken, bytes);
      try {
        const auto session = engine.load(broken);
        const int32_t token = 1;
        Session* const one = session.get();
        engine.decode({&one, 1}, {&token, 1});
      } catch (const Error& error) {
        ++refused;
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      }
      EXPECT_EQ(engine.pool().used_bytes(), 0u);
    }
  }
  EXPECT_GT(refused, 20);
}

TEST(SessionFile, WithOutliersOutsideOfTheirPageIsRefused) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto file = path("outliers.session"), broken = path("outside.session");
  {
    const auto session = engine.open("kivi:bits=2,group=32,outliers=1%");
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), 80));
    engine.save(*session, file);
    ASSERT_GT(session->store->sealed_rows(), 0);
  }
  const std::vector<char> whole = bytes_of(file);
  // The header of a page: count, codes, line, amounts; the line is the 32 rows of a page of keys.
  int headers = 0;
  for (size_t at = 64; at + 64 < whole.size(); at += 64) {
    std::array<uint32_t, 4> header{};
    std::memcpy(header.data(), whole.data() + at, sizeof header);
    if (header[2] != 32 || header[0] == 0 || header[0] > 64 || header[3] >= header[1] ||
        header[1] > 1024)
      continue;
    ++headers;
    for (size_t word = 0; word < header.size(); ++word)
      for (const uint32_t lie : {0u, 1u, 0x7fffffffu, 0x80000001u, 0xffffffffu}) {
        if (word == 0 && lie < 2) continue;  // a shorter list is no lie that shows
        std::vector<char> bytes = whole;
        std::memcpy(bytes.data() + at + 4 * word, &lie, sizeof lie);
        seal_again(bytes);
        put(broken, bytes);
        EXPECT_NE(error_of(engine, broken).find("outliers"), std::string::npos)
            << at << " " << word << " " << lie << ": " << error_of(engine, broken);
      }
    break;
  }
  EXPECT_EQ(headers, 1);
}

TEST(SessionFile, AnyChangeOfTheFileIsOneSentenceAndNothingIsHeld) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  const auto file = path("whole.session"), broken = path("broken.session");
  {
    const auto session = engine.open("snapkv:budget=40");
    engine.prefill(*session, tiny_tokens(tiny_model("llama"), 80));
    engine.save(*session, file);
  }
  const std::vector<char> whole = bytes_of(file);
  ASSERT_GT(whole.size(), 1000u);
  Random random(7);
  for (int i = 0; i < 240; ++i) {
    std::vector<char> bytes = whole;
    const auto at = static_cast<size_t>(random.below(i % 3 == 0 ? 64 : whole.size()));
    if (i % 4 == 0)
      bytes.resize(at);
    else if (i % 4 == 1)
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), static_cast<char>(i));
    else
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
    put(broken, bytes);
    const std::string sentence = error_of(engine, broken);
    EXPECT_NE(sentence.find(broken), std::string::npos) << "change " << i << ": " << sentence;
    EXPECT_EQ(sentence.find('\n'), std::string::npos);
    EXPECT_EQ(engine.pool().used_bytes(), 0u);
  }
}

TEST(SessionFile, ThatIsNotThereOrCannotBeWrittenIsASentence) {
  Engine engine(model("llama"), {.threads = 1, .cache_bytes = size_t{64} << 20});
  EXPECT_NE(error_of(engine, path("none.session")).find("No such file"), std::string::npos);
  const auto session = engine.open("full");
  EXPECT_THROW(engine.save(*session, path("no_folder") + "/x.session"), Error);
}

}  // namespace
}  // namespace pith
