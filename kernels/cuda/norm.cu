// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019) of rows (kernels/norm.h), with m = offset + weight:
//   r = 1 / sqrt(mean((x - mean)^2) + epsilon),  z = (x - mean) r,  y = z m + bias + residual
//   dx (+)= r (g - mean(g) - z mean(g z)),       g = dy m
// A row is a warp's when it is short, else a block's, and lies in registers between its sums: memory is read once. Rows that are too long
// for that, or in places where packets cannot be moved, are read again for each sum.
#include "kernels/cuda/elements.h"

enum { HELD = 4, MOST_THREADS = 512, ROWS_A_BLOCK = THREADS / WARP };

// Rows by their type as it is known at run time: one element at a time.
struct AnyRows {
  Rows rows;
  static constexpr int N = 1;
  struct Held {
    float value;
    __device__ float get(int) const { return value; }
  };
  __device__ Held load(int64_t row, int64_t c) const {
    int64_t at = row * rows.step + c;
    if (rows.type == FLOAT_32) return {static_cast<const float *>(rows.data)[at]};
    if (rows.type == FLOAT_BF16) return {to_float(static_cast<const bf16 *>(rows.data)[at])};
    return {to_float(static_cast<const fp16 *>(rows.data)[at])};
  }
  __device__ void store(int64_t row, int64_t c, const float (&values)[1]) const {
    int64_t at = row * rows.step + c;
    if (rows.type == FLOAT_32) static_cast<float *>(rows.data)[at] = values[0];
    else if (rows.type == FLOAT_BF16) static_cast<bf16 *>(rows.data)[at] = from_float<bf16>(values[0]);
    else static_cast<fp16 *>(rows.data)[at] = from_float<fp16>(values[0]);
  }
};

// Rows of T in packets of N_ elements.
template <typename T, int N_>
struct PackedRows {
  T *data;
  int64_t step;
  static constexpr int N = N_;
  struct Held {
    Elements<T, N_> elements;
    __device__ float get(int i) const { return to_float(elements.at[i]); }
  };
  __device__ Held load(int64_t row, int64_t c) const { return {load_elements<N_>(data + row * step + c)}; }
  __device__ void store(int64_t row, int64_t c, const float (&values)[N_]) const {
    store_floats<N_>(data + row * step + c, values, N_, true);
  }
};

// The threads of a row, and the sums that they make together.
template <bool IS_WARP>
struct Team {
  float *room;
  __device__ int64_t row() const { return IS_WARP ? static_cast<int64_t>(blockIdx.x) * ROWS_A_BLOCK + threadIdx.x / WARP : blockIdx.x; }
  __device__ int index() const { return static_cast<int>(IS_WARP ? threadIdx.x % WARP : threadIdx.x); }
  __device__ int size() const { return IS_WARP ? int(WARP) : static_cast<int>(blockDim.x); }
  __device__ float sum(float x) const { return IS_WARP ? warp_sum(x) : block_sum(x, room); }
};

// This thread's packets of a row, in registers; or read anew each time (COUNT 0). each(use): use(c, k) for packet k, from column c on, which
// at(c, k) gives.
template <typename Source, int COUNT>
struct HeldRow {
  static constexpr int N = Source::N;
  typename Source::Held packets[COUNT ? COUNT : 1];
  const Source &source;
  int64_t row, first, step, columns;
  template <typename T>
  __device__ HeldRow(const Source &from, int64_t of_row, const T &team, int64_t all)
      : source(from),
        row(of_row),
        first(static_cast<int64_t>(team.index()) * Source::N),
        step(static_cast<int64_t>(team.size()) * Source::N),
        columns(all) {
    if constexpr (COUNT > 0) each([&](int64_t c, int k) { packets[k] = source.load(row, c); });
  }
  template <typename Use>
  __device__ void each(Use use) const {
    if constexpr (COUNT == 0) {
      for (int64_t c = first; c < columns; c += step) use(c, 0);
    } else {
      UNROLL for (int k = 0; k < COUNT; k++) if (first + k * step < columns) use(first + k * step, k);
    }
  }
  __device__ typename Source::Held at(int64_t c, int k) const { return COUNT ? packets[k] : source.load(row, c); }
};

