// Frozen weights in the device's memory, in a form of this backend's own: what the files hold in blocks of odd sizes lies here in planes, so
// that codes are read 16 bytes at a time, and one kernel reads every type.
//
// Columns are cut into units of 32 (the last of a row may be short; codes beyond it are 0). A unit has, of these, what its form has:
//   nibbles  16 bytes: word o has the values of octet o, value j of it at bit 4 j
//   bytes    32 bytes: words 2 o and 2 o + 1 have the even and the odd values of octet o, in order
//   pairs     8 bytes: 2 bits a value; word o / 2, value j of octet o at bit 8 (j / 2) + 2 (2 (o % 2) + j % 2)
//   bits      4 bytes: value j of octet o at bit 8 (j / 2) + 2 o + j % 2
// so that four values of an octet are taken out of any plane by one shift and one mask, a byte each. A code is made of the nibble or byte,
// and the pair and bit above it. Rows of a plane begin at multiples of 16 bytes.
//   w = level * scale + shift, level = code - offset or book[code]
// where scale and shift hold for 16 columns at least (but for groups in any order, and NF4 whose rows are no multiple of 64). A value is that
// of the format's own function (formats/), bit for bit: products that a shift is added to are exact (17 bits and 7).
#ifndef KERNELS_CUDA_WEIGHTS_H
#define KERNELS_CUDA_WEIGHTS_H

#include "kernels/cuda/cuda.h"

// Backend.upload_matrix, matrix_bytes and release_matrix.
Status weights_upload(Matrix *matrix, void *block, Backend *backend);
int64_t weights_bytes(const Matrix *matrix);
void weights_release(Matrix *matrix, Backend *backend);

// out[i, j] = alpha w[first + i, j] for i < rows, rounded to `type`, rows `step` elements apart, 16-byte aligned. Of any type that
// kernels/matrix.h's have here: plain floats, or BLOCK_DEVICE. In `stream`.
void weights_dequantize(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, int64_t first, int64_t rows, Device *device,
                        cudaStream_t stream);
// The same of rows ids[0 .. rows - 1] (the device's), anywhere aligned.
void weights_gather(void *out, FloatType type, int64_t step, float alpha, const Matrix *w, const int32_t *ids, int64_t rows, Device *device,
                    cudaStream_t stream);

// Whether the type that the file had is one of evenly spaced levels (matrix_has_integer_levels), whose products take x in 8 bits.
bool weights_have_integer_levels(const Matrix *w);

// A projection of few rows x[n, w->columns], whole, with all of its terms (kernels/linear.h), where the weights are dequantised within the
// product and only once. Any n is computed; the choice is the caller's, by device->thresholds.
void fused_forward(const Projection *projection, Rows x, int64_t n, Device *device);
bool fused_fits(const Matrix *w);  // has a kernel of its type; the rest goes by gemv_forward, or by panels
// For the very fewest rows, and for activations of float32: sums in float32 of unrounded weights.
void gemv_forward(const Projection *projection, Rows x, int64_t n, Device *device);

enum Form {
  FORM_F32,
  FORM_F16,
  FORM_BF16,
  FORM_Q4_0,
  FORM_Q4_1,
  FORM_Q5_0,
  FORM_Q5_1,
  FORM_Q8_0,
  FORM_Q2_K,
  FORM_Q3_K,
  FORM_Q4_K,
  FORM_Q5_K,
  FORM_Q6_K,
  FORM_Q8_K,
  FORM_IQ4_NL,
  FORM_IQ4_XS,
  FORM_MXFP4,
  FORM_TERNARY,  // TQ1_0 and TQ2_0
  FORM_NF4,  // of whole blocks a row
  FORM_NF4_ANY,
  FORM_GROUPED_4,
  FORM_GROUPED_8,
  FORM_COUNT
};

// Where the scales of a form are.
enum ScaleForm {
  SCALES_NONE,  // plain floats
  SCALES_HALF,  // binary16 of a unit
  SCALES_HALF_PAIR,  // scale and shift, binary16, of a unit
  SCALES_EXPONENT,  // a byte of a unit
  SCALES_K_HALF,  // binary16 of 256 values
  SCALES_K_FLOAT,  // binary32 of 256 values
  SCALES_K_NIBBLES,  // two binary16 of 256 values, and a byte of 16: scale below, minimum above
  SCALES_K_BYTES,  // two binary16 of 256 values, and two bytes of a unit: scale, minimum
  SCALES_K_SIGNED_16,  // binary16 of 256 values, and a signed byte of 16
  SCALES_K_SIGNED_32,  // binary16 of 256 values, and a signed byte of a unit
  SCALES_NF4,
  SCALES_GROUPED,
};

