// y_i = alpha x_i w^T + h_i low^T + bias + residual_i for few rows i of x, whose w is dequantised in registers, straight into the operands of
// the tensor cores: nothing but the codes is read, once.
//
// A warp has 16 rows of w, which are the 16 rows of mma_16x8x16's a; x is b. The order of the columns is free as long as a and b have the
// same: of a slab of 128 columns lane t of four has unit t, 32 neighbours, so that it reads its codes at once and unpacks an octet for two
// multiplications. Codes and x come to shared memory by cp.async, some slabs ahead. Where there are too few blocks of rows for the device,
// several blocks share the columns, and a second kernel adds up their sums in order.
// Shared memory is read without conflicts: octet o of unit t of x's row r is the 16 bytes at (4 o + t) ^ 4 (r % 2); of codes of 8 bits, 16
// bytes c of row r are at c ^ (r % 2).
#include "kernels/cuda/fused.h"

enum { SLAB = 128, UNITS = SLAB / UNIT, X_BYTES = SLAB * 2, LEAST_SLABS = 2, STAGES_BYTES = 46 << 10, MOST_STAGES = 4 };

template <Form F, int TILES>
struct Shape {
  static constexpr FormTraits form = form_traits[F];
  static constexpr int WARPS = TILES == 1 || form.bytes ? 4 : 8, THREADS = WARPS * WARP, ROWS = WARPS * 16, X_ROWS = TILES * 8;
  static constexpr int CODE_BYTES = form.nibbles ? SLAB / 2 : form.bytes ? SLAB : 0;  // of a row
  static constexpr int PAIR_BYTES = form.pairs ? SLAB / 4 : 0, BIT_BYTES = form.bits ? SLAB / 8 : 0;
  static constexpr int CODES_AT = X_ROWS * X_BYTES, PAIRS_AT = CODES_AT + ROWS * CODE_BYTES, BITS_AT = PAIRS_AT + ROWS * PAIR_BYTES;
  static constexpr int STAGE_BYTES = BITS_AT + ROWS * BIT_BYTES;
  static constexpr int FIT = STAGES_BYTES / STAGE_BYTES, STAGES = FIT < MOST_STAGES ? FIT : MOST_STAGES;
  static_assert(STAGES >= 2, "a slab is read while another is multiplied");
  // Octets of a unit that have a scale together.
  static constexpr bool by_16 = form.scales == SCALES_K_NIBBLES || form.scales == SCALES_K_SIGNED_16 || form.scales == SCALES_GROUPED;
  static constexpr int SCALE_OCTETS = F == FORM_NF4_ANY ? 1 : by_16 ? 2 : 4, SCALES = 4 / SCALE_OCTETS;
};

struct Product {
  Weights w;
  Terms terms;
  Rows x;
  int64_t n;
  bool is_packed;  // x by 16 bytes
  float *parts;  // [splits][n][rows]; NULL: one block has all columns
  int slabs;  // of a block
};

// 16 bytes `chunk` of a row of x, which need not be aligned.
template <typename T>
__device__ __forceinline__ void copy_x(uint8_t *to, const Product &p, int64_t i, int column) {
  const T *from = static_cast<const T *>(p.x.data) + i * p.x.step;
  if (p.is_packed) {
    bool is_there = i < p.n && column < p.w.columns;
    cp_async16(to, is_there ? from + column : static_cast<const T *>(p.x.data), is_there);
    return;
  }
  Packet<T> packet;
#pragma unroll
  for (int j = 0; j < OCTET; j++) packet.at[j] = i < p.n && column + j < p.w.columns ? from[column + j] : from_float<T>(0.0f);
  store_packet(reinterpret_cast<T *>(to), packet);
}

// Bytes slab * BYTES and the next of the block's rows of a plane; zeros beyond.
template <int BYTES, int ROWS, int THREADS, bool IS_SWIZZLED>
__device__ __forceinline__ void copy_plane(uint8_t *to, const uint8_t *plane, int64_t step, int64_t top, int64_t rows, int slab) {
  constexpr int chunks = BYTES / 16;
  for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
    int row = i / chunks, chunk = i % chunks;
    int64_t at = static_cast<int64_t>(slab) * BYTES + chunk * 16;
    bool is_there = top + row < rows && at < step;
    cp_async16(to + row * BYTES + (IS_SWIZZLED ? chunk ^ (row & 1) : chunk) * 16, is_there ? plane + (top + row) * step + at : plane,
               is_there);
  }
}

