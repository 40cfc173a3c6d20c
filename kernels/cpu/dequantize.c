// Groups of 32 elements of each block type, dequantised in registers; formats/block.h says what a block holds.
// The values are those of the block's scalar reference, bit for bit: every product of a scale (11 bits, or 17 after
// a K block's sub-scale) and a quantised level (at most 7 bits) that a shift is added to is exact, so a fused multiply-add rounds as it does.
#include "kernels/cpu/dequantize.h"

#include "kernels/cpu/unpack.h"

enum { GROUP_VECS = GROUP / VL };
enum { SUM_GROUPS = 4 / GROUP_VECS };  // so many groups fill the four accumulators of a dot product once

typedef struct Row {
  const Matrix *w;
  const uint8_t *bytes;  // of the row
  int64_t start;  // the row's first element in the flattened matrix
  int64_t row;
} Row;

static Row matrix_row(const Matrix *w, int64_t row) {
  Row out = {.w = w, .start = (w->first_row + row) * w->columns, .row = w->first_row + row};
  if (w->type == BLOCK_NF4) out.bytes = w->nf4.packed + out.start / 2;
  else if (w->type == BLOCK_GROUPED) out.bytes = w->grouped->codes + out.start * w->grouped->bits / 8;
  else out.bytes = (const uint8_t *)w->data + row * block_row_bytes(w->type, w->columns);
  return out;
}

static inline void scale_bytes(Vec out[GROUP_VECS], __m256i bytes, float scale) {
  vec_from_bytes(out, bytes);
  for (int i = 0; i < GROUP_VECS; i++) out[i] *= vec_set(scale);
}

static inline void scale_and_shift_bytes(Vec out[GROUP_VECS], __m256i bytes, float scale, float shift) {
  vec_from_bytes(out, bytes);
  for (int i = 0; i < GROUP_VECS; i++) out[i] = vec_fma(out[i], vec_set(scale), vec_set(shift));
}

static inline void q4_0_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * Q4_0_BYTES;
  scale_bytes(out, _mm256_sub_epi8(q4_0_levels(block), _mm256_set1_epi8(8)), load_scale(block));
}

static inline void q4_1_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * Q4_1_BYTES;
  scale_and_shift_bytes(out, q4_1_levels(block), load_scale(block), load_scale(block + 2));
}

static inline void q5_0_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * Q5_0_BYTES;
  scale_bytes(out, _mm256_sub_epi8(q5_0_levels(block), _mm256_set1_epi8(16)), load_scale(block));
}

static inline void q5_1_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * Q5_1_BYTES;
  scale_and_shift_bytes(out, q5_1_levels(block), load_scale(block), load_scale(block + 2));
}

static inline void q8_0_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * Q8_0_BYTES;
  scale_bytes(out, q8_0_levels(block), load_scale(block));
}

static inline void iq4_nl_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * IQ4_NL_BYTES;
  scale_bytes(out, iq4_nl_levels(block), load_scale(block));
}

static inline void mxfp4_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group * MXFP4_BYTES;
  scale_bytes(out, mxfp4_levels(block), mxfp4_scale(block[0]));
}

static inline void q2_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q2_K_BYTES;
  int64_t j = group % K_GROUPS;
  vec_from_bytes(out, q2_k_levels(block, j));
  float d = load_scale(block + 80), dmin = load_scale(block + 82);
  for (int i = 0; i < GROUP_VECS; i++) {
    uint8_t own = block[2 * j + i / (GROUP_VECS / 2)];
    out[i] = vec_fma(out[i], vec_set(d * (float)(own & 15)), vec_set(-(dmin * (float)(own >> 4))));
  }
}

// Levels around zero with a scale for each half of the group.
static inline void scale_halves(Vec out[GROUP_VECS], __m256i bytes, float scale, const int8_t scales[2]) {
  vec_from_bytes(out, bytes);
  for (int i = 0; i < GROUP_VECS; i++) out[i] *= vec_set(scale * scales[i / (GROUP_VECS / 2)]);
}

