#include "train/workers.h"

#include <ATen/Parallel.h>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <thread>
#include <vector>

namespace pith {

void use_one_thread_per_product() {
  at::set_num_threads(1);
  // OpenBLAS counts its own threads, where it is the BLAS in use.
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads")) {
    void (*set_threads)(int) = nullptr;
    std::memcpy(&set_threads, &symbol, sizeof set_threads);
    set_threads(1);
  }
}

void share_out(int parts, int workers, const std::function<void(int part, int worker)>& work) {
  std::vector<std::exception_ptr> failures(static_cast<size_t>(workers));
  const auto take = [&](int worker) {
    try {
      use_one_thread_per_product();
      for (int part = worker; part < parts; part += workers) work(part, worker);
    } catch (...) {
      failures[static_cast<size_t>(worker)] = std::current_exception();
    }
  };
  if (workers == 1) {
    take(0);
  } else {
    std::vector<std::thread> threads;
    for (int worker = 0; worker < workers; ++worker) threads.emplace_back(take, worker);
    for (std::thread& thread : threads) thread.join();
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace pith
