// The command line: `pith <command>`. One file per command; each adds itself to the parser.
#pragma once

namespace pith {

// Exit codes: 0 success; 1 an error of the user's or a file's, told in one sentence on stderr;
// 2 a command line that does not parse; 130 interrupted.
int run_command_line(int argc, char** argv);

}  // namespace pith
