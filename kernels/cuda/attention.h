// What the forward and the backward pass of attention (kernels/attention.h) share on a CUDA device: who sees whom, tiles of work, tiles of
// rows in shared memory, and the two products of flash attention (Dao et al. 2022; Dao 2023), own x others^T and weights x others, for
// 16-bit elements by tensor cores and for float32 by ordinary arithmetic.
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"

// Loops over registers have to be unrolled whole: an index that is not constant would put the array into local memory.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define ROLL _Pragma("unroll 1")
#else
#define ROLL
#define UNROLL
#endif

static constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

// What a block works on: some rows of one span, from `first` on, counted from the span's first. A row is a query and a head (below) or a key.
typedef struct AttentionTile {
  AttentionSpan span;
  int64_t first;
} AttentionTile;

// The tiles of `rows` rows that all spans have together, on the device, those with the most work first: rows of queries, `pack` of them a
// query, or of keys. NULL where there are none.
const AttentionTile *attention_tiles(int64_t *count, Device *device, const AttentionSpan *spans, int64_t span_count, int64_t rows,
                                     int64_t pack, bool are_keys, int64_t window);

// The entries of the same names, by our own kernels.
void attention_forward_own(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                           int64_t span_count, const int32_t *query_ends, AttentionShape shape, Device *device);
void attention_backward_own(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                            const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                            const int32_t *query_ends, AttentionShape shape, Device *device);

// Who sees whom. Keys are counted from their span's first.
struct Sight {
  const int32_t *query_ends;  // NULL: the queries are the span's last rows
  int window;  // 0: none
};

// The keys that query i, counted from the span's first, sees: seen_first .. seen_end - 1. Both grow with i.
__device__ __forceinline__ int seen_end(const AttentionSpan &span, int i, const Sight &sight) {
  if (sight.query_ends) return static_cast<int>(sight.query_ends[span.query_begin + i] - span.key_begin);
  return static_cast<int>((span.key_end - span.key_begin) - (span.query_end - span.query_begin)) + i + 1;
}
__device__ __forceinline__ int seen_first(int end, const Sight &sight) { return sight.window > 0 ? max(0, end - sight.window) : 0; }

// The first query that sees less than all of the keys before `key`, counted from the span's first query; the number of queries if none.
__device__ __forceinline__ int first_query_beyond(const AttentionSpan &span, int64_t key, const Sight &sight) {
  int low = 0, high = static_cast<int>(span.query_end - span.query_begin);
  while (low < high) {
    int middle = (low + high) / 2;
    if (seen_end(span, middle, sight) > key) high = middle;
    else low = middle + 1;
  }
  return low;
}

static inline Sight sight_of(const AttentionShape &shape, const int32_t *query_ends) {
  return {query_ends, static_cast<int>(shape.window < INT32_MAX ? shape.window : INT32_MAX)};
}

// Rows of one head, or of `pack` heads that lie beside each other: then row r is head r % pack of query r / pack.
template <typename T>
struct HeadRows {
  T *data;  // of row 0
  int64_t step;  // from a query, or key, to the next
  int pack, size;
  int count;  // there are no more rows
  __device__ __forceinline__ T *at(int row) const { return pack == 1 ? data + row * step : data + row / pack * step + row % pack * size; }
  __device__ __forceinline__ float value(int row, int column) const { return to_float(at(row)[column]); }
};

// Of head `head` of rows first .. end - 1 of a matrix of `heads` heads of `size`.
template <typename T>
__device__ __forceinline__ HeadRows<T> head_rows(T *data, int64_t first, int64_t end, int heads, int head, int pack, int64_t size) {
  int64_t step = heads * size;
  return {data + first * step + head * size, step, pack, static_cast<int>(size), static_cast<int>(end - first) * pack};
}

