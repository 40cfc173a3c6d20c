// A mixture of experts (kernels/experts.h) by the products and gates of this backend. The choice comes to the host, which orders the pairs
// (token, expert) by expert, then by token; the rows of one expert, some at a time, are gathered, multiplied, and added to their tokens'
// sums, which so have one order:
//   G, U = x gate^T, x up^T;   H = f(G) * U;   y += weight (H down^T)
//   T = dy down;   dweight = T . H;   dG, dU of weight T;   dx += dG gate + dU up
// G, U, H and their gradients are of x's type, T and the sums float32.
#include "kernels/cuda/elements.h"

enum { EXPERT_ROWS = 256, ALIGNED_FLOATS = 16 };  // as kernels/experts.c has them: experts_scratch_floats

struct ExpertScratch {
  int32_t *order;  // [n * used] places in chosen[n, used]
  float *x, *dy, *sum;  // [rows, hidden]
  float *gate, *up, *h, *t, *dh;  // [rows, width]
};

struct ExpertJob {
  const ExpertMatrices *experts;
  Rows x, y, dx, dy;
  const float *weights;
  float *dweights;
  bool in_int8;
  ExpertScratch scratch;
  Device *device;
  Backend *backend;
  // The present part of an expert's rows:
  const int32_t *places;  // in chosen
  int64_t rows;
};

static int64_t most_rows(int64_t n) { return n < EXPERT_ROWS ? n : int64_t(EXPERT_ROWS); }

