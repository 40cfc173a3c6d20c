// Causal attention of kernels/attention.h by tiles with the online softmax (Milakov and Gimelshein 2018; Dao 2023). A block owns a tile of
// rows, a row being a query and a head, and goes over the tiles of keys that any of them sees: S = Q K^T, m' = max(m, rowmax S),
// P = exp(scale (S - m')), O <- exp(scale (m - m')) O + P V, and l, the sum of P, likewise; o = O / l, lse = scale m + log l.
// A row is one query of one head. Where the queries of a span are few, the heads that read one KV head are packed into one tile, so that
// its keys are read once for all of them; and where there are fewer tiles than processors, the keys are shared out among several blocks,
// whose O, m and l a second kernel puts together, in one order.
// Prompts in pages (kernels/pages.h) go the same way in float32, with a tile of keys from two pages. There a row's bits are its own: tiles
// begin at the same keys whatever the rows are, those of which it sees nothing leave its sums as they are, and keys are shared out by where
// they stand in the text.
#include <stdlib.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/pages.h"

// The last row of a tile sees this many keys, or the first key is seen by this many queries, where the queries are a span's last rows.
static int64_t tile_work(const AttentionTile *tile, int64_t rows, int64_t pack, bool are_keys, int64_t window) {
  const AttentionSpan *span = &tile->span;
  int64_t queries = span->query_end - span->query_begin, keys = span->key_end - span->key_begin, most = window > 0 ? window + rows : keys;
  if (are_keys) {
    int64_t before = tile->first - (keys - queries), seen_by = queries - (before > 0 ? before : 0);
    return seen_by < most ? seen_by : most;
  }
  int64_t last = (tile->first + rows - 1) / pack, seen = keys - queries + (last < queries - 1 ? last : queries - 1) + 1;
  return seen < most ? seen : most;
}

typedef struct PlannedTile {
  AttentionTile tile;
  int64_t work, index;
} PlannedTile;

static int compare_tiles(const void *a, const void *b) {
  const PlannedTile *x = static_cast<const PlannedTile *>(a), *y = static_cast<const PlannedTile *>(b);
  if (x->work != y->work) return x->work > y->work ? -1 : 1;
  return x->index < y->index ? -1 : 1;
}

const AttentionTile *attention_tiles(int64_t *count, Device *device, const AttentionSpan *spans, int64_t span_count, int64_t rows,
                                     int64_t pack, bool are_keys, int64_t window) {
  *count = 0;
  for (const AttentionSpan *span = spans; span < spans + span_count; span++)
    *count += blocks_for(are_keys ? span->key_end - span->key_begin : (span->query_end - span->query_begin) * pack, rows);
  if (*count == 0) return NULL;
  PlannedTile *plan = static_cast<PlannedTile *>(memory_new(*count, sizeof *plan));
  int64_t n = 0;
  for (const AttentionSpan *span = spans; span < spans + span_count; span++) {
    int64_t all = are_keys ? span->key_end - span->key_begin : (span->query_end - span->query_begin) * pack;
    for (int64_t first = 0; first < all; first += rows, n++) {
      plan[n].tile = {*span, first};
      plan[n].work = tile_work(&plan[n].tile, rows, pack, are_keys, window), plan[n].index = n;
    }
  }
  qsort(plan, n, sizeof *plan, compare_tiles);
  AttentionTile *tiles = static_cast<AttentionTile *>(memory_new(n, sizeof *tiles));
  for (int64_t i = 0; i < n; i++) tiles[i] = plan[i].tile;
  const void *staged = device_stage(device, tiles, n * static_cast<int64_t>(sizeof *tiles));
  free(tiles);
  free(plan);
  return static_cast<const AttentionTile *>(staged);
}

template <typename T>
struct Forward {
  T *o;
  float *lse;
  const T *q, *k, *v;
  const AttentionTile *tiles;
  int heads, kv_heads, pack;  // pack: heads of a tile
  int head_size, value_size;
  float scale, softcap;
  Sight sight;
  bool by_packets;
  float *part_sums;  // [tiles and heads][parts][rows][value_size], NULL: a block has all keys of its rows
  float2 *part_states;  // m and l of them: [tiles and heads][parts][rows]
  int part_tiles;  // of keys, counted from the span's first: those of a part; 0: each tile of rows shares out what it sees
};

