#include "policy/describe.h"

#include <algorithm>
#include <utility>

#include "policy/auto_choice.h"

namespace pith {
namespace {

KvShape reference_shape() {
  return {.layers = 32, .query_heads = 32, .heads = 8, .dim = 128, .width = 4096};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

// A '|' would end the cell of a table.
std::string cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
    text.insert(at, "\\");
  return text;
}

std::string table(const std::vector<OptionDoc>& options) {
  std::string text = "| option | type | default | meaning |\n|---|---|---|---|\n";
  for (const OptionDoc& o : options)
    text += "| `" + o.key + "` | " + cell(o.type) + " | " +
            (o.fallback.empty() ? "none" : "`" + o.fallback + "`") + " | " + cell(o.doc) + " |\n";
  return text;
}

std::string section(const MethodHelp& help) {
  const Method& m = *help.method;
  std::string text = "\n## " + std::string(m.name) + "\n\n";
  text += "To " + std::string(m.summary) + ". Source: " + std::string(m.source) + ".\n\n";
  text += "- Roles it fills: " + joined(help.roles) + ".\n";
  if (!m.cost.empty()) text += "- Cost: " + std::string(m.cost) + ".\n";
  if (!help.options.empty()) text += "\n" + table(help.options);
  if (!m.departures.empty()) {
    text += "\nDepartures:\n\n";
    for (const std::string_view departure : m.departures)
      text += "- " + std::string(departure) + "\n";
  }
  return text;
}

// Families in the survey's order, and their ideas in the order of method names.
std::string families() {
  std::string text =
      "\n## By family\n\n"
      "In the words of the survey *Key, Value, Compress* (arXiv:2503.11816): what is kept, in how "
      "many bits, what attention does with it, and what joins these. It counts methods as they "
      "were published; here a budget such as `pyramidkv` or `adakv` stands apart from the "
      "selection it came with, and joins any.\n\n"
      "| family | idea | methods |\n|---|---|---|\n";
  for (const std::string_view family : {"selection", "quantisation", "attention", "hybrid"}) {
    std::vector<std::pair<std::string_view, std::string>> ideas;
    if (family == "quantisation") ideas.emplace_back("fixed width", "`cache=q8` behind any method");
    for (const Method& m : methods()) {
      if (m.family.substr(0, m.family.find(':')) != family) continue;
      const std::string_view idea = m.family.substr(family.size() + 2);
      const std::string link = "[`" + std::string(m.name) + "`](#" + std::string(m.name) + ")";
      const auto at =
          std::ranges::find(ideas, idea, &std::pair<std::string_view, std::string>::first);
      if (at == ideas.end())
        ideas.emplace_back(idea, link);
      else
        at->second += ", " + link;
    }
    for (const auto& [idea, names] : ideas)
      text += "| " + std::string(family) + " | " + std::string(idea) + " | " + names + " |\n";
  }
  return text;
}

}  // namespace

MethodHelp describe(const Method& method) {
  CommonOptions common;
  Options options = Options::describing(method.name, common);
  Policy policy;
  method.build(options, reference_shape(), policy);
  MethodHelp help{&method, {}, {options.docs().begin(), options.docs().end()}};
  const StoreSpec plain;
  const StoreSpec& store = policy.store;
  if (policy.scorer) help.roles.emplace_back("scorer");
  if (policy.budget) help.roles.emplace_back("budget");
  if (policy.reducer) help.roles.emplace_back("reducer");
  if (policy.router) help.roles.emplace_back("router");
  if (policy.reader) help.roles.emplace_back("reader");
  if (policy.tile_reader) help.roles.emplace_back("tile reader");
  if (policy.probe) help.roles.emplace_back("probe");
  if (store.k != plain.k || store.v != plain.v || store.basis || !store.tiers.empty())
    help.roles.emplace_back("store");
  return help;
}

std::vector<OptionDoc> describe_common_options() {
  CommonOptions common;
  Options options = Options::describing("any", common);
  Policy policy;
  read_common_options(options, reference_shape(), policy);
  return {options.docs().begin(), options.docs().end()};
}

std::vector<OptionDoc> describe_auto_options() {
  CommonOptions common;
  Options options = Options::describing("auto", common);
  (void)read_auto(options, reference_shape(), {});
  return {options.docs().begin(), options.docs().end()};
}

std::vector<std::string_view> describe_auto() {
  return {
      "`auto` is no method: it stands for the spec that suits a prompt, and is chosen when the "
      "first "
      "prompt is there. `auto:quality=0.98,calibration=FILE` takes, of all specs that kept that "
      "share "
      "of the full cache's score where `pith calibrate profile` measured them at lengths like the "
      "prompt's, the one with the fewest bytes; `memory=512MiB` and `ttft=2s` rule out what holds "
      "or "
      "takes more, and without `quality` the best score within them is taken. What nothing "
      "measured "
      "gives is refused with what is nearest.",
      "While the prompt is compressed a guard counts the attention of its last queries: a head "
      "that "
      "keeps less of it than it did, at least, on the prompts of the profile keeps more rows. A "
      "prompt "
      "that does not compress well therefore takes more memory; where `memory` forbids that, or a "
      "promise is not kept, the session carries a warning. A choice holds for a session; its "
      "further "
      "turns are compressed by the same spec."};
}

std::string methods_markdown() {
  std::string text =
      "# Methods\n\n"
      "Generated by `pith methods --markdown` from the code that reads the options; a test fails "
      "when this file is out of date. Defaults that depend on the model are those of a model of 32 "
      "layers.\n\n"
      "A spec names methods, their options, and what they share:\n\n"
      "    name:key=value,key=value + name:key=value\n\n"
      "Each method fills one or more roles; what it leaves open is filled by the house: the last "
      "queries of the prompt vote (as in `snapkv`), every head has the same budget, the best rows "
      "are kept, every row travels on, every page is read, rows are stored in 16 bits, a prompt "
      "reads every row and is read once. Two methods that fill the same role are "
      "refused.\n\n"
      "| method | roles | source | what it does |\n|---|---|---|---|\n";
  for (const Method& m : methods())
    text += "| [`" + std::string(m.name) + "`](#" + std::string(m.name) + ") | " +
            joined(describe(m).roles) + " | " + std::string(m.source) + " | " +
            cell(std::string(m.summary)) + " |\n";
  text += families();
  text +=
      "\n## Options of every spec\n\n"
      "They may stand behind any method of a spec, once, and count for all of it. A method may "
      "bring a default of its own, listed with it.\n\n" +
      table(describe_common_options()) +
      "\nHow a budget is counted, for every method:\n\n"
      "- It is rows of one key/value head in one layer, the sinks and the newest rows included, "
      "and it is exact.\n"
      "- A share is rounded to the nearest row, and never falls below the rows that always "
      "stay. A share of 1.0 keeps everything, generated rows too.\n"
      "- An amount of bytes is what the allocator may hold for the session's rows, spread evenly "
      "over all heads, in whole pages, once the prompt is read: pages are coded at its end.\n"
      "- A further turn gets a budget of its own, and rows of earlier turns stay; bytes are of "
      "all turns together. A policy that reduces while generating instead holds each head to "
      "one budget over all turns.\n"
      "- In layers with a sliding window, rows that no later query can see are dropped whatever "
      "the method, and are not counted.\n";
  text += "\n## auto\n\n";
  for (const std::string_view paragraph : describe_auto()) text += std::string(paragraph) + "\n\n";
  text += "[auto.md](auto.md) has the rules and what they reach.\n\n";
  text += table(describe_auto_options());
  for (const Method& m : methods()) text += section(describe(m));
  return text;
}

}  // namespace pith
