// What the system says this process holds.
#pragma once

#include <cstddef>

namespace pith {

size_t resident_bytes();       // now
size_t peak_resident_bytes();  // since the last reset, or the start
void reset_peak_resident();    // where the system allows it

}  // namespace pith