static inline void q3_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q3_K_BYTES;
  int64_t j = group % K_GROUPS;
  int8_t scales[2 * K_GROUPS];
  _mm_storeu_si128((__m128i *)scales, q3_k_scales(block));
  scale_halves(out, _mm256_sub_epi8(q3_k_levels(block, j), _mm256_set1_epi8(4)), load_scale(block + 108), scales + 2 * j);
}

static inline void k_group(Vec out[GROUP_VECS], __m256i levels, const uint8_t *block, int64_t j) {
  uint64_t scales, minima;
  k_scales(&scales, &minima, block + 4);
  float scale = (float)(scales >> 8 * j & 63), minimum = (float)(minima >> 8 * j & 63);
  scale_and_shift_bytes(out, levels, load_scale(block) * scale, -(load_scale(block + 2) * minimum));
}

static inline void q4_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q4_K_BYTES;
  k_group(out, q4_k_levels(block, group % K_GROUPS), block, group % K_GROUPS);
}

static inline void q5_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q5_K_BYTES;
  k_group(out, q5_k_levels(block, group % K_GROUPS), block, group % K_GROUPS);
}

static inline void q6_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q6_K_BYTES;
  int64_t j = group % K_GROUPS;
  __m256i levels = _mm256_sub_epi8(q6_k_levels(block, j), _mm256_set1_epi8(32));
  scale_halves(out, levels, load_scale(block + 208), (const int8_t *)block + 192 + 2 * j);
}

static inline void q8_k_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * Q8_K_BYTES;
  scale_bytes(out, q8_k_levels(block, group % K_GROUPS), load_float(block));
}

static inline void iq4_xs_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * IQ4_XS_BYTES;
  int64_t j = group % K_GROUPS;
  scale_bytes(out, iq4_xs_levels(block, j), load_scale(block) * (float)iq4_xs_scale(block, j));
}

static inline void tq1_0_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * TQ1_0_BYTES;
  scale_bytes(out, _mm256_sub_epi8(tq1_0_levels(block, group % K_GROUPS), _mm256_set1_epi8(1)), load_scale(block + 52));
}

static inline void tq2_0_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  const uint8_t *block = row.bytes + group / K_GROUPS * TQ2_0_BYTES;
  scale_bytes(out, _mm256_sub_epi8(tq2_0_levels(block, group % K_GROUPS), _mm256_set1_epi8(1)), load_scale(block + 64));
}

static inline void nf4_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  __m128i packed = _mm_loadu_si128((const __m128i *)(row.bytes + group * (GROUP / 2))), mask = _mm_set1_epi8(15);
  __m128i first = _mm_and_si128(_mm_srli_epi16(packed, 4), mask), second = _mm_and_si128(packed, mask);
  vec_lookup_bytes(out, nf4_levels, _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second)));
  Vec scale = vec_set(nf4_block_scale(&row.w->nf4, (row.start + group * GROUP) / NF4_BLOCK));
  for (int i = 0; i < GROUP_VECS; i++) out[i] *= scale;
}

// Scales and zeros of 32 columns that are not of one group.
static inline void many_groups(float scales[GROUP], float zeros[GROUP], const Grouped *in, int64_t row, int64_t column) {
  for (int64_t i = 0; i < GROUP; i++) {
    int64_t group = grouped_group_of(in, column + i);
    scales[i] = grouped_scale(in, row, group);
    zeros[i] = grouped_zero(in, row, group);
  }
}

static inline __m256i grouped_codes(const Grouped *in, const uint8_t *bytes, int64_t column) {
  if (in->bits == 8) return load_bytes(bytes + column);
  __m128i packed = _mm_loadu_si128((const __m128i *)(bytes + column / 2)), mask = _mm_set1_epi8(15);
  __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), mask), low = _mm_and_si128(packed, mask);
  __m128i first = in->high_first ? high : low, second = in->high_first ? low : high;
  return _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second));
}