enum { UNIT = 32, OCTET = 8, K_UNITS = 8 };
enum { BOOK_NONE = 0, BOOK_16 = 16, BOOK_256 = 256, BOOK_NF4 = 16 + 256 };  // NF4's levels, and those of its scales

struct FormTraits {
  bool nibbles, bytes, pairs, bits;
  int offset;
  int book;  // floats of it
  ScaleForm scales;
  int scale_bytes, unit_scale_bytes;  // of 256 values, or of a unit where that is all that there is; besides, of a unit
};

// A new quantised type is a row here, and one in repack.cu.
constexpr FormTraits form_traits[FORM_COUNT] = {
    {false, false, false, false, 0, BOOK_NONE, SCALES_NONE, 0, 0},  // F32
    {false, false, false, false, 0, BOOK_NONE, SCALES_NONE, 0, 0},  // F16
    {false, false, false, false, 0, BOOK_NONE, SCALES_NONE, 0, 0},  // BF16
    {true, false, false, false, 8, BOOK_NONE, SCALES_HALF, 2, 0},  // Q4_0
    {true, false, false, false, 0, BOOK_NONE, SCALES_HALF_PAIR, 4, 0},  // Q4_1
    {true, false, false, true, 16, BOOK_NONE, SCALES_HALF, 2, 0},  // Q5_0
    {true, false, false, true, 0, BOOK_NONE, SCALES_HALF_PAIR, 4, 0},  // Q5_1
    {false, true, false, false, 128, BOOK_NONE, SCALES_HALF, 2, 0},  // Q8_0
    {false, false, true, false, 0, BOOK_NONE, SCALES_K_NIBBLES, 4, 2},  // Q2_K
    {false, false, true, true, 4, BOOK_NONE, SCALES_K_SIGNED_16, 2, 2},  // Q3_K
    {true, false, false, false, 0, BOOK_NONE, SCALES_K_BYTES, 4, 2},  // Q4_K
    {true, false, false, true, 0, BOOK_NONE, SCALES_K_BYTES, 4, 2},  // Q5_K
    {true, false, true, false, 32, BOOK_NONE, SCALES_K_SIGNED_16, 2, 2},  // Q6_K
    {false, true, false, false, 128, BOOK_NONE, SCALES_K_FLOAT, 4, 0},  // Q8_K
    {true, false, false, false, 0, BOOK_16, SCALES_HALF, 2, 0},  // IQ4_NL
    {true, false, false, false, 0, BOOK_16, SCALES_K_SIGNED_32, 2, 1},  // IQ4_XS
    {true, false, false, false, 0, BOOK_16, SCALES_EXPONENT, 1, 0},  // MXFP4
    {false, false, true, false, 1, BOOK_NONE, SCALES_K_HALF, 2, 0},  // TERNARY
    {true, false, false, false, 0, BOOK_NF4, SCALES_NF4, 0, 0},  // NF4
    {true, false, false, false, 0, BOOK_NF4, SCALES_NF4, 0, 0},  // NF4_ANY
    {true, false, false, false, 0, BOOK_16, SCALES_GROUPED, 0, 0},  // GROUPED_4
    {false, true, false, false, 0, BOOK_256, SCALES_GROUPED, 0, 0},  // GROUPED_8
};

static inline bool form_is_plain(Form form) { return form <= FORM_BF16; }
static inline bool form_is_blocks(Form form) { return form > FORM_BF16 && form < FORM_NF4; }  // scales by rows, and whole units

// A matrix, or rows of one, as kernels get it.
struct Weights {
  Form form;
  int64_t rows, columns;
  const uint8_t *codes, *pairs, *bits;  // planes; plain floats are codes
  const uint8_t *scales, *unit_scales;
  const float *book;
  int64_t code_step, pair_step, bit_step, scale_step, unit_scale_step;  // bytes from row to row
  bool is_packed;  // plain floats: rows begin at multiples of 16 bytes
  // NF4: the first value's place in the run of blocks that `scales` has the indices of
  int64_t start;
  const float *nested;
  float offset;
  // GROUPED: scales of scale_type and zeros[row groups, groups]
  const int16_t *zeros;
  const int32_t *group_of;
  int32_t groups, group, row_group, first_row;  // rows before the first, of its row group
  BlockType scale_type, rounding;
  float zero, factor;
  bool is_even;  // 16 columns from a multiple of 16 on are always of one group
};

