// A new adapter's factors, by PEFT's names for them:
//   true        A uniform in +-1/sqrt(in) (Kaiming-uniform with a = sqrt 5), B zero
//   false       B as well, in +-1/sqrt(rank)
//   gaussian    A normal with deviation 1/rank, B zero
//   orthogonal  A and B of random combinations of orthonormal rows, those of A orthogonal to those of B: B A = 0
//   pissa       the leading singular vectors of W, B = U sqrt(S / scale), A = sqrt(S / scale) V (Meng et al. 2024, arXiv 2404.02948)
//   olora       the first columns of Q and rows of R of W = Q R (Buyukakyuz 2024, arXiv 2406.01775)
//   loftq       the same as pissa of W - NF4(W), what quantising loses (Li et al. 2023, arXiv 2310.08659; one iteration, and with the
//               scale taken out, which PEFT leaves in: there lora_alpha must be lora_r for it to hold)
// For pissa and olora the layer's weight becomes W - scale B A, so that all begins as it was.
#include "adapters/start.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/svd.h"
#include "core/log.h"
#include "core/rng.h"
#include "core/text.h"

Status adapter_start_parse(AdapterStart *start, int *iterations, const char *name) {
  static const char *const names[] = {"true", "false", "gaussian", "orthogonal", "pissa", "olora", "loftq"};
  static const char by_iterations[] = "pissa_niter_";
  *start = START_PLAIN;
  *iterations = SVD_EXACT;
  if (!name) return STATUS_OK;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) {
      *start = (AdapterStart)i;
      return STATUS_OK;
    }
  if (text_starts_with(name, by_iterations)) {
    *start = START_PISSA;
    *iterations = atoi(name + sizeof by_iterations - 1);
    return STATUS_OK;
  }
  return status_fail(STATUS_USAGE,
                     "peft_init_lora_weights: %s is not built; use true, false, gaussian, orthogonal, pissa, pissa_niter_N, olora or loftq",
                     name);
}

bool adapter_start_moves_base(AdapterStart start) { return start == START_PISSA || start == START_OLORA; }

bool adapter_start_is_base(AdapterStart start, const Model *model) {
  if (adapter_start_moves_base(start)) return !model->options.quantize_nf4 && !model->options.quantize_q8_0;
  return start != START_RANDOM && start != START_LOFTQ;
}

static void fill_uniform(float *out, int64_t count, double bound, Rng *rng) {
  for (int64_t i = 0; i < count; i++) out[i] = (float)((2 * rng_uniform(rng) - 1) * bound);
}

static void fill_normals(float *out, int64_t count, double deviation, Rng *rng) {
  for (int64_t i = 0; i < count; i++) out[i] = (float)(deviation * rng_normal(rng));
}

// a = (p_even^T x) / 10 and b = (p_odd^T y)^T / 10 of orthonormal rows p [rank, rank] and random x [rank / 2, in], y [rank / 2, out].
static void fill_orthogonal(float *a, float *b, int64_t rank, int64_t in, int64_t out, Rng *rng) {
  int64_t half = rank / 2;
  float *p = memory_new((size_t)(rank * rank + half * (in + out)), sizeof *p), *x = p + rank * rank, *y = x + half * in;
  fill_normals(p, rank * rank + half * (in + out), 1, rng);
  svd_orthonormalize(p, rank, rank);
  for (int64_t r = 0; r < rank; r++) {
    for (int64_t i = 0; i < in; i++) {
      double sum = 0;
      for (int64_t h = 0; h < half; h++) sum += (double)p[2 * h * rank + r] * x[h * in + i];
      a[r * in + i] = (float)(sum / 10);
    }
    for (int64_t i = 0; i < out; i++) {
      double sum = 0;
      for (int64_t h = 0; h < half; h++) sum += (double)p[(2 * h + 1) * rank + r] * y[h * out + i];
      b[i * rank + r] = (float)(sum / 10);
    }
  }
  free(p);
}

// The embedding's, as PEFT begins it: A zero and B normal, for `false` A as well.
static Status fill_embedding(float *a, float *b, const LowRank *pair, const char *module, AdapterStart start, Rng *rng) {
  if (start == START_ORTHOGONAL)
    return status_fail(STATUS_USAGE, "peft_init_lora_weights: orthogonal has no form for %s; use true, or leave it out of %s", module,
                       "lora_target_modules");
  fill_normals(b, pair->b.rows * pair->b.columns, 1, rng);
  if (start == START_RANDOM) fill_normals(a, pair->a.rows * pair->a.columns, 1, rng);
  return STATUS_OK;
}

