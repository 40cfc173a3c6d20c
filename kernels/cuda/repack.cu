// Rows of a file's blocks as planes: codes are taken out of their blocks a byte each, in the order of the columns, and packed by units of 32.
// What the blocks hold: formats/block_32.c, block_k.c, block_codebook.c, block_ternary.c, nf4.h, grouped.h.
#include "kernels/cuda/repack.h"

extern "C" {
#include "formats/block_rows.h"
}

// A block's codes, scales and scales of units.
typedef void (*Unpack)(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block);

static void nibbles_of_32(uint8_t *codes, const uint8_t *nibbles) {
  for (int j = 0; j < 16; j++) {
    codes[j] = nibbles[j] & 15;
    codes[j + 16] = nibbles[j] >> 4;
  }
}

static void fifth_bits_of_32(uint8_t *codes, const uint8_t *bits) {
  for (int j = 0; j < 32; j++) codes[j] |= static_cast<uint8_t>((bits[j / 8] >> j % 8 & 1) << 4);
}

static void unpack_q4_0(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 2);
  nibbles_of_32(codes, block + 2);
}

static void unpack_q4_1(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 4);
  nibbles_of_32(codes, block + 4);
}

static void unpack_q5_0(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 2);
  nibbles_of_32(codes, block + 6);
  fifth_bits_of_32(codes, block + 2);
}

static void unpack_q5_1(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 4);
  nibbles_of_32(codes, block + 8);
  fifth_bits_of_32(codes, block + 4);
}

static void unpack_q8_0(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 2);
  for (int j = 0; j < 32; j++) codes[j] = block[2 + j] ^ 128;
}

static void unpack_mxfp4(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  *scales = *block;
  nibbles_of_32(codes, block + 1);
}

static void pairs_of_256(uint8_t *codes, const uint8_t *pairs) {
  for (int j = 0; j < BLOCK_K_ELEMENTS; j++) codes[j] = static_cast<uint8_t>(pair_of_bits(pairs, j));
}

static void unpack_q2_k(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  memcpy(scales, block + 80, 4);
  memcpy(unit_scales, block, 16);
  pairs_of_256(codes, block + 16);
}

static void unpack_q3_k(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  const uint8_t *packed = block + 96;
  memcpy(scales, block + 108, 2);
  for (int t = 0; t < 16; t++)
    unit_scales[t] = static_cast<uint8_t>(((packed[t % 8] >> 4 * (t / 8) & 15) | (packed[8 + t % 4] >> 2 * (t / 4) & 3) << 4) - 32);
  pairs_of_256(codes, block + 32);
  for (int j = 0; j < BLOCK_K_ELEMENTS; j++) codes[j] |= static_cast<uint8_t>((block[j % 32] >> j / 32 & 1) << 2);
}

// Eight pairs of scale and minimum, of 6 bits each: formats/block_k.c.
static void scales_of_4_k(uint8_t *unit_scales, const uint8_t *packed) {
  for (int g = 0; g < 4; g++) {
    unit_scales[2 * g] = packed[g] & 63;
    unit_scales[2 * g + 1] = packed[g + 4] & 63;
    unit_scales[2 * g + 8] = static_cast<uint8_t>((packed[g + 8] & 15) | packed[g] >> 6 << 4);
    unit_scales[2 * g + 9] = static_cast<uint8_t>(packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4);
  }
}

static void strips_of_256(uint8_t *codes, const uint8_t *low) {
  for (int strip = 0; strip < 4; strip++)
    for (int j = 0; j < 32; j++) {
      codes[64 * strip + j] = low[32 * strip + j] & 15;
      codes[64 * strip + 32 + j] = low[32 * strip + j] >> 4;
    }
}

static void unpack_q4_k(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  memcpy(scales, block, 4);
  scales_of_4_k(unit_scales, block + 4);
  strips_of_256(codes, block + 16);
}

static void unpack_q5_k(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  memcpy(scales, block, 4);
  scales_of_4_k(unit_scales, block + 4);
  strips_of_256(codes, block + 48);
  for (int j = 0; j < BLOCK_K_ELEMENTS; j++) codes[j] |= static_cast<uint8_t>((block[16 + j % 32] >> j / 32 & 1) << 4);
}

static void unpack_q6_k(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  memcpy(scales, block + 208, 2);
  memcpy(unit_scales, block + 192, 16);
  pairs_of_256(codes, block + 128);
  for (int half = 0; half < 2; half++)
    for (int k = 0; k < 64; k++) {
      uint8_t low = block[64 * half + k], *at = codes + 128 * half + k;
      at[0] = static_cast<uint8_t>(at[0] << 4 | (low & 15));
      at[64] = static_cast<uint8_t>(at[64] << 4 | low >> 4);
    }
}

static void unpack_q8_k(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block, 4);
  for (int j = 0; j < BLOCK_K_ELEMENTS; j++) codes[j] = block[4 + j] ^ 128;
}

