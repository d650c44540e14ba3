#include "policy/low_rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"

namespace pith {
namespace {

size_t sides_of(const KvShape& shape) {
  return 2 * static_cast<size_t>(shape.layers) * static_cast<size_t>(shape.heads);
}

// Coordinates of the step behind the first `rank` ones.
int next_step(int rank, int step, int dim) {
  return std::min(step, dim - rank);
}

// Whether the first directions are the first channels, as in models whose weights were folded.
bool are_leading(const float* directions, size_t rank, size_t dim) {
  for (size_t r = 0; r < rank; ++r)
    for (size_t d = 0; d < dim; ++d)
      if (directions[r * dim + d] != (r == d ? 1.0f : 0.0f)) return false;
  return true;
}

// Numbers per token that an amount pays for, given as the option `size`.
int64_t coordinates_of(const Options& o, const Amount& size, const HeadBases& bases, int step) {
  constexpr int64_t kBytes = 2;  // of a number in f16
  const int64_t least = static_cast<int64_t>(bases.sides()) * std::min(step, bases.dim);
  const int64_t wanted =
      size.bytes > 0 ? static_cast<int64_t>(size.bytes) / kBytes
                     : static_cast<int64_t>(size.share * static_cast<double>(bases.coordinates()));
  if (size.rows > 0) o.refuse("size", "a share of all coordinates (0.5) or bytes per token (6KiB)");
  if (wanted < least)
    o.refuse("size", "at least " + std::to_string(least * kBytes) + "B, one step for every head");
  return wanted;
}

}  // namespace

std::vector<int> ranks_of_size(const HeadBases& bases, int64_t coordinates, int step) {
  const auto dim = static_cast<size_t>(bases.dim);
  struct Step {
    double harm = 0;  // of a coordinate, if this step is left out
    size_t side = 0;
    int first = 0;
  };
  std::vector<Step> steps;
  std::vector<int> ranks(bases.sides(), std::min(step, bases.dim));
  for (size_t side = 0; side < bases.sides(); ++side)
    for (int first = ranks[side]; first < bases.dim; first += step) {
      const int count = next_step(first, step, bases.dim);
      const float* harm = bases.harm.data() + side * dim + first;
      steps.push_back({std::accumulate(harm, harm + count, 0.0) / count, side, first});
    }
  // Harm never rises within a head, so a head's steps come in their order; equals, earlier first.
  std::ranges::stable_sort(steps, std::greater(), &Step::harm);
  int64_t left = coordinates - std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
  for (const Step& s : steps) {
    const int count = next_step(s.first, step, bases.dim);
    if (count > left || ranks[s.side] != s.first) continue;
    ranks[s.side] += count;
    left -= count;
  }
  return ranks;
}

std::vector<int> even_ranks(const HeadBases& bases, int64_t coordinates, int step) {
  std::vector<int> ranks(bases.sides(), std::min(step, bases.dim));
  int64_t left = coordinates - std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
  for (bool grew = true; grew;) {
    grew = false;
    for (int& rank : ranks) {
      const int count = next_step(rank, step, bases.dim);
      if (count == 0 || count > left) continue;
      rank += count;
      left -= count;
      grew = true;
    }
  }
  return ranks;
}

std::vector<int> ranks_of_error(const HeadBases& bases, double error, int step) {
  const auto dim = static_cast<size_t>(bases.dim), heads = static_cast<size_t>(bases.heads);
  std::vector<int> ranks(bases.sides(), bases.dim);
  // What a head loses behind the first `rank` directions.
  const auto lost = [&](size_t side, int rank) {
    const auto harm = bases.harm.begin() + static_cast<std::ptrdiff_t>(side * dim);
    return std::accumulate(harm + rank, harm + bases.dim, 0.0);
  };
  for (size_t first = 0; first < bases.sides(); first += heads) {
    double all = 0;
    std::vector<double> shares = {0};  // that heads may lose, where one of them gives up a step
    for (size_t side = first; side < first + heads; ++side) {
      const double whole = lost(side, 0);
      all += whole;
      for (int rank = std::min(step, bases.dim); rank < bases.dim; rank += step)
        shares.push_back(whole > 0 ? lost(side, rank) / whole : 0);
    }
    std::ranges::sort(shares);
    const auto ranks_at = [&](double share) {
      std::vector<int> of(heads);
      for (size_t h = 0; h < heads; ++h) {
        const double may = share * (1 + 1e-12) * lost(first + h, 0);  // shares were rounded
        of[h] = std::min(step, bases.dim);
        while (of[h] < bases.dim && lost(first + h, of[h]) > may)
          of[h] += next_step(of[h], step, bases.dim);
      }
      return of;
    };
    const auto loses_too_much = [&](double share) {
      const std::vector<int> of = ranks_at(share);
      double sum = 0;
      for (size_t h = 0; h < heads; ++h) sum += lost(first + h, of[h]);
      return sum > error * error * all;
    };
    const auto at =
        std::ranges::partition_point(shares, [&](double share) { return !loses_too_much(share); });
    const std::vector<int> of = ranks_at(at == shares.begin() ? 0 : *(at - 1));
    std::ranges::copy(of, ranks.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return ranks;
}

HeadBases with_unturned_keys(HeadBases bases, const KvShape& shape) {
  if (bases.unturned.empty())
    throw Error(Errc::bad_file,
                "the calibration file knows no directions of keys before their rotation; run "
                "'pith calibrate basis' again");
  std::ranges::copy(bases.unturned, bases.directions.begin());
  std::ranges::copy(bases.unturned_harm, bases.harm.begin());
  bases.key_turns.clear();
  for (int l = 0; l < shape.layers; ++l) {
    const Rope rope = shape.rope(l);
    std::shared_ptr<const KeyTurns>& turns = bases.key_turns.emplace_back();
    if (rope.inv_freq.empty()) continue;
    const auto known = std::ranges::find_if(
        bases.key_turns, [&](const auto& other) { return other && other->is(rope); });
    turns = known != bases.key_turns.end() ? *known : std::make_shared<KeyTurns>(rope);
  }
  return bases;
}

HeadBases with_channel_pairs(HeadBases bases) {
  const auto dim = static_cast<size_t>(bases.dim);
  std::fill_n(bases.directions.begin(), bases.directions.size() / 2, 0.0f);
  for (size_t i = 0; i < bases.channels.size(); ++i)
    bases.directions[i * dim + static_cast<size_t>(bases.channels[i])] = 1;
  std::ranges::copy(bases.channel_harm, bases.harm.begin());
  return bases;
}

HeadBases as_channels(HeadBases bases, bool keys) {
  const auto dim = static_cast<size_t>(bases.dim);
  const size_t first = keys ? 0 : bases.sides() / 2;
  std::fill(bases.directions.begin() + static_cast<std::ptrdiff_t>(first * dim * dim),
            bases.directions.end(), 0.0f);
  for (size_t i = first * dim; i < bases.sides() * dim; ++i)
    bases.directions[i * dim + i % dim] = 1;
  for (size_t i = 0; keys && i < bases.channels.size(); ++i) {
    bases.channels[i] = static_cast<int>(i % dim);
    bases.channel_harm[i] = bases.harm[i];
  }
  if (!keys) return bases;
  bases.turns = bases.turned_harm = {};
  if (!bases.unturned.empty())  // nothing turns them
    std::copy_n(bases.directions.begin(), bases.unturned.size(), bases.unturned.begin());
  return bases;
}

std::vector<float> pair_directions(const HeadBases& bases) {
  const auto dim = static_cast<size_t>(bases.dim);
  std::vector<float> directions(bases.sides() / 2 * dim * dim);
  for (size_t i = 0; i < bases.channels.size(); i += 2) {
    float* const head = directions.data() + i / dim * dim * dim;
    const auto first = static_cast<size_t>(bases.channels[i]),
               second = static_cast<size_t>(bases.channels[i + 1]);
    const float cosine = bases.turns.empty() ? 1 : bases.turns[i],
                sine = bases.turns.empty() ? 0 : bases.turns[i + 1];
    head[first * dim + first] = head[second * dim + second] = cosine;
    head[first * dim + second] = sine;
    head[second * dim + first] = -sine;
  }
  return directions;
}

HeadBases with_turned_pairs(HeadBases bases) {
  if (bases.turns.empty()) return bases;
  const auto dim = static_cast<size_t>(bases.dim);
  for (size_t i = 0; i < bases.channels.size(); i += 2) {
    const auto first = static_cast<size_t>(bases.channels[i]),
               second = static_cast<size_t>(bases.channels[i + 1]);
    for (std::vector<float>* directions : {&bases.directions, &bases.unturned})
      for (size_t row = 0; row < dim && !directions->empty(); ++row) {
        float* const u = directions->data() + (i / dim * dim + row) * dim;
        const float x = u[first], y = u[second];
        u[first] = bases.turns[i] * x + bases.turns[i + 1] * y;
        u[second] = bases.turns[i] * y - bases.turns[i + 1] * x;
      }
  }
  for (size_t head = 0; head < bases.channels.size(); head += dim) {
    std::vector<size_t> order(dim);
    std::iota(order.begin(), order.end(), head);
    std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return bases.turned_harm[i]; });
    std::vector<int> channels;
    std::vector<float> harm;
    for (const size_t i : order) {
      channels.push_back(bases.channels[i]);
      harm.push_back(bases.turned_harm[i]);
    }
    std::ranges::copy(channels, bases.channels.begin() + static_cast<std::ptrdiff_t>(head));
    std::ranges::copy(harm, bases.channel_harm.begin() + static_cast<std::ptrdiff_t>(head));
  }
  bases.turns.clear();
  bases.turned_harm.clear();
  return bases;
}

std::shared_ptr<const BasisTable> basis_table(const HeadBases& bases, std::span<const int> ranks) {
  PITH_CHECK(ranks.size() == bases.sides(), "every side of a head has a rank");
  const auto dim = static_cast<size_t>(bases.dim);
  auto table = std::make_shared<BasisTable>();
  table->heads = bases.heads;
  table->turns = bases.key_turns;
  for (size_t side = 0; side < bases.sides(); ++side) {
    std::vector<Basis>& into = side < bases.sides() / 2 ? table->k : table->v;
    Basis& basis = into.emplace_back();
    if (ranks[side] >= bases.dim) continue;
    basis.dim = bases.dim;
    basis.rank = ranks[side];
    const auto rank = static_cast<size_t>(basis.rank);
    const float* directions = bases.directions.data() + side * dim * dim;
    if (are_leading(directions, rank, dim)) continue;
    basis.up.assign(directions, directions + rank * dim);
    basis.down.resize(dim * rank);
    for (size_t r = 0; r < rank; ++r)
      for (size_t d = 0; d < dim; ++d) basis.down[d * rank + r] = directions[r * dim + d];
  }
  return table;
}

HeadBases read_bases(const Calibration& file, const KvShape& shape) {
  HeadBases bases{shape.layers, shape.heads, shape.dim, {}, {}, {}, {}};
  const size_t half = sides_of(shape) / 2, dim = static_cast<size_t>(shape.dim);
  for (const char* side : {"k", "v"}) {
    const std::string name = std::string("basis.") + side;
    const auto directions = file.tensor(name, half * dim * dim);
    const auto harm = file.tensor(name + "_harm", half * dim);
    bases.directions.insert(bases.directions.end(), directions.begin(), directions.end());
    bases.harm.insert(bases.harm.end(), harm.begin(), harm.end());
  }
  const auto harm = file.tensor("basis.k_channel_harm", half * dim);
  bases.channel_harm.assign(harm.begin(), harm.end());
  std::vector<bool> named(half * dim);
  for (const float channel : file.tensor("basis.k_channels", half * dim)) {
    const size_t head = bases.channels.size() / dim * dim;
    const bool fits = channel >= 0 && channel < static_cast<float>(dim);
    if (!fits || named[head + static_cast<size_t>(channel)])
      throw Error(Errc::bad_file,
                  "the calibration file's basis.k_channels does not name every "
                  "channel once; run 'pith calibrate basis' again");
    named[head + static_cast<size_t>(channel)] = true;
    bases.channels.push_back(static_cast<int>(channel));
  }
  if (file.has("basis.k_turns")) {
    const auto turns = file.tensor("basis.k_turns", half * dim),
               turned = file.tensor("basis.k_turned_harm", half * dim);
    bases.turns.assign(turns.begin(), turns.end());
    bases.turned_harm.assign(turned.begin(), turned.end());
  }
  if (file.has("basis.unturned_k")) {
    const auto directions = file.tensor("basis.unturned_k", half * dim * dim),
               unturned = file.tensor("basis.unturned_k_harm", half * dim);
    bases.unturned.assign(directions.begin(), directions.end());
    bases.unturned_harm.assign(unturned.begin(), unturned.end());
  }
  for (const std::vector<float>* numbers :
       {&bases.directions, &bases.harm, &bases.channel_harm, &bases.turns, &bases.turned_harm,
        &bases.unturned, &bases.unturned_harm})
    for (const float x : *numbers)
      if (!std::isfinite(x))
        throw Error(Errc::bad_file,
                    "the calibration file's bases hold numbers that are not "
                    "finite; run 'pith calibrate basis' again");
  return bases;
}

namespace {

std::vector<int> ranks_named(const Calibration& file, const KvShape& shape,
                             std::initializer_list<const char*> names) {
  std::vector<int> ranks;
  for (const char* name : names)
    for (const float rank : file.tensor(name, sides_of(shape) / 2)) {
      if (!(rank >= 1) || rank > static_cast<float>(shape.dim))
        throw Error(Errc::bad_file, std::string("the calibration file's ") + name +
                                        " has a rank that no head can have; run 'pith calibrate "
                                        "basis' again");
      ranks.push_back(static_cast<int>(rank));
    }
  return ranks;
}

}  // namespace

std::vector<int> read_ranks(const Calibration& file, const KvShape& shape) {
  return ranks_named(file, shape, {"basis.k_rank", "basis.v_rank"});
}

std::vector<int> read_unturned_ranks(const Calibration& file, const KvShape& shape) {
  return ranks_named(file, shape, {"basis.unturned_k_rank", "basis.unturned_v_rank"});
}

int read_step(Options& o) {
  return o.count("step", 16, "coordinates that a head gets or lacks together", 1, 1024);
}

RankOptions RankOptions::read(Options& o) {
  RankOptions wanted;
  wanted.size = o.amount(
      "size", {},
      "what a token may take: a share of all coordinates (0.5) or bytes as f16 (6KiB), met "
      "in whole steps; none: the ranks that met the calibration's target");
  wanted.step = read_step(o);
  wanted.even = o.word("ranks", "adaptive", "adaptive|even",
                       "where a size is spent: where it matters most, or evenly") == "even";
  return wanted;
}

void RankOptions::check(const Options& o) const {
  if (even && !size) o.refuse("ranks", "adaptive where there is no size to be shared out");
}

std::vector<int> RankOptions::ranks(const Options& o, const HeadBases& bases,
                                    const Calibration& file, const KvShape& shape) const {
  if (!size)  // key_turns: something of every layer where keys are unturned
    return bases.key_turns.empty() ? read_ranks(file, shape) : read_unturned_ranks(file, shape);
  const int64_t coordinates = coordinates_of(o, size, bases, step);
  return even ? even_ranks(bases, coordinates, step) : ranks_of_size(bases, coordinates, step);
}

std::vector<CalibrationTensor> basis_tensors(const HeadBases& bases, std::span<const int> ranks,
                                             std::span<const int> unturned_ranks) {
  std::vector<CalibrationTensor> tensors;
  const auto half = [](const auto& all, bool second) {
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
    return second ? std::vector<float>(middle, all.end()) : std::vector<float>(all.begin(), middle);
  };
  const std::vector<int64_t> each = {bases.heads, bases.layers};
  for (const bool values : {false, true}) {
    const std::string name = values ? "basis.v" : "basis.k";
    tensors.push_back(
        {name, {bases.dim, bases.dim, bases.heads, bases.layers}, half(bases.directions, values)});
    tensors.push_back(
        {name + "_harm", {bases.dim, bases.heads, bases.layers}, half(bases.harm, values)});
    tensors.push_back({name + "_rank", each, half(ranks, values)});
  }
  const std::vector<int64_t> channels = {bases.dim, bases.heads, bases.layers};
  tensors.push_back({"basis.k_channels", channels, {bases.channels.begin(), bases.channels.end()}});
  tensors.push_back({"basis.k_channel_harm", channels, bases.channel_harm});
  if (!bases.turns.empty()) {
    tensors.push_back({"basis.k_turns", channels, bases.turns});
    tensors.push_back({"basis.k_turned_harm", channels, bases.turned_harm});
  }
  if (!bases.unturned.empty()) {
    tensors.push_back(
        {"basis.unturned_k", {bases.dim, bases.dim, bases.heads, bases.layers}, bases.unturned});
    tensors.push_back({"basis.unturned_k_harm", channels, bases.unturned_harm});
    tensors.push_back({"basis.unturned_k_rank", each, half(unturned_ranks, false)});
    tensors.push_back({"basis.unturned_v_rank", each, half(unturned_ranks, true)});
  }
  return tensors;
}

}  // namespace pith
