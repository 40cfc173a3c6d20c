// Plans a product (product.h): what its operands are copied to, which tiles it takes, in how many parts k goes. Tensor cores read operands
// of their own type in packets of 16 bytes; what does not lie so (LoRA's factors are float32, steps may be odd) is first copied into a
// workspace by one kernel for all operands. That costs a second reading of small matrices only, and leaves one way to load a tile.
#include "kernels/cuda/product_tiles.h"

namespace {

struct Copy {
  const void *from;
  FloatType type;
  int64_t from_step, rows, columns;
  int64_t at, to_step, width;  // elements; columns up to width become zeros
};
enum { COPIES = PRODUCT_TERMS * (PRODUCT_OUTPUTS + 1), COPY_THREADS = 256 };
struct OperandCopies {
  Copy copy[COPIES];
  int count;
};

// Eight values of one type as another, in packets.
template <typename From, typename To>
__device__ __forceinline__ void copy_octet(To *to, const From *from) {
  Packet<From> in[8 / Packet<From>::COUNT];
  Packet<To> out[8 / Packet<To>::COUNT];
#pragma unroll
  for (int i = 0; i < 8 / Packet<From>::COUNT; i++) in[i] = load_packet(from + i * Packet<From>::COUNT);
#pragma unroll
  for (int i = 0; i < 8; i++)
    out[i / Packet<To>::COUNT].at[i % Packet<To>::COUNT] =
        from_float<To>(to_float(in[i / Packet<From>::COUNT].at[i % Packet<From>::COUNT]));
#pragma unroll
  for (int i = 0; i < 8 / Packet<To>::COUNT; i++) store_packet(to + i * Packet<To>::COUNT, out[i]);
}

template <typename T>
__global__ void __launch_bounds__(COPY_THREADS) copy_operands(T *target, OperandCopies copies) {
  const Copy &copy = copies.copy[blockIdx.y];
  int64_t step = static_cast<int64_t>(gridDim.x) * COPY_THREADS, octets = (copy.width + 7) / 8, bytes = copy.type == FLOAT_32 ? 4 : 2;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * COPY_THREADS + threadIdx.x; at < copy.rows * octets; at += step) {
    int64_t row = quotient(at, octets), column = (at - row * octets) * 8;
    T *to = target + copy.at + row * copy.to_step + column;
    const char *from = static_cast<const char *>(copy.from) + (row * copy.from_step + column) * bytes;
    if (column + 8 <= copy.columns && (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 == 0) {
      if (copy.type == FLOAT_32) copy_octet(to, reinterpret_cast<const float *>(from));
      else if (copy.type == FLOAT_BF16) copy_octet(to, reinterpret_cast<const bf16 *>(from));
      else copy_octet(to, reinterpret_cast<const fp16 *>(from));
      continue;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (column + i < copy.width) to[i] = from_float<T>(column + i < copy.columns ? load_any(from, copy.type, i) : 0);
  }
}

enum { FINISH_THREADS = 256 };

// c from the parts of its sums, or from none; a thread has four that lie side by side.
__global__ void __launch_bounds__(FINISH_THREADS) sum_parts(TileArguments p, const float *parts, int count) {
  int64_t length = p.along_columns ? p.m : p.n, runs = (length + 3) / 4, all = (p.along_columns ? p.n : p.m) * runs;
  int64_t step = static_cast<int64_t>(gridDim.x) * FINISH_THREADS;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * FINISH_THREADS + threadIdx.x; at < all; at += step) {
    int64_t line = quotient(at, runs), first = (at - line * runs) * 4;
    float sums[4] = {};
    for (int part = 0; part < count; part++) {
      const float *from = parts + part * p.m * p.n + line * length + first;
      if (first + 4 <= length && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        float4 four = *reinterpret_cast<const float4 *>(from);
        sums[0] += four.x, sums[1] += four.y, sums[2] += four.z, sums[3] += four.w;
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (first + e < length) sums[e] += from[e];
      }
    }
    put_run(p, p.along_columns ? first : line, p.along_columns ? line : first, p.m, sums);
  }
}

bool is_in_place(const Operand &operand, FloatType type, int64_t contiguous) {
  if (operand.type != type) return false;
  return type == FLOAT_32 || (is_aligned(operand.data) && operand.step % 8 == 0 && contiguous % 8 == 0);
}

void run_copies(void *to, FloatType type, const OperandCopies &copies, Device *device) {
  int64_t most = 0;
  for (int i = 0; i < copies.count; i++)
    most = copies.copy[i].rows * copies.copy[i].width > most ? copies.copy[i].rows * copies.copy[i].width : most;
  if (most == 0) return;
  unsigned blocks = blocks_for(most, COPY_THREADS * 8), limit = 16 * static_cast<unsigned>(device->processors);
  with_type(type, [&](auto element) {
    using T = decltype(element);
    auto kernel = copy_operands<T>;
    LAUNCH(device, kernel, dim3(blocks < limit ? blocks : limit, copies.count), COPY_THREADS, 0, static_cast<T *>(to), copies);
  });
}

// Where operands go that cannot be read where they are: element offsets first, addresses when all are known.
struct Packing {
  OperandCopies copies;
  int64_t elements;
};

// The matrices `pieces`, which stand side by side across k, as one. An offset stands for the address of a copy: `is_copied`.
struct Packed {
  Operand operand;
  bool is_copied;
  int64_t at;
};
Packed pack(Packing *packing, const Operand *pieces, const int64_t *extents, int count, int64_t k, FloatType type) {
  bool along_k = pieces[0].along_k;
  if (count == 1 && is_in_place(pieces[0], type, along_k ? k : extents[0])) return {pieces[0], false, 0};
  int64_t total = 0, first = 0;
  for (int i = 0; i < count; i++) total += extents[i];
  int64_t step = round_up(along_k ? k : total, 8);
  Packed packed = {{NULL, type, step, along_k}, true, packing->elements};
  for (int i = 0; i < count; first += extents[i++]) {
    int64_t columns = along_k ? k : extents[i], width = along_k ? step : i + 1 < count ? extents[i] : step - first;
    packing->copies.copy[packing->copies.count++] = {
        pieces[i].data, pieces[i].type, pieces[i].step, along_k ? extents[i] : k, columns, packed.at + (along_k ? first * step : first),
        step,           width};
  }
  packing->elements += round_up((along_k ? total : k) * step, 8);
  return packed;
}

// Puts the operands of all terms where kernels can read them; false without memory for it.
bool place_operands(TileArguments *p, const DenseProduct &product, Device *device) {
  Packing packing = {};
  Packed a[PRODUCT_TERMS], b[PRODUCT_TERMS];
  int64_t extents[PRODUCT_OUTPUTS];
  for (int o = 0; o < product.output_count; o++) extents[o] = product.outputs[o].columns;
  for (int t = 0; t < product.term_count; t++) {
    const ProductTerm &term = product.terms[t];
    a[t] = pack(&packing, &term.a, &product.m, 1, term.k, product.type);
    b[t] = pack(&packing, term.b, extents, product.output_count, term.k, product.type);
  }
  int64_t bytes = float_bytes(product.type);
  char *to = NULL;
  if (packing.elements > 0) {
    to = static_cast<char *>(device_workspace(device, WORKSPACE_ROWS, packing.elements * bytes));
    if (!to) return false;
    run_copies(to, product.type, packing.copies, device);
  }
  for (int t = 0; t < product.term_count; t++) {
    TileTerm &term = p->terms[t];
    term.a = a[t].is_copied ? to + a[t].at * bytes : a[t].operand.data, term.a_step = a[t].operand.step;
    term.b = b[t].is_copied ? to + b[t].at * bytes : b[t].operand.data, term.b_step = b[t].operand.step;
  }
  return true;
}

typedef void (*TileKernel)(TileArguments);

struct TilePlan {
  TileKernel kernel;
  int rows, columns, k, threads;
  int64_t shared;
};

template <typename T, int ROWS, int COLUMNS, int WARPS_M, int WARPS_N, int STAGES, bool A_ALONG_K, bool B_ALONG_K>
TilePlan plan_of() {
  using Shape = TileShape<T, ROWS, COLUMNS, WARPS_M, WARPS_N, STAGES, A_ALONG_K, B_ALONG_K>;
  return {tile_product<T, ROWS, COLUMNS, WARPS_M, WARPS_N, STAGES, A_ALONG_K, B_ALONG_K>,
          ROWS,
          COLUMNS,
          TILE_K,
          Shape::THREADS,
          Shape::SHARED_BYTES};
}

// Large tiles read operands less often; small ones where c has few of the large, and for outputs of a rank's width.
template <typename T, bool A_ALONG_K, bool B_ALONG_K>
TilePlan choose_tiles(bool is_large) {
  return is_large ? plan_of<T, 128, 128, 2, 4, 3, A_ALONG_K, B_ALONG_K>() : plan_of<T, 64, 64, 2, 2, 4, A_ALONG_K, B_ALONG_K>();
}
template <>
TilePlan choose_tiles<float, true, true>(bool is_large) {
  if (is_large) return {float_product<8, true, true>, 128, 128, FLOAT_K, FLOAT_THREADS, 0};
  return {float_product<4, true, true>, 64, 64, FLOAT_K, FLOAT_THREADS, 0};
}
template <>
TilePlan choose_tiles<float, true, false>(bool is_large) {
  if (is_large) return {float_product<8, true, false>, 128, 128, FLOAT_K, FLOAT_THREADS, 0};
  return {float_product<4, true, false>, 64, 64, FLOAT_K, FLOAT_THREADS, 0};
}
template <>
TilePlan choose_tiles<float, false, false>(bool is_large) {
  if (is_large) return {float_product<8, false, false>, 128, 128, FLOAT_K, FLOAT_THREADS, 0};
  return {float_product<4, false, false>, 64, 64, FLOAT_K, FLOAT_THREADS, 0};
}

// Products are x w^T, dy w and dy^T x.
template <typename T>
TilePlan tiles_for(const DenseProduct &product, bool is_large) {
  if (!product.terms[0].a.along_k) return choose_tiles<T, false, false>(is_large);
  return product.terms[0].b[0].along_k ? choose_tiles<T, true, true>(is_large) : choose_tiles<T, true, false>(is_large);
}

void finish(TileArguments p, int count, Device *device) {
  unsigned blocks = blocks_for(p.m * p.n, 4 * FINISH_THREADS), limit = 16 * static_cast<unsigned>(device->processors);
  const float *parts = p.parts;
  p.parts = NULL;
  LAUNCH(device, sum_parts, blocks < limit ? blocks : limit, FINISH_THREADS, 0, p, parts, count);
}

// In how many parts a thin product goes, so that every processor has two blocks, of at least 256 of k.
int parts_for(int64_t tiles_of_c, int tiles_of_k, int tile_k, const Device *device) {
  if (is_deterministic(device)) return 1;
  int64_t wanted = 2 * device->processors / tiles_of_c, most = tiles_of_k / (256 / tile_k);
  int64_t parts = wanted < most ? wanted : most;
  return static_cast<int>(parts < 1 ? 1 : parts > 64 ? 64 : parts);
}

void run_tiles(TileArguments *p, const DenseProduct &product, Device *device) {
  TilePlan plan = {};
  int64_t large_tiles = blocks_for(p->m, 128) * static_cast<int64_t>(blocks_for(p->n, 128));
  bool is_large = p->n > 64 && p->m > 64 && large_tiles >= device->processors;
  with_type(product.type, [&](auto element) { plan = tiles_for<decltype(element)>(product, is_large); });
  p->row_tiles = blocks_for(p->m, plan.rows), p->column_tiles = blocks_for(p->n, plan.columns);
  for (int t = 0; t < product.term_count; t++) {
    p->tiles += static_cast<int>(blocks_for(product.terms[t].k, plan.k));
    p->terms[t].end = p->tiles;
  }
  int parts = parts_for(p->row_tiles * p->column_tiles, p->tiles, plan.k, device);
  p->tiles_per_part = (p->tiles + parts - 1) / parts;
  parts = (p->tiles + p->tiles_per_part - 1) / p->tiles_per_part;
  if (parts > 1)
    p->parts = static_cast<float *>(device_workspace(device, WORKSPACE_PARTS, parts * p->m * p->n * static_cast<int64_t>(sizeof(float))));
  if (parts > 1 && !p->parts) return;
  TileKernel kernel = plan.kernel;
  LAUNCH(device, kernel, dim3(static_cast<unsigned>(p->row_tiles * p->column_tiles), 1, parts), plan.threads, plan.shared, *p);
  if (parts > 1) finish(*p, parts, device);
}

}  // namespace

