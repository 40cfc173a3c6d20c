// What both sides of a product (product.h) share: parts, tasks, where everything lies.
#include "kernels/cpu/product.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/dequantize.h"

int product_add_left(Product *p, Rows rows, int64_t k) {
  assert(p->left_count < PRODUCT_LEFTS);
  p->lefts[p->left_count] = (Left){.rows = rows, .k = k};
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

enum {
  LEFT_BYTES = 16 << 20,  // of left operands packed at once
  STRIP_ROWS = 64,  // of a left operand in a packing task
  STREAMED_BYTES = 2 << 20,  // an output that is larger goes around the caches
  LEAST_COLUMNS = 128,  // of a task, where the outputs have so many: fewer are not worth reading the left operands for
};

typedef struct Plan {
  const Product *p;
  int64_t groups, depth;  // of all outputs; of a part
  int parts;
  int64_t task_groups, column_tasks, task_rows, row_tasks;
  int64_t row, rows;  // the rows that are run now
  int packed[PRODUCT_LEFTS], packed_count;  // the left operands that are packed
} Plan;

static void plan_parts(Plan *plan) {
  int64_t sum = 0, longest = 0;
  for (int l = 0; l < plan->p->left_count; l++) {
    sum += plan->p->lefts[l].k;
    longest = larger(longest, plan->p->lefts[l].k);
  }
  plan->depth = round_up(divide_up(longest, divide_up(sum, PART_DEPTH)), GROUP);
  plan->parts = (int)divide_up(longest, plan->depth);
}

static Part part_at(const Plan *plan, int index) { return (Part){index * plan->depth, plan->depth, index == 0, index + 1 == plan->parts}; }

// Panels of tiles that lay a multiple of 4096 bytes apart would meet in few sets of the caches.
static int64_t spread(int64_t depth) { return depth % 128 ? depth : depth + 32; }

// Of a panel of an output in a part, for one term and for all.
static int64_t term_depth(const Product *p, const Term *term, Part part) {
  int64_t k = part_depth(&p->lefts[term->left], part);
  return p->in_tiles ? round_up(k, 32) : k;
}
static int64_t panel_depth(const Product *p, const Output *output, Part part) {
  int64_t depth = 0;
  for (int t = 0; t < output->term_count; t++) depth += term_depth(p, &output->terms[t], part);
  return p->in_tiles ? spread(depth) : depth;
}

// Columns go to threads first, so that each packs its own; rows are divided where there are too few columns, or so that sums can be kept.
static void plan_tasks(Plan *plan, Product *p) {
  int64_t threads = pool_threads(p->backend->pool), deepest = 1;
  plan->groups = 0;
  for (int o = 0; o < p->output_count; o++) {
    Output *output = &p->outputs[o];
    output->first_group = plan->groups;
    output->groups = divide_up(output->n, GROUP_COLUMNS);
    plan->groups += output->groups;
    deepest = larger(deepest, panel_depth(p, output, part_at(plan, 0)));
  }
  int64_t bytes = p->in_tiles ? TILE_PANELS_BYTES : PANELS_BYTES, group_bytes = deepest * GROUP_COLUMNS * (p->in_tiles ? 2 : 4);
  int64_t block = p->in_tiles ? 32 : BLOCK_ROWS;  // whose sums are held at once
  int64_t most_summed = SUMS_BYTES / (block * GROUP_COLUMNS * (int64_t)sizeof(float));
  int64_t most = larger(1, smaller(bytes / group_bytes, most_summed)), least = LEAST_COLUMNS / GROUP_COLUMNS;
  int64_t chunks = larger(divide_up(plan->groups, most), smaller(threads, divide_up(plan->groups, least)));
  if (chunks > threads) chunks = round_up(chunks, threads);
  plan->task_groups = divide_up(plan->groups, chunks);
  plan->column_tasks = divide_up(plan->groups, plan->task_groups);
  int64_t row_tasks = plan->column_tasks < threads ? divide_up(2 * threads, plan->column_tasks) : 1;
  plan->task_rows = round_up(divide_up(p->m, threads > 1 ? row_tasks : 1), block);
  if (plan->parts > 1) {
    int64_t kept = SUMS_BYTES / (plan->task_groups * GROUP_COLUMNS * (int64_t)sizeof(float));
    plan->task_rows = smaller(plan->task_rows, kept / block * block);
  }
}

// The task's columns of each output, one panel after another in the thread's scratch, and their terms one after another in a panel.
static void place_segments(ProductTask *task, int64_t first, int64_t end, char *panels) {
  const Product *p = task->product;
  task->columns = 0;
  for (int o = 0; o < p->output_count; o++) {
    const Output *output = &p->outputs[o];
    Segment *segment = &task->segments[o];
    int64_t begin = larger(first, output->first_group), last = smaller(end, output->first_group + output->groups);
    *segment = (Segment){.output = output, .at = task->columns, .panels = panels};
    if (begin >= last) continue;
    segment->column = (begin - output->first_group) * GROUP_COLUMNS;
    segment->columns = smaller(output->n - segment->column, (last - begin) * GROUP_COLUMNS);
    int64_t at = 0;
    for (int t = 0; t < output->term_count; t++) {
      segment->term_at[t] = at;
      at += term_depth(p, &output->terms[t], task->part);
    }
    segment->depth = panel_depth(p, output, task->part);
    task->columns += (last - begin) * GROUP_COLUMNS;
    panels += segment->depth * (last - begin) * GROUP_COLUMNS * (p->in_tiles ? 2 : 4);
  }
}

static void pack_segment(const ProductTask *task, const Segment *segment) {
  for (int t = 0; t < segment->output->term_count; t++) {
    const Term *term = &segment->output->terms[t];
    int64_t k = part_depth(&task->product->lefts[term->left], task->part);
    for (int64_t first = 0; first < k; first += DEPTH) {
      int64_t depth = smaller(DEPTH, k - first), at = segment->term_at[t] + first;
#ifdef __AMX_BF16__
      if (task->product->in_tiles) {
        product_bf16_pack(segment, term, task->part.first + first, depth, at, task->buffer);
        continue;
      }
#endif
      product_f32_pack(segment, term, task->part.first + first, depth, at, task->buffer);
    }
  }
}

static void run_task(void *argument, int64_t index, int thread) {
  const Plan *plan = argument;
  char *scratch = backend_scratch(plan->p->backend, thread);
  int64_t group = index % plan->column_tasks * plan->task_groups, row = index / plan->column_tasks * plan->task_rows;
  ProductTask task = {.product = plan->p, .row = plan->row + row, .rows = smaller(plan->task_rows, plan->rows - row)};
  task.sums = (float *)(void *)(scratch + PANELS_BYTES);
  task.buffer = (float *)(void *)(scratch + PANELS_BYTES + SUMS_BYTES);
  for (int part = 0; part < plan->parts; part++) {
    task.part = part_at(plan, part);
    place_segments(&task, group, smaller(group + plan->task_groups, plan->groups), scratch);
    for (int o = 0; o < plan->p->output_count; o++)
      if (task.segments[o].columns) pack_segment(&task, &task.segments[o]);
#ifdef __AMX_BF16__
    if (plan->p->in_tiles) {
      product_bf16_multiply(&task);
      continue;
    }
#endif
    product_f32_multiply(&task);
  }
  vec_fence();
}

static void run_rows_of_product(Plan *plan) {
  plan->row_tasks = divide_up(plan->rows, plan->task_rows);
  pool_run(plan->p->backend->pool, plan->row_tasks * plan->column_tasks, run_task, plan);
}

#ifdef __AMX_BF16__
static int64_t packed_row_bytes(const Left *left) { return round_up(left->k, 32) * 2; }

// bfloat16 rows are tiles where they are, but for a last panel that is not whole.
static void find_packed_lefts(Plan *plan) {
  for (int l = 0; l < plan->p->left_count; l++) {
    const Left *left = &plan->p->lefts[l];
    if (left->rows.type != FLOAT_BF16 || left->k % 32 != 0) plan->packed[plan->packed_count++] = l;
  }
}

static void pack_strip(void *argument, int64_t index, int thread) {
  (void)thread;
  const Plan *plan = argument;
  const Left *left = &plan->p->lefts[plan->packed[index % plan->packed_count]];
  int64_t first = index / plan->packed_count * STRIP_ROWS, row = plan->row + first;
  uint16_t *to = (uint16_t *)(uintptr_t)left->tiles.data + first / 16 * left->tiles.panel_step;
  product_bf16_pack_left(to, left, row, smaller(STRIP_ROWS, plan->rows - first));
}

// The last panel, which is not whole, of a left operand that is read in place: as many rows again, so that reading stays inside.
static uint16_t *copy_tail(uint16_t *to, Left *left, int64_t m) {
  const uint16_t *from = (const uint16_t *)left->rows.data + m / 16 * 16 * left->rows.step;
  for (int64_t r = 0; r < 16; r++) memcpy(to + r * left->rows.step, from + smaller(r, m % 16 - 1) * left->rows.step, (size_t)left->k * 2);
  left->tiles.tail = to;
  left->tiles.tail_panel = m / 16;
  return to + 16 * left->rows.step;
}

// Where the left operands' tiles are. Those that are packed go through scratch, LEFT_BYTES at a time.
static void run_in_tiles(Plan *plan, Product *p) {
  int64_t row_bytes = 0, tail_bytes = 0;
  find_packed_lefts(plan);
  for (int i = 0; i < plan->packed_count; i++) row_bytes += packed_row_bytes(&p->lefts[plan->packed[i]]);
  for (int l = 0; l < p->left_count; l++) tail_bytes += 16 * p->lefts[l].rows.step * 2;
  int64_t slab = row_bytes ? larger(STRIP_ROWS, LEFT_BYTES / row_bytes / STRIP_ROWS * STRIP_ROWS) : p->m;
  slab = smaller(slab, p->m);
  uint16_t *to = backend_shared_scratch(p->backend, round_up(slab, 16) * row_bytes + tail_bytes);
  for (int l = 0; l < p->left_count; l++) {
    Left *left = &p->lefts[l];
    left->tiles = (LeftTiles){.data = left->rows.data, .tail_panel = -1, .panel_step = 16 * left->rows.step, .tile_step = 32};
    left->tiles.row_step = left->rows.step;
  }
  for (int i = 0; i < plan->packed_count; i++) {
    Left *left = &p->lefts[plan->packed[i]];
    left->tiles = (LeftTiles){.data = to, .tail_panel = -1, .panel_step = 16 * round_up(left->k, 32), .tile_step = 16 * 32, .row_step = 32};
    to += round_up(slab, 16) * round_up(left->k, 32);
  }
  for (int l = 0; l < p->left_count && p->m % 16; l++)
    if (p->lefts[l].tiles.data == p->lefts[l].rows.data) to = copy_tail(to, &p->lefts[l], p->m);
  for (plan->row = 0; plan->row < p->m; plan->row += slab) {
    plan->rows = smaller(slab, p->m - plan->row);
    for (int i = 0; i < plan->packed_count; i++) p->lefts[plan->packed[i]].tiles.first_panel = plan->row / 16;
    if (plan->packed_count) pool_run(p->backend->pool, plan->packed_count * divide_up(plan->rows, STRIP_ROWS), pack_strip, plan);
    run_rows_of_product(plan);
  }
}
#endif

// Stores around the caches need whole vectors in place, and no other use of what was there.
static bool is_streamed(const Output *output, int64_t m) {
  int64_t bytes = float_bytes(output->c.type);
  bool is_aligned = (uintptr_t)output->c.data % 64 == 0 && output->c.step * bytes % 64 == 0;
  return is_aligned && !output->accumulate && m * output->n * bytes > STREAMED_BYTES;
}

void product_run(Product *p) {
  if (p->m == 0) return;
  Plan plan = {.p = p};
  for (int o = 0; o < p->output_count; o++) p->outputs[o].is_streamed = is_streamed(&p->outputs[o], p->m);
  plan_parts(&plan);
  plan_tasks(&plan, p);
#ifdef __AMX_BF16__
  if (p->in_tiles) {
    run_in_tiles(&plan, p);
    return;
  }
#endif
  plan.rows = p->m;
  run_rows_of_product(&plan);
}
