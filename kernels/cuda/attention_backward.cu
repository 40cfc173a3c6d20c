// Backward pass of attention by tiles, with P recomputed from lse (Dao et al. 2022). For a head and a tile of queries and keys:
//   S = scale Q K^T,  P = exp(S - lse),  dP = dO V^T,  dS = P (dP - delta),  delta = rowsum(dO o)
//   dV += P^T dO,  dK += scale dS^T Q,  dQ += scale dS K        (a softcap multiplies dS by the slope of its tanh)
// First delta; then, without atomics, so that each sum has one order, blocks that own keys go over the heads and queries that see them,
// and blocks that own queries over the keys that they see. Both are one kernel: own rows (K and V, or Q and dO) stay in shared memory and
// other rows (Q and dO, or K and V) pass by; of them it computes
//   S = own_head others_head^T,  dP = own_value others_value^T,  value sums += P others_value,  head sums += dS others_head,
// for keys with P and dS turned. S and dP are computed twice, 7 products for the 5 that atomics would allow.
#include "kernels/cuda/attention.h"

// What a kernel computes. Heads larger than 128 get dK and dV one after the other: the sums of both do not fit into registers.
enum Wanted { WANTED_QUERIES = 1, WANTED_KEYS = 2, WANTED_VALUES = 4 };

template <typename T>
struct Backward {
  T *dq, *dk, *dv;
  float *delta;  // [queries, heads], as lse
  const T *go, *o;
  const float *lse;
  const T *q, *k, *v;
  const AttentionTile *tiles;
  int heads, kv_heads, head_size, value_size;
  float scale, softcap;
  Sight sight;
  bool by_packets;
  int stages;  // places for other rows: with two, the next are under way while some are worked on
};

// What a block owns, and what passes by. Steps: of a block that owns keys, the tiles of queries that see them, for each head.
template <typename T>
struct BackwardBlock {
  const AttentionSpan &span;  // read when needed: registers are dear
  int first, count;  // own rows
  int head, kv_head;  // head: of queries that are owned, or the first of the group
  int first_tile, tiles, steps;
  bool owns_keys;
  const Backward<T> *b;
  __device__ __forceinline__ int head_of(int step) const { return owns_keys ? head + step / tiles : head; }
  __device__ __forceinline__ int tile_of(int step) const { return first_tile + (owns_keys ? step % tiles : step); }
  __device__ __forceinline__ int queries() const { return static_cast<int>(span.query_end - span.query_begin); }
  __device__ __forceinline__ int keys() const { return static_cast<int>(span.key_end - span.key_begin); }
  template <typename E>
  __device__ __forceinline__ HeadRows<E> of_queries(E *data, int at_head, int size) const {
    return head_rows(data, span.query_begin, span.query_end, b->heads, at_head, 1, size);
  }
  template <typename E>
  __device__ __forceinline__ HeadRows<E> of_keys(E *data, int size) const {
    return head_rows(data, span.key_begin, span.key_end, b->kv_heads, kv_head, 1, size);
  }
  __device__ __forceinline__ HeadRows<const T> own_head() const {
    return owns_keys ? of_keys(b->k, b->head_size) : of_queries(b->q, head, b->head_size);
  }
  __device__ __forceinline__ HeadRows<const T> own_value() const {
    return owns_keys ? of_keys(b->v, b->value_size) : of_queries(b->go, head, b->value_size);
  }
  __device__ __forceinline__ HeadRows<const T> others_head(int step) const {
    return owns_keys ? of_queries(b->q, head_of(step), b->head_size) : of_keys(b->k, b->head_size);
  }
  __device__ __forceinline__ HeadRows<const T> others_value(int step) const {
    return owns_keys ? of_queries(b->go, head_of(step), b->value_size) : of_keys(b->v, b->value_size);
  }
  // Query i, or the last if there are fewer.
  __device__ __forceinline__ int end_of(int i) const { return seen_end(span, min(i, queries() - 1), b->sight); }
  __device__ __forceinline__ int64_t state_of(int i, int at_head) const { return (span.query_begin + i) * b->heads + at_head; }
};

