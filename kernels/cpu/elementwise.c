// y = value, y = x, y += alpha x, y += bias, rows moved by index, and the sum of squares: all bound by memory.
#include <string.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/typed.h"

enum { GRAIN = 65536, SQUARES_CHUNK = 16384 };

typedef struct Elements {
  float *y;
  const float *x;
  float alpha;
} Elements;

static void fill_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Elements *e = argument;
  for (int64_t i = begin; i < end; i += VL) vec_store_first(e->y + i, vec_set(e->alpha), end - i);
}

void cpu_fill(float *y, float value, int64_t count, Backend *backend) {
  run_ranges(backend, count, GRAIN, fill_range, &(Elements){y, NULL, value});
}

static void copy_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Elements *e = argument;
  memcpy(e->y + begin, e->x + begin, (size_t)(end - begin) * sizeof(float));
}

void cpu_copy(float *y, const float *x, int64_t count, Backend *backend) {
  run_ranges(backend, count, GRAIN, copy_range, &(Elements){y, x, 0});
}

static void add_scaled(float *y, const float *x, float alpha, int64_t count) {
  for (int64_t i = 0; i < count; i += VL)
    vec_store_first(y + i, vec_fma(vec_set(alpha), vec_load_first(x + i, count - i), vec_load_first(y + i, count - i)), count - i);
}

static void add_range(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Elements *e = argument;
  add_scaled(e->y + begin, e->x + begin, e->alpha, end - begin);
}

void cpu_add(float *y, const float *x, float alpha, int64_t count, Backend *backend) {
  run_ranges(backend, count, GRAIN, add_range, &(Elements){y, x, alpha});
}

typedef struct IndexedRows {
  void *y;
  const void *x;
  FloatType type;
  const int32_t *rows;
  const Matrix *w;
  int64_t columns;
  float scale;
} IndexedRows;

static void embed_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const IndexedRows *r = argument;
  for (int64_t i = begin; i < end; i++) {
    float *y = (float *)r->y + i * r->columns;
    const float *x = matrix_segment(r->w, r->rows[i], 0, r->columns, y);
    for (int64_t c = 0; c < r->columns; c += VL) {
      int64_t left = r->columns - c;
      vec_store_first(y + c, vec_set(r->scale) * vec_load_first(x + c, left), left);
    }
  }
}

void cpu_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend) {
  run_rows(backend, n, w->columns, embed_rows, &(IndexedRows){.y = y, .rows = ids, .w = w, .columns = w->columns, .scale = scale});
}

static void gather(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const IndexedRows *r = argument;
  int64_t bytes = r->columns * float_bytes(r->type);
  for (int64_t i = begin; i < end; i++) memcpy((char *)r->y + i * bytes, (const char *)r->x + r->rows[i] * bytes, (size_t)bytes);
}

void cpu_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  run_rows(backend, n, columns, gather, &(IndexedRows){.y = y, .x = x, .type = type, .rows = rows, .columns = columns});
}

ALWAYS_INLINE void scatter_row(const IndexedRows *r, int64_t i, int type) {
  int64_t to = r->rows[i] * r->columns, from = i * r->columns;
  for (int64_t c = 0; c < r->columns; c += VL) {
    int64_t left = r->columns - c;
    typed_store(r->y, to + c, typed_load(r->y, to + c, left, type) + typed_load(r->x, from + c, left, type), left, type);
  }
}

static void scatter(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const IndexedRows *r = argument;
  BY_TYPE(r->type, for (int64_t i = begin; i < end; i++) scatter_row(r, i, TYPE));
}

void cpu_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  run_rows(backend, n, columns, scatter, &(IndexedRows){.y = y, .x = x, .type = type, .rows = rows, .columns = columns});
}

typedef struct HeadColumns {
  Rows y, x;
  int64_t y_step, x_step, outputs, summed, width;
  bool accumulate;
} HeadColumns;

ALWAYS_INLINE void copy_heads_row(const HeadColumns *h, int64_t i, int y_type, int x_type) {
  for (int64_t out = 0; out < h->outputs; out++)
    for (int64_t c = 0; c < h->width; c += VL) {
      int64_t left = h->width - c, to = i * h->y.step + out * h->y_step + c;
      Vec sum = h->accumulate ? typed_load(h->y.data, to, left, y_type) : vec_zero();
      for (int64_t g = out; g < out + h->summed; g++) sum += typed_load(h->x.data, i * h->x.step + g * h->x_step + c, left, x_type);
      typed_store(h->y.data, to, sum, left, y_type);
    }
}

static void copy_heads_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const HeadColumns *h = argument;
  bool x_is_half = h->x.type == FLOAT_BF16;
  for (int64_t i = begin; i < end; i++)
    BY_TYPE(h->y.type, x_is_half ? copy_heads_row(h, i, TYPE, FLOAT_BF16) : copy_heads_row(h, i, TYPE, FLOAT_32));
}

void cpu_copy_heads(Rows y, int64_t y_step, Rows x, int64_t x_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                    Backend *backend) {
  HeadColumns columns = {.y = y,
                         .x = x,
                         .y_step = y_step,
                         .x_step = x_step,
                         .outputs = y_step == 0 ? 1 : heads,
                         .summed = y_step == 0 ? heads : 1,
                         .width = width,
                         .accumulate = accumulate};
  run_rows(backend, n, heads * width, copy_heads_rows, &columns);
}

typedef struct Squares {
  const float *x;
  double *partial;  // one a chunk
} Squares;

static void sum_chunk(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Squares *s = argument;
  VecD sums[2] = {{0}, {0}};
  for (int64_t i = begin; i < end; i += VL) {
    Vec x = vec_load_first(s->x + i, end - i);
    VecD low = vec_low_double(x), high = vec_high_double(x);
    sums[0] += low * low, sums[1] += high * high;
  }
  s->partial[begin / SQUARES_CHUNK] = vec_sum_double(sums[0] + sums[1]);
}

double cpu_sum_of_squares(const float *x, int64_t count, Backend *backend) {
  int64_t chunks = divide_up(count, SQUARES_CHUNK);
  Squares squares = {x, backend_shared_scratch(backend, (chunks + 1) * (int64_t)sizeof(double))};
  run_ranges(backend, count, SQUARES_CHUNK, sum_chunk, &squares);
  double sum = 0;
  for (int64_t i = 0; i < chunks; i++) sum += squares.partial[i];
  return sum;
}
