// The bfloat16 side of kernels/cpu/product.h, by AMX tiles (tiles.h). A panel of b is 16 columns: tiles of 32 k one after another, each
// term's k filled up to a multiple of 32 by zeros. All of a task's left operands are packed into tiles first; then 2 x 2 tiles of sums
// run over the whole k, and their 32 x 32 values are finished at once.
#include "kernels/cpu/product.h"

#ifdef __AMX_BF16__

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/tiles.h"

static __m512i load_words(const float *p, int64_t count) {  // 32 floats as bfloat16, zeros from `count` on
  return (__m512i)_mm512_cvtne2ps_pbh(vec_load_first(p + VL, count - VL), vec_load_first(p, count));
}

static void pack_transposed(uint16_t *to, const Term *term, int64_t row, int64_t columns, int64_t first, int64_t depth, float *buffer) {
  const float *rows[AMX_ROWS];
  for (int64_t r = 0; r < columns; r++) rows[r] = matrix_segment(&term->w, row + r, term->first_k + first, depth, buffer + r * DEPTH);
  Vec alpha = vec_set(term->alpha);
  for (int64_t k = 0; k < depth; k += AMX_DEPTH, to += AMX_ELEMENTS) {
    Vec pairs[AMX_ROWS];
    for (int64_t r = 0; r < AMX_ROWS; r++) {
      if (r >= columns) {
        pairs[r] = vec_zero();
        continue;
      }
      Vec low = vec_load_first(rows[r] + k, depth - k), high = vec_load_first(rows[r] + k + VL, depth - k - VL);
      pairs[r] = (Vec)_mm512_cvtne2ps_pbh(high * alpha, low * alpha);
    }
    vec_transpose(pairs);
    for (int q = 0; q < AMX_ROWS; q++) vec_store((float *)(void *)(to + 2 * q * AMX_ROWS), pairs[q]);
  }
}

static __m512i words_of(const float *p, int64_t count, Vec alpha) {  // 16 floats as bfloat16, each in 32 bits
  return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(vec_load_first(p, count) * alpha));
}

