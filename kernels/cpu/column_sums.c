// sums[c] += sum over rows i of x[i, c], by parts.
#include "kernels/cpu/column_sums.h"

enum { MOST_PARTS = 32, LEAST_ROWS = 32 };

ColumnParts column_parts_new(int64_t n, int64_t columns, Backend *backend) {
  int64_t rows = larger(LEAST_ROWS, divide_up(n, MOST_PARTS));
  ColumnParts parts = {.count = divide_up(n, rows), .rows = rows, .step = round_up(columns, VL)};
  parts.sums = backend_shared_scratch(backend, parts.count * parts.step * (int64_t)sizeof *parts.sums);
  memset(parts.sums, 0, (size_t)(parts.count * parts.step) * sizeof *parts.sums);
  return parts;
}

typedef struct Adding {
  float *sums;
  const ColumnParts *parts;
} Adding;

static void add_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Adding *a = argument;
  for (int64_t c = begin; c < end; c += VL) {
    Vec sum = vec_load_first(a->sums + c, end - c);
    for (int64_t p = 0; p < a->parts->count; p++) sum += vec_load(a->parts->sums + p * a->parts->step + c);
    vec_store_first(a->sums + c, sum, end - c);
  }
}

void column_parts_add(float *sums, const ColumnParts *parts, int64_t columns, Backend *backend) {
  enum { GRAIN = 64 * VL };
  run_ranges(backend, columns, GRAIN, add_range, &(Adding){sums, parts});
}

typedef struct Summing {
  Rows x;
  int64_t columns, n;
  ColumnParts parts;
} Summing;

ALWAYS_INLINE void sum_rows(const Summing *s, int64_t part, int type) {
  float *to = s->parts.sums + part * s->parts.step;
  for (int64_t i = part * s->parts.rows; i < smaller((part + 1) * s->parts.rows, s->n); i++)
    for (int64_t c = 0; c < s->columns; c += VL)
      vec_store(to + c, vec_load(to + c) + typed_load(s->x.data, i * s->x.step + c, s->columns - c, type));
}

static void sum_part(void *argument, int64_t part, int thread) {
  (void)thread;
  const Summing *s = argument;
  BY_TYPE(s->x.type, sum_rows(s, part, TYPE));
}

void cpu_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend) {
  Summing s = {.x = x, .columns = columns, .n = n, .parts = column_parts_new(n, columns, backend)};
  pool_run(backend->pool, s.parts.count, sum_part, &s);
  column_parts_add(sums, &s.parts, columns, backend);
}