struct Moments {
  float mean, r;
};

template <typename Row, typename Sums>
__device__ __forceinline__ Moments row_moments(const Row &x, const Sums &team, const NormSettings &norm) {
  float sum = 0, mean = 0, squares = 0, columns = static_cast<float>(norm.columns);
  if (norm.is_centered) {
    x.each([&](int64_t c, int k) {
      auto packet = x.at(c, k);
      UNROLL for (int i = 0; i < Row::N; i++) sum += packet.get(i);
    });
    mean = team.sum(sum) / columns;
  }
  x.each([&](int64_t c, int k) {
    auto packet = x.at(c, k);
    UNROLL for (int i = 0; i < Row::N; i++) {
      float distance = packet.get(i) - mean;
      squares = fmaf(distance, distance, squares);
    }
  });
  return {mean, 1 / sqrtf(team.sum(squares) / columns + norm.epsilon)};
}

template <bool IS_WARP, int COUNT, typename Out, typename In, typename Added>
__global__ void __launch_bounds__(MOST_THREADS)
    norm_forward_kernel(Out y, In x, Added residual, bool has_residual, NormSettings norm, int64_t n) {
  SHARED(float, room, [WARP]);
  constexpr int N = In::N;
  Team<IS_WARP> team = {room};
  int64_t row = team.row();
  if (IS_WARP && row >= n) return;
  HeldRow<In, COUNT> held(x, row, team, norm.columns);
  Moments moments = row_moments(held, team, norm);
  held.each([&](int64_t c, int k) {
    auto packet = held.at(c, k);
    Elements<float, N> weights = load_elements<N>(norm.weight + c);
    float values[N];
    UNROLL for (int i = 0; i < N; i++) values[i] = (packet.get(i) - moments.mean) * moments.r * (norm.offset + weights.at[i]);
    if (norm.bias) {
      Elements<float, N> biases = load_elements<N>(norm.bias + c);
      UNROLL for (int i = 0; i < N; i++) values[i] += biases.at[i];
    }
    if (has_residual) {
      auto added = residual.load(row, c);
      UNROLL for (int i = 0; i < N; i++) values[i] += added.get(i);
    }
    y.store(row, c, values);
  });
}

template <bool IS_WARP, int COUNT, typename Out, typename Gradient, typename In>
__global__ void __launch_bounds__(MOST_THREADS)
    norm_backward_kernel(Out dx, Gradient dy, In x, NormSettings norm, int64_t n, bool accumulate) {
  SHARED(float, room, [WARP]);
  constexpr int N = In::N;
  Team<IS_WARP> team = {room};
  int64_t row = team.row();
  if (IS_WARP && row >= n) return;
  HeldRow<In, COUNT> held(x, row, team, norm.columns);
  HeldRow<Gradient, COUNT> gradients(dy, row, team, norm.columns);
  Moments moments = row_moments(held, team, norm);
  float sum_g = 0, sum_gz = 0, columns = static_cast<float>(norm.columns);
  held.each([&](int64_t c, int k) {
    auto packet = held.at(c, k);
    auto gradient = gradients.at(c, k);
    Elements<float, N> weights = load_elements<N>(norm.weight + c);
    UNROLL for (int i = 0; i < N; i++) {
      float g = gradient.get(i) * (norm.offset + weights.at[i]);
      sum_g += g;
      sum_gz = fmaf(g, (packet.get(i) - moments.mean) * moments.r, sum_gz);
    }
  });
  float mean_g = norm.is_centered ? team.sum(sum_g) / columns : 0, mean_gz = team.sum(sum_gz) / columns;
  held.each([&](int64_t c, int k) {
    auto packet = held.at(c, k);
    auto gradient = gradients.at(c, k);
    Elements<float, N> weights = load_elements<N>(norm.weight + c);
    float values[N];
    UNROLL for (int i = 0; i < N; i++) {
      float g = gradient.get(i) * (norm.offset + weights.at[i]), z = (packet.get(i) - moments.mean) * moments.r;
      values[i] = moments.r * (g - mean_g - z * mean_gz);
    }
    if (accumulate) {
      auto before = dx.load(row, c);
      UNROLL for (int i = 0; i < N; i++) values[i] += before.get(i);
    }
    dx.store(row, c, values);
  });
}

