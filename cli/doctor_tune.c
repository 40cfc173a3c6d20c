// Times linear_forward by each way that the device has (kernels/cuda_library.h: TUNING_...), for 1, 2, 4, ... rows, on a matrix of Q4_K and
// one of NF4 together, and keeps up to how many rows a way is the fastest; and with panels of several sizes, for many rows.
#include "cli/doctor_tune.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "kernels/cuda_library.h"
#include "kernels/cuda_tuning.h"
#include "kernels/selfcheck.h"

enum { GEMV, FUSED, PANELS, WAYS, TYPES = 2, MOST_MEASURED = 16 };
enum { PANEL_SIZES = 5, MANY = 4 };  // times as many rows, and rows of the matrix, as the other ways are measured with
static const int64_t panel_sizes[PANEL_SIZES] = {0, 8 << 20, 16 << 20, 32 << 20, 64 << 20};  // bytes; 0: what the device takes by itself

typedef struct Measured {
  int64_t rows;
  double seconds[WAYS];
} Measured;

typedef struct Measurements {
  Measured ways[MOST_MEASURED];
  int count;
  double panels[PANEL_SIZES];  // seconds
} Measurements;

typedef struct TuneCall {
  Backend *backend;
  Matrix w[TYPES];
  int types;
  Rows x, y;
  int64_t rows;
} TuneCall;

static void call_products(void *argument) {
  const TuneCall *call = argument;
  for (int i = 0; i < call->types; i++) {
    Projection p = {.w = &call->w[i], .alpha = 1, .y = call->y};
    call->backend->kernels->linear_forward(&p, 1, call->x, call->rows, call->backend);
  }
}

static Measured measure(TuneCall *call, int64_t rows) {
  int64_t *tuning = call->backend->tuning;
  Measured measured = {.rows = rows};
  call->rows = rows;
  for (int way = 0; way < WAYS; way++) {
    tuning[TUNING_GEMV_ROWS] = way == GEMV ? rows : 0;
    tuning[TUNING_FUSED_ROWS] = way == FUSED ? rows : 0;
    measured.seconds[way] = bench_seconds(call_products, call, call->backend);
  }
  return measured;
}

// The last of the rows, from the first on, for which `way` takes less than the ways `others` on; 0: none.
static int64_t fastest_until(const Measured *measured, int count, int first_way, int last_way, int others) {
  int64_t rows = 0;
  for (int i = 0; i < count; i++) {
    double own = measured[i].seconds[first_way], other = measured[i].seconds[others];
    for (int way = first_way; way <= last_way; way++) own = measured[i].seconds[way] < own ? measured[i].seconds[way] : own;
    for (int way = others; way < WAYS; way++) other = measured[i].seconds[way] < other ? measured[i].seconds[way] : other;
    if (own >= other) break;
    rows = measured[i].rows;
  }
  return rows;
}

// Sizes of forward panels. Another than the device's own is worth keeping if it is faster by more than what repeats differ.
static int64_t fastest_panel(double seconds[PANEL_SIZES], TuneCall *call) {
  enum { PERCENT = 3 };
  int64_t *tuning = call->backend->tuning;
  int best = 0;
  tuning[TUNING_GEMV_ROWS] = tuning[TUNING_FUSED_ROWS] = 0;
  for (int i = 0; i < PANEL_SIZES; i++) {
    tuning[TUNING_FORWARD_PANEL] = panel_sizes[i];
    seconds[i] = bench_seconds(call_products, call, call->backend);
    if (seconds[i] < seconds[best] && seconds[i] * (100 + PERCENT) < seconds[0] * 100) best = i;
  }
  return panel_sizes[best];
}

static void print_measured(const Measurements *all, const char *device, const int64_t *before, const int64_t *after) {
  const Measured *measured = all->ways;
  printf("%s, microseconds of two products:\n%6s %12s %12s %12s\n", device, "rows", "row by row", "fused", "panels");
  for (int i = 0; i < all->count; i++)
    printf("%6lld %12.1f %12.1f %12.1f\n", (long long)measured[i].rows, measured[i].seconds[GEMV] * 1e6, measured[i].seconds[FUSED] * 1e6,
           measured[i].seconds[PANELS] * 1e6);
  printf("microseconds of a product of many rows, by the bytes of its panels:\n");
  for (int i = 0; i < PANEL_SIZES; i++) printf("%10lld %12.1f\n", (long long)panel_sizes[i], all->panels[i] * 1e6);
  printf("gemv_rows %lld (was %lld), fused_rows %lld (was %lld), forward_panel %lld (was %lld)\n", (long long)after[TUNING_GEMV_ROWS],
         (long long)before[TUNING_GEMV_ROWS], (long long)after[TUNING_FUSED_ROWS], (long long)before[TUNING_FUSED_ROWS],
         (long long)after[TUNING_FORWARD_PANEL], (long long)before[TUNING_FORWARD_PANEL]);
}

