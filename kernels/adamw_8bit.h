// AdamW's moments in 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"); numbers equal to bitsandbytes' on a GPU.
// Every 256 neighbours of m, and of v, share a scale, the largest magnitude among them; the last block of an array may be short:
//   value = level[code] * scale,  m's levels being moment_levels[0], which have signs, and v's moment_levels[1], which begin at zero.
// A step (kernels/backend.h: adamw_8bit), for each block of 256: m and v are read so, updated, and have updated p, as `adamw` says, before
// they are rounded, in float32 or better; then
//   scale = max |x|,  code = the number of moment_bounds (of m, or of v) that are below x / scale, a division in float32
// which is the nearest level, of two as near the one whose number is even; except that m below zero never becomes zero, as in bitsandbytes,
// and v above zero neither, which it does in bitsandbytes on a GPU (on a CPU it takes all that is small for 1.6e-5): a parameter whose
// gradients are 2500 times as small as the largest of its block would go by m / epsilon as soon as one of them is zero.
// A block of zeros has the scale 0, and then the codes 0 as well: so an array of zero bytes is the state before the first step.
#ifndef KERNELS_ADAMW_8BIT_H
#define KERNELS_ADAMW_8BIT_H

#include <stdint.h>

enum { MOMENT_BLOCK = 256, MOMENT_LEVELS = 256 };

typedef enum Moment { MOMENT_FIRST, MOMENT_SECOND, MOMENT_COUNT } Moment;  // m and v

// bitsandbytes' dynamic map, signed and unsigned, [256] each, ascending.
const float *moment_levels(Moment moment);

// bounds[i] is between levels i and i + 1; the last is infinite. x / scale takes the code #{i: bounds[i] < x / scale}: never equal to a
// bound from above, for ties are within them.
void moment_bounds(float bounds[MOMENT_LEVELS], Moment moment);

static inline int64_t moment_blocks(int64_t count) { return (count + MOMENT_BLOCK - 1) / MOMENT_BLOCK; }

#endif
