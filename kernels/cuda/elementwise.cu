// Moves and sums: fill, copy, y += alpha x, softcap, rows gathered and scattered by index, columns of heads; and inverted dropout (Srivastava
// et al. 2014), y_i (+)= x_i / (1 - p) where element i is kept, 0 where not, as a function of (seed, stream, i) alone (core/rng.h).
#include "kernels/cuda/elements.h"

__global__ void __launch_bounds__(THREADS) fill_kernel(float *y, float value, int64_t count, bool is_packed) {
  constexpr int N = PACKET<float>;
  float values[N];
  UNROLL for (int k = 0; k < N; k++) values[k] = value;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) store_floats<N>(y + i, values, count - i, is_packed);
}

void cuda_fill(float *y, float value, int64_t count, Backend *backend) {
  Device *device = device_of(backend);
  if (count > 0) LAUNCH(device, fill_kernel, loop_blocks(device, count, PACKET<float>), THREADS, 0, y, value, count, is_aligned(y));
}

void cuda_copy(float *y, const float *x, int64_t count, Backend *backend) {
  Device *device = device_of(backend);
  size_t bytes = static_cast<size_t>(count) * sizeof *y;
  if (count > 0) CHECK(device, cudaMemcpyAsync(y, x, bytes, cudaMemcpyDeviceToDevice, device->stream));
}

__global__ void __launch_bounds__(THREADS) add_kernel(float *y, const float *x, float alpha, int64_t count, bool is_packed) {
  constexpr int N = PACKET<float>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float sums[N], added[N];
    load_floats<N>(sums, y + i, count - i, is_packed);
    load_floats<N>(added, x + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) sums[k] = fmaf(alpha, added[k], sums[k]);
    store_floats<N>(y + i, sums, count - i, is_packed);
  }
}

void cuda_add(float *y, const float *x, float alpha, int64_t count, Backend *backend) {
  Device *device = device_of(backend);
  if (count > 0) LAUNCH(device, add_kernel, loop_blocks(device, count, PACKET<float>), THREADS, 0, y, x, alpha, count, is_aligned(x, y));
}

__global__ void __launch_bounds__(THREADS) softcap_kernel(float *y, int64_t count, float cap, bool is_packed) {
  constexpr int N = PACKET<float>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N];
    load_floats<N>(values, y + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k++) values[k] = cap * tanhf(values[k] / cap);
    store_floats<N>(y + i, values, count - i, is_packed);
  }
}

void cuda_softcap(float *y, int64_t count, float cap, Backend *backend) {
  Device *device = device_of(backend);
  if (count > 0) LAUNCH(device, softcap_kernel, loop_blocks(device, count, PACKET<float>), THREADS, 0, y, count, cap, is_aligned(y));
}

// Philox4x32-10, word for word core/rng.c's.
__device__ __forceinline__ void random_words(uint32_t (&out)[4], uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = static_cast<uint32_t>(stream),
           c3 = static_cast<uint32_t>(stream >> 32), k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  UNROLL for (int round = 0; round < 10; round++) {
    uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0);
    c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// Kept: a word of at least `limit`, which is p * 2^32 rounded up.
template <typename T>
__global__ void __launch_bounds__(THREADS) dropout_kernel(T *y, const T *x, int64_t count, uint64_t limit, float scale, uint64_t seed,
                                                          uint64_t stream, bool accumulate, bool is_packed) {
  constexpr int N = PACKET<T>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N], sums[N];
    load_floats<N>(values, x + i, count - i, is_packed);
    if (accumulate) load_floats<N>(sums, y + i, count - i, is_packed);
    UNROLL for (int k = 0; k < N; k += 4) {
      uint32_t words[4];
      random_words(words, seed, stream, static_cast<uint64_t>(i + k) / 4);
      UNROLL for (int j = 0; j < 4; j++) {
        float value = words[j] >= limit ? values[k + j] * scale : 0.0f;
        values[k + j] = accumulate ? sums[k + j] + value : value;
      }
    }
    store_floats<N>(y + i, values, count - i, is_packed);
  }
}

void cuda_dropout(void *y, const void *x, FloatType type, int64_t count, float p, uint64_t seed, uint64_t stream, bool accumulate,
                  Backend *backend) {
  Device *device = device_of(backend);
  if (count == 0) return;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = dropout_kernel<T>;
    LAUNCH(device, kernel, loop_blocks(device, count, PACKET<T>), THREADS, 0, static_cast<T *>(y), static_cast<const T *>(x), count,
           static_cast<uint64_t>(ceil(static_cast<double>(p) * 0x1p32)), static_cast<float>(1 / (1 - static_cast<double>(p))), seed, stream,
           accumulate, is_aligned(x, y));
  });
}

// y_i += magnitude u_i, u_i by the top 24 bits of a word.
__global__ void __launch_bounds__(THREADS) noise_kernel(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream,
                                                        bool is_packed) {
  constexpr int N = PACKET<float>;
  for (int64_t i = first_element<N>(); i < count; i += element_step<N>()) {
    float values[N];
    uint32_t words[4];
    load_floats<N>(values, y + i, count - i, is_packed);
    random_words(words, seed, stream, static_cast<uint64_t>(i) / 4);
    UNROLL for (int j = 0; j < N; j++) values[j] += magnitude * (static_cast<float>(words[j] >> 8) * 0x1p-23f - 1.0f);
    store_floats<N>(y + i, values, count - i, is_packed);
  }
}