// 16-bit elements. A tile of rows in shared memory is [rows][COLUMNS], COLUMNS being the heads' size rounded up, with zeros where there is
// nothing; then no product needs to know the true sizes. A row is cut into packets of 16 bytes, and which packet lies where depends on the
// row, so that the eight rows that ldmatrix reads at once, at one column, lie in different banks: rows of a multiple of 128 bytes all
// begin in the same bank, and get their packets by exclusive or with the row; rows of 192 bytes begin in one of two, by turns.

template <int COLUMNS>
__device__ __forceinline__ int tile_place(int row, int packet) {
  constexpr int PACKETS = COLUMNS / 8;
  static_assert(PACKETS % 8 == 0 || PACKETS % 8 == 4, "else packets would leave their row");
  if (PACKETS % 8 == 4) return row * COLUMNS + (packet ^ row / 2 % 4) * 8;
  return row * COLUMNS + packet / 8 * 64 + (packet % 8 ^ row % 8) * 8;  // so that places 64 columns apart need one register
}

// Begins to copy rows first .. first + count - 1 into a tile, which is there after cp_async_wait and a barrier. All threads.
template <int COLUMNS, typename T>
__device__ __forceinline__ void load_tile(T *tile, const HeadRows<const T> &rows, int first, int count, bool by_packets) {
  constexpr int PACKETS = COLUMNS / 8;
  ROLL for (int i = threadIdx.x; i < count * PACKETS; i += blockDim.x) {
    int row = i / PACKETS, packet = i % PACKETS;
    T *to = tile + tile_place<COLUMNS>(row, packet);
    bool is_row = first + row < rows.count;
    const T *from = rows.at(is_row ? first + row : 0) + packet * 8;
    if (by_packets) {
      bool is_there = is_row && packet * 8 < rows.size;
      cp_async16(to, is_there ? from : rows.data, is_there);
    } else {
      for (int e = 0; e < 8; e++) to[e] = is_row && packet * 8 + e < rows.size ? from[e] : from_float<T>(0);
    }
  }
}

// Fragments of mma_16x8x16 (device.h). Of the left operand: 16 rows of a tile from `row` on, 16 columns.
template <int COLUMNS, typename T>
__device__ __forceinline__ void load_left(uint32_t a[4], const T *tile, int row, int step) {
  int lane = threadIdx.x % WARP;
  ldmatrix_x4(a, tile + tile_place<COLUMNS>(row + lane % 16, 2 * step + lane / 16));
}
// Of the right operand, 16 deep and 16 wide, so two fragments: the transpose of 16 rows of a tile,
template <int COLUMNS, typename T>
__device__ __forceinline__ void load_right_of_rows(uint32_t b[4], const T *tile, int row, int step) {
  int lane = threadIdx.x % WARP;
  ldmatrix_x4(b, tile + tile_place<COLUMNS>(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
}
// and 16 rows of a tile as they are.
template <int COLUMNS, typename T>
__device__ __forceinline__ void load_right(uint32_t b[4], const T *tile, int row, int step) {
  int lane = threadIdx.x % WARP;
  ldmatrix_x4_trans(b, tile + tile_place<COLUMNS>(row + lane % 16, 2 * step + lane / 16));
}

// A warp's sums over 16 rows a BLOCK: sums[block][n] is the fragment of columns 8 n .. 8 n + 7. sums = own x others^T: own rows `row`,
// `row` + 16, ... of one tile, 8 N rows of the other.
template <typename T, int COLUMNS, int BLOCKS, int N>
__device__ __forceinline__ void multiply_rows(float sums[BLOCKS][N][4], const T *own, int row, const T *others) {
  UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < 4; c++)
      sums[block][n][c] = 0;
  UNROLL for (int step = 0; step < COLUMNS / 16; step++) {
    uint32_t a[BLOCKS][4];
    UNROLL for (int block = 0; block < BLOCKS; block++) load_left<COLUMNS>(a[block], own, row + 16 * block, step);
    UNROLL for (int n = 0; n < N; n += 2) {
      uint32_t b[4];
      load_right_of_rows<COLUMNS>(b, others, 8 * n, step);
      UNROLL for (int block = 0; block < BLOCKS; block++) {
        mma_16x8x16<T>(sums[block][n], a[block], b);
        mma_16x8x16<T>(sums[block][n + 1], a[block], b + 2);
      }
    }
  }
}

// sums += weights x others: the weights are a warp's sums as above, rounded to T (what a thread has of them is just what it needs as left
// operand), others 8 N rows of a tile.
template <typename T, int COLUMNS, int BLOCKS, int N>
__device__ __forceinline__ void add_product(float sums[BLOCKS][COLUMNS / 8][4], const float weights[BLOCKS][N][4], const T *others) {
  UNROLL for (int step = 0; step < N / 2; step++) {
    uint32_t a[BLOCKS][4];
    UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int i = 0; i < 4; i++) a[block][i] =
        pack_two<T>(weights[block][2 * step + i / 2][i % 2 * 2], weights[block][2 * step + i / 2][i % 2 * 2 + 1]);
    UNROLL for (int n = 0; n < COLUMNS / 8; n += 2) {
      uint32_t b[4];
      load_right<COLUMNS>(b, others, 16 * step, n / 2);
      UNROLL for (int block = 0; block < BLOCKS; block++) {
        mma_16x8x16<T>(sums[block][n], a[block], b);
        mma_16x8x16<T>(sums[block][n + 1], a[block], b + 2);
      }
    }
  }
}

