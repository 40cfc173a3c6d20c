// Cross entropy of softmax, and the divergence of two softmaxes, a block for a row of logits z[vocabulary]
// (kernels/reference/cross_entropy.c has the equations). The first pass keeps the largest logit and the sum of exponentials below it as it
// goes (Milakov and Gimelshein 2018), the last writes the gradient.
// A gradient of 16 bits lies in the first half of its row's place: a stretch of logits is in registers when its gradient, which lies before
// its end, is written, so nothing is overwritten that is still to be read.
#include "kernels/cuda/cuda.h"

namespace {

enum { THREADS = 512, EACH = 4, STRETCH = THREADS * EACH };

struct Loss {
  float *nll, *logits;
  int64_t step;
  const int32_t *targets;
  const float *gradient_scale;
  int64_t vocabulary;
  float softcap;
  bool has_packets;
};

__device__ __forceinline__ float capped(float logit, float softcap) { return softcap > 0 ? softcap * tanhf(logit / softcap) : logit; }

// Logits `first` .. `first` + 3; what is beyond the row is -infinity.
__device__ __forceinline__ void load_logits(float z[EACH], const float *row, int64_t first, const Loss &loss) {
  if (loss.has_packets && first + EACH <= loss.vocabulary) {
    float4 four = *reinterpret_cast<const float4 *>(row + first);
    z[0] = four.x, z[1] = four.y, z[2] = four.z, z[3] = four.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) z[i] = first + i < loss.vocabulary ? row[first + i] : -INFINITY;
}

template <typename T>
__device__ __forceinline__ void store_values(T *row, int64_t first, const float v[EACH], const Loss &loss) {
  if (loss.has_packets && first + EACH <= loss.vocabulary) {
    if constexpr (sizeof(T) == 4) *reinterpret_cast<float4 *>(row + first) = make_float4(v[0], v[1], v[2], v[3]);
    else *reinterpret_cast<uint2 *>(row + first) = make_uint2(pack_two<T>(v[0], v[1]), pack_two<T>(v[2], v[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (first + i < loss.vocabulary) row[first + i] = from_float<T>(v[i]);
}

// sum exp(z - largest) over what a thread has seen.
struct Exponentials {
  float largest, sum;
};
__device__ __forceinline__ void add_logits(Exponentials *e, const float z[EACH]) {
  float most = fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3]));
  if (most > e->largest) {
    e->sum *= expf(e->largest - most);
    e->largest = most;
  }
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (z[i] > -INFINITY || isnan(z[i])) e->sum += expf(z[i] - e->largest);
}

// Capped logits, and -infinity beyond the row.
__device__ __forceinline__ void load_capped(float z[EACH], const float *row, int64_t first, const Loss &loss) {
  load_logits(z, row, first, loss);
#pragma unroll
  for (int i = 0; i < EACH; i++) z[i] = capped(z[i], loss.softcap);
  if (loss.softcap > 0 && first + EACH > loss.vocabulary)  // tanh of -infinity is no trouble, but -softcap would count
    for (int i = 0; i < EACH; i++)
      if (first + i >= loss.vocabulary) z[i] = -INFINITY;
}

// Of a whole row, for all threads of its block.
__device__ __forceinline__ Exponentials row_exponentials(const float *row, const Loss &loss, float *room) {
  Exponentials own = {-INFINITY, 0};
  for (int64_t first = threadIdx.x * EACH; first < loss.vocabulary; first += STRETCH) {
    float z[EACH];
    load_capped(z, row, first, loss);
    add_logits(&own, z);
  }
  Exponentials all;
  all.largest = block_max(own.largest, room);
  all.sum = block_sum(own.sum > 0 || isnan(own.sum) ? own.sum * expf(own.largest - all.largest) : 0.0f, room);
  return all;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) cross_entropy_row(Loss loss) {
  SHARED(float, room, [THREADS / WARP]);
  const int64_t row = blockIdx.x;
  float *logits = loss.logits + row * loss.step;
  const int64_t target = loss.targets[row];
  const float softcap = loss.softcap, at_target = capped(logits[target], softcap);
  const Exponentials all = row_exponentials(logits, loss, room);
  const float largest = all.largest, sum = all.sum;
  if (threadIdx.x == 0) loss.nll[row] = largest - at_target + logf(sum);
  if (!loss.gradient_scale && !(softcap > 0)) return;
  const float scale = loss.gradient_scale ? loss.gradient_scale[row] : 0, inverse = 1 / sum;
  for (int64_t begin = 0; begin < loss.vocabulary; begin += STRETCH) {
    const int64_t first = begin + threadIdx.x * EACH;
    float v[EACH];
    load_logits(v, logits, first, loss);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      float t = softcap > 0 ? tanhf(v[i] / softcap) : 0, z = softcap > 0 ? softcap * t : v[i];
      float p = expf(z - largest) * inverse;
      if (loss.gradient_scale) v[i] = scale * (p - (first + i == target ? 1.0f : 0.0f)) * (1 - t * t);
      else v[i] = z;
    }
    if (sizeof(T) < sizeof(float) && loss.gradient_scale) {
      __syncthreads();
      store_values(reinterpret_cast<T *>(logits), first, v, loss);
    } else {
      store_values(logits, first, v, loss);
    }
  }
}

// p and d of some tokens (kernels/reference/cross_entropy.c); where p is 0 d is, too.
struct Shares {
  float z[EACH], p[EACH], d[EACH];
};
__device__ __forceinline__ void load_shares(Shares *s, const float *row, const float *base, int64_t first, const Loss &loss,
                                            const Exponentials &policy, const Exponentials &other, float log_ratio) {
  float w[EACH];
  load_capped(s->z, row, first, loss);
  load_capped(w, base, first, loss);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const float below = s->z[i] - policy.largest;
    s->p[i] = expf(below) / policy.sum;
    s->d[i] = s->p[i] == 0 ? 0 : below - (w[i] - other.largest) - log_ratio;
  }
}

