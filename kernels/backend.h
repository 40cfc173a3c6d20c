// The boundary between what is computed and where: a device's memory and its table of kernels. Everything above
// (autograd, models, trainer, runtime) calls only through this table. Pointers are the device's. All activations,
// adapters and gradients are float32 and row-major; n is the number of rows (tokens).
// "accumulate" says whether an output is set (false) or added to (true). Inputs and outputs must not overlap
// unless a kernel says so. No kernel fails: shapes are the caller's promise, scratch is reserved by backend_new.
// Bits do not depend on the number of threads.
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "core/thread.h"
#include "kernels/attention.h"
#include "kernels/matrix.h"

typedef enum RopeLayout {
  ROPE_HALVES,  // Hugging Face: (x[i], x[i + size/2]) turn together
  ROPE_INTERLEAVED,  // llama-architecture GGUF: (x[2i], x[2i + 1]) turn together
} RopeLayout;

typedef enum Activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_COUNT } Activation;

// Doubles, for 1 - beta2 of a float is already off by 1e-5.
typedef struct AdamwSettings {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;  // 1 for the first
  double gradient_scale;  // multiplies every gradient first (clipping)
} AdamwSettings;

// What products are computed in, for peak_flops.
typedef enum PeakArithmetic { PEAK_FLOAT32, PEAK_BFLOAT16 } PeakArithmetic;

typedef struct Backend Backend;

