// The tiles of product.cu: a block sums a tile of c over a stretch of k, in tensor cores for 16-bit operands (tile_product), in float32
// multiply-adds else (float_product). k runs through tiles of all terms, one after another; where a stretch is not all of k, its sums go to
// `parts`, and sum_parts adds them up in order. Grouped products (product_grouped.cu) run the same kernels, in instances of their own: each
// tile lies within one group of rows, and b is its group's.
#ifndef KERNELS_CUDA_PRODUCT_TILES_H
#define KERNELS_CUDA_PRODUCT_TILES_H

#include "kernels/cuda/product.h"

struct TileTerm {
  const void *a, *b;
  int64_t a_step, b_step, k;
  int end;  // the first tile of k of the next term
  float alpha;
};

// Which groups a launch has, first .. last - 1; b_step: elements from a group's b to the next one's.
struct TileGroups {
  RowGroups rows;
  int first, last;
  int64_t b_step;
};

struct TileArguments {
  int64_t m, n, row_tiles, column_tiles;
  int term_count, output_count, tiles, tiles_per_part;
  TileTerm terms[PRODUCT_TERMS];
  ProductOutput outputs[PRODUCT_OUTPUTS];
  float *parts;  // [parts][m][n], or [parts][n][m]: as the outputs lie; NULL: there is one
  bool along_columns;
  TileGroups groups;  // of grouped products only, which have neither parts nor outputs along columns
};

// x / by of what is not negative; of 64 bits only where it must be.
static __device__ __forceinline__ int64_t quotient(int64_t x, int64_t by) {
  return (x | by) >> 32 ? x / by : static_cast<int64_t>(static_cast<uint32_t>(x) / static_cast<uint32_t>(by));
}

static __device__ __forceinline__ float load_any(const void *data, FloatType type, int64_t at) {
  if (type == FLOAT_32) return static_cast<const float *>(data)[at];
  return type == FLOAT_BF16 ? to_float(static_cast<const bf16 *>(data)[at]) : to_float(static_cast<const fp16 *>(data)[at]);
}
static __device__ __forceinline__ void store_any(void *data, FloatType type, int64_t at, float value) {
  if (type == FLOAT_32) static_cast<float *>(data)[at] = value;
  else if (type == FLOAT_BF16) static_cast<bf16 *>(data)[at] = from_float<bf16>(value);
  else static_cast<fp16 *>(data)[at] = from_float<fp16>(value);
}

