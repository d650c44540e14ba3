#include "apps/text_input.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <unistd.h>

#include "apps/stop.h"
#include "base/error.h"

namespace pith {

void declare_text(Arguments& arguments, TextArguments& text, std::string_view what) {
  const std::string name(what);
  Argument& prompt = arguments.option("-p,--prompt", text.prompt, "TEXT", "the " + name);
  prompt.store = [&text](const std::string& value) {
    text.prompt = value;
    text.given_prompt = true;
  };
  arguments
      .option("-f,--file", text.file, "FILE",
              "a file with the " + name + "; '-' or neither: standard input")
      .completes(Complete::file);
  arguments.flag("-e,--escape", text.escapes,
                 "\\n, \\t, \\xNN and \\\\ in -p mean what they mean in C");
}

std::string read_text(const TextArguments& text, std::string_view what) {
  if (text.given_prompt && !text.file.empty())
    throw Error(Errc::bad_option,
                "-p and -f are both given; which one is the " + std::string(what) + "?");
  if (text.given_prompt) return text.escapes ? unescape(text.prompt) : text.prompt;
  if (!text.file.empty()) return read_file(text.file);
  if (isatty(STDIN_FILENO) == 1)
    throw Error(Errc::bad_option,
                "there is no " + std::string(what) + "; give -p TEXT or -f FILE, or pipe it in");
  return read_file("-");
}

std::string read_file(const std::string& path) {
  const bool standard = path == "-";
  std::FILE* file = standard ? stdin : std::fopen(path.c_str(), "rb");
  const auto fail = [&] {
    return Error(Errc::io,
                 (standard ? "standard input" : path) + ": cannot read: " + std::strerror(errno));
  };
  if (file == nullptr) throw fail();
  std::string text;
  char part[1 << 16];
  size_t count = 0;
  while ((count = std::fread(part, 1, sizeof part, file)) > 0) text.append(part, count);
  const bool broken = std::ferror(file) != 0;
  const int reason = errno;
  if (!standard) std::fclose(file);
  if (interrupted()) stop_now();
  errno = reason;
  if (broken) throw fail();
  return text;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    unsigned byte = 0;
    switch (c) {
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case 'r':
        out += '\r';
        break;
      case '"':
        out += '"';
        break;
      case '\\':
        out += '\\';
        break;
      case 'x': {
        const char* const first = text.data() + i + 1;
        const char* const last = first + std::min<size_t>(2, text.size() - i - 1);
        const auto [stop, error] = std::from_chars(first, last, byte, 16);
        if (error != std::errc()) {
          out += "\\x";
          break;
        }
        out += static_cast<char>(byte);
        i += static_cast<size_t>(stop - first);
        break;
      }
      default:
        out += '\\';
        out += c;
    }
  }
  return out;
}

}  // namespace pith
