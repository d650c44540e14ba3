// The tasks, one function each; tasks.h says what a sample is.
#pragma once

#include "train/tasks.h"

namespace pith {

Sample make_text(const TaskSource& source, Random& random, int length);
Sample make_copy(const TaskSource& source, Random& random, int length);
Sample make_repeat(const TaskSource& source, Random& random, int length);
Sample make_needles(const TaskSource& source, Random& random, int length);
Sample make_passkey(const TaskSource& source, Random& random, int length);
Sample make_pairs(const TaskSource& source, Random& random, int length);
Sample make_lines(const TaskSource& source, Random& random, int length);
Sample make_variables(const TaskSource& source, Random& random, int length);
Sample make_frequent(const TaskSource& source, Random& random, int length);
Sample make_hops(const TaskSource& source, Random& random, int length);
Sample make_prose(const TaskSource& source, Random& random, int length);

}  // namespace pith
