// The one matrix product under all others: c[m, n] (+)= alpha * a[m, k] b[k, n] for operands that are in cache,
// by a micro-kernel that holds TILE_ROWS x TILE_COLUMNS sums in registers (Goto and van de Geijn 2008; Van Zee and
// van de Geijn 2015, "BLIS"). The sum of an element runs over k in order, whatever tile or edge it is in.
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

// The sums take all vector registers but the four that hold operands: 14 x 32 of 32 registers, 6 x 16 of 16.
enum { TILE_VECS = 2, TILE_ROWS = (VECTOR_REGISTERS - 4) / TILE_VECS, TILE_COLUMNS = TILE_VECS * VL };

// Element (i, k) is data[i / TILE_ROWS * panel + i % TILE_ROWS * row + k * step]; row or step is 1.
typedef struct TileA {
  const float *data;
  int64_t panel, row, step;
} TileA;

// Element (k, j) is data[j / TILE_COLUMNS * panel + k * step + j % TILE_COLUMNS]; a panel can be read to its full
// width even where the product is narrower.
typedef struct TileB {
  const float *data;
  int64_t panel, step;
} TileB;

static inline TileA tile_a_rows(const float *data, int64_t ld) { return (TileA){data, TILE_ROWS * ld, ld, 1}; }  // a[i * ld + k]
static inline TileA tile_a_columns(const float *data, int64_t ld) { return (TileA){data, TILE_ROWS, 1, ld}; }  // a[k * ld + i]
static inline TileA tile_a_packed(const float *data, int64_t k) { return (TileA){data, TILE_ROWS * k, 1, TILE_ROWS}; }
static inline TileB tile_b_packed(const float *data, int64_t k) { return (TileB){data, TILE_COLUMNS * k, TILE_COLUMNS}; }

#define tile_multiply ISA_NAME(tile_multiply)
void tile_multiply(float *c, int64_t ldc, TileA a, TileB b, int64_t m, int64_t n, int64_t k, float alpha, bool accumulate);

// Panels of TILE_ROWS rows for tile_a_packed: x[m, k] row-major.
#define pack_a_rows ISA_NAME(pack_a_rows)
void pack_a_rows(float *out, const float *x, int64_t ld, int64_t m, int64_t k);
// Panels for tile_b_packed, of b[k, n], and of the transpose of rows[n][k]. What stands in columns beyond n is of no
// account: zeros, or column n - 1 again.
#define pack_b ISA_NAME(pack_b)
void pack_b(float *out, const float *b, int64_t ld, int64_t k, int64_t n);
#define pack_b_transposed ISA_NAME(pack_b_transposed)
void pack_b_transposed(float *out, const float *rows, int64_t ld, int64_t k, int64_t n);
// One panel from up to TILE_COLUMNS rows that lie apart.
#define pack_b_panel ISA_NAME(pack_b_panel)
void pack_b_panel(float *out, const float *const *rows, int64_t k, int64_t n);

#endif