// What a block owns: rows of a span, and which tiles of keys.
template <typename T>
struct ForwardBlock {
  const AttentionSpan &span;  // read when needed: registers are dear
  HeadRows<const T> q, k, v;
  int first;  // row
  int head;  // the first, if several
  int kv_head;
  int pack;
  int first_tile, end_tile;
  __device__ __forceinline__ int query(int row) const { return min(first + row, q.count - 1) / pack; }  // rows past the last are like it
};

template <typename T>
__device__ __forceinline__ ForwardBlock<T> forward_block(const Forward<T> &f, int rows, int keys) {
  int head_groups = f.heads / f.pack;
  const AttentionTile &tile = f.tiles[blockIdx.x / head_groups];
  ForwardBlock<T> b = {tile.span};
  b.first = static_cast<int>(tile.first), b.pack = f.pack;
  b.head = static_cast<int>(blockIdx.x % head_groups) * f.pack;
  b.kv_head = b.head / (f.heads / f.kv_heads);
  b.q = head_rows(f.q, b.span.query_begin, b.span.query_end, f.heads, b.head, f.pack, f.head_size);
  b.k = head_rows(f.k, b.span.key_begin, b.span.key_end, f.kv_heads, b.kv_head, 1, f.head_size);
  b.v = head_rows(f.v, b.span.key_begin, b.span.key_end, f.kv_heads, b.kv_head, 1, f.value_size);
  int begin = seen_first(seen_end(b.span, b.query(0), f.sight), f.sight) / keys;
  int count = (seen_end(b.span, b.query(rows - 1), f.sight) + keys - 1) / keys - begin;
  int parts = gridDim.y, part = blockIdx.y;
  b.first_tile = begin + static_cast<int>(static_cast<int64_t>(count) * part / parts);
  b.end_tile = begin + static_cast<int>(static_cast<int64_t>(count) * (part + 1) / parts);
  if (f.part_tiles) b.first_tile = max(begin, part * f.part_tiles), b.end_tile = min(begin + count, (part + 1) * f.part_tiles);
  return b;
}

