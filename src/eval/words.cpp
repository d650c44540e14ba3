#include "eval/words.h"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_set>

#include "base/error.h"

namespace pith {
namespace {

constexpr std::array kNouns = std::to_array<std::string_view>({
    "acorn",    "alley",    "anchor",   "apple",      "apron",    "arch",      "arrow",
    "attic",    "badge",    "bakery",   "balcony",    "banner",   "barn",      "barrel",
    "basket",   "beacon",   "beaver",   "bell",       "bench",    "berry",     "bicycle",
    "blanket",  "boat",     "bonfire",  "bottle",     "boulder",  "bracelet",  "branch",
    "brick",    "bridge",   "broom",    "bucket",     "button",   "cabin",     "cabinet",
    "candle",   "canoe",    "canyon",   "carpet",     "carriage", "castle",    "cathedral",
    "cedar",    "cellar",   "chain",    "chair",      "chapel",   "chimney",   "cinnamon",
    "circle",   "clinic",   "clock",    "cloud",      "coast",    "coin",      "compass",
    "copper",   "coral",    "corner",   "cottage",    "cradle",   "crane",     "cricket",
    "crown",    "cupboard", "curtain",  "daisy",      "dancer",   "deer",      "desert",
    "diary",    "dock",     "doctor",   "dolphin",    "doorway",  "dragonfly", "drawer",
    "drum",     "dune",     "eagle",    "easel",      "elbow",    "ember",     "engine",
    "envelope", "fabric",   "falcon",   "farmer",     "feather",  "fence",     "fern",
    "ferry",    "festival", "fiddle",   "field",      "finch",    "flag",      "flute",
    "forest",   "fountain", "fox",      "furnace",    "gallery",  "garden",    "garlic",
    "gate",     "glacier",  "glove",    "goblet",     "goose",    "granite",   "grove",
    "guitar",   "hammer",   "hammock",  "harbor",     "harvest",  "hatch",     "hazel",
    "hedge",    "helmet",   "heron",    "hillside",   "hinge",    "honey",     "horizon",
    "hotel",    "icicle",   "inkwell",  "island",     "ivory",    "jacket",    "jar",
    "jewel",    "journal",  "juniper",  "kettle",     "kitchen",  "kite",      "knapsack",
    "ladder",   "lagoon",   "lake",     "lantern",    "lawyer",   "ledger",    "lemon",
    "lentil",   "letter",   "library",  "lighthouse", "lily",     "linen",     "locket",
    "loom",     "magnet",   "mango",    "maple",      "marble",   "market",    "marsh",
    "meadow",   "medal",    "merchant", "mill",       "mirror",   "mitten",    "moat",
    "monument", "mosaic",   "mountain", "museum",     "mushroom", "napkin",    "needle",
    "nest",     "notebook", "nurse",    "oar",        "oasis",    "olive",     "orchard",
    "organ",    "otter",    "oven",     "owl",        "oyster",   "paddle",    "painter",
    "palace",   "pantry",   "parcel",   "parrot",     "path",     "pavilion",  "peach",
    "pebble",   "pencil",   "pepper",   "piano",      "pigeon",   "pillow",    "pine",
    "pirate",   "pitcher",  "planet",   "plaza",      "plum",     "pocket",    "pond",
    "poplar",   "porch",    "portrait", "potter",     "prairie",  "pulley",    "pumpkin",
    "puzzle",   "quarry",   "quill",    "quilt",      "rabbit",   "railway",   "raven",
    "reef",     "ribbon",   "ridge",    "river",      "robin",    "rooftop",   "rope",
    "sailor",   "salmon",   "sandal",   "satchel",    "scarf",    "school",    "sculptor",
    "shelf",    "shepherd", "shutter",  "sickle",     "signpost", "silver",    "singer",
    "sparrow",  "spindle",  "spoon",    "spring",     "stable",   "stairway",  "statue",
    "stork",    "stove",    "street",   "summit",     "swan",     "table",     "tailor",
    "tavern",   "teacher",  "teapot",   "temple",     "theater",  "thicket",   "thimble",
    "thistle",  "ticket",   "timber",   "tower",      "trail",    "trumpet",   "tulip",
    "tunnel",   "turtle",   "umbrella", "valley",     "vase",     "velvet",    "veranda",
    "village",  "vineyard", "violin",   "wagon",      "walnut",   "warehouse", "waterfall",
    "weaver",   "well",     "whale",    "wheel",      "whistle",  "willow",    "window",
    "winter",   "workshop", "wren",     "yard",       "zebra",
});

constexpr std::array kAdjectives = std::to_array<std::string_view>({
    "able",     "ancient",  "amber",    "ample",    "autumn",   "awkward",  "bashful",  "bitter",
    "blue",     "bold",     "brave",    "brief",    "bright",   "brisk",    "broad",    "broken",
    "busy",     "calm",     "careful",  "cautious", "charming", "cheerful", "clean",    "clear",
    "clever",   "cloudy",   "cold",     "cozy",     "crimson",  "crisp",    "crooked",  "curious",
    "damp",     "daring",   "dark",     "deep",     "dense",    "distant",  "double",   "dry",
    "dusty",    "eager",    "early",    "earnest",  "elegant",  "empty",    "even",     "faded",
    "faint",    "faithful", "famous",   "fancy",    "fierce",   "fine",     "firm",     "flat",
    "fluent",   "fond",     "foreign",  "fragile",  "free",     "fresh",    "friendly", "frosty",
    "full",     "generous", "gentle",   "giant",    "glad",     "gleaming", "golden",   "graceful",
    "grand",    "grateful", "green",    "handy",    "happy",    "harsh",    "hasty",    "hidden",
    "hollow",   "honest",   "humble",   "hungry",   "idle",     "jolly",    "keen",     "kind",
    "large",    "late",     "lazy",     "light",    "little",   "lively",   "lonely",   "long",
    "loud",     "lovely",   "loyal",    "lucky",    "mellow",   "merry",    "mighty",   "mild",
    "misty",    "modest",   "mossy",    "muddy",    "narrow",   "nearby",   "neat",     "nimble",
    "noble",    "noisy",    "northern", "odd",      "open",     "orange",   "ordinary", "painted",
    "pale",     "patient",  "plain",    "pleasant", "polite",   "precious", "proud",    "purple",
    "quick",    "quiet",    "rapid",    "rare",     "rich",     "rosy",     "rough",    "round",
    "rusty",    "sandy",    "scarlet",  "secret",   "serious",  "shallow",  "sharp",    "shiny",
    "short",    "shy",      "silent",   "silky",    "simple",   "sleepy",   "slender",  "slow",
    "small",    "smooth",   "snowy",    "soft",     "solid",    "southern", "spare",    "speckled",
    "splendid", "square",   "steady",   "steep",    "stern",    "stiff",    "stormy",   "straight",
    "strange",  "strong",   "sturdy",   "subtle",   "sudden",   "sunny",    "sweet",    "swift",
    "tall",     "tender",   "thick",    "thin",     "thirsty",  "tidy",     "tiny",     "tired",
    "tranquil", "unusual",  "useful",   "vast",     "violet",   "vivid",    "warm",     "wealthy",
    "western",  "wet",      "white",    "wide",     "wild",     "wise",     "wooden",   "worthy",
    "yellow",   "young",    "zealous",
});

constexpr std::array kVerbs = std::to_array<std::string_view>({
    "accept",     "admire",  "adopt",   "advise",   "agree",    "announce", "answer",    "arrange",
    "arrive",     "ask",     "attend",  "bake",     "balance",  "become",   "begin",     "believe",
    "borrow",     "bring",   "build",   "carry",    "carve",    "catch",    "celebrate", "choose",
    "climb",      "collect", "compare", "compose",  "consider", "cook",     "copy",      "count",
    "cover",      "create",  "cross",   "decide",   "deliver",  "describe", "discover",  "divide",
    "draw",       "dream",   "drift",   "earn",     "enjoy",    "enter",    "examine",   "expect",
    "explain",    "explore", "fasten",  "fetch",    "finish",   "follow",   "forget",    "forgive",
    "gather",     "grow",    "guess",   "guide",    "happen",   "hear",     "hesitate",  "hurry",
    "imagine",    "improve", "include", "inspect",  "invite",   "join",     "knit",      "know",
    "laugh",      "launch",  "learn",   "lend",     "listen",   "manage",   "measure",   "mend",
    "mention",    "notice",  "obey",    "observe",  "obtain",   "offer",    "order",     "pack",
    "paint",      "plant",   "polish",  "praise",   "prepare",  "promise",  "protect",   "provide",
    "publish",    "raise",   "reach",   "receive",  "recite",   "refuse",   "remain",    "remember",
    "repair",     "repeat",  "reply",   "rescue",   "return",   "sail",     "scatter",   "search",
    "select",     "serve",   "settle",  "share",    "sing",     "solve",    "speak",     "stitch",
    "study",      "suggest", "supply",  "surprise", "teach",    "thank",    "travel",    "trust",
    "understand", "visit",   "wander",  "watch",    "weave",    "welcome",  "whisper",   "wonder",
    "write",
});

constexpr std::array kPeople = std::to_array<std::string_view>({
    "Abigail", "Adrian",   "Agnes",   "Alfred",   "Amelia",   "Arthur",   "Beatrice", "Benjamin",
    "Bridget", "Caleb",    "Clara",   "Conrad",   "Cora",     "Daniel",   "Daphne",   "Dorothy",
    "Edgar",   "Edith",    "Eleanor", "Elias",    "Emma",     "Esther",   "Felix",    "Flora",
    "Frances", "George",   "Greta",   "Hannah",   "Harold",   "Hazel",    "Henry",    "Ingrid",
    "Isaac",   "Jasper",   "Joanna",  "Julian",   "Laura",    "Leonard",  "Lucas",    "Lydia",
    "Mabel",   "Margaret", "Martin",  "Matilda",  "Miriam",   "Nathan",   "Nora",     "Oliver",
    "Oscar",   "Patrick",  "Philip",  "Rachel",   "Robert",   "Rosalind", "Rupert",   "Samuel",
    "Sarah",   "Silas",    "Simon",   "Stella",   "Theodore", "Thomas",   "Ursula",   "Victor",
    "Viola",   "Walter",   "Wilfred", "Winifred",
});

constexpr std::array kPlaces = std::to_array<std::string_view>({
    "Alderford",      "Ashbury",       "Barrowmere",    "Birchwick",     "Blackstow",
    "Brackley Cross", "Bramford",      "Brightwater",   "Cald Harbor",   "Carrowby",
    "Chalkwell",      "Coldbrook",     "Copperdale",    "Cranleigh End", "Dovecote",
    "Dunmarsh",       "Eastholme",     "Elmsworth",     "Fairhaven",     "Fallowfield",
    "Fenwick Bay",    "Foxhollow",     "Glenmoor",      "Gorsebridge",   "Greystead",
    "Hallowby",       "Harrowdale",    "Hawthorn Mill", "Heronsgate",    "Highmarket",
    "Ironbeck",       "Kestrel Point", "Kingsferry",    "Lambourne",     "Larkfield",
    "Linden Hill",    "Longmeadow",    "Marlow Green",  "Millbrook",     "Northwick",
    "Oakhampton",     "Otterbourne",   "Pebble Sands",  "Pinecroft",     "Quarryford",
    "Ravensholt",     "Redcliff",      "Rookwood",      "Saltmarket",    "Sandybridge",
    "Silverton",      "Stonehaven",    "Summerfield",   "Swanmere",      "Thistledown",
    "Thornbury",      "Underhill",     "Wetherby Lane", "Whitcombe",     "Willowbrook",
    "Windermouth",    "Wolverly",      "Woodcastle",    "Yarrowgate",
});

const std::vector<std::string>& listed_words() {
  static const std::vector<std::string> words = [] {
    std::set<std::string> all;
    for (const auto list : {nouns(), adjectives(), verbs()}) all.insert(list.begin(), list.end());
    return std::vector<std::string>(all.begin(), all.end());
  }();
  return words;
}

}  // namespace

std::span<const std::string_view> nouns() {
  return kNouns;
}
std::span<const std::string_view> adjectives() {
  return kAdjectives;
}
std::span<const std::string_view> verbs() {
  return kVerbs;
}
std::span<const std::string_view> people() {
  return kPeople;
}
std::span<const std::string_view> places() {
  return kPlaces;
}

// Half of all pairs of nouns, so that finding a new one never takes long.
int largest_vocabulary() {
  return static_cast<int>(kNouns.size() * kNouns.size() / 2);
}

std::vector<std::string> distinct_words(Random& random, int count) {
  PITH_CHECK(count <= largest_vocabulary(), "the task asks for no more words than there are");
  std::vector<std::string> words = listed_words();
  shuffle(words, random);
  if (static_cast<size_t>(count) <= words.size()) {
    words.resize(static_cast<size_t>(count));
    return words;
  }
  std::unordered_set<std::string> used(words.begin(), words.end());
  while (words.size() < static_cast<size_t>(count)) {
    std::string word(kNouns[random.below(kNouns.size())]);
    word += kNouns[random.below(kNouns.size())];
    if (used.insert(word).second) words.push_back(std::move(word));
  }
  shuffle(words, random);
  return words;
}

int between(Random& random, int low, int high) {
  return low + static_cast<int>(random.below(static_cast<uint64_t>(high - low) + 1));
}

std::string number(Random& random, int digits) {
  std::string out(1, static_cast<char>('1' + random.below(9)));
  while (static_cast<int>(out.size()) < digits) out += static_cast<char>('0' + random.below(10));
  return out;
}

std::string letters(Random& random, char first, int count) {
  std::string out;
  while (static_cast<int>(out.size()) < count)
    out += static_cast<char>(first + static_cast<int>(random.below(26)));
  return out;
}

std::string uuid(Random& random) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (int i = 0; i < 32; ++i) {
    if (i == 8 || i == 12 || i == 16 || i == 20) out += '-';
    const uint64_t digit = random.below(16);
    out += kDigits[i == 12 ? 4 : i == 16 ? 8 + digit % 4 : digit];
  }
  return out;
}