typedef struct Kernels {
  const char *name;  // "scalar", "avx2", ...

  // y[n, w.rows] (+)= alpha * x[n, w.columns] w^T
  void (*linear_forward)(float *y, const float *x, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend);
  // dx[n, w.columns] (+)= alpha * dy[n, w.rows] w
  void (*linear_backward)(float *dx, const float *dy, const Matrix *w, int64_t n, float alpha, bool accumulate, Backend *backend);
  // dw[rows, columns] += alpha * dy[n, rows]^T x[n, columns]
  void (*weight_backward)(float *dw, const float *dy, const float *x, int64_t n, int64_t rows, int64_t columns, float alpha,
                          Backend *backend);
  // y[i] += bias for each of n rows; and db += column sums of dy
  void (*bias_forward)(float *y, const float *bias, int64_t n, int64_t columns, Backend *backend);
  // y[i] = scale * w[ids[i]]
  void (*embedding_forward)(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);

  // y = x / sqrt(mean(x^2) + epsilon) * (offset + w), each row apart; w [columns]. Zhang and Sennrich 2019.
  void (*rmsnorm_forward)(float *y, const float *x, const float *w, int64_t n, int64_t columns, float epsilon, float offset,
                          Backend *backend);
  void (*rmsnorm_backward)(float *dx, const float *dy, const float *x, const float *w, int64_t n, int64_t columns, float epsilon,
                           float offset, bool accumulate, Backend *backend);

  // Rotates x[n, heads, head_size] in place by position * frequencies[i], i < rotary/2, pairs within the first
  // `rotary` of each head; sine and cosine are multiplied by `magnitude` (YaRN; 1 else). Su et al. 2021.
  // inverse: by the opposite angle (the backward pass, which keeps the factor).
  void (*rope)(float *x, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size, int64_t rotary,
               RopeLayout layout, float magnitude, bool inverse, Backend *backend);

  // o[nq, heads * value_size], lse[nq, heads] of q[nq, heads * head_size], k[nk, kv_heads * head_size], v[nk, kv_heads * value_size]
  void (*attention_forward)(float *o, float *lse, const float *q, const float *k, const float *v, const AttentionSpan *spans,
                            int64_t span_count, AttentionShape shape, Backend *backend);
  // Sets dq, dk, dv; delta[nq, heads] is scratch of the caller's.
  void (*attention_backward)(float *dq, float *dk, float *dv, float *delta, const float *go, const float *o, const float *lse,
                             const float *q, const float *k, const float *v, const AttentionSpan *spans, int64_t span_count,
                             AttentionShape shape, Backend *backend);

  // y = f(gate) * up, elementwise; Shazeer 2020. Backward: dgate and dup are set, and may be the very buffers gate and up.
  void (*gated_forward)(float *y, const float *gate, const float *up, int64_t count, Activation f, Backend *backend);
  void (*gated_backward)(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t count, Activation f,
                         Backend *backend);

  // For each row i: nll[i] = logsumexp(logits[i]) - logits[i][targets[i]]; then, unless gradient_scale is NULL,
  // logits[i] <- gradient_scale[i] * (softmax(logits[i]) - onehot(targets[i])) in place.
  void (*cross_entropy)(float *nll, float *logits, const int32_t *targets, const float *gradient_scale, int64_t n, int64_t vocabulary,
                        Backend *backend);

  // y[i] = x[i] * keep_i / (1 - p); keep_i is a function of (seed, stream, i) alone: philox(seed, stream, i / 4)[i % 4] >= p * 2^32.
  // accumulate adds to y. The same call with dy for x is its backward.
  void (*dropout)(float *y, const float *x, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate, Backend *backend);

  // y[i] = x[rows[i]] (gather); y[rows[i]] += x[i] (scatter, distinct rows)
  void (*gather_rows)(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
  void (*scatter_rows)(float *y, const float *x, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);

  void (*fill)(float *y, float value, int64_t count, Backend *backend);
  void (*copy)(float *y, const float *x, int64_t count, Backend *backend);
  void (*add)(float *y, const float *x, float alpha, int64_t count, Backend *backend);  // y += alpha * x

  // Decoupled weight decay (Loshchilov and Hutter 2019) as torch.optim.AdamW computes it. m and v are updated.
  void (*adamw)(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
  double (*sum_of_squares)(const float *x, int64_t count, Backend *backend);  // waits for the device; NaN and Inf come through

  // Flop/s (a multiply-add is two) of multiply-adds on registers alone, on the whole device, measured now in at most 0.3 s;
  // 0 for an arithmetic that the device has no instructions for.
  double (*peak_flops)(PeakArithmetic arithmetic, Backend *backend);
} Kernels;

struct Backend {
  const Kernels *kernels;
  ThreadPool *pool;
  // Device memory. On the CPU these are the process's own.
  Status (*allocate)(void **block, int64_t bytes, const char *purpose, Backend *backend);
  void (*release)(void *block, Backend *backend);
  void (*upload)(void *device, const void *host, int64_t bytes, Backend *backend);
  void (*download)(void *host, const void *device, int64_t bytes, Backend *backend);  // waits
  void *state;  // the implementation's own: per-thread scratch of the CPU
};

// `device`: "cpu" (NULL is the same). `threads` <= 0: one a processor. The CPU's instruction set is the best that
// this processor has, or what the environment variable LORA_CPU (scalar, avx2) forces; STATUS_USAGE when it cannot.
Status backend_new(Backend **out, const char *device, int threads);
void backend_free(Backend *backend);

// The tables of this build that this processor can run, best first; NULL past the last ("scalar"). Any of them
// may be put into `backend->kernels` of a CPU backend.
const Kernels *backend_cpu_kernels(int index);

extern const Kernels kernels_scalar;  // kernels/reference: plain C, the definition of each kernel
#ifdef LORA_HAS_AVX2
extern const Kernels kernels_avx2;  // kernels/cpu
#endif

// How many bytes of per-thread scratch the CPU kernels may use, and the scratch of one thread.
enum { KERNEL_SCRATCH_BYTES = 4 << 20 };
void *backend_scratch(Backend *backend, int thread);  // KERNEL_SCRATCH_BYTES, 64-byte aligned
// One block shared by all threads of a kernel, grown to at least `bytes` when a larger one is first asked for.
void *backend_shared_scratch(Backend *backend, int64_t bytes);

#endif
