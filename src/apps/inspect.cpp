// pith inspect: what a GGUF file says about itself.
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>

#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/table.h"
#include "apps/units.h"
#include "gguf/gguf.h"
#include "gguf/names.h"

namespace pith {
namespace {

struct InspectOptions {
  std::string file;
  std::string format = "md";
  bool metadata_only = false, tensors_only = false, whole_arrays = false;
};

constexpr uint64_t kShownElements = 6;
constexpr size_t kShownText = 120;  // bytes of a string in the table

const char* type_name(GgufType type) {
  switch (type) {
    case GgufType::u8:
      return "u8";
    case GgufType::i8:
      return "i8";
    case GgufType::u16:
      return "u16";
    case GgufType::i16:
      return "i16";
    case GgufType::u32:
      return "u32";
    case GgufType::i32:
      return "i32";
    case GgufType::f32:
      return "f32";
    case GgufType::boolean:
      return "bool";
    case GgufType::string:
      return "string";
    case GgufType::array:
      return "array";
    case GgufType::u64:
      return "u64";
    case GgufType::i64:
      return "i64";
    case GgufType::f64:
      return "f64";
  }
  return "?";
}

std::string type_text(const GgufEntry& entry) {
  if (entry.type != GgufType::array) return type_name(entry.type);
  return std::string(type_name(entry.element)) + "[" + count_text(entry.count) + "]";
}

template <class T>
T take(std::span<const std::byte>& raw) {
  T value;
  std::memcpy(&value, raw.data(), sizeof value);
  raw = raw.subspan(sizeof value);
  return value;
}

// Calls `each` with the next element as the type it has. The reader has checked all sizes.
template <class Each>
void take_element(GgufType type, std::span<const std::byte>& raw, Each&& each) {
  switch (type) {
    case GgufType::u8:
      return each(static_cast<uint64_t>(take<uint8_t>(raw)));
    case GgufType::i8:
      return each(static_cast<int64_t>(take<int8_t>(raw)));
    case GgufType::u16:
      return each(static_cast<uint64_t>(take<uint16_t>(raw)));
    case GgufType::i16:
      return each(static_cast<int64_t>(take<int16_t>(raw)));
    case GgufType::u32:
      return each(static_cast<uint64_t>(take<uint32_t>(raw)));
    case GgufType::i32:
      return each(static_cast<int64_t>(take<int32_t>(raw)));
    case GgufType::u64:
      return each(take<uint64_t>(raw));
    case GgufType::i64:
      return each(take<int64_t>(raw));
    case GgufType::f32:
      return each(take<float>(raw));
    case GgufType::f64:
      return each(take<double>(raw));
    case GgufType::boolean:
      return each(take<uint8_t>(raw) != 0);
    case GgufType::string: {
      const auto length = static_cast<size_t>(take<uint64_t>(raw));
      const std::string_view text(reinterpret_cast<const char*>(raw.data()), length);
      raw = raw.subspan(length);
      return each(text);
    }
    case GgufType::array:
      return;
  }
}

// Arrays longer than a glance are shortened unless `whole`.
void write_entry(JsonWriter& json, const GgufEntry& entry, bool whole) {
  std::span<const std::byte> raw = entry.raw;
  const auto write = [&](const auto& value) { json.value(value); };
  if (entry.type != GgufType::array) return take_element(entry.type, raw, write);
  const bool shortened = !whole && entry.count > kShownElements;
  if (shortened)
    json.object()
        .key("element")
        .value(type_name(entry.element))
        .key("count")
        .value(entry.count)
        .key("first");
  json.array();
  for (uint64_t i = 0; i < (shortened ? kShownElements : entry.count); ++i)
    take_element(entry.element, raw, write);
  json.end();
  if (shortened) json.end();
}

// A name from the file for the terminal: control characters cannot steer it.
std::string plain_name(std::string_view name) {
  const std::string shown = shown_name(name);
  return shown.substr(1, shown.size() - 2);
}

std::string one_line(std::string text, bool whole) {
  if (!whole && text.size() > kShownText) {
    size_t end = kShownText;
    while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not within a character
    text = text.substr(0, end) + "... (" + count_text(text.size()) + " bytes)";
  }
  return text;
}

std::string value_text(const GgufEntry& entry, bool whole) {
  std::span<const std::byte> raw = entry.raw;
  std::string out;
  const auto write = [&](const auto& value) {
    if (!out.empty()) out += ", ";
    out += one_line(JsonWriter(0).value(value).text(), whole);
  };
  if (entry.type != GgufType::array) {
    take_element(entry.type, raw, write);
    return out;
  }
  const uint64_t shown = whole ? entry.count : std::min(entry.count, kShownElements);
  for (uint64_t i = 0; i < shown; ++i) take_element(entry.element, raw, write);
  return "[" + out + (shown < entry.count ? ", ..." : "") + "]";
}

std::string shape_text(const GgufTensor& tensor) {
  std::string text;
  for (const int64_t dim : tensor.dims) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return text;
}

Table metadata_table(const GgufFile& file, bool whole) {
  Table table({{"key", "key", false}, {"type", "type", false}, {"value", "value", false}});
  for (const GgufEntry& entry : file.entries())
    table.add({plain_name(entry.key), type_text(entry), value_text(entry, whole)});
  return table;
}

Table tensor_table(const GgufFile& file) {
  Table table({{"tensor", "tensor", false},
               {"type", "type", false},
               {"shape", "shape", false},
               {"bytes", "size", true}});
  for (const GgufTensor& tensor : file.tensors())
    table.add({plain_name(tensor.name),
               std::string(traits(tensor.dtype).name),
               shape_text(tensor),
               {bytes_text(tensor.data.size()), std::to_string(tensor.data.size())}});
  return table;
}

struct Total {
  int64_t tensors = 0, weights = 0;
  uint64_t bytes = 0;
};

std::map<std::string, Total> totals(const GgufFile& file) {
  std::map<std::string, Total> by_type;
  for (const GgufTensor& tensor : file.tensors()) {
    Total& total = by_type[std::string(traits(tensor.dtype).name)];
    ++total.tensors;
    total.weights += tensor.elements();
    total.bytes += tensor.data.size();
  }
  return by_type;
}

std::string headline(const GgufFile& file) {
  uint64_t weights = 0;
  std::string types;
  for (const auto& [type, total] : totals(file)) {
    weights += static_cast<uint64_t>(total.weights);
    types += (types.empty() ? " (" : ", ") + type + " " + bytes_text(total.bytes) + " in " +
             std::to_string(total.tensors);
  }
  return file.path() + ": GGUF v" + std::to_string(file.version()) + ", " +
         bytes_text(file.bytes()) + ", " + count_text(file.entries().size()) +
         " metadata entries, " + count_text(file.tensors().size()) + " tensors, " +
         count_text(weights) + " weights" + (types.empty() ? "" : types + ")") + "\n";
}

std::string json_text(const GgufFile& file, const InspectOptions& options) {
  JsonWriter json;
  json.object().key("file").value(file.path()).key("version").value(file.version());
  json.key("alignment").value(file.alignment()).key("bytes").value(file.bytes());
  if (!options.tensors_only) {
    json.key("metadata").object();
    for (const GgufEntry& entry : file.entries()) {
      json.key(entry.key);
      write_entry(json, entry, options.whole_arrays);
    }
    json.end();
  }
  if (!options.metadata_only) {
    json.key("tensors").array();
    for (const GgufTensor& tensor : file.tensors()) {
      json.object().key("name").value(tensor.name);
      json.key("type").value(traits(tensor.dtype).name).key("shape").array();
      for (const int64_t dim : tensor.dims) json.value(dim);
      json.end().key("bytes").value(tensor.data.size()).end();
    }
    json.end();
  }
  return json.end().text();
}

int inspect(const InspectOptions& options) {
  const std::shared_ptr<const GgufFile> file = GgufFile::open(options.file);
  if (options.format == "json") {
    std::fputs(json_text(*file, options).c_str(), stdout);
    return 0;
  }
  if (options.format == "csv") {
    (options.metadata_only ? metadata_table(*file, options.whole_arrays) : tensor_table(*file))
        .print(stdout, "csv");
    return 0;
  }
  std::fputs(headline(*file).c_str(), stdout);
  if (!options.tensors_only) {
    std::fputc('\n', stdout);
    metadata_table(*file, options.whole_arrays).print(stdout, "md");
  }
  if (!options.metadata_only && !file->tensors().empty()) {
    std::fputc('\n', stdout);
    tensor_table(*file).print(stdout, "md");
  }
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<InspectOptions>();
  arguments.operand("FILE", options->file, "a GGUF file: a model, an adapter or a calibration")
      .required()
      .completes(Complete::file);
  arguments.flag("--metadata", options->metadata_only, "only the metadata");
  arguments.flag("--tensors", options->tensors_only, "only the tensors");
  arguments.flag("--whole", options->whole_arrays, "arrays and long texts to their end");
  arguments.format(options->format);
  return [options] { return inspect(*options); };
}

}  // namespace

const Command kInspectCommand = {
    "inspect",
    "show the metadata and tensors of a GGUF file",
    "Shapes are written as GGUF stores them: the first number is the row length. Arrays are cut "
    "after six elements unless --whole is given; as CSV, the tensors are written, or the metadata "
    "with --metadata.",
    "$ pith inspect model.gguf\n"
    "$ pith inspect model.gguf --json | jq .metadata",
    setup,
};

}  // namespace pith
