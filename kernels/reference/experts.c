// A mixture of experts, one token and one expert at a time, all in double:
//   h = f(gate_e x_i) * up_e x_i,   y_i += weight down_e h
//   t = dy_i down_e,   dweight = t . h,   dx_i (+)= weight (t * up * f'(gate)) gate_e + weight (t * f(gate)) up_e
#include <stdlib.h>

#include "core/memory.h"
#include "kernels/reference/reference.h"

typedef struct Work {
  const ExpertMatrices *experts;
  float *row;  // one row of a matrix
  double *gate, *up, *t;  // [width]
} Work;

static Work work_new(const ExpertMatrices *experts) {
  size_t width = (size_t)experts->width, hidden = (size_t)experts->hidden;
  return (Work){experts, memory_new(width > hidden ? width : hidden, sizeof(float)), memory_new(width, sizeof(double)),
                memory_new(width, sizeof(double)), memory_new(width, sizeof(double))};
}

static void work_free(Work *work) {
  free(work->row);
  free(work->gate);
  free(work->up);
  free(work->t);
}

// out[rows] = w x_i
static void multiply_row(double *out, const Matrix *w, Rows x, int64_t i, float *row) {
  for (int64_t r = 0; r < w->rows; r++) {
    matrix_dequantize(row, w, r, 0, w->columns);
    out[r] = 0;
    for (int64_t c = 0; c < w->columns; c++) out[r] += reference_load(x.data, x.type, i * x.step + c) * row[c];
  }
}

static void add_output(double *y, Work *work, Rows x, int64_t i, int32_t e, double weight) {
  const ExpertMatrices *experts = work->experts;
  multiply_row(work->gate, &experts->gate[e], x, i, work->row);
  multiply_row(work->up, &experts->up[e], x, i, work->row);
  for (int64_t c = 0; c < experts->hidden; c++) {
    matrix_dequantize(work->row, &experts->down[e], c, 0, experts->width);
    for (int64_t j = 0; j < experts->width; j++)
      y[c] += weight * reference_activate(work->gate[j], experts->activation).value * work->up[j] * work->row[j];
  }
}

void reference_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                               bool in_int8, float *scratch, Backend *backend) {
  if (in_int8) {  // defined by linear_forward_int8
    experts_forward_by_parts(&kernels_scalar, y, x, experts, chosen, weights, n, true, scratch, backend);
    return;
  }
  Work work = work_new(experts);
  double *sum = memory_new((size_t)experts->hidden, sizeof *sum);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < experts->hidden; c++) sum[c] = reference_load(y.data, y.type, i * y.step + c);
    for (int64_t s = i * experts->used; s < (i + 1) * experts->used; s++) add_output(sum, &work, x, i, chosen[s], weights[s]);
    for (int64_t c = 0; c < experts->hidden; c++) reference_store(y.data, y.type, i * y.step + c, sum[c]);
  }
  free(sum);
  work_free(&work);
}

// Returns dweight.
static double add_gradient(double *dx, Work *work, Rows dy, Rows x, int64_t i, int32_t e, double weight) {
  const ExpertMatrices *experts = work->experts;
  multiply_row(work->gate, &experts->gate[e], x, i, work->row);
  multiply_row(work->up, &experts->up[e], x, i, work->row);
  for (int64_t j = 0; j < experts->width; j++) work->t[j] = 0;
  for (int64_t c = 0; c < experts->hidden; c++) {
    matrix_dequantize(work->row, &experts->down[e], c, 0, experts->width);
    for (int64_t j = 0; j < experts->width; j++) work->t[j] += reference_load(dy.data, dy.type, i * dy.step + c) * work->row[j];
  }
  double dweight = 0;
  for (int64_t j = 0; j < experts->width; j++) {
    Slope slope = reference_activate(work->gate[j], experts->activation);
    dweight += work->t[j] * slope.value * work->up[j];
    double dgate = weight * work->t[j] * work->up[j] * slope.derivative, dup = weight * work->t[j] * slope.value;
    matrix_dequantize(work->row, &experts->gate[e], j, 0, experts->hidden);
    for (int64_t c = 0; c < experts->hidden; c++) dx[c] += dgate * work->row[c];
    matrix_dequantize(work->row, &experts->up[e], j, 0, experts->hidden);
    for (int64_t c = 0; c < experts->hidden; c++) dx[c] += dup * work->row[c];
  }
  return dweight;
}

void reference_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                                const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  (void)scratch;
  (void)backend;
  Work work = work_new(experts);
  double *sum = memory_new((size_t)experts->hidden, sizeof *sum);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < experts->hidden; c++) sum[c] = accumulate ? reference_load(dx.data, dx.type, i * dx.step + c) : 0;
    for (int64_t s = i * experts->used; s < (i + 1) * experts->used; s++)
      dweights[s] = (float)add_gradient(sum, &work, dy, x, i, chosen[s], weights[s]);
    for (int64_t c = 0; c < experts->hidden; c++) reference_store(dx.data, dx.type, i * dx.step + c, sum[c]);
  }
  free(sum);
  work_free(&work);
}
