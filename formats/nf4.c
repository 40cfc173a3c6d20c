// NF4, the way bitsandbytes computes it on a CPU (its "default" backend for the 4-bit part):
//   absmax_b = max |x| of block b; q = the level nearest to x / absmax_b, found by midpoints, a tie taking the lower level
//   offset   = mean absmax; y_b = absmax_b - offset, in blocks of 256 with their own absmax s
//   scale_b  = the index of the scale level nearest to y_b / s, rounded as told at nearest_scale_level
// Dequantised: x = level[q] * (scale_level[scale_b] * s + offset), each operation rounded to binary32.
#include "formats/nf4.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

// bitsandbytes' get_4bit_type("nf4"), which are those of the QLoRA paper's appendix E.
const float nf4_levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// bitsandbytes' create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8) (Dettmers, "8-bit approximations for
// parallelism in deep learning", 2016): 0, 1, and for e = 0..6, +-10^(e-6) times the midpoints of 2^e equal steps from 0.1 to 1,
// as PyTorch rounds them. Kept as a table because the roundings of its linspace are part of the numbers.
const float nf4_scale_levels[256] = {
    -0.992968738f,    -0.978906274f,    -0.96484375f,     -0.950781226f,
    -0.936718762f,    -0.922656238f,    -0.908593774f,    -0.89453125f,
    -0.880468726f,    -0.866406262f,    -0.852343738f,    -0.838281274f,
    -0.82421875f,     -0.810156226f,    -0.796093762f,    -0.782031238f,
    -0.767968774f,    -0.75390625f,     -0.739843726f,    -0.725781262f,
    -0.711718798f,    -0.697656274f,    -0.68359375f,     -0.669531226f,
    -0.655468762f,    -0.641406298f,    -0.627343774f,    -0.61328125f,
    -0.599218726f,    -0.585156262f,    -0.571093798f,    -0.557031274f,
    -0.54296875f,     -0.528906226f,    -0.514843702f,    -0.500781238f,
    -0.486718714f,    -0.47265625f,     -0.458593726f,    -0.444531262f,
    -0.430468738f,    -0.416406244f,    -0.40234375f,     -0.388281226f,
    -0.374218762f,    -0.360156238f,    -0.346093744f,    -0.33203125f,
    -0.317968726f,    -0.303906262f,    -0.289843738f,    -0.275781274f,
    -0.26171875f,     -0.247656241f,    -0.233593747f,    -0.219531253f,
    -0.205468744f,    -0.19140625f,     -0.177343756f,    -0.163281247f,
    -0.149218753f,    -0.135156244f,    -0.12109375f,     -0.107031256f,
    -0.0985937491f,   -0.0957812592f,   -0.0929687545f,   -0.0901562497f,
    -0.0873437524f,   -0.0845312476f,   -0.0817187577f,   -0.078906253f,
    -0.0760937482f,   -0.0732812509f,   -0.0704687461f,   -0.0676562563f,
    -0.0648437515f,   -0.0620312504f,   -0.0592187531f,   -0.0564062484f,
    -0.053593751f,    -0.05078125f,     -0.047968749f,    -0.0451562516f,
    -0.0423437469f,   -0.0395312496f,   -0.0367187522f,   -0.0339062512f,
    -0.0310937501f,   -0.028281251f,    -0.0254687499f,   -0.0226562507f,
    -0.0198437516f,   -0.0170312505f,   -0.0142187504f,   -0.0114062503f,
    -0.00971874967f,  -0.00915624946f,  -0.00859375019f,  -0.00803124998f,
    -0.00746874977f,  -0.00690625003f,  -0.00634374982f,  -0.00578125007f,
    -0.00521875033f,  -0.00465624966f,  -0.00409374991f,  -0.00353124971f,
    -0.00296874996f,  -0.00240624999f,  -0.00184375001f,  -0.00128124992f,
    -0.000943750085f, -0.000831249985f, -0.00071875006f,  -0.000606250076f,
    -0.000493750034f, -0.000381250022f, -0.000268750038f, -0.000156250011f,
    -8.87499991e-05f, -6.62500024e-05f, -4.37499984e-05f, -2.12499981e-05f,
    -7.7499999e-06f,  -3.25000019e-06f, -5.50000038e-07f, 0.0f,
    5.50000038e-07f,  3.25000019e-06f,  7.7499999e-06f,   2.12499981e-05f,
    4.37499984e-05f,  6.62500024e-05f,  8.87499991e-05f,  0.000156250011f,
    0.000268750038f,  0.000381250022f,  0.000493750034f,  0.000606250076f,
    0.00071875006f,   0.000831249985f,  0.000943750085f,  0.00128124992f,
    0.00184375001f,   0.00240624999f,   0.00296874996f,   0.00353124971f,
    0.00409374991f,   0.00465624966f,   0.00521875033f,   0.00578125007f,
    0.00634374982f,   0.00690625003f,   0.00746874977f,   0.00803124998f,
    0.00859375019f,   0.00915624946f,   0.00971874967f,   0.0114062503f,
    0.0142187504f,    0.0170312505f,    0.0198437516f,    0.0226562507f,
    0.0254687499f,    0.028281251f,     0.0310937501f,    0.0339062512f,
    0.0367187522f,    0.0395312496f,    0.0423437469f,    0.0451562516f,
    0.047968749f,     0.05078125f,      0.053593751f,     0.0564062484f,
    0.0592187531f,    0.0620312504f,    0.0648437515f,    0.0676562563f,
    0.0704687461f,    0.0732812509f,    0.0760937482f,    0.078906253f,
    0.0817187577f,    0.0845312476f,    0.0873437524f,    0.0901562497f,
    0.0929687545f,    0.0957812592f,    0.0985937491f,    0.107031256f,
    0.12109375f,      0.135156244f,     0.149218753f,     0.163281247f,
    0.177343756f,     0.19140625f,      0.205468744f,     0.219531253f,
    0.233593747f,     0.247656241f,     0.26171875f,      0.275781274f,
    0.289843738f,     0.303906262f,     0.317968726f,     0.33203125f,
    0.346093744f,     0.360156238f,     0.374218762f,     0.388281226f,
    0.40234375f,      0.416406244f,     0.430468738f,     0.444531262f,
    0.458593726f,     0.47265625f,      0.486718714f,     0.500781238f,
    0.514843702f,     0.528906226f,     0.54296875f,      0.557031274f,
    0.571093798f,     0.585156262f,     0.599218726f,     0.61328125f,
    0.627343774f,     0.641406298f,     0.655468762f,     0.669531226f,
    0.68359375f,      0.697656274f,     0.711718798f,     0.725781262f,
    0.739843726f,     0.75390625f,      0.767968774f,     0.782031238f,
    0.796093762f,     0.810156226f,     0.82421875f,      0.838281274f,
    0.852343738f,     0.866406262f,     0.880468726f,     0.89453125f,
    0.908593774f,     0.922656238f,     0.936718762f,     0.950781226f,
    0.96484375f,      0.978906274f,     0.992968738f,     1.0f,
};