static bool is_packed(Rows rows, int packet) {
  int64_t bytes = packet * float_bytes(rows.type);
  return reinterpret_cast<uintptr_t>(rows.data) % (bytes < 16 ? bytes : 16) == 0 && rows.step % packet == 0;
}

// Whether rows can be held in packets, and the weights read so.
static bool is_held(const NormSettings *norm, int packet) {
  return norm->columns % packet == 0 && norm->columns / packet <= HELD * MOST_THREADS && is_aligned(norm->weight, norm->bias);
}

// Starts a kernel by the width of its rows, which are of so many packets.
template <typename Short, typename Long, typename... Arguments>
static void launch_norm(Device *device, Short of_warps, Long of_blocks, int64_t packets, int64_t n, Arguments... arguments) {
  if (packets <= HELD * WARP) LAUNCH(device, of_warps, blocks_for(n, ROWS_A_BLOCK), THREADS, 0, arguments...);
  else LAUNCH(device, of_blocks, static_cast<unsigned>(n), whole_warps((packets + HELD - 1) / HELD, MOST_THREADS), 0, arguments...);
}

template <int COUNT, typename Out, typename In, typename Added>
static void start_forward(Device *device, Out y, In x, Added residual, bool has_residual, const NormSettings *norm, int64_t n) {
  auto of_warps = norm_forward_kernel<true, COUNT, Out, In, Added>;
  auto of_blocks = norm_forward_kernel<false, COUNT, Out, In, Added>;
  launch_norm(device, of_warps, of_blocks, norm->columns / In::N, n, y, x, residual, has_residual, *norm, n);
}

template <int COUNT, typename Out, typename Gradient, typename In>
static void start_backward(Device *device, Out dx, Gradient dy, In x, const NormSettings *norm, int64_t n, bool accumulate) {
  auto of_warps = norm_backward_kernel<true, COUNT, Out, Gradient, In>;
  auto of_blocks = norm_backward_kernel<false, COUNT, Out, Gradient, In>;
  launch_norm(device, of_warps, of_blocks, norm->columns / In::N, n, dx, dy, x, *norm, n, accumulate);
}

template <int N, typename T>
static PackedRows<T, N> packed(Rows rows) {
  return {static_cast<T *>(rows.data), rows.step};
}

void cuda_norm_forward(Rows y, Rows x, Rows residual, const NormSettings *norm, int64_t n, Backend *backend) {
  Device *device = device_of(backend);
  bool has_residual = residual.data != nullptr;
  int packet = x.type == FLOAT_32 || y.type == FLOAT_32 ? 4 : 8;
  if (n == 0) return;
  if (!is_held(norm, packet) || !is_packed(x, packet) || !is_packed(y, packet) || (has_residual && !is_packed(residual, packet))) {
    start_forward<0>(device, AnyRows{y}, AnyRows{x}, AnyRows{residual}, has_residual, norm, n);
    return;
  }
  with_types(y.type, x.type, [&](auto y_element, auto x_element) {
    using Y = decltype(y_element);
    using X = decltype(x_element);
    constexpr int N = PACKET<Y, X>;
    start_forward<HELD>(device, packed<N, Y>(y), packed<N, X>(x), packed<N, float>(residual), has_residual, norm, n);
  });
}

void cuda_norm_backward(Rows dx, Rows dy, Rows x, const NormSettings *norm, int64_t n, bool accumulate, Backend *backend) {
  Device *device = device_of(backend);
  int packet = dx.type == FLOAT_32 || dy.type == FLOAT_32 || x.type == FLOAT_32 ? 4 : 8;
  if (n == 0) return;
  if (!is_held(norm, packet) || !is_packed(dx, packet) || !is_packed(dy, packet) || !is_packed(x, packet)) {
    start_backward<0>(device, AnyRows{dx}, AnyRows{dy}, AnyRows{x}, norm, n, accumulate);
    return;
  }
  with_types(dx.type, dy.type, x.type, [&](auto dx_element, auto dy_element, auto x_element) {
    using DX = decltype(dx_element);
    using DY = decltype(dy_element);
    using X = decltype(x_element);
    constexpr int N = PACKET<DX, DY, X>;
    start_backward<HELD>(device, packed<N, DX>(dx), packed<N, DY>(dy), packed<N, X>(x), norm, n, accumulate);
  });
}