__device__ __forceinline__ int64_t part_row(int rows, int row) {
  return (static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * rows + row;
}

// 16-bit elements. A warp owns 16 BLOCKS rows and all KEYS of a tile, so that rows are reduced within four lanes. Shared memory: the rows
// of Q, then a tile of K, then one of V, each laid out as attention.h says. While the scores are computed V is under way, and while they
// are applied to V the next K is: each tile needs one place only.
// evidence: threads WARPS * WARP, shared sizeof(T) * (WARPS * 16 * BLOCKS * HEAD + KEYS * (HEAD + VALUE))
// evidence: threads WARPS / 2 * WARP, shared sizeof(T) * (WARPS / 2 * 16 * BLOCKS * HEAD + KEYS * (HEAD + VALUE))
template <typename T, int HEAD, int VALUE, int BLOCKS, int KEYS, int WARPS>
__global__ void __launch_bounds__(WARPS *WARP) attention_forward_tiles(Forward<T> f) {
  DYNAMIC_SHARED(T, memory);
  constexpr int N = KEYS / 8;
  int rows = blockDim.x / WARP * 16 * BLOCKS, row = threadIdx.x / WARP * 16 * BLOCKS, lane = threadIdx.x % WARP;
  T *q_tile = memory, *k_tile = q_tile + rows * HEAD, *v_tile = k_tile + KEYS * HEAD;
  ForwardBlock<T> b = forward_block(f, rows, KEYS);
  load_tile<HEAD>(q_tile, b.q, b.first, rows, f.by_packets);
  if (b.first_tile < b.end_tile) load_tile<HEAD>(k_tile, b.k, b.first_tile * KEYS, KEYS, f.by_packets);
  cp_async_commit();
  // The rows of this thread: row + 16 block + 8 half + lane / 4.
  float maximum[BLOCKS][2], total[BLOCKS][2], sums[BLOCKS][VALUE / 8][4];
  UNROLL for (int block = 0; block < BLOCKS; block++) {
    UNROLL for (int half = 0; half < 2; half++) maximum[block][half] = -INFINITY, total[block][half] = 0;
    UNROLL for (int n = 0; n < VALUE / 8; n++) UNROLL for (int c = 0; c < 4; c++) sums[block][n][c] = 0;
  }
  // What the warp's first row and its last see.
  int least_end = seen_end(b.span, b.query(row), f.sight), most_end = seen_end(b.span, b.query(row + 16 * BLOCKS - 1), f.sight);
  int least_first = seen_first(least_end, f.sight), most_first = seen_first(most_end, f.sight);
  bool has_rows = b.first + row < b.q.count;
  float factor = f.softcap > 0 ? f.softcap * LOG2_E : f.scale * LOG2_E;
  for (int tile = b.first_tile; tile < b.end_tile; tile++) {
    int key = tile * KEYS;
    bool sees = has_rows && key < most_end && key + KEYS > least_first;  // the whole warp
    float s[BLOCKS][N][4];
    cp_async_wait<0>();
    __syncthreads();
    load_tile<VALUE>(v_tile, b.v, key, KEYS, f.by_packets);
    cp_async_commit();
    if (sees) {
      multiply_rows<T, HEAD, BLOCKS, N>(s, q_tile, row, k_tile);
      if (f.softcap > 0) {
        float slope = f.scale / f.softcap;
        UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < 4; c++)
            s[block][n][c] = fast_tanh(s[block][n][c] * slope);
      }
      if (key < most_first || key + KEYS > least_end) {
        UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int half = 0; half < 2; half++) {
          int end = seen_end(b.span, b.query(row + 16 * block + 8 * half + lane / 4), f.sight), first = seen_first(end, f.sight);
          UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < 2; c++) {
            int at = key + 8 * n + lane % 4 * 2 + c;
            if (at < first || at >= end) s[block][n][2 * half + c] = -INFINITY;
          }
        }
      }
      UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int half = 0; half < 2; half++) {
        float largest = -INFINITY;
        UNROLL for (int n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(s[block][n][2 * half], s[block][n][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        largest = fmaxf(maximum[block][half], largest * factor);
        float shift = largest == -INFINITY ? 0 : largest;  // of a row that has seen nothing yet, whose sums are zero
        float faded = exp2f(maximum[block][half] - shift), sum = 0;
        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 2 * half; c < 2 * half + 2; c++) {
          s[block][n][c] = exp2f(fmaf(s[block][n][c], factor, -shift));
          sum += s[block][n][c];
        }
        maximum[block][half] = largest;
        total[block][half] = total[block][half] * faded + sum;
        if (faded == 1) continue;  // soon the rule
        UNROLL for (int n = 0; n < VALUE / 8; n++) UNROLL for (int c = 2 * half; c < 2 * half + 2; c++) sums[block][n][c] *= faded;
      }
    }
    cp_async_wait<0>();
    __syncthreads();
    if (tile + 1 < b.end_tile) load_tile<HEAD>(k_tile, b.k, key + KEYS, KEYS, f.by_packets);
    cp_async_commit();
    if (sees) add_product<T, VALUE, BLOCKS, N>(sums, s, v_tile);
  }
  cp_async_wait<0>();
  HeadRows<T> o = head_rows(f.o, b.span.query_begin, b.span.query_end, f.heads, b.head, f.pack, f.value_size);
  bool by_pairs = f.value_size % 2 == 0 && reinterpret_cast<uintptr_t>(f.o) % 4 == 0;
  UNROLL for (int block = 0; block < BLOCKS; block++) UNROLL for (int half = 0; half < 2; half++) {
    float sum = total[block][half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    int mine = row + 16 * block + 8 * half + lane / 4;
    if (b.first + mine >= b.q.count) continue;
    if (f.part_sums) {
      int64_t at = part_row(rows, mine);
      if (lane % 4 == 0) f.part_states[at] = make_float2(maximum[block][half] * LN_2, sum);
      UNROLL for (int n = 0; n < VALUE / 8; n++) UNROLL for (int c = 0; c < 2; c++) {
        int column = 8 * n + lane % 4 * 2 + c;
        if (column < f.value_size) f.part_sums[at * f.value_size + column] = sums[block][n][2 * half + c];
      }
      continue;
    }
    T *to = o.at(b.first + mine);
    UNROLL for (int n = 0; n < VALUE / 8; n++)
        store_two(to, 8 * n + lane % 4 * 2, f.value_size, sums[block][n][2 * half] / sum, sums[block][n][2 * half + 1] / sum, by_pairs);
    if (lane % 4 == 0) {
      int64_t query = b.span.query_begin + (b.first + mine) / b.pack;
      f.lse[query * f.heads + b.head + (b.first + mine) % b.pack] = LN_2 * (maximum[block][half] + log2f(sum));
    }
  }
}

