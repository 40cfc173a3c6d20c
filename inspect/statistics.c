// One task a chunk of CHUNK values; a chunk is read in pieces that stay in the first cache.
#include "inspect/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"

enum {
  PIECE = 2048,  // a multiple of every block's elements
  CHUNK = PIECE * 128,
  BATCH = 64,  // chunks between two looks at the progress bar, for each thread
};

// 1 sign, 4 exponent (bias 7), 3 fraction bits; no infinity, and NaN where all are set (OCP 8-bit floating point specification).
static double e4m3_to_double(uint8_t byte) {
  int exponent = byte >> 3 & 15, fraction = byte & 7;
  double magnitude = exponent == 15 && fraction == 7 ? NAN : exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
  return byte & 0x80 ? -magnitude : magnitude;
}

#define READ_AS(type)                                               \
  for (int64_t i = 0; i < count; i++) {                             \
    type value;                                                     \
    memcpy(&value, data + i * (int64_t)sizeof value, sizeof value); \
    out[i] = (double)value;                                         \
  }                                                                 \
  break

static void elements_read(double *out, SafetensorsType type, const uint8_t *data, int64_t count) {
  switch (type) {
    case ST_BOOL:
    case ST_U8: READ_AS(uint8_t);
    case ST_I8: READ_AS(int8_t);
    case ST_I16: READ_AS(int16_t);
    case ST_U16: READ_AS(uint16_t);
    case ST_I32: READ_AS(int32_t);
    case ST_U32: READ_AS(uint32_t);
    case ST_I64: READ_AS(int64_t);
    case ST_U64: READ_AS(uint64_t);
    case ST_F32: READ_AS(float);
    case ST_F64: READ_AS(double);
    case ST_F8_E4M3:
      for (int64_t i = 0; i < count; i++) out[i] = e4m3_to_double(data[i]);
      break;
    case ST_F8_E5M2:  // the upper half of a binary16
      for (int64_t i = 0; i < count; i++) out[i] = half_to_float((uint16_t)(data[i] << 8));
      break;
    case ST_F16:
    case ST_BF16:
      for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        out[i] = type == ST_F16 ? half_to_float(bits) : bfloat16_to_float(bits);
      }
      break;
  }
}

static void piece_read(double *out, const ValueSource *source, int64_t first, int64_t count) {
  if (!source->is_block) {
    elements_read(out, source->element, (const uint8_t *)source->data + first * safetensors_type_bytes(source->element), count);
    return;
  }
  float values[PIECE];
  const BlockTraits *traits = block_traits(source->block);
  traits->dequantize(values, (const uint8_t *)source->data + first / traits->elements * traits->bytes, count);
  for (int64_t i = 0; i < count; i++) out[i] = values[i];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void values_read(double *out, const ValueSource *source, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; i += PIECE) piece_read(out + i, source, first + i, least(PIECE, count - i));
}

// The running form: `deviation` is the sum of squares about the mean, `rms` is not in use.
static Statistics piece_statistics(const double *values, int64_t count) {
  Statistics s = {.minimum = INFINITY, .maximum = -INFINITY};
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    double x = values[i];
    if (!isfinite(x)) {
      if (isnan(x)) s.nans++;
      else s.infinities++;
      continue;
    }
    s.count++;
    s.zeros += x == 0;
    sum += x;
    if (x < s.minimum) s.minimum = x;
    if (x > s.maximum) s.maximum = x;
  }
  s.mean = s.count ? sum / (double)s.count : 0;
  for (int64_t i = 0; i < count; i++)
    if (isfinite(values[i])) s.deviation += (values[i] - s.mean) * (values[i] - s.mean);
  return s;
}

static void statistics_add(Statistics *to, const Statistics *more) {
  to->nans += more->nans;
  to->infinities += more->infinities;
  to->zeros += more->zeros;
  if (!more->count) return;
  double count = (double)(to->count + more->count), delta = more->mean - to->mean, share = (double)more->count / count;
  to->deviation += more->deviation + delta * delta * (double)to->count * share;
  to->mean += delta * share;
  to->count += more->count;
  to->minimum = fmin(to->minimum, more->minimum);
  to->maximum = fmax(to->maximum, more->maximum);
}

typedef struct Chunk {
  const ValueSource *source;
  int64_t first, count;
  Statistics statistics;
} Chunk;

static void chunk_compute(void *argument, int64_t task, int thread) {
  (void)thread;
  Chunk *chunk = (Chunk *)argument + task;
  double values[PIECE];
  chunk->statistics = (Statistics){.minimum = INFINITY, .maximum = -INFINITY};
  for (int64_t i = 0; i < chunk->count; i += PIECE) {
    int64_t count = least(PIECE, chunk->count - i);
    piece_read(values, chunk->source, chunk->first + i, count);
    Statistics piece = piece_statistics(values, count);
    statistics_add(&chunk->statistics, &piece);
  }
}

static void statistics_finish(Statistics *s) {
  if (!s->count) {
    s->minimum = s->maximum = 0;
    return;
  }
  double variance = s->deviation / (double)s->count;
  s->deviation = sqrt(variance);
  s->rms = sqrt(variance + s->mean * s->mean);
}

void statistics_compute(Statistics *out, const ValueSource *sources, int64_t source_count, ThreadPool *pool) {
  Chunk *chunks = NULL;
  int64_t count = 0, capacity = 0;
  for (int64_t i = 0; i < source_count; i++)
    for (int64_t first = 0; first < sources[i].count; first += CHUNK)
      ARRAY_PUSH(chunks, count, capacity) = (Chunk){.source = &sources[i], .first = first, .count = least(CHUNK, sources[i].count - first)};
  int64_t batch = (int64_t)BATCH * pool_threads(pool);
  for (int64_t done = 0; done < count; done += batch) {
    if (count > batch) progress_show(done, count, "statistics");
    pool_run(pool, least(batch, count - done), chunk_compute, chunks + done);
  }
  progress_clear();
  for (int64_t i = 0; i < source_count; i++) out[i] = (Statistics){.minimum = INFINITY, .maximum = -INFINITY};
  for (int64_t i = 0; i < count; i++) statistics_add(&out[chunks[i].source - sources], &chunks[i].statistics);
  for (int64_t i = 0; i < source_count; i++) statistics_finish(&out[i]);
  free(chunks);
}
