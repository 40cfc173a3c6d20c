// The first few logits of each row (sampling.h). A logit and its id are one number of 64 bits whose order is theirs, the largest first:
//   key = (bits of the logit, turned so that their order is the logits') * 2^32 + (2^32 - 1 - id)
// For one candidate, blocks take the largest of parts of a row, and one block the largest of those. For k of them, blocks sort pieces of
// SORTED keys and leave each the first k; that is repeated until one piece is a row's. All of it is exact, and the same each time.
#include "kernels/cuda/sampling.h"

#include "kernels/cuda/elements.h"

enum { SORTED = 4 * CANDIDATES_MOST, SORT_THREADS = 512, PART_COLUMNS = 8192 };

__device__ __forceinline__ uint64_t logit_key(float logit, uint32_t id) {
  uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  uint32_t order = isnan(logit) ? 0xffffffffu : bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(order) << 32 | (0xffffffffu - id);
}
__device__ __forceinline__ uint32_t key_id(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// The largest over a block of THREADS, for thread 0. `room` is a key a warp.
__device__ __forceinline__ uint64_t block_largest(uint64_t key, uint64_t *room) {
  for (int step = WARP / 2; step; step /= 2) {
    uint32_t high = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(key >> 32), step);
    uint32_t low = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(key), step);
    uint64_t other = static_cast<uint64_t>(high) << 32 | low;
    key = other > key ? other : key;
  }
  if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = key;
  __syncthreads();
  for (int warp = 0; threadIdx.x == 0 && warp < THREADS / WARP; warp++) key = room[warp] > key ? room[warp] : key;
  return key;
}

// parts[row, gridDim.x]: the largest of each PART_COLUMNS of a row.
__global__ void __launch_bounds__(THREADS) part_largest_kernel(uint64_t *parts, const float *logits, int64_t vocabulary, bool is_packed) {
  SHARED(uint64_t, room, [THREADS / WARP]);
  constexpr int N = PACKET<float>;
  const float *row = logits + blockIdx.y * vocabulary;
  int64_t first = static_cast<int64_t>(blockIdx.x) * PART_COLUMNS,
          end = first + PART_COLUMNS < vocabulary ? first + PART_COLUMNS : vocabulary;
  uint64_t largest = 0;  // below every key: no id is so high
  for (int64_t c = first + threadIdx.x * N; c < end; c += THREADS * N) {
    float values[N];
    load_floats<N>(values, row + c, end - c, is_packed);
    UNROLL for (int i = 0; i < N; i++) {
      uint64_t key = c + i < end ? logit_key(values[i], static_cast<uint32_t>(c + i)) : 0;
      largest = key > largest ? key : largest;
    }
  }
  largest = block_largest(largest, room);
  if (threadIdx.x == 0) parts[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = largest;
}

__device__ __forceinline__ void put_candidate(float *values, int32_t *ids, int64_t at, const float *row, uint64_t key) {
  ids[at] = static_cast<int32_t>(key_id(key));
  if (values) values[at] = row[key_id(key)];
}

__global__ void __launch_bounds__(THREADS)
    row_largest_kernel(float *values, int32_t *ids, const uint64_t *parts, int count, const float *logits, int64_t vocabulary) {
  SHARED(uint64_t, room, [THREADS / WARP]);
  uint64_t largest = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) {
    uint64_t key = parts[static_cast<int64_t>(blockIdx.x) * count + i];
    largest = key > largest ? key : largest;
  }
  largest = block_largest(largest, room);
  if (threadIdx.x == 0) put_candidate(values, ids, blockIdx.x, logits + blockIdx.x * vocabulary, largest);
}