// Where keys and values of float32 attention come from: of a block, those that tile `tile` begins with and at least the rest of it. As rows
// of k and v,
struct FlatKeys {
  __device__ __forceinline__ HeadRows<const float> keys(const ForwardBlock<float> &b, int) const { return b.k; }
  __device__ __forceinline__ HeadRows<const float> values(const ForwardBlock<float> &b, int) const { return b.v; }
};

// and from pages of elements E: a span's keys begin at row PAGE_TOKENS * table of all tables' tokens.
template <typename E>
struct PageRows {
  const char *first, *second;  // pages
  int begin;  // the first row of the first
  int size, count;
  __device__ __forceinline__ float value(int row, int column) const {
    int at = row - begin;
    return page_value<E>(at < PAGE_TOKENS ? first : second, size, at % PAGE_TOKENS, column);
  }
};
template <typename E>
struct PagedKeys {
  PageStore key_pages, value_pages;
  const int32_t *tables;
  __device__ __forceinline__ PageRows<E> rows(const PageStore &store, const ForwardBlock<float> &b, int tile) const {
    static_assert(OTHERS == 2 * PAGE_TOKENS, "a tile of keys is two pages");
    int begin = tile * OTHERS, count = static_cast<int>(b.span.key_end - b.span.key_begin);
    const int32_t *table = tables + b.span.key_begin / PAGE_TOKENS + begin / PAGE_TOKENS;
    const char *first = page_head(store, table[0], b.kv_head);
    const char *second = begin + PAGE_TOKENS < count ? page_head(store, table[1], b.kv_head) : first;
    return {first, second, begin, store.size, count};
  }
  __device__ __forceinline__ PageRows<E> keys(const ForwardBlock<float> &b, int tile) const { return rows(key_pages, b, tile); }
  __device__ __forceinline__ PageRows<E> values(const ForwardBlock<float> &b, int tile) const { return rows(value_pages, b, tile); }
};