static inline void grouped_levels(Vec out[GROUP_VECS], const Grouped *in, __m256i codes) {
  if (!in->levels && in->bits == 4) {
    vec_from_bytes(out, codes);
  } else if (!in->levels) {  // vec_from_bytes takes bytes with a sign
    vec_from_bytes(out, _mm256_xor_si256(codes, _mm256_set1_epi8(-128)));
    for (int i = 0; i < GROUP_VECS; i++) out[i] += vec_set(128);
  } else if (in->bits == 4) {
    vec_lookup_bytes(out, in->levels, codes);
  } else {
    uint8_t each[GROUP];
    float levels[GROUP];
    _mm256_storeu_si256((__m256i *)each, codes);
    for (int i = 0; i < GROUP; i++) levels[i] = in->levels[each[i]];
    for (int i = 0; i < GROUP_VECS; i++) out[i] = vec_load(levels + i * VL);
  }
}

static inline void grouped_group(Vec out[GROUP_VECS], Row row, int64_t index) {
  const Grouped *in = row.w->grouped;
  int64_t column = index * GROUP;
  grouped_levels(out, in, grouped_codes(in, row.bytes, column));
  if (!in->group_of && in->group % GROUP == 0) {
    Vec scale = vec_set(grouped_scale(in, row.row, column / in->group)), zero = vec_set(grouped_zero(in, row.row, column / in->group));
    for (int i = 0; i < GROUP_VECS; i++) out[i] = (out[i] - zero) * scale;
  } else {
    float scales[GROUP], zeros[GROUP];
    many_groups(scales, zeros, in, row.row, column);
    for (int i = 0; i < GROUP_VECS; i++) out[i] = (out[i] - vec_load(zeros + i * VL)) * vec_load(scales + i * VL);
  }
  for (int i = 0; i < GROUP_VECS; i++) {
    if (in->rounding == BLOCK_F16) out[i] = vec_round_to_half(out[i]);
    if (in->rounding == BLOCK_BF16) out[i] = vec_round_to_bfloat16(out[i]);
    out[i] *= vec_set(in->factor);
  }
}

static inline void f16_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  for (int i = 0; i < GROUP_VECS; i++) out[i] = vec_load_half((const uint16_t *)row.bytes + group * GROUP + i * VL);
}

static inline void bf16_group(Vec out[GROUP_VECS], Row row, int64_t group) {
  for (int i = 0; i < GROUP_VECS; i++) out[i] = vec_load_bfloat16((const uint16_t *)row.bytes + group * GROUP + i * VL);
}

// Four accumulators, the sum of all lanes in a fixed tree.
static inline float sum_of_four(const Vec sums[4]) { return vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3])); }

#define GROUP_FUNCTIONS(TYPE, type)                                                              \
  static void type##_dequantize_groups(float *out, Row row, int64_t first, int64_t groups) {     \
    for (int64_t g = 0; g < groups; g++) {                                                       \
      Vec values[GROUP_VECS];                                                                    \
      type##_group(values, row, first / GROUP + g);                                              \
      for (int i = 0; i < GROUP_VECS; i++) vec_store(out + g * GROUP + i * VL, values[i]);       \
    }                                                                                            \
  }                                                                                              \
  static float type##_dot(Row row, const float *x, int64_t groups) {                             \
    Vec sums[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};                              \
    for (int64_t first = 0; first < groups; first += SUM_GROUPS)                                 \
      for (int64_t g = 0; g < SUM_GROUPS && first + g < groups; g++) {                           \
        Vec values[GROUP_VECS];                                                                  \
        type##_group(values, row, first + g);                                                    \
        for (int i = 0; i < GROUP_VECS; i++) {                                                   \
          const float *at = x + (first + g) * GROUP + i * VL;                                    \
          sums[g * GROUP_VECS + i] = vec_fma(values[i], vec_load(at), sums[g * GROUP_VECS + i]); \
        }                                                                                        \
      }                                                                                          \
    return sum_of_four(sums);                                                                    \
  }

