// The bfloat16 side of kernels/cpu/product.h, by AMX tiles (tiles.h). A panel of b is 16 columns: tiles of 32 k one after another, each
// term's k filled up to a multiple of 32 by zeros. Two panels of rows pass over all the task's columns: 2 x 2 tiles of sums run over the
// part's k, and their 32 x 32 values are finished at once. Meanwhile the next two panels of rows are fetched.
#include "kernels/cpu/product.h"

#ifdef __AMX_BF16__

#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/tiles.h"

enum { AHEAD = 32 };  // rows that are fetched before they are read

// One panel of w^T: 16 rows of w, of which pairs of words are turned.
static void pack_transposed(uint16_t *to, const Term *term, int64_t row, int64_t columns, int64_t first, int64_t depth, uint16_t *buffer) {
  const uint16_t *rows[AMX_ROWS];
  for (int64_t r = 0; r < columns; r++) rows[r] = matrix_words(&term->w, row + r, first, depth, term->alpha, buffer + r * DEPTH);
  for (int64_t k = 0; k < depth; k += AMX_DEPTH, to += AMX_ELEMENTS) {
    Vec pairs[AMX_ROWS];
    for (int64_t r = 0; r < AMX_ROWS; r++) pairs[r] = r < columns ? (Vec)_mm512_loadu_si512(rows[r] + k) : vec_zero();
    vec_transpose(pairs);
    for (int q = 0; q < AMX_ROWS; q++) vec_store((float *)(void *)(to + 2 * q * AMX_ROWS), pairs[q]);
  }
}

// Panels of w: two rows of it make a row of pairs.
static void pack_plain(uint16_t *to, int64_t panel_step, const Term *term, int64_t column, int64_t columns, int64_t first, int64_t depth,
                       uint16_t *buffer) {
  int64_t width = round_up(columns, AMX_DEPTH);
  uint16_t *second = buffer + width, *zeros = second + width;
  memset(zeros, 0, (size_t)width * sizeof *zeros);
  MatrixBytes bytes = matrix_bytes(&term->w, first, column, columns);
  for (int64_t k = 0; k < round_up(depth, AMX_DEPTH); k += 2, to += 2 * AMX_ROWS) {
    for (int64_t ahead = k + AHEAD; ahead < smaller(k + AHEAD + 2, depth); ahead++) matrix_fetch(bytes, ahead);
    const uint16_t *even = k < depth ? matrix_words(&term->w, first + k, column, columns, term->alpha, buffer) : zeros;
    const uint16_t *odd = k + 1 < depth ? matrix_words(&term->w, first + k + 1, column, columns, term->alpha, second) : zeros;
    uint16_t *at = to;
    for (int64_t j = 0; j < width; j += AMX_DEPTH, at += 2 * panel_step) {
      __m512i pairs[2];
      pair_words(pairs, _mm512_loadu_si512(even + j), _mm512_loadu_si512(odd + j));
      _mm512_storeu_si512(at, pairs[0]);
      _mm512_storeu_si512(at + panel_step, pairs[1]);
    }
  }
}

void product_bf16_pack(const Segment *segment, const Term *term, int64_t first, int64_t depth, int64_t at, void *buffer) {
  int64_t panel_step = segment->depth * AMX_ROWS;
  uint16_t *to = (uint16_t *)segment->panels + at * AMX_ROWS;
  if (!term->transposed) {
    pack_plain(to, panel_step, term, segment->column, segment->columns, first, depth, buffer);
    return;
  }
  MatrixBytes bytes = matrix_bytes(&term->w, segment->column, first, depth);
  for (int64_t j = 0; j < segment->columns; j += AMX_ROWS, to += panel_step) {
    for (int64_t r = j + AMX_ROWS; r < smaller(j + 2 * AMX_ROWS, segment->columns); r++) matrix_fetch(bytes, r);
    pack_transposed(to, term, segment->column + j, smaller(AMX_ROWS, segment->columns - j), first, depth, buffer);
  }
}