// Two neighbours of a row of `size`, as one where they can be.
template <typename T>
__device__ __forceinline__ void store_two(T *row, int column, int size, float low, float high, bool by_pairs) {
  if (by_pairs) {
    if (column < size) *reinterpret_cast<uint32_t *>(row + column) = pack_two<T>(low, high);
    return;
  }
  if (column < size) row[column] = from_float<T>(low);
  if (column + 1 < size) row[column + 1] = from_float<T>(high);
}

// tanh, off by some 1e-7 of one.
__device__ __forceinline__ float fast_tanh(float x) { return 1 - __fdividef(2, 1 + exp2f(x * (2 * LOG2_E))); }

// float32. A block of 256 threads, 16 x 16, owns 16 R rows; it sees 64 others at a time. Thread (y, x) has of a product of rows
// R x 4 sums, (R y + i, x + 16 j): then a thread reads R + 4 packets of four floats for 16 R multiply-adds, and those that a quarter of a
// warp reads at once lie in different banks, rows of 32 floats being 36 apart.

enum { FLOAT_THREADS = 256, OTHERS = 64, DEPTH = 32, DEPTH_STEP = DEPTH + 4, WEIGHTS_STEP = OTHERS + 4 };
// Packets of shared memory: for a chunk of both operands; and for weights [16 R][OTHERS], WEIGHTS_STEP floats apart.
template <int R>
struct FloatRoom {
  enum { OPERANDS = (16 * R + OTHERS) * DEPTH_STEP / 4, VALUES = OTHERS * 64 / 4, CHUNK = OPERANDS > VALUES ? OPERANDS : VALUES };
  enum { WEIGHTS = 16 * R * WEIGHTS_STEP / 4 };
};

template <int COLUMNS, typename Others>
__device__ __forceinline__ void load_chunk(float *chunk, int chunk_step, const Others &rows, int first, int count, int column) {
  for (int i = threadIdx.x; i < count * COLUMNS; i += FLOAT_THREADS) {
    int row = i / COLUMNS, c = i % COLUMNS;
    bool is_there = first + row < rows.count && column + c < rows.size;
    chunk[row * chunk_step + c] = is_there ? rows.value(first + row, column + c) : 0;
  }
}