// What a pair begins with, where no weight is looked at. B is zero.
static Status fill_random(float *a, float *b, const LowRank *pair, const char *module, AdapterStart start, Rng *rng) {
  int64_t rank = pair->a.rows, in = pair->a.columns, out = pair->b.rows;
  if (start == START_GAUSSIAN) {
    fill_normals(a, rank * in, 1 / (double)rank, rng);
  } else if (start == START_ORTHOGONAL) {
    if (rank % 2)
      return status_fail(STATUS_USAGE, "peft_init_lora_weights: orthogonal needs an even rank, and %s has %lld", module, (long long)rank);
    fill_orthogonal(a, b, rank, in, out, rng);
  } else {
    fill_uniform(a, rank * in, 1 / sqrt((double)in), rng);
    if (start == START_RANDOM) fill_uniform(b, out * rank, 1 / sqrt((double)rank), rng);
  }
  return STATUS_OK;
}

// --- starts that look at the weights ---

typedef struct Weights {
  const Matrix *w, *without;  // without: taken away from w; NULL: nothing is
  Backend *backend;
} Weights;

static void apply(float *y, const float *x, int64_t count, const LinearMap *map) {
  const Weights *weights = map->context;
  const Kernels *kernels = weights->backend->kernels;
  Projection forward = projection_f32(y, weights->w, 1);
  kernels->linear_forward(&forward, 1, rows_f32(x, map->columns), count, weights->backend);
  if (!weights->without) return;
  Projection less = projection_f32(y, weights->without, -1);
  less.residual = less.y;
  kernels->linear_forward(&less, 1, rows_f32(x, map->columns), count, weights->backend);
}

static void apply_transposed(float *y, const float *x, int64_t count, const LinearMap *map) {
  const Weights *weights = map->context;
  const Kernels *kernels = weights->backend->kernels;
  Projection back = projection_f32(x, weights->w, 1);
  kernels->linear_backward(rows_f32(y, map->columns), &back, 1, count, false, weights->backend);
  if (!weights->without) return;
  Projection less = projection_f32(x, weights->without, -1);
  kernels->linear_backward(rows_f32(y, map->columns), &less, 1, count, true, weights->backend);
}

static void fill_singular(float *a, float *b, const LowRank *pair, const LinearMap *map, int iterations, uint64_t seed) {
  int64_t rank = pair->a.rows, side = map->rows < map->columns ? map->rows : map->columns, found = rank < side ? rank : side;
  float *values = memory_new((size_t)(found * (1 + map->rows)), sizeof *values), *u = values + found;
  svd_leading(values, u, a, found, iterations, map, seed);
  for (int64_t r = 0; r < found; r++) {
    float root = sqrtf(values[r] / pair->scale);
    for (int64_t i = 0; i < map->columns; i++) a[r * map->columns + i] *= root;
    for (int64_t i = 0; i < map->rows; i++) b[i * rank + r] = root * u[r * map->rows + i];
  }
  free(values);
}

// Q's columns are W's first ones, made orthonormal; of R's rows r_i = q_i^T W.
static void fill_qr(float *a, float *b, const LowRank *pair, const LinearMap *map) {
  int64_t rank = pair->a.rows, side = map->rows < map->columns ? map->rows : map->columns, found = rank < side ? rank : side;
  float *units = memory_new((size_t)(found * (map->columns + map->rows)), sizeof *units), *q = units + found * map->columns;
  for (int64_t r = 0; r < found; r++) units[r * map->columns + r] = 1;
  map->apply(q, units, found, map);
  svd_orthonormalize(q, found, map->rows);
  map->apply_transposed(a, q, found, map);
  for (int64_t r = 0; r < found; r++)
    for (int64_t i = 0; i < map->rows; i++) b[i * rank + r] = q[r * map->rows + i];
  free(units);
}

// W - scale B A, in `type`, row by row.
typedef struct ResidualTask {
  const Matrix *w;
  const float *a, *b;
  const LowRank *pair;
  BlockType type;
  char *out;  // [rows] in blocks of the type
} ResidualTask;

