#include "kernels/dtype_convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

namespace convoke {
namespace {

TEST(DtypeConvert, EveryBfloat16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_to_float(uint16_t(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value))));
    } else {
      EXPECT_EQ(float_to_bf16(value), bits);
    }
  }
}

TEST(DtypeConvert, Bfloat16RoundsToNearestEven) {
  // Between two neighbours: the halfway point goes to the even one, its float neighbours do not.
  for (uint32_t low = 0; low < 0x7f80; ++low) {
    const uint32_t halfway = (low << 16) | 0x8000u;
    const uint16_t even = uint16_t(low % 2 == 0 ? low : low + 1);
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(halfway)), even);
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(halfway - 1)), low);
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(halfway + 1)), low + 1);
    ASSERT_EQ(float_to_bf16(-std::bit_cast<float>(halfway + 1)), (low + 1) | 0x8000u);
  }
}

TEST(DtypeConvert, Bfloat16NanWithOnlyLowBitsStaysNan) {
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0xffffffffu)))));
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

/// The definition, in double.
double half_value(uint32_t bits) {
  const double sign = (bits & 0x8000u) ? -1.0 : 1.0;
  const int exponent = int((bits >> 10) & 31u);
  const double mantissa = double(bits & 0x3ffu);
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024.0 + mantissa, exponent - 25);
}

TEST(DtypeConvert, EveryFloat16HasItsValueAndSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = half_value(bits);
    const float value = fp16_to_float(uint16_t(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(fp16_to_float(float_to_fp16(value))));
    } else {
      EXPECT_EQ(double(value), expected);
      EXPECT_EQ(std::signbit(value), std::signbit(expected));
      EXPECT_EQ(float_to_fp16(value), bits);
    }
  }
}

TEST(DtypeConvert, Float16RoundsToNearestEven) {
  for (uint32_t low = 0; low < 0x7c00; ++low) {
    // The halfway point to the next float16 (for the last one: to 2^16) is a float, exactly.
    const double next = low + 1 == 0x7c00 ? 65536.0 : half_value(low + 1);
    const float halfway = float((half_value(low) + next) / 2);
    const uint16_t even = uint16_t(low % 2 == 0 ? low : low + 1);
    ASSERT_EQ(float_to_fp16(halfway), even) << low;
    ASSERT_EQ(float_to_fp16(std::nextafter(halfway, 0.0f)), low);
    ASSERT_EQ(float_to_fp16(std::nextafter(halfway, INFINITY)), low + 1);
  }
}

nlohmann::json golden_float8() {
  std::ifstream file(CONVOKE_SOURCE_DIR "/tests/golden/float8.json");
  return nlohmann::json::parse(file);
}

TEST(DtypeConvert, EveryFloat8HasTheValueThatPyTorchGivesIt) {
  const nlohmann::json golden = golden_float8().at("values");
  ASSERT_EQ(golden.size(), 256u);
  int nans = 0;
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = e4m3_to_float(uint8_t(bits));
    if (golden[bits].is_null()) {
      ++nans;
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(bf16_to_float(e4m3_to_bf16(uint8_t(bits))))) << bits;
      EXPECT_EQ(float_to_e4m3(value), bits);
    } else {
      EXPECT_EQ(value, golden[bits].get<float>()) << bits;
      EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
      EXPECT_EQ(bf16_to_float(e4m3_to_bf16(uint8_t(bits))), value) << bits;
      EXPECT_EQ(float_to_e4m3(value), bits);
    }
  }
  EXPECT_EQ(nans, 2);
}

TEST(DtypeConvert, Float8RoundsAsPyTorchDoes) {
  const nlohmann::json rounded = golden_float8().at("rounded");
  ASSERT_GT(rounded.size(), 600u);
  for (const auto& pair : rounded) {
    const float value = std::bit_cast<float>(pair[0].get<uint32_t>());
    EXPECT_EQ(float_to_e4m3(value), pair[1].get<uint32_t>()) << value;
    EXPECT_EQ(float_to_e4m3(-value), pair[1].get<uint32_t>() + 128) << value;
  }
}

TEST(DtypeConvert, Float8EndsAt448) {
  for (const float value : {448.0f, 463.9f, 464.0f, 465.0f, 480.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(float_to_e4m3(value), 0x7e) << value;
    EXPECT_EQ(float_to_e4m3(-value), 0xfe) << value;
  }
  EXPECT_EQ(float_to_e4m3(std::bit_cast<float>(0x7f800001u)), 0x7f);
  EXPECT_EQ(float_to_e4m3(std::bit_cast<float>(0xffc00000u)), 0xff);
}

}  // namespace
}  // namespace convoke
