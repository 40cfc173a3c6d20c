// Vectors of activations, which are float32 or bfloat16 (kernels/rows.h). `type` is a constant where these are used, so that
// each kernel is compiled once for either: BY_TYPE(type, f(..., TYPE)) calls f with the one that it is.
#ifndef KERNELS_CPU_TYPED_H
#define KERNELS_CPU_TYPED_H

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define BY_TYPE(type, call)       \
  do {                            \
    if ((type) == FLOAT_BF16) {   \
      enum { TYPE = FLOAT_BF16 }; \
      call;                       \
    } else {                      \
      enum { TYPE = FLOAT_32 };   \
      call;                       \
    }                             \
  } while (0)

// The same for two: X_TYPE and Y_TYPE.
#define BY_TYPES(x_type, y_type, call) \
  do {                                 \
    if ((x_type) == FLOAT_BF16) {      \
      enum { X_TYPE = FLOAT_BF16 };    \
      if ((y_type) == FLOAT_BF16) {    \
        enum { Y_TYPE = FLOAT_BF16 };  \
        call;                          \
      } else {                         \
        enum { Y_TYPE = FLOAT_32 };    \
        call;                          \
      }                                \
    } else {                           \
      enum { X_TYPE = FLOAT_32 };      \
      if ((y_type) == FLOAT_BF16) {    \
        enum { Y_TYPE = FLOAT_BF16 };  \
        call;                          \
      } else {                         \
        enum { Y_TYPE = FLOAT_32 };    \
        call;                          \
      }                                \
    }                                  \
  } while (0)

// The first `count` of VL values from element i on (all from VL on); the others are 0.
ALWAYS_INLINE Vec typed_load(const void *data, int64_t i, int64_t count, int type) {
  if (type == FLOAT_32) return vec_load_first((const float *)data + i, count);
  const uint16_t *from = (const uint16_t *)data + i;
  if (count >= VL) return vec_load_bfloat16(from);
  uint16_t some[VL] = {0};
  memcpy(some, from, (size_t)larger(count, 0) * sizeof *some);
  return vec_load_bfloat16(some);
}

// The same, stored; rounded to nearest even.
ALWAYS_INLINE void typed_store(void *data, int64_t i, Vec v, int64_t count, int type) {
  if (type == FLOAT_32) {
    vec_store_first((float *)data + i, v, count);
    return;
  }
  uint16_t *to = (uint16_t *)data + i;
  if (count >= VL) {
    vec_store_bfloat16(to, v);
    return;
  }
  uint16_t some[VL];
  vec_store_bfloat16(some, v);
  memcpy(to, some, (size_t)larger(count, 0) * sizeof *some);
}

// 1 / a as precise as `type` can hold.
ALWAYS_INLINE Vec typed_reciprocal(Vec a, int type) { return type == FLOAT_BF16 ? vec_estimate_reciprocal(a) : vec_reciprocal(a); }

// VL values around the caches, to a place that is aligned to as many bytes.
ALWAYS_INLINE void typed_stream(void *data, int64_t i, Vec v, int type) {
  if (type == FLOAT_32) vec_stream((float *)data + i, v);
  else vec_stream_bfloat16((uint16_t *)data + i, v);
}

// rows[first .. first + count - 1][columns] as float32, *step apart: in place, or converted into buffer[count][round_up(columns, VL)].
static inline const float *rows_as_floats(Rows rows, int64_t first, int64_t count, int64_t columns, float *buffer, int64_t *step) {
  *step = rows.step;
  if (rows.type == FLOAT_32) return (const float *)rows.data + first * rows.step;
  *step = round_up(columns, VL);
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < columns; c += VL)
      vec_store(buffer + i * *step + c, typed_load(rows.data, (first + i) * rows.step + c, columns - c, FLOAT_BF16));
  return buffer;
}

#endif
