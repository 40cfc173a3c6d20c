// Cross entropy of softmax, a row of logits z[vocabulary] at a time; the maximum is taken out, so that no
// exponential overflows:
//   nll = max + log sum_j exp(z_j - max) - z_target
//   z_j <- gradient_scale * (exp(z_j - max) / sum - [j = target])
// With a softcap c, z is c tanh(logit / c), and the gradient by the logit has the factor 1 - (z / c)^2 more.
// A bfloat16 gradient lies in the first half of its row's place; it is written from the front, behind what is read.
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "kernels/reference/reference.h"

typedef struct LogitRows {
  float *nll, *logits;
  const int32_t *targets;
  const float *gradient_scale;
  FloatType type;
  int64_t step, vocabulary;
  float softcap;
} LogitRows;

static double cap_logit(double logit, double softcap) { return softcap > 0 ? softcap * tanh(logit / softcap) : logit; }
static double cap_slope(double z, double softcap) { return softcap > 0 ? 1 - z / softcap * (z / softcap) : 1; }

void reference_softcap(float *y, int64_t count, float cap, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < count; i++) y[i] = (float)cap_logit(y[i], cap);
}

static void cross_entropy_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const LogitRows *rows = argument;
  float *logits = rows->logits + row * rows->step, cap = rows->softcap;
  int32_t target = rows->targets[row];
  double maximum = logits[0], sum = 0;
  for (int64_t j = 1; j < rows->vocabulary; j++) maximum = logits[j] > maximum ? logits[j] : maximum;
  maximum = cap_logit(maximum, cap);
  for (int64_t j = 0; j < rows->vocabulary; j++) sum += exp(cap_logit(logits[j], cap) - maximum);
  rows->nll[row] = (float)(maximum - cap_logit(logits[target], cap) + log(sum));
  for (int64_t j = 0; !rows->gradient_scale && j < rows->vocabulary; j++) logits[j] = (float)cap_logit(logits[j], cap);
  for (int64_t j = 0; rows->gradient_scale && j < rows->vocabulary; j++) {
    double z = cap_logit(logits[j], cap), p = exp(z - maximum) / sum;
    reference_store(logits, rows->type, j, rows->gradient_scale[row] * (p - (j == target ? 1 : 0)) * cap_slope(z, cap));
  }
}

void reference_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                             int64_t n, int64_t vocabulary, float softcap, Backend *backend) {
  LogitRows rows = {nll, logits, targets, gradient_scale, type, step, vocabulary, softcap};
  pool_run(backend->pool, n, cross_entropy_row, &rows);
}

// Of two rows of logits, z of a policy p and w of a base q, both capped where there is a softcap (arXiv:1909.08593 has the penalty):
//   kl = sum_v p_v d_v,   d_v = (z_v - lse z) - (w_v - lse w),   dkl / dlogit_v = p_v (d_v - kl) (1 - (z_v / c)^2)
typedef struct DivergenceRows {
  float *kl, *base;
  const float *logits, *scale;
  int64_t step, vocabulary;
  float softcap;
} DivergenceRows;

static double log_sum_exp(const float *logits, const DivergenceRows *rows) {
  double maximum = logits[0], sum = 0;
  for (int64_t j = 1; j < rows->vocabulary; j++) maximum = logits[j] > maximum ? logits[j] : maximum;
  maximum = cap_logit(maximum, rows->softcap);
  for (int64_t j = 0; j < rows->vocabulary; j++) sum += exp(cap_logit(logits[j], rows->softcap) - maximum);
  return maximum + log(sum);
}

static void divergence_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const DivergenceRows *rows = argument;
  const float *logits = rows->logits + row * rows->step;
  float *base = rows->base + row * rows->step, cap = rows->softcap;
  double lse = log_sum_exp(logits, rows), base_lse = log_sum_exp(base, rows), kl = 0;
  for (int64_t j = 0; j < rows->vocabulary; j++) {
    double own = cap_logit(logits[j], cap) - lse, p = exp(own);
    if (p != 0) kl += p * (own - (cap_logit(base[j], cap) - base_lse));
  }
  rows->kl[row] = (float)kl;
  for (int64_t j = 0; rows->scale && j < rows->vocabulary; j++) {
    double z = cap_logit(logits[j], cap), own = z - lse, p = exp(own), d = own - (cap_logit(base[j], cap) - base_lse);
    base[j] = p == 0 ? 0 : (float)(rows->scale[row] * p * (d - kl) * cap_slope(z, cap));
  }
}

