// The backend that is always there: splits work over threads and calls the active kernel table.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace pith {

std::unique_ptr<Backend> make_cpu_backend(int threads);  // 0: one per core

}  // namespace pith
