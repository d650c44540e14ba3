// Quantities as people read and write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pith {

std::string bytes_text(uint64_t bytes);     // "512 B", "1.5 KiB", "12.3 MiB", "2.0 GiB"
std::string duration_text(double seconds);  // "0.35 s", "12.4 s", "3:07", "1:02:03"
std::string count_text(uint64_t count);     // "32,768"
std::string fixed_text(double value, int decimals);

// "1000000", "512MiB", "2GiB", "1.5 GB", "64k": KiB, MiB, GiB and K, M, G are powers of 1024;
// KB, MB and GB are powers of 1000. Nothing if the text is not that.
std::optional<uint64_t> parse_bytes(std::string_view text);

}  // namespace pith
