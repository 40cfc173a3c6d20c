// The products of kernels/linear.h as products with frozen matrices (product.h): forward, each projection is an output with the terms
// x w^T and h b^T; backward, dx is one output with the terms dy w and dh a of every projection.
// Except: with up to FEW_ROWS rows of float32 (generation) the forward pass streams w once, row by row, and sums in the order of
// dot_rows, so that there a row's last bits may differ from the same row among more.
#include <assert.h>
#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/product.h"

enum { FEW_ROWS = 8 };

static int add_left(Product *p, Rows rows, int64_t k) {
  assert(p->left_count < PRODUCT_LEFTS);
  int64_t depth = round_up(divide_up(k, divide_up(k, DEPTH)), GROUP);
  p->lefts[p->left_count] = (Left){rows, k, depth};
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) p->in_tiles = true;
#endif
  return p->left_count++;
}

static Output *add_output(Product *p, Rows c, int64_t n) {
  Output *output = &p->outputs[p->output_count++];
  *output = (Output){.c = c, .n = n};
#ifdef __AMX_BF16__
  if (c.type == FLOAT_BF16) p->in_tiles = true;
#endif
  return output;
}

static void add_term(Output *output, int left, const Matrix *w, bool transposed, float alpha) {
  output->terms[output->term_count++] = (Term){.left = left, .w = *w, .transposed = transposed, .alpha = alpha};
}

static int64_t tile_columns(const Product *p) { return p->in_tiles ? 16 : TILE_COLUMNS; }

// Where everything lies: each term in its output's panels, each output among the groups.
static void place(Product *p) {
  int64_t groups = 0;
  for (int o = 0; o < p->output_count; o++) {
    Output *output = &p->outputs[o];
    for (int t = 0; t < output->term_count; t++) {
      int64_t k = p->lefts[output->terms[t].left].k;
      output->terms[t].at = output->depth;
      output->depth += p->in_tiles ? round_up(k, 32) : k;
    }
    output->first_group = groups;
    output->groups = divide_up(output->n, GROUP_COLUMNS);
    groups += output->groups;
  }
}

// As many groups from first_group on as fit a piece, one at least; returns the piece's elements.
static int64_t choose_piece(Product *p, int64_t groups) {
  int64_t elements = 0, limit = p->in_tiles ? TILE_PIECE_BYTES / 2 : PIECE_BYTES / 4;
  p->end_group = p->first_group;
  for (int o = 0; o < p->output_count; o++) {
    Output *output = &p->outputs[o];
    output->piece_at = elements;
    while (p->end_group < groups && p->end_group >= output->first_group && p->end_group < output->first_group + output->groups) {
      int64_t columns = smaller(GROUP_COLUMNS, output->n - (p->end_group - output->first_group) * GROUP_COLUMNS);
      int64_t more = round_up(columns, tile_columns(p)) * output->depth;
      if (elements > 0 && elements + more > limit) return elements;
      elements += more;
      p->end_group++;
    }
  }
  return elements;
}

static int64_t term_blocks(const Product *p, const Term *term) { return divide_up(p->lefts[term->left].k, p->lefts[term->left].depth); }

static void pack_task(void *argument, int64_t task, int thread) {
  const Product *p = argument;
  for (int o = 0; o < p->output_count; o++) {
    Segment all = product_segment(p, o, p->first_group, p->end_group);
    int64_t groups = divide_up(all.columns, GROUP_COLUMNS);
    for (int t = 0; t < all.output->term_count; t++) {
      const Term *term = &all.output->terms[t];
      int64_t blocks = term_blocks(p, term);
      if (task >= groups * blocks) {
        task -= groups * blocks;
        continue;
      }
      const Left *left = &p->lefts[term->left];
      int64_t group = all.output->first_group + all.column / GROUP_COLUMNS + task / blocks, first = task % blocks * left->depth;
      int64_t depth = smaller(left->depth, left->k - first);
      Segment segment = product_segment(p, o, group, group + 1);
#ifdef __AMX_BF16__
      if (p->in_tiles) product_bf16_pack(p, segment, term, first, depth, thread);
      else
#endif
        product_f32_pack(p, segment, term, first, depth, thread);
      return;
    }
  }
}