ALWAYS_INLINE void pack_rows(uint16_t *to, const Left *left, int64_t row, int64_t rows, int type) {
  for (int64_t i = 0; i < rows; i += AMX_ROWS, to += left->tiles.panel_step) {
    int64_t count = smaller(AMX_ROWS, rows - i);
    uint16_t *at = to;
    for (int64_t k = 0; k < left->k; k += AMX_DEPTH, at += AMX_ELEMENTS) {
      for (int64_t r = 0; r < count; r++)
        _mm512_storeu_si512(at + r * AMX_DEPTH, bf16_words(left->rows.data, (row + i + r) * left->rows.step + k, left->k - k, type));
      for (int64_t r = count; r < AMX_ROWS; r++) _mm512_storeu_si512(at + r * AMX_DEPTH, _mm512_setzero_si512());
    }
  }
}

void product_bf16_pack_left(uint16_t *to, const Left *left, int64_t row, int64_t rows) {
  BY_TYPE(left->rows.type, pack_rows(to, left, row, rows, TYPE));
}

enum { BLOCK = 2 * AMX_ROWS };  // rows and columns of 2 x 2 tiles

typedef enum Finish {
  FINISH_ANY,
  FINISH_BF16,
  FINISH_BF16_STREAMED,
  FINISH_RESIDUAL,
  FINISH_RESIDUAL_STREAMED,
  FINISH_EXPONENTIALS
} Finish;

// A block of sums that waits to be finished. Its rows go out between the tile instructions of the next block, so that the tile unit
// never waits for them.
typedef struct Pending {
  const Output *output;
  int64_t row, column, rows, columns;
  const float *sums;  // [BLOCK][BLOCK]
  Finish finish;
  void *to;  // the first row
  int64_t done;  // rows that are out
} Pending;

static __attribute__((noinline)) void finish_any_row(const Pending *pending, int64_t i) {
  product_store_row(pending->output, pending->row + i, pending->column, pending->sums + i * BLOCK, pending->columns);
}

static __attribute__((noinline)) void finish_exponentials(const Pending *pending, int64_t i) {
  const Exponentials *e = pending->output->exponentials;
  const float *sums = pending->sums + i * BLOCK;
  int64_t row = pending->row + i, columns = pending->columns;
  Vec factor = vec_set(LOG2_E), shift = vec_set(e->shifts[row]);
  Vec low = vec_exp2(vec_fma(factor, vec_load(sums), -shift)), high = vec_exp2(vec_fma(factor, vec_load(sums + VL), -shift));
  uint16_t *to = (uint16_t *)pending->to + i * pending->output->c.step;
  if (columns < BLOCK) {
    low = (Vec)((VecI)low & vec_first(columns));
    high = (Vec)((VecI)high & vec_first(columns - VL));
  }
  e->sums[row * e->step + pending->column / GROUP_COLUMNS] = vec_sum(low + high);
  __m512i words = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  if (columns < BLOCK) _mm512_mask_storeu_epi16(to, (1u << columns) - 1, words);
  else if (pending->output->is_streamed) _mm512_stream_si512((__m512i *)(void *)to, words);
  else _mm512_storeu_si512(to, words);
}

ALWAYS_INLINE __m512i bf16_row(const float *sums) { return (__m512i)_mm512_cvtne2ps_pbh(vec_load(sums + VL), vec_load(sums)); }

