#include "launcher/bench_sweep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "kernels/check.h"
#include "launcher/flag_values.h"

namespace convoke {

namespace {

constexpr size_t kMaxPoints = 256;
constexpr const char* kLookaheadMethod = "pass";

void set_lookahead(BenchConfiguration& c, const std::string& value) {
  // The last mention of an option counts.
  if (c.drafter.method == kLookaheadMethod) c.drafter.argument += ",lookahead=" + value;
}

void set_draft_tokens(BenchConfiguration& c, const std::string& value) {
  c.drafter.auto_size = value == "auto";
  c.drafter.limits.max_nodes = c.drafter.auto_size ? DraftLimits{}.max_nodes : std::stoi(value);
}

/// One name: which values it takes and what it changes.
struct Knob {
  const char* name;
  enum class Kind { kInteger, kNumber, kWord } kind;
  int low, high;
  const char* words;  ///< values beside the numbers, separated by '|'
  bool of_drafter;    ///< leaves plain decoding as it is
  void (*set)(BenchConfiguration&, const std::string&);
};

constexpr std::array kKnobs{
    Knob{"lookahead-tokens", Knob::Kind::kInteger, 1, 16, "", true, set_lookahead},
    Knob{"temperature", Knob::Kind::kNumber, 0, 100, "", false,
         [](BenchConfiguration& c, const std::string& value) { c.temperature = std::stof(value); }},
    Knob{"draft-tokens", Knob::Kind::kInteger, 0, 1024, "auto", true, set_draft_tokens},
    Knob{"draft-depth", Knob::Kind::kInteger, 1, 64, "", true,
         [](BenchConfiguration& c, const std::string& value) {
           c.drafter.limits.max_depth = std::stoi(value);
         }},
    Knob{"draft-top-k", Knob::Kind::kInteger, 1, 64, "", true,
         [](BenchConfiguration& c, const std::string& value) {
           c.drafter.limits.top_k = std::stoi(value);
         }},
    Knob{"batch", Knob::Kind::kInteger, 1, 65536, "", false,
         [](BenchConfiguration& c, const std::string& value) { c.batch = std::stoi(value); }},
    Knob{"shared-noise", Knob::Kind::kWord, 0, 0, "on|off", true,
         [](BenchConfiguration& c, const std::string& value) {
           c.drafter.shared_noise = value == "on";
         }},
};

const Knob* find_knob(std::string_view name) {
  const auto knob = std::ranges::find(kKnobs, name, &Knob::name);
  return knob == kKnobs.end() ? nullptr : &*knob;
}

bool is_word(const Knob& knob, const std::string& text) {
  std::istringstream words(knob.words);
  for (std::string word; std::getline(words, word, '|');) {
    if (word == text) return true;
  }
  return false;
}

void add_values(const Knob& knob, const std::string& flag, const std::string& text, Sweep& sweep) {
  const auto add = [&](std::string value) {
    if (std::ranges::count(sweep.values, value) > 0) {
      throw_error(ErrorKind::kUsage, "{}: {} is given twice", flag, value);
    }
    if (sweep.values.size() == kMaxPoints) {
      throw_error(ErrorKind::kUsage, "{}: has more than {} values", flag, kMaxPoints);
    }
    sweep.values.push_back(std::move(value));
  };
  if (is_word(knob, text)) return add(text);
  if (knob.kind == Knob::Kind::kWord) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not one of {}", flag, text, knob.words);
  }
  if (knob.kind == Knob::Kind::kNumber) {
    // Written one way however it was given, so that 1 and 1.0 are the same point.
    return add(fmt::format("{:g}", parse_number(flag, text, knob.low, knob.high)));
  }
  const size_t dots = text.find("..");
  const int64_t first = parse_int(flag, text.substr(0, dots), knob.low, knob.high);
  const int64_t last = dots == std::string::npos
                           ? first
                           : parse_int(flag, text.substr(dots + 2), knob.low, knob.high);
  if (last < first) throw_error(ErrorKind::kUsage, "{}: {} runs backwards", flag, text);
  for (int64_t value = first; value <= last; ++value) add(fmt::format("{}", value));
}

}  // namespace

