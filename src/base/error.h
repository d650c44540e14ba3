// Errors a user can cause become pith::Error; errors a programmer causes end the process.
#pragma once

#include <stdexcept>
#include <string>

namespace pith {

enum class Errc {
  bad_file,     // truncated, wrong magic, missing tensor
  unsupported,  // a valid request this build or model cannot serve
  bad_option,   // a method spec or command line that does not parse
  bad_request,  // a malformed API request, a prompt that does not fit
  io,           // the system refused to read or write: no such file, disk full
  no_memory,    // a limit the user set is too small for what was asked
  interrupted,  // Ctrl-C
};

class Error : public std::runtime_error {
 public:
  Error(Errc code, const std::string& what) : std::runtime_error(what), code_(code) {}
  Errc code() const noexcept { return code_; }

 private:
  Errc code_;
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const char* why) noexcept;

}  // namespace pith

// A broken invariant of ours. Never triggered by input; `why` says what went wrong.
#define PITH_CHECK(condition, why) \
  ((condition) ? void() : ::pith::check_failed(#condition, __FILE__, __LINE__, why))
