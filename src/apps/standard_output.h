// What commands print, and what happens if nobody can take it.
#pragma once

#include <string>
#include <string_view>

namespace pith {

// What is still buffered must reach the file or pipe, or the user must hear about it: Errc::io.
void flush_output();
void show_text(std::string_view text);  // prints and flushes
std::string output_refusal();           // the sentence, after a failure

}  // namespace pith