template <typename T>
__device__ __forceinline__ BackwardBlock<T> backward_block(const Backward<T> &b, bool owns_keys, int rows, int others) {
  int groups = owns_keys ? b.kv_heads : b.heads, group = b.heads / b.kv_heads;
  const AttentionTile &tile = b.tiles[blockIdx.x / groups];
  BackwardBlock<T> block = {tile.span};
  block.b = &b, block.owns_keys = owns_keys, block.first = static_cast<int>(tile.first);
  block.count = min(rows, (owns_keys ? block.keys() : block.queries()) - block.first);
  block.head = static_cast<int>(blockIdx.x % groups) * (owns_keys ? group : 1);
  block.kv_head = block.head / group;
  int begin, end;
  if (owns_keys) {
    begin = first_query_beyond(block.span, tile.first, b.sight);
    end = b.sight.window > 0 ? first_query_beyond(block.span, tile.first + block.count - 1 + b.sight.window, b.sight) : block.queries();
  } else {
    begin = seen_first(block.end_of(block.first), b.sight);
    end = block.end_of(block.first + block.count - 1);
  }
  block.first_tile = begin / others;
  block.tiles = begin < end ? (end + others - 1) / others - block.first_tile : 0;
  block.steps = block.tiles * (owns_keys ? group : 1);
  return block;
}

// delta of the rows of a tile, for one head. For 16-bit elements a warp has one row at a time. In float32 a thread has, and adds up in the
// order in which multiply_rows_float does: dP - delta, which may cancel to nothing, then does so in the rounding errors, too.
// evidence: <float> threads 64
// evidence: threads 256
template <typename T>
__global__ void attention_delta(Backward<T> b, int rows) {
  constexpr int LANES = sizeof(T) == 2 ? WARP : 1;
  const AttentionTile &tile = b.tiles[blockIdx.x / b.heads];
  int64_t head = blockIdx.x % b.heads, first = tile.span.query_begin + tile.first;
  int64_t end = first + rows < tile.span.query_end ? first + rows : tile.span.query_end;
  for (int64_t query = first + threadIdx.x / LANES; query < end; query += blockDim.x / LANES) {
    int64_t row = query * b.heads + head;
    float sum = 0;
    for (int column = threadIdx.x % LANES; column < b.value_size; column += LANES)
      sum = fmaf(to_float(b.go[row * b.value_size + column]), to_float(b.o[row * b.value_size + column]), sum);
    if (LANES == WARP) sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) b.delta[row] = sum;
  }
}

// What a warp's sums of 16 rows are stored as, times `factor`.
template <typename T, int COLUMNS>
__device__ __forceinline__ void store_sums(const HeadRows<T> &to, int row, const float sums[COLUMNS / 8][4], float factor) {
  int lane = threadIdx.x % WARP;
  bool by_pairs = to.size % 2 == 0 && reinterpret_cast<uintptr_t>(to.data) % 4 == 0;
  UNROLL for (int half = 0; half < 2; half++) {
    int mine = row + 8 * half + lane / 4;
    if (mine >= to.count) continue;
    T *at = to.at(mine);
    UNROLL for (int n = 0; n < COLUMNS / 8; n++)
        store_two(at, 8 * n + lane % 4 * 2, to.size, sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor, by_pairs);
  }
}

