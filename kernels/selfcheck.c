// Runs the cases of kernels/selfcheck_cases.c on two sides and compares.
#include "kernels/selfcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/selfcheck_side.h"

enum { SEED = 20 };

double selfcheck_tolerance(FloatType type) {
  switch (type) {
    case FLOAT_32: return 2e-5;
    case FLOAT_BF16: return 0x1p-6;
    case FLOAT_F16: return 0x1p-9;
  }
  return 0;
}

const char *selfcheck_name(int kernel) { return selfcheck_kernels[kernel].name; }

FloatType selfcheck_short_type(Backend *backend) {
  bool has_bfloat16 = !backend->upload_matrix || backend->kernels->peak_flops(FLOAT_BF16, backend) > 0;
  return has_bfloat16 ? FLOAT_BF16 : FLOAT_F16;
}

static uint16_t to_short(float value, FloatType type) { return type == FLOAT_BF16 ? bfloat16_from_float(value) : half_from_float(value); }
static float from_short(uint16_t value, FloatType type) { return type == FLOAT_BF16 ? bfloat16_to_float(value) : half_to_float(value); }

// Room on the device; the shift is for outputs, whose addresses kernels may not rely on.
static char *take(Side *side, int64_t bytes, int64_t shift) {
  char *place = side->block + side->used + shift;
  side->used += (bytes + shift + 255) / 256 * 256;
  if (side->used <= SIDE_BYTES) return place;
  if (side->status == STATUS_OK) side->status = status_fail(STATUS_FAILED, "the self-check's case is too large: %s", side->what);
  return side->block;
}

void *side_send(Side *side, const void *host, int64_t bytes) {
  char *place = take(side, bytes, 0);
  if (side->status == STATUS_OK) side->backend->upload(place, host, bytes, side->backend);
  return place;
}

