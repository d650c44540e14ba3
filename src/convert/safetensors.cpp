#include "convert/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "convert/json_file.h"
#include "gguf/names.h"
#include "tensor/half.h"

namespace pith {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kHeaderLimit = 100'000'000;  // the format's own limit
constexpr size_t kDims = 8;

struct TypeTraits {
  std::string_view name;
  SafeType type;
  uint64_t bytes;
};
constexpr TypeTraits kTypes[] = {
    {"F64", SafeType::f64, 8},       {"F32", SafeType::f32, 4},
    {"F16", SafeType::f16, 2},       {"BF16", SafeType::bf16, 2},
    {"I64", SafeType::other, 8},     {"U64", SafeType::other, 8},
    {"C64", SafeType::other, 8},     {"I32", SafeType::other, 4},
    {"U32", SafeType::other, 4},     {"I16", SafeType::other, 2},
    {"U16", SafeType::other, 2},     {"I8", SafeType::other, 1},
    {"U8", SafeType::other, 1},      {"BOOL", SafeType::other, 1},
    {"F8_E4M3", SafeType::other, 1}, {"F8_E5M2", SafeType::other, 1},
    {"F8_E8M0", SafeType::other, 1},
};

// Reads one table entry into `t`; `bytes` are all the file's tensor bytes.
void read_entry(const JsonView& entry, std::span<const std::byte> bytes, SafeTensor& t) {
  t.type_name = entry.text("dtype");
  const auto* type = std::ranges::find(kTypes, t.type_name, &TypeTraits::name);
  if (type == std::end(kTypes))
    entry.fail("dtype", "is " + shown_name(t.type_name) + ", which is unknown");
  t.type = type->type;

  const nlohmann::json& shape = entry.at("shape");
  if (!shape.is_array() || shape.size() > kDims) entry.fail("shape", "is not a short array");
  uint64_t size = type->bytes;
  for (const nlohmann::json& d : shape) {
    if (!d.is_number_unsigned()) entry.fail("shape", "holds something that is not a size");
    const uint64_t length = d.get<uint64_t>();
    // Zero-sized tensors are legal, and their other dimensions must not overflow either.
    if (length > (uint64_t{1} << 48) || (length > 0 && size > (uint64_t{1} << 62) / length))
      entry.fail("shape", "is larger than any file");
    size *= length;
    t.shape.push_back(static_cast<int64_t>(length));
  }

  const nlohmann::json& offsets = entry.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    entry.fail("data_offsets", "is not a pair of offsets");
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > bytes.size())
    entry.fail("data_offsets", "reaches past the end; the file is damaged or cut short");
  if (end - begin != size)
    entry.fail("data_offsets", "spans " + std::to_string(end - begin) +
                                   " bytes where the shape needs " + std::to_string(size));
  t.data = bytes.subspan(begin, size);
}

void refuse_overlap_and_holes(const SafeFile& file, std::span<const std::byte> bytes) {
  std::vector<const SafeTensor*> order;
  for (const auto& [name, tensor] : file.tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const SafeTensor* t) {
    return std::pair(t->data.data(), t->data.data() + t->data.size());
  });
  const std::byte* reached = bytes.data();
  for (const SafeTensor* t : order) {
    if (t->data.data() < reached)
      throw Error(Errc::bad_file, t->origin + " shares bytes with another tensor");
    if (t->data.data() > reached)
      throw Error(Errc::bad_file, t->origin + " lies behind bytes that belong to no tensor");
    reached = t->data.data() + t->data.size();
  }
  if (reached != bytes.data() + bytes.size())
    throw Error(Errc::bad_file,
                file.file->path() + ": has bytes at its end that belong to no tensor");
}

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace

int64_t SafeTensor::elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

void SafeTensor::read(int64_t first, int64_t count, float* out) const {
  const std::byte* from = data.data();
  const auto at = [&](int64_t i, size_t bytes) { return from + static_cast<size_t>(i) * bytes; };
  for (int64_t i = 0; i < count; ++i) switch (type) {
      case SafeType::f64:
        out[i] = static_cast<float>(load<double>(at(first + i, 8)));
        break;
      case SafeType::f32:
        out[i] = load<float>(at(first + i, 4));
        break;
      case SafeType::f16:
        out[i] = half_to_float(load<uint16_t>(at(first + i, 2)));
        break;
      case SafeType::bf16:
        out[i] = bf16_to_float(load<uint16_t>(at(first + i, 2)));
        break;
      case SafeType::other:
        PITH_CHECK(false, "only tensors of floats are read");
    }
}

SafeFile open_safetensors(const std::string& path) {
  SafeFile out;
  out.file = std::make_shared<MappedFile>(path);
  const std::span<const std::byte> all = out.file->bytes();
  if (all.size() < 8) throw Error(Errc::bad_file, path + ": is too short for a safetensors file");
  const auto header = load<uint64_t>(all.data());
  if (header > kHeaderLimit || header > all.size() - 8)
    throw Error(Errc::bad_file,
                path + ": its table of " + std::to_string(header) +
                    " bytes does not fit; this is no safetensors file, or it is cut short");
  const std::span<const std::byte> bytes = all.subspan(8 + header);
  const JsonView table = JsonView::parse(all.subspan(8, header), path);
  for (const auto& [name, entry] : table.value().items()) {
    if (name == "__metadata__") continue;
    SafeTensor t;
    t.origin = path + ": tensor " + shown_name(name);
    read_entry(table.element(entry, name), bytes, t);
    out.tensors.emplace(name, std::move(t));
  }
  refuse_overlap_and_holes(out, bytes);
  return out;
}

SafeFolder::SafeFolder(const std::string& folder) : path_(folder) {
  const fs::path base(folder);
  const fs::path index = base / "model.safetensors.index.json", whole = base / "model.safetensors";
  std::error_code ignored;
  std::vector<fs::path> files;
  if (fs::exists(whole, ignored)) {
    files.push_back(whole);
  } else if (fs::exists(index, ignored)) {
    read_index(index.string());
    return;
  } else {
    for (const fs::directory_entry& entry : fs::directory_iterator(base, ignored))
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    std::ranges::sort(files);
  }
  if (files.empty())
    throw Error(Errc::bad_file,
                folder + ": has no *.safetensors; other weight files cannot be read");
  for (const fs::path& file : files) add(open_safetensors(file.string()), file.string());
}

void SafeFolder::add(SafeFile&& file, const std::string& path) {
  files_.push_back(std::move(file.file));
  for (auto& [name, tensor] : file.tensors)
    if (!tensors_.emplace(name, std::move(tensor)).second)
      throw Error(Errc::bad_file,
                  path + ": tensor " + shown_name(name) + " is in another file of the folder too");
}

void SafeFolder::read_index(const std::string& path) {
  const JsonView index = JsonView::read(path);
  const JsonView names = index.object("weight_map");
  std::map<std::string, SafeFile> shards;
  for (const auto& [name, value] : names.value().items()) {
    const std::string shard = names.text(name);
    if (shard.empty() || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos)
      names.fail(name, "is not the name of a file in the folder");
    auto it = shards.find(shard);
    if (it == shards.end()) {
      it = shards.emplace(shard, open_safetensors((fs::path(path_) / shard).string())).first;
      files_.push_back(it->second.file);
    }
    const auto tensor = it->second.tensors.find(name);
    if (tensor == it->second.tensors.end())
      names.fail(name, "is not in " + shown_name(shard) + ", where the index says it is");
    tensors_.emplace(name, tensor->second);
  }
}

const SafeTensor* SafeFolder::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace pith
