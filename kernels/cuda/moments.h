// Moments in 8 bits (kernels/adamw_8bit.h) as kernels read and write them: a warp has a block of 256, and the tables lie in shared memory.
#ifndef KERNELS_CUDA_MOMENTS_H
#define KERNELS_CUDA_MOMENTS_H

#include "kernels/cuda/elements.h"

extern "C" {
#include "kernels/adamw_8bit.h"
}

enum { BLOCK_WARPS = THREADS / WARP, PART = 4, PARTS = MOMENT_BLOCK / WARP / PART };  // a lane has PARTS times PART neighbours

struct MomentTables {
  float levels[MOMENT_COUNT][MOMENT_LEVELS], bounds[MOMENT_COUNT][MOMENT_LEVELS];
};

static inline const MomentTables *stage_moment_tables(Device *device) {
  MomentTables tables;
  for (int k = 0; k < MOMENT_COUNT; k++) {
    memcpy(tables.levels[k], moment_levels(static_cast<Moment>(k)), sizeof tables.levels[k]);
    moment_bounds(tables.bounds[k], static_cast<Moment>(k));
  }
  return static_cast<const MomentTables *>(device_stage(device, &tables, sizeof tables));
}

// Ends with a barrier.
__device__ __forceinline__ void load_moment_tables(float (*levels)[MOMENT_LEVELS], float (*bounds)[MOMENT_LEVELS],
                                                   const MomentTables *from) {
  for (int i = threadIdx.x; i < MOMENT_COUNT * MOMENT_LEVELS; i += THREADS) {
    levels[i / MOMENT_LEVELS][i % MOMENT_LEVELS] = from->levels[i / MOMENT_LEVELS][i % MOMENT_LEVELS];
    bounds[i / MOMENT_LEVELS][i % MOMENT_LEVELS] = from->bounds[i / MOMENT_LEVELS][i % MOMENT_LEVELS];
  }
  __syncthreads();
}

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

#endif