float *side_normals(Side *side, int64_t count, double deviation) {
  float *values = arena_new(&side->arena, (size_t)count + 1, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = (float)(deviation * rng_normal(&side->rng));
  return values;
}

float *side_floats(Side *side, int64_t count, double deviation) {
  return side_send(side, side_normals(side, count, deviation), count * (int64_t)sizeof(float));
}

// Rounded to 16 bits, and of the side's type.
static void *rounded_normals(Side *side, int64_t count, double deviation) {
  float *values = side_normals(side, count, deviation);
  if (side->rounding == FLOAT_32) return values;
  uint16_t *halves = arena_new(&side->arena, (size_t)count + 1, sizeof *halves);
  for (int64_t i = 0; i < count; i++) {
    halves[i] = to_short(values[i], side->rounding);
    values[i] = from_short(halves[i], side->rounding);
  }
  return side->type == FLOAT_32 ? (void *)values : halves;
}

void *side_activations(Side *side, int64_t count, double deviation) {
  return side_send(side, rounded_normals(side, count, deviation), count * float_bytes(side->type));
}

Rows side_rows(Side *side, int64_t n, int64_t columns, double deviation) {
  return (Rows){side_activations(side, n * columns, deviation), columns, side->type};
}

int32_t *side_indices(Side *side, int64_t count, int64_t bound) {
  int32_t *values = arena_new(&side->arena, (size_t)count + 1, sizeof *values);
  int64_t step = bound % 7 ? 7 : 1;
  for (int64_t i = 0; i < count; i++) values[i] = (int32_t)(i * step % bound);
  return side_send(side, values, count * (int64_t)sizeof *values);
}

void *side_output(Side *side, OutputKind kind, int64_t count, double tolerance) {
  int64_t size = kind == OUTPUT_ACTIVATIONS ? float_bytes(side->type) : 4;
  const void *before = kind == OUTPUT_ACTIVATIONS ? rounded_normals(side, count, 1) : side_normals(side, count, 1);
  char *place = take(side, count * size, side->index % 2 * size);
  if (side->status == STATUS_OK) side->backend->upload(place, before, count * size, side->backend);
  side->outputs[side->output_count++] = (SideOutput){place, count, kind, tolerance};
  return place;
}

Rows side_output_rows(Side *side, int64_t n, int64_t columns) {
  return (Rows){side_output(side, OUTPUT_ACTIVATIONS, n * columns, 0), columns, side->type};
}

// Codes in groups of 32 columns, half-precision scales, and zeros: the form of most quantised folders.
static void make_grouped(Side *side, Matrix *matrix, int bits) {
  int64_t columns = matrix->columns, groups = (columns + 31) / 32, count = matrix->rows * groups;
  Grouped *grouped = arena_new(&side->arena, 1, sizeof *grouped);
  *grouped = (Grouped){.bits = bits, .scale_type = BLOCK_F16, .rounding = BLOCK_F32, .factor = 1, .columns = columns, .groups = groups};
  grouped->group = 32, grouped->row_group = 1, grouped->zero = 1 << (bits - 1);
  int64_t bytes = grouped_code_bytes(grouped, matrix->rows);
  uint8_t *codes = arena_new(&side->arena, (size_t)bytes, 1);
  for (int64_t i = 0; i < bytes; i++) codes[i] = (uint8_t)rng_next(&side->rng);
  uint16_t *scales = arena_new(&side->arena, (size_t)count, sizeof *scales);
  for (int64_t i = 0; i < count; i++) scales[i] = half_from_float((float)(0.01 + 0.01 * rng_uniform(&side->rng)));
  grouped->codes = codes, grouped->scales = scales;
  matrix->type = BLOCK_GROUPED;
  matrix->grouped = grouped;
}

// Of normal values where the type has a quantiser; else any bytes, with scales that are no NaN.
static void *make_blocks(Side *side, BlockType type, int64_t rows, int64_t columns) {
  const BlockTraits *traits = block_traits(type);
  int64_t row_bytes = block_row_bytes(type, columns), bytes = rows * row_bytes;
  uint8_t *blocks = arena_new(&side->arena, (size_t)bytes, 1);
  if (traits->quantize) {
    float *values = side_normals(side, rows * columns, 0.1);
    for (int64_t i = 0; i < rows; i++) traits->quantize(blocks + i * row_bytes, values + i * columns, NULL, columns);
    return blocks;
  }
  for (int64_t i = 0; i < bytes; i++) blocks[i] = (uint8_t)rng_next(&side->rng);
  const uint16_t half = half_from_float(0.02f);
  const float single = 0.02f;
  for (int64_t i = 0; i < bytes; i += traits->bytes) {
    if (type == BLOCK_MXFP4) blocks[i] = 124;
    if (type == BLOCK_Q8_K) memcpy(blocks + i, &single, sizeof single);
    if (type == BLOCK_TQ1_0 || type == BLOCK_TQ2_0) memcpy(blocks + i + traits->bytes - 2, &half, sizeof half);  // their last bytes
  }
  return blocks;
}

bool side_matrix(Side *side, Matrix *matrix, int type, int64_t rows, int64_t columns) {
  *matrix = (Matrix){.type = (BlockType)type, .rows = rows, .columns = columns};
  if (type == SIDE_GROUPED_4 || type == SIDE_GROUPED_8) {
    make_grouped(side, matrix, type == SIDE_GROUPED_4 ? 4 : 8);
  } else if (type == BLOCK_NF4) {
    float *values = side_normals(side, rows * columns, 0.1);
    nf4_quantize(&matrix->nf4, arena_new(&side->arena, (size_t)nf4_bytes(rows * columns), 1), values, rows * columns);
  } else {
    matrix->data = make_blocks(side, (BlockType)type, rows, columns);
  }
  if (!side->backend->upload_matrix || side->status != STATUS_OK) return side->status == STATUS_OK;
  side->status = side->backend->upload_matrix(matrix, NULL, side->backend);
  if (side->status == STATUS_OK) side->sent[side->sent_count++] = *matrix;
  return side->status == STATUS_OK;
}

static Status side_open(Side *side, Backend *backend) {
  *side = (Side){.backend = backend, .kernels = backend->kernels};
  void *block;
  TRY(backend->allocate(&block, SIDE_BYTES, "the check of kernels", backend));
  side->block = block;
  return STATUS_OK;
}

static void side_clear(Side *side) {
  for (int i = 0; i < side->sent_count; i++) side->backend->release_matrix(&side->sent[i], side->backend);
  side->sent_count = side->output_count = 0;
  side->used = 0;
  arena_reset(&side->arena);
}

static void side_close(Side *side) {
  if (!side->block) return;
  side_clear(side);
  arena_release(&side->arena);
  side->backend->release(side->block, side->backend);
}

// False past the last case.
static bool side_run(Side *side, const SelfcheckKernel *kernel, int index, FloatType type, bool is_reference) {
  side_clear(side);
  side->index = index;
  side->rounding = type;
  side->type = is_reference ? FLOAT_32 : type;
  side->rng = rng_new(SEED, RNG_STREAM_TEST);
  side->what[0] = 0;
  return kernel->run(side);
}

static const float *read_output(Side *side, int output) {
  const SideOutput *from = &side->outputs[output];
  FloatType type = from->kind == OUTPUT_ACTIVATIONS ? side->type : FLOAT_32;
  void *data = arena_new(&side->arena, (size_t)from->count + 1, sizeof(float));
  side->backend->download(data, from->data, from->count * float_bytes(type), side->backend);
  if (from->kind != OUTPUT_INTEGERS && type == FLOAT_32) return data;
  float *values = arena_new(&side->arena, (size_t)from->count + 1, sizeof *values);
  for (int64_t i = 0; i < from->count; i++)
    values[i] = from->kind == OUTPUT_INTEGERS ? (float)((const int32_t *)data)[i] : from_short(((const uint16_t *)data)[i], type);
  return values;
}

// In the max norm of the reference, which counts as `least` where it is less: of float16 the least normal number, below which its steps do
// not become smaller.
static double difference(const float *actual, const float *expected, int64_t count, double least) {
  double most = 0, size = least;
  for (int64_t i = 0; i < count; i++) {
    if (!isfinite(actual[i]) || !isfinite(expected[i])) return INFINITY;
    most = fmax(most, fabs((double)actual[i] - expected[i]));
    size = fmax(size, fabs((double)expected[i]));
  }
  if (most == 0) return 0;
  return size > 0 ? most / size : INFINITY;
}

static void compare(KernelCheck *check, Side *side, Side *reference) {
  for (int i = 0; i < side->output_count; i++) {
    const SideOutput *output = &side->outputs[i];
    double own = output->kind == OUTPUT_INTEGERS ? 1e-9 : output->tolerance > check->tolerance ? output->tolerance : check->tolerance;
    double least = check->type == FLOAT_F16 && output->kind != OUTPUT_INTEGERS ? 0x1p-14 : 0;
    double error = difference(read_output(side, i), read_output(reference, i), output->count, least) * (check->tolerance / own);
    if (check->worst[0] && error <= check->error) continue;
    check->error = error;
    snprintf(check->worst, sizeof check->worst, "%s", side->what);
  }
  check->is_ok = check->error <= check->tolerance;
}

static Status run_cases(KernelCheck *check, const SelfcheckKernel *kernel, Side *side, Side *reference) {
  while (side_run(side, kernel, check->cases, check->type, false)) {
    TRY(side->status);
    TRY(side->backend->check(side->backend));
    side_run(reference, kernel, check->cases, check->type, true);
    TRY(reference->status);
    compare(check, side, reference);
    check->cases++;
  }
  return side->status;
}

Status selfcheck_run(KernelCheck *check, int index, FloatType type, Backend *backend, Backend *reference) {
  const SelfcheckKernel *kernel = &selfcheck_kernels[index];
  *check = (KernelCheck){.kernel = kernel->name, .type = type, .is_ok = true, .tolerance = selfcheck_tolerance(type)};
  if (type != FLOAT_32 && !kernel->has_types) return STATUS_OK;
  Side own = {0}, plain = {0};
  Status status = side_open(&own, backend);
  if (status == STATUS_OK) status = side_open(&plain, reference);
  if (status == STATUS_OK) status = run_cases(check, kernel, &own, &plain);
  side_close(&own);
  side_close(&plain);
  return status_context(status, "%s", kernel->name);
}
