#include "gguf/gguf.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>

#include "base/error.h"
#include "support/gguf_bytes.h"

namespace pith {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string fresh_path(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "pith_gguf";
  std::filesystem::create_directories(folder);
  const std::filesystem::path path = folder / name;
  std::filesystem::remove(path);
  return path;
}

void write_bytes(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

std::shared_ptr<const GgufFile> parse(const GgufBytes& file) {
  return GgufFile::parse(file.bytes, "lie.gguf");
}

// The sentence a file is refused with; fails the test if it is not refused.
std::string refusal(const GgufBytes& file, Errc code = Errc::bad_file) {
  try {
    parse(file);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "the file was accepted";
  return {};
}

template <class Call>
std::string complaint(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(GgufReader, ReadsAFileThatWasWrittenByteByByte) {
  GgufBytes raw;
  raw.header(2, 3);
  raw.text("general.architecture", "llama");
  raw.entry("llama.block_count", 4, uint32_t{7});
  raw.array("llama.sizes", 5, 3).put(int32_t{-1}, "").put(int32_t{2}, "").put(int32_t{3}, "");
  raw.tensor("a", {4, 2}, 0, 0).tensor("b", {32}, 8, 32).pad(32);
  const size_t data = raw.bytes.size();
  for (int i = 0; i < 8; ++i) raw.put(static_cast<float>(i) / 2, "");
  raw.put(uint16_t{0x3c00}, "").data(32);

  const auto file = parse(raw);
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->alignment(), 32u);
  EXPECT_EQ(file->bytes(), raw.bytes.size());
  EXPECT_EQ(file->path(), "lie.gguf");
  EXPECT_EQ(file->text("general.architecture"), "llama");
  EXPECT_EQ(file->integer("llama.block_count"), 7);
  EXPECT_THAT(file->integers("llama.sizes"), ElementsAre(-1, 2, 3));
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_THAT(file->floats("a", 8), ElementsAre(0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f));
  const WeightMatrix a = file->matrix("a", 2, 4);
  EXPECT_EQ(a.data, raw.bytes.data() + data);
  EXPECT_EQ(a.cols, 4);
  const GgufTensor& b = file->tensor("b");
  EXPECT_EQ(b.dtype, DType::q8_0);
  EXPECT_EQ(b.data.size(), 34u);
  EXPECT_EQ(b.data.data(), raw.bytes.data() + data + 32);
  EXPECT_EQ(b.rows(), 1);
}

TEST(GgufReader, ReadsEveryTypeOfNumberAndRefusesTheWrongOne) {
  GgufBytes raw;
  raw.header(0, 12);
  raw.entry("u8", 0, uint8_t{200}).entry("i8", 1, int8_t{-100});
  raw.entry("u16", 2, uint16_t{60000}).entry("i16", 3, int16_t{-30000});
  raw.entry("u32", 4, uint32_t{4000000000}).entry("i32", 5, int32_t{-2000000000});
  raw.entry("f32", 6, 1.5f).entry("bool", 7, uint8_t{1});
  raw.entry("u64", 10, ~uint64_t{0}).entry("i64", 11, std::numeric_limits<int64_t>::min());
  raw.entry("f64", 12, 2.5).entry("nan", 6, std::numeric_limits<float>::quiet_NaN());
  const auto file = parse(raw);
  EXPECT_EQ(file->integer("u8"), 200);
  EXPECT_EQ(file->integer("i8"), -100);
  EXPECT_EQ(file->integer("u16"), 60000);
  EXPECT_EQ(file->integer("i16"), -30000);
  EXPECT_EQ(file->integer("u32"), 4000000000);
  EXPECT_EQ(file->integer("i32"), -2000000000);
  EXPECT_EQ(file->integer("i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file->number("f32"), 1.5);
  EXPECT_EQ(file->number("f64"), 2.5);
  EXPECT_EQ(file->number("i16"), -30000.0);
  EXPECT_EQ(file->number("u64"), 18446744073709551615.0);
  EXPECT_TRUE(file->boolean("bool", false));
  EXPECT_TRUE(file->boolean("absent", true));
  EXPECT_EQ(file->integer("absent", 5), 5);
  EXPECT_EQ(file->text("absent", "x"), "x");

  EXPECT_EQ(complaint([&] { file->integer("u64"); }),
            "lie.gguf: 'u64' is too large for a 64-bit integer");
  EXPECT_EQ(complaint([&] { file->integer("f32"); }),
            "lie.gguf: 'f32' is a number (f32), but must be an integer");
  EXPECT_EQ(complaint([&] { file->integer("f32", 1); }),
            "lie.gguf: 'f32' is a number (f32), but must be an integer");
  EXPECT_EQ(complaint([&] { file->number("nan"); }), "lie.gguf: 'nan' is not a finite number");
  EXPECT_EQ(complaint([&] { file->text("u8"); }),
            "lie.gguf: 'u8' is an unsigned byte (u8), but must be a string");
  EXPECT_EQ(complaint([&] { file->texts("u8"); }),
            "lie.gguf: 'u8' is an unsigned byte (u8), but must be an array of strings");
  EXPECT_EQ(complaint([&] { file->integer("absent"); }), "lie.gguf: the key 'absent' is missing");
}

TEST(GgufReader, RefusesATensorThatReachesPastTheEnd) {
  GgufBytes raw;
  raw.header(1, 0).tensor("w", {32, 4}, 0, 0).pad(32).data(32 * 4 * 4 - 1);
  EXPECT_EQ(refusal(raw),
            "lie.gguf: the tensor 'w' needs 512 bytes at offset 0, but the file has only 511 bytes "
            "of data; it is truncated");
}

TEST(GgufReader, RefusesWhatATensorMayNotSay) {
  const auto with = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    GgufBytes raw;
    raw.header(1, 0).tensor("w", dims, type, offset).pad(32).data(4096);
    return raw;
  };
  EXPECT_THAT(refusal(with({8}, 0, 4)), HasSubstr("not a multiple of the alignment 32"));
  EXPECT_THAT(refusal(with({8}, 0, ~uint64_t{31})), HasSubstr("truncated"));
  EXPECT_THAT(refusal(with({0}, 0, 0)), HasSubstr("dimension 0 of the tensor 'w' is 0"));
  EXPECT_THAT(refusal(with({}, 0, 0)), HasSubstr("has 0 dimensions"));
  EXPECT_THAT(refusal(with({1, 1, 1, 1, 1}, 0, 0)), HasSubstr("has 5 dimensions"));
  EXPECT_THAT(refusal(with({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0)),
              HasSubstr("too large for any file"));
  EXPECT_THAT(refusal(with({48}, 8, 0)), HasSubstr("not a multiple of the 32 of a Q8_0 block"));
  EXPECT_THAT(refusal(with({256}, 16, 0), Errc::unsupported),
              HasSubstr("has the format IQ2_XXS, which is not supported; supported are F32, F16"));
  EXPECT_THAT(refusal(with({256}, 4711, 0), Errc::unsupported), HasSubstr("number 4711"));
}

TEST(GgufReader, RefusesCountsThatTheFileCannotHold) {
  GgufBytes raw;
  raw.header(uint64_t{1} << 60, 0).data(64);
  EXPECT_THAT(refusal(raw), HasSubstr("promises 1152921504606846976 tensors"));
  GgufBytes entries;
  entries.header(0, uint64_t{1} << 60).data(64);
  EXPECT_THAT(refusal(entries), HasSubstr("promises 1152921504606846976 metadata entries"));
  for (const uint32_t element : {0u, 5u, 8u, 11u}) {
    GgufBytes array;
    array.header(0, 1).array("a", element, uint64_t{1} << 60).data(64);
    EXPECT_THAT(refusal(array), HasSubstr("'a' promises 1152921504606846976"));
  }
  GgufBytes key;
  key.header(0, 1).put(~uint64_t{0}, "key length").data(64);
  EXPECT_THAT(refusal(key), HasSubstr("the file ends inside the key of metadata entry 0"));
}

TEST(GgufReader, RefusesWhatIsNotThisKindOfFile) {
  GgufBytes text;
  text.raw("Once upon a time there was a file", "text");
  EXPECT_EQ(refusal(text), "lie.gguf: not a GGUF file: it does not begin with 'GGUF'");
  EXPECT_THAT(refusal(GgufBytes().header(0, 0, 1), Errc::unsupported), HasSubstr("version 1"));
  EXPECT_THAT(refusal(GgufBytes().header(0, 0, 4), Errc::unsupported), HasSubstr("version 4"));
  EXPECT_THAT(refusal(GgufBytes().header(0, 0, 0x03000000), Errc::unsupported),
              HasSubstr("big-endian"));
  EXPECT_THAT(refusal(GgufBytes()), HasSubstr("the file ends inside the header"));
}

TEST(GgufReader, RefusesNamesThatComeTwice) {
  GgufBytes keys;
  keys.header(0, 3).text("b", "1").text("a", "2").text("b", "3");
  EXPECT_EQ(refusal(keys), "lie.gguf: the key 'b' comes twice");
  GgufBytes tensors;
  tensors.header(2, 0).tensor("w", {8}, 0, 0).tensor("w", {8}, 0, 0).pad(32).data(64);
  EXPECT_EQ(refusal(tensors), "lie.gguf: the tensor 'w' comes twice");
}

TEST(GgufReader, RefusesNestedArraysOddBooleansAndOddAlignments) {
  GgufBytes nested;
  nested.header(0, 1).array("n", 9, 1).put(uint32_t{4}, "").put(uint64_t{0}, "");
  EXPECT_THAT(refusal(nested, Errc::unsupported), HasSubstr("an array of arrays"));
  EXPECT_THAT(refusal(GgufBytes().header(0, 1).entry("b", 7, uint8_t{2})),
              HasSubstr("neither 0 nor 1"));
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 0xffffffffu})
    EXPECT_THAT(refusal(GgufBytes().header(0, 1).entry("general.alignment", 4, alignment)),
                HasSubstr("power of two"));
  EXPECT_THAT(refusal(GgufBytes().header(0, 1).entry("k", 13, uint8_t{2})),
              HasSubstr("unknown type 13"));
}

TEST(GgufReader, ShowsHostileNamesWithoutControlCharactersAndShortened) {
  GgufBytes raw;
  const std::string name = "\x1b[2J\n" + std::string(200, 'x');
  raw.header(0, 2).text(name, "1").text(name, "2");
  const std::string sentence = refusal(raw);
  EXPECT_THAT(sentence, HasSubstr("'\\x1b[2J\\x0axxx"));
  EXPECT_LT(sentence.size(), 200u);
}

TEST(GgufReader, LaysTensorsOutByTheAlignmentOfTheFile) {
  GgufBytes raw;
  raw.header(1, 1).entry("general.alignment", 4, uint32_t{128}).tensor("w", {8}, 0, 128).pad(128);
  const size_t data = raw.bytes.size();
  raw.data(128 + 32);
  const auto file = parse(raw);
  EXPECT_EQ(file->alignment(), 128u);
  EXPECT_EQ(file->tensor("w").data.data(), raw.bytes.data() + data + 128);
}

TEST(GgufReader, NamesTheTensorThatDoesNotFitTheModel) {
  GgufBytes raw;
  raw.header(1, 0).tensor("w", {4, 2}, 0, 0).pad(32).data(32);
  const auto file = parse(raw);
  EXPECT_EQ(complaint([&] { file->matrix("w", 4, 4); }),
            "lie.gguf: the tensor 'w' has 2 rows of 4, but the model's metadata asks for 4 of 4");
  EXPECT_EQ(complaint([&] { file->floats("w", 9); }),
            "lie.gguf: the tensor 'w' has 8 elements, but the model's metadata asks for 9");
  EXPECT_EQ(complaint([&] { file->tensor("v"); }), "lie.gguf: the tensor 'v' is missing");
}

TEST(GgufReader, NamesTheFileThatCannotBeOpened) {
  const std::string path = fresh_path("absent.gguf");
  try {
    GgufFile::open(path);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::io);
    EXPECT_THAT(e.what(), HasSubstr(path));
  }
}

// Everything of one kind, written and read again.
TEST(GgufWriter, WritesWhatTheReaderReads) {
  const std::string path = fresh_path("round_trip.gguf");
  std::vector<float> weights(64 * 3);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i) / 7;
  const std::vector<std::byte> blocks(34 * 4, std::byte{5});
  const auto write = [&](GgufWriter& writer) {
    writer.set_text("general.architecture", "llama");
    writer.set_u32("u32", 1);
    writer.set_i32("i32", -1);
    writer.set_u64("u64", uint64_t{1} << 40);
    writer.set_f32("f32", 0.25f);
    writer.set_bool("bool", true);
    writer.set_texts("texts", std::vector<std::string>{"a", "", "\xe2\x96\x81the"});
    writer.set_i32s("i32s", std::vector<int32_t>{3, -4});
    writer.set_f32s("f32s", std::vector<float>{0.5f, -8});
    writer.set_f32s("none", {});
    writer.add_tensor("w", DType::f32, std::vector<int64_t>{64, 3});
    writer.add_tensor("q", DType::q8_0, std::vector<int64_t>{64, 2});
    writer.add_tensor("last", DType::f32, std::vector<int64_t>{1});
    writer.begin();
    const auto bytes = std::as_bytes(std::span(weights));
    writer.write_part(bytes.first(10));
    writer.write_part(bytes.subspan(10));
    writer.write_tensor(blocks);
    writer.write_tensor(bytes.first(4));
    writer.finish();
  };
  {
    GgufWriter writer(path);
    write(writer);
  }
  std::vector<std::byte> memory;
  {
    GgufWriter writer(memory);
    write(writer);
  }

  const auto file = GgufFile::open(path);
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->integer("u32"), 1);
  EXPECT_EQ(file->integer("i32"), -1);
  EXPECT_EQ(file->integer("u64"), int64_t{1} << 40);
  EXPECT_EQ(file->number("f32"), 0.25);
  EXPECT_TRUE(file->boolean("bool", false));
  EXPECT_THAT(file->texts("texts"), ElementsAre("a", "", "\xe2\x96\x81the"));
  EXPECT_THAT(file->integers("i32s"), ElementsAre(3, -4));
  EXPECT_THAT(file->numbers("f32s"), ElementsAre(0.5f, -8.0f));
  EXPECT_TRUE(file->numbers("none").empty());
  EXPECT_THAT(file->floats("w", 64 * 3), ::testing::ElementsAreArray(weights));
  const auto q = file->tensor("q").data;
  EXPECT_TRUE(std::equal(q.begin(), q.end(), blocks.begin(), blocks.end()));
  EXPECT_EQ(file->floats("last", 1)[0], 0);

