// Generation's kernels of kernels/pages.h: keys and values go into pages, and attention reads them there.
// Queries by themselves (is_alone): bound by the reading of pages, each of which is read once for all query heads of its KV head. A block
// has a query, a KV head and some pages of its text, and each of its warps every fourth of these, with the online softmax (Milakov and
// Gimelshein 2018) of its own: m, l = sum exp(s - m) and sum exp(s - m) v. Warps are put together in their order, and blocks by a second
// kernel in theirs. How a text is shared out depends on how much of it the query sees and on nothing else, and so do the query's bits.
// The others go by the tiles of attention_forward.cu.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/pages.h"

enum { ALONE_THREADS = 128, ALONE_WARPS = ALONE_THREADS / WARP, ALONE_PAGES = 4, MOST_SPLITS = 64, MOST_ROWS = 65535 };

// A warp stores a token's row of one head.
template <typename E>
__global__ void __launch_bounds__(THREADS) store_pages_kernel(PageStore store, const float *x, const int32_t *slots, int64_t rows) {
  int64_t row = static_cast<int64_t>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
  if (row >= rows) return;
  int slot = slots[row / store.kv_heads], lane = threadIdx.x % WARP;
  char *head = const_cast<char *>(page_head(store, slot / PAGE_TOKENS, static_cast<int>(row % store.kv_heads)));
  int first = slot % PAGE_TOKENS * store.size;
  for (int c = lane; c < store.size; c += WARP) {  // with scales a block of 32 at a time
    float value = x[row * store.size + c];
    if constexpr (sizeof(E) > 1) {
      reinterpret_cast<E *>(head)[first + c] = from_float<E>(value);
    } else {
      bool is_finite = __all_sync(0xffffffffu, isfinite(value));
      fp16 scale = from_float<fp16>(is_finite ? warp_max(fabsf(value)) / 127 : __uint_as_float(0x7fc00000u));
      float d = to_float(scale), level = is_finite && d > 0 ? fmaxf(-127, fminf(127, rintf(value / d))) : 0;
      reinterpret_cast<int8_t *>(head)[first + c] = static_cast<int8_t>(level);
      if (lane == 0) reinterpret_cast<fp16 *>(head + PAGE_TOKENS * store.size)[(first + c) / PAGES_BLOCK] = scale;
    }
  }
}

void cuda_store_pages(const Pages *pages, const float *k, const float *v, const int32_t *slots, int64_t n, AttentionShape shape,
                      Backend *backend) {
  if (n == 0) return;
  Device *device = device_of(backend);
  int64_t rows = n * shape.kv_heads;
  with_pages(pages->type, [&](auto element) {
    auto kernel = store_pages_kernel<decltype(element)>;
    PageStore keys = page_store(pages->keys, pages->type, shape.head_size, shape.kv_heads);
    PageStore values = page_store(pages->values, pages->type, shape.value_size, shape.kv_heads);
    LAUNCH(device, kernel, blocks_for(rows, THREADS / WARP), THREADS, 0, keys, k, slots, rows);
    LAUNCH(device, kernel, blocks_for(rows, THREADS / WARP), THREADS, 0, values, v, slots, rows);
  });
}

// A query, and how the tokens first .. end - 1 that it sees are shared out: pages_each pages to each of `splits` blocks.
struct AloneRow {
  int64_t row, table, part;  // part: the first of its parts
  int first, end, pages_each, splits;
};

struct Alone {
  float *o;
  const float *q;
  PageStore keys, values;
  const int32_t *tables;
  const AloneRow *rows;
  int heads, padded;  // padded: from one head's q to the next in shared memory
  float scale, softcap;
  float *part_sums;  // [parts][heads][value_size]
  float2 *part_states;  // [parts][heads]: m and l
};

// The heads of a block: `count` from `first` on, at most G.
struct AloneHeads {
  int kv_head, first, count;
};
template <int G>
__device__ __forceinline__ AloneHeads heads_of_block(const Alone &a) {
  int group = a.heads / a.keys.kv_heads, pieces = (group + G - 1) / G, piece = blockIdx.y % pieces, kv_head = blockIdx.y / pieces;
  return {kv_head, kv_head * group + piece * G, min(G, group - piece * G)};
}