Weights weights_of(const Matrix *w);

// use(a type that has the form): with_form(form, [&](auto form) { auto kernel = name<decltype(form)::value>; ... });
template <Form F>
struct FormConstant {
  static constexpr Form value = F;
};
template <typename Use, int F = 0>
void with_form(Form form, Use use) {
  if constexpr (F < FORM_COUNT) {
    if (form == F) use(FormConstant<static_cast<Form>(F)>());
    else with_form<Use, F + 1>(form, use);
  }
}

// What follows is for kernels.

template <typename T>
__device__ __forceinline__ T load_as(const void *from, int64_t index = 0) {
  return __ldg(static_cast<const T *>(from) + index);
}
__device__ __forceinline__ float load_half(const void *from, int64_t index) {
  uint16_t bits = load_as<uint16_t>(from, index);
  fp16 half;
  memcpy(&half, &bits, sizeof half);
  return __half2float(half);
}
__device__ __forceinline__ float load_bfloat16(const void *from, int64_t index) {
  return __uint_as_float((unsigned)load_as<uint16_t>(from, index) << 16);
}
__device__ __forceinline__ float half_of(uint32_t bits) {
  uint16_t low = static_cast<uint16_t>(bits);
  fp16 half;
  memcpy(&half, &low, sizeof half);
  return __half2float(half);
}

// Copies the book to shared memory, which has room for BOOK_ROOM<F> floats; a barrier follows.
template <Form F>
constexpr int BOOK_ROOM = form_traits[F].book ? form_traits[F].book : 1;
template <Form F>
__device__ __forceinline__ void load_book(float *book, const Weights &w) {
  constexpr int count = form_traits[F].book;
  if constexpr (count > 0) {
    if (w.book)
      for (int i = threadIdx.x; i < count; i += blockDim.x) book[i] = load_as<float>(w.book, i);
    __syncthreads();
  }
}

// An octet's codes, a byte each: values 0, 2, 4, 6 and 1, 3, 5, 7.
struct Codes {
  uint32_t even, odd;
};

// Octet `octet` of a unit, of the words of the planes that it is in; a form that has no such plane passes over the word. `first` is the
// nibbles' word, or that of the even bytes, and `second` that of the odd ones.
template <Form F>
__device__ __forceinline__ Codes codes_of(uint32_t first, uint32_t second, uint32_t pairs, uint32_t bits, int octet) {
  constexpr FormTraits form = form_traits[F];
  constexpr int above = form.nibbles ? 4 : 0, above_pairs = form.nibbles ? 4 : 2;
  Codes codes = {0, 0};
  if constexpr (form.nibbles) codes.even = first & 0x0F0F0F0Fu, codes.odd = first >> 4 & 0x0F0F0F0Fu;
  if constexpr (form.bytes) codes.even = first, codes.odd = second;
  if constexpr (form.pairs) {
    pairs >>= (octet & 1) * 4;
    codes.even |= (pairs & 0x03030303u) << above, codes.odd |= (pairs >> 2 & 0x03030303u) << above;
  }
  if constexpr (form.bits) {
    bits >>= (octet & 3) * 2;
    codes.even |= (bits & 0x01010101u) << above_pairs, codes.odd |= (bits >> 1 & 0x01010101u) << above_pairs;
  }
  return codes;
}

// Octet `octet` of a row in global memory.
template <Form F>
__device__ __forceinline__ Codes load_codes(const Weights &w, int64_t row, int octet) {
  constexpr FormTraits form = form_traits[F];
  uint2 words = {0, 0};
  uint32_t pairs = 0, bits = 0;
  if constexpr (form.nibbles) words.x = load_as<uint32_t>(w.codes + row * w.code_step, octet);
  if constexpr (form.bytes) words = load_as<uint2>(w.codes + row * w.code_step, octet);
  if constexpr (form.pairs) pairs = load_as<uint32_t>(w.pairs + row * w.pair_step, octet / 2);
  if constexpr (form.bits) bits = load_as<uint32_t>(w.bits + row * w.bit_step, octet / 4);
  return codes_of<F>(words.x, words.y, pairs, bits, octet);
}

// 2^23 and byte `index` of four, as a float.
__device__ __forceinline__ float byte_above_2_23(uint32_t bytes, int index) {
  return __uint_as_float(__byte_perm(bytes, 0x4B000000u, 0x7440u | static_cast<unsigned>(index)));
}