static void print_json(const Measurements *all, const char *device, const int64_t *after) {
  const Measured *measured = all->ways;
  json_t *list = json_array(), *panels = json_array();
  for (int i = 0; i < PANEL_SIZES; i++)
    json_array_append_new(panels, json_pack("{s:I, s:f}", "bytes", (json_int_t)panel_sizes[i], "seconds", all->panels[i]));
  for (int i = 0; i < all->count; i++)
    json_array_append_new(list, json_pack("{s:I, s:f, s:f, s:f}", "rows", (json_int_t)measured[i].rows, "gemv", measured[i].seconds[GEMV],
                                          "fused", measured[i].seconds[FUSED], "panels", measured[i].seconds[PANELS]));
  json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:o, s:o}", "device", device, "gemv_rows", (json_int_t)after[TUNING_GEMV_ROWS],
                             "fused_rows", (json_int_t)after[TUNING_FUSED_ROWS], "forward_panel", (json_int_t)after[TUNING_FORWARD_PANEL],
                             "measured", list, "panels", panels);
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static Status tune_device(const DoctorTune *tune, Backend *backend, const char *name, bool json) {
  int64_t before[TUNING_COUNT], *tuning = backend->tuning;
  for (int i = 0; i < TUNING_COUNT; i++) before[i] = tuning[i];
  FloatType type = selfcheck_short_type(backend);
  BenchMemory memory = {.backend = backend};
  int64_t rows = MANY * tune->rows, most = MANY * tune->most;
  TuneCall call = {.backend = backend, .types = TYPES};
  call.x = (Rows){bench_activations(&memory, most * tune->columns, type), tune->columns, type};
  call.y = (Rows){bench_activations(&memory, most * rows, type), rows, type};
  call.w[0] = bench_matrix(&memory, BLOCK_Q4_K, tune->rows, tune->columns);
  call.w[1] = bench_matrix(&memory, BLOCK_NF4, tune->rows, tune->columns);
  Measurements all = {0};
  for (int64_t few = 1; few <= tune->most && all.count < MOST_MEASURED; few *= 2) all.ways[all.count++] = measure(&call, few);
  call.rows = most, call.types = 1;
  call.w[0] = bench_matrix(&memory, BLOCK_Q4_K, rows, tune->columns);
  int64_t panel = fastest_panel(all.panels, &call);
  Status status = backend->check(backend);
  bench_release(&memory);
  tuning[TUNING_FORWARD_PANEL] = panel;
  // At least 1: a checkpoint has 0 for what it does not know.
  tuning[TUNING_GEMV_ROWS] = fastest_until(all.ways, all.count, GEMV, GEMV, FUSED);
  tuning[TUNING_FUSED_ROWS] = fastest_until(all.ways, all.count, GEMV, FUSED, PANELS);
  for (int i = TUNING_FUSED_ROWS; i <= TUNING_GEMV_ROWS; i++) tuning[i] = tuning[i] > 0 ? tuning[i] : 1;
  if (status == STATUS_OK) status = cuda_tuning_write(backend, name);
  if (status != STATUS_OK) return status;
  if (json) print_json(&all, name, tuning);
  else print_measured(&all, name, before, tuning);
  return STATUS_OK;
}

Status doctor_tune(const DoctorTune *tune, const Arguments *arguments) {
  if (!arguments->device || strncmp(arguments->device, "cuda", 4) != 0)
    return status_fail(STATUS_USAGE, "--tune measures a CUDA device: name it with --device cuda");
  if (tune->columns % 256) return status_fail(STATUS_USAGE, "--tune-size %lld is no multiple of 256", (long long)tune->columns);
  char *name = NULL;
  Backend *backend = NULL;
  Status status = backend_new(&backend, arguments->device, (int)arguments->threads);
  if (status == STATUS_OK) status = cuda_library_name(&name, arguments->device);
  if (status == STATUS_OK) status = tune_device(tune, backend, name, arguments->json);
  backend_free(backend);
  free(name);
  return status;
}
