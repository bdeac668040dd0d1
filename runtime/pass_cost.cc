#include "runtime/pass_cost.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/check.h"

namespace convoke {
namespace {

constexpr double kScaleRate = 0.08;  // share of a pass's news that goes to all points
constexpr double kPointRate = 0.04;  // and to its neighbours
constexpr double kMostNews = 1.5;    // a pass counts as at most so much slower or faster
constexpr size_t kMostPoints = 64;

}  // namespace

PassCost::PassCost(std::span<const Point> measured) {
  for (const Point& p : measured) {
    if (p.rows < 1 || !(p.seconds > 0.0) || !std::isfinite(p.seconds)) {
      throw_error(ErrorKind::kUsage, "a pass of {} rows cannot take {} s", p.rows, p.seconds);
    }
    insert(p.rows, p.seconds);
  }
  make_monotone();
}

void PassCost::insert(int rows, double seconds) {
  const auto at = std::ranges::lower_bound(points_, rows, {}, &Point::rows);
  if (at != points_.end() && at->rows == rows) {
    at->seconds = std::min(at->seconds, seconds);  // measured twice: the undisturbed one
  } else {
    points_.insert(at, {rows, seconds});
  }
}

/// What disturbs a pass makes it slower, so where a point lies above one of more rows, it is the
/// one that is wrong.
void PassCost::make_monotone() {
  monotone_.resize(points_.size());
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = points_.size(); i-- > 0;) {
    least = std::min(least, points_[i].seconds);
    monotone_[i] = least;
  }
}

/// Points stand closer where passes are: what a pass takes can have steps.
bool PassCost::needs_point(int rows) const {
  const int apart = std::max(1, rows / 8);
  return points_.size() < kMostPoints && std::ranges::none_of(points_, [=](const Point& p) {
           return std::abs(p.rows - rows) < apart;
         });
}

PassCost::Place PassCost::place(int rows) const {
  if (points_.size() < 2 || rows <= points_[0].rows) return {};
  const auto above = std::ranges::upper_bound(points_, rows, {}, &Point::rows);
  const auto upper = std::min(size_t(above - points_.begin()), points_.size() - 1);
  const Point &a = points_[upper - 1], &b = points_[upper];
  return {upper - 1, double(rows - a.rows) / double(b.rows - a.rows)};  // > 1 beyond the last
}

double PassCost::shape(int rows) const {
  if (points_.empty()) return 1.0;
  const Place at = place(rows);
  if (at.upper == 0.0) return monotone_[at.lower];
  return monotone_[at.lower] + at.upper * (monotone_[at.lower + 1] - monotone_[at.lower]);
}

double PassCost::seconds(int rows) const {
  return rows <= 0 ? 0.0 : scale_ * shape(rows);
}

void PassCost::observe(int rows, double seconds) {
  if (rows < 1 || !(seconds > 0.0) || !std::isfinite(seconds)) return;
  if (needs_point(rows)) {
    const bool beyond = points_.empty() || rows > points_.back().rows;
    insert(rows, beyond ? seconds / scale_ : shape(rows));
    make_monotone();
  }
  const double news = std::log(std::clamp(seconds / this->seconds(rows), 1 / kMostNews, kMostNews));
  scale_ *= std::exp(kScaleRate * news);
  const Place at = place(rows);
  const double upper = std::min(at.upper, 1.0);
  points_[at.lower].seconds *= std::exp(kPointRate * (1.0 - upper) * news);
  if (upper > 0.0) points_[at.lower + 1].seconds *= std::exp(kPointRate * upper * news);
  make_monotone();
}

}  // namespace convoke
