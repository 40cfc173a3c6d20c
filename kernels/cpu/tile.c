// The micro-kernels of kernels/cpu/tile.h, one for each number of rows and vectors, and the packing of operands.
#include "kernels/cpu/tile.h"

#include <string.h>

typedef struct Output {
  float *c;
  int64_t ld;
  float alpha;
  bool accumulate;
} Output;

typedef void (*MicroKernel)(Output out, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step, int64_t k);

ALWAYS_INLINE void multiply(Output out, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step, int64_t k, int rows,
                            int vecs) {
  Vec sums[TILE_ROWS][TILE_VECS];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < vecs; j++) sums[i][j] = vec_zero();
#pragma GCC unroll 2
  for (int64_t p = 0; p < k; p++) {
    Vec right[TILE_VECS];
#pragma GCC unroll 2
    for (int j = 0; j < vecs; j++) right[j] = vec_load(b + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      Vec left = vec_set(a[i * a_row]);
#pragma GCC unroll 2
      for (int j = 0; j < vecs; j++) sums[i][j] = vec_fma(left, right[j], sums[i][j]);
    }
    a += a_step;
    b += b_step;
  }
  Vec alpha = vec_set(out.alpha);
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < vecs; j++) {
      float *c = out.c + i * out.ld + j * VL;
      if (out.accumulate) vec_store(c, vec_fma(alpha, sums[i][j], vec_load(c)));
      else vec_store(c, alpha * sums[i][j]);
    }
}

// The left operand's elements of one k next to each other, or those of one row.
#define MICRO_KERNEL(rows, vecs)                                                                                                 \
  static void packed_##rows##_##vecs(Output out, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,  \
                                     int64_t k) {                                                                                \
    (void)a_row;                                                                                                                 \
    multiply(out, a, 1, a_step, b, b_step, k, rows, vecs);                                                                       \
  }                                                                                                                              \
  static void strided_##rows##_##vecs(Output out, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step, \
                                      int64_t k) {                                                                               \
    (void)a_step;                                                                                                                \
    multiply(out, a, a_row, 1, b, b_step, k, rows, vecs);                                                                        \
  }
#ifdef __AVX512F__
#define FOR_TILE_ROWS(of) of(1) of(2) of(3) of(4) of(5) of(6) of(7) of(8) of(9) of(10) of(11) of(12) of(13) of(14)
#else
#define FOR_TILE_ROWS(of) of(1) of(2) of(3) of(4) of(5) of(6)
#endif
#define MICRO_KERNELS(rows) MICRO_KERNEL(rows, 1) MICRO_KERNEL(rows, 2)
FOR_TILE_ROWS(MICRO_KERNELS)

#define PACKED_ENTRY(rows) {packed_##rows##_1, packed_##rows##_2},
#define STRIDED_ENTRY(rows) {strided_##rows##_1, strided_##rows##_2},
static const MicroKernel micro_kernels[2][TILE_ROWS][TILE_VECS] = {{FOR_TILE_ROWS(PACKED_ENTRY)}, {FOR_TILE_ROWS(STRIDED_ENTRY)}};

// A tile narrower than its vectors goes through a buffer.
static void multiply_edge(MicroKernel kernel, Output out, TileA a, const float *panel_a, const float *panel_b, int64_t b_step, int64_t k,
                          int64_t rows, int64_t columns) {
  float buffer[TILE_ROWS * TILE_COLUMNS];
  Output whole = {buffer, TILE_COLUMNS, out.alpha, false};
  if (out.accumulate) {
    memset(buffer, 0, sizeof buffer);
    for (int64_t i = 0; i < rows; i++) memcpy(buffer + i * TILE_COLUMNS, out.c + i * out.ld, (size_t)columns * sizeof(float));
    whole.accumulate = true;
  }
  kernel(whole, panel_a, a.row, a.step, panel_b, b_step, k);
  for (int64_t i = 0; i < rows; i++) memcpy(out.c + i * out.ld, buffer + i * TILE_COLUMNS, (size_t)columns * sizeof(float));
}

