// What the files of this backend share on the host's side: the device, its memory, and how an entry of the kernel table (backend.h) starts
// its kernels. A file here is a family of entries with the kernels that they start. Entries only put work into device->stream and return;
// pointers of activations and weights are the device's, structs and spans the host's. Nothing here waits, but for download and
// sum_of_squares.
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/cuda/device.h"

#define _Noreturn [[noreturn]]
extern "C" {
#include "core/memory.h"
#include "kernels/backend.h"
#include "kernels/loss.h"
}

// Memory that grows to the largest that was asked for, one block a purpose: kernels in one stream use it one after another.
enum Workspace {
  WORKSPACE_WEIGHTS,  // a panel of dequantised weights
  WORKSPACE_ROWS,  // operands of a product in another type
  WORKSPACE_INPUT,  // rows that several products read, in another type
  WORKSPACE_SUMS,  // the sum of several products in float32
  WORKSPACE_PARTS,  // parts of sums, added up in one order by a second kernel
  WORKSPACE_BLAS,  // cuBLASLt's own
  WORKSPACE_CUDNN,  // cuDNN's own, and its statistics of rows
  WORKSPACE_RESULT,  // a few numbers for the host
  WORKSPACE_COUNT
};

struct Device {
  Backend *backend;  // whose device it is
  int number;
  int capability;  // 80 is sm_80
  int processors;  // streaming multiprocessors
  int64_t shared_bytes;  // that a block may ask for
  cudaStream_t stream;  // all work of a step, in order
  cudaStream_t side;  // what may run beside it: the next panel of weights
  cublasLtHandle_t blas;
  cudaError_t error;  // the first that a call gave, cudaSuccess while all is well
  char where[160];  // and the call
  char words[256];  // of another library than CUDA's about that error; "": CUDA's own
  struct Pool *pool;
  void *workspaces[WORKSPACE_COUNT];
  int64_t workspace_bytes[WORKSPACE_COUNT];
  struct Staging *staging;
  struct Copies *copies;  // of offloaded activations
  struct Ranks *ranks;  // the processes that it has joined (nccl.cu), or NULL
  struct AttentionChoices *attention;  // which engine does what (attention_engine.h)
  void *attention_engine;  // what the other engine keeps
  cudaEvent_t panel_events[5];  // between the two streams; made when they are first used (products_close)
  struct Thresholds {
    int64_t fused_rows;  // products of at most so many rows dequantise within the product
    int64_t gemv_rows;
    int64_t forward_panel;  // bytes of dequantised weights that a product has at a time; 0: what suits the device
    int64_t backward_panel;  // and of grouped experts, either way
    int64_t own_products;  // 1: never cuBLASLt
    int64_t grouped_pairs;  // experts of at least so many pairs (token, expert) go through grouped products; 0: what suits their number
    int64_t piece_bytes;  // of rows that these have at a time; 0: what suits the device
  } thresholds;
};

static inline bool is_deterministic(const Device *device) { return device->backend->is_deterministic; }
static inline Device *device_of(Backend *backend) { return static_cast<Device *>(backend->state); }

// Remembers the first error and where it was: CHECK(device, cudaMemcpyAsync(...)). backend_check tells it.
void device_check(Device *device, cudaError_t error, const char *what);
#define CHECK(device, call) device_check(device, call, #call)
// The same for an error that CUDA has no name for.
void device_fail(Device *device, const char *words, const char *what);
// Starts a kernel in the device's stream.
#define LAUNCH(device, kernel, grid, block, shared, ...) \
  device_check(device, launch(kernel, grid, block, shared, (device)->stream, __VA_ARGS__), #kernel)

void *device_workspace(Device *device, Workspace purpose, int64_t bytes);  // NULL (and an error remembered) when there is no memory
// A copy on the device of `bytes` that the host holds now, for kernels that are started next (in device->stream); it need not be given
// back. The same bytes as of late are not sent again.
const void *device_stage(Device *device, const void *host, int64_t bytes);

// Wait for all that is in a stream, or for an event (wait.cu); where the host has something to do meanwhile (Backend.while_waiting, other
// processes) it is not done in the driver.
void device_wait(Device *device, cudaStream_t stream);
void device_wait_event(Device *device, cudaEvent_t event);
void device_read(Device *device, void *host, const void *from, int64_t bytes);  // after all that is in the device's stream
// Between two questions of one wait, which begins with a zeroed Pause.
struct Pause {
  int64_t begun_ns, called_ns;
};
void device_pause(Device *device, Pause *pause);

static inline int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }
static inline unsigned blocks_for(int64_t count, int64_t each) { return static_cast<unsigned>((count + each - 1) / each); }

