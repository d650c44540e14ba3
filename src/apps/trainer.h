// pith-train, a program of its own because it needs libtorch and nothing else does.
#pragma once

#include <string>
#include <vector>

namespace pith {

// Becomes pith-train with these arguments. Throws unsupported, saying what to install, where it
// does not lie beside this program.
[[noreturn]] void become_trainer(const std::vector<std::string>& words);

}  // namespace pith
