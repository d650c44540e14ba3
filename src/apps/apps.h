// The command line: `pith <command>`.
#pragma once

namespace pith {

// Exit codes: 0 success; 1 an error of the machine's or a file's, told in one sentence on stderr;
// 2 a command line or a method spec that does not parse; 130 interrupted.
int run_command_line(int argc, char** argv);

}  // namespace pith
