// AdamW with moments in 8 bits (kernels/adamw_8bit.h), a warp a block of 256: codes become values by a table, are updated with p as AdamW has
// it (kernels/cuda/adamw.h), and become codes again, each the number of bounds below value / scale. The tables lie in shared memory; a warp
// goes through many blocks with them.
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/elements.h"

extern "C" {
#include "kernels/adamw_8bit.h"
}

enum { BLOCK_WARPS = THREADS / WARP, PART = 4, PARTS = MOMENT_BLOCK / WARP / PART };  // a lane has PARTS times PART neighbours

struct MomentTables {
  float levels[MOMENT_COUNT][MOMENT_LEVELS], bounds[MOMENT_COUNT][MOMENT_LEVELS];
};

struct Moments8 {
  uint8_t *codes[MOMENT_COUNT];
  float *scales[MOMENT_COUNT];
};

// The first `count` of PART codes, 0 for the rest.
__device__ __forceinline__ Elements<uint8_t, PART> load_codes(const uint8_t *from, int64_t count, bool is_packed) {
  if (is_packed && count >= PART) return load_elements<PART>(from);
  Elements<uint8_t, PART> codes;
  UNROLL for (int i = 0; i < PART; i++) codes.at[i] = i < count ? from[i] : uint8_t(0);
  return codes;
}

__device__ __forceinline__ void store_codes(uint8_t *to, const Elements<uint8_t, PART> &codes, int64_t count, bool is_packed) {
  if (is_packed && count >= PART) {
    *reinterpret_cast<Elements<uint8_t, PART> *>(to) = codes;
    return;
  }
  UNROLL for (int i = 0; i < PART; i++) if (i < count) to[i] = codes.at[i];
}

__device__ __forceinline__ uint8_t moment_code(float ratio, const float *bounds) {
  int code = 0;
  UNROLL for (int step = MOMENT_LEVELS / 2; step; step /= 2) if (bounds[code + step - 1] < ratio) code += step;
  return static_cast<uint8_t>(code);
}

// The codes of the lane's values, which are 0 from the end of the array on, and the block's scale.
__device__ __forceinline__ void store_moment(uint8_t *codes, float *scale, const float (&values)[PARTS][PART], const float *bounds,
                                             int lane, int64_t left, bool is_packed) {
  float largest = 0;
  UNROLL for (int part = 0; part < PARTS; part++) UNROLL for (int i = 0; i < PART; i++) largest = fmaxf(largest, fabsf(values[part][i]));
  largest = warp_max(largest);
  UNROLL for (int part = 0; part < PARTS; part++) {
    int at = (part * WARP + lane) * PART;
    Elements<uint8_t, PART> rounded;
    UNROLL for (int i = 0; i < PART; i++) rounded.at[i] = largest > 0 ? moment_code(values[part][i] / largest, bounds) : uint8_t(0);
    store_codes(codes + at, rounded, left - at, is_packed);
  }
  if (lane == 0) *scale = largest;
}

__global__ void __launch_bounds__(THREADS) adamw_8bit_kernel(float *p, Moments8 moments, const float *g, int64_t count, AdamwFactors with,
                                                             const MomentTables *from, bool floats_are_packed, bool codes_are_packed) {
  SHARED(float, levels, [MOMENT_COUNT][MOMENT_LEVELS]);
  SHARED(float, bounds, [MOMENT_COUNT][MOMENT_LEVELS]);
  for (int i = threadIdx.x; i < MOMENT_COUNT * MOMENT_LEVELS; i += THREADS) {
    levels[i / MOMENT_LEVELS][i % MOMENT_LEVELS] = from->levels[i / MOMENT_LEVELS][i % MOMENT_LEVELS];
    bounds[i / MOMENT_LEVELS][i % MOMENT_LEVELS] = from->bounds[i / MOMENT_LEVELS][i % MOMENT_LEVELS];
  }
  __syncthreads();
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
  MomentTables tables;
  for (int k = 0; k < MOMENT_COUNT; k++) {
    memcpy(tables.levels[k], moment_levels(static_cast<Moment>(k)), sizeof tables.levels[k]);
    moment_bounds(tables.bounds[k], static_cast<Moment>(k));
  }
  const MomentTables *staged = static_cast<const MomentTables *>(device_stage(device, &tables, sizeof tables));
  if (!staged) return;
  bool codes_are_packed = reinterpret_cast<uintptr_t>(m) % PART == 0 && reinterpret_cast<uintptr_t>(v) % PART == 0;
  LAUNCH(device, adamw_8bit_kernel, loop_blocks(device, count, MOMENT_BLOCK / WARP), THREADS, 0, p,
         (Moments8{{m, v}, {m_scales, v_scales}}), g, count, adamw_factors(settings), staged, is_aligned(p, g), codes_are_packed);
}
