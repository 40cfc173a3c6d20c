// What both sides of a product (product.h) share: where everything lies, pieces, tasks.
#include "kernels/cpu/product.h"

#include <assert.h>

#include "kernels/cpu/dequantize.h"

int product_add_left(Product *p, Rows rows, int64_t k) {
  assert(p->left_count < PRODUCT_LEFTS);
  int64_t depth = round_up(divide_up(k, divide_up(k, DEPTH)), GROUP);
  p->lefts[p->left_count] = (Left){.rows = rows, .k = k, .depth = depth};
#ifdef __AMX_BF16__
  if (rows.type == FLOAT_BF16) p->in_tiles = true;
#endif
  return p->left_count++;
}

Output *product_add_output(Product *p, Rows c, int64_t n) {
  Output *output = &p->outputs[p->output_count++];
  *output = (Output){.c = c, .n = n};
#ifdef __AMX_BF16__
  if (c.type == FLOAT_BF16) p->in_tiles = true;
#endif
  return output;
}

enum { STRIP_ROWS = 64 };  // of a left operand in a packing task

typedef struct Run {
  const Product *p;
  const Piece *multiplied, *packed;  // NULL: none
  int64_t block_rows, row_tasks, task_groups, multiply_tasks;
  int64_t pack_tasks;
  int left_tasks;  // lefts to be packed, in strips
} Run;

// Where everything lies: each term in its output's panels, each output among the groups. Returns the number of groups.
static int64_t place(Product *p) {
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
  return groups;
}

// What a piece takes at most when no left operand is longer than `depth`.
static int64_t piece_bytes(const Product *p, int64_t depth) {
  int64_t k = 0;
  for (int l = 0; l < p->left_count; l++) k += round_up(smaller(p->lefts[l].k, depth), 32);
  return round_up(larger(p->in_tiles ? TILE_PIECE_BYTES : PIECE_BYTES, GROUP_COLUMNS * k * (p->in_tiles ? 2 : 4)), 64);
}

// Few columns are worth no packing of rows that tiles can be read from.
static bool is_read_in_place(const Product *p, const Left *left) {
  int64_t columns = 0;
  for (int o = 0; o < p->output_count; o++) columns += p->outputs[o].n;
  return columns <= 64 && left->rows.type == FLOAT_BF16 && left->k % 32 == 0 && p->m % 16 == 0;
}

static int64_t left_bytes(const Product *p, int64_t depth) {
  int64_t bytes = 0;
  for (int l = 0; l < p->left_count; l++) bytes += round_up(p->m, 16) * round_up(smaller(p->lefts[l].k, depth), 32) * 2;
  return p->in_tiles ? bytes : 0;
}

// Scratch that all threads share: what the caller keeps, the left operands as tiles, two pieces.
static int64_t shared_bytes(const Product *p, int64_t depth) { return left_bytes(p, depth) + 2 * piece_bytes(p, depth); }

// As many groups from `first` on as fit a piece, one at least.
static Piece choose_piece(const Product *p, int64_t first, char *data) {
  Piece piece = {.data = data, .first_group = first, .end_group = first};
  int64_t elements = 0, limit = p->in_tiles ? TILE_PIECE_BYTES / 2 : PIECE_BYTES / 4, width = p->in_tiles ? 16 : TILE_COLUMNS;
  for (int o = 0; o < p->output_count; o++) {
    const Output *output = &p->outputs[o];
    piece.at[o] = elements;
    while (piece.end_group >= output->first_group && piece.end_group < output->first_group + output->groups) {
      int64_t columns = smaller(GROUP_COLUMNS, output->n - (piece.end_group - output->first_group) * GROUP_COLUMNS);
      int64_t more = round_up(columns, width) * output->depth;
      if (elements > 0 && elements + more > limit) return piece;
      elements += more;
      piece.end_group++;
    }
  }
  return piece;
}

static int64_t term_blocks(const Product *p, const Term *term) { return divide_up(p->lefts[term->left].k, p->lefts[term->left].depth); }

// Task `task` of packing a piece: a group of an output, a block of a term.
static void pack_group(const Product *p, const Piece *piece, int64_t task, int thread) {
  for (int o = 0; o < p->output_count; o++) {
    Segment all = product_segment(p, piece, o, piece->first_group, piece->end_group);
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
      Segment segment = product_segment(p, piece, o, group, group + 1);
#ifdef __AMX_BF16__
      if (p->in_tiles) product_bf16_pack(p, segment, term, first, depth, thread);
      else
#endif
        product_f32_pack(p, segment, term, first, depth, thread);
      return;
    }
  }
}

static int64_t count_pack_tasks(const Product *p, const Piece *piece) {
  int64_t tasks = 0;
  for (int o = 0; o < p->output_count; o++) {
    Segment all = product_segment(p, piece, o, piece->first_group, piece->end_group);
    for (int t = 0; t < all.output->term_count; t++) tasks += divide_up(all.columns, GROUP_COLUMNS) * term_blocks(p, &all.output->terms[t]);
  }
  return tasks;
}

static void multiply(const Run *run, int64_t index, int thread) {
  const Product *p = run->p;
  const Piece *piece = run->multiplied;
  int64_t row = index % run->row_tasks * run->block_rows, first = piece->first_group + index / run->row_tasks * run->task_groups;
  ProductTask task = {piece, row, smaller(run->block_rows, p->m - row), first, smaller(first + run->task_groups, piece->end_group), thread};
#ifdef __AMX_BF16__
  if (p->in_tiles) {
    product_bf16_multiply(p, task);
    return;
  }
#endif
  product_f32_multiply(p, task);
}

