// Quantised weights as codes with a scale and a zero for each group of columns: the one form in memory of what GPTQ, AWQ,
// FP8, bitsandbytes and compressed-tensors write.
//   w[i, j] = round((level(code[i, j]) - zero[i, g]) * scale[i, g]) * factor,  g = the group of column j
// `round` is to the type that the format's reference computes in, so that values are the reference's, bit for bit.
#ifndef FORMATS_GROUPED_H
#define FORMATS_GROUPED_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/block.h"

typedef struct Grouped {
  const uint8_t *codes;  // [rows, columns] without gaps; of 4 bits two a byte
  int bits;  // 4 or 8
  bool high_first;  // of 4 bits: the first of two is the byte's high half
  const float *levels;  // [16 or 256], or NULL: a code is its own level
  const void *scales;  // [ceil(rows / row_group), groups] of scale_type
  const int16_t *zeros;  // the same shape, or NULL: `zero` everywhere
  BlockType scale_type;  // BLOCK_F32, BLOCK_F16 or BLOCK_BF16
  int zero;
  BlockType rounding;  // BLOCK_F16 or BLOCK_BF16; BLOCK_F32: none
  float factor;
  int64_t columns, groups, group, row_group;  // columns of a group (the last may be short), rows that share their scales
  const int32_t *group_of;  // [columns], or NULL: column / group
} Grouped;

extern const float grouped_e4m3_levels[256];  // FP8 E4M3 without infinities (Micikevicius et al. 2022); 0x7f and 0xff are NaN
extern const float grouped_signed_levels[256];  // of 8-bit two's complement

float grouped_scale(const Grouped *in, int64_t row, int64_t group);
static inline int64_t grouped_group_of(const Grouped *in, int64_t column) {
  return in->group_of ? in->group_of[column] : column / in->group;
}
static inline float grouped_zero(const Grouped *in, int64_t row, int64_t group) {
  return (float)(in->zeros ? in->zeros[row / in->row_group * in->groups + group] : in->zero);
}
static inline int64_t grouped_code_bytes(const Grouped *in, int64_t rows) { return (rows * in->columns * in->bits + 7) / 8; }
// Values first .. first + n - 1 of a row.
void grouped_dequantize(float *out, const Grouped *in, int64_t row, int64_t first, int64_t n);

#endif