static void residual_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const ResidualTask *t = argument;
  int64_t columns = t->w->columns, rank = t->pair->a.rows;
  float *values = memory_new((size_t)columns * 2, sizeof *values), *delta = values + columns;
  matrix_dequantize(values, t->w, row, 0, columns);
  for (int64_t r = 0; r < rank; r++)
    for (int64_t c = 0; c < columns; c++) delta[c] += t->b[row * rank + r] * t->a[r * columns + c];
  for (int64_t c = 0; c < columns; c++) values[c] -= t->pair->scale * delta[c];
  block_traits(t->type)->quantize(t->out + row * block_row_bytes(t->type, columns), values, NULL, columns);
  free(values);
}

// The type that the model's options give to floats of this shape.
static BlockType type_in_model(const Model *model, const Matrix *w) {
  if (model->options.quantize_nf4) return BLOCK_NF4;
  return model->options.quantize_q8_0 && w->columns % block_traits(BLOCK_Q8_0)->elements == 0 ? BLOCK_Q8_0 : w->type;
}

static Status nf4_of(Matrix *out, void **storage, const float *values, int64_t rows, int64_t columns) {
  *out = (Matrix){.type = BLOCK_NF4, .rows = rows, .columns = columns};
  TRY(memory_try(storage, (size_t)nf4_bytes(rows * columns), "quantised weights"));
  nf4_quantize(&out->nf4, *storage, values, rows * columns);
  return STATUS_OK;
}

static Status make_residual(Matrix *out, void **storage, const Matrix *w, const float *a, const float *b, const LowRank *pair,
                            const Model *model, Backend *cpu) {
  BlockType type = type_in_model(model, w);
  ResidualTask task = {.w = w, .a = a, .b = b, .pair = pair, .type = type == BLOCK_NF4 ? BLOCK_F32 : type};
  void *blocks;
  TRY(memory_try(&blocks, (size_t)(block_row_bytes(task.type, w->columns) * w->rows), "weights without the adapter's start"));
  task.out = blocks;
  pool_run(cpu->pool, w->rows, residual_row, &task);
  if (type != BLOCK_NF4) {
    *storage = blocks;
    *out = (Matrix){.type = type, .rows = w->rows, .columns = w->columns, .data = blocks};
    return STATUS_OK;
  }
  Status status = nf4_of(out, storage, blocks, w->rows, w->columns);
  free(blocks);
  return status;
}

// The layer computes with `residual->own` from now on.
static Status take_residual(AdapterResidual *residual, Linear *linear, Backend *backend) {
  residual->base = linear->weight;
  if (backend->upload_matrix) {
    TRY(backend->upload_matrix(&residual->own, NULL, backend));
    TRY(backend->check(backend));
    free(residual->storage);
    residual->storage = NULL;
  }
  linear->weight = residual->own;
  residual->is_taken = true;
  return STATUS_OK;
}

void adapter_return_bases(Adapter *adapter) {
  Backend *backend = adapter->model->backend;
  for (int i = 0; adapter->residuals && i < adapter->count; i++) {
    AdapterResidual *residual = &adapter->residuals[i];
    if (residual->is_taken) adapter->linears[i]->weight = residual->base;
    if (residual->is_taken && backend->release_matrix) backend->release_matrix(&residual->own, backend);
    free(residual->storage);
  }
  free(adapter->initial);
  adapter->residuals = NULL;
  adapter->initial = NULL;
}

// One pair that begins by its layer's weight w, in floats on the host.
static Status start_from(Adapter *adapter, int index, const Matrix *w, float *a, float *b, const AdapterSettings *settings, Backend *cpu) {
  const LowRank *pair = &adapter->pairs[index];
  Linear *linear = adapter->linears[index];
  Weights weights = {.w = w, .backend = cpu};
  LinearMap map = {w->rows, w->columns, apply, apply_transposed, &weights};
  uint64_t seed = settings->seed * 1000003 + (uint64_t)index;
  if (settings->start == START_OLORA) {
    fill_qr(a, b, pair, &map);
  } else if (settings->start == START_PISSA) {
    fill_singular(a, b, pair, &map, settings->start_iterations, seed);
  } else {
    Matrix quantised;
    void *storage = NULL;
    float *floats = memory_new((size_t)(w->rows * w->columns), sizeof *floats);
    for (int64_t row = 0; row < w->rows; row++) matrix_dequantize(floats + row * w->columns, w, row, 0, w->columns);
    Status status = nf4_of(&quantised, &storage, floats, w->rows, w->columns);
    free(floats);
    weights.without = &quantised;
    if (status == STATUS_OK) fill_singular(a, b, pair, &map, settings->start_iterations, seed);
    free(storage);
    return status;
  }
  AdapterResidual *residual = &adapter->residuals[index];
  TRY(make_residual(&residual->own, &residual->storage, w, a, b, pair, adapter->model, cpu));
  adapter->residual_bytes +=
      residual->own.type == BLOCK_NF4 ? nf4_bytes(w->rows * w->columns) : block_row_bytes(residual->own.type, w->columns) * w->rows;
  return take_residual(residual, linear, adapter->model->backend);
}