static int64_t pack_tasks(const Product *p) {
  int64_t tasks = 0;
  for (int o = 0; o < p->output_count; o++) {
    Segment all = product_segment(p, o, p->first_group, p->end_group);
    for (int t = 0; t < all.output->term_count; t++) tasks += divide_up(all.columns, GROUP_COLUMNS) * term_blocks(p, &all.output->terms[t]);
  }
  return tasks;
}

static void multiply_task(void *argument, int64_t index, int thread) {
  const Product *p = argument;
  int64_t row = index % p->row_tasks * p->block_rows, first = p->first_group + index / p->row_tasks * p->task_groups;
  ProductTask task = {row, smaller(p->block_rows, p->m - row), first, smaller(first + p->task_groups, p->end_group), thread};
#ifdef __AMX_BF16__
  if (p->in_tiles) {
    product_bf16_multiply(p, task);
    return;
  }
#endif
  product_f32_multiply(p, task);
}

// So many groups to a task that all threads have some tasks.
static int64_t multiply_tasks(Product *p) {
  int64_t threads = pool_threads(p->backend->pool), wanted = threads == 1 ? 1 : 4 * threads, groups = p->end_group - p->first_group;
  p->row_tasks = divide_up(p->m, p->block_rows);
  int64_t splits = smaller(divide_up(wanted, p->row_tasks), groups);
  if (!p->in_tiles) splits = larger(splits, divide_up(groups, TASK_GROUPS));
  p->task_groups = divide_up(groups, splits);
  return p->row_tasks * divide_up(groups, p->task_groups);
}

// What a piece of the product takes at most when no left operand is longer than `depth`.
static int64_t shared_bytes_of(const Product *p, int64_t depth) {
  int64_t k = 0;
  for (int l = 0; l < p->left_count; l++) k += round_up(smaller(p->lefts[l].k, depth), 32);
  return larger(PIECE_BYTES, GROUP_COLUMNS * k * 2);
}

// As many rows as leave all left operands, packed, in the second cache.
static int64_t tile_block_rows(const Product *p) {
  int64_t rows = 128, k = 0;
  for (int l = 0; l < p->left_count; l++) k += round_up(p->lefts[l].k, 32);
  while (rows > 32 && rows * k * 2 > 1 << 20) rows /= 2;
  return rows;
}

static void run_product(Product *p);

// A sum over a long k by tiles: pieces of k one after another, added up in float32 beside the packed piece.
static void run_in_depths(const Product *p, int64_t longest) {
  int64_t columns = 0;
  for (int o = 0; o < p->output_count; o++) columns += p->outputs[o].n;
  int64_t partial_bytes = p->m * columns * (int64_t)sizeof(float);
  // (The piece is larger when a single group is.)
  char *block = backend_shared_scratch(p->backend, shared_bytes_of(p, TILE_DEPTH) + partial_bytes);
  for (int64_t first = 0; first < longest; first += TILE_DEPTH) {
    Product part = {.m = p->m, .in_tiles = true, .backend = p->backend};
    int lefts[PRODUCT_LEFTS];
    for (int l = 0; l < p->left_count; l++) {
      const Left *left = &p->lefts[l];
      lefts[l] = left->k > first ? add_left(&part, rows_from(left->rows, first), smaller(TILE_DEPTH, left->k - first)) : -1;
    }
    float *partial = (float *)(void *)(block + shared_bytes_of(p, TILE_DEPTH));
    for (int o = 0; o < p->output_count; partial += p->m * p->outputs[o].n, o++) {
      const Output *whole = &p->outputs[o];
      bool is_first = first == 0, is_last = first + TILE_DEPTH >= longest;
      Rows sums = rows_f32(partial, whole->n);
      Output *output = add_output(&part, is_last ? whole->c : sums, whole->n);
      output->accumulate = is_last && whole->accumulate;
      output->bias = is_first ? whole->bias : NULL;
      output->residual = is_first ? whole->residual : sums;
      for (int t = 0; t < whole->term_count; t++) {
        Term term = whole->terms[t];
        if (lefts[term.left] < 0) continue;
        term.left = lefts[term.left];
        term.first_k = first;
        output->terms[output->term_count++] = term;
      }
    }
    run_product(&part);
  }
}

