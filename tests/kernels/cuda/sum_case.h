// What ranks add up, and what must come of it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/tree_sum.h"

namespace convoke {

inline std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size_t(count), 0.0f);
  for (float& v : values) v = normal(engine) * std::ldexp(1.0f, int(engine() % 20) - 10);
  return values;
}

inline TensorView floats(const void* data, int64_t rows, int64_t columns) {
  return TensorView::matrix(const_cast<void*>(data), DType::kFloat32, rows, columns);
}
inline TensorView floats(const void* data, int64_t count) {
  return floats(data, 1, count);
}

/// What ranks add, and what must come of it.
struct SumCase {
  SumCase(int size, int64_t count, uint32_t seed = 0) {
    for (int r = 0; r < size; ++r) {
      contributions.push_back(random_floats(count, seed + uint32_t(r)));
      targets.push_back(random_floats(count, seed + 99));
    }
    std::vector<const float*> sources;
    for (const auto& c : contributions) sources.push_back(c.data());
    sum = targets[0];
    add_tree_sum(sources.data(), size, sum.data(), {0, count});
  }
  void expect_summed() const {
    for (const auto& target : targets) {
      EXPECT_EQ(std::memcmp(target.data(), sum.data(), sum.size() * sizeof(float)), 0);
    }
  }
  std::vector<std::vector<float>> contributions, targets;
  std::vector<float> sum;
};

}  // namespace convoke