enum { ALIGNMENT = 64 };

static int64_t round_up(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }
static int64_t block_count(int64_t n, int64_t block) { return (n + block - 1) / block; }

int64_t nf4_bytes(int64_t n) {
  int64_t blocks = block_count(n, NF4_BLOCK);
  return round_up((n + 1) / 2) + round_up(blocks) + round_up((block_count(blocks, NF4_NESTED_BLOCK) + 1) * (int64_t)sizeof(float));
}

// Nested scales, the offset, packed codes, scales.
static float *lay_out(Nf4 *out, void *storage, int64_t n) {
  int64_t nested = block_count(block_count(n, NF4_BLOCK), NF4_NESTED_BLOCK);
  *out = (Nf4){.nested_scales = storage};
  out->packed = (uint8_t *)storage + round_up((nested + 1) * (int64_t)sizeof(float));
  out->scales = out->packed + round_up((n + 1) / 2);
  return out->nested_scales + nested;
}

void nf4_attach(Nf4 *out, void *storage, int64_t n) {
  const float *offset = lay_out(out, storage, n);
  out->offset = *offset;
}

// The number of midpoints between levels that lie below x.
static uint8_t nearest_level(float x) {
  int low = 0, high = 15;
  while (low < high) {
    int middle = (low + high) / 2;
    if ((nf4_levels[middle] + nf4_levels[middle + 1]) / 2 >= x) high = middle;
    else low = middle + 1;
  }
  return (uint8_t)low;
}

static float largest_magnitude(const float *x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; i++)
    if (!(fabsf(x[i]) <= largest)) largest = fabsf(x[i]);  // a NaN stays
  return largest;
}

static float clamp_to_one(float x) { return x < -1 ? -1 : x > 1 ? 1 : x; }

// One block's levels into q[0 .. n-1]; returns its absmax. bitsandbytes multiplies by the inverse in whole blocks and
// divides in a short last one, whose absmax it keeps above zero.
static float quantize_block(uint8_t *q, const float *x, int64_t n) {
  const float least = 1e-38f;
  float absmax = largest_magnitude(x, n), divisor = absmax < least ? least : absmax, inverse = 1.0f / divisor;
  bool is_short = n < NF4_BLOCK;
  for (int64_t i = 0; i < n; i++) q[i] = nearest_level(clamp_to_one(is_short ? x[i] / divisor : x[i] * inverse));
  return is_short ? divisor : absmax;
}

enum { LANES = 8, COLUMNS = 4 * LANES, SUM_LEVELS = 4 };

// Adds each level's sums into the one above, from the lowest on, until the first whose turn has not come.
static void carry_sums(float sums[SUM_LEVELS][COLUMNS], int64_t rows, int power) {
  for (int level = 1; level < SUM_LEVELS; level++) {
    for (int k = 0; k < COLUMNS; k++) {
      sums[level][k] += sums[level - 1][k];
      sums[level - 1][k] = 0;
    }
    if (rows & (((int64_t)1 << power) - 1) << level * power) return;
  }
}