// Four values of a type, side by side and aligned to their bytes.
static __device__ __forceinline__ float4 load_four(const void *data, FloatType type, int64_t at) {
  if (type == FLOAT_32) return *reinterpret_cast<const float4 *>(static_cast<const float *>(data) + at);
  uint2 four = *reinterpret_cast<const uint2 *>(static_cast<const uint16_t *>(data) + at);
  float2 low, high;
  if (type == FLOAT_BF16) low = unpack_two<bf16>(four.x), high = unpack_two<bf16>(four.y);
  else low = unpack_two<fp16>(four.x), high = unpack_two<fp16>(four.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
static __device__ __forceinline__ void store_four(void *data, FloatType type, int64_t at, float4 v) {
  uint2 *halves = reinterpret_cast<uint2 *>(static_cast<uint16_t *>(data) + at);
  if (type == FLOAT_32) *reinterpret_cast<float4 *>(static_cast<float *>(data) + at) = v;
  else if (type == FLOAT_BF16) *halves = make_uint2(pack_two<bf16>(v.x, v.y), pack_two<bf16>(v.z, v.w));
  else *halves = make_uint2(pack_two<fp16>(v.x, v.y), pack_two<fp16>(v.z, v.w));
}

// What is stored at (i, j) for this sum.
static __device__ __forceinline__ float finished(const ProductOutput &output, int64_t i, int64_t j, float sum) {
  float value = output.alpha * sum;
  if (output.bias) value += output.bias[j];
  if (output.added.data) value += load_any(output.added.data, output.added.type, i * output.added.step + j);
  if (output.accumulate) value += load_any(output.data, output.type, i * output.row_step + j * output.column_step);
  return value;
}

// Column j of all outputs becomes one of the output that is returned.
static __device__ __forceinline__ const ProductOutput &output_of(const TileArguments &p, int64_t *j) {
  int o = 0;
  while (o + 1 < p.output_count && *j >= p.outputs[o].columns) *j -= p.outputs[o++].columns;
  return p.outputs[o];
}

static __device__ __forceinline__ void put(const TileArguments &p, int64_t i, int64_t j, float sum) {
  const ProductOutput &output = output_of(p, &j);
  store_any(output.data, output.type, i * output.row_step + j * output.column_step, finished(output, i, j, sum));
}

// Four sums, side by side: (i, j + e), or (i + e, j) where outputs lie along columns. Rows from `end` on are not this tile's.
static __device__ __forceinline__ void put_run(const TileArguments &p, int64_t i, int64_t j, int64_t end, const float sums[4]) {
  if (i >= end || j >= p.n) return;
  int64_t left = p.along_columns ? end - i : p.n - j;
  int count = left < 4 ? static_cast<int>(left) : 4;
  if (p.parts) {
    float *to = p.parts + blockIdx.z * p.m * p.n + (p.along_columns ? j * p.m + i : i * p.n + j);
    if (count == 4 && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
      *reinterpret_cast<float4 *>(to) = make_float4(sums[0], sums[1], sums[2], sums[3]);
      return;
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (e < count) to[e] = sums[e];
    return;
  }
  int64_t column = j, down = p.along_columns, right = 1 - down;
  const ProductOutput &output = output_of(p, &column);
  int64_t bytes = output.type == FLOAT_32 ? 4 : 2;
  char *to = static_cast<char *>(output.data) + (i * output.row_step + column * output.column_step) * bytes;
  bool is_whole = count == 4 && (down ? output.row_step : output.column_step) == 1 && (down || column + 4 <= output.columns) &&
                  reinterpret_cast<uintptr_t>(to) % (4 * bytes) == 0;
  if (!is_whole) {
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (e < count) put(p, i + e * down, j + e * right, sums[e]);
    return;
  }
  float v[4];
#pragma unroll
  for (int e = 0; e < 4; e++) v[e] = finished(output, i + e * down, column + e * right, sums[e]);
  store_four(to, output.type, 0, make_float4(v[0], v[1], v[2], v[3]));
}

static __device__ __forceinline__ bool has_fours(const void *data, FloatType type, int64_t step) {
  return step % 4 == 0 && reinterpret_cast<uintptr_t>(data) % (type == FLOAT_32 ? 16 : 8) == 0;
}

// Columns `column` and the next of an output can be stored in fours, one as the other.
static __device__ __forceinline__ bool is_in_fours(const TileArguments &p, const ProductOutput &output, int64_t column, int columns) {
  return !p.parts && !p.along_columns && !output.bias && output.column_step == 1 && column + columns <= output.columns && column % 4 == 0 &&
         has_fours(output.data, output.type, output.row_step) &&
         has_fours(output.added.data, output.added.type, output.added.data ? output.added.step : 0);
}

// What a block computes: rows from `row` on, before `end`, and columns from `column` on, with b that lies b_offset elements further.
struct Tile {
  int64_t row, column, end, b_offset;
};

// Stores LINES lines of sums from shared memory, COLUMNS + 4 floats apart, times alpha, from `row` on: by way of it neighbouring threads
// store what lies side by side. Lines are groups of rows that lie STRIDE apart.
template <int LINES, int COLUMNS, int THREADS, int GROUP, int STRIDE>
static __device__ __forceinline__ void store_lines(const TileArguments &p, const float *room, const Tile &tile, int64_t row, float alpha) {
  constexpr int LINE = COLUMNS + 4;
  int64_t own = tile.column, last = row + (LINES - 1) / GROUP * STRIDE + (LINES - 1) % GROUP;
  const ProductOutput &output = output_of(p, &own);
  if (last < tile.end && is_in_fours(p, output, own, COLUMNS)) {
    constexpr int FOURS = COLUMNS / 4;
    const int x = threadIdx.x % FOURS * 4;
    static_assert(THREADS % FOURS == 0 && LINES % (THREADS / FOURS) == 0, "each thread has one place in its lines");
#pragma unroll 1
    for (int line = threadIdx.x / FOURS; line < LINES; line += THREADS / FOURS) {
      int64_t i = row + line / GROUP * STRIDE + line % GROUP, at = i * output.row_step + own + x;
      float4 v = *reinterpret_cast<const float4 *>(room + line * LINE + x);
      v.x = output.alpha * (alpha * v.x), v.y = output.alpha * (alpha * v.y);
      v.z = output.alpha * (alpha * v.z), v.w = output.alpha * (alpha * v.w);
      if (output.added.data) {
        float4 other = load_four(output.added.data, output.added.type, i * output.added.step + own + x);
        v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
      }
      if (output.accumulate) {
        float4 before = load_four(output.data, output.type, at);
        v.x += before.x, v.y += before.y, v.z += before.z, v.w += before.w;
      }
      store_four(output.data, output.type, at, v);
    }
    return;
  }
#pragma unroll 1
  for (int run = threadIdx.x; run < LINES * COLUMNS / 4; run += THREADS) {
    int line = p.along_columns ? run % (LINES / 4) * 4 : run / (COLUMNS / 4),
        x = p.along_columns ? run / (LINES / 4) : run % (COLUMNS / 4) * 4;
    const float *from = room + line * LINE + x;
    int step = p.along_columns ? LINE : 1;
    float sums[4] = {alpha * from[0], alpha * from[step], alpha * from[2 * step], alpha * from[3 * step]};
    put_run(p, row + line / GROUP * STRIDE + line % GROUP, tile.column + x, tile.end, sums);
  }
}

// Tiles of c are taken in groups of GROUP rows of tiles, so that blocks that run at once share operands in the second cache. False for a
// block of a grouped product that is left without a tile: there are as many blocks as tiles at most.
template <int ROWS, int COLUMNS, bool IS_GROUPED>
static __device__ __forceinline__ bool place_tile(const TileArguments &p, Tile *tile) {
  enum { GROUP = 8 };
  int64_t index = blockIdx.x, per_group = GROUP * p.column_tiles, group = quotient(index, per_group), first = group * GROUP;
  int64_t left = p.row_tiles - first, rows = left < GROUP ? left : static_cast<int64_t>(GROUP);
  index -= group * per_group;
  tile->column = quotient(index, rows);
  tile->row = first + index - tile->column * rows;
  tile->column *= COLUMNS;
  if (!IS_GROUPED) {
    tile->row *= ROWS, tile->end = p.m, tile->b_offset = 0;
    return true;
  }
  const TileGroups &groups = p.groups;
  int64_t at = groups.rows.tile_starts[groups.first] + tile->row;
  if (at >= groups.rows.tile_starts[groups.last]) return false;
  RowTile rows_of = groups.rows.tiles[at];
  tile->row = rows_of.first, tile->end = rows_of.end, tile->b_offset = (rows_of.group - groups.first) * groups.b_step;
  return true;
}

// A place in the tiles of k: those of all terms, in order.
struct TileOfK {
  int tile, term;
  int64_t k;  // the first of the tile
};
static __device__ __forceinline__ TileOfK tile_of_k(const TileArguments &p, int tile, int width) {
  TileOfK at = {tile, 0, 0};
  int first = 0;
  while (at.term + 1 < p.term_count && tile >= p.terms[at.term].end) first = p.terms[at.term++].end;
  at.k = static_cast<int64_t>(tile - first) * width;
  return at;
}
static __device__ __forceinline__ void step_of_k(const TileArguments &p, TileOfK *at, int width) {
  at->tile++, at->k += width;
  if (at->term + 1 < p.term_count && at->tile >= p.terms[at->term].end) at->term++, at->k = 0;
}

// Tensor cores. A tile of an operand has 32 of k. Where k runs along rows, rows of the tile are 4 packets, else EXTENT / 8 packets for each
// k; packets change places by the row, so that the eight that ldmatrix reads at once lie in different banks.
enum { TILE_K = 32 };

template <typename T, int EXTENT, bool ALONG_K>
static __device__ __forceinline__ T *tile_packet(T *tile, int extent, int k) {
  constexpr int ACROSS = EXTENT / 8;
  if (ALONG_K) return tile + extent * TILE_K + ((k / 8) ^ (extent / 2 % 4)) * 8;
  return tile + k * EXTENT + ((extent / 8) ^ (ACROSS >= 8 ? k % 8 : k / 2 % 4)) * 8;
}

// Starts the copy of a tile: [first .. first + EXTENT) of `extent`, [k .. k + 32) of `end`; zeros beyond.
template <typename T, int EXTENT, int THREADS, bool ALONG_K>
static __device__ __forceinline__ void load_tile(T *tile, const void *data, int64_t step, int64_t first, int64_t extent, int64_t k,
                                                 int64_t end) {
  constexpr int ACROSS = ALONG_K ? TILE_K / 8 : EXTENT / 8, PACKETS = EXTENT * TILE_K / 8;
  static_assert(PACKETS % THREADS == 0, "each thread copies as many packets");
  const T *from = static_cast<const T *>(data);
#pragma unroll
  for (int i = 0; i < PACKETS / THREADS; i++) {
    int packet = threadIdx.x + i * THREADS, line = packet / ACROSS, column = packet % ACROSS * 8;
    int x = ALONG_K ? line : column, y = ALONG_K ? column : line;
    bool is_there = first + x < extent && k + y < end;
    int64_t at = ALONG_K ? (first + x) * step + k + y : (k + y) * step + first + x;
    cp_async16(tile_packet<T, EXTENT, ALONG_K>(tile, x, y), is_there ? from + at : from, is_there);
  }
}

// A fragment of a[16 rows from `row`][16 of k], and two of b, of 8 columns each, from `column`: see mma_16x8x16.
template <typename T, int EXTENT, bool ALONG_K>
static __device__ __forceinline__ void load_a(uint32_t a[4], T *tile, int row, int k) {
  int lane = threadIdx.x % WARP;
  if (ALONG_K) ldmatrix_x4(a, tile_packet<T, EXTENT, ALONG_K>(tile, row + lane % 16, k + lane / 16 * 8));
  else ldmatrix_x4_trans(a, tile_packet<T, EXTENT, ALONG_K>(tile, row + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8));
}
template <typename T, int EXTENT, bool ALONG_K>
static __device__ __forceinline__ void load_b(uint32_t b[4], T *tile, int column, int k) {
  int lane = threadIdx.x % WARP;
  if (ALONG_K) ldmatrix_x4(b, tile_packet<T, EXTENT, ALONG_K>(tile, column + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
  else ldmatrix_x4_trans(b, tile_packet<T, EXTENT, ALONG_K>(tile, column + lane / 16 * 8, k + lane / 8 % 2 * 8 + lane % 8));
}

// ROWS x COLUMNS of c by WARPS_M x WARPS_N warps.
template <typename T, int ROWS, int COLUMNS, int WARPS_M, int WARPS_N, int STAGES, bool A_ALONG_K, bool B_ALONG_K>
struct TileShape {
  static constexpr int THREADS = WARPS_M * WARPS_N * WARP, M = ROWS / WARPS_M / 16, N = COLUMNS / WARPS_N / 8;
  static constexpr int A_TILE = ROWS * TILE_K, B_TILE = COLUMNS * TILE_K, SHARED_BYTES = STAGES * (A_TILE + B_TILE) * 2;
  static_assert(N % 2 == 0 && M % 2 == 0, "fragments go in pairs");
};

// evidence: threads WARPS_M * WARPS_N * WARP, shared STAGES * (ROWS + COLUMNS) * TILE_K * 2
template <typename T, int ROWS, int COLUMNS, int WARPS_M, int WARPS_N, int STAGES, bool A_ALONG_K, bool B_ALONG_K, bool IS_GROUPED = false>
static __global__ void __launch_bounds__(WARPS_M *WARPS_N *WARP) tile_product(TileArguments p) {
  using Shape = TileShape<T, ROWS, COLUMNS, WARPS_M, WARPS_N, STAGES, A_ALONG_K, B_ALONG_K>;
  constexpr int STAGE = Shape::A_TILE + Shape::B_TILE;
  DYNAMIC_SHARED(T, memory);
  Tile place;
  if (!place_tile<ROWS, COLUMNS, IS_GROUPED>(p, &place)) return;
  int begin = blockIdx.z * p.tiles_per_part, end = begin + p.tiles_per_part < p.tiles ? begin + p.tiles_per_part : p.tiles;
  TileOfK next = tile_of_k(p, begin, TILE_K);
  auto load = [&] {
    const TileTerm &term = p.terms[next.term];
    T *a = memory + (next.tile - begin) % STAGES * STAGE, *b = a + Shape::A_TILE;
    load_tile<T, ROWS, Shape::THREADS, A_ALONG_K>(a, term.a, term.a_step, place.row, place.end, next.k, term.k);
    load_tile<T, COLUMNS, Shape::THREADS, B_ALONG_K>(b, static_cast<const T *>(term.b) + place.b_offset, term.b_step, place.column, p.n,
                                                     next.k, term.k);
    step_of_k(p, &next, TILE_K);
  };
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (next.tile < end) load();
    cp_async_commit();
  }
  const int warp = threadIdx.x / WARP, warp_row = warp / WARPS_N * Shape::M * 16, warp_column = warp % WARPS_N * Shape::N * 8;
  float sums[Shape::M][Shape::N][4] = {};
  int term = tile_of_k(p, begin, TILE_K).term;
  for (int tile = begin; tile < end; tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // the tile is there, and the one before it has been used by all
    if (next.tile < end) load();
    cp_async_commit();
    if (tile >= p.terms[term].end) {  // sums are in units of their term's alpha
      float ratio = p.terms[term].alpha / p.terms[term + 1].alpha;
      term++;
      for (int m = 0; m < Shape::M; m++)
        for (int n = 0; n < Shape::N; n++)
          for (int e = 0; e < 4; e++) sums[m][n][e] *= ratio;
    }
    T *a_tile = memory + (tile - begin) % STAGES * STAGE, *b_tile = a_tile + Shape::A_TILE;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
      uint32_t a[Shape::M][4], b[Shape::N / 2][4];
#pragma unroll
      for (int m = 0; m < Shape::M; m++) load_a<T, ROWS, A_ALONG_K>(a[m], a_tile, warp_row + m * 16, k);
#pragma unroll
      for (int n = 0; n < Shape::N / 2; n++) load_b<T, COLUMNS, B_ALONG_K>(b[n], b_tile, warp_column + n * 16, k);
#pragma unroll
      for (int m = 0; m < Shape::M; m++)
#pragma unroll
        for (int n = 0; n < Shape::N; n++) mma_16x8x16<T>(sums[m][n], a[m], &b[n / 2][n % 2 * 2]);
    }
  }
  const float alpha = p.terms[term].alpha;
  const int lane = threadIdx.x % WARP;
  constexpr int LINE = COLUMNS + 4, LINES = 32 * WARPS_M;  // two fragments of each warp at a time
  static_assert(LINES * LINE * 4 <= Shape::SHARED_BYTES, "sums are stored by way of the operands' memory");
  float *room = reinterpret_cast<float *>(memory);
#pragma unroll
  for (int first = 0; first < Shape::M; first += 2) {
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < Shape::N; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int line = warp / WARPS_N * 32 + m * 16 + half * 8 + lane / 4, x = warp_column + n * 8 + lane % 4 * 2;
          const float *pair = &sums[first + m][n][2 * half];
          *reinterpret_cast<float2 *>(room + line * LINE + x) = make_float2(pair[0], pair[1]);
        }
    __syncthreads();
    store_lines<LINES, COLUMNS, Shape::THREADS, 32, Shape::M * 16>(p, room, place, place.row + first * 16, alpha);
  }
}

// Float32. 256 threads, each with SIDE x SIDE sums of a tile of 16 SIDE; loads are of single floats, which a tile's multiply-adds outweigh.
enum { FLOAT_THREADS = 256, FLOAT_K = 16 };

template <int EXTENT, bool ALONG_K>
static __device__ __forceinline__ void load_floats(float values[EXTENT * FLOAT_K / FLOAT_THREADS], const void *data, int64_t step,
                                                   int64_t first, int64_t extent, int64_t k, int64_t end) {
#pragma unroll
  for (int i = 0; i < EXTENT * FLOAT_K / FLOAT_THREADS; i++) {
    int index = threadIdx.x + i * FLOAT_THREADS, x = ALONG_K ? index / FLOAT_K : index % EXTENT,
        y = ALONG_K ? index % FLOAT_K : index / EXTENT;
    int64_t at = ALONG_K ? (first + x) * step + k + y : (k + y) * step + first + x;
    values[i] = first + x < extent && k + y < end ? static_cast<const float *>(data)[at] : 0;
  }
}
template <int EXTENT, bool ALONG_K>
static __device__ __forceinline__ void keep_floats(float *tile, const float values[EXTENT * FLOAT_K / FLOAT_THREADS]) {
#pragma unroll
  for (int i = 0; i < EXTENT * FLOAT_K / FLOAT_THREADS; i++) {
    int index = threadIdx.x + i * FLOAT_THREADS, x = ALONG_K ? index / FLOAT_K : index % EXTENT,
        y = ALONG_K ? index % FLOAT_K : index / EXTENT;
    tile[y * (EXTENT + 4) + x] = values[i];
  }
}

template <int SIDE, bool A_ALONG_K, bool B_ALONG_K, bool IS_GROUPED = false>
static __global__ void __launch_bounds__(FLOAT_THREADS, 1) float_product(TileArguments p) {
  constexpr int EXTENT = 16 * SIDE, LOADS = EXTENT * FLOAT_K / FLOAT_THREADS, FOURS = SIDE / 4;
  constexpr int LINE = EXTENT + 4, ROOM = FLOAT_K * LINE / 4;
  SHARED(float4, room, [4][ROOM]);  // tiles of a, in turns, and of b
  Tile place;
  if (!place_tile<EXTENT, EXTENT, IS_GROUPED>(p, &place)) return;
  int begin = blockIdx.z * p.tiles_per_part, end = begin + p.tiles_per_part < p.tiles ? begin + p.tiles_per_part : p.tiles;
  float a_next[LOADS], b_next[LOADS], sums[SIDE][SIDE] = {};
  TileOfK next = tile_of_k(p, begin, FLOAT_K);
  auto load = [&] {
    const TileTerm &term = p.terms[next.term];
    load_floats<EXTENT, A_ALONG_K>(a_next, term.a, term.a_step, place.row, place.end, next.k, term.k);
    load_floats<EXTENT, B_ALONG_K>(b_next, static_cast<const float *>(term.b) + place.b_offset, term.b_step, place.column, p.n, next.k,
                                   term.k);
    step_of_k(p, &next, FLOAT_K);
  };
  auto keep = [&](int stage) {
    keep_floats<EXTENT, A_ALONG_K>(reinterpret_cast<float *>(room[stage]), a_next);
    keep_floats<EXTENT, B_ALONG_K>(reinterpret_cast<float *>(room[2 + stage]), b_next);
  };
  int term = next.term;
  load();
  keep(0);
  __syncthreads();
  // A thread's rows are 4 from y and, of the large tile, 4 from y + 64: neighbours read neighbouring packets.
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
  for (int tile = begin; tile < end; tile++) {
    const int stage = (tile - begin) % 2;
    if (tile + 1 < end) load();
    if (tile >= p.terms[term].end) {
      float ratio = p.terms[term].alpha / p.terms[term + 1].alpha;
      term++;
      for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) sums[i][j] *= ratio;
    }
#pragma unroll
    for (int k = 0; k < FLOAT_K; k++) {
      float a[SIDE], b[SIDE];
#pragma unroll
      for (int f = 0; f < FOURS; f++) {
        float4 from_a = room[stage][(k * LINE + y + 64 * f) / 4], from_b = room[2 + stage][(k * LINE + x + 64 * f) / 4];
        a[4 * f] = from_a.x, a[4 * f + 1] = from_a.y, a[4 * f + 2] = from_a.z, a[4 * f + 3] = from_a.w;
        b[4 * f] = from_b.x, b[4 * f + 1] = from_b.y, b[4 * f + 2] = from_b.z, b[4 * f + 3] = from_b.w;
      }
#pragma unroll
      for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
    if (tile + 1 < end) keep(1 - stage);
    __syncthreads();
  }
  const float alpha = p.terms[term].alpha;
#pragma unroll
  for (int f = 0; f < FOURS; f++) {  // the loop ends with a barrier
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < FOURS; j++) {
        const float *four = &sums[4 * f + i][4 * j];
        reinterpret_cast<float4 *>(room)[((y + i) * LINE + x + 64 * j) / 4] = make_float4(four[0], four[1], four[2], four[3]);
      }
    __syncthreads();
    store_lines<64, EXTENT, FLOAT_THREADS, 64, 64>(p, reinterpret_cast<const float *>(room), place, place.row + 64 * f, alpha);
    __syncthreads();
  }
}

#endif
