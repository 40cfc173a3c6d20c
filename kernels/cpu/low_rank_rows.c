// The adapters of a batch's rows (kernels/pages.h): h = scale x a^T of every group, then y += h b^T. A task has some rows of one group and, of
// the second product, some of its outputs. Sums go in the order of dot_rows: a row's bits are its own.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dequantize.h"

enum { TASK_ROWS = 16, TASK_OUTPUTS = 512 };

typedef struct Groups {
  const LowRankRows *groups;
  int count;
  Rows x;
  int64_t columns;
  float *h;  // of all groups, [rows, rank] each
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

static void expand(void *argument, int64_t task, int thread) {
  (void)thread;
  const Groups *g = argument;
  int index = group_of(g, task);
  const LowRankRows *group = &g->groups[index];
  int64_t own = task - g->first_task[index], first = own / output_tasks(group) * TASK_ROWS,
          n = smaller(TASK_ROWS, group_rows(group) - first);
  int64_t begin = own % output_tasks(group) * TASK_OUTPUTS, end = smaller(begin + TASK_OUTPUTS, group->out);
  const float *h = g->h + g->h_at[index] + first * group->rank;
  float *y = group->y + (group->begin + first) * group->out, sums[TASK_ROWS];
  for (int64_t o = begin; o < end; o++) {
    dot_rows(sums, group->b + o * group->rank, h, group->rank, n, group->rank);
    for (int64_t i = 0; i < n; i++) y[i * group->out + o] += sums[i];
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
  Groups g = {.groups = groups, .count = count, .x = x, .columns = columns, .first_task = (int64_t *)(void *)shared};
  g.h_at = g.first_task + count + 1;
  g.h = (float *)(void *)(shared + numbers);
  g.h_at[0] = 0;
  for (int i = 0; i < count; i++) g.h_at[i + 1] = g.h_at[i] + group_rows(&groups[i]) * groups[i].rank;
  run(&g, shrink, false, backend);
  run(&g, expand, true, backend);
}
