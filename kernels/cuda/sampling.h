// What generation needs of logits in the device's memory, so that only a few numbers come to the host.
//   Order of a row's logits: NaN before all numbers, then the higher first; of equal ones (-0 and 0 are), the lower id first. A broken model
// so shows in the first candidate: NaN or infinity where any logit is, and -infinity where none is finite.
#ifndef KERNELS_CUDA_SAMPLING_H
#define KERNELS_CUDA_SAMPLING_H

#include <stdint.h>

enum { CANDIDATES_MOST = 1024 };

struct Backend;

#ifdef __cplusplus
extern "C" {
#endif
// rows < 65536. values[rows, k] and ids[rows, k] become the first k of each row of logits[rows, vocabulary], in order; 1 <= k <= CANDIDATES_MOST,
// k <= vocabulary < 2^31. values NULL: ids alone. All are the device's memory; nothing waits.
void cuda_top_candidates(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, int64_t k,
                         struct Backend *backend);
// The same for k = 1.
void cuda_arg_max(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, struct Backend *backend);
#ifdef __cplusplus
}
#endif

#endif