// 16-bit elements: a warp owns 16 rows. Shared memory, tiles as attention.h says: own rows [16 warps][HEAD] and [16 warps][VALUE]; then for
// each stage other rows [OTHERS][HEAD] and [OTHERS][VALUE]; then for each stage of other queries lse (times log2(e)), delta and how many
// keys they see, [OTHERS] each.
// evidence: threads WARPS * WARP, shared sizeof(T) * (16 * WARPS + OTHERS * 2) * (HEAD + VALUE) + 2 * 3 * OTHERS * 4
// evidence: threads WARPS / 2 * WARP, shared sizeof(T) * (16 * WARPS / 2 + OTHERS * 2) * (HEAD + VALUE) + 2 * 3 * OTHERS * 4
// evidence: threads WARPS / 2 * WARP, shared sizeof(T) * (16 * WARPS / 2 + OTHERS * 1) * (HEAD + VALUE) + 1 * 3 * OTHERS * 4
// evidence: threads WARPS / 4 * WARP, shared sizeof(T) * (16 * WARPS / 4 + OTHERS * 1) * (HEAD + VALUE) + 1 * 3 * OTHERS * 4
// evidence: threads WARPS / 8 * WARP, shared sizeof(T) * (16 * WARPS / 8 + OTHERS * 1) * (HEAD + VALUE) + 1 * 3 * OTHERS * 4
template <typename T, int HEAD, int VALUE, int OTHERS, int WANTED, int WARPS>
__global__ void __launch_bounds__(WARPS *WARP, 1) attention_backward_tiles(Backward<T> b) {
  DYNAMIC_SHARED(T, memory);
  constexpr int N = OTHERS / 8;
  constexpr bool OWNS_KEYS = !(WANTED & WANTED_QUERIES), WANTS_HEAD = WANTED & (WANTED_QUERIES | WANTED_KEYS);
  constexpr bool WANTS_VALUE = WANTED & WANTED_VALUES;
  int rows = blockDim.x / WARP * 16, row = threadIdx.x / WARP * 16, lane = threadIdx.x % WARP;
  T *own_head = memory, *own_value = own_head + rows * HEAD, *stages = own_value + rows * VALUE;
  constexpr int STAGE = OTHERS * (HEAD + VALUE);
  float *states = reinterpret_cast<float *>(stages + b.stages * STAGE);
  BackwardBlock<T> block = backward_block(b, OWNS_KEYS, rows, OTHERS);

  auto load_others = [&](int step) {
    if (step < block.steps) {
      int at = step % b.stages, first = block.tile_of(step) * OTHERS;
      load_tile<HEAD>(stages + at * STAGE, block.others_head(step), first, OTHERS, b.by_packets);
      load_tile<VALUE>(stages + at * STAGE + OTHERS * HEAD, block.others_value(step), first, OTHERS, b.by_packets);
      if (OWNS_KEYS) {
        float *state = states + at * 3 * OTHERS;
        for (int i = threadIdx.x; i < OTHERS; i += blockDim.x) {
          int64_t from = block.state_of(first + i, block.head_of(step));
          bool is_there = first + i < block.queries();
          state[i] = is_there ? b.lse[from] * LOG2_E : INFINITY;  // P becomes zero
          state[OTHERS + i] = is_there ? b.delta[from] : 0;
          state[2 * OTHERS + i] = __uint_as_float(block.end_of(first + i));
        }
      }
    }
    cp_async_commit();
  };
  load_tile<HEAD>(own_head, block.own_head(), block.first, rows, b.by_packets);
  load_tile<VALUE>(own_value, block.own_value(), block.first, rows, b.by_packets);
  load_others(0);

  float head_sums[WANTS_HEAD ? HEAD / 8 : 1][4], value_sums[WANTS_VALUE ? VALUE / 8 : 1][4];
  if (WANTS_HEAD) UNROLL for (int n = 0; n < HEAD / 8; n++) UNROLL for (int c = 0; c < 4; c++) head_sums[WANTS_HEAD ? n : 0][c] = 0;
  if (WANTS_VALUE) UNROLL for (int n = 0; n < VALUE / 8; n++) UNROLL for (int c = 0; c < 4; c++) value_sums[WANTS_VALUE ? n : 0][c] = 0;
  // Of own queries.
  float own_lse[2], own_delta[2];
  UNROLL for (int half = 0; half < 2 && !OWNS_KEYS; half++) {
    int query = block.first + row + 8 * half + lane / 4;
    int64_t from = block.state_of(query, block.head);
    own_lse[half] = query < block.queries() ? b.lse[from] * LOG2_E : INFINITY;
    own_delta[half] = query < block.queries() ? b.delta[from] : 0;
  }
  float factor = b.softcap > 0 ? b.softcap * LOG2_E : b.scale * LOG2_E;
  for (int step = 0; step < block.steps; step++) {
    if (b.stages == 2) {
      load_others(step + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const T *others_head = stages + step % b.stages * STAGE, *others_value = others_head + OTHERS * HEAD;
    const float *lse = states + step % b.stages * 3 * OTHERS, *delta = lse + OTHERS, *ends = lse + 2 * OTHERS;
    // Ends of the first and the last query, and the keys, that this warp multiplies.
    int other = block.tile_of(step) * OTHERS, own = block.first + row;
    int least_end = OWNS_KEYS ? static_cast<int>(__float_as_uint(ends[0])) : block.end_of(own);
    int most_end = OWNS_KEYS ? static_cast<int>(__float_as_uint(ends[OTHERS - 1])) : block.end_of(own + 15);
    int key = OWNS_KEYS ? own : other, key_end = key + (OWNS_KEYS ? 16 : OTHERS);
    if (row < block.count && key < most_end && key_end > seen_first(least_end, b.sight)) {
      bool is_masked = key_end > least_end || key < seen_first(most_end, b.sight);
      float p[1][N][4], ds[1][N][4];
      multiply_rows<T, HEAD, 1, N>(p, own_head, row, others_head);
      if (WANTS_HEAD) multiply_rows<T, VALUE, 1, N>(ds, own_value, row, others_value);
      UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < 4; c++) {
        int column = 8 * n + lane % 4 * 2 + c % 2;
        float s = p[0][n][c], slope = 1;
        if (b.softcap > 0) {
          s = fast_tanh(s * (b.scale / b.softcap));
          slope = (1 - s) * (1 + s);
        }
        float value = exp2f(fmaf(s, factor, OWNS_KEYS ? -lse[column] : -own_lse[c / 2]));
        if (is_masked) {
          int end = OWNS_KEYS ? static_cast<int>(__float_as_uint(ends[column])) : block.end_of(own + 8 * (c / 2) + lane / 4);
          int at = OWNS_KEYS ? own + 8 * (c / 2) + lane / 4 : other + column;
          if (at >= end || at < seen_first(end, b.sight)) value = 0;
        }
        p[0][n][c] = value;
        if (WANTS_HEAD) ds[0][n][c] = value * (ds[0][n][c] - (OWNS_KEYS ? delta[column] : own_delta[c / 2])) * slope;
      }
      if constexpr (WANTS_VALUE) add_product<T, VALUE, 1, N>(&value_sums, p, others_value);
      if constexpr (WANTS_HEAD) add_product<T, HEAD, 1, N>(&head_sums, ds, others_head);
    }
    __syncthreads();
    if (b.stages == 1) load_others(step + 1);
  }
  cp_async_wait<0>();
  if constexpr (WANTED & WANTED_QUERIES)
    store_sums<T, HEAD>(block.of_queries(b.dq, block.head, b.head_size), block.first + row, head_sums, b.scale);
  if constexpr (WANTED & WANTED_KEYS) store_sums<T, HEAD>(block.of_keys(b.dk, b.head_size), block.first + row, head_sums, b.scale);
  if constexpr (WANTED & WANTED_VALUES) store_sums<T, VALUE>(block.of_keys(b.dv, b.value_size), block.first + row, value_sums, 1);
}

template <int CHUNKS>
__device__ __forceinline__ void store_sums_float(const HeadRows<float> &to, int first, const float sums[CHUNKS][4][4], float factor) {
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  UNROLL for (int i = 0; i < 4; i++) {
    if (first + 4 * y + i >= to.count) continue;
    float *at = to.at(first + 4 * y + i);
    UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int c = 0; c < 4; c++) {
      int column = 64 * chunk + 4 * x + c;
      if (column < to.size) at[column] = sums[chunk][i][c] * factor;
    }
  }
}