static void pack_plain(uint16_t *to, int64_t panel_step, const Term *term, int64_t column, int64_t columns, int64_t first, int64_t depth,
                       float *buffer) {
  Vec alpha = vec_set(term->alpha);
  int64_t pairs = round_up(depth, AMX_DEPTH) / 2;
  for (int64_t q = 0; q < pairs; q++) {
    const float *even = buffer, *odd = buffer + GROUP_COLUMNS;
    int64_t has_even = 2 * q < depth, has_odd = 2 * q + 1 < depth;
    if (has_even) even = matrix_segment(&term->w, term->first_k + first + 2 * q, column, columns, buffer);
    if (has_odd) odd = matrix_segment(&term->w, term->first_k + first + 2 * q + 1, column, columns, buffer + GROUP_COLUMNS);
    for (int64_t j = 0; j < columns; j += AMX_ROWS) {
      __m512i low = words_of(even + j, has_even ? columns - j : 0, alpha), high = words_of(odd + j, has_odd ? columns - j : 0, alpha);
      uint16_t *row = to + j / AMX_ROWS * panel_step + q * 2 * AMX_ROWS;
      _mm512_storeu_si512(row, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

void product_bf16_pack(const Product *p, Segment segment, const Term *term, int64_t first, int64_t depth, int thread) {
  int64_t panel_step = segment.output->depth * AMX_ROWS;
  uint16_t *to = (uint16_t *)segment.panels + (term->at + first) * AMX_ROWS;
  float *buffer = backend_scratch(p->backend, thread);
  if (!term->transposed) {
    pack_plain(to, panel_step, term, segment.column, segment.columns, first, depth, buffer);
    return;
  }
  for (int64_t j = 0; j < segment.columns; j += AMX_ROWS, to += panel_step)
    pack_transposed(to, term, segment.column + j, smaller(AMX_ROWS, segment.columns - j), first, depth, buffer);
}

// 32 values of row i of a left operand as bfloat16, from k on.
ALWAYS_INLINE __m512i left_words(const Left *left, int64_t i, int64_t k, int type) {
  int64_t at = i * left->rows.step + k, count = left->k - k;
  if (type == FLOAT_32) return load_words((const float *)left->rows.data + at, count);
  const uint16_t *from = (const uint16_t *)left->rows.data + at;
  return count >= AMX_DEPTH ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16((1u << count) - 1, from);
}

ALWAYS_INLINE void pack_rows(const Left *left, int64_t row, int64_t rows, int type) {
  uint16_t *to = (uint16_t *)(uintptr_t)left->tiles.data + row / AMX_ROWS * left->tiles.panel_step;
  for (int64_t i = 0; i < rows; i += AMX_ROWS, to += left->tiles.panel_step) {
    int64_t count = smaller(AMX_ROWS, rows - i);
    uint16_t *at = to;
    for (int64_t k = 0; k < left->k; k += AMX_DEPTH, at += AMX_ELEMENTS) {
      for (int64_t r = 0; r < count; r++) _mm512_storeu_si512(at + r * AMX_DEPTH, left_words(left, row + i + r, k, type));
      for (int64_t r = count; r < AMX_ROWS; r++) _mm512_storeu_si512(at + r * AMX_DEPTH, _mm512_setzero_si512());
    }
  }
}

void product_bf16_pack_left(const Left *left, int64_t row, int64_t rows) { BY_TYPE(left->rows.type, pack_rows(left, row, rows, TYPE)); }

enum { BLOCK = 2 * AMX_ROWS };  // rows and columns of 2 x 2 tiles

// A block of sums that waits to be finished. Its rows go out between the tile instructions of the next block, so that the tile unit
// never waits for them.
typedef struct Pending {
  const Output *output;
  int64_t row, column, rows, columns;
  const float *sums;  // [BLOCK][BLOCK]
  bool is_plain;  // whole rows of bfloat16 and nothing to add: `to` is the first
  uint16_t *to;
  int64_t done;  // rows that are out
} Pending;

static __attribute__((noinline)) void finish_any_row(const Pending *pending, int64_t i) {
  product_store_row(pending->output, pending->row + i, pending->column, pending->sums + i * BLOCK, pending->columns);
}

ALWAYS_INLINE void finish_row(Pending *pending) {
  int64_t i = pending->done++;
  const float *sums = pending->sums + i * BLOCK;
  if (pending->is_plain)
    _mm512_storeu_si512(pending->to + i * pending->output->c.step, (__m512i)_mm512_cvtne2ps_pbh(vec_load(sums + VL), vec_load(sums)));
  else finish_any_row(pending, i);
}

static void finish(Pending *pending) {
  while (pending->done < pending->rows) finish_row(pending);
}

static Pending pending_block(const Output *output, int64_t row, int64_t column, int64_t rows, int64_t columns, const float *sums) {
  Rows c = output->c;
  Pending pending = {.output = output, .row = row, .column = column, .rows = rows, .columns = columns, .sums = sums};
  pending.is_plain = c.type == FLOAT_BF16 && columns == BLOCK && !output->bias && !output->residual.data && !output->accumulate;
  if (pending.is_plain) pending.to = (uint16_t *)c.data + row * c.step + column;
  return pending;
}

// 2 x 2 tiles of sums over `tiles` tiles of k: registers 0 to 3. The left operand's second panel may be the first again.
ALWAYS_INLINE void multiply_term(LeftTiles left, const uint16_t *a, int64_t second, const uint16_t *b, int64_t b_step, int64_t tiles,
                                 Pending *pending) {
  int64_t row_bytes = left.row_step * (int64_t)sizeof *a;
  for (int64_t t = 0; t < tiles; t++, a += left.tile_step, b += AMX_ELEMENTS) {
    _tile_loadd(4, a, row_bytes);
    _tile_loadd(6, b, 2 * AMX_DEPTH);
    _tile_loadd(7, b + b_step, 2 * AMX_DEPTH);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + second, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    if (pending->done < pending->rows) finish_row(pending);
    if (pending->done < pending->rows) finish_row(pending);
  }
}

// The same for one panel of columns: registers 0 and 2.
ALWAYS_INLINE void multiply_narrow_term(LeftTiles left, const uint16_t *a, int64_t second, const uint16_t *b, int64_t tiles,
                                        Pending *pending) {
  int64_t row_bytes = left.row_step * (int64_t)sizeof *a;
  for (int64_t t = 0; t < tiles; t++, a += left.tile_step, b += AMX_ELEMENTS) {
    _tile_loadd(4, a, row_bytes);
    _tile_loadd(6, b, 2 * AMX_DEPTH);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + second, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if (pending->done < pending->rows) finish_row(pending);
  }
}

// One block of an output: two panels of rows by two panels of columns, or by one.
static void multiply_block(float *sums, const Segment *segment, const Product *p, int64_t row_panel, bool has_second_row, int64_t panel,
                           bool has_second_column, Pending *pending) {
  const Output *output = segment->output;
  int64_t panel_step = output->depth * AMX_ROWS;
  const uint16_t *panels = (const uint16_t *)segment->panels + panel * panel_step;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (const Term *term = output->terms; term < output->terms + output->term_count; term++) {
    LeftTiles left = p->lefts[term->left].tiles;
    const uint16_t *a = left.data + row_panel * left.panel_step, *b = panels + term->at * AMX_ROWS;
    int64_t tiles = divide_up(p->lefts[term->left].k, AMX_DEPTH), second = has_second_row ? left.panel_step : 0;
    if (has_second_column) multiply_term(left, a, second, b, panel_step, tiles, pending);
    else multiply_narrow_term(left, a, second, b, tiles, pending);
  }
  finish(pending);
  const int64_t step = BLOCK * sizeof(float);
  _tile_stored(0, sums, step);
  _tile_stored(1, sums + AMX_ROWS, step);
  _tile_stored(2, sums + AMX_ROWS * BLOCK, step);
  _tile_stored(3, sums + AMX_ROWS * BLOCK + AMX_ROWS, step);
}

void product_bf16_multiply(const Product *p, ProductTask task) {
  _Alignas(64) float sums[2][BLOCK * BLOCK];
  Pending pending = {0};
  int64_t row_panels = divide_up(task.rows, AMX_ROWS), first_panel = task.row / AMX_ROWS, block = 0;
  tiles_begin();
  for (int o = 0; o < p->output_count; o++) {
    Segment segment = product_segment(p, task.piece, o, task.first_group, task.end_group);
    int64_t panels = divide_up(segment.columns, AMX_ROWS);
    for (int64_t j = 0; j < panels; j += 2)
      for (int64_t i = 0; i < row_panels; i += 2, block++) {
        multiply_block(sums[block % 2], &segment, p, first_panel + i, i + 1 < row_panels, j, j + 1 < panels, &pending);
        pending = pending_block(segment.output, task.row + i * AMX_ROWS, segment.column + j * AMX_ROWS,
                                smaller(BLOCK, task.rows - i * AMX_ROWS), smaller(BLOCK, segment.columns - j * AMX_ROWS), sums[block % 2]);
      }
  }
  finish(&pending);
  tiles_end();
}

#else
typedef int NoTiles;  // an empty file is none in C
#endif
