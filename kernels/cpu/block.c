#include "kernels/cpu/block.h"

#ifdef __AMX_BF16__
#include "kernels/cpu/tiles.h"

static __m512i words(Rows rows, int64_t i, int64_t count) {
  __m512i values;
  BY_TYPE(rows.type, values = bf16_words(rows.data, i, count, TYPE));
  return values;
}

static BlockLeft packed_tiles(const uint16_t *tiles, int64_t depth) {
  return (BlockLeft){.tiles = tiles, .panel_step = AMX_ROWS * depth, .tile_step = AMX_ELEMENTS, .row_step = AMX_DEPTH};
}

static BlockLeft left_tiles(uint16_t *to, Rows rows, int64_t first, int64_t m, int64_t k) {
  if (rows.type == FLOAT_BF16 && m % AMX_ROWS == 0 && k % AMX_DEPTH == 0)
    return (BlockLeft){.tiles = (const uint16_t *)rows.data + first * rows.step,
                       .panel_step = AMX_ROWS * rows.step,
                       .tile_step = AMX_DEPTH,
                       .row_step = rows.step};
  int64_t depth = round_up(k, AMX_DEPTH);
  for (int64_t i = 0; i < round_up(m, AMX_ROWS); i++)
    for (int64_t c = 0; c < depth; c += AMX_DEPTH) {
      uint16_t *at = to + i / AMX_ROWS * AMX_ROWS * depth + c * AMX_ROWS + i % AMX_ROWS * AMX_DEPTH;
      _mm512_storeu_si512(at, words(rows, (first + i) * rows.step + c, i < m ? k - c : 0));
    }
  return packed_tiles(to, depth);
}

// Two tiles of the transpose, `panel_step` apart: 32 columns, from `column` on, of 32 rows from `first` on, of which two make pairs that
// are turned together.
static void turn_tiles(uint16_t *to, int64_t panel_step, Rows rows, int64_t first, int64_t count, int64_t column, int64_t columns) {
  Vec turned[2][AMX_ROWS];
  for (int64_t q = 0; q < AMX_ROWS; q++) {
    int64_t i = first + 2 * q, at = i * rows.step + column;
    __m512i pairs[2];
    pair_words(pairs, words(rows, at, i < count ? columns : 0), words(rows, at + rows.step, i + 1 < count ? columns : 0));
    turned[0][q] = (Vec)pairs[0];
    turned[1][q] = (Vec)pairs[1];
  }
  for (int half = 0; half < 2; half++) {
    vec_transpose(turned[half]);
    for (int64_t c = 0; c < AMX_ROWS; c++) vec_store((float *)(void *)(to + half * panel_step + c * AMX_DEPTH), turned[half][c]);
  }
}

static BlockLeft left_tiles_turned(uint16_t *to, Rows rows, int64_t k, int64_t m) {
  int64_t depth = round_up(k, AMX_DEPTH);
  for (int64_t i = 0; i < m; i += 2 * AMX_ROWS)
    for (int64_t c = 0; c < depth; c += AMX_DEPTH) turn_tiles(to + i * depth + c * AMX_ROWS, AMX_ROWS * depth, rows, c, k, i, m - i);
  return packed_tiles(to, depth);
}

static BlockRight right_tiles(uint16_t *to, Rows rows, int64_t first, int64_t k, int64_t n) {
  int64_t depth = round_up(k, AMX_DEPTH);
  for (int64_t q = 0; q < depth / 2; q++)
    for (int64_t j = 0; j < n; j += AMX_DEPTH) {
      __m512i even = words(rows, (first + 2 * q) * rows.step + j, 2 * q < k ? n - j : 0);
      __m512i odd = words(rows, (first + 2 * q + 1) * rows.step + j, 2 * q + 1 < k ? n - j : 0);
      uint16_t *at = to + j * depth + q * 2 * AMX_ROWS;
      __m512i pairs[2];
      pair_words(pairs, even, odd);
      _mm512_storeu_si512(at, pairs[0]);
      _mm512_storeu_si512(at + AMX_ROWS * depth, pairs[1]);
    }
  return (BlockRight){.tiles = to, .depth = depth};
}

static BlockRight right_tiles_turned(uint16_t *to, Rows rows, int64_t first, int64_t n, int64_t k) {
  int64_t depth = round_up(k, AMX_DEPTH);
  for (int64_t j = 0; j < n; j += AMX_ROWS)
    for (int64_t c = 0; c < depth; c += AMX_DEPTH) {
      Vec pairs[AMX_ROWS];
      for (int64_t r = 0; r < AMX_ROWS; r++) pairs[r] = (Vec)words(rows, (first + j + r) * rows.step + c, j + r < n ? k - c : 0);
      vec_transpose(pairs);
      for (int q = 0; q < AMX_ROWS; q++) vec_store((float *)(void *)(to + j * depth + c * AMX_ROWS + 2 * q * AMX_ROWS), pairs[q]);
    }
  return (BlockRight){.tiles = to, .depth = depth};
}

