// The boundary between what is computed and where: a device's memory and its table of kernels. Everything above
// (autograd, models, trainer, runtime) calls only through this table. Pointers are the device's; all is row-major; n is
// the number of rows (tokens). `type` is that of activations and their gradients (void *), float32 or bfloat16 (kernels/rows.h);
// a kernel computes in float32 and rounds what it writes. What is float * is float32 in any case.
// "accumulate" says whether an output is set (false) or added to (true). Inputs and outputs must not overlap
// unless a kernel says so. No kernel fails: shapes are the caller's promise, scratch is reserved by backend_new.
// Bits do not depend on the number of threads.
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"
#include "core/thread.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/collectives.h"
#include "kernels/experts.h"
#include "kernels/linear.h"
#include "kernels/magnitude.h"
#include "kernels/norm.h"
#include "kernels/pages.h"
#include "kernels/update.h"

typedef enum RopeLayout {
  ROPE_HALVES,  // Hugging Face: (x[i], x[i + size/2]) turn together
  ROPE_INTERLEAVED,  // llama-architecture GGUF: (x[2i], x[2i + 1]) turn together
} RopeLayout;

// Doubles, for 1 - beta2 of a float is already off by 1e-5.
typedef struct AdamwSettings {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;  // 1 for the first
  double gradient_scale;  // multiplies every gradient first (clipping)
} AdamwSettings;

typedef struct Backend Backend;