// float32, as attention.h says; a row is reduced within the 16 lanes that have it. (No product is left to be contracted with a sum, which
// instances of this might do differently.)
template <int R, int CHUNKS, typename Source>
__global__ void __launch_bounds__(FLOAT_THREADS, 1) attention_forward_float(Forward<float> f, Source source) {
  SHARED(Packet<float>, room_packets, [FloatRoom<R>::CHUNK]);
  SHARED(Packet<float>, weight_packets, [FloatRoom<R>::WEIGHTS]);
  float *room = room_packets[0].at, *weights = weight_packets[0].at;
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  ForwardBlock<float> b = forward_block(f, 16 * R, OTHERS);
  int end[R];
  float maximum[R], total[R], sums[CHUNKS][R][4];
  UNROLL for (int i = 0; i < R; i++) {
    end[i] = seen_end(b.span, b.query(R * y + i), f.sight);
    maximum[i] = -INFINITY, total[i] = 0;
    UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int c = 0; c < 4; c++) sums[chunk][i][c] = 0;
  }
  for (int tile = b.first_tile; tile < b.end_tile; tile++) {
    float s[R][4];
    multiply_rows_float<R>(s, b.q, b.first, source.keys(b, tile), tile * OTHERS, room);
    UNROLL for (int i = 0; i < R; i++) {
      float largest = maximum[i];
      UNROLL for (int j = 0; j < 4; j++) {
        int key = tile * OTHERS + x + 16 * j;
        s[i][j] = __fmul_rn(s[i][j], f.scale);
        if (f.softcap > 0) s[i][j] = __fmul_rn(f.softcap, tanhf(s[i][j] / f.softcap));
        if (key >= end[i] || key < seen_first(end[i], f.sight)) s[i][j] = -INFINITY;
        largest = fmaxf(largest, s[i][j]);
      }
      for (int step = 8; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
      float shift = largest == -INFINITY ? 0 : largest;  // of a row that has seen nothing yet, whose sums are zero
      float faded = expf(maximum[i] - shift);
      total[i] = __fmul_rn(total[i], faded);
      UNROLL for (int j = 0; j < 4; j++) {
        s[i][j] = expf(s[i][j] - shift);
        total[i] += s[i][j];
      }
      maximum[i] = largest;
      UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int c = 0; c < 4; c++) sums[chunk][i][c] =
          __fmul_rn(sums[chunk][i][c], faded);
    }
    store_weights<R>(weights, s);
    add_product_float<R, CHUNKS>(sums, weights, source.values(b, tile), tile * OTHERS, room);
  }
  HeadRows<float> o = head_rows(f.o, b.span.query_begin, b.span.query_end, f.heads, b.head, f.pack, f.value_size);
  UNROLL for (int i = 0; i < R; i++) {
    for (int step = 8; step; step /= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], step);
    int mine = R * y + i;
    if (b.first + mine >= b.q.count) continue;
    int64_t at = part_row(16 * R, mine), query = b.span.query_begin + (b.first + mine) / b.pack;
    float *to = f.part_sums ? f.part_sums + at * f.value_size : o.at(b.first + mine), divisor = f.part_sums ? 1 : total[i];
    UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int c = 0; c < 4; c++) {
      int column = 64 * chunk + 4 * x + c;
      if (column < f.value_size) to[column] = sums[chunk][i][c] / divisor;
    }
    if (x > 0) continue;
    if (f.part_sums) f.part_states[at] = make_float2(maximum[i], total[i]);
    else if (f.lse) f.lse[query * f.heads + b.head + (b.first + mine) % b.pack] = maximum[i] + logf(total[i]);
  }
}

// A row of `rows` of a block of the above, whose keys were shared out in `parts`: block (x, y) puts row y of block x together.
// evidence: threads 64
template <typename T>
__global__ void attention_combine(Forward<T> f, int rows, int parts) {
  int head_groups = f.heads / f.pack;
  const AttentionTile &tile = f.tiles[blockIdx.x / head_groups];
  int64_t row = tile.first + blockIdx.y, query = tile.span.query_begin + row / f.pack;
  if (query >= tile.span.query_end) return;
  int64_t head = blockIdx.x % head_groups * f.pack + row % f.pack, part_0 = static_cast<int64_t>(blockIdx.x) * parts * rows + blockIdx.y;
  const float2 *states = f.part_states + part_0;
  float maximum = -INFINITY, total = 0;
  for (int part = 0; part < parts; part++) maximum = fmaxf(maximum, states[part * rows].x);
  for (int part = 0; part < parts; part++) total += expf(states[part * rows].x - maximum) * states[part * rows].y;
  for (int column = threadIdx.x; column < f.value_size; column += blockDim.x) {
    float sum = -0.0f;  // so that a row of one part has the bits that it has without parts
    for (int part = 0; part < parts; part++)
      if (states[part * rows].x > -INFINITY)
        sum += expf(states[part * rows].x - maximum) * f.part_sums[(part_0 + static_cast<int64_t>(part) * rows) * f.value_size + column];
    f.o[(query * f.heads + head) * f.value_size + column] = from_float<T>(sum / total);
  }
  if (threadIdx.x == 0 && f.lse) f.lse[query * f.heads + head] = maximum + logf(total);
}

