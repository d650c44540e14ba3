// Words for messages about GGUF files. Names from a file are shown shortened and without control
// characters, so that a hostile file cannot fill the terminal or steer it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gguf/gguf.h"

namespace pith {

std::string shown_name(std::string_view name);        // 'llama.block_count'
std::string type_words(const GgufEntry& entry);       // "a string", "an array of 3 integers (i32)"
std::string foreign_format_name(uint32_t gguf_type);  // "IQ2_XXS", "number 77"
std::string supported_format_names();                 // "F32, F16, ..."

}  // namespace pith