static const Matrix *original_weight(const Model *original, const Linear *linear) {
  for (int i = 0; i < original->linear_count; i++)
    if (strcmp(original->linears[i]->name, linear->name) == 0) return &original->linears[i]->weight;
  return NULL;  // the same file has the same layers
}

static Status check_base(const Adapter *adapter, const Model *original, const AdapterSettings *settings) {
  static const char *const names[] = {[START_PISSA] = "pissa", [START_OLORA] = "olora", [START_LOFTQ] = "loftq"};
  const char *name = names[settings->start];
  if (settings->start == START_LOFTQ && !adapter->model->options.quantize_nf4)
    return status_fail(STATUS_USAGE, "peft_init_lora_weights: loftq begins with what 4 bits lose; set load_in_4bit: true");
  for (int i = 0; i < adapter->count; i++) {
    const Matrix *w = original_weight(original, adapter->linears[i]);
    if (block_traits(w->type) && w->type < BLOCK_NF4 && block_traits(w->type)->elements == 1) continue;
    return status_fail(
        STATUS_USAGE,
        "peft_init_lora_weights: %s needs the weights as floats, and %s is quantised in %s; use a base_model in floats (with "
        "load_in_4bit: true for a small one), or peft_init_lora_weights: true",
        name, adapter->linears[i]->name, original->path);
  }
  return STATUS_OK;
}

// The floats are mapped once more from the model's files: what the model has may be quantised by now, or lie on a device.
static Status start_from_weights(Adapter *adapter, float *values, const AdapterSettings *settings) {
  Backend *backend = adapter->model->backend, *cpu = backend, *own = NULL;
  Model *original = NULL;
  Status status = STATUS_OK;
  if (backend->upload_matrix) {
    TRY_DONE(backend_new(&own, "cpu", 0));
    cpu = own;
  }
  TRY_DONE(model_open(&original, adapter->model->path, (ModelOptions){0}, cpu));
  TRY_DONE(check_base(adapter, original, settings));
  if (adapter_start_moves_base(settings->start))
    adapter->residuals = arena_new(&adapter->arena, (size_t)adapter->count, sizeof *adapter->residuals);
  for (int i = 0; i < adapter->count; i++) {
    const LowRank *pair = &adapter->pairs[i];
    float *a = values + (pair->a.data - adapter->data), *b = values + (pair->b.data - adapter->data);
    TRY_DONE(start_from(adapter, i, original_weight(original, adapter->linears[i]), a, b, settings, cpu));
    progress_show(i + 1, adapter->count, "first factors");
  }
done:
  progress_clear();
  model_close(original);
  if (own) backend_free(own);
  return status;
}

Status adapter_start(Adapter *adapter, const AdapterSettings *settings) {
  Backend *backend = adapter->model->backend;
  float *values = memory_new((size_t)adapter->size, sizeof *values);
  bool is_random = settings->start < START_PISSA;
  Status status = STATUS_OK;
  for (int i = 0; is_random && status == STATUS_OK && i < adapter->count; i++) {
    const LowRank *pair = &adapter->pairs[i];
    Rng rng = rng_new(settings->seed, RNG_STREAM_ADAPTER_INIT | (uint64_t)(i + 1) << 8);
    float *a = values + (pair->a.data - adapter->data), *b = values + (pair->b.data - adapter->data);
    bool is_embedding = adapter->linears[i] == &adapter->model->embedding;
    status = (is_embedding ? fill_embedding : fill_random)(a, b, pair, adapter->linears[i]->name, settings->start, &rng);
  }
  if (!is_random) status = start_from_weights(adapter, values, settings);
  if (status == STATUS_OK) backend->upload(adapter->data, values, adapter->size * (int64_t)sizeof *values, backend);
  if (status == STATUS_OK && adapter_start_moves_base(settings->start)) adapter->initial = values;
  else free(values);
  return status;
}
