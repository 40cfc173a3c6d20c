// The forward products of generation, row by row; x is rounded to 8 bits where w is quantised in blocks of integer levels.
#include <math.h>
#include <string.h>

#include "kernels/cpu/int8.h"
#include "kernels/cpu/linear_stream.h"

static void round_block(const Int8Row *row, int64_t block, const float *x) {
  int32_t largest = 0;  // of non-negative floats, the larger has the larger bits; a NaN's are larger than all
  for (int i = 0; i < INT8_BLOCK; i++) {
    int32_t bits;
    memcpy(&bits, &x[i], sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float maximum, scale = 0, inverse = 0;
  memcpy(&maximum, &largest, sizeof maximum);
  if (!(maximum < INFINITY)) scale = NAN;
  else if (maximum > INT8_SMALLEST) scale = maximum / 127, inverse = 127 / maximum;
  int8_t *levels = (int8_t *)(uintptr_t)row->levels + block * INT8_BLOCK;
  int32_t *negatives = (int32_t *)(uintptr_t)row->negatives + block * INT8_LANES, sum = 0;
  if (inverse > 0)
    for (int i = 0; i < INT8_BLOCK; i++) levels[i] = (int8_t)(int32_t)rintf(x[i] * inverse);
  else memset(levels, 0, INT8_BLOCK);
  for (int lane = 0; lane < INT8_LANES; lane++) {
    const int8_t *four = levels + 4 * lane;
    negatives[lane] = -(four[0] + four[1] + four[2] + four[3]);
    sum -= negatives[lane];
  }
  float *scales = (float *)(uintptr_t)row->scales, *sums = (float *)(uintptr_t)row->sums, *pairs = (float *)(uintptr_t)row->pairs;
  scales[block] = pairs[2 * block] = scale;
  sums[block] = pairs[2 * block + 1] = scale * (float)sum;
}

void int8_round_row(char *rows, int64_t i, const float *x, int64_t columns) {
  Int8Row row = int8_row(rows, i, columns);
  for (int64_t block = 0; block < columns / INT8_BLOCK; block++) round_block(&row, block, x + block * INT8_BLOCK);
}

void int8_rows_lay_out(Int8Rows *rows, char *room) {
  int64_t blocks = rows->columns / INT8_BLOCK, even = round_up(blocks, 2), places = even / 2 * INT8_PANEL_ROWS;
  int8_t *levels = (int8_t *)room;
  int32_t *negatives = (int32_t *)(void *)(room + places * INT8_PAIR);
  float *scales = (float *)(void *)(negatives + places * 2 * INT8_LANES), *sums = scales + places * 2 * INT8_LANES;
  for (int64_t b = 0; b < even; b++)
    for (int r = 0; r < INT8_PANEL_ROWS; r++) {
      int64_t at = (b / 2 * INT8_PANEL_ROWS + r) * 2 + b % 2;  // in halves of a pair
      bool is_there = r < rows->count && b < blocks;
      const Int8Row *row = &rows->rows[r];
      float scale = is_there ? row->scales[b] : 0;
      if (is_there) memcpy(levels + at * INT8_BLOCK, row->levels + b * INT8_BLOCK, INT8_BLOCK);
      else memset(levels + at * INT8_BLOCK, 0, INT8_BLOCK);
      for (int lane = 0; lane < INT8_LANES; lane++) {
        negatives[at * INT8_LANES + lane] = is_there ? row->negatives[b * INT8_LANES + lane] : 0;
        scales[at * INT8_LANES + lane] = scale;
      }
      sums[b * INT8_PANEL_ROWS + r] = is_there ? row->sums[b] : 0;
    }
  rows->levels = levels, rows->negatives = negatives, rows->scales = scales, rows->sums_by_block = sums;
}

Int8Dot int8_dot_here(BlockType type) {
#if defined(__AVX512VL__) && !defined(__AVX512VNNI__)
  if (__builtin_cpu_supports("avx512vnni")) return int8_dot_avx512vnni(type);
#endif
  return int8_dot(type);
}

Int8Panel int8_panel_here(BlockType type) {
#if defined(__AVX512VL__) && !defined(__AVX512VNNI__)
  if (__builtin_cpu_supports("avx512vnni")) return int8_panel_avx512vnni(type);
#endif
  return int8_panel(type);
}

// STREAM_ROWS rows at a time.
static void stream(const Projection *projections, int count, Rows x, int64_t n, bool rounds, Backend *backend) {
  for (int64_t first = 0; first < n && count; first += STREAM_ROWS) {
    Projection part[LINEAR_PROJECTIONS];
    for (int i = 0; i < count; i++) part[i] = projection_from(projections[i], first);
    linear_stream(part, count, rows_from(x, first * x.step), smaller(STREAM_ROWS, n - first), rounds, backend);
  }
}

// Rows too long for a thread's scratch go by products, whose rows do not depend on each other either.
void cpu_linear_forward_rows(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  bool fits = projections[0].w->columns <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float));
  if (fits) stream(projections, count, x, n, false, backend);
  else cpu_linear_forward(projections, count, x, n, backend);
}

void cpu_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Projection rounded[LINEAR_PROJECTIONS], others[LINEAR_PROJECTIONS];
  int rounded_count = 0, other_count = 0;
  for (int i = 0; i < count; i++) {
    if (int8_dot_here(projections[i].w->type)) rounded[rounded_count++] = projections[i];
    else others[other_count++] = projections[i];
  }
  if (other_count) cpu_linear_forward_rows(others, other_count, x, n, backend);
  stream(rounded, rounded_count, x, n, true, backend);
}
