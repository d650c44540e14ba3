// libFuzzer target: any bytes are refused with an Error or read without harm. Build with clang and
// -DPITH_FUZZ=ON, run as `gguf_fuzz -max_len=4096 corpus/`.
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "gguf/gguf.h"
#include "tensor/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* from = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> bytes(from, from + size);
  const auto attempt = [](const auto& call) {
    try {
      call();
    } catch (const pith::Error&) {
      return;
    }
  };
  attempt([&] {
    const auto file = pith::GgufFile::parse(bytes, "fuzz.gguf");
    for (const pith::GgufEntry& entry : file->entries()) {
      attempt([&] { file->number(entry.key); });
      attempt([&] { file->integer(entry.key); });
      attempt([&] { file->text(entry.key); });
      attempt([&] { file->texts(entry.key); });
      attempt([&] { file->integers(entry.key); });
      attempt([&] { file->numbers(entry.key); });
    }
    std::vector<float> row;
    for (const pith::GgufTensor& tensor : file->tensors()) {
      row.resize(static_cast<size_t>(tensor.dims[0]));
      pith::decode_row(tensor.dtype, tensor.data.data(), tensor.dims[0], row.data());
    }
  });
  return 0;
}