std::string sweep_names() {
  std::vector<std::string> names;
  for (const Knob& knob : kKnobs) names.emplace_back(knob.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

Sweep parse_sweep(std::string_view flag, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not NAME=VALUES, such as temperature=0,0.5,1", flag,
                text);
  }
  Sweep sweep;
  sweep.name = text.substr(0, equals);
  const Knob* knob = find_knob(sweep.name);
  if (knob == nullptr) {
    throw_error(ErrorKind::kUsage, "{}: '{}' cannot be swept; there are {}", flag, sweep.name,
                sweep_names());
  }
  const std::string where = fmt::format("{} {}", flag, sweep.name);
  std::istringstream values(text.substr(equals + 1));
  for (std::string value; std::getline(values, value, ',');) {
    add_values(*knob, where, value, sweep);
  }
  if (sweep.values.empty()) throw_error(ErrorKind::kUsage, "{}: has no values", where);
  return sweep;
}

void check_sweeps(std::string_view flag, const std::vector<Sweep>& sweeps,
                  const std::vector<DrafterSpec>& drafters) {
  if (sweeps.size() > 2) {
    throw_error(ErrorKind::kUsage, "{}: is given {} times; two settings at most can be swept", flag,
                sweeps.size());
  }
  if (sweeps.size() == 2 && sweeps[0].name == sweeps[1].name) {
    throw_error(ErrorKind::kUsage, "{}: {} is given twice", flag, sweeps[0].name);
  }
  size_t points = 1;
  for (const Sweep& sweep : sweeps) {
    points *= sweep.values.size();
    if (sweep.name == "lookahead-tokens" &&
        std::ranges::count(drafters, kLookaheadMethod, &DrafterSpec::method) == 0) {
      throw_error(ErrorKind::kUsage, "{}: {} needs a drafter that has such: pass:DIR", flag,
                  sweep.name);
    }
  }
  if (points > kMaxPoints) {
    throw_error(ErrorKind::kUsage, "{}: these are {} points, more than {}", flag, points,
                kMaxPoints);
  }
}

int largest_batch(const std::vector<Sweep>& sweeps) {
  int largest = 0;
  for (const Sweep& sweep : sweeps) {
    if (sweep.name != "batch") continue;
    for (const std::string& value : sweep.values) largest = std::max(largest, std::stoi(value));
  }
  return largest;
}

std::vector<SweepPoint> sweep_points(const std::vector<Sweep>& sweeps) {
  std::vector<SweepPoint> points(1);
  for (const Sweep& sweep : sweeps) {
    std::vector<SweepPoint> longer;
    for (const SweepPoint& point : points) {
      for (const std::string& value : sweep.values) {
        longer.push_back(point);
        longer.back().push_back({sweep.name, value});
      }
    }
    points = std::move(longer);
  }
  return points;
}

std::string point_text(const SweepPoint& point) {
  std::string text;
  for (const SweepSetting& setting : point) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", setting.name, setting.value);
  }
  return text;
}

bool BenchConfiguration::same_drafter(const BenchConfiguration& other) const {
  const DrafterSpec &a = drafter, &b = other.drafter;
  return a.method == b.method && a.argument == b.argument &&
         a.limits.max_nodes == b.limits.max_nodes && a.limits.max_depth == b.limits.max_depth &&
         a.limits.top_k == b.limits.top_k && a.auto_size == b.auto_size &&
         a.shared_noise == b.shared_noise && a.ahead == b.ahead;
}

BenchConfiguration configure(const DrafterSpec& drafter, const SweepPoint& point) {
  BenchConfiguration configuration;
  configuration.drafter = drafter;
  for (const SweepSetting& setting : point) {
    const Knob* knob = find_knob(setting.name);
    CONVOKE_CHECK(knob != nullptr);
    if (knob->of_drafter && drafter.method == "none") continue;
    knob->set(configuration, setting.value);
  }
  return configuration;
}

}  // namespace convoke
