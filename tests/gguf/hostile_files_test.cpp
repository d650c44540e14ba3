// A corpus of files that are cut, flipped or lie, made from one honest file. Each must be refused
// with a sentence or be read without touching a byte outside, with allocations bounded by its size.
#include <atomic>
#include <cstdlib>
#include <gtest/gtest.h>
#include <limits>
#include <new>

#include "base/error.h"
#include "base/random.h"
#include "gguf/gguf.h"
#include "support/gguf_bytes.h"

namespace {
std::atomic<size_t> requested{0};  // bytes asked of operator new in this executable
}

// Not inlined: the compiler would pair one half with the library's other half and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  requested += bytes;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace pith {
namespace {

GgufBytes honest_file() {
  GgufBytes raw;
  raw.header(3, 12);
  raw.text("general.architecture", "llama");
  raw.entry("general.alignment", 4, uint32_t{64});
  raw.entry("a.u8", 0, uint8_t{1}).entry("a.i16", 3, int16_t{-2}).entry("a.u64", 10, uint64_t{3});
  raw.entry("a.f32", 6, 4.0f).entry("a.f64", 12, 5.0).entry("a.bool", 7, uint8_t{1});
  raw.texts("tokenizer.ggml.tokens", {"<unk>", "a", "", "bc", "\xe2\x96\x81"});
  raw.array("a.i32s", 5, 3);
  for (int32_t i = 0; i < 3; ++i) raw.put(i, "element");
  raw.array("a.f32s", 6, 2).put(1.0f, "element").put(2.0f, "element");
  raw.array("a.none", 8, 0);
  raw.tensor("token_embd.weight", {32, 4}, 8, 0);
  raw.tensor("blk.0.attn_norm.weight", {16}, 0, 192);
  raw.tensor("blk.0.ffn.weight", {256, 1, 2}, 12, 256);
  raw.pad(64).data(256 + 288);
  return raw;
}

// Reads all there is to read.
void walk(const GgufFile& file, std::span<const std::byte> bytes) {
  const auto inside = [&](std::span<const std::byte> part) {
    ASSERT_GE(part.data(), bytes.data());
    ASSERT_LE(part.data() + part.size(), bytes.data() + bytes.size());
  };
  const auto attempt = [](const auto& call) {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()), "");
    }
  };
  for (const GgufEntry& entry : file.entries()) {
    inside(entry.raw);
    EXPECT_TRUE(file.has(entry.key));
    attempt([&] { file.integer(entry.key); });
    attempt([&] { file.number(entry.key); });
    attempt([&] { file.boolean(entry.key, false); });
    attempt([&] { file.text(entry.key); });
    attempt([&] { file.texts(entry.key); });
    attempt([&] { file.integers(entry.key); });
    attempt([&] { file.numbers(entry.key); });
  }
  for (const GgufTensor& tensor : file.tensors()) {
    inside(tensor.data);
    EXPECT_EQ(&file.tensor(tensor.name), &tensor);
    ASSERT_FALSE(tensor.data.empty());
    volatile std::byte sink = tensor.data.front();
    sink = tensor.data.back();
    static_cast<void>(sink);
    attempt([&] { file.floats(tensor.name, tensor.elements()); });
    attempt([&] { file.matrix(tensor.name, tensor.rows(), tensor.dims[0]); });
  }
}

class Corpus {
 public:
  // Copies, so that the sanitizer sees the exact end of the bytes.
  void check(const std::vector<std::byte>& mutated, const std::string& how) {
    SCOPED_TRACE(how);
    const std::vector<std::byte> bytes(mutated.begin(), mutated.end());
    ++files_;
    const size_t before = requested;
    try {
      const auto file = GgufFile::parse(bytes, "hostile.gguf");
      EXPECT_LE(requested - before, 4096 + 64 * bytes.size());
      walk(*file, bytes);
      ++accepted_;
    } catch (const Error& e) {
      EXPECT_LE(requested - before, 4096 + 64 * bytes.size());
      const std::string sentence = e.what();
      EXPECT_EQ(sentence.rfind("hostile.gguf: ", 0), 0u) << sentence;
      EXPECT_GT(sentence.size(), 25u);
      EXPECT_LT(sentence.size(), 500u);
      for (const char c : sentence) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << sentence;
      ++refused_;
    }
  }

  int files_ = 0, accepted_ = 0, refused_ = 0;
};