static void unpack_iq4_xs(uint8_t *codes, uint8_t *scales, uint8_t *unit_scales, const uint8_t *block) {
  memcpy(scales, block, 2);
  for (int g = 0; g < K_UNITS; g++) {
    unit_scales[g] = static_cast<uint8_t>(((block[4 + g / 2] >> 4 * (g % 2) & 15) | (block[2 + g / 4] >> 2 * (g % 4) & 3) << 4) - 32);
    nibbles_of_32(codes + 32 * g, block + 8 + 16 * g);
  }
}

static uint8_t *ternary_digits(uint8_t *codes, const uint8_t *bytes, int count, int digits) {
  static const uint8_t powers[] = {1, 3, 9, 27, 81};
  for (int n = 0; n < digits; n++)
    for (int j = 0; j < count; j++) *codes++ = static_cast<uint8_t>(static_cast<uint8_t>(bytes[j] * powers[n]) * 3 >> 8);
  return codes;
}

static void unpack_tq1_0(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block + 52, 2);
  codes = ternary_digits(codes, block, 32, 5);
  codes = ternary_digits(codes, block + 32, 16, 5);
  ternary_digits(codes, block + 48, 4, 4);
}

static void unpack_tq2_0(uint8_t *codes, uint8_t *scales, uint8_t *, const uint8_t *block) {
  memcpy(scales, block + 64, 2);
  pairs_of_256(codes, block);
}

static const struct {
  BlockType type;
  Form form;
  Unpack unpack;
} sources[] = {
    {BLOCK_F32, FORM_F32, NULL},
    {BLOCK_F16, FORM_F16, NULL},
    {BLOCK_BF16, FORM_BF16, NULL},
    {BLOCK_Q4_0, FORM_Q4_0, unpack_q4_0},
    {BLOCK_Q4_1, FORM_Q4_1, unpack_q4_1},
    {BLOCK_Q5_0, FORM_Q5_0, unpack_q5_0},
    {BLOCK_Q5_1, FORM_Q5_1, unpack_q5_1},
    {BLOCK_Q8_0, FORM_Q8_0, unpack_q8_0},
    {BLOCK_Q2_K, FORM_Q2_K, unpack_q2_k},
    {BLOCK_Q3_K, FORM_Q3_K, unpack_q3_k},
    {BLOCK_Q4_K, FORM_Q4_K, unpack_q4_k},
    {BLOCK_Q5_K, FORM_Q5_K, unpack_q5_k},
    {BLOCK_Q6_K, FORM_Q6_K, unpack_q6_k},
    {BLOCK_Q8_K, FORM_Q8_K, unpack_q8_k},
    {BLOCK_IQ4_NL, FORM_IQ4_NL, unpack_q4_0},  // laid out alike
    {BLOCK_IQ4_XS, FORM_IQ4_XS, unpack_iq4_xs},
    {BLOCK_MXFP4, FORM_MXFP4, unpack_mxfp4},
    {BLOCK_TQ1_0, FORM_TERNARY, unpack_tq1_0},
    {BLOCK_TQ2_0, FORM_TERNARY, unpack_tq2_0},
};

static int source_of(BlockType type) {
  for (int i = 0; i < (int)(sizeof sources / sizeof *sources); i++)
    if (sources[i].type == type) return i;
  return -1;
}

Form repack_form(const Matrix *w) {
  if (w->type == BLOCK_NF4) return w->columns % NF4_BLOCK || w->first_row * w->columns % NF4_BLOCK ? FORM_NF4_ANY : FORM_NF4;
  if (w->type == BLOCK_GROUPED) return w->grouped->bits == 4 ? FORM_GROUPED_4 : FORM_GROUPED_8;
  int source = source_of(w->type);
  return source < 0 ? FORM_COUNT : sources[source].form;
}