template <Form F, typename T, int TILES>
__device__ __forceinline__ void copy_slab(uint8_t *stage, const Product &p, int64_t top, int64_t first, int slab) {
  typedef Shape<F, TILES> S;
  for (int i = threadIdx.x; i < S::X_ROWS * (X_BYTES / 16); i += S::THREADS) {
    int row = i / (X_BYTES / 16), chunk = i % (X_BYTES / 16), place = ((chunk % 4) * 4 + chunk / 4) ^ (row & 1) * 4;
    copy_x<T>(stage + row * X_BYTES + place * 16, p, first + row, slab * SLAB + chunk * OCTET);
  }
  if constexpr (S::CODE_BYTES > 0)
    copy_plane<S::CODE_BYTES, S::ROWS, S::THREADS, S::form.bytes>(stage + S::CODES_AT, p.w.codes, p.w.code_step, top, p.w.rows, slab);
  if constexpr (S::PAIR_BYTES > 0)
    copy_plane<S::PAIR_BYTES, S::ROWS, S::THREADS, false>(stage + S::PAIRS_AT, p.w.pairs, p.w.pair_step, top, p.w.rows, slab);
  if constexpr (S::BIT_BYTES > 0)
    copy_plane<S::BIT_BYTES, S::ROWS, S::THREADS, false>(stage + S::BITS_AT, p.w.bits, p.w.bit_step, top, p.w.rows, slab);
}

// A unit of a row, out of shared memory.
struct UnitCodes {
  uint4 codes[2];
  uint2 pairs;
  uint32_t bits;
};

template <Form F, int TILES>
__device__ __forceinline__ UnitCodes load_unit(const uint8_t *stage, int row, int unit) {
  typedef Shape<F, TILES> S;
  UnitCodes out = {};
  const uint8_t *codes = stage + S::CODES_AT + row * S::CODE_BYTES;
  if constexpr (S::form.nibbles) out.codes[0] = *reinterpret_cast<const uint4 *>(codes + unit * 16);
  if constexpr (S::form.bytes) {
    out.codes[0] = *reinterpret_cast<const uint4 *>(codes + ((2 * unit) ^ (row & 1)) * 16);
    out.codes[1] = *reinterpret_cast<const uint4 *>(codes + ((2 * unit + 1) ^ (row & 1)) * 16);
  }
  if constexpr (S::form.pairs) out.pairs = *reinterpret_cast<const uint2 *>(stage + S::PAIRS_AT + row * S::PAIR_BYTES + unit * 8);
  if constexpr (S::form.bits) out.bits = *reinterpret_cast<const uint32_t *>(stage + S::BITS_AT + row * S::BIT_BYTES + unit * 4);
  return out;
}

template <Form F>
__device__ __forceinline__ Codes octet_of(const UnitCodes &unit, int octet) {
  const uint4 &four = unit.codes[form_traits[F].bytes ? octet / 2 : 0];
  uint32_t pairs = octet < 2 ? unit.pairs.x : unit.pairs.y;
  if constexpr (form_traits[F].bytes) return codes_of<F>(octet % 2 ? four.z : four.x, octet % 2 ? four.w : four.y, pairs, unit.bits, octet);
  return codes_of<F>(octet == 0 ? four.x : octet == 1 ? four.y : octet == 2 ? four.z : four.w, 0, pairs, unit.bits, octet);
}

template <Form F, int TILES>
__device__ __forceinline__ void load_scales(Scale *out, const Weights &w, const float *book, int64_t row, int column) {
  typedef Shape<F, TILES> S;
#pragma unroll
  for (int i = 0; i < S::SCALES; i++) {
    int at = column + i * S::SCALE_OCTETS * OCTET;
    out[i] = at < w.columns ? scale_of<F>(w, book, row, at) : Scale{0, 0};
  }
}

