// The adapters of a batch's rows: y_i += scale (x_i a^T) b^T for the rows i of each group, in two launches for all groups.
//   shrink   h_i = x_i a^T: a warp has a rank's row of a, which it reads once for ROWS rows of x
//   expand   y_i += scale h_i b^T: a thread has an output, whose row of b it reads once for ROWS rows of h
// What is read of an adapter is read again for each ROWS rows that have it. A row's sums have one order, whatever rows are beside it.
#include "kernels/cuda/elements.h"

enum { ROWS = 4, SHRINK_THREADS = 128, SHRINK_WARPS = SHRINK_THREADS / WARP, EXPAND_THREADS = 128, MOST_RANK = 256 };

// Some rows of a group, at most ROWS.
struct AdapterTile {
  float *y;
  const float *a, *b;
  int64_t first;  // row
  int64_t at;  // of its h[count, rank] among those of all tiles
  int count, out, rank;
  float scale;
};

// Block (t, r): ranks SHRINK_WARPS r and the next, one a warp, of tile t.
__global__ void __launch_bounds__(SHRINK_THREADS) low_rank_shrink(float *h, const AdapterTile *tiles, const float *x, int64_t step,
                                                                  int columns) {
  const AdapterTile tile = tiles[blockIdx.x];
  int rank = blockIdx.y * SHRINK_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (rank >= tile.rank) return;
  const float *a = tile.a + static_cast<int64_t>(rank) * columns, *first = x + tile.first * step;
  float sums[ROWS] = {};
#pragma unroll 4
  for (int c = lane; c < columns; c += WARP) {
    float weight = a[c];
    UNROLL for (int i = 0; i < ROWS; i++) sums[i] = fmaf(weight, first[(i < tile.count ? i : 0) * step + c], sums[i]);
  }
  UNROLL for (int i = 0; i < ROWS; i++) {
    float sum = warp_sum(sums[i]);
    if (lane == 0 && i < tile.count) h[tile.at + i * tile.rank + rank] = sum;
  }
}

// Block (t, j): outputs EXPAND_THREADS j and the next, one a thread, of tile t.
__global__ void __launch_bounds__(EXPAND_THREADS) low_rank_expand(const float *h, const AdapterTile *tiles) {
  const AdapterTile tile = tiles[blockIdx.x];
  SHARED(float, own, [ROWS][MOST_RANK]);
  int j = blockIdx.y * EXPAND_THREADS + threadIdx.x;
  if (static_cast<int>(blockIdx.y * EXPAND_THREADS) >= tile.out) return;
  float sums[ROWS] = {};
  for (int begin = 0; begin < tile.rank; begin += MOST_RANK) {
    int ranks = min(int(MOST_RANK), tile.rank - begin);
    __syncthreads();
    for (int k = threadIdx.x; k < ROWS * ranks; k += EXPAND_THREADS) {
      int i = k / ranks, r = k % ranks;
      own[i][r] = i < tile.count ? h[tile.at + i * tile.rank + begin + r] : 0;
    }
    __syncthreads();
    if (j >= tile.out) continue;
    const float *b = tile.b + static_cast<int64_t>(j) * tile.rank + begin;
#pragma unroll 4
    for (int r = 0; r < ranks; r++) {
      float weight = b[r];
      UNROLL for (int i = 0; i < ROWS; i++) sums[i] = fmaf(own[i][r], weight, sums[i]);
    }
  }
  UNROLL for (int i = 0; i < ROWS; i++) {
    if (i >= tile.count || j >= tile.out) continue;
    float *y = tile.y + (tile.first + i) * tile.out + j;
    *y = fmaf(tile.scale, sums[i], *y);
  }
}

// The tiles of all groups, whose h follow one another.
static AdapterTile *plan_tiles(int64_t *count, int64_t *floats, int *most_rank, int *most_out, const LowRankRows *groups, int group_count) {
  int64_t most = 0;
  for (const LowRankRows *g = groups; g < groups + group_count; g++) most += blocks_for(g->end - g->begin, ROWS);
  AdapterTile *tiles = static_cast<AdapterTile *>(memory_new(static_cast<size_t>(most) + 1, sizeof *tiles));
  *count = 0, *floats = 0, *most_rank = 0, *most_out = 0;
  for (const LowRankRows *g = groups; g < groups + group_count; g++) {
    if (g->rank <= 0 || g->out <= 0) continue;
    *most_rank = g->rank > *most_rank ? static_cast<int>(g->rank) : *most_rank;
    *most_out = g->out > *most_out ? static_cast<int>(g->out) : *most_out;
    for (int64_t first = g->begin; first < g->end; first += ROWS) {
      int rows = static_cast<int>(g->end - first < ROWS ? g->end - first : int64_t(ROWS));
      tiles[(*count)++] = {g->y, g->a, g->b, first, *floats, rows, static_cast<int>(g->out), static_cast<int>(g->rank), g->scale};
      *floats += rows * g->rank;
    }
  }
  return tiles;
}

void cuda_low_rank_rows(const LowRankRows *groups, int count, Rows x, int64_t columns, Backend *backend) {
  Device *device = device_of(backend);
  int64_t tile_count, floats;
  int rank, out;
  AdapterTile *tiles = plan_tiles(&tile_count, &floats, &rank, &out, groups, count);
  float *h = NULL;
  if (tile_count > 0) h = static_cast<float *>(device_workspace(device, WORKSPACE_PARTS, floats * static_cast<int64_t>(sizeof(float))));
  if (h) {
    auto sent = static_cast<const AdapterTile *>(device_stage(device, tiles, tile_count * static_cast<int64_t>(sizeof *tiles)));
    unsigned all = static_cast<unsigned>(tile_count);
    LAUNCH(device, low_rank_shrink, dim3(all, blocks_for(rank, SHRINK_WARPS)), dim3(SHRINK_THREADS), 0, h, sent,
           static_cast<const float *>(x.data), x.step, static_cast<int>(columns));
    LAUNCH(device, low_rank_expand, dim3(all, blocks_for(out, EXPAND_THREADS)), dim3(EXPAND_THREADS), 0, h, sent);
  }
  free(tiles);
}
