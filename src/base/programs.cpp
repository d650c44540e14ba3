#include "base/programs.h"

#include <filesystem>
#include <system_error>

namespace pith {

std::string program_beside(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path path = self.parent_path() / name;
  return !error && std::filesystem::exists(path, error) ? path.string() : "";
}

}  // namespace pith