template <Form F>
__device__ __forceinline__ float level_of(uint32_t bytes, int index, const Weights &w, const float *book) {
  constexpr FormTraits form = form_traits[F];
  if constexpr (form.scales == SCALES_GROUPED) {
    if (!w.book) return byte_above_2_23(bytes, index) - 8388608.0f;
  }
  if constexpr (form.book > 0) return book[bytes >> 8 * index & 255u];
  return byte_above_2_23(bytes, index) - (8388608.0f + static_cast<float>(form.offset));
}

template <Form F>
__device__ __forceinline__ void levels_of(float out[OCTET], Codes codes, const Weights &w, const float *book) {
#pragma unroll
  for (int j = 0; j < OCTET / 2; j++) {
    out[2 * j] = level_of<F>(codes.even, j, w, book);
    out[2 * j + 1] = level_of<F>(codes.odd, j, w, book);
  }
}

// Of an octet; `shift` is GROUPED's zero, which is taken from the level before it is scaled.
struct Scale {
  float scale, shift;
};

template <Form F>
constexpr bool FORM_HAS_SHIFT =
    form_traits[F].scales == SCALES_HALF_PAIR || form_traits[F].scales == SCALES_K_NIBBLES || form_traits[F].scales == SCALES_K_BYTES;
// Whether every octet has one scale, whatever the matrix.
template <Form F>
constexpr bool FORM_IS_EVEN = F != FORM_NF4_ANY &&form_traits[F].scales != SCALES_GROUPED;

// Rounded after the product and after the sum, as formats/nf4.c does.
__device__ __forceinline__ float nf4_scale(const Weights &w, const float *book, uint64_t block) {
  float level = book[16 + load_as<uint8_t>(w.scales, block)];
  return __fadd_rn(__fmul_rn(level, load_as<float>(w.nested, block / NF4_NESTED_BLOCK)), w.offset);
}

__device__ __forceinline__ Scale grouped_scale_of(const Weights &w, int64_t row, int group) {
  unsigned line = static_cast<unsigned>(w.first_row + row);
  int64_t at = static_cast<int64_t>(w.row_group == 1 ? line : line / static_cast<unsigned>(w.row_group)) * w.groups + group;
  float scale = w.scale_type == BLOCK_F32   ? load_as<float>(w.scales, at)
                : w.scale_type == BLOCK_F16 ? load_half(w.scales, at)
                                            : load_bfloat16(w.scales, at);
  return {scale, w.zeros ? static_cast<float>(load_as<int16_t>(w.zeros, at)) : w.zero};
}

// `column` is a multiple of 8, within the row.
template <Form F>
__device__ __forceinline__ Scale scale_of(const Weights &w, const float *book, int64_t row, int column) {
  constexpr ScaleForm form = form_traits[F].scales;
  int unit = column / UNIT, sixteen = column / 16;
  const uint8_t *scales = w.scales + row * w.scale_step, *own = w.unit_scales + row * w.unit_scale_step;
  if constexpr (form == SCALES_HALF) return {load_half(scales, unit), 0};
  if constexpr (form == SCALES_HALF_PAIR) {
    uint32_t both = load_as<uint32_t>(scales, unit);
    return {half_of(both), half_of(both >> 16)};
  }
  if constexpr (form == SCALES_EXPONENT) {
    uint32_t exponent = load_as<uint8_t>(scales, unit);
    return {__uint_as_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23), 0};
  }
  if constexpr (form == SCALES_K_HALF) return {load_half(scales, unit / K_UNITS), 0};
  if constexpr (form == SCALES_K_FLOAT) return {load_as<float>(scales, unit / K_UNITS), 0};
  if constexpr (form == SCALES_K_NIBBLES || form == SCALES_K_BYTES) {
    uint32_t both = load_as<uint32_t>(scales, unit / K_UNITS), scale, minimum;
    if constexpr (form == SCALES_K_NIBBLES) {
      uint32_t byte = load_as<uint8_t>(own, sixteen);
      scale = byte & 15, minimum = byte >> 4;
    } else {
      uint32_t bytes = load_as<uint16_t>(own, unit);
      scale = bytes & 255, minimum = bytes >> 8;
    }
    return {__fmul_rn(half_of(both), static_cast<float>(scale)), -__fmul_rn(half_of(both >> 16), static_cast<float>(minimum))};
  }
  if constexpr (form == SCALES_K_SIGNED_16 || form == SCALES_K_SIGNED_32) {
    int scale = load_as<int8_t>(own, form == SCALES_K_SIGNED_16 ? sixteen : unit);
    return {__fmul_rn(load_half(scales, unit / K_UNITS), static_cast<float>(scale)), 0};
  }
  if constexpr (form == SCALES_NF4) return {nf4_scale(w, book, static_cast<uint64_t>(w.start + row * w.columns + column) / NF4_BLOCK), 0};
  if constexpr (form == SCALES_GROUPED) return w.is_even ? grouped_scale_of(w, row, column / w.group) : Scale{0, 0};
  return {1, 0};
}

