// weight_backward.c's product narrow^T wide by AMX tiles (tiles.h). First the transpose of all narrow operands is packed for everybody, 32
// rows of n to a tile, 16 columns to a panel; then a task owns STRIP columns of wide: it interleaves a block of its rows in pairs, and
// adds up what that gives for all panels. n goes in blocks, so that what is packed stays bounded.
#include "kernels/cpu/weight_backward.h"

#ifdef __AMX_BF16__

#include "kernels/cpu/tiles.h"

enum {
  BLOCK_TILES = 128,  // tiles of n that are packed for everybody at once
  STRIP_TILES = 16,  // tiles of n that a task interleaves at once
  STRIP = 4 * AMX_ROWS,  // columns of a task: two cache lines of a row
  AHEAD = 16,  // rows that are fetched before they are read, which the processor does not do for rows so far apart
};

typedef struct Block {
  const WeightProduct *product;
  int64_t first, tiles;  // of n; tiles of AMX_DEPTH rows
  int64_t panels;  // of all narrow operands
  uint16_t *narrow;  // [panels][tiles][16][32]
} Block;

// The operand that a panel belongs to; *column is the panel's first.
static const NarrowOperand *panel_operand(const WeightProduct *p, int64_t panel, int64_t *column) {
  const NarrowOperand *o = p->narrow;
  for (; panel >= divide_up(o->m, AMX_ROWS); o++) panel -= divide_up(o->m, AMX_ROWS);
  *column = panel * AMX_ROWS;
  return o;
}

// One tile: 16 columns of 32 rows, a column to a row.
static void pack_narrow(void *argument, int64_t task, int thread) {
  (void)thread;
  const Block *block = argument;
  int64_t column, first = block->first + task % block->tiles * AMX_DEPTH;
  const NarrowOperand *o = panel_operand(block->product, task / block->tiles, &column);
  Vec halves[2][VL];
  for (int64_t i = 0; i < AMX_DEPTH; i++) {
    int64_t at = (first + i) * o->rows.step + column, count = smaller(AMX_ROWS, o->m - column);
    Vec *row = &halves[i / VL][i % VL];
    *row = vec_zero();
    if (first + i < block->product->n) BY_TYPE(o->rows.type, *row = typed_load(o->rows.data, at, count, TYPE));
  }
  vec_transpose(halves[0]);
  vec_transpose(halves[1]);
  uint16_t *to = block->narrow + task * AMX_ELEMENTS;
  for (int64_t c = 0; c < AMX_ROWS; c++) _mm512_storeu_si512(to + c * AMX_DEPTH, (__m512i)_mm512_cvtne2ps_pbh(halves[1][c], halves[0][c]));
}

// 32 columns of row i of wide as bfloat16; zeros beyond n and beyond `count` columns.
ALWAYS_INLINE __m512i wide_words(const WeightProduct *p, int64_t i, int64_t column, int64_t count, int type) {
  if (i >= p->n || count <= 0) return _mm512_setzero_si512();
  int64_t at = i * p->wide.step + column;
  if (type == FLOAT_32) {
    const float *from = (const float *)p->wide.data + at;
    return (__m512i)_mm512_cvtne2ps_pbh(vec_load_first(from + VL, count - VL), vec_load_first(from, count));
  }
  const uint16_t *from = (const uint16_t *)p->wide.data + at;
  return count >= AMX_DEPTH ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16((1u << count) - 1, from);
}

// `tiles` tiles of each of the strip's four panels: to[panel][tile][pair of rows][column][2].
ALWAYS_INLINE void pack_wide(uint16_t *to, const WeightProduct *p, int64_t first, int64_t tiles, int64_t column, int64_t columns,
                             int type) {
  _Alignas(64) static const uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  __m512i low_pairs = _mm512_load_si512(low), high_pairs = _mm512_add_epi16(low_pairs, _mm512_set1_epi16(16));
  const int64_t panel = STRIP_TILES * AMX_ELEMENTS, row_bytes = p->wide.step * (type == FLOAT_32 ? 4 : 2);
  for (int64_t q = 0; q < tiles * AMX_ROWS; q++, to += AMX_DEPTH) {
    int64_t i = first + 2 * q;
    const char *ahead = (const char *)p->wide.data + (i + AHEAD) * row_bytes + column * (type == FLOAT_32 ? 4 : 2);
    for (int64_t line = 0; line < STRIP * (type == FLOAT_32 ? 4 : 2); line += 64) {
      _mm_prefetch(ahead + line, _MM_HINT_T0);
      _mm_prefetch(ahead + row_bytes + line, _MM_HINT_T0);
    }
    for (int64_t j = 0; j < STRIP; j += AMX_DEPTH) {
      __m512i even = wide_words(p, i, column + j, columns - j, type), odd = wide_words(p, i + 1, column + j, columns - j, type);
      uint16_t *at = to + j / AMX_ROWS * panel;
      _mm512_storeu_si512(at, _mm512_permutex2var_epi16(even, low_pairs, odd));
      _mm512_storeu_si512(at + panel, _mm512_permutex2var_epi16(even, high_pairs, odd));
    }
  }
}