static void run_product(Product *p) {
  if (p->m == 0) return;
  int64_t longest = 0;
  for (int l = 0; l < p->left_count; l++) longest = larger(longest, p->lefts[l].k);
  if (p->in_tiles && longest > TILE_DEPTH) {
    run_in_depths(p, longest);
    return;
  }
  place(p);
  p->block_rows = p->in_tiles ? tile_block_rows(p) : BLOCK_ROWS;
  int64_t groups = p->outputs[p->output_count - 1].first_group + p->outputs[p->output_count - 1].groups;
  for (p->first_group = 0; p->first_group < groups; p->first_group = p->end_group) {
    int64_t elements = choose_piece(p, groups);
    p->piece = backend_shared_scratch(p->backend, larger(PIECE_BYTES, elements * (p->in_tiles ? 2 : 4)));
    pool_run(p->backend->pool, pack_tasks(p), pack_task, p);
    pool_run(p->backend->pool, multiply_tasks(p), multiply_task, p);
  }
}

void product_store(const Output *output, int64_t row, int64_t column, const float *sums, int64_t ld, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++) product_store_row(output, row + i, column, sums + i * ld, columns);
}

typedef struct Stream {
  const Projection *projection;
  Rows x;
  int64_t n;
  Backend *backend;
} Stream;

static void stream_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Stream *s = argument;
  const Projection *p = s->projection;
  const float *x = s->x.data, *h = p->h.data;
  float *buffer = backend_scratch(s->backend, thread), sums[FEW_ROWS], low[FEW_ROWS];
  bool is_fused = s->n == 1 && is_dot_fused(p->w);
  for (int64_t row = begin; row < end; row++) {
    if (is_fused) sums[0] = matrix_dot(p->w, row, x);
    else dot_rows(sums, matrix_segment(p->w, row, 0, p->w->columns, buffer), x, s->x.step, s->n, p->w->columns);
    if (p->rank) dot_rows(low, p->low + row * p->rank, h, p->h.step, s->n, p->rank);
    for (int64_t i = 0; i < s->n; i++) {
      float value = p->alpha * sums[i];
      if (p->rank) value += low[i];
      if (p->bias) value += p->bias[row];
      if (p->residual.data) value += ((const float *)p->residual.data)[i * p->residual.step + row];
      ((float *)p->y.data)[i * p->y.step + row] = value;
    }
  }
}

static bool is_streamed(const Projection *p, Rows x, int64_t n) {
  bool is_float = x.type == FLOAT_32 && p->y.type == FLOAT_32 && (!p->rank || p->h.type == FLOAT_32) &&
                  (!p->residual.data || p->residual.type == FLOAT_32);
  return is_float && n <= FEW_ROWS && p->w->columns <= (int64_t)(KERNEL_SCRATCH_BYTES / sizeof(float));
}

void cpu_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  int left = -1;
  for (const Projection *p = projections; p < projections + count; p++) {
    if (is_streamed(p, x, n)) {
      Stream stream = {p, x, n, backend};
      if (n > 0) run_rows(backend, p->w->rows, p->w->columns, stream_rows, &stream);
      continue;
    }
    if (left < 0) left = add_left(&product, x, p->w->columns);
    Output *output = add_output(&product, p->y, p->w->rows);
    output->bias = p->bias;
    output->residual = p->residual;
    add_term(output, left, p->w, true, p->alpha);
    if (!p->rank) continue;
    Matrix low = matrix_f32(p->low, p->w->rows, p->rank);
    add_term(output, add_left(&product, p->h, p->rank), &low, true, 1);
  }
  if (product.output_count) run_product(&product);
}

void cpu_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend) {
  Product product = {.m = n, .backend = backend};
  Output *output = add_output(&product, dx, projections[0].w->columns);
  output->accumulate = accumulate;
  for (const Projection *p = projections; p < projections + count; p++) {
    add_term(output, add_left(&product, p->y, p->w->rows), p->w, false, p->alpha);
    if (!p->rank) continue;
    Matrix low = matrix_f32(p->low, p->rank, p->w->columns);
    add_term(output, add_left(&product, p->h, p->rank), &low, false, 1);
  }
  run_product(&product);
}
