// Strings of vocabularies that more than one part of the room knows.
#pragma once

#include <string_view>

namespace pith {

inline constexpr std::string_view kMarkedBlank = "\xe2\x96\x81";  // U+2581, stands for a blank

inline constexpr std::string_view kDeepSeekEnd =
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";

}  // namespace pith