// use(T()) for the element type T that `type` is: with_type(type, [&](auto element) { using T = decltype(element); ... });
template <typename Use>
void with_type(FloatType type, Use use) {
  switch (type) {
    case FLOAT_32: use(float()); break;
    case FLOAT_BF16: use(bf16()); break;
    case FLOAT_F16: use(fp16()); break;
  }
}

// Whether all of the addresses are multiples of 16, where packets can be moved.
template <typename... Pointers>
bool is_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// The entries, by family. Contracts: kernels/backend.h.
extern "C" {
void cuda_linear_forward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cuda_linear_forward_rows(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cuda_linear_forward_int8(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);
void cuda_linear_backward(Rows dx, const Projection *projections, int count, int64_t n, bool accumulate, Backend *backend);
void cuda_weight_backward(const WeightGradient *gradients, int count, Rows x, int64_t columns, int64_t n, Backend *backend);
void cuda_low_rank_backward(const LowRankGradient *gradients, int count, int64_t n, Backend *backend);
void cuda_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend);
void cuda_embedding_forward(float *y, const int32_t *ids, const Matrix *w, int64_t n, float scale, Backend *backend);
void cuda_embedding_backward(float *dw, const float *dy, const int32_t *rows, const int32_t *begins, const int32_t *places, int64_t groups,
                             int64_t columns, float scale, Backend *backend);
void cuda_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend);
void cuda_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend);
void cuda_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend);
void cuda_rope(void *x, FloatType type, const int32_t *positions, const float *frequencies, int64_t n, int64_t heads, int64_t head_size,
               int64_t rotary, RopeLayout layout, float magnitude, bool inverse, Backend *backend);
void cuda_attention_forward(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                            int64_t span_count, const int32_t *query_ends, AttentionShape shape, Backend *backend);
void cuda_attention_backward(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                             const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                             const int32_t *query_ends, AttentionShape shape, Backend *backend);
void cuda_gated_forward(void *y, const void *gate, const void *up, FloatType type, int64_t count, Activation f, Backend *backend);
void cuda_gated_backward(void *dgate, void *dup, const void *dy, const void *gate, const void *up, FloatType type, int64_t count,
                         Activation f, Backend *backend);
void cuda_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                        int64_t n, int64_t vocabulary, float softcap, Backend *backend);
void cuda_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                     float softcap, Backend *backend);
void cuda_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                               int64_t n, float *scratch, float softcap, Backend *backend);
void cuda_softcap(float *y, int64_t count, float cap, Backend *backend);
void cuda_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                         Backend *backend);
void cuda_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                          int64_t n, Backend *backend);
int64_t cuda_experts_scratch_floats(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, Backend *backend);
void cuda_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                          bool in_int8, float *scratch, Backend *backend);
void cuda_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                           const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend);
void cuda_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                     Backend *backend);
void cuda_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                  Backend *backend);
void cuda_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend);
void cuda_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void cuda_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend);
void cuda_fill(float *y, float value, int64_t count, Backend *backend);
void cuda_copy(float *y, const float *x, int64_t count, Backend *backend);
void cuda_add(float *y, const float *x, float alpha, int64_t count, Backend *backend);
void cuda_adamw(float *p, float *m, float *v, const float *g, int64_t count, AdamwSettings settings, Backend *backend);
void cuda_adamw_8bit(float *p, uint8_t *m, float *m_scales, uint8_t *v, float *v_scales, const float *g, int64_t count,
                     AdamwSettings settings, Backend *backend);
void cuda_update(float *p, float *const *states, const float *g, int64_t count, UpdateSettings settings, Backend *backend);
void cuda_update_8bit(float *p, uint8_t *const *codes, float *const *scales, const float *g, int64_t count, UpdateSettings settings,
                      Backend *backend);
void cuda_factored_moments(float *r, float *c, const float *g, int64_t rows, int64_t columns, FactoredSettings settings, Backend *backend);
void cuda_factored_update(float *u, const float *g, const float *r, const float *c, int64_t rows, int64_t columns, double gradient_scale,
                          Backend *backend);
void cuda_low_rank_norms(float *norms, const float *squares, const float *products, const float *gram, const float *b, int64_t out,
                         int64_t rank, float scale, Backend *backend);
void cuda_magnitude_forward(Rows y, Rows z, Rows residual, const Magnitude *magnitude, int64_t n, Backend *backend);
void cuda_magnitude_backward(Rows dz, float *dm, Rows dy, Rows z, const Magnitude *magnitude, int64_t n, Backend *backend);
void cuda_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                      Backend *backend);
void cuda_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans, int64_t span_count,
                          AttentionShape shape, Backend *backend);
void cuda_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend);
double cuda_sum_of_squares(const float *x, int64_t count, Backend *backend);
double cuda_peak_flops(FloatType arithmetic, Backend *backend);
}

#endif
