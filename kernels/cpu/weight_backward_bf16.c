// weight_backward.c's product narrow^T wide by AMX tiles (tiles.h). First the transpose of all narrow operands is packed for everybody, 32
// rows of n to a tile, 16 columns to a panel. Then a task owns some rows of n and some columns of wide: it interleaves a block of rows in
// pairs, a strip of columns after another, and adds up what that gives for all panels. How n is divided depends on n alone; the sums of
// all divisions are added in order.
#include "kernels/cpu/weight_backward.h"

#ifdef __AMX_BF16__

#include "kernels/cpu/tiles.h"

enum {
  DIVISIONS = 4,  // of n, at most
  DIVISION_TILES = 16,  // tiles of n in a division, at least
  AHEAD = 16,  // rows that are fetched before they are read
  BLOCK_TILES = 4,  // tiles of n that are interleaved at once,
  PANEL_STEP = BLOCK_TILES * AMX_ELEMENTS + AMX_DEPTH,  // elements: no multiple of 4096 bytes, which would meet in few sets of the caches
  TASK_COLUMNS = 1024,  // with so many columns, so that memory is read in long stretches
};

typedef struct Job {
  const WeightProduct *product;
  int64_t tiles, division_tiles;  // of n; tiles of AMX_DEPTH rows
  int64_t panels;  // of all narrow operands
  int64_t column_tasks, step;  // columns of sums: width up to a multiple of two panels
  uint16_t *narrow;  // [panels][tiles][16][32]
  float *sums;  // [divisions][panels][16][step]
} Job;

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
  const Job *job = argument;
  int64_t column, first = task % job->tiles * AMX_DEPTH;
  const NarrowOperand *o = panel_operand(job->product, task / job->tiles, &column);
  Vec halves[2][VL];
  for (int64_t i = 0; i < AMX_DEPTH; i++) {
    int64_t at = (first + i) * o->rows.step + column, count = smaller(AMX_ROWS, o->m - column);
    Vec *row = &halves[i / VL][i % VL];
    *row = vec_zero();
    if (first + i < job->product->n) BY_TYPE(o->rows.type, *row = typed_load(o->rows.data, at, count, TYPE));
  }
  vec_transpose(halves[0]);
  vec_transpose(halves[1]);
  uint16_t *to = job->narrow + task * AMX_ELEMENTS;
  for (int64_t c = 0; c < AMX_ROWS; c++) _mm512_storeu_si512(to + c * AMX_DEPTH, (__m512i)_mm512_cvtne2ps_pbh(halves[1][c], halves[0][c]));
}

// 32 columns of row i of wide as bfloat16; zeros beyond n and beyond `count` columns.
ALWAYS_INLINE __m512i wide_words(const WeightProduct *p, int64_t i, int64_t column, int64_t count, int type) {
  return bf16_words(p->wide.data, i * p->wide.step + column, i < p->n ? count : 0, type);
}

// `tiles` tiles of each panel of some columns: to[panel][tile][pair of rows][column][2].
ALWAYS_INLINE void pack_wide(uint16_t *to, const WeightProduct *p, int64_t first, int64_t tiles, int64_t column, int64_t columns,
                             int type) {
  for (int64_t q = 0; q < tiles * AMX_ROWS; q++, to += AMX_DEPTH)
    for (int64_t j = 0; j < columns; j += AMX_DEPTH) {
      int64_t i = first + 2 * q, ahead = (i + AHEAD) * p->wide.step + column + j;
      const char *next = (const char *)p->wide.data + ahead * (type == FLOAT_32 ? 4 : 2);
      _mm_prefetch(next, _MM_HINT_T1);
      _mm_prefetch(next + p->wide.step * (type == FLOAT_32 ? 4 : 2), _MM_HINT_T1);
      if (type == FLOAT_32) _mm_prefetch(next + 64, _MM_HINT_T1);
      if (type == FLOAT_32) _mm_prefetch(next + p->wide.step * 4 + 64, _MM_HINT_T1);
      __m512i even = wide_words(p, i, column + j, columns - j, type), odd = wide_words(p, i + 1, column + j, columns - j, type);
      uint16_t *at = to + j / AMX_ROWS * PANEL_STEP;
      __m512i pairs[2];
      pair_words(pairs, even, odd);
      _mm512_storeu_si512(at, pairs[0]);
      _mm512_storeu_si512(at + PANEL_STEP, pairs[1]);
    }
}

