// A mixture of experts (kernels/experts.h) by the products and gates of this backend, in one of two ways:
//   many pairs (token, expert), as training has them, go through all experts at once (experts_grouped.cu), and the host waits for nothing;
//   few, as in generation, and matrices of odd sizes, go through one expert after another, here; only the weights of the chosen are read
//   (and all of them where Backend.is_deterministic, for a choice between ways would go by the number of rows).
// Here the choice comes to the host, which orders the pairs by expert, then by token; the rows of one expert, some at a time, are gathered,
// multiplied, and added to their tokens' sums, which so have one order:
//   G, U = x gate^T, x up^T;   H = f(G) * U;   y += weight (H down^T)
//   T = dy down;   dweight = T . H;   dG, dU of weight T;   dx += dG gate + dU up
// G, U, H and their gradients are of x's type, T and the sums float32.
#include "kernels/cuda/experts.h"

#include "kernels/cuda/elements.h"

enum { EXPERT_ROWS = 256, ALIGNED_FLOATS = 16, GROUPED_PAIRS = 256 };

struct ExpertScratch {
  int32_t *order;  // [n * used] places in chosen[n, used]
  float *x, *dy, *sum;  // [rows, hidden]
  float *gate, *up, *h, *t, *dh;  // [rows, width]
};

// One expert after another.
struct ExpertJob {
  ExpertCall call;
  ExpertScratch scratch;
  // The present part of an expert's rows:
  const int32_t *places;  // in chosen
  int64_t rows;
};

static int64_t most_rows(int64_t n) { return n < EXPERT_ROWS ? n : int64_t(EXPERT_ROWS); }

