#include "kernels/cpu/linear_stream.h"

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/int8.h"
#include "kernels/cpu/product.h"

enum {
  STRIPE = 256,  // rows of w whose sums wait for what is added to them
  TASKS_OF_A_THREAD = 4,  // a task reads one stretch of memory: few long ones
  TASK_ELEMENTS = 32768,  // at least
};

typedef struct Stream {
  const Projection *projections;
  Int8Dot dots[LINEAR_PROJECTIONS];  // NULL: in float32
  Int8Panel panels[LINEAR_PROJECTIONS];  // NULL: by dots
  int64_t first_row[LINEAR_PROJECTIONS + 1];  // of each projection, among the rows of all
  int count;
  const float *x;
  int64_t x_step, n;
  Int8Rows rounded;  // x in 8 bits
  Backend *backend;
} Stream;

static void stream_low(float *sums, const Projection *p, int64_t first, int64_t rows, int64_t n, float *buffer) {
  int64_t step;
  float low[STREAM_ROWS];
  const float *h = rows_as_floats(p->h, 0, n, p->rank, buffer, &step);
  for (int64_t r = 0; r < rows; r++) {
    dot_rows(low, p->low + (first + r) * p->rank, h, step, n, p->rank);
    for (int64_t i = 0; i < n; i++) sums[i * STRIPE + r] += low[i];
  }
}

static void stream_floats(float *sums, const Stream *s, const Projection *p, int64_t first, int64_t rows, float *buffer) {
  bool is_fused = s->n == 1 && is_dot_fused(p->w);
  float products[STREAM_ROWS];
  for (int64_t r = 0; r < rows; r++) {
    if (is_fused) products[0] = matrix_dot(p->w, first + r, s->x);
    else dot_rows(products, matrix_segment(p->w, first + r, 0, p->w->columns, buffer), s->x, s->x_step, s->n, p->w->columns);
    for (int64_t i = 0; i < s->n; i++) sums[i * STRIPE + r] = p->alpha * products[i];
  }
}

static void stream_int8(float *sums, const Stream *s, int index, int64_t first, int64_t rows, char *buffer) {
  const Projection *p = &s->projections[index];
  int64_t columns = p->w->columns, row_bytes = block_row_bytes(p->w->type, columns);
  const uint8_t *w = (const uint8_t *)p->w->data + first * row_bytes;
  const Int8Rows *x = &s->rounded;
  if (s->panels[index]) {
    s->panels[index](sums, STRIPE, w, rows, row_bytes, x, buffer);
  } else {
    for (int i = 0; i < x->count; i += INT8_ROWS)
      for (int64_t r = 0; r < rows; r++)
        s->dots[index](sums + i * STRIPE + r, STRIPE, w + r * row_bytes, x->rows + i, (int)smaller(INT8_ROWS, x->count - i),
                       columns / GROUP);
  }
  for (int64_t i = 0; i < s->n && p->alpha != 1; i++)
    for (int64_t r = 0; r < rows; r++) sums[i * STRIPE + r] *= p->alpha;
}

// Rows first .. first + rows - 1 of projection `index`.
static void stream_stripe(const Stream *s, int index, int64_t first, int64_t rows, int thread) {
  const Projection *p = &s->projections[index];
  float sums[STREAM_ROWS * STRIPE], *buffer = backend_scratch(s->backend, thread);
  if (s->dots[index]) stream_int8(sums, s, index, first, rows, backend_scratch(s->backend, thread));
  else stream_floats(sums, s, p, first, rows, buffer);
  if (p->rank) stream_low(sums, p, first, rows, s->n, buffer);
  Output output = {.c = p->y, .bias = p->bias, .residual = p->residual};
  for (int64_t i = 0; i < s->n; i++) product_store_row(&output, i, first, sums + i * STRIPE, rows);
}

static void stream_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Stream *s = argument;
  for (int i = 0; i < s->count; i++) {
    int64_t first = larger(begin, s->first_row[i]), last = smaller(end, s->first_row[i + 1]);
    for (int64_t row = first; row < last; row += STRIPE) stream_stripe(s, i, row - s->first_row[i], smaller(STRIPE, last - row), thread);
  }
}

static void round_rows(Stream *s, char *rows, int64_t columns) {
  s->rounded = (Int8Rows){.count = (int)s->n, .columns = columns};
  for (int64_t i = 0; i < s->n; i++) {
    int8_round_row(rows, i, s->x + i * s->x_step, columns);
    s->rounded.rows[i] = int8_row(rows, i, columns);
  }
  if (s->n >= INT8_PANEL_LEAST) int8_rows_lay_out(&s->rounded, rows + s->n * int8_row_bytes(columns));
}

void linear_stream(const Projection *projections, int count, Rows x, int64_t n, bool rounds, Backend *backend) {
  if (n == 0) return;
  Stream stream = {.projections = projections, .count = count, .n = n, .backend = backend};
  int64_t columns = projections[0].w->columns, float_row = round_up(columns, VL) * (int64_t)sizeof(float);
  int64_t rounded_bytes = n * int8_row_bytes(columns) + int8_rows_bytes(columns);
  char *shared = backend_shared_scratch(backend, n * float_row + (rounds ? rounded_bytes : 0));
  stream.x = rows_as_floats(x, 0, n, columns, (float *)(void *)shared, &stream.x_step);
  if (rounds) round_rows(&stream, shared + n * float_row, columns);
  for (int i = 0; i < count; i++) {
    stream.dots[i] = rounds ? int8_dot_here(projections[i].w->type) : NULL;
    stream.panels[i] = rounds && n >= INT8_PANEL_LEAST ? int8_panel_here(projections[i].w->type) : NULL;
    stream.first_row[i + 1] = stream.first_row[i] + projections[i].w->rows;
  }
  int64_t rows = stream.first_row[count], tasks = TASKS_OF_A_THREAD * pool_threads(backend->pool);
  run_ranges(backend, rows, larger(divide_up(TASK_ELEMENTS, larger(columns, 1)), divide_up(rows, tasks)), stream_rows, &stream);
}