static ExpertScratch scratch_in(float *block, int64_t n, const ExpertMatrices *experts) {
  ExpertScratch scratch;
  int64_t wide = most_rows(n) * experts->hidden, narrow = most_rows(n) * experts->width;
  auto take = [&](int64_t floats) {
    float *place = block;
    block += (floats + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
    return place;
  };
  scratch.order = reinterpret_cast<int32_t *>(take(n * experts->used));
  scratch.x = take(wide), scratch.dy = take(wide), scratch.sum = take(wide);
  scratch.gate = take(narrow), scratch.up = take(narrow), scratch.h = take(narrow), scratch.t = take(narrow), scratch.dh = take(narrow);
  return scratch;
}

// Row r of `to` becomes the row of `from` whose place is r's.
template <typename T, typename F>
__global__ void __launch_bounds__(THREADS)
    gather_tokens_kernel(T *to, const F *from, int64_t step, const int32_t *places, int used, int columns, bool is_packed) {
  constexpr int N = PACKET<T, F>;
  int64_t token = places[blockIdx.x] / used, row = blockIdx.x;
  for (int c = threadIdx.x * N; c < columns; c += blockDim.x * N) {
    float values[N];
    load_floats<N>(values, from + token * step + c, columns - c, is_packed);
    store_floats<N>(to + row * columns + c, values, columns - c, is_packed);
  }
}

static void gather_tokens(const ExpertJob &job, float *to, Rows from) {
  with_types(job.x.type, from.type, [&](auto to_element, auto from_element) {
    using T = decltype(to_element);
    using F = decltype(from_element);
    auto kernel = gather_tokens_kernel<T, F>;
    int columns = static_cast<int>(job.experts->hidden);
    bool is_packed = is_aligned(to, from.data) && columns % PACKET<T, F> == 0 && from.step % PACKET<T, F> == 0;
    LAUNCH(job.device, kernel, static_cast<unsigned>(job.rows), whole_warps(blocks_for(columns, PACKET<T, F>), THREADS), 0,
           reinterpret_cast<T *>(to), static_cast<const F *>(from.data), from.step, job.places, static_cast<int>(job.experts->used),
           columns, is_packed);
  });
}

// y of the row's token += weight * row; weights NULL: += row. No two rows have one token.
__global__ void __launch_bounds__(THREADS) add_tokens_kernel(float *y, int64_t step, const float *sums, const float *weights,
                                                             const int32_t *places, int used, int columns, bool is_packed) {
  constexpr int N = PACKET<float>;
  int place = places[blockIdx.x];
  int64_t row = blockIdx.x;
  float weight = weights ? weights[place] : 1.0f, *to = y + place / used * step;
  for (int c = threadIdx.x * N; c < columns; c += blockDim.x * N) {
    float values[N], added[N];
    load_floats<N>(values, to + c, columns - c, is_packed);
    load_floats<N>(added, sums + row * columns + c, columns - c, is_packed);
    UNROLL for (int k = 0; k < N; k++) values[k] = fmaf(weight, added[k], values[k]);
    store_floats<N>(to + c, values, columns - c, is_packed);
  }
}

static void add_tokens(const ExpertJob &job, Rows to, const float *weights) {
  int columns = static_cast<int>(job.experts->hidden);
  bool is_packed = is_aligned(to.data, job.scratch.sum) && columns % PACKET<float> == 0 && to.step % PACKET<float> == 0;
  LAUNCH(job.device, add_tokens_kernel, static_cast<unsigned>(job.rows), whole_warps(blocks_for(columns, PACKET<float>), THREADS), 0,
         static_cast<float *>(to.data), to.step, job.scratch.sum, weights, job.places, static_cast<int>(job.experts->used), columns,
         is_packed);
}

// dweight = t . h, and dh = weight t, the gradient of H.
template <typename T>
__global__ void __launch_bounds__(THREADS) weigh_rows_kernel(T *dh, float *dweights, const float *t, const T *h, const float *weights,
                                                             const int32_t *places, int width, bool is_packed) {
  constexpr int N = PACKET<T, float>;
  SHARED(float, room, [WARP]);
  int place = places[blockIdx.x];
  int64_t first = static_cast<int64_t>(blockIdx.x) * width;
  float weight = weights[place], sum = 0;
  for (int j = threadIdx.x * N; j < width; j += blockDim.x * N) {
    float ts[N], hs[N];
    load_floats<N>(ts, t + first + j, width - j, is_packed);
    load_floats<N>(hs, h + first + j, width - j, is_packed);
    UNROLL for (int k = 0; k < N; k++) {
      sum = fmaf(ts[k], hs[k], sum);
      ts[k] *= weight;
    }
    store_floats<N>(dh + first + j, ts, width - j, is_packed);
  }
  sum = block_sum(sum, room);
  if (threadIdx.x == 0) dweights[place] = sum;
}

static void weigh_rows(const ExpertJob &job) {
  with_type(job.x.type, [&](auto element) {
    using T = decltype(element);
    auto kernel = weigh_rows_kernel<T>;
    int width = static_cast<int>(job.experts->width);
    const ExpertScratch &scratch = job.scratch;
    LAUNCH(job.device, kernel, static_cast<unsigned>(job.rows), whole_warps(blocks_for(width, PACKET<float>), THREADS), 0,
           reinterpret_cast<T *>(scratch.dh), job.dweights, scratch.t, reinterpret_cast<const T *>(scratch.h), job.weights, job.places,
           width, is_aligned(scratch.t, scratch.h, scratch.dh) && width % PACKET<float> == 0);
  });
}

static Rows buffer_rows(const ExpertJob &job, float *buffer, int64_t columns) { return Rows{buffer, columns, job.x.type}; }

static Projection product(const Matrix *w, Rows y) {
  Projection projection = {};
  projection.w = w, projection.alpha = 1, projection.y = y;
  return projection;
}

static void multiply(const ExpertJob &job, const Projection *projections, int count, Rows x) {
  (job.in_int8 ? cuda_linear_forward_int8 : cuda_linear_forward)(projections, count, x, job.rows, job.backend);
}

// G, U and H of the rows.
static void run_gate(const ExpertJob &job, int64_t e) {
  const ExpertMatrices *experts = job.experts;
  const ExpertScratch &scratch = job.scratch;
  gather_tokens(job, scratch.x, job.x);
  Projection gated[2] = {product(&experts->gate[e], buffer_rows(job, scratch.gate, experts->width)),
                         product(&experts->up[e], buffer_rows(job, scratch.up, experts->width))};
  multiply(job, gated, 2, buffer_rows(job, scratch.x, experts->hidden));
  cuda_gated_forward(scratch.h, scratch.gate, scratch.up, job.x.type, job.rows * experts->width, experts->activation, job.backend);
}

static void forward_part(const ExpertJob &job, int64_t e) {
  const ExpertMatrices *experts = job.experts;
  run_gate(job, e);
  Projection down = product(&experts->down[e], rows_f32(job.scratch.sum, experts->hidden));
  multiply(job, &down, 1, buffer_rows(job, job.scratch.h, experts->width));
  add_tokens(job, job.y, job.weights);
}

static void backward_part(const ExpertJob &job, int64_t e) {
  const ExpertMatrices *experts = job.experts;
  const ExpertScratch &scratch = job.scratch;
  int64_t width = experts->width;
  run_gate(job, e);
  gather_tokens(job, scratch.dy, job.dy);
  Projection down = product(&experts->down[e], buffer_rows(job, scratch.dy, experts->hidden));
  cuda_linear_backward(rows_f32(scratch.t, width), &down, 1, job.rows, false, job.backend);
  weigh_rows(job);
  cuda_gated_backward(scratch.gate, scratch.up, scratch.dh, scratch.gate, scratch.up, job.x.type, job.rows * width, experts->activation,
                      job.backend);
  Projection gated[2] = {product(&experts->gate[e], buffer_rows(job, scratch.gate, width)),
                         product(&experts->up[e], buffer_rows(job, scratch.up, width))};
  cuda_linear_backward(rows_f32(scratch.sum, experts->hidden), gated, 2, job.rows, false, job.backend);
  add_tokens(job, job.dx, nullptr);
}

// The places of chosen in the order of experts; those of one expert stay in theirs. starts[experts + 1]: where each one's begin.
static void order_by_expert(int32_t *starts, int32_t *order, const int32_t *chosen, int64_t count, int64_t experts) {
  memset(starts, 0, static_cast<size_t>(experts + 1) * sizeof *starts);
  for (int64_t p = 0; p < count; p++) starts[chosen[p] + 1]++;
  for (int64_t e = 0; e < experts; e++) starts[e + 1] += starts[e];
  for (int64_t p = 0; p < count; p++) order[starts[chosen[p]]++] = static_cast<int32_t>(p);
  for (int64_t e = experts; e > 0; e--) starts[e] = starts[e - 1];
  starts[0] = 0;
}

static void run_parts(ExpertJob *job, const int32_t *chosen, int64_t n, float *scratch, void (*part)(const ExpertJob &job, int64_t e)) {
  int64_t experts = job->experts->experts, count = n * job->experts->used;
  job->device = device_of(job->backend);
  job->scratch = scratch_in(scratch, n, job->experts);
  int32_t *numbers = static_cast<int32_t *>(memory_new(static_cast<size_t>(2 * count + experts + 1), sizeof *numbers));
  int32_t *order = numbers + count, *starts = order + count;
  job->backend->download(numbers, chosen, count * static_cast<int64_t>(sizeof *numbers), job->backend);
  if (job->device->error == cudaSuccess) {
    order_by_expert(starts, order, numbers, count, experts);
    job->backend->upload(job->scratch.order, order, count * static_cast<int64_t>(sizeof *order), job->backend);
    for (int64_t e = 0; e < experts; e++)
      for (int64_t first = starts[e]; first < starts[e + 1]; first += job->rows) {
        int64_t left = starts[e + 1] - first;
        job->places = job->scratch.order + first;
        job->rows = left < most_rows(n) ? left : most_rows(n);
        part(*job, e);
      }
  }
  free(numbers);
}

void cuda_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                          bool in_int8, float *scratch, Backend *backend) {
  if (n == 0) return;
  ExpertJob job = {};
  job.experts = experts, job.x = x, job.y = y, job.weights = weights, job.in_int8 = in_int8, job.backend = backend;
  run_parts(&job, chosen, n, scratch, forward_part);
}

void cuda_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                           const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  if (n == 0) return;
  float *rows = static_cast<float *>(dx.data);
  if (!accumulate && dx.step == experts->hidden) cuda_fill(rows, 0, n * experts->hidden, backend);
  for (int64_t i = 0; i < n && !accumulate && dx.step != experts->hidden; i++) cuda_fill(rows + i * dx.step, 0, experts->hidden, backend);
  ExpertJob job = {};
  job.experts = experts, job.x = x, job.dx = dx, job.dy = dy, job.weights = weights, job.dweights = dweights, job.backend = backend;
  run_parts(&job, chosen, n, scratch, backward_part);
}