static inline void finish_row(Pending *pending) {
  int64_t i = pending->done++, step = pending->output->c.step;
  const float *sums = pending->sums + i * BLOCK;
  if (pending->finish == FINISH_BF16) {
    _mm512_storeu_si512((uint16_t *)pending->to + i * step, bf16_row(sums));
  } else if (pending->finish == FINISH_BF16_STREAMED) {
    _mm512_stream_si512((__m512i *)(void *)((uint16_t *)pending->to + i * step), bf16_row(sums));
  } else if (pending->finish == FINISH_ANY) {
    finish_any_row(pending, i);
  } else if (pending->finish == FINISH_EXPONENTIALS) {
    finish_exponentials(pending, i);
  } else {
    const Rows residual = pending->output->residual;
    const float *add = (const float *)residual.data + (pending->row + i) * residual.step + pending->column;
    Vec low = vec_load(sums) + vec_load(add), high = vec_load(sums + VL) + vec_load(add + VL);
    float *to = (float *)pending->to + i * step;
    if (pending->finish == FINISH_RESIDUAL_STREAMED) {
      vec_stream(to, low);
      vec_stream(to + VL, high);
    } else {
      vec_store(to, low);
      vec_store(to + VL, high);
    }
  }
}

static void finish(Pending *pending) {
  while (pending->done < pending->rows) finish_row(pending);
}

static Pending pending_block(const Output *output, int64_t row, int64_t column, int64_t rows, int64_t columns, const float *sums) {
  Rows c = output->c;
  Pending pending = {.output = output, .row = row, .column = column, .rows = rows, .columns = columns, .sums = sums};
  pending.to = rows_from(c, row * c.step + column).data;
  if (output->exponentials) pending.finish = FINISH_EXPONENTIALS;
  if (columns < BLOCK || output->bias || output->accumulate || output->exponentials) return pending;
  if (c.type == FLOAT_BF16 && !output->residual.data) pending.finish = output->is_streamed ? FINISH_BF16_STREAMED : FINISH_BF16;
  if (c.type == FLOAT_32 && output->residual.data && output->residual.type == FLOAT_32)
    pending.finish = output->is_streamed ? FINISH_RESIDUAL_STREAMED : FINISH_RESIDUAL;
  return pending;
}

// Two panels of rows of a left operand, and what is fetched meanwhile: so many rows of the next two, or of each of them.
typedef struct RowPair {
  const uint16_t *first, *second, *ahead, *ahead_too;
  const float *residual;  // of the block below this one, whose rows are fetched, too; NULL: none
  int64_t residual_step;
  int64_t ahead_rows, row_step, tile_step;
} RowPair;

ALWAYS_INLINE void fetch_ahead(const RowPair *a, int64_t t) {
  for (int64_t r = 2 * t; a->residual && r < 2 * t + 2 && r < BLOCK; r++) {
    _mm_prefetch((const char *)(a->residual + r * a->residual_step), _MM_HINT_T1);
    _mm_prefetch((const char *)(a->residual + r * a->residual_step + AMX_ROWS), _MM_HINT_T1);
  }
  for (int64_t r = 0; r < a->ahead_rows; r++) _mm_prefetch((const char *)(a->ahead + r * a->row_step + t * a->tile_step), _MM_HINT_T1);
  for (int64_t r = 0; a->ahead_too && r < a->ahead_rows; r++)
    _mm_prefetch((const char *)(a->ahead_too + r * a->row_step + t * a->tile_step), _MM_HINT_T1);
}

// 2 x 2 tiles of sums over `tiles` tiles of k: registers 0 to 3; or, for one panel of columns, 0 and 2. The second panel of rows may be
// the first again.
ALWAYS_INLINE void multiply_term(const RowPair *rows, const uint16_t *b, int64_t b_step, int64_t tiles, bool both, Pending *pending) {
  const uint16_t *first = rows->first, *second = rows->second;
  int64_t row_bytes = rows->row_step * (int64_t)sizeof *first;
  for (int64_t t = 0; t < tiles; t++, first += rows->tile_step, second += rows->tile_step, b += AMX_ELEMENTS) {
    _tile_loadd(4, first, row_bytes);
    _tile_stream_loadd(6, b, 2 * AMX_DEPTH);
    if (both) _tile_stream_loadd(7, b + b_step, 2 * AMX_DEPTH);
    _tile_dpbf16ps(0, 4, 6);
    if (both) _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, second, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if (both) _tile_dpbf16ps(3, 5, 7);
    fetch_ahead(rows, t);
    if (pending->done < pending->rows) finish_row(pending);
    if (pending->done < pending->rows) finish_row(pending);
  }
}