static void run_task(void *argument, int64_t index, int thread) {
  const Run *run = argument;
  if (index < run->multiply_tasks) {
    multiply(run, index, thread);
    return;
  }
  index -= run->multiply_tasks;
  if (index < run->pack_tasks) {
    pack_group(run->p, run->packed, index, thread);
    return;
  }
#ifdef __AMX_BF16__
  index -= run->pack_tasks;
  int64_t strips = divide_up(run->p->m, STRIP_ROWS), row = index % strips * STRIP_ROWS;
  for (int l = 0; l < run->p->left_count; l++) {
    const Left *left = &run->p->lefts[l];
    if (left->tiles.data == left->rows.data) continue;
    if (index < strips) {
      product_bf16_pack_left(left, row, smaller(STRIP_ROWS, run->p->m - row));
      return;
    }
    index -= strips;
  }
#endif
}

// So many groups to a task that all threads have some tasks.
static void plan_multiplication(Run *run) {
  const Product *p = run->p;
  int64_t threads = pool_threads(p->backend->pool), wanted = threads == 1 ? 1 : 4 * threads;
  int64_t groups = run->multiplied->end_group - run->multiplied->first_group;
  run->block_rows = p->in_tiles ? TILE_BLOCK_ROWS : BLOCK_ROWS;
  run->row_tasks = divide_up(p->m, run->block_rows);
  int64_t splits = smaller(divide_up(wanted, run->row_tasks), groups);
  if (!p->in_tiles) splits = larger(splits, divide_up(groups, TASK_GROUPS));
  run->task_groups = divide_up(groups, splits);
  run->multiply_tasks = run->row_tasks * divide_up(groups, run->task_groups);
}

// Where the left operands' tiles are, packed in `to` or in place. Returns how many there are to pack.
static int place_lefts(Product *p, char *to) {
  int count = 0;
  for (int l = 0; l < p->left_count; l++) {
    Left *left = &p->lefts[l];
    if (is_read_in_place(p, left)) {
      left->tiles = (LeftTiles){left->rows.data, 16 * left->rows.step, 32, left->rows.step};
      continue;
    }
    left->tiles = (LeftTiles){(const uint16_t *)(void *)to, 16 * round_up(left->k, 32), 16 * 32, 32};
    to += round_up(p->m, 16) * round_up(left->k, 32) * 2;
    count++;
  }
  return count;
}

// `kept`: bytes at the beginning of the shared scratch that are the caller's.
static void run_pieces(Product *p, int64_t kept) {
  int64_t groups = place(p), size = piece_bytes(p, INT64_MAX);
  char *shared = (char *)backend_shared_scratch(p->backend, kept + shared_bytes(p, INT64_MAX)) + kept;
  char *places = shared + left_bytes(p, INT64_MAX);
  Piece pieces[2];
  Run run = {.p = p, .packed = &pieces[0]};
  pieces[0] = choose_piece(p, 0, places);
  run.pack_tasks = count_pack_tasks(p, &pieces[0]);
  if (p->in_tiles) run.left_tasks = place_lefts(p, shared);
  pool_run(p->backend->pool, run.pack_tasks + run.left_tasks * divide_up(p->m, STRIP_ROWS), run_task, &run);
  for (int i = 0;; i = 1 - i) {
    run = (Run){.p = p, .multiplied = &pieces[i]};
    if (pieces[i].end_group < groups) {
      pieces[1 - i] = choose_piece(p, pieces[i].end_group, places + (1 - i) * size);
      run.packed = &pieces[1 - i];
      run.pack_tasks = count_pack_tasks(p, run.packed);
    }
    plan_multiplication(&run);
    pool_run(p->backend->pool, run.multiply_tasks + run.pack_tasks, run_task, &run);
    if (!run.packed) return;
  }
}

// The part of a product whose k are first .. first + TILE_DEPTH - 1; sums of the parts before are in `partial`.
static void run_depth(const Product *p, int64_t first, int64_t longest, float *partial, int64_t kept) {
  Product part = {.m = p->m, .in_tiles = true, .backend = p->backend};
  int lefts[PRODUCT_LEFTS];
  for (int l = 0; l < p->left_count; l++) {
    const Left *left = &p->lefts[l];
    lefts[l] = left->k > first ? product_add_left(&part, rows_from(left->rows, first), smaller(TILE_DEPTH, left->k - first)) : -1;
  }
  bool is_first = first == 0, is_last = first + TILE_DEPTH >= longest;
  for (const Output *whole = p->outputs; whole < p->outputs + p->output_count; partial += p->m * whole->n, whole++) {
    Rows sums = rows_f32(partial, whole->n);
    Output *output = product_add_output(&part, is_last ? whole->c : sums, whole->n);
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
  run_pieces(&part, kept);
}

void product_run(Product *p) {
  if (p->m == 0) return;
  int64_t longest = 0, columns = 0;
  for (int l = 0; l < p->left_count; l++) longest = larger(longest, p->lefts[l].k);
  if (!p->in_tiles || longest <= TILE_DEPTH) {
    run_pieces(p, 0);
    return;
  }
  // A long sum goes by parts of k, added up in float32.
  for (int o = 0; o < p->output_count; o++) columns += p->outputs[o].n;
  int64_t kept = round_up(p->m * columns * (int64_t)sizeof(float), 64);
  float *partial = backend_shared_scratch(p->backend, kept + shared_bytes(p, TILE_DEPTH));
  for (int64_t first = 0; first < longest; first += TILE_DEPTH) run_depth(p, first, longest, partial, kept);
}

void product_store(const Output *output, int64_t row, int64_t column, const float *sums, int64_t ld, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++) product_store_row(output, row + i, column, sums + i * ld, columns);
}
