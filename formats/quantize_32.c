// Quantising to the types with blocks of 32 values (formats/block_32.c, block_codebook.c) by a search, minimising
//   sum_j w_j (x_j - x'_j)^2,   x'_j = d l_j  or  d l_j + m,   w_j as quantize_weights has it.
// Eight blocks are searched at once. A row's last few are filled up with zeros.
#include "formats/block_rows.h"
#include "formats/quantize_search.h"

enum { SIZE = 32, VALUES = SIZE * LANES };

typedef struct SearchedBlocks {
  float d[LANES], m[LANES];  // as binary16 has them
  int8_t levels[LANES][SIZE];
} SearchedBlocks;

VECTOR_INLINE void lanes_store(float out[LANES], const Lanes *a) {
  for (int lane = 0; lane < LANES; lane++) out[lane] = half_to_float(half_from_float((*a)[lane]));
}

// least: x' = d l + m with l in 0 .. high; else m = 0. Levels are those of the rounded d and m.
VECTOR_INLINE void search_blocks(SearchedBlocks *out, const float *in, const float *importance, int count, Grid grid, bool least, int steps,
                                 float step) {
  float values[VALUES], weights[VALUES];
  Lanes x[SIZE], w[SIZE], scale, offset = LANES_SPLAT(0.0f), inverse;
  quantize_weights(weights, values, in, importance, count * SIZE);
  lanes_load(x, values, LANES, SIZE);
  lanes_load(w, weights, LANES, SIZE);
  if (least) range_search(&scale, &offset, x, w, SIZE, (int)grid.high, steps, step, false);
  else scale_search(&scale, x, w, SIZE, grid, steps, step);
  lanes_store(out->d, &scale);
  lanes_store(out->m, &offset);
  for (int lane = 0; lane < LANES; lane++) {
    scale[lane] = out->d[lane];
    offset[lane] = out->m[lane];
  }
  lanes_inverse(&inverse, &scale);
  for (int j = 0; j < SIZE; j++) {
    Lanes value = (x[j] - offset) * inverse, level;
    lanes_level(&level, &value, grid);
    for (int lane = 0; lane < LANES; lane++) out->levels[lane][j] = (int8_t)level[lane];
  }
}

static int blocks_at(int64_t n, int64_t i) { return n - i < VALUES ? (int)((n - i) / SIZE) : LANES; }
static const float *importance_at(const float *importance, int64_t i) { return importance ? importance + i : NULL; }

// Levels from 0, as the nibbles and the fifth bits have them.
static void shift_levels(uint8_t q[SIZE], const int8_t levels[SIZE], int low) {
  for (int j = 0; j < SIZE; j++) q[j] = (uint8_t)(levels[j] - low);
}

VECTOR_CLONES void q4_0_search(void *blocks, const float *in, const float *importance, int64_t n) {
  uint8_t *block = blocks, q[SIZE];
  SearchedBlocks found;
  for (int64_t i = 0; i < n; i += VALUES) {
    int count = blocks_at(n, i);
    search_blocks(&found, in + i, importance_at(importance, i), count, (Grid){-8, 7, NULL}, false, 5, 0.2f);
    for (int b = 0; b < count; b++, block += 18) {
      store_half(block, found.d[b]);
      shift_levels(q, found.levels[b], -8);
      pack_nibbles(block + 2, q);
    }
  }
}

VECTOR_CLONES void q4_1_search(void *blocks, const float *in, const float *importance, int64_t n) {
  uint8_t *block = blocks, q[SIZE];
  SearchedBlocks found;
  for (int64_t i = 0; i < n; i += VALUES) {
    int count = blocks_at(n, i);
    search_blocks(&found, in + i, importance_at(importance, i), count, (Grid){0, 15, NULL}, true, 24, 1);
    for (int b = 0; b < count; b++, block += 20) {
      store_half(block, found.d[b]);
      store_half(block + 2, found.m[b]);
      shift_levels(q, found.levels[b], 0);
      pack_nibbles(block + 4, q);
    }
  }
}

VECTOR_CLONES void q5_0_search(void *blocks, const float *in, const float *importance, int64_t n) {
  uint8_t *block = blocks, q[SIZE];
  SearchedBlocks found;
  for (int64_t i = 0; i < n; i += VALUES) {
    int count = blocks_at(n, i);
    search_blocks(&found, in + i, importance_at(importance, i), count, (Grid){-16, 15, NULL}, false, 5, 0.2f);
    for (int b = 0; b < count; b++, block += 22) {
      store_half(block, found.d[b]);
      shift_levels(q, found.levels[b], -16);
      pack_fifth_bits(block + 2, q);
      pack_nibbles(block + 6, q);
    }
  }
}

VECTOR_CLONES void q5_1_search(void *blocks, const float *in, const float *importance, int64_t n) {
  uint8_t *block = blocks, q[SIZE];
  SearchedBlocks found;
  for (int64_t i = 0; i < n; i += VALUES) {
    int count = blocks_at(n, i);
    search_blocks(&found, in + i, importance_at(importance, i), count, (Grid){0, 31, NULL}, true, 24, 1);
    for (int b = 0; b < count; b++, block += 24) {
      store_half(block, found.d[b]);
      store_half(block + 2, found.m[b]);
      shift_levels(q, found.levels[b], 0);
      pack_fifth_bits(block + 4, q);
      pack_nibbles(block + 8, q);
    }
  }
}

VECTOR_CLONES void iq4_nl_quantize(void *blocks, const float *in, const float *importance, int64_t n) {
  uint8_t *block = blocks, q[SIZE];
  SearchedBlocks found;
  for (int64_t i = 0; i < n; i += VALUES) {
    int count = blocks_at(n, i);
    search_blocks(&found, in + i, importance_at(importance, i), count, (Grid){-127, 113, iq4_book}, false, 3, 2);
    for (int b = 0; b < count; b++, block += 18) {
      store_half(block, found.d[b]);
      for (int j = 0; j < SIZE; j++) q[j] = book_index(iq4_book, found.levels[b][j]);
      pack_nibbles(block + 2, q);
    }
  }
}