  std::ifstream in(path, std::ios::binary);
  const std::string on_disk{std::istreambuf_iterator<char>(in), {}};
  ASSERT_EQ(on_disk.size(), memory.size());
  EXPECT_EQ(std::memcmp(on_disk.data(), memory.data(), memory.size()), 0);
  EXPECT_EQ(memory.size() % 32, 0u);
}

TEST(GgufWriter, CopiesTheMetadataOfAnotherFileButItsAlignment) {
  GgufBytes raw;
  raw.header(0, 4).entry("general.alignment", 4, uint32_t{128}).text("t", "x");
  raw.texts("tokens", {"a", "bc"}).entry("f", 12, 2.5);
  std::vector<std::byte> memory;
  const auto original = parse(raw);
  GgufWriter writer(memory);
  for (const GgufEntry& e : original->entries()) writer.copy(e);
  writer.begin();
  writer.finish();
  const auto copy = GgufFile::parse(memory, "copy.gguf");
  EXPECT_EQ(copy->alignment(), 32u);
  EXPECT_EQ(copy->text("t"), "x");
  EXPECT_THAT(copy->texts("tokens"), ElementsAre("a", "bc"));
  EXPECT_EQ(copy->number("f"), 2.5);
  EXPECT_EQ(copy->entries().size(), 3u);
}