extern "C" void cuda_arg_max(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, Backend *backend) {
  Device *device = device_of(backend);
  if (rows == 0) return;
  unsigned count = blocks_for(vocabulary, PART_COLUMNS);
  int64_t bytes = rows * count * static_cast<int64_t>(sizeof(uint64_t));
  uint64_t *parts = static_cast<uint64_t *>(device_workspace(device, WORKSPACE_PARTS, bytes));
  if (!parts) return;
  LAUNCH(device, part_largest_kernel, dim3(count, static_cast<unsigned>(rows)), THREADS, 0, parts, logits, vocabulary,
         is_aligned(logits) && vocabulary % PACKET<float> == 0);
  LAUNCH(device, row_largest_kernel, static_cast<unsigned>(rows), THREADS, 0, values, ids, parts, static_cast<int>(count), logits,
         vocabulary);
}

// Sorts keys[count], a power of 2, the largest first, by a block of SORT_THREADS (Batcher 1968, bitonic).
__device__ __forceinline__ void sort_keys(uint64_t *keys, int count) {
  for (int size = 2; size <= count; size *= 2)
    for (int step = size / 2; step; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < count / 2; i += SORT_THREADS) {
        int low = (i & ~(step - 1)) * 2 + (i & (step - 1)), high = low + step;
        uint64_t a = keys[low], b = keys[high];
        if ((a < b) == ((low & size) == 0)) keys[low] = b, keys[high] = a;
      }
    }
  __syncthreads();
}

static __host__ __device__ inline int sorted_size(int64_t count) {
  int size = 2;
  while (size < count && size < SORTED) size *= 2;
  return size;
}

// One pass: from keys[rows, count], or from the logits themselves (keys NULL), `next`[rows, pieces * k]; or the candidates from the last pass,
// of one piece a row (next NULL). Places beyond a row's end are 0, which is below every key.
__global__ void __launch_bounds__(SORT_THREADS) sort_pieces_kernel(uint64_t *next, float *values, int32_t *ids, const uint64_t *keys,
                                                                   int64_t count, const float *logits, int64_t vocabulary, int k) {
  DYNAMIC_SHARED(uint64_t, piece);
  const float *row = logits + blockIdx.y * vocabulary;
  int64_t first = static_cast<int64_t>(blockIdx.x) * SORTED;
  int size = sorted_size(count);
  for (int i = threadIdx.x; i < size; i += SORT_THREADS) {
    int64_t at = first + i;
    uint64_t key = 0;
    if (at < count) key = keys ? keys[blockIdx.y * count + at] : logit_key(row[at], static_cast<uint32_t>(at));
    piece[i] = key;
  }
  sort_keys(piece, size);
  for (int i = threadIdx.x; i < k; i += SORT_THREADS) {
    if (next) next[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * k + i] = i < size ? piece[i] : 0;
    else put_candidate(values, ids, static_cast<int64_t>(blockIdx.y) * k + i, row, piece[i]);
  }
}

extern "C" void cuda_top_candidates(float *values, int32_t *ids, const float *logits, int64_t rows, int64_t vocabulary, int64_t k,
                                    Backend *backend) {
  Device *device = device_of(backend);
  if (rows == 0) return;
  if (k == 1) {
    cuda_arg_max(values, ids, logits, rows, vocabulary, backend);
    return;
  }
  int64_t most = rows * blocks_for(vocabulary, SORTED) * k, count = vocabulary;
  uint64_t *room = static_cast<uint64_t *>(device_workspace(device, WORKSPACE_PARTS, 2 * most * static_cast<int64_t>(sizeof *room)));
  if (!room) return;
  const uint64_t *keys = nullptr;
  for (uint64_t *next = room;; next = next == room ? room + most : room) {
    unsigned pieces = blocks_for(count, SORTED);
    LAUNCH(device, sort_pieces_kernel, dim3(pieces, static_cast<unsigned>(rows)), SORT_THREADS, sorted_size(count) * sizeof(uint64_t),
           pieces > 1 ? next : static_cast<uint64_t *>(nullptr), values, ids, keys, count, logits, vocabulary, static_cast<int>(k));
    if (pieces == 1) return;
    keys = next, count = pieces * k;
  }
}