void reference_divergence(float *kl, float *base, const float *logits, int64_t step, const float *scale, int64_t n, int64_t vocabulary,
                          float softcap, Backend *backend) {
  DivergenceRows rows = {kl, base, logits, scale, step, vocabulary, softcap};
  pool_run(backend->pool, n, divergence_row, &rows);
}

enum { BLOCK = 16 };  // rows of a task, for which each row of the head is dequantised once

typedef struct LossRows {
  float *nll;
  Rows dx, x;
  const Matrix *head;
  const int32_t *targets;
  const float *gradient_scale;
  int64_t n;
  float softcap;
} LossRows;

// logits[vocabulary][BLOCK] become their gradients.
static void softmax_column(double *logits, int64_t i, const LossRows *rows, int64_t row) {
  int64_t vocabulary = rows->head->rows;
  int32_t target = rows->targets[row];
  for (int64_t j = 0; j < vocabulary; j++) logits[j * BLOCK + i] = cap_logit(logits[j * BLOCK + i], rows->softcap);
  double maximum = -INFINITY, sum = 0, at_target = logits[target * BLOCK + i];
  for (int64_t j = 0; j < vocabulary; j++) maximum = fmax(maximum, logits[j * BLOCK + i]);
  for (int64_t j = 0; j < vocabulary; j++) sum += exp(logits[j * BLOCK + i] - maximum);
  rows->nll[row] = (float)(maximum - at_target + log(sum));
  for (int64_t j = 0; rows->dx.data && j < vocabulary; j++) {
    double z = logits[j * BLOCK + i], p = exp(z - maximum) / sum;
    logits[j * BLOCK + i] = rows->gradient_scale[row] * (p - (j == target ? 1 : 0)) * cap_slope(z, rows->softcap);
  }
}

static void loss_block(void *argument, int64_t task, int thread) {
  (void)thread;
  const LossRows *rows = argument;
  int64_t first = task * BLOCK, count = rows->n - first < BLOCK ? rows->n - first : BLOCK, columns = rows->head->columns;
  double *logits = memory_new((size_t)(rows->head->rows * BLOCK), sizeof *logits), *dx = memory_new((size_t)(columns * BLOCK), sizeof *dx);
  float *w = memory_new((size_t)columns, sizeof *w);
  for (int64_t j = 0; j < rows->head->rows; j++) {
    matrix_dequantize(w, rows->head, j, 0, columns);
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0; c < columns; c++)
        logits[j * BLOCK + i] += reference_load(rows->x.data, rows->x.type, (first + i) * rows->x.step + c) * w[c];
  }
  for (int64_t i = 0; i < count; i++) softmax_column(logits, i, rows, first + i);
  for (int64_t j = 0; rows->dx.data && j < rows->head->rows; j++) {
    matrix_dequantize(w, rows->head, j, 0, columns);
    for (int64_t i = 0; i < count; i++)
      for (int64_t c = 0; c < columns; c++) dx[i * columns + c] += logits[j * BLOCK + i] * w[c];
  }
  for (int64_t i = 0; rows->dx.data && i < count; i++)
    for (int64_t c = 0; c < columns; c++)
      reference_store(rows->dx.data, rows->dx.type, (first + i) * rows->dx.step + c, dx[i * columns + c]);
  free(logits);
  free(dx);
  free(w);
}

void reference_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                                    int64_t n, float *scratch, float softcap, Backend *backend) {
  (void)scratch;
  LossRows rows = {nll, dx, x, head, targets, gradient_scale, n, softcap};
  pool_run(backend->pool, (n + BLOCK - 1) / BLOCK, loss_block, &rows);
}