// How many queries and keys the largest span has.
static AttentionSpan largest_span(const AttentionSpan *spans, int64_t count) {
  AttentionSpan largest = {};
  for (const AttentionSpan *span = spans; span < spans + count; span++) {
    int64_t queries = span->query_end - span->query_begin, keys = span->key_end - span->key_begin;
    if (queries > largest.query_end) largest.query_end = queries;
    if (queries > 0 && keys > largest.key_end) largest.key_end = keys;
  }
  return largest;
}

// In how many parts the keys of each of `blocks` blocks are computed: enough for two blocks a processor, each of some tiles of keys.
static int64_t part_count(int64_t blocks, int64_t tiles_of_keys, const Device *device) {
  if (blocks >= device->processors) return 1;
  int64_t wanted = blocks_for(2 * device->processors, blocks), most = tiles_of_keys / 2;
  int64_t parts = wanted < most ? wanted : most;
  return parts > 1 ? parts : 1;
}

// Starts `kernel`, whose blocks have `threads` threads, `rows` rows and tiles of `keys` keys, and what puts its parts together.
template <typename T, typename... Source>
static void start_forward(void (*kernel)(Forward<T>, Source...), Forward<T> f, const AttentionSpan *spans, int64_t span_count,
                          int64_t window, int64_t most_keys, int rows, int keys, int threads, int64_t shared, Device *device,
                          Source... source) {
  int64_t tile_count;
  f.tiles = attention_tiles(&tile_count, device, spans, span_count, rows, f.pack, false, window);
  if (!f.tiles) return;
  if (window > 0 && most_keys > window + rows && !f.part_tiles) most_keys = window + rows;
  int64_t blocks = tile_count * (f.heads / f.pack), tiles_of_keys = blocks_for(most_keys, keys);
  int64_t parts = f.part_tiles ? blocks_for(tiles_of_keys, f.part_tiles) : part_count(blocks, tiles_of_keys, device);
  if (parts > 1) {
    int64_t part_rows = blocks * parts * rows;
    void *workspace =
        device_workspace(device, WORKSPACE_PARTS, part_rows * static_cast<int64_t>(sizeof(float2) + f.value_size * sizeof(float)));
    if (!workspace) return;
    f.part_states = static_cast<float2 *>(workspace);
    f.part_sums = reinterpret_cast<float *>(f.part_states + part_rows);
  }
  LAUNCH(device, kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)), dim3(threads), shared, f, source...);
  if (parts == 1) return;
  auto combine = attention_combine<T>;
  LAUNCH(device, combine, dim3(static_cast<unsigned>(blocks), rows), dim3(64), 0, f, rows, static_cast<int>(parts));
}

// The shape of 16-bit tiles: for large heads a warp has 16 rows, for its sums have to fit into registers; else 32, which halves what is
// read of shared memory. Of 64 keys the scores would not fit beside the sums where the sizes are 128 or 256. All then fit into 64 KiB
// (sm_75) with 64 to 128 rows of Q, and those of 128 twice into the 100 KiB of sm_86 and sm_89.
template <typename T>
static void forward_by_tiles(Forward<T> f, const AttentionSpan *spans, int64_t span_count, const AttentionShape &shape, Device *device) {
  AttentionSpan largest = largest_span(spans, span_count);
  int64_t group = shape.heads / shape.kv_heads;
  with_sizes(shape, [&](auto sizes) {
    constexpr int HEAD = decltype(sizes)::HEAD, VALUE = decltype(sizes)::VALUE;
    constexpr int BLOCKS = HEAD <= 128 ? 2 : 1, KEYS = HEAD == 128 || HEAD == 256 ? 32 : 64, WARPS = HEAD <= 128 ? 4 : 8;
    auto bytes = [&](int64_t warps) { return static_cast<int64_t>(sizeof(T)) * (warps * 16 * BLOCKS * HEAD + KEYS * (HEAD + VALUE)); };
    int64_t warps = WARPS;
    while (warps > 1 && bytes(warps) > device->shared_bytes) warps /= 2;
    if (largest.query_end * group <= warps * 16 * BLOCKS) f.pack = static_cast<int>(group);
    int64_t needed = blocks_for(largest.query_end * f.pack, 16 * BLOCKS);
    if (needed < warps) warps = needed;
    auto kernel = attention_forward_tiles<T, HEAD, VALUE, BLOCKS, KEYS, WARPS>;
    start_forward(kernel, f, spans, span_count, shape.window, largest.key_end, static_cast<int>(warps) * 16 * BLOCKS, KEYS,
                  static_cast<int>(warps) * WARP, bytes(warps), device);
  });
}

