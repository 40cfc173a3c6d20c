// Optimisers' steps with states in 8 bits (kernels/cuda/update.h), a warp a block of 256, as AdamW's in optimizer_8bit.cu.
#include <type_traits>

#include "kernels/cuda/moments.h"
#include "kernels/cuda/update.h"

struct CodedStates {
  uint8_t *codes[UPDATE_STATES];
  float *scales[UPDATE_STATES];
};

template <int RULE>
__global__ void __launch_bounds__(THREADS) update_8bit_kernel(float *p, CodedStates states, const float *g, int64_t count,
                                                              UpdateFactors with, const MomentTables *from, bool floats_are_packed,
                                                              bool codes_are_packed) {
  SHARED(float, levels, [MOMENT_COUNT][MOMENT_LEVELS]);
  SHARED(float, bounds, [MOMENT_COUNT][MOMENT_LEVELS]);
  load_moment_tables(levels, bounds, from);
  constexpr int STATES = UPDATE_STATE_COUNT<RULE>;
  int lane = threadIdx.x % WARP;
  int64_t warp = static_cast<int64_t>(blockIdx.x) * BLOCK_WARPS + threadIdx.x / WARP, step = static_cast<int64_t>(gridDim.x) * BLOCK_WARPS;
  for (int64_t block = warp; block * MOMENT_BLOCK < count; block += step) {
    int64_t first = block * MOMENT_BLOCK, left = count - first;
    float values[UPDATE_STATES][PARTS][PART], scales[UPDATE_STATES];
    UNROLL for (int k = 0; k < STATES; k++) scales[k] = states.scales[k][block];
    UNROLL for (int part = 0; part < PARTS; part++) {
      int64_t at = (part * WARP + lane) * PART;
      float weights[PART], gradients[PART];
      load_floats<PART>(weights, p + first + at, left - at, floats_are_packed);
      load_floats<PART>(gradients, g + first + at, left - at, floats_are_packed);
      UNROLL for (int k = 0; k < STATES; k++) {
        const float *level = levels[k == SECOND_STATE<RULE> ? MOMENT_SECOND : MOMENT_FIRST];
        Elements<uint8_t, PART> codes = load_codes(states.codes[k] + first + at, left - at, codes_are_packed);
        UNROLL for (int i = 0; i < PART; i++)
            values[k][part][i] = at + i < left ? level[codes.at[i]] * scales[k] : 0.0f;
      }
      UNROLL for (int i = 0; i < PART; i++) {
        float element[UPDATE_STATES];
        UNROLL for (int k = 0; k < STATES; k++) element[k] = values[k][part][i];
        update_element<RULE>(weights[i], element, gradients[i], with);
        UNROLL for (int k = 0; k < STATES; k++) values[k][part][i] = element[k];
      }
      store_floats<PART>(p + first + at, weights, left - at, floats_are_packed);
    }
    __syncwarp();  // all have read the scales
    UNROLL for (int k = 0; k < STATES; k++) {
      const float *bound = bounds[k == SECOND_STATE<RULE> ? MOMENT_SECOND : MOMENT_FIRST];
      store_moment(states.codes[k] + first, states.scales[k] + block, values[k], bound, lane, left, codes_are_packed);
    }
  }
}

void cuda_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                      Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  const MomentTables *staged = stage_moment_tables(device);
  if (!staged) return;
  CodedStates states = {};
  bool codes_are_packed = true;
  for (int k = 0; k < update_states(settings.rule); k++) {
    states.codes[k] = codes[k], states.scales[k] = scales[k];
    codes_are_packed = codes_are_packed && reinterpret_cast<uintptr_t>(codes[k]) % PART == 0;
  }
  with_rule(settings.rule, [&](auto rule) {
    LAUNCH(device, update_8bit_kernel<decltype(rule)::value>, loop_blocks(device, count, MOMENT_BLOCK / WARP), THREADS, 0, p, states, g,
           count, update_factors(settings), staged, is_aligned(p, g), codes_are_packed);
  });
}