void tile_multiply(float *c, int64_t ldc, TileA a, TileB b, int64_t m, int64_t n, int64_t k, float alpha, bool accumulate) {
  const MicroKernel(*kernels)[TILE_VECS] = micro_kernels[a.row != 1];
  for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
    const float *panel_b = b.data + j / TILE_COLUMNS * b.panel;
    int64_t columns = smaller(n - j, TILE_COLUMNS), vecs = divide_up(columns, VL);
    for (int64_t i = 0; i < m; i += TILE_ROWS) {
      const float *panel_a = a.data + i / TILE_ROWS * a.panel;
      int64_t rows = smaller(m - i, TILE_ROWS);
      MicroKernel kernel = kernels[rows - 1][vecs - 1];
      Output out = {c + i * ldc + j, ldc, alpha, accumulate};
      for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch(out.c + r * ldc);
        __builtin_prefetch(out.c + r * ldc + columns - 1);
      }
      if (columns == vecs * VL) kernel(out, panel_a, a.row, a.step, panel_b, b.step, k);
      else multiply_edge(kernel, out, a, panel_a, panel_b, b.step, k, rows, columns);
    }
  }
}

// Rows 8 h .. 8 h + 7 of up to `count`; the last one stands for those beyond it, whose products nobody keeps.
static inline void eight_rows(const float *eight[8], const float *const *rows, int64_t h, int64_t count) {
  for (int64_t i = 0; i < 8; i++) eight[i] = rows[smaller(8 * h + i, count - 1)];
}

void pack_a_rows(float *out, const float *x, int64_t ld, int64_t m, int64_t k) {
  enum { EIGHTS = (TILE_ROWS + 7) / 8 };
  for (int64_t i = 0; i < m; i += TILE_ROWS, out += TILE_ROWS * k) {
    int64_t rows = smaller(m - i, TILE_ROWS), p = 0;
    const float *row[TILE_ROWS], *eight[EIGHTS][8];
    for (int64_t r = 0; r < TILE_ROWS; r++) row[r] = x + (i + smaller(r, rows - 1)) * ld;
    for (int h = 0; h < EIGHTS; h++) eight_rows(eight[h], row, h, TILE_ROWS);
    // The lanes beyond TILE_ROWS of each store are overwritten by the next; the last steps go one by one.
    for (; p + 8 < k; p += 8) {
      __m256 columns[EIGHTS][8];
      for (int h = 0; h < EIGHTS; h++) load_transposed(columns[h], eight[h], p);
      for (int q = 0; q < 8; q++)
        for (int h = 0; h < EIGHTS; h++) _mm256_storeu_ps(out + (p + q) * TILE_ROWS + 8 * h, columns[h][q]);
    }
    for (; p < k; p++)
      for (int64_t r = 0; r < TILE_ROWS; r++) out[p * TILE_ROWS + r] = row[r][p];
  }
}

void pack_b(float *out, const float *b, int64_t ld, int64_t k, int64_t n) {
  for (int64_t p = 0; p < k; p++)
    for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
      float *to = out + j * k + p * TILE_COLUMNS;
      for (int v = 0; v < TILE_VECS; v++) vec_store(to + v * VL, vec_load_first(b + p * ld + j + v * VL, n - j - v * VL));
    }
}

void pack_b_panel(float *out, const float *const *rows, int64_t k, int64_t n) {
  for (int64_t h = 0; h < TILE_COLUMNS / 8; h++) {
    const float *eight[8];
    eight_rows(eight, rows, h, n);
    float *to = out + 8 * h;
    int64_t p = 0;
    for (; p + 8 <= k; p += 8) {
      __m256 columns[8];
      load_transposed(columns, eight, p);
      for (int q = 0; q < 8; q++) _mm256_storeu_ps(to + (p + q) * TILE_COLUMNS, columns[q]);
    }
    for (; p < k; p++)
      for (int r = 0; r < 8; r++) to[p * TILE_COLUMNS + r] = eight[r][p];
  }
}

void pack_b_transposed(float *out, const float *rows, int64_t ld, int64_t k, int64_t n) {
  for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
    const float *panel[TILE_COLUMNS];
    int64_t width = smaller(n - j, TILE_COLUMNS);
    for (int64_t r = 0; r < width; r++) panel[r] = rows + (j + r) * ld;
    pack_b_panel(out + j * k, panel, k, width);
  }
}
