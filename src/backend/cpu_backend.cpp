#include "backend/cpu_backend.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <sys/mman.h>

#include "backend/cpu_backend_impl.h"
#include "base/error.h"

namespace pith {
namespace {

// Anonymous memory of the system: zero, resident page by page as it is touched, and gone when
// freed, whatever the allocator of the process keeps.
class MappedBuffer final : public Buffer {
 public:
  explicit MappedBuffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
      throw Error(Errc::no_memory, "the system gives no " + std::to_string(bytes >> 20) +
                                       " MiB of memory (" + std::strerror(errno) +
                                       "); a shorter prompt or smaller tiles need less");
    data_ = data;
  }
  ~MappedBuffer() override {
    if (data_) munmap(data_, bytes_);
  }
  MappedBuffer(const MappedBuffer&) = delete;
  MappedBuffer& operator=(const MappedBuffer&) = delete;
  void* data() override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

void check_same(ConstMat x, ConstMat out) {
  PITH_CHECK(x.dim == out.dim, "rows that are worked on number by number have one shape");
}

}  // namespace

std::unique_ptr<Buffer> CpuBackend::allocate(size_t bytes) {
  return std::make_unique<MappedBuffer>(bytes);
}

void CpuBackend::reserve(size_t floats) {
  if (floats <= scratch_floats_) return;
  for (auto& memory : scratch_) memory = std::make_unique_for_overwrite<float[]>(floats);
  scratch_floats_ = floats;
}

size_t CpuBackend::scratch_bytes() const {
  const size_t lists = state_max_.capacity() + state_sum_.capacity() + turns_.cos.capacity() +
                       turns_.sin.capacity() + turns_.positions.capacity();
  return (scratch_.size() * scratch_floats_ + lists) * sizeof(float) + coded_bytes_;
}

void CpuBackend::gate(Gate gate, ConstMat x, ConstMat up, Mat out) {
  check_same(x, up);
  check_same(x, out);
  const auto f = gate == Gate::silu ? table_.silu_mul : table_.gelu_mul;
  split(x.dim[0], 2 * x.dim[1], [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      f(x.row(r).data(), up.row(r).data(), x.dim[1], out.row(r).data());
  });
}

void CpuBackend::gelu(ConstMat x, Mat out) {
  check_same(x, out);
  split(x.dim[0], 2 * x.dim[1], [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      table_.gelu(x.row(r).data(), x.dim[1], out.row(r).data());
  });
}

void CpuBackend::add(ConstMat x, Mat into) {
  check_same(x, into);
  split(x.dim[0], x.dim[1] / 2, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      table_.add(x.row(r).data(), x.dim[1], into.row(r).data());
  });
}

void CpuBackend::add_row(std::span<const float> bias, Mat into) {
  PITH_CHECK(static_cast<int64_t>(bias.size()) == into.dim[1], "a bias has a number per feature");
  split(into.dim[0], into.dim[1] / 2, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) table_.add(bias.data(), into.dim[1], into.row(r).data());
  });
}

void CpuBackend::clamp(float limit, Mat into) {
  split(into.dim[0], into.dim[1] / 2, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      for (float& x : into.row(r)) x = std::min(std::max(x, -limit), limit);
  });
}

void CpuBackend::softcap(float cap, Mat into) {
  split(into.dim[0], 3 * into.dim[1], [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) table_.softcap(into.row(r).data(), into.dim[1], cap);
  });
}

void CpuBackend::gather(ConstMat x, std::span<const int32_t> rows, Mat out) {
  PITH_CHECK(out.dim[0] == static_cast<int64_t>(rows.size()) && out.dim[1] == x.dim[1],
             "a gather writes one row per index");
  for (const int32_t r : rows) PITH_CHECK(r >= 0 && r < x.dim[0], "a gathered row exists");
  if (rows.empty()) return;
  const auto move = [&](int64_t r, int64_t first, int64_t last) {
    std::memmove(out.row(r).data() + first, x.row(rows[static_cast<size_t>(r)]).data() + first,
                 static_cast<size_t>(last - first) * sizeof(float));
  };
  const float* x_end = x.row(x.dim[0] - 1).data() + x.dim[1];
  const float* out_end = out.row(out.dim[0] - 1).data() + out.dim[1];
  if (out.data >= x_end || x.data >= out_end) {
    split(out.dim[0], x.dim[1] / 2, [&](int64_t first, int64_t last, int) {
      for (int64_t r = first; r < last; ++r) move(r, 0, x.dim[1]);
    });
    return;
  }
  // Rows move down in place, each after those below it: threads share the columns, not the rows.
  PITH_CHECK(out.data == x.data && out.stride == x.stride, "a gather overlaps only in place");
  PITH_CHECK(std::ranges::is_sorted(rows, std::ranges::less_equal{}),
             "a gather in place takes ascending rows");
  split(
      x.dim[1], out.dim[0] / 2,
      [&](int64_t first, int64_t last, int) {
        for (int64_t r = 0; r < out.dim[0]; ++r) move(r, first, last);
      },
      16);
}

std::unique_ptr<Backend> make_cpu_backend(int threads, MatmulForm matmul) {
  return std::make_unique<CpuBackend>(threads, matmul);
}

}  // namespace pith