// The sum in PyTorch's order on one thread with AVX2: rows of 4 vectors of 8 lanes, each of these 32 columns summed by a
// cascade of four levels; then the vectors left over, the four vectors, the values left over, and the eight lanes.
// PyTorch cuts sums of more than 32,768 values between its threads, so there its last bit depends on their number.
static float sum_like_pytorch(const float *x, int64_t n) {
  float sums[SUM_LEVELS][COLUMNS] = {{0}};
  int64_t rows = n / COLUMNS;
  int power = 0;
  while (((int64_t)1 << power) < rows) power++;
  power = power / SUM_LEVELS > 4 ? power / SUM_LEVELS : 4;
  for (int64_t row = 0; row < rows; row++) {
    for (int k = 0; k < COLUMNS; k++) sums[0][k] += x[row * COLUMNS + k];
    if (((row + 1) & (((int64_t)1 << power) - 1)) == 0) carry_sums(sums, row + 1, power);
  }
  for (int level = 1; level < SUM_LEVELS; level++)
    for (int k = 0; k < COLUMNS; k++) sums[0][k] += sums[level][k];
  int64_t i = rows * COLUMNS;
  for (; i + LANES <= n; i += LANES)
    for (int k = 0; k < LANES; k++) sums[0][k] += x[i + k];
  for (int k = LANES; k < COLUMNS; k++) sums[0][k % LANES] += sums[0][k];
  float sum = 0;
  for (; i < n; i++) sum += x[i];
  for (int k = 0; k < LANES; k++) sum += sums[0][k];
  return sum;
}

// The index of the scale level nearest to x in -1 .. 1. bitsandbytes' CPU code looks it up in a table of 65,536 steps, so x is
// first rounded to one of them (measured on version 0.50; its CUDA code does not round, and zero gets another level there).
static uint8_t nearest_scale_level(float x) {
  float step = (float)(int)((x + 1) * 32767.5f + 0.5f) / 32767.5f - 1;
  int low = 0, high = 255;
  while (low < high) {
    int middle = (low + high) / 2;
    if (nf4_scale_levels[middle] >= step) high = middle;
    else low = middle + 1;
  }
  if (low > 0 && step - nf4_scale_levels[low - 1] <= nf4_scale_levels[low] - step) low--;
  return (uint8_t)low;
}

static void quantize_scales(Nf4 *out, const float *absmax, int64_t blocks) {
  float centred[NF4_NESTED_BLOCK];
  out->offset = sum_like_pytorch(absmax, blocks) / (float)blocks;
  for (int64_t first = 0; first < blocks; first += NF4_NESTED_BLOCK) {
    int64_t n = blocks - first < NF4_NESTED_BLOCK ? blocks - first : NF4_NESTED_BLOCK;
    for (int64_t i = 0; i < n; i++) centred[i] = absmax[first + i] - out->offset;
    float largest = largest_magnitude(centred, n), inverse = 1.0f / largest;
    out->nested_scales[first / NF4_NESTED_BLOCK] = largest;
    bool is_scaled = largest > 0;  // not all zero, no NaN; else every index is 0
    for (int64_t i = 0; i < n; i++) out->scales[first + i] = is_scaled ? nearest_scale_level(clamp_to_one(centred[i] * inverse)) : 0;
  }
}

void nf4_quantize(Nf4 *out, void *storage, const float *in, int64_t n) {
  int64_t blocks = block_count(n, NF4_BLOCK);
  float *offset = lay_out(out, storage, n), *absmax = memory_new((size_t)blocks, sizeof *absmax);
  for (int64_t block = 0; block < blocks; block++) {
    int64_t first = block * NF4_BLOCK, count = n - first < NF4_BLOCK ? n - first : NF4_BLOCK;
    uint8_t q[NF4_BLOCK + 1];
    q[count] = nearest_level(0);  // an odd count's last low nibble
    absmax[block] = quantize_block(q, in + first, count);
    for (int64_t i = 0; i < count; i += 2) out->packed[(first + i) / 2] = (uint8_t)(q[i] << 4 | q[i + 1]);
  }
  if (blocks) quantize_scales(out, absmax, blocks);
  *offset = out->offset;
  free(absmax);
}

float nf4_block_scale(const Nf4 *in, int64_t block) {
  return nf4_scale_levels[in->scales[block]] * in->nested_scales[block / NF4_NESTED_BLOCK] + in->offset;
}

void nf4_dequantize(float *out, const Nf4 *in, int64_t first, int64_t n) {
  float scale = 0;
  for (int64_t i = first; i < first + n; i++) {
    if (i == first || i % NF4_BLOCK == 0) scale = nf4_block_scale(in, i / NF4_BLOCK);
    uint8_t pair = in->packed[i / 2];
    out[i - first] = nf4_levels[i % 2 ? pair & 15 : pair >> 4] * scale;
  }
}