// sums[panel][16][STRIP] += panels `row` and, if it is there, the next of narrow by two panels of wide, at `column` of the strip.
static void multiply_tiles(float *sums, const uint16_t *narrow, const uint16_t *second, const uint16_t *wide, int64_t tiles,
                           bool is_first) {
  const int64_t step = STRIP * sizeof(float), panel = STRIP_TILES * AMX_ELEMENTS;
  float *below = sums + AMX_ROWS * STRIP;
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, step);
    _tile_loadd(1, sums + AMX_ROWS, step);
    if (second) _tile_loadd(2, below, step);
    if (second) _tile_loadd(3, below + AMX_ROWS, step);
  }
  for (int64_t t = 0; t < tiles; t++) {
    _tile_loadd(4, narrow + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_loadd(6, wide + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_loadd(7, wide + panel + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!second) continue;
    _tile_loadd(5, second + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, step);
  _tile_stored(1, sums + AMX_ROWS, step);
  if (second) _tile_stored(2, below, step);
  if (second) _tile_stored(3, below + AMX_ROWS, step);
}

static void add_sums(const WeightProduct *p, const float *sums, int64_t panel, int64_t column) {
  int64_t row, columns = smaller(STRIP, p->width - column);
  const NarrowOperand *o = panel_operand(p, panel, &row);
  int64_t rows = smaller(AMX_ROWS, o->m - row);
  if (p->is_turned) {
    for (int64_t j = 0; j < columns; j++)
      for (int64_t i = 0; i < rows; i++) o->dw[(column + j) * o->m + row + i] += o->alpha * sums[i * STRIP + j];
    return;
  }
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) o->dw[(row + i) * p->width + column + j] += o->alpha * sums[i * STRIP + j];
}

// Panels first .. end - 1 of narrow for all of the block's n: few enough that their sums stay in the thread's scratch.
static void multiply_panels(const Block *block, int64_t first, int64_t end, int64_t column, uint16_t *wide, float *sums) {
  const WeightProduct *p = block->product;
  int64_t columns = smaller(STRIP, p->width - column), panel_step = block->tiles * AMX_ELEMENTS;
  for (int64_t tile = 0; tile < block->tiles; tile += STRIP_TILES) {
    int64_t tiles = smaller(STRIP_TILES, block->tiles - tile);
    BY_TYPE(p->wide.type, pack_wide(wide, p, block->first + tile * AMX_DEPTH, tiles, column, columns, TYPE));
    for (int64_t panel = first; panel < end; panel += 2) {
      const uint16_t *narrow = block->narrow + panel * panel_step + tile * AMX_ELEMENTS;
      float *to = sums + (panel - first) * AMX_ROWS * STRIP;
      for (int64_t j = 0; j < columns; j += 2 * AMX_ROWS)
        multiply_tiles(to + j, narrow, panel + 1 < end ? narrow + panel_step : NULL, wide + j / AMX_ROWS * STRIP_TILES * AMX_ELEMENTS,
                       tiles, tile == 0);
    }
  }
  for (int64_t panel = first; panel < end; panel++) add_sums(p, sums + (panel - first) * AMX_ROWS * STRIP, panel, column);
}

static void multiply_columns(void *argument, int64_t task, int thread) {
  enum { SCRATCH_PANELS = 256 };
  const Block *block = argument;
  uint16_t *wide = backend_scratch(block->product->backend, thread);
  float *sums = (float *)(void *)(wide + STRIP / AMX_ROWS * STRIP_TILES * AMX_ELEMENTS);
  tiles_begin();
  for (int64_t panel = 0; panel < block->panels; panel += SCRATCH_PANELS)
    multiply_panels(block, panel, smaller(panel + SCRATCH_PANELS, block->panels), task * STRIP, wide, sums);
  tiles_end();
}

void weight_product_tiles(const WeightProduct *p) {
  Block block = {.product = p};
  for (int i = 0; i < p->narrow_count; i++) block.panels += divide_up(p->narrow[i].m, AMX_ROWS);
  for (; block.first < p->n; block.first += BLOCK_TILES * AMX_DEPTH) {
    block.tiles = smaller(BLOCK_TILES, divide_up(p->n - block.first, AMX_DEPTH));
    block.narrow = backend_shared_scratch(p->backend, block.panels * block.tiles * AMX_ELEMENTS * (int64_t)sizeof(uint16_t));
    pool_run(p->backend->pool, block.panels * block.tiles, pack_narrow, &block);
    pool_run(p->backend->pool, divide_up(p->width, STRIP), multiply_columns, &block);
  }
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
