#include "policy/registry.h"

#include <algorithm>

#include "base/error.h"
#include "gguf/names.h"
#include "policy/auto_choice.h"
#include "policy/defaults.h"
#include "policy/guard.h"

namespace pith {
namespace {

std::vector<Method>& registered() {
  static std::vector<Method> all;
  return all;
}

struct MethodText {
  std::string name;
  OptionList options;
};

constexpr std::string_view kAuto = "auto";  // no method: it chooses among specs

[[noreturn]] void refuse(const std::string& sentence) {
  throw Error(Errc::bad_option, sentence);
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// The parts between separators that do not stand in double quotes.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  bool inside = false;
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') inside = !inside;
    if (text[i] != separator || inside) continue;
    parts.push_back(trimmed(text.substr(start, i - start)));
    start = i + 1;
  }
  if (inside) refuse("a quote is not closed in " + shown_name(text));
  parts.push_back(trimmed(text.substr(start)));
  return parts;
}

std::string unquoted(std::string_view value) {
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
    value = value.substr(1, value.size() - 2);
  return std::string(value);
}

MethodText parse_method(std::string_view text) {
  const size_t colon = text.find(':');
  MethodText method{std::string(trimmed(text.substr(0, colon))), {}};
  if (!find_method(method.name) && method.name != kAuto) {
    std::vector<std::string_view> names = {kAuto};
    std::string all(kAuto);
    for (const Method& m : methods()) {
      names.push_back(m.name);
      all += (all.empty() ? "" : ", ") + std::string(m.name);
    }
    const std::string near = closest(method.name, names);
    refuse("no method " + shown_name(method.name) +
           (near.empty() ? "; there are " + all : "; did you mean '" + near + "'?"));
  }
  if (colon == std::string_view::npos) return method;
  for (const std::string_view pair : split(text.substr(colon + 1), ',')) {
    const size_t equals = pair.find('=');
    const std::string_view key = trimmed(pair.substr(0, equals));
    if (key.empty()) refuse(method.name + ": an option has no name; write key=value");
    const std::string value =
        equals == std::string_view::npos ? "" : unquoted(trimmed(pair.substr(equals + 1)));
    if (value.empty())
      refuse(method.name + ": " + shown_name(key) + " has no value; write key=value");
    if (value.find('"') != std::string::npos)
      refuse(method.name + ": " + shown_name(key) + " has a quote inside its value");
    if (std::ranges::any_of(value, [](unsigned char c) { return c < 32 || c == 127; }))
      refuse(method.name + ": " + shown_name(key) + " has a control character inside its value");
    method.options.emplace_back(key, value);
  }
  return method;
}

std::vector<MethodText> parse_spec(std::string_view spec) {
  if (trimmed(spec).empty()) refuse("the spec is empty; 'full' keeps every row");
  std::vector<MethodText> parsed;
  for (const std::string_view text : split(spec, '+')) {
    if (text.empty()) refuse("a method is missing beside a '+' in " + shown_name(trimmed(spec)));
    parsed.push_back(parse_method(text));
    for (size_t i = 0; i + 1 < parsed.size(); ++i)
      if (parsed[i].name == parsed.back().name) refuse("'" + parsed[i].name + "' is named twice");
  }
  if (parsed.size() > 1 && std::ranges::count(parsed, kAuto, &MethodText::name) > 0)
    refuse("'auto' chooses a whole spec and stands alone");
  return parsed;
}

// Which method filled a role, to name it when another one does too.
struct Owners {
  std::string scorer, budget, reducer, router, reader, tile_reader, probe, store, basis;
};

template <class Role>
void merge(std::unique_ptr<const Role>& into, std::unique_ptr<const Role> held, std::string& owner,
           const std::string& method, const char* role) {
  if (held && into) refuse("both '" + owner + "' and '" + method + "' bring a " + role);
  if (into)
    owner = method;
  else
    into = std::move(held);
}

void build(const Method& method, Options& options, const KvShape& shape, Policy& policy,
           Owners& owners) {
  auto scorer = std::move(policy.scorer);
  auto budget = std::move(policy.budget);
  auto reducer = std::move(policy.reducer);
  auto router = std::move(policy.router);
  auto reader = std::move(policy.reader);
  auto tile_reader = std::move(policy.tile_reader);
  auto probe = std::move(policy.probe);
  const StoreSpec before = policy.store;
  method.build(options, shape, policy);
  options.finish();
  const std::string name(method.name);
  const auto claim = [&](std::string& owner, const char* what) {
    if (!owner.empty()) refuse("both '" + owner + "' and '" + name + "' bring a " + what);
    owner = name;
  };
  if (policy.store.k != before.k || policy.store.v != before.v ||
      policy.store.tiers.size() != before.tiers.size() || policy.store.layers != before.layers)
    claim(owners.store, "store");
  if (policy.store.basis != before.basis) claim(owners.basis, "basis");
  merge(policy.scorer, std::move(scorer), owners.scorer, name, "scorer");
  merge(policy.budget, std::move(budget), owners.budget, name, "budget");
  merge(policy.reducer, std::move(reducer), owners.reducer, name, "reducer");
  merge(policy.router, std::move(router), owners.router, name, "router");
  merge(policy.reader, std::move(reader), owners.reader, name, "reader");
  merge(policy.tile_reader, std::move(tile_reader), owners.tile_reader, name, "tile reader");
  merge(policy.probe, std::move(probe), owners.probe, name, "probe");
}

void unite(Demand& into, const Demand& other) {
  if (into.prompt_mass != Mass::none && other.prompt_mass != Mass::none &&
      into.prompt_mass != other.prompt_mass)
    refuse("two roles of the spec add up attention in different ways");
  into.window_queries = std::max(into.window_queries, other.window_queries);
  if (other.prompt_mass != Mass::none) into.prompt_mass = other.prompt_mass;
  into.decode_probs |= other.decode_probs;
  into.hidden |= other.hidden;
}

// The rows that always stay fit into the amount.
void check_amount(const Options& options, const Policy& policy) {
  const Amount& amount = policy.amount;
  const int least = policy.protect.rows();
  const std::string kept = std::to_string(least) + " rows (sink + recent always stay)";
  if (amount.rows > 0 && amount.rows < least) options.refuse("budget", "at least " + kept);
  if (amount.bytes > 0 && policy.session_rows < least)
    options.refuse("budget", "more than " + amount.text() + ", enough for " + kept);
}

// Fills the roles that no method brought.
void complete(const Options& first, Policy& policy, const Owners& owners, const KvShape& shape) {
  const std::string& chooser = owners.scorer.empty() ? owners.reducer : owners.scorer;
  if (!policy.budget && !policy.amount && !chooser.empty()) refuse(chooser + ": needs budget=...");
  if (policy.budget && policy.budget->needs_amount() && !policy.amount)
    refuse(owners.budget + ": needs budget=...");
  const bool routes = policy.router && policy.router->needs_scores();
  const bool scores_matter = policy.budget || routes || policy.reducer ||
                             !policy.store.tiers.empty() ||
                             (policy.amount && policy.amount.share < 1);
  if (!policy.store.tiers.empty() &&
      (policy.reduce_every > 0 || policy.store.repack_positions || policy.store.keeps_dropped))
    refuse(
        "'" + owners.store +
        "' sorts the rows of a prompt into tiers once; no method beside it may drop or turn rows "
        "while generating (reduce_every=0)");
  if (policy.probe && policy.router)
    refuse("'" + owners.probe + "' reads the prompt again and scores every row of it; '" +
           owners.router + "' lets rows go on the way");
  if (policy.probe && policy.budget && policy.budget->demand().window_queries > 0)
    refuse("'" + owners.budget + "' looks at the queries of each layer as it comes, and '" +
           owners.probe + "' decides behind the last one");
  policy.store.keeps_scores |= policy.reduce_every > 0;
  if (policy.amount.bytes > 0)
    policy.session_rows =
        rows_for_bytes(policy.amount.bytes, shape, policy.store, policy.reader.get());
  check_amount(first, policy);
  if (!policy.scorer) policy.scorer = scores_matter ? window_vote(policy.vote) : newest_first();
  if (policy.reduce_every > 0 && !policy.scorer->scores_steps())
    refuse("'" + owners.scorer +
           "' scores the prompt only and knows nothing of generated rows; leave reduce_every at 0");
  if (policy.reduce_every > 0 && policy.store.keeps_dropped)
    refuse("'" + owners.router +
           "' calls tokens back in any order, and what is reduced while generating lies in order; "
           "leave reduce_every at 0");
  if (policy.budget && policy.budget->needs_mass() && !policy.scorer->scores_add_up())
    refuse("'" + owners.budget + "' counts attention, and the scores of '" +
           (owners.scorer.empty() ? "the vote" : owners.scorer) +
           "' are no shares of it; tova, h2o and snapkv:pool=none give some");
  if (!policy.budget)
    policy.budget =
        policy.amount ? even_budget(policy.amount, policy.session_rows) : keep_everything();
  if (!policy.reducer) policy.reducer = keep_best();
}

}  // namespace