template <typename Source>
static void forward_in_float(Forward<float> f, Source source, const AttentionSpan *spans, int64_t span_count, const AttentionShape &shape,
                             Device *device) {
  AttentionSpan largest = largest_span(spans, span_count);
  int64_t group = shape.heads / shape.kv_heads;
  if (largest.query_end * group <= 64) f.pack = static_cast<int>(group);
  with_chunks(shape.value_size, [&](auto chunks) {
    constexpr int CHUNKS = decltype(chunks)::VALUE;
    bool is_small = largest.query_end * f.pack <= 16;
    auto small = attention_forward_float<1, CHUNKS, Source>, large = attention_forward_float<4, CHUNKS, Source>;
    start_forward(is_small ? small : large, f, spans, span_count, shape.window, largest.key_end, is_small ? 16 : 64, OTHERS, FLOAT_THREADS,
                  0, device, source);
  });
}

template <typename T>
static Forward<T> forward_of(void *o, float *lse, const void *q, const AttentionShape &shape) {
  Forward<T> f = {};
  f.o = static_cast<T *>(o), f.lse = lse, f.q = static_cast<const T *>(q);
  f.heads = static_cast<int>(shape.heads), f.kv_heads = static_cast<int>(shape.kv_heads), f.pack = 1;
  f.head_size = static_cast<int>(shape.head_size), f.value_size = static_cast<int>(shape.value_size);
  f.scale = shape.scale, f.softcap = shape.softcap;
  return f;
}

void attention_forward_own(void *o, float *lse, const void *q, const void *k, const void *v, FloatType type, const AttentionSpan *spans,
                           int64_t span_count, const int32_t *query_ends, AttentionShape shape, Device *device) {
  with_type(type, [&](auto element) {
    using T = decltype(element);
    Forward<T> f = forward_of<T>(o, lse, q, shape);
    f.k = static_cast<const T *>(k), f.v = static_cast<const T *>(v), f.sight = sight_of(shape, query_ends);
    f.by_packets = is_aligned(q, k, v) && shape.head_size % 8 == 0 && shape.value_size % 8 == 0;
    if constexpr (sizeof(T) == 2) forward_by_tiles(f, spans, span_count, shape, device);
    else forward_in_float(f, FlatKeys{}, spans, span_count, shape, device);
  });
}

void attention_forward_pages(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans,
                             int64_t span_count, const AttentionShape &shape, Device *device) {
  constexpr int64_t PART_KEYS = 8192;
  AttentionSpan *tiled = static_cast<AttentionSpan *>(memory_new(static_cast<size_t>(span_count) + 1, sizeof *tiled));
  int64_t count = 0;
  for (const PagedSpan *span = spans; span < spans + span_count; span++) {
    int64_t begin = span->table * PAGE_TOKENS;
    if (!span->is_alone && span->query_end > span->query_begin)
      tiled[count++] = {span->query_begin, span->query_end, begin, begin + span->length};
  }
  Forward<float> f = forward_of<float>(o, NULL, q, shape);
  f.sight = sight_of(shape, NULL), f.part_tiles = PART_KEYS / OTHERS;
  with_pages(pages->type, [&](auto element) {
    PagedKeys<decltype(element)> source = {page_store(pages->keys, pages->type, shape.head_size, shape.kv_heads),
                                           page_store(pages->values, pages->type, shape.value_size, shape.kv_heads), tables};
    if (count > 0) forward_in_float(f, source, tiled, count, shape, device);
  });
  free(tiled);
}