#ifdef __AVX512BF16__
#define WORD_FUNCTION(TYPE, type)                                                                \
  static void type##_words(uint16_t *out, Row row, int64_t first, int64_t groups, float alpha) { \
    for (int64_t g = 0; g < groups; g++) {                                                       \
      Vec values[GROUP_VECS];                                                                    \
      type##_group(values, row, first / GROUP + g);                                              \
      store_words(out + g * GROUP, values, alpha);                                               \
    }                                                                                            \
  }
static inline void store_words(uint16_t *out, const Vec values[GROUP_VECS], float alpha) {
  _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(values[1] * vec_set(alpha), values[0] * vec_set(alpha)));
}
#define WORDS_OF(type) , type##_words
#else
#define WORD_FUNCTION(TYPE, type)
#define WORDS_OF(type)
#endif

// Every type but float32, which is read in place.
#define FOR_TYPES(of)                                                                                                                     \
  of(F16, f16) of(BF16, bf16) of(Q4_0, q4_0) of(Q4_1, q4_1) of(Q5_0, q5_0) of(Q5_1, q5_1) of(Q8_0, q8_0) of(Q2_K, q2_k) of(Q3_K, q3_k)    \
      of(Q4_K, q4_k) of(Q5_K, q5_k) of(Q6_K, q6_k) of(Q8_K, q8_k) of(IQ4_NL, iq4_nl) of(IQ4_XS, iq4_xs) of(MXFP4, mxfp4) of(TQ1_0, tq1_0) \
          of(TQ2_0, tq2_0) of(NF4, nf4) of(GROUPED, grouped)
FOR_TYPES(GROUP_FUNCTIONS)
FOR_TYPES(WORD_FUNCTION)

typedef struct RowFunctions {
  void (*dequantize)(float *out, Row row, int64_t first, int64_t groups);
  float (*dot)(Row row, const float *x, int64_t groups);
#ifdef __AVX512BF16__
  void (*words)(uint16_t *out, Row row, int64_t first, int64_t groups, float alpha);
#endif
} RowFunctions;

#define ROW_FUNCTIONS(TYPE, type) \
  case BLOCK_##TYPE: return (RowFunctions){type##_dequantize_groups, type##_dot WORDS_OF(type)};
static RowFunctions row_functions(BlockType type) {
  switch (type) {
    FOR_TYPES(ROW_FUNCTIONS)
    case BLOCK_F32:
    case BLOCK_DEVICE: break;
  }
  return (RowFunctions){0};
}

// NF4 blocks run on from row to row, so that groups of 32 of a row may straddle them, and so may the bytes of 4-bit codes; plain floats may
// end within a group.
static int64_t whole_groups(const Matrix *w, int64_t count) {
  bool runs_on = w->type == BLOCK_NF4 ? w->columns % GROUP != 0 : w->type == BLOCK_GROUPED && w->grouped->bits == 4 && w->columns % 2;
  return runs_on ? 0 : count / GROUP;
}

const float *matrix_segment(const Matrix *w, int64_t row, int64_t first, int64_t count, float *buffer) {
  if (w->type == BLOCK_F32) return (const float *)w->data + row * w->columns + first;
  int64_t groups = whole_groups(w, count), done = groups * GROUP;
  if (groups > 0) row_functions(w->type).dequantize(buffer, matrix_row(w, row), first, groups);
  if (done < count) matrix_dequantize(buffer + done, w, row, first + done, count - done);
  return buffer;
}

