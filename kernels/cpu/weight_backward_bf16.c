// weight_backward.c's product narrow^T wide by AMX tiles (tiles.h). First the transpose of all narrow operands is packed for everybody, 32
// rows of n to a tile, 16 columns to a panel. Then a task owns some rows of n and some columns of wide: it interleaves a block of rows in
// pairs, a strip of columns after another, and adds up what that gives for all panels. How n is divided depends on n alone; the sums of
// all divisions are added in order. Where dh is wanted, too, the block's rows are multiplied by b while they are in cache: each task's
// columns give a part of dh, and the parts are added in order.
#include "kernels/cpu/weight_backward.h"

#ifdef __AMX_BF16__

#include "kernels/cpu/tiles.h"

enum {
  DIVISIONS = 4,  // of n, at most
  DIVISION_TILES = 16,  // tiles of n in a division, at least
  AHEAD = 16,  // rows that are fetched before they are read
  BLOCK_TILES = 4,  // tiles of n that are interleaved at once,
  PANEL_STEP = BLOCK_TILES * AMX_ELEMENTS + AMX_DEPTH,  // elements: no multiple of 4096 bytes, which would meet in few sets of the caches
  TASK_COLUMNS = 2048,  // of at most so many columns, so that memory is read in long stretches
  PLAIN_STEP = TASK_COLUMNS + AMX_DEPTH,  // elements, for the same reason
};

typedef struct Job {
  const WeightProduct *product;
  const LowRankGradient *low;  // the product's
  int64_t tiles, division_tiles;  // of n; tiles of AMX_DEPTH rows
  int64_t panels;  // of all narrow operands
  int64_t task_columns, column_tasks, step;  // columns of sums: width up to a multiple of two panels
  uint16_t *narrow;  // [panels][tiles][16][32]
  float *sums;  // [divisions][panels][16][step]
  uint16_t *b;  // of low: [panels][tiles of width][16][32], rows in pairs
  float *dh;  // of low: [column tasks][panels][tiles][32][16]
} Job;

// The operand that a panel belongs to; *column is the panel's first.
static const NarrowOperand *panel_operand(const WeightProduct *p, int64_t panel, int64_t *column) {
  const NarrowOperand *o = p->narrow;
  for (; panel >= divide_up(o->m, AMX_ROWS); o++) panel -= divide_up(o->m, AMX_ROWS);
  *column = panel * AMX_ROWS;
  return o;
}

