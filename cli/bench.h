// What `lora bench` measures: kernels by themselves, and a model's rates through the parts that runs go through.
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "kernels/backend.h"
#include "models/model.h"

// One kernel on one shape. It has a rate in flop/s or, where memory is what it works on, in bytes/s; the other is 0.
typedef struct KernelRate {
  const char *instructions;  // the table: "avx2"
  const char *kernel;  // its name in kernels/backend.h
  const char *weights;  // the frozen matrix's type; NULL: none
  FloatType activations;
  int64_t out, in;  // the matrix's shape; of attention, documents and their length; 0: neither
  int64_t rows;  // of x: tokens; all documents together
  double flops;
  double bytes;  // moved, each array counted once
  double share;  // of the table's peak in that arithmetic; 0 of what has no flop/s
  bool is_slow;  // not measured: it would take more than BENCH_SLOW_SECONDS; no rates
} KernelRate;

enum { BENCH_SLOW_SECONDS = 2 };

typedef struct KernelRates {
  KernelRate *items;
  int count, capacity;
} KernelRates;

// What the kernels other than the linear ones are measured on.
typedef struct BenchShape {
  int64_t columns;  // of the elementwise kernels
  int64_t heads, kv_heads, head_size, vocabulary;
} BenchShape;

typedef struct BenchPeak {
  double float32, half;  // flop/s; 0: no such instructions
  FloatType half_type;  // bfloat16, or float16 where the device multiplies only that
} BenchPeak;

// Runs function(argument) often enough and returns the seconds of its fastest run, the device's work done.
typedef void (*BenchFunction)(void *argument);
double bench_seconds(BenchFunction function, void *argument, Backend *backend);

// Everything of one measurement, on the host and, where that has a memory of its own, on the device.
typedef struct BenchMemory {
  Backend *backend;
  Arena arena;  // the host's
  void **blocks;
  int block_count, block_capacity;
  Matrix *matrices;
  int matrix_count, matrix_capacity;
} BenchMemory;
// The device's copy of `bytes` of the host, or those where it reads them. Where there is no memory the process ends.
void *bench_place(BenchMemory *memory, void *host, int64_t bytes);
void bench_place_matrix(BenchMemory *memory, Matrix *matrix);
void bench_release(BenchMemory *memory);
// Small numbers of a type, on the device.
void *bench_activations(BenchMemory *memory, int64_t count, FloatType type);

// All of the following measure backend->kernels and append to `rates`.
BenchPeak bench_peak(Backend *backend);
// All but the elementwise kernels in float32 and, where there are instructions for it, in the peak's half_type. linear_forward for each number
// of rows (ascending), then linear_backward for each of those from `first_backward` on, and linear_forward_int8 for the first where that is 1
// and levels are evenly spaced. `type`: what w was before the device had it.
void bench_linear(KernelRates *rates, const Matrix *w, BlockType type, const int64_t *rows, int count, int64_t first_backward,
                  BenchPeak peak, Backend *backend);
// weight_backward and low_rank_backward of LoRA's factors.
void bench_low_rank(KernelRates *rates, int64_t rank, int64_t width, int64_t rows, BenchPeak peak, Backend *backend);
// linear_cross_entropy, forward and backward.
void bench_loss(KernelRates *rates, const Matrix *head, int64_t rows, BenchPeak peak, Backend *backend);
// experts_forward and experts_backward with small experts of Q8_0.
void bench_experts(KernelRates *rates, int64_t rows, BenchPeak peak, Backend *backend);
// Forward and backward over documents * length tokens.
void bench_attention(KernelRates *rates, const BenchShape *shape, int64_t documents, int64_t length, BenchPeak peak, Backend *backend);
// What generation of some texts at once adds: pages, attention over them, adapters of rows, and linear_forward_rows.
void bench_pages(KernelRates *rates, const BenchShape *shape, Backend *backend);
void bench_elementwise(KernelRates *rates, const BenchShape *shape, int64_t rows, Backend *backend);
// The device's matrix of any type with values that mean nothing; K types have no quantiser here, and need none.
Matrix bench_matrix(BenchMemory *memory, BlockType type, int64_t rows, int64_t columns);

typedef struct ModelRates {
  double prompt, generation, train;  // tokens/s; train is 0 where it was not measured
  int64_t prompt_tokens, generated_tokens, train_tokens;  // of a pass; less than asked for where the model's context is shorter
  double prompt_flop, generation_flop, train_flop;  // of the matrix products, for each token
  int64_t peak_bytes;  // of the device's memory; on the CPU of the process's
} ModelRates;

// trains: training, too. The model's slots must be empty; they are so again afterwards. STATUS_NO_SPACE when a micro-batch does not fit.
Status bench_model(ModelRates *rates, Model *model, bool trains);

#endif
