// Learning on several threads of a CPU: each works on whole parts with one thread of libtorch,
// since products of this size cost more to share out than they bring.
#pragma once

#include <functional>

namespace pith {

// One thread for every product of the calling thread, OpenBLAS's own included.
void use_one_thread_per_product();

// Calls work(part, worker) for all parts: part i by worker i mod workers, a worker's parts in
// order, every worker in a thread of its own. Throws what the first of them threw.
void share_out(int parts, int workers, const std::function<void(int part, int worker)>& work);

}  // namespace pith