static int64_t up_to(int64_t bytes, int64_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

void repack_steps(int64_t step[ARRAY_COUNT], Form form, int64_t columns) {
  const FormTraits *traits = &form_traits[form];
  int64_t units = (columns + UNIT - 1) / UNIT;
  bool by_256 = traits->scales >= SCALES_K_HALF && traits->scales <= SCALES_K_SIGNED_32;
  step[ARRAY_CODES] = traits->nibbles ? units * 16 : traits->bytes ? units * 32 : 0;
  step[ARRAY_PAIRS] = traits->pairs ? up_to(units * 8, 16) : 0;
  step[ARRAY_BITS] = traits->bits ? up_to(units * 4, 16) : 0;
  step[ARRAY_SCALES] = (by_256 ? units / K_UNITS : units) * traits->scale_bytes;
  step[ARRAY_UNIT_SCALES] = units * traits->unit_scale_bytes;
}

// Of eight bytes in order, those at even places.
static uint32_t even_bytes(uint64_t bytes) {
  bytes &= UINT64_C(0x00FF00FF00FF00FF);
  bytes = (bytes | bytes >> 8) & UINT64_C(0x0000FFFF0000FFFF);
  return static_cast<uint32_t>(bytes | bytes >> 16);
}

// Unit `unit` of the planes, as weights.h has them.
static void pack_unit(uint8_t *const out[ARRAY_COUNT], const uint8_t codes[UNIT], const FormTraits *form, int64_t unit) {
  const int above = form->nibbles ? 4 : 0, above_pairs = form->nibbles ? 4 : 2;
  uint32_t nibbles[4], bytes[8], pairs[2] = {0, 0}, bits = 0;
  for (int octet = 0; octet < UNIT / OCTET; octet++) {
    uint64_t eight;
    memcpy(&eight, codes + octet * OCTET, sizeof eight);
    uint32_t even = even_bytes(eight), odd = even_bytes(eight >> 8);
    bytes[2 * octet] = even;
    bytes[2 * octet + 1] = odd;
    nibbles[octet] = (even & 0x0F0F0F0Fu) | (odd & 0x0F0F0F0Fu) << 4;
    pairs[octet / 2] |= ((even >> above & 0x03030303u) | (odd >> above & 0x03030303u) << 2) << 4 * (octet % 2);
    bits |= ((even >> above_pairs & 0x01010101u) | (odd >> above_pairs & 0x01010101u) << 1) << 2 * octet;
  }
  if (form->nibbles) memcpy(out[ARRAY_CODES] + unit * 16, nibbles, sizeof nibbles);
  if (form->bytes) memcpy(out[ARRAY_CODES] + unit * 32, bytes, sizeof bytes);
  if (form->pairs) memcpy(out[ARRAY_PAIRS] + unit * 8, pairs, sizeof pairs);
  if (form->bits) memcpy(out[ARRAY_BITS] + unit * 4, &bits, sizeof bits);
}

// Code `element` of a run of codes that has no gaps.
static uint8_t code_at(const uint8_t *codes, int bits, bool high_first, int64_t element) {
  if (bits == 8) return codes[element];
  return (element % 2 == 0) == high_first ? codes[element / 2] >> 4 : codes[element / 2] & 15;
}

static void repack_run(uint8_t *const out[ARRAY_COUNT], const Matrix *w, Form form, int64_t row) {
  bool is_nf4 = w->type == BLOCK_NF4;
  const uint8_t *codes = is_nf4 ? w->nf4.packed : w->grouped->codes;
  int bits = is_nf4 ? 4 : w->grouped->bits;
  bool high_first = is_nf4 || w->grouped->high_first;
  int64_t first = (w->first_row + row) * w->columns;
  for (int64_t column = 0; column < w->columns; column += UNIT) {
    uint8_t unit[UNIT] = {0};
    int count = w->columns - column < UNIT ? static_cast<int>(w->columns - column) : static_cast<int>(UNIT);
    if (bits == 4 && count == UNIT && first % 2 == 0) {  // bytes of two
      const uint8_t *from = codes + (first + column) / 2;
      for (int k = 0; k < UNIT / 2; k++) {
        unit[2 * k] = high_first ? from[k] >> 4 : from[k] & 15;
        unit[2 * k + 1] = high_first ? from[k] & 15 : from[k] >> 4;
      }
    } else {
      for (int j = 0; j < count; j++) unit[j] = code_at(codes, bits, high_first, first + column + j);
    }
    pack_unit(out, unit, &form_traits[form], column / UNIT);
  }
}

void repack_row(uint8_t *const out[ARRAY_COUNT], const Matrix *w, Form form, int64_t row) {
  if (!form_is_blocks(form)) {
    repack_run(out, w, form, row);
    return;
  }
  const BlockTraits *traits = block_traits(w->type);
  const FormTraits *own = &form_traits[form];
  Unpack unpack = sources[source_of(w->type)].unpack;
  int units = traits->elements / UNIT;
  const uint8_t *block = static_cast<const uint8_t *>(w->data) + row * block_row_bytes(w->type, w->columns);
  for (int64_t i = 0; i < w->columns / traits->elements; i++, block += traits->bytes) {
    uint8_t codes[BLOCK_K_ELEMENTS];
    unpack(codes, out[ARRAY_SCALES] + i * own->scale_bytes, out[ARRAY_UNIT_SCALES] + i * units * own->unit_scale_bytes, block);
    for (int unit = 0; unit < units; unit++) pack_unit(out, codes + UNIT * unit, own, i * units + unit);
  }
  // The planes' rows end at multiples of 16 bytes.
  if (own->pairs) memset(out[ARRAY_PAIRS] + w->columns / UNIT * 8, 0, w->columns / UNIT % 2 * 8);
  if (own->bits) memset(out[ARRAY_BITS] + w->columns / UNIT * 4, 0, (4 - w->columns / UNIT % 4) % 4 * 4);
}