// sums += the warp's 16 rows of w times x, of a slab.
template <Form F, typename T, int TILES>
__device__ __forceinline__ void multiply_slab(float sums[TILES][4], const uint8_t *stage, const Product &p, const float *book,
                                              const Scale (*scales)[Shape<F, TILES>::SCALES], const int64_t rows[2], int slab) {
  typedef Shape<F, TILES> S;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, column = slab * SLAB + t * UNIT;
  UnitCodes units[2] = {load_unit<F, TILES>(stage, warp * 16 + g, t), load_unit<F, TILES>(stage, warp * 16 + g + 8, t)};
#pragma unroll
  for (int octet = 0; octet < UNIT / OCTET; octet++) {
    uint32_t a[2][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float values[OCTET];
      values_of<F>(values, octet_of<F>(units[half], octet), scales[half][octet / S::SCALE_OCTETS], p.w, book, rows[half],
                   column + octet * OCTET);
#pragma unroll
      for (int step = 0; step < 2; step++) {
        a[step][half] = pack_two<T>(values[4 * step], values[4 * step + 1]);
        a[step][half + 2] = pack_two<T>(values[4 * step + 2], values[4 * step + 3]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      uint4 x = *reinterpret_cast<const uint4 *>(stage + (tile * 8 + g) * X_BYTES + ((octet * 4 + t) ^ (g & 1) * 4) * 16);
      uint32_t b[2][2] = {{x.x, x.y}, {x.z, x.w}};
      mma_16x8x16<T>(sums[tile], a[0], b[0]);
      mma_16x8x16<T>(sums[tile], a[1], b[1]);
    }
  }
}

template <int TILES>
__device__ __forceinline__ void store_sums(const Product &p, const float sums[TILES][4], int64_t top, int64_t first) {
  int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int64_t row = top + g + j / 2 * 8, i = first + tile * 8 + 2 * t + j % 2;
      if (row >= p.w.rows || i >= p.n) continue;
      if (p.parts) p.parts[(blockIdx.y * p.n + i) * p.w.rows + row] = sums[tile][j];
      else finish(p.terms, i, row, fmaf(p.terms.alpha, sums[tile][j], low_rank_term(p.terms, i, row)));
    }
}

// Block (b, s, c): ROWS rows of w from ROWS b on, `slabs` slabs from slabs s on, rows 8 TILES c and the next of x.
template <Form F, typename T, int TILES>
__global__ void __launch_bounds__(Shape<F, TILES>::THREADS, 16 / Shape<F, TILES>::WARPS) fused_rows(Product p) {
  typedef Shape<F, TILES> S;
  SHARED(float, book, [BOOK_ROOM<F>]);
  DYNAMIC_SHARED(uint8_t, stages);
  load_book<F>(book, p.w);
  int64_t top = static_cast<int64_t>(blockIdx.x) * S::ROWS, first = static_cast<int64_t>(blockIdx.z) * S::X_ROWS;
  int all = static_cast<int>((p.w.columns + SLAB - 1) / SLAB), begin = static_cast<int>(blockIdx.y) * p.slabs;
  int end = begin + p.slabs < all ? begin + p.slabs : all, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int64_t own = top + warp * 16 + lane / 4, last = p.w.rows - 1;
  int64_t rows[2] = {own < last ? own : last, own + 8 < last ? own + 8 : last};  // those beyond are not stored
  float sums[TILES][4] = {};
  Scale scales[2][S::SCALES], next[2][S::SCALES];
  for (int ahead = 0; ahead < S::STAGES - 1; ahead++) {
    if (begin + ahead < end) copy_slab<F, T, TILES>(stages + ahead * S::STAGE_BYTES, p, top, first, begin + ahead);
    cp_async_commit();
  }
  for (int half = 0; half < 2; half++) load_scales<F, TILES>(next[half], p.w, book, rows[half], begin * SLAB + lane % 4 * UNIT);
  for (int slab = begin; slab < end; slab++) {
    cp_async_wait<S::STAGES - 2>();
    __syncthreads();
    int ahead = slab + S::STAGES - 1;
    if (ahead < end) copy_slab<F, T, TILES>(stages + (ahead - begin) % S::STAGES * S::STAGE_BYTES, p, top, first, ahead);
    cp_async_commit();
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int i = 0; i < S::SCALES; i++) scales[half][i] = next[half][i];
      load_scales<F, TILES>(next[half], p.w, book, rows[half], (slab + 1) * SLAB + lane % 4 * UNIT);
    }
    multiply_slab<F, T, TILES>(sums, stages + (slab - begin) % S::STAGES * S::STAGE_BYTES, p, book, scales, rows, slab);
  }
  store_sums<TILES>(p, sums, top + warp * 16, first);
}