// sums[16][step] and, if it is there, those of the next panel += panels of narrow by two panels of wide.
static void multiply_tiles(float *sums, int64_t step, const uint16_t *narrow, const uint16_t *second, const uint16_t *wide, int64_t tiles,
                           bool is_first) {
  const int64_t bytes = step * (int64_t)sizeof(float);
  float *below = sums + AMX_ROWS * step;
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, bytes);
    _tile_loadd(1, sums + AMX_ROWS, bytes);
    if (second) _tile_loadd(2, below, bytes);
    if (second) _tile_loadd(3, below + AMX_ROWS, bytes);
  }
  for (int64_t t = 0; t < tiles; t++) {
    _tile_loadd(4, narrow + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_loadd(6, wide + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_loadd(7, wide + PANEL_STEP + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!second) continue;
    _tile_loadd(5, second + t * AMX_ELEMENTS, 2 * AMX_DEPTH);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + AMX_ROWS, bytes);
  if (second) _tile_stored(2, below, bytes);
  if (second) _tile_stored(3, below + AMX_ROWS, bytes);
}

// A division of n by some columns of wide.
static void multiply_part(void *argument, int64_t task, int thread) {
  const Job *job = argument;
  const WeightProduct *p = job->product;
  uint16_t *wide = backend_scratch(p->backend, thread);
  int64_t division = task / job->column_tasks, column = task % job->column_tasks * TASK_COLUMNS;
  int64_t columns = smaller(TASK_COLUMNS, p->width - column);
  int64_t first = division * job->division_tiles, last = smaller(first + job->division_tiles, job->tiles);
  tiles_begin();
  for (int64_t tile = first; tile < last; tile += BLOCK_TILES) {
    int64_t tiles = smaller(BLOCK_TILES, last - tile);
    BY_TYPE(p->wide.type, pack_wide(wide, p, tile * AMX_DEPTH, tiles, column, columns, TYPE));
    for (int64_t panel = 0; panel < job->panels; panel += 2) {
      const uint16_t *narrow = job->narrow + (panel * job->tiles + tile) * AMX_ELEMENTS;
      const uint16_t *second = panel + 1 < job->panels ? narrow + job->tiles * AMX_ELEMENTS : NULL;
      float *sums = job->sums + (division * job->panels + panel) * AMX_ROWS * job->step + column;
      for (int64_t j = 0; j < columns; j += 2 * AMX_ROWS)
        multiply_tiles(sums + j, job->step, narrow, second, wide + j / AMX_ROWS * PANEL_STEP, tiles, tile == first);
    }
  }
  tiles_end();
}

// dw += alpha * the sums of all divisions, for 16 columns of all panels.
static void add_sums(void *argument, int64_t task, int thread) {
  (void)thread;
  const Job *job = argument;
  const WeightProduct *p = job->product;
  int64_t row, column = task * VL, columns = smaller(VL, p->width - column);
  int64_t division_step = job->panels * AMX_ROWS * job->step, divisions = divide_up(job->tiles, job->division_tiles);
  for (int64_t panel = 0; panel < job->panels; panel++) {
    const NarrowOperand *o = panel_operand(p, panel, &row);
    int64_t rows = smaller(AMX_ROWS, o->m - row);
    Vec block[VL];
    for (int64_t i = 0; i < AMX_ROWS; i++) {
      const float *sums = job->sums + (panel * AMX_ROWS + i) * job->step + column;
      block[i] = vec_load(sums);
      for (int64_t d = 1; d < divisions; d++) block[i] += vec_load(sums + d * division_step);
      block[i] *= vec_set(o->alpha);
    }
    if (p->is_turned) vec_transpose(block);
    float *to = p->is_turned ? o->dw + column * o->m + row : o->dw + row * p->width + column;
    int64_t step = p->is_turned ? o->m : p->width, count = p->is_turned ? columns : rows, width = p->is_turned ? rows : columns;
    for (int64_t i = 0; i < count; i++) vec_store_first(to + i * step, vec_load_first(to + i * step, width) + block[i], width);
  }
}

void weight_product_tiles(const WeightProduct *p) {
  Job job = {.product = p, .tiles = divide_up(p->n, AMX_DEPTH), .step = round_up(p->width, 2 * AMX_ROWS)};
  job.division_tiles = larger(DIVISION_TILES, divide_up(job.tiles, DIVISIONS));
  job.column_tasks = divide_up(p->width, TASK_COLUMNS);
  for (int i = 0; i < p->narrow_count; i++) job.panels += divide_up(p->narrow[i].m, AMX_ROWS);
  int64_t divisions = divide_up(job.tiles, job.division_tiles),
          sums = divisions * job.panels * AMX_ROWS * job.step * (int64_t)sizeof(float);
  char *shared = backend_shared_scratch(p->backend, sums + job.panels * job.tiles * AMX_ELEMENTS * (int64_t)sizeof(uint16_t));
  job.sums = (float *)(void *)shared;
  job.narrow = (uint16_t *)(void *)(shared + sums);
  pool_run(p->backend->pool, job.panels * job.tiles, pack_narrow, &job);
  pool_run(p->backend->pool, divisions * job.column_tasks, multiply_part, &job);
  pool_run(p->backend->pool, divide_up(p->width, VL), add_sums, &job);
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