RegisterMethod::RegisterMethod(const Method& method) {
  std::vector<Method>& all = registered();
  const auto at = std::ranges::lower_bound(all, method.name, {}, &Method::name);
  PITH_CHECK(at == all.end() || at->name != method.name, "a method's name is used once");
  all.insert(at, method);
}

std::span<const Method> methods() {
  return registered();
}

const Method* find_method(std::string_view name) {
  const auto it = std::ranges::find(registered(), name, &Method::name);
  return it == registered().end() ? nullptr : &*it;
}

Demand Policy::demand() const {
  Demand demand = scorer->demand();
  if (budget) unite(demand, budget->demand());
  if (router) unite(demand, router->demand());
  if (guard) demand.window_queries = std::max(demand.window_queries, kMassQueries);
  demand.layer_queries = tile_reader && tile_reader->looks();
  demand.decode_probs &= reduce_every > 0;
  return demand;
}

bool Policy::keeps_all() const {
  return budget->keeps_all() && !router && !probe && store.tiers.empty() &&
         !store.repack_positions && !store.keeps_dropped;
}

namespace {

PageFormats page_formats(const std::string& word) {
  if (word == "q8") return {Quant::q8_keys, Quant::q8_values};
  if (word == "e4m3") return {Quant::fp8_e4m3, Quant::fp8_e4m3};
  if (word == "e5m2") return {Quant::fp8_e5m2, Quant::fp8_e5m2};
  return {plain_format(word), plain_format(word)};
}

void add_outliers(PageFormats& formats, bool& any) {
  for (Quant* quant : {&formats.k, &formats.v}) {
    if (!is_coded(*quant)) continue;
    *quant = with_outliers(*quant);
    any = true;
  }
}

// How rows are stored, as far as no method said it.
void read_formats(Options& o, const KvShape& shape, Policy& policy) {
  constexpr const char* kFormats = "f16|bf16|f32|q8|e4m3|e5m2";
  StoreSpec& store = policy.store;
  const bool free = !o.common().was_read("cache");
  if (free) {
    const std::string word = o.word("cache", "f16", kFormats,
                                    "format of rows; q8, and floats of 8 bits (e4m3, e5m2): in "
                                    "full pages, f16 before");
    const PageFormats formats = page_formats(word);
    store.k = formats.k;
    store.v = formats.v;
    store.open = plain_format(word);
  }
  const std::string values =
      o.word("value_cache", "same", free ? "same|" + std::string(kFormats) : "same",
             "format of values in full pages, if not that of keys");
  if (values != "same") store.v = page_formats(values).v;
  const FirstLayers first = first_layers_option(
      o, "first_cache", kFormats, "a format", "2:q8",
      "lowest layers whose full pages have another format, as in 2:q8; the others have `cache`");
  if (first.layers > 0 && !free)
    o.refuse("first_cache", "left out beside a method that codes rows; 'first' is its own");
  if (first.layers > 0) {
    store.layers.assign(static_cast<size_t>(shape.layers), {store.k, store.v});
    std::fill_n(store.layers.begin(), std::min(first.layers, shape.layers),
                page_formats(first.format));
  }
  if (!o.common().was_read("rotate")) rotation_option(o, policy, shape, "none");
  if (o.word("outliers", "none", "none|1%",
             "numbers of a page of codes that lie beside them as they were: those farthest out "
             "among the ones they share a step with") == "none")
    return;
  bool any = false;
  PageFormats all{store.k, store.v};
  add_outliers(all, any);
  store.k = all.k;
  store.v = all.v;
  for (PageFormats& formats : store.layers) add_outliers(formats, any);
  for (StoreTier& tier : store.tiers) add_outliers(tier.formats, any);
  if (!any) o.refuse("outliers", "none where rows are not stored in codes (cache=q8, kivi)");
}

}  // namespace

