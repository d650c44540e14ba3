// Ctrl-C. The first asks the work to stop: what is finished is kept and shown, and the process
// ends with 130. The second removes files that are not complete and ends the process at once.
// SIGTERM and SIGHUP count as Ctrl-C.
#pragma once

namespace pith {

void catch_interrupts();           // installs the handlers; more than one call is harmless
bool interrupted() noexcept;       // since the start or the last forget_interrupt
void forget_interrupt() noexcept;  // a chat answer was stopped; the chat goes on
[[noreturn]] void stop_now();      // throws Errc::interrupted

}  // namespace pith