// float32, as attention.h says, with 64 own rows; the place of weights holds P, then dS.
template <int CHUNKS, int WANTED>
__global__ void __launch_bounds__(FLOAT_THREADS, 1) attention_backward_float(Backward<float> b) {
  SHARED(Packet<float>, room_packets, [FloatRoom<4>::CHUNK]);
  SHARED(Packet<float>, weight_packets, [FloatRoom<4>::WEIGHTS]);
  constexpr bool OWNS_KEYS = !(WANTED & WANTED_QUERIES), WANTS_HEAD = WANTED & (WANTED_QUERIES | WANTED_KEYS);
  constexpr bool WANTS_VALUE = WANTED & WANTED_VALUES;
  float *room = room_packets[0].at, *weights = weight_packets[0].at;
  int y = threadIdx.x / 16, x = threadIdx.x % 16;
  BackwardBlock<float> block = backward_block(b, OWNS_KEYS, 64, OTHERS);
  float head_sums[WANTS_HEAD ? CHUNKS : 1][4][4], value_sums[WANTS_VALUE ? CHUNKS : 1][4][4];
  UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int i = 0; i < 4; i++) UNROLL for (int c = 0; c < 4; c++)
      head_sums[WANTS_HEAD ? chunk : 0][i][c] = value_sums[WANTS_VALUE ? chunk : 0][i][c] = 0;
  for (int step = 0; step < block.steps; step++) {
    int other = block.tile_of(step) * OTHERS;
    HeadRows<const float> others_head = block.others_head(step), others_value = block.others_value(step);
    float p[4][4], ds[4][4];
    multiply_rows_float<4>(p, block.own_head(), block.first, others_head, other, room);
    if (WANTS_HEAD) multiply_rows_float<4>(ds, block.own_value(), block.first, others_value, other, room);
    UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) {
      int mine = block.first + 4 * y + i, its = other + x + 16 * j;
      int query = OWNS_KEYS ? its : mine, key = OWNS_KEYS ? mine : its, end = block.end_of(query);
      float s = b.scale * p[i][j], slope = 1;
      if (b.softcap > 0) {
        float turned = tanhf(s / b.softcap);
        s = b.softcap * turned, slope = (1 - turned) * (1 + turned);
      }
      bool sees = query < block.queries() && key < end && key >= seen_first(end, b.sight);
      int64_t state = block.state_of(sees ? query : 0, block.head_of(step));
      p[i][j] = sees ? expf(s - b.lse[state]) : 0;
      if (WANTS_HEAD) ds[i][j] = sees ? p[i][j] * (ds[i][j] - b.delta[state]) * slope : 0;
    }
    if constexpr (WANTS_VALUE) {
      store_weights<4>(weights, p);
      add_product_float<4, CHUNKS>(value_sums, weights, others_value, other, room);
      __syncthreads();
    }
    if constexpr (WANTS_HEAD) {
      store_weights<4>(weights, ds);
      add_product_float<4, CHUNKS>(head_sums, weights, others_head, other, room);
    }
    // The next step's first barrier stands before its weights.
  }
  if constexpr (WANTED & WANTED_QUERIES)
    store_sums_float<CHUNKS>(block.of_queries(b.dq, block.head, b.head_size), block.first, head_sums, b.scale);
  if constexpr (WANTED & WANTED_KEYS) store_sums_float<CHUNKS>(block.of_keys(b.dk, b.head_size), block.first, head_sums, b.scale);
  if constexpr (WANTED & WANTED_VALUES) store_sums_float<CHUNKS>(block.of_keys(b.dv, b.value_size), block.first, value_sums, 1);
}