typedef struct Kernels {
  const char *name;  // "scalar", "avx2", ...

  // kernels/linear.h has the equations; x[n, in] of all projections, dx[n, in].
  void (*linear_forward)(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
  // The same for generation, each row by itself: its bits do not depend on how many rows there are, nor do those of a row of linear_forward;
  // but the two may differ in a row's last bits. Fast for few rows.
  void (*linear_forward_rows)(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
  // And where w is quantised in evenly spaced levels (not NF4), x is rounded to 8 bits first, by blocks of 32:
  // x[j] becomes d * level[j], d = max |x| / 127, level[j] = x[j] * (127 / max |x|) to the nearest, ties to even; in float32.
  void (*linear_forward_int8)(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
  void (*linear_backward)(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend);
  // dw_i[rows_i, columns] += alpha_i * dy_i[n, rows_i]^T x[n, columns] for each of `count` gradients
  void (*weight_backward)(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend);
  void (*low_rank_backward)(const LowRankGradient *gradients, int count, int64_t n, Backend *backend);
  // sums[c] += the sum over all rows of x[n, columns]: a bias's gradient.
  void (*column_sums)(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend);
  // y[i] = scale * w[ids[i]]; where ids[i] is below 0, y[i] stays as it is.
  void (*embedding_forward)(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);
  // For each group of places that have one id: dw[rows[g]] += scale * the sum of dy[places[j]] over begins[g] <= j < begins[g + 1], in that
  // order. rows[groups] are distinct; dy[.., columns].
  void (*embedding_backward)(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places, int64_t groups,
                             int64_t columns, float scale, Backend *backend);

  // kernels/norm.h has the equations; rows of norm->columns, of either type and any step. residual is float32; data NULL: none.
  void (*norm_forward)(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend);
  void (*norm_backward)(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend);
  // dw[norm->columns] += the weights' gradient, sum of dy z over all rows. (That of the bias is column_sums of dy.)
  void (*norm_weight_backward)(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend);

  // Rotates x[n, heads, head_size] in place by position * frequencies[i], i < rotary/2, pairs within the first
  // `rotary` of each head; sine and cosine are multiplied by `magnitude` (YaRN; 1 else). Su et al. 2021.
  // inverse: by the opposite angle (the backward pass, which keeps the factor).
  void (*rope)(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
               int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend);

  // o[nq, heads * value_size], lse[nq, heads] of q[nq, heads * head_size], k[nk, kv_heads * head_size], v[nk, kv_heads * value_size]
  // query_ends[nq] (NULL: as the spans say) is for queries that are some of a span's rows only: query i sees the keys before query_ends[i],
  // which grow within a span.
  void (*attention_forward)(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                            int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend);
  // Sets dq, dk, dv; scratch: attention_scratch_floats, the first [nq, heads] of which become rowsum(go o).
  void (*attention_backward)(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                             const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                             const int32_t *query_ends, AttentionShape shape, Backend *backend);

  // y = f(gate) * up, elementwise; Shazeer 2020. up NULL: y = f(gate), and there is no dup. Backward: dgate and dup are set, and may be the
  // very buffers gate and up.
  void (*gated_forward)(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend);
  void (*gated_backward)(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                         Activation f, Backend *backend);

  // For each row i: nll[i] = logsumexp(logits[i]) - logits[i][targets[i]]; then, unless gradient_scale is NULL,
  // logits[i] <- gradient_scale[i] * (softmax(logits[i]) - onehot(targets[i])) in place, of `type`: rows of bfloat16 begin where
  // rows of float32 did. Those are `step` elements apart. softcap > 0: logits first become softcap * tanh(logits / softcap), and stay
  // so where there is no gradient, which is by what they were before.
  void (*cross_entropy)(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                        int64_t n, int64_t vocabulary, float softcap, Backend *backend);

  // For each row i of a policy's logits and of a base's, both [n, vocabulary] with rows `step` elements apart, with p and q their softmaxes:
  // kl[i] = sum_v p_v (log p_v - log q_v), in which p_v = 0 counts as 0; then, unless scale is NULL, base[i] becomes scale[i] times kl[i]'s
  // derivatives by the policy's logits, p_v (log p_v - log q_v - kl[i]). softcap > 0: both are capped first, and the derivatives are by the
  // logits before. Those of the policy stay as they are in any case: cross_entropy caps them, too.
  void (*divergence)(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                     float softcap, Backend *backend);

  // The output layer with cross_entropy: logits = x head^T, and dx, which is set (data NULL: not wanted), from the logits' gradient. `scratch`:
  // linear_cross_entropy_floats (kernels/loss.h).
  void (*linear_cross_entropy)(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                               int64_t n, float *scratch, float softcap, Backend *backend);
  void (*softcap)(float *y, int64_t count, float cap, Backend *backend);  // y <- cap * tanh(y / cap)

  // kernels/experts.h has the equations and the settings. Sets chosen[n, used] and weights[n, used] of logits[n, experts]; adds to
  // totals[2][experts] (NULL: none) how often each expert was chosen, and the sum over rows of its score (of a sigmoid: its share of the
  // row's scores).
  void (*router_forward)(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                         Backend *backend);
  // dlogits[n, experts] is set.
  void (*router_backward)(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                          int64_t n, Backend *backend);
  // Floats of scratch for n rows of x of this type, forward or backward.
  int64_t (*experts_scratch_floats)(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, Backend *backend);
  // y[n, hidden] += the experts' sum for x[n, hidden]; what lies between the products is rounded to x's type. y and dx are float32.
  // in_int8: by linear_forward_int8, for x of float32. scratch: experts_scratch_floats. No expert is chosen twice for a row.
  void (*experts_forward)(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                          bool in_int8, float *scratch, Backend *backend);
  // dx[n, hidden], and dweights[n, used], which is set: dy_i . the expert's output. dy may be rounded to x's type.
  void (*experts_backward)(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                           const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend);

  // y[i][h * y_head_step + c] (+)= x[i][h * x_head_step + c] for h < heads, c < width. x_head_step 0: all heads read the same columns;
  // y_head_step 0: the heads are summed. Types may differ.
  void (*copy_heads)(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                     Backend *backend);

  // y[i] = x[i] * keep_i / (1 - p); keep_i is a function of (seed, stream, i) alone: philox(seed, stream, i / 4)[i % 4] >= p * 2^32.
  // accumulate adds to y. The same call with dy for x is its backward.
  void (*dropout)(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                  Backend *backend);
  // y[i] += magnitude * u_i, u_i uniform in [-1, 1), a function of (seed, stream, i) alone: (philox word i >> 8) / 2^23 - 1.
  void (*add_uniform)(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend);

  // y[i] = x[rows[i]] (gather); y[rows[i]] += x[i] (scatter, distinct rows)
  void (*gather_rows)(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
  void (*scatter_rows)(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);

  void (*fill)(float *y, float value, int64_t count, Backend *backend);
  void (*copy)(float *y, const float *x, int64_t count, Backend *backend);
  void (*add)(float *y, const float *x, float alpha, int64_t count, Backend *backend);  // y += alpha * x

  // Decoupled weight decay (Loshchilov and Hutter 2019) as torch.optim.AdamW computes it. m and v are updated.
  void (*adamw)(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
  // The same with moments in 8 bits, by the blocks of 256 that kernels/adamw_8bit.h has, with what a code stands for: m and v [count] codes,
  // m_scales and v_scales one a block. Blocks begin at p; the last may be short. Gradients are finite.
  void (*adamw_8bit)(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                     AdamwSettings settings, Backend *backend);
  // Other optimisers' steps, by the rule that the settings name (kernels/update.h): states[update_states(rule)], arrays of [count] each.
  void (*update)(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend);
  // The same with states in 8 bits, as adamw_8bit: codes[k] [count] and scales[k], one a block.
  void (*update_8bit)(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                      Backend *backend);
  // Factored second moments r[rows] and c[columns] of g[rows, columns], and what they make of it, u[rows, columns], which is set.
  void (*factored_moments)(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings, Backend *backend);
  void (*factored_update)(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns, double gradient_scale,
                          Backend *backend);
  double (*sum_of_squares)(const float *x, int64_t count, Backend *backend);  // waits for the device; NaN and Inf come through

  // kernels/magnitude.h has the equations: norms[out] of squares[out], products[rank, out], gram[rank, rank] and b[out, rank].
  void (*low_rank_norms)(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                         int64_t rank, float scale, Backend *backend);
  // residual is float32; data NULL: none.
  void (*magnitude_forward)(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend);
  // dz, of z's type, is set; dm[columns] is added to.
  void (*magnitude_backward)(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend);

  // Generation, in float32 (kernels/pages.h). Rows i of k[n, kv_heads * head_size] and v[n, kv_heads * value_size] go to slots[i], which are
  // distinct.
  void (*store_pages)(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                      Backend *backend);
  // attention_forward (kernels/attention.h) with keys and values in pages: o[n, heads * value_size] of q[n, heads * head_size]. Rows of no span
  // are left alone.
  void (*paged_attention)(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans, int64_t span_count,
                          AttentionShape shape, Backend *backend);
  // The adapters of a batch's rows, one launch for all: groups may have the same rows and different y; those of one y have distinct rows.
  // x[n, columns] float32. Each row by itself.
  void (*low_rank_rows)(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend);

  // Flop/s (a multiply-add is two) of multiply-adds on registers alone, on the whole device, measured now in at most 0.3 s;
  // 0 for an arithmetic that the device has no instructions for.
  double (*peak_flops)(FloatType arithmetic, Backend *backend);
} Kernels;

enum { BACKEND_TUNINGS = 8 };

// What the kernels of training steps work on: the largest micro-batch.
typedef struct StepShape {
  FloatType activations;
  int64_t tokens;
  int64_t columns;  // of the widest frozen matrix
  const AttentionSpan *spans;  // [span_count]
  int64_t span_count;
  AttentionShape attention;  // of the layers that see all of a document
  int64_t attention_calls;  // forward, in the whole run
} StepShape;

struct Backend {
  const Kernels *kernels;
  ThreadPool *pool;  // of the CPU, for what the host computes
  // Device memory. On the CPU these are the process's own.
  Status (*allocate)(void **block, int64_t bytes, const char *purpose, Backend *backend);
  void (*release)(void *block, Backend *backend);
  void (*upload)(void *device, const void *host, int64_t bytes, Backend *backend);  // `host` may be written to as soon as it returns
  void (*download)(void *host, const void *device, int64_t bytes, Backend *backend);  // waits
  // Copies beside the kernels, to and from the host's memory of allocate_host. They run in their order, each after the kernels that were
  // called before it; offload and fetch return its number at once. What is called after await_copy comes after that copy: until then no
  // kernel may write to its source or use its target. The host waits for nothing but in release_host, and reads none of it.
  Status (*allocate_host)(void **block, int64_t bytes, const char *purpose, Backend *backend);
  void (*release_host)(void *block, Backend *backend);
  int64_t (*offload)(void *host, const void *device, int64_t bytes, Backend *backend);
  int64_t (*fetch)(void *device, const void *host, int64_t bytes, Backend *backend);
  void (*await_copy)(int64_t copy, Backend *backend);
  // NULL where the device reads the process's own memory. Else: makes a frozen matrix of the host's one that kernels can read (plain floats
  // keep their type, what is quantised becomes BLOCK_DEVICE), in memory of its own, or in the caller's block of matrix_bytes, aligned to 256;
  // STATUS_NO_SPACE. And gives such a matrix's memory back, but for a block of the caller's.
  Status (*upload_matrix)(Matrix *matrix, void *block, Backend *backend);
  int64_t (*matrix_bytes)(const Matrix *matrix);
  void (*release_matrix)(Matrix *matrix, Backend *backend);
  Status (*check)(Backend *backend);  // STATUS_FAILED when the device has failed since it was opened, with its words; waits
  int64_t (*available_bytes)(Backend *backend);  // of the device's memory
  int64_t (*peak_bytes)(Backend *backend);  // the most that was in use so far: of the device, or of the process on the CPU
  int64_t (*workspace_bytes)(const Backend *backend);  // of all scratch
  // The most that kernels of such steps take for themselves, code included, where `room` bytes are free: the plan of memory leaves it to them.
  int64_t (*reserve_workspace)(const StepShape *step, int64_t room, Backend *backend);
  void (*describe_memory)(Buffer *text, Backend *backend);  // in use by purpose, a line each; NULL where it is the process's own
  void (*close)(Backend *backend);  // frees the implementation's own
  // Measured choices between kernels, on which bits depend: a checkpoint keeps them. NULL on the CPU.
  int64_t *tuning;
  int tuning_count;  // at most BACKEND_TUNINGS
  // What this table says of rows by themselves holds on a CUDA device only where this is set, before the calls that it is for, which are then
  // slower; linear_forward and experts_forward go in one way for all numbers of rows then. On the CPU it holds in any case.
  bool is_deterministic;
  const Collectives *collectives;  // between devices with a memory of their own; NULL on the CPU
  // Set by who has more to do than wait (parallel/group.h): called now and then while the host waits for a device. NULL: nobody.
  void (*while_waiting)(void *context);
  void *waiting_context;
  void *state;  // the implementation's own: per-thread scratch of the CPU
};

// `device`: "cpu" (NULL is the same), "cuda" or "cuda:N" (kernels/cuda_library.h). `threads` <= 0: one a processor. The CPU's instruction
// set is the best that this processor has, or what the environment variable LORA_CPU (scalar, avx2, avx512, amx) forces; STATUS_USAGE when
// it cannot.
Status backend_new(Backend **out, const char *device, int threads);
void backend_free(Backend *backend);

// The tables of this build that this processor can run, best first; NULL past the last ("scalar"). Any of them
// may be put into `backend->kernels` of a CPU backend.
const Kernels *backend_cpu_kernels(int index);

extern const Kernels kernels_scalar;  // kernels/reference: plain C, the definition of each kernel
#ifdef LORA_HAS_AVX2
extern const Kernels kernels_avx2;  // kernels/cpu
#endif
#ifdef LORA_HAS_AMX
extern const Kernels kernels_amx;  // kernels/cpu; bfloat16 activations are multiplied in tiles
#endif
#ifdef LORA_HAS_AVX512
extern const Kernels kernels_avx512;  // kernels/cpu
#endif

// How many bytes of scratch the CPU kernels may use for each thread, and how many they share, about; and the scratch of one thread.
enum { KERNEL_SCRATCH_BYTES = 4 << 20, KERNEL_SHARED_BYTES = 20 << 20 };
void *backend_scratch(Backend *backend, int thread);  // KERNEL_SCRATCH_BYTES, 64-byte aligned
// One block shared by all threads of a kernel, grown to at least `bytes` when a larger one is first asked for.
void *backend_shared_scratch(Backend *backend, int64_t bytes);

#endif
