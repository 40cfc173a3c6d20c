// Eight floats side by side, in GCC's and clang's vector types: plain C that becomes whatever vectors the target has. Values pass by
// pointer, never by value, so that the calling convention does not depend on the target.
#ifndef CORE_VECTOR_H
#define CORE_VECTOR_H

#include <stdint.h>

enum { LANES = 8 };
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t LanesMask __attribute__((vector_size(LANES * sizeof(int32_t))));  // of a comparison: all bits of a lane or none

#define LANES_SELECT(mask, a, b) ((Lanes)(((LanesMask)(a) & (mask)) | ((LanesMask)(b) & ~(mask))))
#define LANES_SPLAT(value) ((Lanes){0} + (value))
// To the nearest integer, ties to even; for magnitudes below 2^22.
#define LANES_ROUND(a) (((a) + 0x1.8p23f) - 0x1.8p23f)

// A function compiled for AVX2 as well as for the target, and chosen when the program is loaded: both give the same bits, since
// products are nowhere fused with sums. Sanitizers start later than that choice.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define VECTOR_CLONES
#endif
#define VECTOR_INLINE static inline __attribute__((always_inline))

#endif