#ifdef __AVX512BF16__
const uint16_t *matrix_words(const Matrix *w, int64_t row, int64_t first, int64_t count, float alpha, uint16_t *buffer) {
  bool is_whole = count % GROUP == 0;
  if (w->type == BLOCK_BF16 && alpha == 1 && is_whole) return (const uint16_t *)w->data + row * w->columns + first;
  int64_t groups = whole_groups(w, count), done = groups * GROUP;
  if (w->type == BLOCK_F32) {
    const float *from = (const float *)w->data + row * w->columns + first;
    for (int64_t i = 0; i < count; i += GROUP)
      store_words(buffer + i, (Vec[]){vec_load_first(from + i, count - i), vec_load_first(from + i + VL, count - i - VL)}, alpha);
    return buffer;
  }
  if (groups > 0) row_functions(w->type).words(buffer, matrix_row(w, row), first, groups, alpha);
  for (; done < count; done += GROUP) {
    float some[GROUP] = {0};
    matrix_dequantize(some, w, row, first + done, smaller(GROUP, count - done));
    store_words(buffer + done, (Vec[]){vec_load(some), vec_load(some + VL)}, alpha);
  }
  return buffer;
}
#endif

MatrixBytes matrix_bytes(const Matrix *w, int64_t row, int64_t first, int64_t count) {
  int64_t step = w->type == BLOCK_NF4       ? w->columns / 2
                 : w->type == BLOCK_GROUPED ? w->columns * w->grouped->bits / 8
                                            : block_row_bytes(w->type, w->columns);
  const char *bytes = (const char *)matrix_row(w, row).bytes + first * step / w->columns;
  return (MatrixBytes){bytes, step, count * step / w->columns + 63};
}

bool is_dot_fused(const Matrix *w) { return w->type != BLOCK_F32 && w->columns % GROUP == 0; }

float matrix_dot(const Matrix *w, int64_t row, const float *x) {
  return row_functions(w->type).dot(matrix_row(w, row), x, w->columns / GROUP);
}

// dot_rows for `rows` (1 to FEW_ROWS) rows of x at once: as many sums as registers hold.
#ifdef __AVX512F__
enum { FEW_ROWS = 4 };
#else
enum { FEW_ROWS = 3 };
#endif
ALWAYS_INLINE void dot_few_rows(float *out, const float *w, const float *x, int64_t x_step, int64_t columns, int rows) {
  Vec sums[FEW_ROWS][4];
  for (int r = 0; r < rows; r++)
    for (int a = 0; a < 4; a++) sums[r][a] = vec_zero();
  int64_t c = 0;
  for (; c + 4 * VL <= columns; c += 4 * VL)
    for (int a = 0; a < 4; a++) {
      Vec weights = vec_load(w + c + a * VL);
      for (int r = 0; r < rows; r++) sums[r][a] = vec_fma(weights, vec_load(x + r * x_step + c + a * VL), sums[r][a]);
    }
  for (int a = 0; a < 4 && c + a * VL < columns; a++) {
    int64_t at = c + a * VL, left = columns - at;
    Vec weights = vec_load_first(w + at, left);
    for (int r = 0; r < rows; r++) sums[r][a] = vec_fma(weights, vec_load_first(x + r * x_step + at, left), sums[r][a]);
  }
  for (int r = 0; r < rows; r++) out[r] = sum_of_four(sums[r]);
}

void dot_rows(float *out, const float *w, const float *x, int64_t x_step, int64_t n, int64_t columns) {
  int64_t i = 0;
  for (; i + FEW_ROWS <= n; i += FEW_ROWS) dot_few_rows(out + i, w, x + i * x_step, x_step, columns, FEW_ROWS);
  if (n - i == 3) dot_few_rows(out + i, w, x + i * x_step, x_step, columns, 3);
  if (n - i == 2) dot_few_rows(out + i, w, x + i * x_step, x_step, columns, 2);
  if (n - i == 1) dot_few_rows(out + i, w, x + i * x_step, x_step, columns, 1);
}
