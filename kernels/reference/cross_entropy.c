// Cross entropy of softmax, a row of logits z[vocabulary] at a time; the maximum is taken out, so that no
// exponential overflows:
//   nll = max + log sum_j exp(z_j - max) - z_target
//   z_j <- gradient_scale * (exp(z_j - max) / sum - [j = target])
// A bfloat16 gradient lies in the first half of its row's place; it is written from the front, behind what is read.
#include <math.h>

#include "kernels/loss.h"
#include "kernels/reference/reference.h"

typedef struct LogitRows {
  float *nll, *logits;
  const int32_t *targets;
  const float *gradient_scale;
  FloatType type;
  int64_t step, vocabulary;
} LogitRows;

static void cross_entropy_row(void *argument, int64_t row, int thread) {
  (void)thread;
  const LogitRows *rows = argument;
  float *z = rows->logits + row * rows->step;
  int32_t target = rows->targets[row];
  double maximum = z[0], sum = 0;
  for (int64_t j = 1; j < rows->vocabulary; j++) maximum = z[j] > maximum ? z[j] : maximum;
  for (int64_t j = 0; j < rows->vocabulary; j++) sum += exp(z[j] - maximum);
  rows->nll[row] = (float)(maximum - z[target] + log(sum));
  if (!rows->gradient_scale) return;
  for (int64_t j = 0; j < rows->vocabulary; j++)
    reference_store(z, rows->type, j, rows->gradient_scale[row] * (exp(z[j] - maximum) / sum - (j == target ? 1 : 0)));
}

void reference_cross_entropy(float *nll, float *logits, int64_t step, const int32_t *targets, const float *gradient_scale, FloatType type,
                             int64_t n, int64_t vocabulary, Backend *backend) {
  LogitRows rows = {nll, logits, targets, gradient_scale, type, step, vocabulary};
  pool_run(backend->pool, n, cross_entropy_row, &rows);
}

void reference_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                                    int64_t n, float *scratch, Backend *backend) {
  linear_cross_entropy_by_parts(&kernels_scalar, nll, dx, x, head, targets, gradient_scale, n, scratch, backend);
}
