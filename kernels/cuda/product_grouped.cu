// Grouped products (product.h): the table of tiles, and one launch for several groups. The grid has a block for every tile that there can
// be at most, and blocks find out on the device which tile they have, if any:
//   sum of ceil(rows of a group / tile_rows) <= (rows + groups (tile_rows - 1)) / tile_rows
#include "kernels/cuda/product_tiles.h"

namespace {

enum { TABLE_THREADS = 128, SMALL_TILE = 64, LARGE_TILE = 128 };

int64_t most_tiles(int64_t groups, int64_t rows, int tile_rows) { return (rows + groups * (tile_rows - 1)) / tile_rows; }

// Where the tiles lie in the room, behind tile_starts.
int64_t tiles_offset(int64_t groups) { return round_up((groups + 1) * static_cast<int64_t>(sizeof(int32_t)), 256); }

// A block a group.
__global__ void __launch_bounds__(TABLE_THREADS) make_tiles(int32_t *tile_starts, RowTile *tiles, const int32_t *starts, int tile_rows) {
  SHARED(int, room, [WARP]);
  const int group = blockIdx.x;
  int before = 0;
  for (int g = threadIdx.x; g < group; g += TABLE_THREADS) before += (starts[g + 1] - starts[g] + tile_rows - 1) / tile_rows;
  before = block_sum(before, room);
  const int first = starts[group], end = starts[group + 1], count = (end - first + tile_rows - 1) / tile_rows;
  for (int i = threadIdx.x; i < count; i += TABLE_THREADS) tiles[before + i] = {first + i * tile_rows, end, group};
  if (threadIdx.x > 0) return;
  tile_starts[group] = before;
  if (group + 1 == static_cast<int>(gridDim.x)) tile_starts[group + 1] = before + count;
}

typedef void (*TileKernel)(TileArguments);

struct GroupedPlan {
  TileKernel kernel;
  int k, threads;
  int64_t shared;
};

template <typename T, int SIDE, int WARPS_M, int WARPS_N, int STAGES, bool B_ALONG_K>
GroupedPlan plan_of() {
  using Shape = TileShape<T, SIDE, SIDE, WARPS_M, WARPS_N, STAGES, true, B_ALONG_K>;
  return {tile_product<T, SIDE, SIDE, WARPS_M, WARPS_N, STAGES, true, B_ALONG_K, true>, TILE_K, Shape::THREADS, Shape::SHARED_BYTES};
}

template <typename T, bool B_ALONG_K>
struct Plans {
  static GroupedPlan of(bool is_large) {
    return is_large ? plan_of<T, LARGE_TILE, 2, 4, 3, B_ALONG_K>() : plan_of<T, SMALL_TILE, 2, 2, 4, B_ALONG_K>();
  }
};
template <bool B_ALONG_K>
struct Plans<float, B_ALONG_K> {
  static GroupedPlan of(bool is_large) {
    if (is_large) return {float_product<LARGE_TILE / 16, true, B_ALONG_K, true>, FLOAT_K, FLOAT_THREADS, 0};
    return {float_product<SMALL_TILE / 16, true, B_ALONG_K, true>, FLOAT_K, FLOAT_THREADS, 0};
  }
};

}  // namespace

int64_t row_groups_bytes(int64_t groups, int64_t rows) {
  return tiles_offset(groups) + most_tiles(groups, rows, SMALL_TILE) * static_cast<int64_t>(sizeof(RowTile));
}

RowGroups row_groups_new(void *room, const int32_t *starts, int64_t groups, int64_t rows, int64_t columns, Device *device) {
  int32_t *tile_starts = static_cast<int32_t *>(room);
  RowTile *tiles = reinterpret_cast<RowTile *>(static_cast<char *>(room) + tiles_offset(groups));
  // Large tiles where most of them are full, and there is one for every processor.
  int64_t full = rows / LARGE_TILE * static_cast<int64_t>(blocks_for(columns, LARGE_TILE));
  bool is_large = columns > SMALL_TILE && rows >= groups * LARGE_TILE * 3 / 4 && full >= device->processors;
  RowGroups made = {rows, is_large ? LARGE_TILE : SMALL_TILE, tile_starts, tiles};
  LAUNCH(device, make_tiles, static_cast<unsigned>(groups), TABLE_THREADS, 0, tile_starts, tiles, starts, made.tile_rows);
  return made;
}

void product_run_groups(const DenseProduct &product, const RowGroups &groups, int64_t first, int64_t last, int64_t b_step, Device *device) {
  bool is_large = groups.tile_rows == LARGE_TILE;
  GroupedPlan plan = {};
  with_type(product.type, [&](auto element) {
    using T = decltype(element);
    plan = product.terms[0].b[0].along_k ? Plans<T, true>::of(is_large) : Plans<T, false>::of(is_large);
  });
  TileArguments p = {};
  p.m = product.m, p.term_count = product.term_count, p.output_count = product.output_count;
  p.groups = {groups, static_cast<int>(first), static_cast<int>(last), b_step};
  for (int o = 0; o < product.output_count; o++) p.n += product.outputs[o].columns, p.outputs[o] = product.outputs[o];
  for (int t = 0; t < product.term_count; t++) {
    const ProductTerm &term = product.terms[t];
    p.tiles += static_cast<int>(blocks_for(term.k, plan.k));
    p.terms[t] = {term.a.data, term.b[0].data, term.a.step, term.b[0].step, term.k, p.tiles, term.alpha};
  }
  p.tiles_per_part = p.tiles;
  p.row_tiles = most_tiles(last - first, groups.rows, groups.tile_rows), p.column_tiles = blocks_for(p.n, groups.tile_rows);
  TileKernel kernel = plan.kernel;
  LAUNCH(device, kernel, static_cast<unsigned>(p.row_tiles * p.column_tiles), plan.threads, plan.shared, p);
}