typedef struct Call {
  const AttentionSpan *spans;
  int64_t span_count;
  AttentionShape shape;
  Device *device;
} Call;

// Starts a kernel over tiles of `rows` queries or keys.
template <typename T>
static void start_backward(void (*kernel)(Backward<T>), Backward<T> b, const Call &call, bool owns_keys, int64_t rows, int64_t threads,
                           int64_t shared) {
  int64_t count;
  b.tiles = attention_tiles(&count, call.device, call.spans, call.span_count, rows, 1, owns_keys, call.shape.window);
  if (!b.tiles) return;
  unsigned blocks = static_cast<unsigned>(count * (owns_keys ? b.kv_heads : b.heads));
  LAUNCH(call.device, kernel, dim3(blocks), dim3(static_cast<unsigned>(threads)), shared, b);
}

template <typename T>
static void start_delta(Backward<T> b, const Call &call) {
  enum { ROWS = 64, THREADS = 256 };
  int threads = sizeof(T) == 2 ? THREADS : ROWS;
  int64_t count;
  b.tiles = attention_tiles(&count, call.device, call.spans, call.span_count, ROWS, 1, false, call.shape.window);
  if (!b.tiles) return;
  auto kernel = attention_delta<T>;
  LAUNCH(call.device, kernel, dim3(static_cast<unsigned>(count * b.heads)), dim3(threads), 0, b, ROWS);
}

