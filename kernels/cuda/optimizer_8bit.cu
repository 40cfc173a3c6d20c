// AdamW with moments in 8 bits (kernels/adamw_8bit.h), a warp a block of 256: codes become values by a table, are updated with p as AdamW has
// it (kernels/cuda/adamw.h), and become codes again, each the number of bounds below value / scale. The tables lie in shared memory; a warp
// goes through many blocks with them.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/moments.h"

struct Moments8 {
  uint8_t *codes[MOMENT_COUNT];
  float *scales[MOMENT_COUNT];
};

__global__ void __launch_bounds__(THREADS) adamw_8bit_kernel(float *p, Moments8 moments, const float *g, int64_t count, AdamwFactors with,
                                                             const MomentTables *from, bool floats_are_packed, bool codes_are_packed) {
  SHARED(float, levels, [MOMENT_COUNT][MOMENT_LEVELS]);
  SHARED(float, bounds, [MOMENT_COUNT][MOMENT_LEVELS]);
  load_moment_tables(levels, bounds, from);
  int lane = threadIdx.x % WARP;
  int64_t warp = static_cast<int64_t>(blockIdx.x) * BLOCK_WARPS + threadIdx.x / WARP, step = static_cast<int64_t>(gridDim.x) * BLOCK_WARPS;
  for (int64_t block = warp; block * MOMENT_BLOCK < count; block += step) {
    int64_t first = block * MOMENT_BLOCK, left = count - first;
    float values[MOMENT_COUNT][PARTS][PART], scales[MOMENT_COUNT];
    UNROLL for (int k = 0; k < MOMENT_COUNT; k++) scales[k] = moments.scales[k][block];
    UNROLL for (int part = 0; part < PARTS; part++) {
      int64_t at = (part * WARP + lane) * PART;
      float weights[PART], gradients[PART];
      load_floats<PART>(weights, p + first + at, left - at, floats_are_packed);
      load_floats<PART>(gradients, g + first + at, left - at, floats_are_packed);
      UNROLL for (int k = 0; k < MOMENT_COUNT; k++) {
        Elements<uint8_t, PART> codes = load_codes(moments.codes[k] + first + at, left - at, codes_are_packed);
        UNROLL for (int i = 0; i < PART; i++) values[k][part][i] = at + i < left ? levels[k][codes.at[i]] * scales[k] : 0.0f;
      }
      UNROLL for (int i = 0; i < PART; i++)
          adamw_update(weights[i], values[MOMENT_FIRST][part][i], values[MOMENT_SECOND][part][i], gradients[i], with);
      store_floats<PART>(p + first + at, weights, left - at, floats_are_packed);
    }
    __syncwarp();  // all have read the scales
    UNROLL for (int k = 0; k < MOMENT_COUNT; k++)
        store_moment(moments.codes[k] + first, moments.scales[k] + block, values[k], bounds[k], lane, left, codes_are_packed);
  }
}

void cuda_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                     AdamwSettings settings, Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  const MomentTables *staged = stage_moment_tables(device);
  if (!staged) return;
  bool codes_are_packed = reinterpret_cast<uintptr_t>(m) % PART == 0 && reinterpret_cast<uintptr_t>(v) % PART == 0;
  LAUNCH(device, adamw_8bit_kernel, loop_blocks(device, count, MOMENT_BLOCK / WARP), THREADS, 0, p,
         (Moments8{{m, v}, {m_scales, v_scales}}), g, count, adamw_factors(settings), staged, is_aligned(p, g), codes_are_packed);
}