static const uint16_t *left_panel(const Left *left, int64_t panel, int64_t first_k) {
  const LeftTiles *tiles = &left->tiles;
  return (panel == tiles->tail_panel ? tiles->tail : tiles->data + (panel - tiles->first_panel) * tiles->panel_step) +
         first_k / AMX_DEPTH * tiles->tile_step;
}

// Rows of the left operands that a block reads: panels `panel` and, of those before `end`, the next; and its share of the next two.
static RowPair row_pair(const Left *left, int64_t panel, int64_t end, int64_t first_k, int64_t ahead_first, int64_t ahead_rows) {
  RowPair pair = {.first = left_panel(left, panel, first_k), .row_step = left->tiles.row_step, .tile_step = left->tiles.tile_step};
  pair.second = panel + 1 < end ? left_panel(left, panel + 1, first_k) : pair.first;
  int64_t ahead = panel + 2 + ahead_first / AMX_ROWS;
  if (ahead_first >= BLOCK || ahead >= end) return pair;
  pair.ahead = left_panel(left, ahead, first_k) + ahead_first % AMX_ROWS * pair.row_step;
  pair.ahead_rows = smaller(ahead_rows, AMX_ROWS);
  if (ahead_rows == BLOCK && ahead + 1 < end) pair.ahead_too = left_panel(left, ahead + 1, first_k);
  return pair;
}

// 2 x 2 tiles of float32 sums, or the left two.
ALWAYS_INLINE void load_sums(const float *sums, int64_t step, bool both) {
  int64_t bytes = step * (int64_t)sizeof *sums;
  _tile_loadd(0, sums, bytes);
  _tile_loadd(2, sums + AMX_ROWS * step, bytes);
  if (!both) return;
  _tile_loadd(1, sums + AMX_ROWS, bytes);
  _tile_loadd(3, sums + AMX_ROWS * step + AMX_ROWS, bytes);
}

ALWAYS_INLINE void store_sums(float *sums, int64_t step, bool both) {
  int64_t bytes = step * (int64_t)sizeof *sums;
  _tile_stored(0, sums, bytes);
  _tile_stored(2, sums + AMX_ROWS * step, bytes);
  if (!both) return;
  _tile_stored(1, sums + AMX_ROWS, bytes);
  _tile_stored(3, sums + AMX_ROWS * step + AMX_ROWS, bytes);
}

// Of a part: so many k of one left operand that two panels of its rows stay in the first cache while all columns pass by; the last slice
// takes the small operands (LoRA's) as well.
enum { SLICE_DEPTH = 640, SMALL_DEPTH = 64 };
typedef struct Slice {
  int left;  // -1: none but the small ones
  int64_t first, depth;
  bool is_last;  // of the part
} Slice;

// The blocks of one pair of row panels that a task goes through, and for what k.
typedef struct Pass {
  const ProductTask *task;
  Slice slice;
  bool is_started, is_finished;  // whether there are sums already; whether they are whole then
  int64_t panel, end;  // the first panel of rows, and the end of the task's
  float *kept;  // the pair's sums, between slices and parts: [BLOCK][columns]
  int64_t ahead_rows, block;  // rows to fetch during a block; the number of the present one
  Pending pending;
  float (*sums)[BLOCK * BLOCK];  // of two blocks in turn: one is pending
} Pass;

