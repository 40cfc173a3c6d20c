// Rotary position embedding (Su et al. 2021), the equations of kernels/backend.h. The angle is reduced in double, so
// that late positions keep their precision; sine and cosine are taken once a row and shared by its heads.
//   ROPE_HALVES:       (x_i, x_{i+h}) <- (x_i c_i - x_{i+h} s_i, x_i s_i + x_{i+h} c_i), h = rotary / 2
//   ROPE_INTERLEAVED:  the same for (x_{2i}, x_{2i+1}), by tables where each c_i stands twice and s_i as -s_i, s_i
#include "kernels/cpu/typed.h"

typedef struct Rope {
  void *x;
  FloatType type;
  const int32_t *positions;
  const float *frequencies;
  int64_t heads, head_size, rotary;
  RopeLayout layout;
  float magnitude;
  bool inverse;
  Backend *backend;
} Rope;

static void fill_tables(float *cosines, float *sines, const Rope *rope, int32_t position) {
  int64_t half = rope->rotary / 2;
  VecD at = (VecD){0} + (double)(rope->inverse ? -position : position);
  for (int64_t i = 0; i < half; i += VL) {
    Vec sine, cosine, frequency = vec_load_first(rope->frequencies + i, half - i);
    vec_sincos(&sine, &cosine, at * vec_low_double(frequency), at * vec_high_double(frequency));
    vec_store(cosines + i, vec_set(rope->magnitude) * cosine);
    vec_store(sines + i, vec_set(rope->magnitude) * sine);
  }
  if (rope->layout == ROPE_HALVES) return;
  for (int64_t i = half - 1; i >= 0; i--) {
    float c = cosines[i], s = sines[i];
    cosines[2 * i] = cosines[2 * i + 1] = c;
    sines[2 * i] = -s;
    sines[2 * i + 1] = s;
  }
}

// The head that begins at element `at`.
ALWAYS_INLINE void turn_halves(void *x, int64_t at, const float *cosines, const float *sines, int64_t half, int type) {
  for (int64_t i = 0; i < half; i += VL) {
    int64_t left = half - i;
    Vec a = typed_load(x, at + i, left, type), b = typed_load(x, at + half + i, left, type);
    Vec c = vec_load(cosines + i), s = vec_load(sines + i);
    typed_store(x, at + i, vec_fnma(b, s, a * c), left, type);
    typed_store(x, at + half + i, vec_fma(a, s, b * c), left, type);
  }
}

ALWAYS_INLINE void turn_pairs(void *x, int64_t at, const float *cosines, const float *sines, int64_t rotary, int type) {
  for (int64_t i = 0; i < rotary; i += VL) {
    Vec v = typed_load(x, at + i, rotary - i, type);
    typed_store(x, at + i, vec_fma(vec_swap_pairs(v), vec_load(sines + i), v * vec_load(cosines + i)), rotary - i, type);
  }
}

ALWAYS_INLINE void turn_row(const Rope *rope, int64_t i, const float *cosines, const float *sines, int type) {
  for (int64_t h = 0; h < rope->heads; h++) {
    int64_t at = (i * rope->heads + h) * rope->head_size;
    if (rope->layout == ROPE_HALVES) turn_halves(rope->x, at, cosines, sines, rope->rotary / 2, type);
    else turn_pairs(rope->x, at, cosines, sines, rope->rotary, type);
  }
}

static void turn_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Rope *rope = argument;
  float *cosines = backend_scratch(rope->backend, thread), *sines = cosines + round_up(rope->rotary, VL) + VL;
  for (int64_t i = begin; i < end; i++) {
    fill_tables(cosines, sines, rope, rope->positions[i]);
    BY_TYPE(rope->type, turn_row(rope, i, cosines, sines, TYPE));
  }
}

void cpu_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
              int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend) {
  Rope rope = {x, type, positions, frequencies, heads, head_size, rotary, layout, magnitude, inverse, backend};
  run_rows(backend, n, heads * head_size, turn_rows, &rope);
}
