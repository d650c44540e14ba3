// A session that went through a file is the session it was; a file that is not what was written
// is refused in a sentence.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>

#include "base/error.h"
#include "base/random.h"
#include "runtime/engine.h"
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

TEST(SessionFile, GivesTheSameLogitsBitForBitForEveryArchitectureAndMethod) {
  for (const char* name : {"llama", "gemma3", "mpt"}) {
    Engine engine(model(name), {.threads = 1, .cache_bytes = size_t{64} << 20});
    const auto prompt = tiny_tokens(tiny_model(name), 150);
    for (const char* spec :
         {"full", "snapkv:budget=40", "snapkv:budget=40,reduce_every=3", "fastkv:budget=0.2",
          "streaming_llm:budget=24,reduce_every=1", "full:cache=f32"}) {
      const auto session = engine.open(spec);
      engine.prefill(*session, std::span(prompt).first(90));
      const std::string file = path("same.session");
      engine.save(*session, file);
      const auto restored = engine.load(file);
      EXPECT_EQ(restored->policy->spec, session->policy->spec);
      EXPECT_EQ(restored->tokens, session->tokens);
      EXPECT_EQ(restored->store->rows(), session->store->rows());
      EXPECT_EQ(restored->compressor.stats().rows_kept, session->compressor.stats().rows_kept);
      const auto turn = std::span(prompt).subspan(90);
      EXPECT_TRUE(
          test::same_bits(go_on(engine, *session, turn, 5), go_on(engine, *restored, turn, 5)))
          << name << " " << spec;
    }
  }
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