// As many warps, and so own rows, and stages as shared memory has room for; no more rows than the largest span has.
template <typename T, typename SIZES, int WANTED>
static void start_tiles(Backward<T> b, const Call &call) {
  constexpr int HEAD = SIZES::HEAD, VALUE = SIZES::VALUE, WARPS = 8;
  constexpr bool OWNS_KEYS = !(WANTED & WANTED_QUERIES);
  // So that nothing spills; on sm_75, whose type is float16, a copy takes registers.
  constexpr int OTHERS = HEAD <= 64 ? 64 : HEAD == 256 || (HEAD == 128 && std::is_same<T, fp16>::value) ? 16 : 32;
  static const int plans[][2] = {{8, 2}, {4, 2}, {4, 1}, {2, 1}, {1, 1}};  // warps, stages
  int64_t most = 1, bytes = 0, warps = 0;
  for (int64_t s = 0; s < call.span_count; s++) {
    const AttentionSpan *span = &call.spans[s];
    int64_t rows = OWNS_KEYS ? span->key_end - span->key_begin : span->query_end - span->query_begin;
    most = rows > most ? rows : most;
  }
  for (const auto &plan : plans) {
    warps = plan[0], b.stages = plan[1];
    if (warps > blocks_for(most, 16)) warps = blocks_for(most, 16);
    bytes = static_cast<int64_t>(sizeof(T)) * (16 * warps + OTHERS * b.stages) * (HEAD + VALUE);
    bytes += b.stages * 3 * OTHERS * static_cast<int64_t>(sizeof(float));
    if (bytes <= call.device->shared_bytes) break;
  }
  auto kernel = attention_backward_tiles<T, HEAD, VALUE, OTHERS, WANTED, WARPS>;
  start_backward(kernel, b, call, OWNS_KEYS, 16 * warps, WARP * warps, bytes);
}

template <typename T>
static void backward_by_tiles(const Backward<T> &b, const Call &call) {
  with_sizes(call.shape, [&](auto sizes) {
    using S = decltype(sizes);
    if constexpr (S::HEAD + S::VALUE <= 256) {
      start_tiles<T, S, WANTED_KEYS | WANTED_VALUES>(b, call);
    } else {
      start_tiles<T, S, WANTED_VALUES>(b, call);
      start_tiles<T, S, WANTED_KEYS>(b, call);
    }
    start_tiles<T, S, WANTED_QUERIES>(b, call);
  });
}

static void backward_in_float(const Backward<float> &b, const Call &call) {
  with_chunks(call.shape.head_size > call.shape.value_size ? call.shape.head_size : call.shape.value_size, [&](auto chunks) {
    constexpr int CHUNKS = decltype(chunks)::VALUE;
    auto keys = attention_backward_float<CHUNKS, WANTED_KEYS | WANTED_VALUES>, queries = attention_backward_float<CHUNKS, WANTED_QUERIES>;
    start_backward(keys, b, call, true, 64, FLOAT_THREADS, 0);
    start_backward(queries, b, call, false, 64, FLOAT_THREADS, 0);
  });
}

void attention_backward_own(void *dq, void *dk, void *dv, float *scratch, const void *go, const void *o, const float *lse, const void *q,
                             const void *k, const void *v, FloatType type, const AttentionSpan *spans, int64_t span_count,
                             const int32_t *query_ends, AttentionShape shape, Device *device) {
  Call call = {spans, span_count, shape, device};
  with_type(type, [&](auto element) {
    using T = decltype(element);
    Backward<T> b = {};
    b.dq = static_cast<T *>(dq), b.dk = static_cast<T *>(dk), b.dv = static_cast<T *>(dv), b.delta = scratch;
    b.go = static_cast<const T *>(go), b.o = static_cast<const T *>(o), b.lse = lse;
    b.q = static_cast<const T *>(q), b.k = static_cast<const T *>(k), b.v = static_cast<const T *>(v);
    b.heads = static_cast<int>(shape.heads), b.kv_heads = static_cast<int>(shape.kv_heads);
    b.head_size = static_cast<int>(shape.head_size), b.value_size = static_cast<int>(shape.value_size);
    b.scale = shape.scale, b.softcap = shape.softcap, b.sight = sight_of(shape, query_ends);
    b.by_packets = is_aligned(go, q, k, v) && shape.head_size % 8 == 0 && shape.value_size % 8 == 0;
    start_delta(b, call);
    if constexpr (sizeof(T) == 2) backward_by_tiles(b, call);
    else backward_in_float(b, call);
  });
}