std::string word_pair(Random& random) {
  std::string out(kAdjectives[random.below(kAdjectives.size())]);
  return out + "-" + std::string(kNouns[random.below(kNouns.size())]);
}

std::string with_article(std::string_view word) {
  const bool vowel = std::string_view("aeiou").find(word[0]) != std::string_view::npos;
  return (vowel ? "an " : "a ") + std::string(word);
}

std::string joined(std::span<const std::string> items, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += items[i];
  }
  return out;
}

std::string listed(std::span<const std::string> items) {
  if (items.size() < 2) return joined(items, "");
  return joined(items.first(items.size() - 1), ", ") + ", and " + items.back();
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

std::vector<int> distinct_below(Random& random, int n, int count) {
  PITH_CHECK(count <= n, "no more numbers are asked for than there are");
  // Floyd's: each of the last `count` numbers, or one below it if that was not drawn yet.
  std::vector<int> drawn;
  std::unordered_set<int> used;
  for (int last = n - count; last < n; ++last) {
    const int draw = between(random, 0, last);
    drawn.push_back(used.insert(draw).second ? draw : last);
    used.insert(drawn.back());
  }
  shuffle(drawn, random);
  return drawn;
}

Random sample_random(std::string_view task, uint64_t seed, int index) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  Random mixed(hash ^ Random(seed).next());
  return Random(mixed.next(), static_cast<uint64_t>(index) << 32);
}

}  // namespace pith
