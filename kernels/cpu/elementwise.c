// y = value, y = x, y += alpha x, rows moved by index, columns of heads, and the sum of squares: all bound by memory.
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
    if (r->rows[i] < 0) continue;
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

typedef struct GroupedRows {
  float *dw;
  const float *dy;
  const int32_t *rows, *begins, *places;
  int64_t columns;
  float scale;
} GroupedRows;

static void add_groups(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const GroupedRows *r = argument;
  for (int64_t g = begin; g < end; g++)
    for (int64_t c = 0; c < r->columns; c += VL) {
      int64_t left = r->columns - c;
      float *to = r->dw + r->rows[g] * r->columns + c;
      Vec sum = vec_zero();
      for (int32_t j = r->begins[g]; j < r->begins[g + 1]; j++) sum += vec_load_first(r->dy + r->places[j] * r->columns + c, left);
      vec_store_first(to, vec_fma(vec_set(r->scale), sum, vec_load_first(to, left)), left);
    }
}

void cpu_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places, int64_t groups,
                            int64_t columns, float scale, Backend *backend) {
  run_rows(backend, groups, columns, add_groups, &(GroupedRows){dw, dy, rows, begins, places, columns, scale});
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

typedef struct HeadRows {
  Rows y, x;
  int64_t y_head_step, x_head_step, heads, width;
  bool accumulate;
} HeadRows;

ALWAYS_INLINE void copy_head(const HeadRows *r, int64_t to, int64_t from, int x_type, int y_type) {
  for (int64_t c = 0; c < r->width; c += VL) {
    int64_t left = r->width - c;
    Vec value = typed_load(r->x.data, from + c, left, x_type);
    if (r->accumulate) value += typed_load(r->y.data, to + c, left, y_type);
    typed_store(r->y.data, to + c, value, left, y_type);
  }
}

ALWAYS_INLINE void sum_heads(const HeadRows *r, int64_t to, int64_t from, int x_type, int y_type) {
  for (int64_t c = 0; c < r->width; c += VL) {
    int64_t left = r->width - c;
    Vec sum = r->accumulate ? typed_load(r->y.data, to + c, left, y_type) : vec_zero();
    for (int64_t h = 0; h < r->heads; h++) sum += typed_load(r->x.data, from + h * r->x_head_step + c, left, x_type);
    typed_store(r->y.data, to + c, sum, left, y_type);
  }
}

ALWAYS_INLINE void head_row(const HeadRows *r, int64_t i, int x_type, int y_type) {
  int64_t to = i * r->y.step, from = i * r->x.step;
  if (r->y_head_step == 0) {
    sum_heads(r, to, from, x_type, y_type);
    return;
  }
  for (int64_t h = 0; h < r->heads; h++) copy_head(r, to + h * r->y_head_step, from + h * r->x_head_step, x_type, y_type);
}

static void head_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const HeadRows *r = argument;
  BY_TYPES(r->x.type, r->y.type, for (int64_t i = begin; i < end; i++) head_row(r, i, X_TYPE, Y_TYPE));
}

void cpu_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                    Backend *backend) {
  run_rows(backend, n, heads * width, head_rows, &(HeadRows){y, x, y_head_step, x_head_step, heads, width, accumulate});
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