// scores[g][place] = q_g . key, of a page. Four lanes share a row, whose packets they read by turns.
template <typename E, int G>
__device__ __forceinline__ void score_page(float *scores, const Alone &a, const float *q, const char *head) {
  constexpr int N = sizeof(E) == 4 ? 4 : 8, ROUNDS = 4, LANES = 4;
  int lane = threadIdx.x % WARP;
  float sums[ROUNDS][G] = {};
  for (int column = lane % LANES * N; column < a.keys.size; column += LANES * N) {
    float keys[ROUNDS][N];
    UNROLL for (int r = 0; r < ROUNDS; r++) load_page<N, E>(keys[r], a.keys, head, r * (PAGE_TOKENS / ROUNDS) + lane / LANES, column);
    UNROLL for (int g = 0; g < G; g++) UNROLL for (int part = 0; part < N; part += 4) {
      Packet<float> four = load_packet(q + g * a.padded + column + part);
      UNROLL for (int j = 0; j < 4; j++) UNROLL for (int r = 0; r < ROUNDS; r++) sums[r][g] =
          fmaf(keys[r][part + j], four.at[j], sums[r][g]);
    }
  }
  UNROLL for (int r = 0; r < ROUNDS; r++) UNROLL for (int g = 0; g < G; g++) {
    float sum = sums[r][g];
    for (int step = 1; step < LANES; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane % LANES == 0) scores[g * PAGE_TOKENS + r * (PAGE_TOKENS / ROUNDS) + lane / LANES] = sum;
  }
}

// Block (s, h, i): pages of split s of row i, some heads of a KV head. A lane has four neighbouring columns of values of each 128.
// evidence: threads ALONE_THREADS, shared 4 * ALONE_WARPS * G * (2 + 128 * CHUNKS)
template <typename E, int G, int CHUNKS>
__global__ void __launch_bounds__(ALONE_THREADS, G * CHUNKS < 4 ? 4 : 1) attention_alone(Alone a) {
  DYNAMIC_SHARED(float, memory);
  const AloneRow row = a.rows[blockIdx.z];
  if (static_cast<int>(blockIdx.x) >= row.splits) return;
  AloneHeads heads = heads_of_block<G>(a);
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  float *scores = memory + G * a.padded + warp * G * PAGE_TOKENS;
  for (int i = threadIdx.x; i < G * a.padded; i += ALONE_THREADS) {
    int g = i / a.padded, c = i % a.padded;
    bool is_there = g < heads.count && c < a.keys.size;
    memory[i] = is_there ? a.q[(row.row * a.heads + heads.first + g) * a.keys.size + c] : 0;
  }
  __syncthreads();
  float maximum[G], total[G], sums[G][CHUNKS][4] = {};
  UNROLL for (int g = 0; g < G; g++) maximum[g] = -INFINITY, total[g] = 0;
  int begin = row.first / PAGE_TOKENS + blockIdx.x * row.pages_each, all = (row.end + PAGE_TOKENS - 1) / PAGE_TOKENS;
  for (int page = begin + warp; page < min(begin + row.pages_each, all); page += ALONE_WARPS) {
    int32_t number = a.tables[row.table + page];
    score_page<E, G>(scores, a, memory, page_head(a.keys, number, heads.kv_head));
    __syncwarp();
    int token = page * PAGE_TOKENS + lane;
    UNROLL for (int g = 0; g < G; g++) {
      float s = a.scale * scores[g * PAGE_TOKENS + lane];
      if (a.softcap > 0) s = a.softcap * tanhf(s / a.softcap);
      if (token < row.first || token >= row.end) s = -INFINITY;
      float largest = fmaxf(maximum[g], warp_max(s)), shift = largest == -INFINITY ? 0 : largest;
      float p = expf(s - shift), faded = expf(maximum[g] - shift);
      maximum[g] = largest, total[g] = total[g] * faded + warp_sum(p);
      scores[g * PAGE_TOKENS + lane] = p;
      UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int j = 0; j < 4; j++) sums[g][chunk][j] *= faded;
    }
    __syncwarp();
    const char *head = page_head(a.values, number, heads.kv_head);
    int last = min(row.end - page * PAGE_TOKENS, int(PAGE_TOKENS));
#pragma unroll 4
    for (int place = max(row.first - page * PAGE_TOKENS, 0); place < last; place++)
      UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) {
        float values[4];
        int column = chunk * 128 + lane * 4;
        if (column >= a.values.size) continue;
        load_page<4, E>(values, a.values, head, place, column);
        UNROLL for (int g = 0; g < G; g++) UNROLL for (int j = 0; j < 4; j++) sums[g][chunk][j] =
            fmaf(scores[g * PAGE_TOKENS + place], values[j], sums[g][chunk][j]);
      }
    __syncwarp();
  }
  // The warps' m, l and sums: [warps][G][2 + value_size].
  int size = a.values.size, stride = 2 + size;
  __syncthreads();
  UNROLL for (int g = 0; g < G; g++) {
    float *own = memory + (warp * G + g) * stride;
    if (lane == 0) own[0] = maximum[g], own[1] = total[g];
    UNROLL for (int chunk = 0; chunk < CHUNKS; chunk++) UNROLL for (int j = 0; j < 4; j++)
        if (chunk * 128 + lane * 4 + j < size) own[2 + chunk * 128 + lane * 4 + j] = sums[g][chunk][j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads.count * size; i += ALONE_THREADS) {
    int g = i / size, column = i % size;
    float largest = -INFINITY, whole = 0, sum = 0;
    for (int w = 0; w < ALONE_WARPS; w++) largest = fmaxf(largest, memory[(w * G + g) * stride]);
    for (int w = 0; w < ALONE_WARPS; w++) {
      const float *part = memory + (w * G + g) * stride;
      float weight = expf(part[0] - largest);
      whole += weight * part[1];
      sum += weight * part[2 + column];
    }
    int64_t head = heads.first + g, part = (row.part + blockIdx.x) * a.heads + head;
    if (row.splits == 1) a.o[(row.row * a.heads + head) * size + column] = sum / whole;
    else a.part_sums[part * size + column] = sum;
    if (row.splits > 1 && column == 0) a.part_states[part] = make_float2(largest, whole);
  }
}

