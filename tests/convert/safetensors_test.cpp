#include "convert/safetensors.h"

#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/hf_folder.h"

namespace pith::test {
namespace {

using ::testing::HasSubstr;

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// A file with this table, whatever it says, and as many data bytes.
std::string file_with(const std::string& table, size_t data_bytes) {
  const uint64_t size = table.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + table +
         std::string(data_bytes, '\1');
}

std::string refusal(const std::string& bytes) {
  const std::string path = fresh_folder() + "x.safetensors";
  write_file(path, bytes);
  try {
    open_safetensors(path);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::bad_file);
    EXPECT_THAT(e.what(), HasSubstr(path));
    return e.what();
  }
  return "it was accepted";
}

TEST(Safetensors, ReadsEveryFloatFormatAtUnalignedOffsets) {
  const std::string path = fresh_folder() + "x.safetensors";
  const uint16_t half[] = {0x3c00, 0xc000}, brain[] = {0x3f80, 0xc000};  // 1 and -2
  const double wide[] = {1, -2};
  const auto raw = [](const auto& a) {
    return std::string(reinterpret_cast<const char*>(a), sizeof a);
  };
  write_file(path, safetensors_bytes({{"odd", "U8", {1}, "x"},
                                      {"f32", "F32", {2}, bytes_of({1, -2})},
                                      {"f16", "F16", {2}, raw(half)},
                                      {"bf16", "BF16", {1, 2}, raw(brain)},
                                      {"f64", "F64", {2, 1}, raw(wide)},
                                      {"none", "F32", {0, 7}, ""}}));
  const SafeFile file = open_safetensors(path);
  ASSERT_EQ(file.tensors.size(), 6u);
  for (const char* name : {"f32", "f16", "bf16", "f64"}) {
    float got[2] = {};
    file.tensors.at(name).read(0, 2, got);
    EXPECT_EQ(got[0], 1) << name;
    EXPECT_EQ(got[1], -2) << name;
    file.tensors.at(name).read(1, 1, got);
    EXPECT_EQ(got[0], -2) << name;
  }
  EXPECT_EQ(file.tensors.at("bf16").shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(file.tensors.at("odd").type, SafeType::other);
  EXPECT_EQ(file.tensors.at("none").elements(), 0);
}

TEST(Safetensors, RefusesATableThatLiesAboutTheFile) {
  const auto table = [](const std::string& entry, size_t bytes = 8) {
    return refusal(file_with("{\"a\":{" + entry + "}}", bytes));
  };
  const std::string f32 = "\"dtype\":\"F32\",";
  EXPECT_THAT(refusal(""), HasSubstr("too short"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("too short"));
  EXPECT_THAT(refusal(std::string(8, '\xff')), HasSubstr("does not fit"));
  EXPECT_THAT(refusal(std::string("\x40\0\0\0\0\0\0\0{}", 10)), HasSubstr("does not fit"));
  EXPECT_THAT(refusal(file_with("[]", 0)), HasSubstr("not a JSON object"));
  EXPECT_THAT(refusal(file_with("{\"a\":", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(file_with("{\"a\":1}", 0)), HasSubstr("'a' is not an object"));
  EXPECT_THAT(table("\"shape\":[2],\"data_offsets\":[0,8]"), HasSubstr("'a.dtype' is missing"));
  EXPECT_THAT(table("\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]"), HasSubstr("'F31'"));
  EXPECT_THAT(table(f32 + "\"shape\":[-2],\"data_offsets\":[0,8]"), HasSubstr("'a.shape'"));
  EXPECT_THAT(table(f32 + "\"shape\":[1.5],\"data_offsets\":[0,8]"), HasSubstr("'a.shape'"));
  EXPECT_THAT(table(f32 + "\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]"),
              HasSubstr("'a.shape'"));
  EXPECT_THAT(table(f32 + "\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]"),
              HasSubstr("larger than any file"));
  EXPECT_THAT(table(f32 + "\"shape\":[2],\"data_offsets\":[0,12]"), HasSubstr("past the end"));
  EXPECT_THAT(table(f32 + "\"shape\":[2],\"data_offsets\":[8,0]"), HasSubstr("past the end"));
  EXPECT_THAT(table(f32 + "\"shape\":[2],\"data_offsets\":[0]"), HasSubstr("pair of offsets"));
  EXPECT_THAT(table(f32 + "\"shape\":[2],\"data_offsets\":[0,18446744073709551615]"),
              HasSubstr("past the end"));
  EXPECT_THAT(table(f32 + "\"shape\":[1],\"data_offsets\":[0,8]"),
              HasSubstr("8 bytes where the shape needs 4"));
  EXPECT_THAT(table(f32 + "\"shape\":[2],\"data_offsets\":[0,8]", 9),
              HasSubstr("bytes at its end"));
}

TEST(Safetensors, RefusesTensorsThatOverlapOrLeaveHolesOrShareAName) {
  const auto entry = [](const std::string& name, int begin, int end) {
    return "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
  };
  EXPECT_THAT(refusal(file_with("{" + entry("a", 0, 8) + "," + entry("b", 4, 12) + "}", 12)),
              HasSubstr("shares bytes"));
  EXPECT_THAT(refusal(file_with("{" + entry("a", 0, 8) + "," + entry("b", 12, 20) + "}", 20)),
              HasSubstr("belong to no tensor"));
  EXPECT_THAT(refusal(file_with("{" + entry("a", 0, 8) + "," + entry("a", 8, 16) + "}", 16)),
              HasSubstr("'a' appears twice"));
}

TEST(Safetensors, RefusesDeepNestingBeforeItCostsMemory) {
  EXPECT_THAT(refusal(file_with("{\"a\":" + std::string(1 << 20, '['), 0)),
              HasSubstr("levels deep"));
}

TEST(Safetensors, RefusesTwoFilesOfAFolderThatHoldTheSameTensor) {
  const std::string folder = fresh_folder();
  const std::string bytes = safetensors_bytes({{"a", "F32", {1}, "1234"}});
  write_file(folder + "one.safetensors", bytes);
  write_file(folder + "two.safetensors", bytes);
  try {
    SafeFolder both(folder);
    ADD_FAILURE() << "one of them was taken";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("two.safetensors: tensor 'a' is in another file"));
  }
}

}  // namespace
}  // namespace pith::test