// loss: nll is kl, gradient_scale scale. The rows of the base are read in the first passes and written by the last, each stretch by the
// thread that has just read it.
__global__ void __launch_bounds__(THREADS) divergence_row(Loss loss, float *base_rows) {
  SHARED(float, room, [THREADS / WARP]);
  const int64_t row = blockIdx.x;
  const float *logits = loss.logits + row * loss.step;
  float *base = base_rows + row * loss.step;
  const Exponentials policy = row_exponentials(logits, loss, room), other = row_exponentials(base, loss, room);
  const float log_ratio = logf(policy.sum / other.sum);
  float own = 0;
  Shares s;
  for (int64_t first = threadIdx.x * EACH; first < loss.vocabulary; first += STRETCH) {
    load_shares(&s, logits, base, first, loss, policy, other, log_ratio);
#pragma unroll
    for (int i = 0; i < EACH; i++) own += s.p[i] * s.d[i];
  }
  const float kl = block_sum(own, room);
  if (threadIdx.x == 0) loss.nll[row] = kl;
  if (!loss.gradient_scale) return;
  const float scale = loss.gradient_scale[row];
  for (int64_t first = threadIdx.x * EACH; first < loss.vocabulary; first += STRETCH) {
    load_shares(&s, logits, base, first, loss, policy, other, log_ratio);
    float v[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      float turned = loss.softcap > 0 ? s.z[i] / loss.softcap : 0;
      v[i] = s.p[i] == 0 ? 0 : scale * s.p[i] * (s.d[i] - kl) * (1 - turned * turned);
    }
    store_values(base, first, v, loss);
  }
}

}  // namespace

void cuda_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                     float softcap, Backend *backend) {
  if (n == 0) return;
  Loss loss = {kl, const_cast<float *>(logits), step, NULL, scale, vocabulary, softcap, is_aligned(logits, base) && step % 4 == 0};
  LAUNCH(device_of(backend), divergence_row, static_cast<unsigned>(n), THREADS, 0, loss, base);
}

void cuda_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                        int64_t n, int64_t vocabulary, float softcap, Backend *backend) {
  if (n == 0) return;
  Loss loss = {nll, logits, step, targets, gradient_scale, vocabulary, softcap, is_aligned(logits) && step % 4 == 0};
  with_type(type, [&](auto element) {
    auto kernel = cross_entropy_row<decltype(element)>;
    LAUNCH(device_of(backend), kernel, static_cast<unsigned>(n), THREADS, 0, loss);
  });
}

// As many rows at once as the scratch holds logits of; their gradient, in x's type, is multiplied where it lies.
void cuda_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                               int64_t n, float *scratch, float softcap, Backend *backend) {
  int64_t step = logits_step(head->rows), most = linear_cross_entropy_floats(n, head->rows, head->columns) / step;
  for (int64_t row = 0; row < n; row += most) {
    int64_t rows = n - row < most ? n - row : most;
    Projection logits = {};
    logits.w = head, logits.alpha = 1, logits.y = rows_f32(scratch, step);
    cuda_linear_forward(&logits, 1, rows_from(x, row * x.step), rows, backend);
    cuda_cross_entropy(nll + row, scratch, step, targets + row, dx.data ? gradient_scale + row : NULL, x.type, rows, head->rows, softcap,
                       backend);
    if (!dx.data) continue;
    if (x.type != FLOAT_32) logits.y = Rows{scratch, 2 * step, x.type};
    cuda_linear_backward(rows_from(dx, row * dx.step), &logits, 1, rows, false, backend);
  }
}
