// The adapters of a batch's rows (kernels/pages.h): h = scale x a^T of every group, then y += h b^T. A task has some rows of one group and, of
// the second product, some of its outputs. Sums of the first go in the order of dot_rows, those of the second in the order of ranks: a row's
// bits are its own.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/simd.h"

enum { TASK_ROWS = 16, TASK_OUTPUTS = 512 };

typedef struct Groups {
  const LowRankRows *groups;
  int count;
  Rows x;
  int64_t columns;
  float *h;  // of all groups, [rows, rank] each
  Backend *backend;
  int64_t *first_task, *h_at;  // [count + 1]: of the present product; where each group's h begins
} Groups;

static int64_t group_rows(const LowRankRows *group) { return group->end - group->begin; }

static int group_of(const Groups *g, int64_t task) {
  int index = 0;
  while (task >= g->first_task[index + 1]) index++;
  return index;
}

static void shrink(void *argument, int64_t task, int thread) {
  (void)thread;
  const Groups *g = argument;
  int index = group_of(g, task);
  const LowRankRows *group = &g->groups[index];
  int64_t first = (task - g->first_task[index]) * TASK_ROWS, n = smaller(TASK_ROWS, group_rows(group) - first);
  const float *x = (const float *)g->x.data + (group->begin + first) * g->x.step;
  float *h = g->h + g->h_at[index] + first * group->rank, sums[TASK_ROWS];
  for (int64_t r = 0; r < group->rank; r++) {
    dot_rows(sums, group->a + r * g->columns, x, g->x.step, n, g->columns);
    for (int64_t i = 0; i < n; i++) h[i * group->rank + r] = group->scale * sums[i];
  }
}

static int64_t output_tasks(const LowRankRows *group) { return divide_up(group->out, TASK_OUTPUTS); }

// turned[rank][VL]: rows o .. o + count - 1 of b.
static void turn(float *turned, const LowRankRows *group, int64_t o, int64_t count) {
  for (int64_t r = 0; r < group->rank; r += VL) {
    Vec block[VL];
    int64_t ranks = smaller(VL, group->rank - r);
    for (int i = 0; i < VL; i++) block[i] = i < count ? vec_load_first(group->b + (o + i) * group->rank + r, ranks) : vec_zero();
    vec_transpose(block);
    for (int64_t i = 0; i < ranks; i++) vec_store(turned + (r + i) * VL, block[i]);
  }
}

static void add_row(float *y, int64_t count, const float *h, const float *turned, int64_t rank) {
  Vec sum = vec_load_first(y, count);
  for (int64_t r = 0; r < rank; r++) sum = vec_fma(vec_set(h[r]), vec_load(turned + r * VL), sum);
  vec_store_first(y, sum, count);
}

static void expand(void *argument, int64_t task, int thread) {
  const Groups *g = argument;
  int index = group_of(g, task);
  const LowRankRows *group = &g->groups[index];
  int64_t own = task - g->first_task[index], first = own / output_tasks(group) * TASK_ROWS,
          n = smaller(TASK_ROWS, group_rows(group) - first);
  int64_t begin = own % output_tasks(group) * TASK_OUTPUTS, end = smaller(begin + TASK_OUTPUTS, group->out);
  const float *h = g->h + g->h_at[index] + first * group->rank;
  float *y = group->y + (group->begin + first) * group->out, *turned = backend_scratch(g->backend, thread);
  for (int64_t o = begin; o < end; o += VL) {
    int64_t count = smaller(VL, end - o);
    turn(turned, group, o, count);
    for (int64_t i = 0; i < n; i++) add_row(y + i * group->out + o, count, h + i * group->rank, turned, group->rank);
  }
}

static void run(Groups *g, TaskFunction function, bool by_outputs, Backend *backend) {
  g->first_task[0] = 0;
  for (int i = 0; i < g->count; i++) {
    int64_t rows = divide_up(group_rows(&g->groups[i]), TASK_ROWS);
    g->first_task[i + 1] = g->first_task[i] + rows * (by_outputs ? output_tasks(&g->groups[i]) : 1);
  }
  pool_run(backend->pool, g->first_task[g->count], function, g);
}

void cpu_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend) {
  int64_t numbers = 2 * ((int64_t)count + 1) * (int64_t)sizeof(int64_t), floats = 0;
  for (int i = 0; i < count; i++) floats += group_rows(&groups[i]) * groups[i].rank;
  char *shared = backend_shared_scratch(backend, numbers + floats * (int64_t)sizeof(float));
  Groups g = {.groups = groups, .count = count, .x = x, .columns = columns, .backend = backend, .first_task = (int64_t *)(void *)shared};
  g.h_at = g.first_task + count + 1;
  g.h = (float *)(void *)(shared + numbers);
  g.h_at[0] = 0;
  for (int i = 0; i < count; i++) g.h_at[i + 1] = g.h_at[i] + group_rows(&groups[i]) * groups[i].rank;
  run(&g, shrink, false, backend);
  run(&g, expand, true, backend);
}