__device__ __forceinline__ float grouped_value(float level, Scale scale, const Weights &w) {
  float value = __fmul_rn(__fadd_rn(level, -scale.shift), scale.scale);
  if (w.rounding == BLOCK_F16) value = to_float(from_float<fp16>(value));
  if (w.rounding == BLOCK_BF16) value = to_float(from_float<bf16>(value));
  return __fmul_rn(value, w.factor);
}

// The octet's values; those beyond the row are 0.
template <Form F>
__device__ __forceinline__ void values_of(float out[OCTET], Codes codes, Scale scale, const Weights &w, const float *book, int64_t row,
                                          int column) {
  levels_of<F>(out, codes, w, book);
#pragma unroll
  for (int j = 0; j < OCTET; j++) {
    if constexpr (FORM_HAS_SHIFT<F>) out[j] = fmaf(out[j], scale.scale, scale.shift);
    else if constexpr (FORM_IS_EVEN<F>) out[j] = __fmul_rn(out[j], scale.scale);
  }
  if constexpr (F == FORM_NF4_ANY) {
    uint64_t at = static_cast<uint64_t>(w.start + row * w.columns + column);
    int left = NF4_BLOCK - static_cast<int>(at % NF4_BLOCK);  // values of the first one's block
    float next = left < OCTET && column + left < w.columns ? nf4_scale(w, book, at / NF4_BLOCK + 1) : 0;
#pragma unroll
    for (int j = 0; j < OCTET; j++) out[j] = __fmul_rn(out[j], j < left ? scale.scale : next);
  }
  if constexpr (form_traits[F].scales == SCALES_GROUPED) {
#pragma unroll
    for (int j = 0; j < OCTET; j++) {
      if (!w.is_even && column + j < w.columns)
        scale = grouped_scale_of(w, row, w.group_of ? load_as<int32_t>(w.group_of, column + j) : (column + j) / w.group);
      out[j] = grouped_value(out[j], scale, w);
    }
  }
  if constexpr (form_traits[F].scales == SCALES_NF4 || form_traits[F].scales == SCALES_GROUPED) {
    if (column + OCTET > w.columns) {
#pragma unroll
      for (int j = 0; j < OCTET; j++) out[j] = column + j < w.columns ? out[j] : 0;
    }
  }
}

template <typename T>
__device__ __forceinline__ void plain_octet(float out[OCTET], const Weights &w, int64_t row, int column) {
  const T *from = reinterpret_cast<const T *>(w.codes + row * w.code_step) + column;
  if (w.is_packed && column + OCTET <= w.columns) {
#pragma unroll
    for (int part = 0; part < OCTET / Packet<T>::COUNT; part++) {
      Packet<T> packet;
      uint4 bytes = load_as<uint4>(from + part * Packet<T>::COUNT);
      memcpy(&packet, &bytes, sizeof packet);
#pragma unroll
      for (int j = 0; j < Packet<T>::COUNT; j++) out[part * Packet<T>::COUNT + j] = to_float(packet.at[j]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < OCTET; j++) out[j] = column + j < w.columns ? to_float(from[j]) : 0;
}

// w[row, column .. column + 7]; `column` is a multiple of 8 and within the row.
template <Form F>
__device__ __forceinline__ void weights_octet(float out[OCTET], const Weights &w, const float *book, int64_t row, int column) {
  if constexpr (F == FORM_F32) plain_octet<float>(out, w, row, column);
  else if constexpr (F == FORM_F16) plain_octet<fp16>(out, w, row, column);
  else if constexpr (F == FORM_BF16) plain_octet<bf16>(out, w, row, column);
  else values_of<F>(out, load_codes<F>(w, row, column / OCTET), scale_of<F>(w, book, row, column), w, book, row, column);
}

#endif
