// pith methods: what there is to write behind --kv.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "apps/help.h"
#include "apps/json_writer.h"
#include "apps/table.h"
#include "base/error.h"
#include "policy/describe.h"

namespace pith {
namespace {

struct MethodsOptions {
  std::string name, format = "md";
  bool markdown = false;
};

constexpr size_t kWidth = 96;
constexpr size_t kDocColumn = 30;

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::string option_line(const OptionDoc& option) {
  std::string line = "  " + option.key + "=" + option.type;
  if (line.size() + 2 > kDocColumn)
    line += "\n" + std::string(kDocColumn, ' ');
  else
    line.resize(kDocColumn, ' ');
  const std::string fallback = option.fallback.empty() ? "" : " (default " + option.fallback + ")";
  return line + wrap(option.doc + fallback, kWidth, kDocColumn, true);
}

const Method& find_or_refuse(const std::string& name) {
  if (const Method* method = find_method(name)) return *method;
  std::vector<std::string> names;
  for (const Method& method : methods()) names.emplace_back(method.name);
  const std::string near = closest(name, names);
  throw Error(Errc::bad_option,
              "methods: no method '" + name + "'; " +
                  (near.empty() ? "there are " + joined(names) : "did you mean '" + near + "'?"));
}

std::string explanation(const MethodHelp& help) {
  const Method& method = *help.method;
  std::string out = std::string(method.name) + ": " + std::string(method.summary) + "\n\n";
  out += "Source   " + std::string(method.source) + "\n";
  if (!help.roles.empty()) out += "Roles    " + joined(help.roles) + "\n";
  if (!method.cost.empty()) out += "Cost     " + wrap(method.cost, kWidth, 9, true);
  if (!help.options.empty()) out += "\nOptions\n";
  for (const OptionDoc& option : help.options) out += option_line(option);
  out += "\nOptions of every spec\n";
  for (const OptionDoc& option : describe_common_options()) {
    const bool own = std::ranges::any_of(
        help.options, [&](const OptionDoc& other) { return other.key == option.key; });
    if (!own) out += option_line(option);
  }
  if (!method.departures.empty()) out += "\nDepartures from the source\n";
  for (const std::string_view departure : method.departures)
    out += "  - " + wrap(departure, kWidth, 4, true);
  return out;
}

void write_options(JsonWriter& json, const std::vector<OptionDoc>& options) {
  json.array();
  for (const OptionDoc& option : options)
    json.object()
        .key("key")
        .value(option.key)
        .key("type")
        .value(option.type)
        .key("default")
        .value(option.fallback)
        .key("doc")
        .value(option.doc)
        .end();
  json.end();
}

void write(JsonWriter& json, const MethodHelp& help) {
  const Method& method = *help.method;
  json.object().key("name").value(method.name).key("summary").value(method.summary);
  json.key("source").value(method.source).key("cost").value(method.cost);
  json.key("roles").array();
  for (const std::string& role : help.roles) json.value(role);
  json.end().key("options");
  write_options(json, help.options);
  json.key("departures").array();
  for (const std::string_view departure : method.departures) json.value(departure);
  json.end().end();
}

void explain_auto(const std::string& format) {
  if (format == "json") {
    JsonWriter json;
    json.object().key("name").value("auto").key("options");
    write_options(json, describe_auto_options());
    std::fputs(json.end().text().c_str(), stdout);
    return;
  }
  std::string text = "auto: choose the spec that suits a prompt\n\n";
  for (const std::string_view paragraph : describe_auto()) {
    std::string plain(paragraph);
    std::erase(plain, '`');
    text += wrap(plain, kWidth, 0) + "\n";
  }
  text += "Options\n";
  for (const OptionDoc& option : describe_auto_options()) text += option_line(option);
  std::fputs(text.c_str(), stdout);
}

int run_methods(const MethodsOptions& options) {
  if (options.markdown) {
    std::fputs(methods_markdown().c_str(), stdout);
    return 0;
  }
  if (options.name == "auto") {
    explain_auto(options.format);
    return 0;
  }
  std::vector<MethodHelp> chosen;
  if (!options.name.empty())
    chosen.push_back(describe(find_or_refuse(options.name)));
  else
    for (const Method& method : methods()) chosen.push_back(describe(method));

  if (options.format == "json") {
    JsonWriter json;
    json.object().key("methods").array();
    for (const MethodHelp& help : chosen) write(json, help);
    json.end().key("common_options");
    write_options(json, describe_common_options());
    std::fputs(json.end().text().c_str(), stdout);
    return 0;
  }
  if (!options.name.empty() && options.format == "md") {
    std::fputs(explanation(chosen[0]).c_str(), stdout);
    return 0;
  }
  Table table({{"name", "method", false},
               {"roles", "roles", false},
               {"summary", "summary", false},
               {"source", "source", false}});
  for (const MethodHelp& help : chosen)
    table.add({std::string(help.method->name), joined(help.roles),
               std::string(help.method->summary), std::string(help.method->source)});
  table.print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<MethodsOptions>();
  arguments.operand("METHOD", options->name, "explain this one: roles, options, cost")
      .completes(Complete::method);
  arguments.format(options->format);
  arguments.flag("--markdown", options->markdown,
                 "everything as Markdown, which is docs/methods.md");
  return [options] { return run_methods(*options); };
}

}  // namespace

const Command kMethodsCommand = {
    "methods",
    "list the compression methods, or explain one",
    "A spec is one method or several joined by '+', each with its options: "
    "fastkv:tsp_rate=0.2,budget=0.1. 'budget' is rows per head (2048), a share of the prompt (0.1) "
    "or bytes of the session (512MiB). Two methods that fill the same role are refused. "
    "'auto' stands for the spec that suits a prompt, by what 'pith calibrate profile' measured; "
    "'pith methods auto' explains it.",
    "$ pith methods\n"
    "$ pith methods fastkv",
    setup,
};

}  // namespace pith