// Sets scratch's places in block (NULL: none) and returns their floats.
static int64_t lay_out(ExpertScratch *scratch, float *block, int64_t n, const ExpertMatrices *experts) {
  int64_t wide = most_rows(n) * experts->hidden, narrow = most_rows(n) * experts->width, total = 0;
  auto take = [&](int64_t floats) {
    float *place = block ? block + total : NULL;
    total += (floats + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
    return place;
  };
  scratch->order = reinterpret_cast<int32_t *>(take(n * experts->used));
  scratch->x = take(wide), scratch->dy = take(wide), scratch->sum = take(wide);
  scratch->gate = take(narrow), scratch->up = take(narrow), scratch->h = take(narrow), scratch->t = take(narrow),
  scratch->dh = take(narrow);
  return total;
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

void experts_gather(void *to, FloatType type, Rows from, const int32_t *places, int64_t rows, const ExpertMatrices *experts,
                    Device *device) {
  with_types(type, from.type, [&](auto to_element, auto from_element) {
    using T = decltype(to_element);
    using F = decltype(from_element);
    auto kernel = gather_tokens_kernel<T, F>;
    int columns = static_cast<int>(experts->hidden);
    bool is_packed = is_aligned(to, from.data) && columns % PACKET<T, F> == 0 && from.step % PACKET<T, F> == 0;
    LAUNCH(device, kernel, static_cast<unsigned>(rows), whole_warps(blocks_for(columns, PACKET<T, F>), THREADS), 0, static_cast<T *>(to),
           static_cast<const F *>(from.data), from.step, places, static_cast<int>(experts->used), columns, is_packed);
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
  int columns = static_cast<int>(job.call.experts->hidden), used = static_cast<int>(job.call.experts->used);
  bool is_packed = is_aligned(to.data, job.scratch.sum) && columns % PACKET<float> == 0 && to.step % PACKET<float> == 0;
  LAUNCH(job.call.device, add_tokens_kernel, static_cast<unsigned>(job.rows), whole_warps(blocks_for(columns, PACKET<float>), THREADS), 0,
         static_cast<float *>(to.data), to.step, job.scratch.sum, weights, job.places, used, columns, is_packed);
}

// dweight = t . h, and dh = weight t, the gradient of H, which may take the place of h: a thread reads what it writes over.
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

void experts_weigh(void *dh, FloatType type, float *dweights, const float *t, const void *h, const float *weights, const int32_t *places,
                   int64_t rows, int64_t width, Device *device) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = weigh_rows_kernel<T>;
    LAUNCH(device, kernel, static_cast<unsigned>(rows), whole_warps(blocks_for(width, PACKET<float>), THREADS), 0, static_cast<T *>(dh),
           dweights, t, static_cast<const T *>(h), weights, places, static_cast<int>(width),
           is_aligned(t, h, dh) && width % PACKET<float> == 0);
  });
}

static Rows buffer_rows(const ExpertJob &job, float *buffer, int64_t columns) { return Rows{buffer, columns, job.call.x.type}; }

static Projection product(const Matrix *w, Rows y) {
  Projection projection = {};
  projection.w = w, projection.alpha = 1, projection.y = y;
  return projection;
}

static void multiply(const ExpertJob &job, const Projection *projections, int count, Rows x) {
  (job.call.in_int8 ? cuda_linear_forward_int8 : cuda_linear_forward)(projections, count, x, job.rows, job.call.backend);
}

// G, U and H of the rows.
static void run_gate(const ExpertJob &job, int64_t e) {
  const ExpertMatrices *experts = job.call.experts;
  const ExpertScratch &scratch = job.scratch;
  FloatType type = job.call.x.type;
  experts_gather(scratch.x, type, job.call.x, job.places, job.rows, experts, job.call.device);
  Projection gated[2] = {product(&experts->gate[e], buffer_rows(job, scratch.gate, experts->width)),
                         product(&experts->up[e], buffer_rows(job, scratch.up, experts->width))};
  multiply(job, gated, 2, buffer_rows(job, scratch.x, experts->hidden));
  cuda_gated_forward(scratch.h, scratch.gate, scratch.up, type, job.rows * experts->width, experts->activation, job.call.backend);
}

static void forward_part(const ExpertJob &job, int64_t e) {
  const ExpertMatrices *experts = job.call.experts;
  run_gate(job, e);
  Projection down = product(&experts->down[e], rows_f32(job.scratch.sum, experts->hidden));
  multiply(job, &down, 1, buffer_rows(job, job.scratch.h, experts->width));
  add_tokens(job, job.call.y, job.call.weights);
}

static void backward_part(const ExpertJob &job, int64_t e) {
  const ExpertCall &call = job.call;
  const ExpertMatrices *experts = call.experts;
  const ExpertScratch &scratch = job.scratch;
  FloatType type = call.x.type;
  int64_t width = experts->width;
  run_gate(job, e);
  experts_gather(scratch.dy, type, call.dy, job.places, job.rows, experts, call.device);
  Projection down = product(&experts->down[e], buffer_rows(job, scratch.dy, experts->hidden));
  cuda_linear_backward(rows_f32(scratch.t, width), &down, 1, job.rows, false, call.backend);
  experts_weigh(scratch.dh, type, call.dweights, scratch.t, scratch.h, call.weights, job.places, job.rows, width, call.device);
  cuda_gated_backward(scratch.gate, scratch.up, scratch.dh, scratch.gate, scratch.up, type, job.rows * width, experts->activation,
                      call.backend);
  Projection gated[2] = {product(&experts->gate[e], buffer_rows(job, scratch.gate, width)),
                         product(&experts->up[e], buffer_rows(job, scratch.up, width))};
  cuda_linear_backward(rows_f32(scratch.sum, experts->hidden), gated, 2, job.rows, false, call.backend);
  add_tokens(job, call.dx, nullptr);
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

static void run_parts(const ExpertCall &call, float *scratch, void (*part)(const ExpertJob &job, int64_t e)) {
  int64_t experts = call.experts->experts, count = call.n * call.experts->used;
  ExpertJob job = {};
  job.call = call;
  lay_out(&job.scratch, scratch, call.n, call.experts);
  int32_t *numbers = static_cast<int32_t *>(memory_new(static_cast<size_t>(2 * count + experts + 1), sizeof *numbers));
  int32_t *order = numbers + count, *starts = order + count;
  call.backend->download(numbers, call.chosen, count * static_cast<int64_t>(sizeof *numbers), call.backend);
  if (call.device->error == cudaSuccess) {
    order_by_expert(starts, order, numbers, count, experts);
    call.backend->upload(job.scratch.order, order, count * static_cast<int64_t>(sizeof *order), call.backend);
    for (int64_t e = 0; e < experts; e++)
      for (int64_t first = starts[e]; first < starts[e + 1]; first += job.rows) {
        int64_t left = starts[e + 1] - first;
        job.places = job.scratch.order + first;
        job.rows = left < most_rows(call.n) ? left : most_rows(call.n);
        part(job, e);
      }
  }
  free(numbers);
}

// Whether every expert is likely to have rows, so that reading the weights of all wastes little; products of 16 bits move 8 elements at
// once.
static bool is_grouped(int64_t n, const ExpertMatrices *experts, const Device *device) {
  if (is_deterministic(device)) return false;
  int64_t fewest = device->thresholds.grouped_pairs;
  if (fewest == 0) fewest = 2 * experts->experts > GROUPED_PAIRS ? 2 * experts->experts : int64_t(GROUPED_PAIRS);
  return n * experts->used >= fewest && experts->hidden % 8 == 0 && experts->width % 8 == 0;
}

int64_t cuda_experts_scratch_floats(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, Backend *backend) {
  const Device *device = device_of(backend);
  ExpertScratch scratch;
  int64_t own = lay_out(&scratch, NULL, n, experts);  // of calls in_int8, too
  int64_t grouped = is_grouped(n, experts, device) ? experts_grouped_floats(n, experts, type, backward, device) : 0;
  return own > grouped ? own : grouped;
}

void cuda_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                          bool in_int8, float *scratch, Backend *backend) {
  if (n == 0) return;
  ExpertCall call = {};
  call.experts = experts, call.n = n, call.chosen = chosen, call.weights = weights, call.in_int8 = in_int8;
  call.x = x, call.y = y, call.device = device_of(backend), call.backend = backend;
  if (!in_int8 && is_grouped(n, experts, call.device)) experts_grouped_forward(call, scratch);
  else run_parts(call, scratch, forward_part);
}

void cuda_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                           const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  if (n == 0) return;
  ExpertCall call = {};
  call.experts = experts, call.n = n, call.chosen = chosen, call.weights = weights, call.dweights = dweights, call.accumulate = accumulate;
  call.x = x, call.dx = dx, call.dy = dy, call.device = device_of(backend), call.backend = backend;
  if (is_grouped(n, experts, call.device)) {
    experts_grouped_backward(call, scratch);
    return;
  }
  float *rows = static_cast<float *>(dx.data);
  if (!accumulate && dx.step == experts->hidden) cuda_fill(rows, 0, n * experts->hidden, backend);
  for (int64_t i = 0; i < n && !accumulate && dx.step != experts->hidden; i++) cuda_fill(rows + i * dx.step, 0, experts->hidden, backend);
  run_parts(call, scratch, backward_part);
}