// Block (h, i): head h of row i from the parts of its blocks.
// evidence: threads 64
__global__ void attention_alone_join(Alone a) {
  const AloneRow row = a.rows[blockIdx.y];
  if (row.splits == 1) return;
  int size = a.values.size;
  int64_t head = blockIdx.x;
  float largest = -INFINITY, whole = 0;
  for (int s = 0; s < row.splits; s++) largest = fmaxf(largest, a.part_states[(row.part + s) * a.heads + head].x);
  for (int s = 0; s < row.splits; s++) {
    float2 state = a.part_states[(row.part + s) * a.heads + head];
    whole += expf(state.x - largest) * state.y;
  }
  for (int column = threadIdx.x; column < size; column += blockDim.x) {
    float sum = 0;
    for (int s = 0; s < row.splits; s++) {
      int64_t part = (row.part + s) * a.heads + head;
      sum += expf(a.part_states[part].x - largest) * a.part_sums[part * size + column];
    }
    a.o[(row.row * a.heads + head) * size + column] = sum / whole;
  }
}

// use(Count<G>()) with how many query heads a block has, for `group` of them on a KV head.
template <typename Use>
static void with_heads(int64_t group, Use use) {
  if (group == 1) use(Count<1>());
  else if (group == 2) use(Count<2>());
  else if (group <= 4) use(Count<4>());
  else use(Count<8>());
}

static AloneRow alone_row(const PagedSpan *span, int64_t i, int64_t window) {
  AloneRow row = {};
  int64_t end = span->length - (span->query_end - 1 - i), first = window > 0 && end > window ? end - window : 0;
  int64_t pages = blocks_for(end, PAGE_TOKENS) - first / PAGE_TOKENS, each = ALONE_PAGES;
  while (blocks_for(pages, each) > MOST_SPLITS) each *= 2;
  row.row = i, row.table = span->table, row.first = static_cast<int>(first), row.end = static_cast<int>(end);
  row.pages_each = static_cast<int>(each), row.splits = static_cast<int>(blocks_for(pages, each));
  return row;
}