enum { ADD_THREADS = 128 };

// The parts of y[i, row], added up in order, and the other terms.
__global__ void __launch_bounds__(ADD_THREADS) add_parts(Terms terms, const float *parts, int splits, int64_t n, int64_t rows) {
  int64_t row = static_cast<int64_t>(blockIdx.x) * ADD_THREADS + threadIdx.x, i = blockIdx.y;
  if (row >= rows) return;
  float sum = parts[i * rows + row];
  for (int split = 1; split < splits; split++) sum += parts[(split * n + i) * rows + row];
  finish(terms, i, row, fmaf(terms.alpha, sum, low_rank_term(terms, i, row)));
}

// How many blocks share the columns: as many as fill the device, a few slabs each.
static int splits_for(int64_t blocks, int slabs, int blocks_each, const Device *device) {
  int64_t splits = static_cast<int64_t>(device->processors) * blocks_each / blocks, most = slabs / LEAST_SLABS;
  if (splits > most) splits = most;
  return splits > 1 ? static_cast<int>(splits) : 1;
}

template <Form F, typename T, int TILES>
static void start_kernel(Product p, Device *device) {
  typedef Shape<F, TILES> S;
  dim3 grid(blocks_for(p.w.rows, S::ROWS), 1, blocks_for(p.n, S::X_ROWS));
  int slabs = static_cast<int>(blocks_for(p.w.columns, SLAB));
  int splits = splits_for(static_cast<int64_t>(grid.x) * grid.z, slabs, 16 / S::WARPS, device);
  p.slabs = slabs > 0 ? (slabs + splits - 1) / splits : 0;
  splits = p.slabs > 0 ? (slabs + p.slabs - 1) / p.slabs : 1;
  grid.y = static_cast<unsigned>(splits);
  if (splits > 1) {
    int64_t bytes = splits * p.n * p.w.rows * static_cast<int64_t>(sizeof(float));
    p.parts = static_cast<float *>(device_workspace(device, WORKSPACE_PARTS, bytes));
    if (!p.parts) return;
  }
  auto kernel = fused_rows<F, T, TILES>;
  LAUNCH(device, kernel, grid, dim3(S::THREADS), S::STAGES * S::STAGE_BYTES, p);
  if (splits > 1) {
    dim3 all(blocks_for(p.w.rows, ADD_THREADS), static_cast<unsigned>(p.n));
    LAUNCH(device, add_parts, all, dim3(ADD_THREADS), 0, p.terms, p.parts, splits, p.n, p.w.rows);
  }
}

// The types that this program writes and models come in; a kernel of each takes the compiler its time, and of the rest panels are made.
static constexpr bool form_is_fused(Form form) {
  return form == FORM_Q4_0 || form == FORM_Q4_1 || form == FORM_Q8_0 || form == FORM_Q4_K || form == FORM_Q5_K || form == FORM_Q6_K ||
         form == FORM_NF4 || form == FORM_IQ4_NL;
}

bool fused_fits(const Matrix *w) { return w->type == BLOCK_DEVICE && form_is_fused(weights_of(w).form); }

template <int TILES>
static void start(const Product &p, Device *device) {
  with_type(p.x.type, [&](auto element) {
    using T = decltype(element);
    if constexpr (sizeof(T) == 2)
      with_form(p.w.form, [&](auto form) {
        if constexpr (form_is_fused(decltype(form)::value)) start_kernel<decltype(form)::value, T, TILES>(p, device);
      });
  });
}

void fused_forward(const Projection *projection, Rows x, int64_t n, Device *device) {
  if (n <= 0 || projection->w->rows <= 0) return;
  if (x.type == FLOAT_32 || !fused_fits(projection->w) || n <= device->thresholds.gemv_rows) {
    gemv_forward(projection, x, n, device);
    return;
  }
  Product p = {weights_of(projection->w), terms_of(projection), x, n, false, NULL, 0};
  p.is_packed = is_aligned(x.data) && x.step % OCTET == 0 && p.w.columns % OCTET == 0;
  if (n <= 8) start<1>(p, device);
  else start<4>(p, device);
}