static void multiply_block(Pass *pass, const Segment *segment, int64_t column) {
  const ProductTask *task = pass->task;
  const Product *p = task->product;
  bool both = segment->columns - column > AMX_ROWS;
  int64_t panel_step = segment->depth * AMX_ROWS;
  const uint16_t *panels = (const uint16_t *)segment->panels + column / AMX_ROWS * panel_step;
  float *kept = pass->kept + segment->at + column;
  if (!pass->is_started) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    load_sums(kept, task->columns, both);
  }
  for (int t = 0; t < segment->output->term_count; t++) {
    const Left *left = &p->lefts[segment->output->terms[t].left];
    const Rows *residual = &segment->output->residual;
    int64_t first = task->part.first, tiles = divide_up(part_depth(left, task->part), AMX_DEPTH);
    if (tiles > SMALL_DEPTH / AMX_DEPTH) {
      if (segment->output->terms[t].left != pass->slice.left) continue;
      first = pass->slice.first;
      tiles = divide_up(pass->slice.depth, AMX_DEPTH);
    } else if (!pass->slice.is_last) {
      continue;
    }
    const uint16_t *b = panels + (segment->term_at[t] + first - task->part.first) * AMX_ROWS;
    RowPair rows = row_pair(left, pass->panel, pass->end, first, pass->block * pass->ahead_rows, pass->ahead_rows);
    if (residual->data && residual->type == FLOAT_32 && pass->is_finished && tiles > 1) {
      rows.residual = (const float *)residual->data + (pass->panel + 2) * AMX_ROWS * residual->step + segment->column + column;
      rows.residual_step = residual->step;
    }
    if (both) multiply_term(&rows, b, panel_step, tiles, true, &pass->pending);
    else multiply_term(&rows, b, panel_step, tiles, false, &pass->pending);
  }
  finish(&pass->pending);
  if (!pass->is_finished) {
    store_sums(kept, task->columns, both);
    return;
  }
  float *sums = pass->sums[pass->block % 2];
  store_sums(sums, BLOCK, both);
  int64_t row = pass->panel * AMX_ROWS;
  pass->pending = pending_block(segment->output, row, segment->column + column, smaller(BLOCK, task->row + task->rows - row),
                                smaller(BLOCK, segment->columns - column), sums);
}

// The slices of a part, in order; returns how many (at most SLICES).
enum { SLICES = 64 };
static int plan_slices(Slice *slices, const ProductTask *task) {
  int count = 0;
  for (int l = 0; l < task->product->left_count; l++) {
    int64_t k = part_depth(&task->product->lefts[l], task->part);
    if (k <= SMALL_DEPTH) continue;
    int64_t depth = round_up(divide_up(k, divide_up(k, SLICE_DEPTH)), AMX_DEPTH);
    for (int64_t first = 0; first < k; first += depth)
      slices[count++] = (Slice){.left = l, .first = task->part.first + first, .depth = smaller(depth, k - first)};
  }
  if (count == 0) slices[count++] = (Slice){.left = -1};
  slices[count - 1].is_last = true;
  return count;
}

static void multiply_slice(Pass *pass) {
  const ProductTask *task = pass->task;
  pass->block = 0;
  for (int o = 0; o < task->product->output_count; o++)
    for (int64_t column = 0; column < task->segments[o].columns; column += BLOCK, pass->block++)
      multiply_block(pass, &task->segments[o], column);
}

void product_bf16_multiply(const ProductTask *task) {
  _Alignas(64) float sums[2][BLOCK * BLOCK];
  Slice slices[SLICES];
  Part part = task->part;
  int count = plan_slices(slices, task);
  Pass pass = {.task = task, .end = divide_up(task->row + task->rows, AMX_ROWS), .ahead_rows = 1, .sums = sums};
  while (pass.ahead_rows * task->columns < BLOCK * BLOCK && pass.ahead_rows < BLOCK) pass.ahead_rows *= 2;
  bool is_kept = !part.is_first || !part.is_last;
  tiles_begin();
  for (pass.panel = task->row / AMX_ROWS; pass.panel < pass.end; pass.panel += 2) {
    pass.kept = task->sums + (is_kept ? (pass.panel * AMX_ROWS - task->row) * task->columns : 0);
    for (int i = 0; i < count; i++) {
      pass.slice = slices[i];
      pass.is_started = !part.is_first || i > 0;
      pass.is_finished = part.is_last && i + 1 == count;
      multiply_slice(&pass);
    }
  }
  finish(&pass.pending);
  tiles_end();
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
