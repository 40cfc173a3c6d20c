// The types of CUDA's headers that kernels and this backend use, by the same names, for machines without the toolkit: vectors, and the two
// 16-bit floats, whose conversions round to nearest even as the device's do.
#ifndef KERNELS_CUDA_SIMULATOR_TYPES_H
#define KERNELS_CUDA_SIMULATOR_TYPES_H

#include <cstdint>
#include <cstring>
#ifdef __F16C__
#include <immintrin.h>
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define SIMULATED_VECTORS(element, name)                                        \
  struct alignas(2 * sizeof(element)) name##2 {                                 \
    element x, y;                                                               \
  };                                                                            \
  struct alignas(4 * sizeof(element) > 16 ? 16 : 4 * sizeof(element)) name##4 { \
    element x, y, z, w;                                                         \
  };                                                                            \
  inline name##2 make_##name##2(element x, element y) { return {x, y}; }        \
  inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }
SIMULATED_VECTORS(signed char, char)
SIMULATED_VECTORS(unsigned char, uchar)
SIMULATED_VECTORS(short, short)
SIMULATED_VECTORS(unsigned short, ushort)
SIMULATED_VECTORS(int, int)
SIMULATED_VECTORS(unsigned, uint)
SIMULATED_VECTORS(float, float)
#undef SIMULATED_VECTORS
struct alignas(16) double2 {
  double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }
struct alignas(16) longlong2 {
  long long x, y;
};
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }

namespace simulator {
template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace simulator

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return simulator::bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits = simulator::bits_as<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN has one form
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

inline float __half2float(__half x) {
#ifdef __F16C__
  return _cvtsh_ss(x.bits);
#else
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ff;
  if (exponent == 31) return simulator::bits_as<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent) return simulator::bits_as<float>(sign | (exponent + 112) << 23 | fraction << 13);
  float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // subnormal
  return sign ? -magnitude : magnitude;
#endif
}
inline __half __float2half_rn(float x) {
  uint32_t bits = simulator::bits_as<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7fff};
#ifdef __F16C__
  return {static_cast<uint16_t>(_cvtss_sh(x, 0))};
#else
  uint32_t sign = bits >> 16 & 0x8000;
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00)};  // from 65520 on
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves multiples of 2^-24, rounded, in the low bits
    float shifted = simulator::bits_as<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (simulator::bits_as<uint32_t>(shifted) - 0x3f000000u))};
  }
  return {static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13)};
#endif
}
inline __half __float2half(float x) { return __float2half_rn(x); }

inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t x) { return {x}; }
inline uint16_t __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(uint16_t x) { return {x}; }

#endif
