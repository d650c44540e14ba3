#include "apps/process_memory.h"

#include <fstream>
#include <string>

namespace pith {
namespace {

// A line of /proc/self/status, in bytes: "VmHWM:   1234 kB".
size_t status_bytes(const std::string& wanted) {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    size_t kib = 0;
    if (key == wanted && status >> kib) return kib * 1024;
    status.ignore(4096, '\n');
  }
  return 0;
}

}  // namespace

size_t resident_bytes() {
  return status_bytes("VmRSS:");
}
size_t peak_resident_bytes() {
  return status_bytes("VmHWM:");
}
void reset_peak_resident() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

}  // namespace pith