void read_common_options(Options& o, const KvShape& shape, Policy& policy) {
  const CommonOptions& common = o.common();
  if (!common.was_read("budget")) budget_option(o, policy, {});
  if (!common.was_read("recent"))
    protect_options(o, policy, {.sink = 0, .recent = policy.vote.window});
  policy.protect.recent = std::max(policy.protect.recent, 1);
  if (!common.was_read("reduce_every"))
    policy.reduce_every = o.count("reduce_every", policy.reduce_every,
                                  "generated tokens between reductions; 0: the prompt only");
  if (!common.was_read("page"))
    policy.store.page_rows =
        o.count("page", policy.store.page_rows, "rows of a page", kLeastPageRows, kMostPageRows);
  read_formats(o, shape, policy);
}

namespace {

std::shared_ptr<Policy> build_policy(std::vector<MethodText> parsed, const KvShape& shape,
                                     std::string_view model_digest) {
  CommonOptions common;
  std::vector<Options> options;  // all of them first: common options may stand behind any method
  options.reserve(parsed.size());
  for (MethodText& method : parsed)
    options.emplace_back(method.name, std::move(method.options), common, model_digest);

  auto policy = std::make_shared<Policy>();
  Owners owners;
  for (size_t i = 0; i < parsed.size(); ++i)
    build(*find_method(parsed[i].name), options[i], shape, *policy, owners);
  const std::string named = options[0].canonical();
  read_common_options(options[0], shape, *policy);
  complete(options[0], *policy, owners, shape);

  std::string tail = Options::canonical(common);
  if (!tail.empty() && named.find(':') == std::string::npos) tail[0] = ':';
  policy->spec = named + tail;
  for (size_t i = 1; i < options.size(); ++i) policy->spec += "+" + options[i].canonical();
  for (const Options& o : options) policy->files_digest += o.files_digest();
  (void)policy->demand();  // refuses roles that cannot live together
  return policy;
}

// Keeps everything until the first prompt is there.
std::shared_ptr<Policy> undecided_policy(MethodText&& method, const KvShape& shape,
                                         std::string_view model_digest) {
  for (const auto& [key, value] : method.options)
    if (CommonOptions::has(key)) refuse("auto: '" + key + "' is what it chooses; leave it out");
  CommonOptions common;
  Options options(kAuto, std::move(method.options), common, model_digest);
  Undecided undecided = read_auto(options, shape, model_digest);
  options.finish();
  auto policy = build_policy(parse_spec("full"), shape, model_digest);
  policy->spec = options.canonical();
  policy->files_digest = options.files_digest();
  policy->undecided = std::make_shared<const Undecided>(std::move(undecided));
  return policy;
}

}  // namespace

