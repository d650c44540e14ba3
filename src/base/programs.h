// The programs that are built and installed together.
#pragma once

#include <string>

namespace pith {

// Where another program lies, in the folder of the one that runs; empty if it is not there.
std::string program_beside(const std::string& name);

}  // namespace pith
