// The output layer with cross-entropy. By tiles the product itself takes exponentials, e_ij = exp(logits_ij - logits_i,target), and leaves
// them in bfloat16 with the sums of groups of columns: the logits are nowhere. With r_i the sum of e_ij without the target's
//   nll_i = log(1 + r_i),   dx_i = scale_i / (1 + r_i) (sum_j without the target e_ij head_j - r_i head_target)
// so that nothing cancels where the target is nearly sure. Where r_i overflows, or anything is no number, or logits are capped, it goes by
// parts.
#include <math.h>

#include "kernels/cpu/dequantize.h"
#include "kernels/cpu/product.h"
#include "kernels/loss.h"

#ifdef __AMX_BF16__

typedef struct Job {
  float *nll;
  Rows dx, x;
  const Matrix *head;
  const int32_t *targets;
  const float *gradient_scale;
  Rows e;  // [n, vocabulary], bfloat16
  Exponentials sums;
  float *shifts;  // [n]: logits_i,target log2(e)
  float *rest;  // [n]: r
  float *back;  // [n][columns]: e head
  Backend *backend;
} Job;

static void target_logits(void *argument, int64_t begin, int64_t end, int thread) {
  const Job *job = argument;
  uint16_t *buffer = backend_scratch(job->backend, thread);
  int64_t columns = job->head->columns;
  for (int64_t i = begin; i < end; i++) {
    const uint16_t *w = matrix_words(job->head, job->targets[i], 0, columns, 1, buffer);
    Vec sum = vec_zero();
    for (int64_t c = 0; c < columns; c += VL)
      sum = vec_fma(typed_load(job->x.data, i * job->x.step + c, columns - c, FLOAT_BF16), typed_load(w, c, columns - c, FLOAT_BF16), sum);
    job->shifts[i] = vec_sum(sum) * LOG2_E;
  }
}

// nll and r of rows; the target's exponential becomes zero.
static void sum_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Job *job = argument;
  int64_t groups = divide_up(job->head->rows, GROUP_COLUMNS);
  for (int64_t i = begin; i < end; i++) {
    uint16_t *e = (uint16_t *)job->e.data + i * job->e.step;
    int64_t target = job->targets[i], group = target / GROUP_COLUMNS, first = group * GROUP_COLUMNS;
    e[target] = 0;
    Vec own = vec_zero(), sum = vec_zero();
    for (int64_t j = first; j < smaller(first + GROUP_COLUMNS, job->head->rows); j += VL)
      own += typed_load(e, j, job->head->rows - j, FLOAT_BF16);
    float *sums = job->sums.sums + i * job->sums.step;
    sums[group] = vec_sum(own);
    for (int64_t g = 0; g < groups; g += VL) sum += vec_load_first(sums + g, groups - g);
    job->rest[i] = vec_sum(sum);
    job->nll[i] = log1pf(job->rest[i]);
  }
}

static void finish_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Job *job = argument;
  int64_t columns = job->head->columns;
  float *buffer = backend_scratch(job->backend, thread);
  for (int64_t i = begin; i < end; i++) {
    const float *w = matrix_segment(job->head, job->targets[i], 0, columns, buffer), *back = job->back + i * columns;
    Vec factor = vec_set(job->gradient_scale[i] / (1 + job->rest[i])), rest = vec_set(-job->rest[i]);
    for (int64_t c = 0; c < columns; c += VL) {
      int64_t left = columns - c;
      Vec value = factor * vec_fma(rest, vec_load_first(w + c, left), vec_load_first(back + c, left));
      BY_TYPE(job->dx.type, typed_store(job->dx.data, i * job->dx.step + c, value, left, TYPE));
    }
  }
}

static bool are_finite(const float *values, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; i++) sum += values[i] * 0;
  return sum == 0;
}

// False where it has to go by parts.
static bool run_in_tiles(Job *job, int64_t n, float *scratch, Backend *backend) {
  int64_t vocabulary = job->head->rows, columns = job->head->columns, step = logits_step(vocabulary);
  job->e = (Rows){scratch, step, FLOAT_BF16};
  float *sums = scratch + n * step / 2;
  job->sums = (Exponentials){.sums = sums, .step = divide_up(vocabulary, GROUP_COLUMNS)};
  job->shifts = sums + round_up(n * job->sums.step, 16);
  job->rest = job->shifts + n;
  job->back = job->rest + n;
  job->sums.shifts = job->shifts;
  run_rows(backend, n, columns, target_logits, job);
  Product product = {.m = n, .backend = backend};
  Output *output = product_add_output(&product, job->e, vocabulary);
  output->exponentials = &job->sums;
  output->terms[output->term_count++] =
      (Term){.left = product_add_left(&product, job->x, columns), .w = *job->head, .transposed = true, .alpha = 1};
  product_run(&product);
  run_rows(backend, n, job->sums.step, sum_rows, job);
  if (!are_finite(job->nll, n)) return false;
  if (!job->dx.data) return true;
  Projection back = {.w = job->head, .alpha = 1, .y = job->e};
  cpu_linear_backward(rows_f32(job->back, columns), &back, 1, n, false, backend);
  run_rows(backend, n, columns, finish_rows, job);
  return true;
}

#endif

void cpu_linear_cross_entropy(float *nll, Rows dx, Rows x, const Matrix *head, const int32_t *targets, const float *gradient_scale,
                              int64_t n, float *scratch, float softcap, Backend *backend) {
#ifdef __AMX_BF16__
  if (x.type == FLOAT_BF16 && !(softcap > 0)) {
    Job job = {.nll = nll, .dx = dx, .x = x, .head = head, .targets = targets, .gradient_scale = gradient_scale, .backend = backend};
    if (run_in_tiles(&job, n, scratch, backend)) return;
  }
#endif
  linear_cross_entropy_by_parts(&ISA_NAME(kernels), nll, dx, x, head, targets, gradient_scale, n, scratch, softcap, backend);
}