void cuda_add_uniform(float *y, int64_t count, float magnitude, uint64_t seed, uint64_t stream, Backend *backend) {
  Device *device = device_of(backend);
  if (count > 0)
    LAUNCH(device, noise_kernel, loop_blocks(device, count, PACKET<float>), THREADS, 0, y, count, magnitude, seed, stream, is_aligned(y));
}

// Rows of whole T, `columns` of them, whatever they mean.
template <typename T>
__global__ void __launch_bounds__(THREADS) gather_kernel(T *y, const T *x, const int32_t *rows, int64_t columns) {
  const T *from = x + rows[blockIdx.x] * columns;
  T *to = y + blockIdx.x * columns;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) to[c] = from[c];
}

void cuda_gather_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  Device *device = device_of(backend);
  int64_t bytes = columns * float_bytes(type);
  if (n == 0 || columns == 0) return;
  auto start = [&](auto *to, int64_t size) {
    using T = typename std::remove_pointer<decltype(to)>::type;
    auto kernel = gather_kernel<T>;
    LAUNCH(device, kernel, static_cast<unsigned>(n), whole_warps(bytes / size, THREADS), 0, to, static_cast<const T *>(x), rows,
           bytes / size);
  };
  if (is_aligned(x, y) && bytes % 16 == 0) start(static_cast<uint4 *>(y), 16);
  else if (type == FLOAT_32) start(static_cast<uint32_t *>(y), 4);
  else start(static_cast<uint16_t *>(y), 2);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) scatter_kernel(T *y, const T *x, const int32_t *rows, int64_t columns, bool is_packed) {
  constexpr int N = PACKET<T>;
  const T *from = x + blockIdx.x * columns;
  T *to = y + rows[blockIdx.x] * columns;
  for (int64_t c = threadIdx.x * N; c < columns; c += blockDim.x * N) {
    float sums[N], added[N];
    load_floats<N>(sums, to + c, columns - c, is_packed);
    load_floats<N>(added, from + c, columns - c, is_packed);
    UNROLL for (int k = 0; k < N; k++) sums[k] += added[k];
    store_floats<N>(to + c, sums, columns - c, is_packed);
  }
}

void cuda_scatter_rows(void *y, const void *x, FloatType type, const int32_t *rows, int64_t n, int64_t columns, Backend *backend) {
  Device *device = device_of(backend);
  if (n == 0 || columns == 0) return;
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = scatter_kernel<T>;
    LAUNCH(device, kernel, static_cast<unsigned>(n), whole_warps(blocks_for(columns, PACKET<T>), THREADS), 0, static_cast<T *>(y),
           static_cast<const T *>(x), rows, columns, is_aligned(x, y) && columns % PACKET<T> == 0);
  });
}

struct HeadSteps {
  int64_t y_row, y_head, x_row, x_head;
};

// A block is a row. Heads are added in their order where they have one place (y_head 0).
template <typename Y, typename X>
__global__ void __launch_bounds__(THREADS)
    copy_heads_kernel(Y *y, const X *x, HeadSteps steps, int heads, int width, bool accumulate, bool is_packed) {
  constexpr int N = PACKET<Y, X>;
  int each = (width + N - 1) / N, sources = steps.y_head ? 1 : heads;
  for (int item = threadIdx.x; item < (steps.y_head ? heads : 1) * each; item += blockDim.x) {
    int head = item / each, c = item % each * N, left = width - c;
    const X *from = x + blockIdx.x * steps.x_row + head * steps.x_head + c;
    Y *to = y + blockIdx.x * steps.y_row + head * steps.y_head + c;
    float sums[N];
    load_floats<N>(sums, from, left, is_packed);
    for (int source = 1; source < sources; source++) {
      float added[N];
      load_floats<N>(added, from + source * steps.x_head, left, is_packed);
      UNROLL for (int k = 0; k < N; k++) sums[k] += added[k];
    }
    if (accumulate) {
      float before[N];
      load_floats<N>(before, to, left, is_packed);
      UNROLL for (int k = 0; k < N; k++) sums[k] += before[k];
    }
    store_floats<N>(to, sums, left, is_packed);
  }
}

void cuda_copy_heads(Rows y, int64_t y_head_step, Rows x, int64_t x_head_step, int64_t heads, int64_t width, int64_t n, bool accumulate,
                     Backend *backend) {
  Device *device = device_of(backend);
  HeadSteps steps = {y.step, y_head_step, x.step, x_head_step};
  if (n == 0 || heads == 0 || width == 0) return;
  with_types(y.type, x.type, [&](auto y_element, auto x_element) {
    using Y = decltype(y_element);
    using X = decltype(x_element);
    constexpr int N = PACKET<Y, X>;
    bool is_packed = is_aligned(y.data, x.data) && (y.step | y_head_step | x.step | x_head_step) % N == 0;
    auto kernel = copy_heads_kernel<Y, X>;
    int64_t items = (y_head_step ? heads : 1) * ((width + N - 1) / N);
    LAUNCH(device, kernel, static_cast<unsigned>(n), whole_warps(items, THREADS), 0, static_cast<Y *>(y.data),
           static_cast<const X *>(x.data), steps, static_cast<int>(heads), static_cast<int>(width), accumulate, is_packed);
  });
}
