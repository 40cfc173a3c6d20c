// weight_backward.c's product narrow^T wide by AMX tiles (tiles.h). First narrow's transpose is packed for everybody, 32 rows of n to
// a tile; then a task owns 32 columns of wide, whose rows it interleaves in pairs on the way, and adds up all of n for 32 columns
// of narrow at a time. n goes in blocks of BLOCK, so that what is packed stays bounded.
#include "kernels/cpu/weight_backward.h"

#ifdef __AMX_BF16__

#include "kernels/cpu/tiles.h"

enum { BLOCK = 4096, WIDE = 2 * AMX_ROWS };

typedef struct Block {
  const WeightProduct *product;
  int64_t first, tiles;  // of n; tiles of AMX_DEPTH rows
  uint16_t *narrow;  // [panels of 16 columns][tiles][16][32]
} Block;

// One tile: columns column .. + 15 of 32 rows, a column to a row.
static void pack_narrow(void *argument, int64_t task, int thread) {
  (void)thread;
  const Block *block = argument;
  const WeightProduct *p = block->product;
  int64_t panel = task / block->tiles, first = block->first + task % block->tiles * AMX_DEPTH, column = panel * AMX_ROWS;
  Vec halves[2][VL];
  for (int64_t i = 0; i < AMX_DEPTH; i++) {
    int64_t at = (first + i) * p->narrow.step + column, count = smaller(AMX_ROWS, p->m - column);
    Vec *row = &halves[i / VL][i % VL];
    *row = vec_zero();
    if (first + i < p->n) BY_TYPE(p->narrow.type, *row = typed_load(p->narrow.data, at, count, TYPE));
  }
  vec_transpose(halves[0]);
  vec_transpose(halves[1]);
  uint16_t *to = block->narrow + task * AMX_ELEMENTS;
  for (int64_t c = 0; c < AMX_ROWS; c++) _mm512_storeu_si512(to + c * AMX_DEPTH, (__m512i)_mm512_cvtne2ps_pbh(halves[1][c], halves[0][c]));
}

// Row i of wide, 16 columns, as bfloat16 in 32 bits each; zeros beyond n.
ALWAYS_INLINE __m512i wide_words(const WeightProduct *p, int64_t i, int64_t column, int64_t count, int type) {
  if (i >= p->n || count <= 0) return _mm512_setzero_si512();
  int64_t at = i * p->wide.step + column;
  if (type == FLOAT_BF16 && count >= AMX_ROWS)
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)p->wide.data + at)));
  return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(typed_load(p->wide.data, at, count, type)));
}

ALWAYS_INLINE void pack_wide(uint16_t *to, const WeightProduct *p, int64_t first, int64_t column, int64_t columns, int type) {
  for (int64_t q = 0; q < AMX_ROWS; q++, to += AMX_DEPTH) {
    __m512i low = wide_words(p, first + 2 * q, column, columns, type), high = wide_words(p, first + 2 * q + 1, column, columns, type);
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

static void add_sums(const WeightProduct *p, const float *sums, int64_t row, int64_t column) {
  int64_t rows = smaller(WIDE, p->m - row), columns = smaller(WIDE, p->width - column);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      float *dw = p->is_turned ? p->dw + (column + j) * p->m + row + i : p->dw + (row + i) * p->width + column + j;
      *dw += p->alpha * sums[i * WIDE + j];
    }
}

static void multiply_columns(void *argument, int64_t task, int thread) {
  (void)thread;
  const Block *block = argument;
  const WeightProduct *p = block->product;
  _Alignas(64) float sums[WIDE * WIDE];
  _Alignas(64) uint16_t wide[2 * AMX_ELEMENTS];
  int64_t column = task * WIDE, columns = smaller(WIDE, p->width - column);
  tiles_begin();
  for (int64_t row = 0; row < p->m; row += WIDE) {
    const uint16_t *a = block->narrow + row / AMX_ROWS * block->tiles * AMX_ELEMENTS;
    const uint16_t *second = row + AMX_ROWS < p->m ? a + block->tiles * AMX_ELEMENTS : NULL;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < block->tiles; t++) {
      int64_t first = block->first + t * AMX_DEPTH;
      BY_TYPE(p->wide.type, pack_wide(wide, p, first, column, columns, TYPE);
              pack_wide(wide + AMX_ELEMENTS, p, first, column + AMX_ROWS, columns - AMX_ROWS, TYPE));
      _tile_loadd(4, a + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
      _tile_loadd(6, wide, 2 * AMX_DEPTH);
      _tile_loadd(7, wide + AMX_ELEMENTS, 2 * AMX_DEPTH);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (!second) continue;
      _tile_loadd(5, second + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, WIDE * sizeof(float));
    _tile_stored(1, sums + AMX_ROWS, WIDE * sizeof(float));
    _tile_stored(2, sums + AMX_ROWS * WIDE, WIDE * sizeof(float));
    _tile_stored(3, sums + AMX_ROWS * WIDE + AMX_ROWS, WIDE * sizeof(float));
    add_sums(p, sums, row, column);
  }
  tiles_end();
}

void weight_product_tiles(const WeightProduct *p) {
  int64_t panels = divide_up(p->m, AMX_ROWS);
  for (int64_t first = 0; first < p->n; first += BLOCK) {
    Block block = {.product = p, .first = first, .tiles = divide_up(smaller(BLOCK, p->n - first), AMX_DEPTH)};
    block.narrow = backend_shared_scratch(p->backend, panels * block.tiles * AMX_ELEMENTS * (int64_t)sizeof(uint16_t));
    pool_run(p->backend->pool, panels * block.tiles, pack_narrow, &block);
    pool_run(p->backend->pool, divide_up(p->width, WIDE), multiply_columns, &block);
  }
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