// Sums over rows: a block adds up some rows of WARP columns, its warps a row each at a time; the parts of all blocks are added in order by a
// second kernel. With moments, of dy z, z = (x - mean) r; else of dy alone.
enum { SUM_WARPS = THREADS / WARP, PART_ROWS = 128, MOST_PARTS = 64 };

__global__ void __launch_bounds__(THREADS) moments_kernel(Moments *moments, AnyRows x, NormSettings norm, int64_t n) {
  SHARED(float, room, [WARP]);
  Team<true> team = {room};
  int64_t row = team.row();
  if (row >= n) return;
  HeldRow<AnyRows, 0> held(x, row, team, norm.columns);
  Moments own = row_moments(held, team, norm);
  if (team.index() == 0) moments[row] = own;
}

__global__ void __launch_bounds__(THREADS)
    column_parts_kernel(float *parts, AnyRows dy, AnyRows x, const Moments *moments, int64_t columns, int64_t n, int64_t part_rows) {
  SHARED(float, room, [SUM_WARPS][WARP]);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x % WARP;
  const int64_t begin = blockIdx.y * part_rows, end = begin + part_rows < n ? begin + part_rows : n;
  float sum = 0;
  for (int64_t i = begin + threadIdx.x / WARP; i < end && column < columns; i += SUM_WARPS) {
    float z = moments ? (x.load(i, column).value - moments[i].mean) * moments[i].r : 1;
    sum = fmaf(dy.load(i, column).value, z, sum);
  }
  room[threadIdx.x / WARP][threadIdx.x % WARP] = sum;
  __syncthreads();
  if (threadIdx.x >= WARP || column >= columns) return;
  for (int w = 1; w < SUM_WARPS; w++) sum += room[w][threadIdx.x];
  parts[blockIdx.y * columns + column] = sum;
}

__global__ void __launch_bounds__(THREADS) add_parts_kernel(float *sums, const float *parts, int64_t columns, int64_t count) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (column >= columns) return;
  float sum = sums[column];
  for (int64_t p = 0; p < count; p++) sum += parts[p * columns + column];
  sums[column] = sum;
}

// norm NULL: the sums of dy.
static void sum_columns(float *sums, Rows dy, Rows x, const NormSettings *norm, int64_t columns, int64_t n, Device *device) {
  if (n == 0 || columns == 0) return;
  int64_t rows = round_up((n + MOST_PARTS - 1) / MOST_PARTS, PART_ROWS), count = (n + rows - 1) / rows;
  int64_t part_bytes = round_up(count * columns * static_cast<int64_t>(sizeof(float)), 16);
  int64_t bytes = part_bytes + (norm ? n * static_cast<int64_t>(sizeof(Moments)) : 0);
  char *room = static_cast<char *>(device_workspace(device, WORKSPACE_PARTS, bytes));
  if (!room) return;
  float *parts = reinterpret_cast<float *>(room);
  Moments *moments = norm ? reinterpret_cast<Moments *>(room + part_bytes) : NULL;
  if (norm) LAUNCH(device, moments_kernel, blocks_for(n, ROWS_A_BLOCK), THREADS, 0, moments, AnyRows{x}, *norm, n);
  dim3 grid(blocks_for(columns, WARP), static_cast<unsigned>(count));
  LAUNCH(device, column_parts_kernel, grid, THREADS, 0, parts, AnyRows{dy}, AnyRows{x}, moments, columns, n, rows);
  LAUNCH(device, add_parts_kernel, blocks_for(columns, THREADS), THREADS, 0, sums, parts, columns, count);
}

void cuda_norm_weight_backward(float *dw, Rows dy, Rows x, const NormSettings *norm, int64_t n, Backend *backend) {
  sum_columns(dw, dy, x, norm, norm->columns, n, device_of(backend));
}

void cuda_column_sums(float *sums, Rows x, int64_t columns, int64_t n, Backend *backend) {
  sum_columns(sums, x, Rows{}, NULL, columns, n, device_of(backend));
}