TEST(HostileGguf, TheHonestFileIsAccepted) {
  const GgufBytes raw = honest_file();
  Corpus corpus;
  corpus.check(raw.bytes, "honest");
  EXPECT_EQ(corpus.accepted_, 1);
}

TEST(HostileGguf, EveryTruncationIsRefused) {
  const GgufBytes raw = honest_file();
  Corpus corpus;
  const auto cut = [&](size_t length) {
    auto bytes = raw.bytes;
    bytes.resize(length);
    corpus.check(bytes, "cut to " + std::to_string(length));
  };
  for (const GgufBytes::Field& field : raw.fields) {
    cut(field.at);
    cut(field.at + field.bytes / 2);
    if (field.at > 0) cut(field.at - 1);
  }
  cut(raw.bytes.size() - 1);
  EXPECT_GE(corpus.files_, 200);
  EXPECT_EQ(corpus.accepted_, 0);
}

TEST(HostileGguf, EveryFieldMayLieWithoutHarm) {
  const GgufBytes raw = honest_file();
  Corpus corpus;
  for (const GgufBytes::Field& field : raw.fields) {
    if (field.bytes != 4 && field.bytes != 8 && field.bytes != 1) continue;
    uint64_t honest = 0;
    std::memcpy(&honest, raw.bytes.data() + field.at, field.bytes);
    for (const uint64_t lie :
         {uint64_t{0}, uint64_t{1}, honest + 1, honest - 1, honest + 32, honest * 2, uint64_t{0x7f},
          uint64_t{0xff}, uint64_t{1} << 31, uint64_t{0xffffffff}, uint64_t{1} << 32,
          uint64_t{1} << 60, uint64_t{1} << 61, uint64_t{1} << 63,
          std::numeric_limits<uint64_t>::max(), std::numeric_limits<uint64_t>::max() - 31}) {
      auto bytes = raw.bytes;
      std::memcpy(bytes.data() + field.at, &lie, field.bytes);
      corpus.check(bytes,
                   field.what + " at " + std::to_string(field.at) + " = " + std::to_string(lie));
    }
  }
  EXPECT_GE(corpus.files_, 1000);
  EXPECT_GT(corpus.refused_, 500);
}

TEST(HostileGguf, FlippedBitsDoNoHarm) {
  const GgufBytes raw = honest_file();
  const size_t head = raw.fields.back().at;  // flips in the data mean nothing
  Random random(2);
  Corpus corpus;
  for (int i = 0; i < 1500; ++i) {
    auto bytes = raw.bytes;
    const int flips = 1 + static_cast<int>(random.below(4));
    for (int f = 0; f < flips; ++f)
      bytes[random.below(head)] ^= static_cast<std::byte>(1u << random.below(8));
    corpus.check(bytes, "flips " + std::to_string(i));
  }
  EXPECT_GT(corpus.refused_, 300);
  EXPECT_GT(corpus.accepted_, 100);
}

TEST(HostileGguf, SplicedAndRandomBytesDoNoHarm) {
  const GgufBytes raw = honest_file();
  Random random(3);
  Corpus corpus;
  for (int i = 0; i < 300; ++i) {
    auto bytes = raw.bytes;
    const size_t from = random.below(bytes.size()), to = random.below(bytes.size());
    const size_t length = random.below(64);
    for (size_t j = 0; j < length && from + j < bytes.size() && to + j < bytes.size(); ++j)
      bytes[to + j] = i % 2 == 0 ? raw.bytes[from + j] : static_cast<std::byte>(random.next());
    corpus.check(bytes, "splice " + std::to_string(i));
  }
  EXPECT_EQ(corpus.files_, 300);
}

TEST(HostileGguf, AMillionEmptyStringsCostWhatTheFileCosts) {
  GgufBytes raw;
  raw.header(0, 1).array("strings", 8, 1000000);
  raw.bytes.resize(raw.bytes.size() + 8 * 1000000);
  Corpus corpus;
  corpus.check(raw.bytes, "a million empty strings");
  EXPECT_EQ(corpus.accepted_, 1);
}

TEST(HostileGguf, ThousandsOfKeysWithOneLongPrefixAreSortedInBoundedTime) {
  GgufBytes raw;
  const std::string prefix(4000, 'k');
  raw.header(0, 2000);
  for (int i = 0; i < 2000; ++i) raw.entry(prefix + std::to_string(i), 0, uint8_t{1});
  Corpus corpus;
  corpus.check(raw.bytes, "long keys");
  EXPECT_EQ(corpus.accepted_, 1);
}

}  // namespace
}  // namespace pith