// One tile: 16 columns of 32 rows, a column to a row.
static void pack_narrow(const Job *job, int64_t task) {
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

// One tile of scale b: 16 columns of 32 rows, two rows to a row.
static void pack_b_tile(const Job *job, int64_t task) {
  const LowRankGradient *g = job->low;
  int64_t tiles = divide_up(g->out, AMX_DEPTH), first = task % tiles * AMX_DEPTH, column = task / tiles * AMX_ROWS;
  uint16_t *to = job->b + task * AMX_ELEMENTS;
  for (int64_t q = 0; q < AMX_ROWS; q++) {
    Vec rows[2];
    for (int64_t i = 0; i < 2; i++) {
      int64_t row = first + 2 * q + i;
      rows[i] = vec_set(g->scale) * vec_load_first(g->b + row * g->rank + column, row < g->out ? g->rank - column : 0);
    }
    __m512i pairs[2], words = (__m512i)_mm512_cvtne2ps_pbh(rows[1], rows[0]);
    pair_words(pairs, words, _mm512_shuffle_i64x2(words, words, 0x4e));
    _mm512_storeu_si512(to + q * AMX_DEPTH, pairs[0]);
  }
}

static void pack(void *argument, int64_t task, int thread) {
  (void)thread;
  const Job *job = argument;
  int64_t narrow_tiles = job->panels * job->tiles;
  if (task < narrow_tiles) pack_narrow(job, task);
  else pack_b_tile(job, task - narrow_tiles);
}

// Some rows and columns of wide: what lies beyond them counts as zeros.
typedef struct WideBlock {
  Rows rows;  // from the first on
  int64_t count, columns;
} WideBlock;

// Fetches 32 columns of a row further down.
ALWAYS_INLINE void fetch_below(const WideBlock *block, int64_t i, int64_t column, int type) {
  const char *next = (const char *)block->rows.data + ((i + AHEAD) * block->rows.step + column) * (type == FLOAT_32 ? 4 : 2);
  _mm_prefetch(next, _MM_HINT_T1);
  if (type == FLOAT_32) _mm_prefetch(next + 64, _MM_HINT_T1);
}

// 32 columns of row i as bfloat16.
ALWAYS_INLINE __m512i wide_words(const WideBlock *block, int64_t i, int64_t column, int type) {
  return bf16_words(block->rows.data, i * block->rows.step + column, i < block->count ? block->columns - column : 0, type);
}

// `tiles` tiles of each panel of the block's columns: to[panel][tile][pair of rows][column][2].
ALWAYS_INLINE void pack_wide(uint16_t *to, const WideBlock *block, int64_t tiles, int type) {
  for (int64_t q = 0; q < tiles * AMX_ROWS; q++, to += AMX_DEPTH)
    for (int64_t j = 0; j < block->columns; j += AMX_DEPTH) {
      fetch_below(block, 2 * q, j, type);
      fetch_below(block, 2 * q + 1, j, type);
      uint16_t *at = to + j / AMX_ROWS * PANEL_STEP;
      __m512i pairs[2];
      pair_words(pairs, wide_words(block, 2 * q, j, type), wide_words(block, 2 * q + 1, j, type));
      _mm512_storeu_si512(at, pairs[0]);
      _mm512_storeu_si512(at + PANEL_STEP, pairs[1]);
    }
}

// The block as whole tiles of bfloat16 in `buffer`, unless it is already; and to its place in `rounded`, where data is not NULL.
ALWAYS_INLINE void copy_words(uint16_t *buffer, const WideBlock *block, int64_t tiles, Rows rounded, int type) {
  for (int64_t i = 0; i < tiles * AMX_DEPTH; i++)
    for (int64_t j = 0; j < block->columns; j += AMX_DEPTH) {
      fetch_below(block, i, j, type);
      __m512i words = wide_words(block, i, j, type);
      _mm512_storeu_si512(buffer + i * PLAIN_STEP + j, words);
      if (!rounded.data || i >= block->count) continue;
      int64_t count = smaller(AMX_DEPTH, block->columns - j);
      _mm512_mask_storeu_epi16((uint16_t *)rounded.data + i * rounded.step + j, (__mmask32)((1ull << count) - 1), words);
    }
}
static void make_plain(uint16_t *buffer, WideBlock *block, int64_t tiles, Rows rounded) {
  bool is_whole = block->columns % AMX_DEPTH == 0 && block->count >= tiles * AMX_DEPTH;
  if (block->rows.type == FLOAT_BF16 && is_whole && !rounded.data) return;
  BY_TYPE(block->rows.type, copy_words(buffer, block, tiles, rounded, TYPE));
  *block = (WideBlock){{buffer, PLAIN_STEP, FLOAT_BF16}, tiles * AMX_DEPTH, round_up(block->columns, AMX_DEPTH)};
}

// What the block's columns, from `column` on, give to dh of its rows.
static void multiply_back(const Job *job, float *dh, const WideBlock *block, int64_t tiles, int64_t column) {
  const int64_t bytes = block->rows.step * 2, width_tiles = divide_up(job->low->out, AMX_DEPTH), half = AMX_ROWS * block->rows.step;
  for (int64_t panel = 0; panel < job->panels; panel++, dh += job->tiles * AMX_ELEMENTS)
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      const uint16_t *b = job->b + (panel * width_tiles + column / AMX_DEPTH) * AMX_ELEMENTS;
      const uint16_t *rows = (const uint16_t *)block->rows.data + tile * AMX_DEPTH * block->rows.step;
      bool both = tile + 1 < tiles;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t j = 0; j < block->columns; j += AMX_DEPTH, b += AMX_ELEMENTS, rows += AMX_DEPTH) {
        _tile_loadd(6, b, 2 * AMX_DEPTH);
        _tile_loadd(4, rows, bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, rows + half, bytes);
        _tile_dpbf16ps(1, 5, 6);
        if (!both) continue;
        _tile_loadd(4, rows + 2 * half, bytes);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, rows + 3 * half, bytes);
        _tile_dpbf16ps(3, 5, 6);
      }
      float *to = dh + tile * AMX_ELEMENTS;
      _tile_stored(0, to, 64);
      _tile_stored(1, to + AMX_ELEMENTS / 2, 64);
      if (both) _tile_stored(2, to + AMX_ELEMENTS, 64);
      if (both) _tile_stored(3, to + AMX_ELEMENTS / 2 * 3, 64);
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
  uint16_t *wide = backend_scratch(p->backend, thread), *plain = wide + TASK_COLUMNS / AMX_ROWS * PANEL_STEP;
  int64_t division = task / job->column_tasks, column_task = task % job->column_tasks, column = column_task * job->task_columns;
  int64_t columns = smaller(job->task_columns, p->width - column);
  int64_t first = division * job->division_tiles, last = smaller(first + job->division_tiles, job->tiles);
  tiles_begin();
  for (int64_t tile = first; tile < last; tile += BLOCK_TILES) {
    int64_t tiles = smaller(BLOCK_TILES, last - tile), row = tile * AMX_DEPTH;
    WideBlock block = {rows_from(p->wide, row * p->wide.step + column), p->n - row, columns};
    if (job->low) {
      Rows rounded = job->low->rounded;
      make_plain(plain, &block, tiles, rounded.data ? rows_from(rounded, row * rounded.step + column) : rounded);
    }
    BY_TYPE(block.rows.type, pack_wide(wide, &block, tiles, TYPE));
    for (int64_t panel = 0; panel < job->panels; panel += 2) {
      const uint16_t *narrow = job->narrow + (panel * job->tiles + tile) * AMX_ELEMENTS;
      const uint16_t *second = panel + 1 < job->panels ? narrow + job->tiles * AMX_ELEMENTS : NULL;
      float *sums = job->sums + (division * job->panels + panel) * AMX_ROWS * job->step + column;
      for (int64_t j = 0; j < columns; j += 2 * AMX_ROWS)
        multiply_tiles(sums + j, job->step, narrow, second, wide + j / AMX_ROWS * PANEL_STEP, tiles, tile == first);
    }
    if (job->low) multiply_back(job, job->dh + (column_task * job->panels * job->tiles + tile) * AMX_ELEMENTS, &block, tiles, column);
  }
  tiles_end();
}

