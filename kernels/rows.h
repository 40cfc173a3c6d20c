// Rows of activations or gradients as kernels see them: float32, or bfloat16 where a run keeps them so (the residual
// stream, the loss and everything trainable stay float32 in any case). float16 is for CUDA devices that lack bfloat16: no table of the CPU
// has it.
#ifndef KERNELS_ROWS_H
#define KERNELS_ROWS_H

#include <stdint.h>

typedef enum FloatType { FLOAT_32, FLOAT_BF16, FLOAT_F16 } FloatType;

static inline const char *float_name(FloatType type) { return type == FLOAT_32 ? "float32" : type == FLOAT_BF16 ? "bfloat16" : "float16"; }
static inline int64_t float_bytes(FloatType type) { return type == FLOAT_32 ? 4 : 2; }

// Row i begins at element i * step.
typedef struct Rows {
  void *data;
  int64_t step;
  FloatType type;
} Rows;

static inline Rows rows_f32(const float *data, int64_t step) { return (Rows){(void *)(uintptr_t)data, step, FLOAT_32}; }
// The rows from element `column` of each on.
static inline Rows rows_from(Rows rows, int64_t column) {
  return (Rows){(char *)rows.data + column * float_bytes(rows.type), rows.step, rows.type};
}

#endif