void product_run(const DenseProduct &given, Device *device) {
  DenseProduct product = given;
  product.term_count = 0;
  for (int t = 0; t < given.term_count; t++)
    if (given.terms[t].k > 0 && given.terms[t].alpha != 0) product.terms[product.term_count++] = given.terms[t];
  TileArguments p = {};
  p.m = product.m;
  p.term_count = product.term_count, p.output_count = product.output_count;
  for (int o = 0; o < product.output_count; o++) p.n += product.outputs[o].columns, p.outputs[o] = product.outputs[o];
  p.along_columns = product.outputs[0].row_step == 1 && product.outputs[0].column_step != 1;
  if (p.m == 0 || p.n == 0) return;
  for (int t = 0; t < product.term_count; t++) p.terms[t].k = product.terms[t].k, p.terms[t].alpha = product.terms[t].alpha;
  if (product.term_count == 0) finish(p, 0, device);
  else if (place_operands(&p, product, device)) run_tiles(&p, product, device);
}

Operand operand_in_place(Operand operand, FloatType type, int64_t rows, int64_t columns, Workspace purpose, Device *device) {
  if (is_in_place(operand, type, columns)) return operand;
  int64_t step = round_up(columns, 8);
  OperandCopies copies = {};
  copies.copy[copies.count++] = {operand.data, operand.type, operand.step, rows, columns, 0, step, step};
  void *to = device_workspace(device, purpose, rows * step * float_bytes(type));
  if (to) run_copies(to, type, copies, device);
  return {to, type, step, operand.along_k};
}

void rows_convert(Rows to, Rows from, int64_t rows, int64_t columns, Device *device) {
  OperandCopies copies = {};
  copies.copy[copies.count++] = {from.data, from.type, from.step, rows, columns, 0, to.step, columns};
  run_copies(to.data, to.type, copies, device);
}