// dw += alpha * the sums of all divisions, for 16 columns of all panels.
static void add_sums(const Job *job, int64_t task) {
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
    int64_t step = o->dw_step;
    float *to = p->is_turned ? o->dw + column * step + row : o->dw + row * step + column;
    int64_t count = p->is_turned ? columns : rows, width = p->is_turned ? rows : columns;
    for (int64_t i = 0; i < count; i++) vec_store_first(to + i * step, vec_load_first(to + i * step, width) + block[i], width);
  }
}

// dh of 32 rows: the sums of all column tasks.
static void finish_dh(const Job *job, int64_t tile) {
  const LowRankGradient *g = job->low;
  int64_t step = job->panels * job->tiles * AMX_ELEMENTS;
  for (int64_t i = tile * AMX_DEPTH; i < smaller((tile + 1) * AMX_DEPTH, job->product->n); i++)
    for (int64_t panel = 0; panel < job->panels; panel++) {
      const float *part = job->dh + (panel * job->tiles * AMX_DEPTH + i) * AMX_ROWS;
      Vec sum = vec_load(part);
      for (int64_t t = 1; t < job->column_tasks; t++) sum += vec_load(part + t * step);
      int64_t column = panel * AMX_ROWS;
      BY_TYPE(g->dh.type, typed_store(g->dh.data, i * g->dh.step + column, sum, smaller(AMX_ROWS, g->rank - column), TYPE));
    }
}

static void finish(void *argument, int64_t task, int thread) {
  (void)thread;
  const Job *job = argument;
  int64_t columns = divide_up(job->product->width, VL);
  if (task < columns) add_sums(job, task);
  else finish_dh(job, task - columns);
}

static void multiply_all(const WeightProduct *p) {
  Job job = {.product = p, .low = p->low, .tiles = divide_up(p->n, AMX_DEPTH), .step = round_up(p->width, 2 * AMX_ROWS)};
  job.division_tiles = larger(DIVISION_TILES, divide_up(job.tiles, DIVISIONS));
  job.task_columns = round_up(divide_up(p->width, divide_up(p->width, TASK_COLUMNS)), AMX_DEPTH);
  job.column_tasks = divide_up(p->width, job.task_columns);
  for (int i = 0; i < p->narrow_count; i++) job.panels += divide_up(p->narrow[i].m, AMX_ROWS);
  int64_t divisions = divide_up(job.tiles, job.division_tiles), narrow_tiles = job.panels * job.tiles;
  int64_t b_tiles = p->low ? job.panels * divide_up(p->width, AMX_DEPTH) : 0;
  int64_t sums = divisions * job.panels * AMX_ROWS * job.step, dh = p->low ? job.column_tasks * narrow_tiles * AMX_ELEMENTS : 0;
  int64_t bytes = (sums + dh) * (int64_t)sizeof(float) + (narrow_tiles + b_tiles) * AMX_ELEMENTS * (int64_t)sizeof(uint16_t);
  job.sums = backend_shared_scratch(p->backend, bytes);
  job.dh = job.sums + sums;
  job.narrow = (uint16_t *)(void *)(job.dh + dh);
  job.b = job.narrow + narrow_tiles * AMX_ELEMENTS;
  pool_run(p->backend->pool, narrow_tiles + b_tiles, pack, &job);
  pool_run(p->backend->pool, divisions * job.column_tasks, multiply_part, &job);
  pool_run(p->backend->pool, divide_up(p->width, VL) + (p->low ? job.tiles : 0), finish, &job);
}

// Sums of all divisions are held at once: a whole matrix's go by slices of the narrow side.
void weight_product_tiles(const WeightProduct *p) {
  const int64_t sums_bytes = 16 << 20, row_bytes = DIVISIONS * p->width * (int64_t)sizeof(float);
  int64_t most = larger(2 * AMX_ROWS, sums_bytes / row_bytes / (2 * AMX_ROWS) * (2 * AMX_ROWS)), rows = 0;
  for (int i = 0; i < p->narrow_count; i++) rows += p->narrow[i].m;
  if (p->low || rows <= most) {
    multiply_all(p);
    return;
  }
  for (int i = 0; i < p->narrow_count; i++)
    for (int64_t first = 0; first < p->narrow[i].m; first += most) {
      WeightProduct slice = *p;
      NarrowOperand *o = &slice.narrow[0];
      *o = p->narrow[i];
      slice.narrow_count = 1;
      o->rows = rows_from(o->rows, first);
      o->m = smaller(most, o->m - first);
      o->dw += p->is_turned ? first : first * o->dw_step;
      multiply_all(&slice);
    }
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