std::shared_ptr<const Policy> make_policy(std::string_view spec, const KvShape& shape,
                                          std::string_view model_digest) {
  std::vector<MethodText> parsed = parse_spec(spec);
  if (parsed[0].name == kAuto) return undecided_policy(std::move(parsed[0]), shape, model_digest);
  return build_policy(std::move(parsed), shape, model_digest);
}

std::shared_ptr<const Policy> decide(const Undecided& undecided, int prompt_tokens) {
  Choice choice = choose(undecided.profile, undecided.wish, prompt_tokens);
  std::shared_ptr<Policy> policy;
  try {
    policy = build_policy(parse_spec(choice.spec), undecided.shape, undecided.model_digest);
  } catch (const Error& error) {
    throw Error(error.code(), undecided.file + ": the profile's spec '" + choice.spec +
                                  "' cannot be used: " + error.what());
  }
  if (!choice.floors.empty() && !policy->keeps_all() && !policy->probe) {
    auto guard = std::make_shared<Guard>();
    guard->floors = choice.floors;
    // Heads that differ in length each end in a page of their own.
    if (choice.wish.memory > 0)
      guard->most_rows = std::max(1, rows_for_bytes(choice.wish.memory, undecided.shape,
                                                    policy->store, policy->reader.get()) -
                                         (policy->store.page_rows - 1));
    policy->guard = std::move(guard);
  }
  policy->choice = std::make_shared<const Choice>(std::move(choice));
  return policy;
}

}  // namespace pith
