// Runs the tests of one program in a folder of its own, which is gone afterwards: programs that
// run at the same time, and tests of one program in several processes, write files of the same
// names.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <gmock/gmock.h>
#include <string>
#include <system_error>

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  std::string folder = testing::TempDir() + "pith-tests-XXXXXX";
  if (!mkdtemp(folder.data())) {
    std::perror(folder.c_str());
    return 1;
  }
  setenv("TEST_TMPDIR", (folder + "/").c_str(), 1);  // testing::TempDir() from here on
  const int result = RUN_ALL_TESTS();
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return result;
}