// sums = own x others^T, from rows `own_first` and `other_first` on.
template <int R, typename Others>
__device__ __forceinline__ void multiply_rows_float(float sums[R][4], const HeadRows<const float> &own, int own_first, const Others &others,
                                                    int other_first, float *room) {
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  float *left = room, *right = room + 16 * R * DEPTH_STEP;
  UNROLL for (int i = 0; i < R; i++) UNROLL for (int j = 0; j < 4; j++) sums[i][j] = 0;
  for (int column = 0; column < own.size; column += DEPTH) {
    __syncthreads();
    load_chunk<DEPTH>(left, DEPTH_STEP, own, own_first, 16 * R, column);
    load_chunk<DEPTH>(right, DEPTH_STEP, others, other_first, OTHERS, column);
    __syncthreads();
    for (int c = 0; c < DEPTH; c += 4) {
      Packet<float> a[R], b[4];
      UNROLL for (int i = 0; i < R; i++) a[i] = load_packet(left + (R * y + i) * DEPTH_STEP + c);
      UNROLL for (int j = 0; j < 4; j++) b[j] = load_packet(right + (x + 16 * j) * DEPTH_STEP + c);
      UNROLL for (int i = 0; i < R; i++) UNROLL for (int j = 0; j < 4; j++) UNROLL for (int e = 0; e < 4; e++) sums[i][j] =
          fmaf(a[i].at[e], b[j].at[e], sums[i][j]);
    }
  }
}

// A thread's part of weights [16 R][OTHERS]. A barrier comes before they are read, and has to come after, before the next.
template <int R>
__device__ __forceinline__ void store_weights(float *weights, const float values[R][4]) {
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  UNROLL for (int i = 0; i < R; i++) UNROLL for (int j = 0; j < 4; j++) weights[(R * y + i) * WEIGHTS_STEP + x + 16 * j] = values[i][j];
}

// sums += weights x others, of which chunk k has columns 64 k .. 64 k + 63, the thread's being 4 x .. 4 x + 3 of them. Begins with a
// barrier; `room` is read until the next.
template <int R, int CHUNKS, typename Others>
__device__ __forceinline__ void add_product_float(float sums[CHUNKS][R][4], const float *weights, const Others &others, int other_first,
                                                  float *room) {
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) {
    if (64 * chunk >= others.size) break;
    __syncthreads();
    load_chunk<64>(room, 64, others, other_first, OTHERS, 64 * chunk);
    __syncthreads();
    for (int j = 0; j < OTHERS; j += 4) {
      Packet<float> a[R], b[4];
      UNROLL for (int i = 0; i < R; i++) a[i] = load_packet(weights + (R * y + i) * WEIGHTS_STEP + j);
      UNROLL for (int e = 0; e < 4; e++) b[e] = load_packet(room + (j + e) * 64 + 4 * x);
      UNROLL for (int i = 0; i < R; i++) UNROLL for (int e = 0; e < 4; e++) UNROLL for (int c = 0; c < 4; c++) sums[chunk][i][c] =
          fmaf(a[i].at[e], b[e].at[c], sums[chunk][i][c]);
    }
  }
}

// use(Sizes<HEAD, VALUE>()) with the least sizes of tensor-core kernels that hold those of the heads.
template <int HEAD_SIZE, int VALUE_SIZE>
struct Sizes {
  static constexpr int HEAD = HEAD_SIZE, VALUE = VALUE_SIZE;
};
template <typename Use>
void with_sizes(const AttentionShape &shape, Use use) {
  int64_t head = shape.head_size, value = shape.value_size;
  if (head <= 64 && value <= 64) use(Sizes<64, 64>());
  else if (head <= 96 && value <= 96) use(Sizes<96, 96>());
  else if (head <= 128 && value <= 128) use(Sizes<128, 128>());
  else if (head <= 192 && value <= 128) use(Sizes<192, 128>());
  else use(Sizes<256, 256>());
}
// use(Count<N>()) with the number of chunks of 64 columns that hold `size`: 1, 2 or 4.
template <int N>
struct Count {
  static constexpr int VALUE = N;
};
template <typename Use>
void with_chunks(int64_t size, Use use) {
  if (size <= 64) use(Count<1>());
  else if (size <= 128) use(Count<2>());
  else use(Count<4>());
}

#endif
