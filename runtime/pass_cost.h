// What a pass of the target takes, by its rows: measured at a few row counts at start-up, and kept
// true by the passes observed since. Pure: seconds are passed in.
#pragma once

#include <span>
#include <vector>

namespace convoke {

class PassCost {
 public:
  struct Point {
    int rows = 0;
    double seconds = 0.0;
  };
  /// `measured` in any order; may be empty (then all passes cost alike until some are observed).
  /// Throws Error(kUsage) for rows < 1 or seconds that are not positive.
  explicit PassCost(std::span<const Point> measured = {});

  /// Interpolated between the points, continued along the last segment beyond them; never less for
  /// more rows. 0 rows take no pass and cost nothing.
  double seconds(int rows) const;

  /// A pass that took place. Its neighbours among the points move towards it; what one pass can do
  /// is bounded, so that a hiccup of the machine is forgotten soon.
  void observe(int rows, double seconds);

  std::span<const Point> points() const { return points_; }

 private:
  double raw_seconds(int rows) const;
  void add_point(int rows);
  void make_monotone();

  std::vector<Point> points_;     ///< ascending by rows, as corrected so far
  std::vector<double> monotone_;  ///< the same, never descending
};

}  // namespace convoke