// 16 x 16 of c, of which `rows` and `columns` are there, to or from a tile register. The number has to be a constant.
#define STORE_TILE(number, c, ldc, rows, columns)                                                                                          \
  do {                                                                                                                                     \
    if ((rows) >= AMX_ROWS && (columns) >= AMX_ROWS) {                                                                                     \
      _tile_stored(number, c, (ldc) * (int64_t)sizeof(float));                                                                             \
    } else if ((rows) > 0 && (columns) > 0) {                                                                                              \
      _tile_stored(number, edge, AMX_ROWS * sizeof(float));                                                                                \
      for (int64_t r_ = 0; r_ < smaller(rows, AMX_ROWS); r_++) vec_store_first((c) + r_ * (ldc), vec_load(edge + r_ * AMX_ROWS), columns); \
    }                                                                                                                                      \
  } while (0)
#define LOAD_TILE(number, c, ldc, rows, columns)                                                               \
  do {                                                                                                         \
    if ((rows) >= AMX_ROWS && (columns) >= AMX_ROWS) {                                                         \
      _tile_loadd(number, c, (ldc) * (int64_t)sizeof(float));                                                  \
    } else if ((rows) > 0 && (columns) > 0) {                                                                  \
      for (int64_t r_ = 0; r_ < AMX_ROWS; r_++)                                                                \
        vec_store(edge + r_ * AMX_ROWS, r_ < (rows) ? vec_load_first((c) + r_ * (ldc), columns) : vec_zero()); \
      _tile_loadd(number, edge, AMX_ROWS * sizeof(float));                                                     \
    }                                                                                                          \
  } while (0)

// 2 x 2 tiles of sums at a time: registers 0 to 3. Where there is no second panel, the first one stands for it, and nobody keeps the sums.
static void multiply_tiles(float *c, int64_t ldc, BlockLeft a, BlockRight b, int64_t m, int64_t n, int64_t k, bool accumulate) {
  _Alignas(64) float edge[AMX_ROWS * AMX_ROWS];
  int64_t row_bytes = a.row_step * (int64_t)sizeof *a.tiles;
  for (int64_t j = 0; j < n; j += 2 * AMX_ROWS)
    for (int64_t i = 0; i < m; i += 2 * AMX_ROWS) {
      int64_t below = m - i - AMX_ROWS, beside = n - j - AMX_ROWS;
      float *at = c + i * ldc + j, *low = at + AMX_ROWS * ldc;
      if (accumulate) {
        LOAD_TILE(0, at, ldc, m - i, n - j);
        LOAD_TILE(1, at + AMX_ROWS, ldc, m - i, beside);
        LOAD_TILE(2, low, ldc, below, n - j);
        LOAD_TILE(3, low + AMX_ROWS, ldc, below, beside);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      const uint16_t *first = a.tiles + i / AMX_ROWS * a.panel_step, *second = below > 0 ? first + a.panel_step : first;
      const uint16_t *left = b.tiles + j * b.depth, *right = beside > 0 ? left + AMX_ROWS * b.depth : left;
      for (int64_t t = 0; t < divide_up(k, AMX_DEPTH); t++) {
        _tile_loadd(4, first + t * a.tile_step, row_bytes);
        _tile_loadd(6, left + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, second + t * a.tile_step, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      STORE_TILE(0, at, ldc, m - i, n - j);
      STORE_TILE(1, at + AMX_ROWS, ldc, m - i, beside);
      STORE_TILE(2, low, ldc, below, n - j);
      STORE_TILE(3, low + AMX_ROWS, ldc, below, beside);
    }
}
#endif

void blocks_begin(FloatType type) {
#ifdef __AMX_BF16__
  if (type == FLOAT_BF16) tiles_begin();
#endif
  (void)type;
}

void blocks_end(FloatType type) {
#ifdef __AMX_BF16__
  if (type == FLOAT_BF16) tiles_end();
#endif
  (void)type;
}

BlockLeft block_left(void *buffer, Rows rows, int64_t first, int64_t m, int64_t k) {
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) return left_tiles(buffer, rows, first, m, k);
#endif
  int64_t step;
  const float *from = rows_as_floats(rows, first, m, k, buffer, &step);
  return (BlockLeft){.floats = tile_a_rows(from, step)};
}

BlockLeft block_left_turned(void *buffer, Rows rows, int64_t k, int64_t m) {
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) return left_tiles_turned(buffer, rows, k, m);
#endif
  (void)buffer, (void)k, (void)m;
  return (BlockLeft){.floats = tile_a_columns(rows.data, rows.step)};
}

BlockRight block_right(void *buffer, Rows rows, int64_t first, int64_t k, int64_t n, float *floats) {
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) return right_tiles(buffer, rows, first, k, n);
#endif
  int64_t step;
  const float *from = rows_as_floats(rows, first, k, n, floats, &step);
  pack_b(buffer, from, step, k, n);
  return (BlockRight){.floats = tile_b_packed(buffer, k)};
}

BlockRight block_right_turned(void *buffer, Rows rows, int64_t first, int64_t n, int64_t k, float *floats) {
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) return right_tiles_turned(buffer, rows, first, n, k);
#endif
  int64_t step;
  const float *from = rows_as_floats(rows, first, n, k, floats, &step);
  pack_b_transposed(buffer, from, step, k, n);
  return (BlockRight){.floats = tile_b_packed(buffer, k)};
}

void block_multiply(float *c, int64_t ldc, BlockLeft a, BlockRight b, int64_t m, int64_t n, int64_t k, bool accumulate) {
#ifdef __AMX_BF16__
  if (a.tiles) {
    multiply_tiles(c, ldc, a, b, m, n, k, accumulate);
    return;
  }
#endif
  tile_multiply(c, ldc, a.floats, b.floats, m, n, k, 1, accumulate);
}
