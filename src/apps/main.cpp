#include "apps/apps.h"

namespace pith {

int run_command_line(int, char**) { return 0; }

}  // namespace pith