template <typename E, int G, int CHUNKS>
static void start_alone(const Alone &a, int64_t rows, int splits, Device *device) {
  int64_t group = a.heads / a.keys.kv_heads, pieces = blocks_for(group, G);
  int64_t operands = G * a.padded + ALONE_WARPS * G * PAGE_TOKENS, results = ALONE_WARPS * G * (2 + a.values.size);
  int64_t shared = (operands > results ? operands : results) * static_cast<int64_t>(sizeof(float));
  auto kernel = attention_alone<E, G, CHUNKS>;
  for (int64_t first = 0; first < rows; first += MOST_ROWS) {
    Alone some = a;
    some.rows += first;
    unsigned count = static_cast<unsigned>(rows - first < MOST_ROWS ? rows - first : int64_t(MOST_ROWS));
    dim3 grid(splits, static_cast<unsigned>(a.keys.kv_heads * pieces), count);
    LAUNCH(device, kernel, grid, dim3(ALONE_THREADS), shared, some);
    if (splits > 1) LAUNCH(device, attention_alone_join, dim3(a.heads, count), dim3(64), 0, some);
  }
}

// Rows of the spans that are alone. Their number and the most splits of one are in *count and *splits.
static AloneRow *alone_rows(int64_t *count, int *splits, int64_t *parts, const PagedSpan *spans, int64_t span_count, int64_t window) {
  int64_t most = 0;
  *count = 0, *splits = 0, *parts = 0;
  for (const PagedSpan *span = spans; span < spans + span_count; span++) most += span->is_alone ? span->query_end - span->query_begin : 0;
  AloneRow *rows = static_cast<AloneRow *>(memory_new(static_cast<size_t>(most) + 1, sizeof *rows));
  for (const PagedSpan *span = spans; span < spans + span_count; span++)
    for (int64_t i = span->query_begin; span->is_alone && i < span->query_end; i++) {
      AloneRow row = alone_row(span, i, window);
      row.part = *parts;
      if (row.splits > 1) *parts += row.splits;
      if (row.splits > *splits) *splits = row.splits;
      rows[(*count)++] = row;
    }
  return rows;
}

static void attend_alone(Alone a, PagesType type, const PagedSpan *spans, int64_t span_count, const AttentionShape &shape,
                         Device *device) {
  int64_t count, parts;
  int splits;
  AloneRow *rows = alone_rows(&count, &splits, &parts, spans, span_count, shape.window);
  a.rows = count ? static_cast<const AloneRow *>(device_stage(device, rows, count * static_cast<int64_t>(sizeof *rows))) : NULL;
  free(rows);
  if (!a.rows) return;
  if (parts > 0) {
    int64_t heads = parts * shape.heads;
    void *room =
        device_workspace(device, WORKSPACE_PARTS, heads * static_cast<int64_t>(sizeof(float2) + shape.value_size * sizeof(float)));
    if (!room) return;
    a.part_states = static_cast<float2 *>(room), a.part_sums = reinterpret_cast<float *>(a.part_states + heads);
  }
  with_pages(type, [&](auto element) {
    with_heads(shape.heads / shape.kv_heads, [&](auto group) {
      using E = decltype(element);
      constexpr int G = decltype(group)::VALUE;
      if (shape.value_size <= 128) start_alone<E, G, 1>(a, count, splits, device);
      else start_alone<E, G, 2>(a, count, splits, device);
    });
  });
}

void cuda_paged_attention(float *o, const float *q, const Pages *pages, const int32_t *tables, const PagedSpan *spans, int64_t span_count,
                          AttentionShape shape, Backend *backend) {
  Device *device = device_of(backend);
  Alone a = {};
  a.o = o, a.q = q, a.tables = tables, a.scale = shape.scale, a.softcap = shape.softcap;
  a.keys = page_store(pages->keys, pages->type, shape.head_size, shape.kv_heads);
  a.values = page_store(pages->values, pages->type, shape.value_size, shape.kv_heads);
  a.heads = static_cast<int>(shape.heads), a.padded = static_cast<int>(round_up(shape.head_size, 32));
  attend_alone(a, pages->type, spans, span_count, shape, device);
  attention_forward_pages(o, q, pages, tables, spans, span_count, shape, device);
}
