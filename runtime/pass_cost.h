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

  /// How slow the machine is now against when the points were measured.
  double slowness() const { return scale_; }

  /// A pass that took place. It corrects what all passes cost (the machine is slower, the context
  /// longer) and, more slowly, the points next to it, of which there will be one close by. What one
  /// pass can do is bounded, so that a hiccup is forgotten soon. Ignored unless rows >= 1 and
  /// seconds > 0.
  void observe(int rows, double seconds);

 private:
  struct Place {
    size_t lower = 0;  ///< point before
    double upper = 0;  ///< share of the point after it
  };
  Place place(int rows) const;
  double shape(int rows) const;
  bool needs_point(int rows) const;
  void insert(int rows, double seconds);
  void make_monotone();

  std::vector<Point> points_;     ///< ascending by rows
  std::vector<double> monotone_;  ///< their seconds, never descending
  double scale_ = 1.0;
};

}  // namespace convoke