TEST(GgufWriter, RefusesNamesThatComeTwice) {
  std::vector<std::byte> memory;
  GgufWriter writer(memory);
  writer.set_u32("k", 1);
  EXPECT_EQ(complaint([&] { writer.set_u32("k", 2); }),
            "(memory): the key 'k' would be written twice");
  writer.add_tensor("w", DType::f32, std::vector<int64_t>{1});
  EXPECT_EQ(complaint([&] { writer.add_tensor("w", DType::f32, std::vector<int64_t>{1}); }),
            "(memory): the tensor 'w' would be written twice");
}

TEST(GgufWriter, LeavesNoFileBehindUnlessItFinishes) {
  const std::string path = fresh_path("unfinished.gguf");
  {
    GgufWriter writer(path);
    writer.add_tensor("w", DType::f32, std::vector<int64_t>{8});
    writer.begin();
  }
  const auto folder = std::filesystem::path(path).parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    EXPECT_EQ(entry.path().filename().string().find("unfinished"), std::string::npos);
}

TEST(GgufReader, ReadsTheVocabulariesOfPublicModels) {
  const char* env = std::getenv("PITH_DATA");
  const std::filesystem::path folder =
      std::filesystem::path(env != nullptr ? env : PITH_TEST_DATA) / "llama-cpp-vocabs";
  if (!std::filesystem::exists(folder))
    GTEST_SKIP() << "no vocabulary files at " << folder << "; set PITH_DATA to where they are";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".gguf") continue;
    const auto file = GgufFile::open(entry.path());
    const auto tokens = file->texts("tokenizer.ggml.tokens");
    EXPECT_GT(tokens.size(), 30000u) << entry.path();
    EXPECT_EQ(file->integers("tokenizer.ggml.token_type").size(), tokens.size());
    for (size_t cut = 0; cut < file->bytes(); cut += file->bytes() / 7 + 1)
      EXPECT_FALSE(complaint([&] {
                     std::ifstream in(entry.path(), std::ios::binary);
                     std::vector<std::byte> part(cut);
                     in.read(reinterpret_cast<char*>(part.data()),
                             static_cast<std::streamsize>(cut));
                     GgufFile::parse(part, "cut");
                   }).empty());
    ++files;
  }
  EXPECT_GE(files, 2);
}

TEST(GgufReader, TellsATruncatedFileOnDiskFromAWholeOne) {
  GgufBytes raw;
  raw.header(1, 1).text("general.architecture", "llama").tensor("w", {8}, 0, 0).pad(32).data(32);
  const std::string path = fresh_path("whole.gguf");
  write_bytes(path, raw.bytes);
  EXPECT_EQ(GgufFile::open(path)->tensor("w").data.size(), 32u);
  write_bytes(path, std::span(raw.bytes).first(raw.bytes.size() - 1));
  EXPECT_THAT(complaint([&] { GgufFile::open(path); }), HasSubstr("truncated"));
}

}  // namespace
}  // namespace pith
