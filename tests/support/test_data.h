// Test data that is not part of the repository: models, vocabularies and texts of ../shared/data.
// A test that needs some skips itself visibly where it is absent:
//
//   PITH_NEEDS_DATA("stories260k/golden.json");
#pragma once

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <string>

namespace pith::test {

// $PITH_DATA, or the folder the build was configured with.
inline std::string data_path(const std::string& name) {
  const char* folder = std::getenv("PITH_DATA");
  return std::string(folder ? folder : PITH_TEST_DATA) + "/" + name;
}

inline bool has_data(const std::string& name) {
  return std::filesystem::exists(data_path(name));
}

}  // namespace pith::test

#define PITH_NEEDS_DATA(name)                                             \
  if (!::pith::test::has_data(name))                                      \
  GTEST_SKIP() << "needs the test data " << ::pith::test::data_path(name) \
               << "; set PITH_DATA to its folder"
