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

static void store_word(uint8_t *to, int index, uint32_t word) { memcpy(to + 4 * index, &word, 4); }

// Word `index` of the bytes of 32 codes, `low` bits of each dropped and `count` kept.
static uint32_t gather_bits(const uint8_t *codes, int octet, int parity, int low, int count) {
  uint32_t word = 0;
  for (int b = 0; b < 4; b++) word |= (uint32_t)(codes[8 * octet + 2 * b + parity] >> low & ((1 << count) - 1)) << 8 * b;
  return word;
}

// Unit `unit` of the planes, as weights.h has them.
static void pack_unit(uint8_t *const out[ARRAY_COUNT], const uint8_t codes[UNIT], Form form, int64_t unit) {
  const FormTraits *traits = &form_traits[form];
  int low = traits->nibbles ? 4 : 0;
  uint32_t pairs[2] = {0, 0}, bits = 0;
  for (int octet = 0; octet < UNIT / OCTET; octet++)
    for (int parity = 0; parity < 2; parity++) {
      if (traits->bytes) store_word(out[ARRAY_CODES] + unit * 32, 2 * octet + parity, gather_bits(codes, octet, parity, 0, 8));
      if (traits->pairs) pairs[octet / 2] |= gather_bits(codes, octet, parity, low, 2) << 2 * (2 * (octet % 2) + parity);
      if (traits->bits) bits |= gather_bits(codes, octet, parity, low ? low : 2, 1) << (2 * octet + parity);
    }
  for (int octet = 0; traits->nibbles && octet < UNIT / OCTET; octet++)
    store_word(out[ARRAY_CODES] + unit * 16, octet, gather_bits(codes, octet, 0, 0, 4) | gather_bits(codes, octet, 1, 0, 4) << 4);
  if (traits->pairs) memcpy(out[ARRAY_PAIRS] + unit * 8, pairs, 8);
  if (traits->bits) memcpy(out[ARRAY_BITS] + unit * 4, &bits, 4);
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
    for (int j = 0; j < count; j++) unit[j] = code_at(codes, bits, high_first, first + column + j);
    pack_unit(out, unit, form, column / UNIT);
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
    for (int unit = 0; unit < units; unit++) pack_unit(out, codes + UNIT * unit, form, i * units + unit);
  }
  // The planes' rows end at multiples of 16 bytes.
  if (own->pairs) memset(out[ARRAY_PAIRS] + w->columns / UNIT * 8, 0, w->columns / UNIT % 2 * 8);
  if (own->bits) memset(out[ARRAY_BITS] + w->columns / UNIT * 4, 0, (4 - w->columns / UNIT % 4) % 4 * 4);
}
