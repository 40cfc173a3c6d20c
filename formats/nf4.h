// NF4 with double quantisation: QLoRA (Dettmers et al. 2023), appendix E; numbers equal to bitsandbytes'.
#ifndef FORMATS_NF4_H
#define FORMATS_NF4_H

#include <stdint.h>

#include "core/status.h"

enum { NF4_BLOCK = 64, NF4_NESTED_BLOCK = 256 };

extern const float nf4_levels[16];  // the code book, ascending
extern const float nf4_scale_levels[256];  // bitsandbytes' signed dynamic map, ascending

// A matrix of n = rows * columns values in NF4; blocks run over the flattened matrix, the last may be short.
typedef struct Nf4 {
  uint8_t *packed;  // [(n + 1) / 2]: the high nibble comes first
  uint8_t *scales;  // [blocks]: index of absmax - offset in nf4_scale_levels
  float *nested_scales;  // [ceil(blocks / 256)]
  float offset;  // the mean of all absmax
} Nf4;

int64_t nf4_bytes(int64_t n);  // what nf4_quantize needs in `storage`
void nf4_quantize(Nf4 *out, void *storage, const float *in, int64_t n);  // `out` points into storage (aligned to 4 bytes at least)
void nf4_attach(Nf4 *out, void *storage, int64_t n);  // to what nf4_quantize has left in a storage, in another process, say
void nf4_dequantize(float *out, const Nf4 *in, int64_t first, int64_t n);  // values first .. first+n-1
// absmax of a block, rounded after the product and after the sum. Never inlined into kernels whose compiler may contract
// the two into one rounding: the last bit would no longer be bitsandbytes'.
float nf4_block_scale(const Nf4 *in, int64_t block);

#endif
