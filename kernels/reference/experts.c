// A mixture of experts, one token and one of its experts at a time: the equations of kernels/experts.h.
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "kernels/reference/reference.h"

void reference_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                              Backend *backend) {
  (void)backend;
  float scores[ROUTER_MOST_EXPERTS];
  for (int64_t i = 0; i < n; i++) {
    router_row_forward(chosen + i * router->used, weights + i * router->used, scores, logits + i * router->experts, router);
    for (int64_t s = 0; totals && s < router->used; s++) totals[chosen[i * router->used + s]] += 1;
    for (int64_t e = 0; totals && e < router->experts; e++) totals[router->experts + e] += scores[e];
  }
}

void reference_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen,
                               const RouterSettings *router, int64_t n, Backend *backend) {
  (void)backend;
  for (int64_t i = 0; i < n; i++)
    router_row_backward(dlogits + i * router->experts, dweights + i * router->used, logits + i * router->experts, chosen + i * router->used,
                        router);
}

typedef struct Visit {
  const ExpertMatrices *experts;
  double *x, *dx, *out;  // [hidden]
  double *gate, *up, *dinner;  // [width]
  float *w;  // a row of a matrix
} Visit;

static Visit visit_new(const ExpertMatrices *experts) {
  size_t hidden = (size_t)experts->hidden, width = (size_t)experts->width;
  Visit v = {.experts = experts};
  v.x = memory_new(3 * hidden + 3 * width, sizeof *v.x);
  v.dx = v.x + hidden;
  v.out = v.dx + hidden;
  v.gate = v.out + hidden;
  v.up = v.gate + width;
  v.dinner = v.up + width;
  v.w = memory_new(hidden > width ? hidden : width, sizeof *v.w);
  return v;
}

static void visit_free(Visit *v) {
  free(v->x);
  free(v->w);
}

static double dot_row(const Visit *v, const Matrix *m, int64_t row, const double *x) {
  double sum = 0;
  matrix_dequantize(v->w, m, row, 0, m->columns);
  for (int64_t c = 0; c < m->columns; c++) sum += v->w[c] * x[c];
  return sum;
}

// gate, up and the expert's output of x.
static void visit_forward(Visit *v, int64_t e) {
  const ExpertMatrices *experts = v->experts;
  double *inner = v->dinner;
  for (int64_t r = 0; r < experts->width; r++) {
    v->gate[r] = dot_row(v, &experts->gate[e], r, v->x);
    v->up[r] = dot_row(v, &experts->up[e], r, v->x);
    inner[r] = reference_activate(v->gate[r], experts->activation).value * v->up[r];
  }
  for (int64_t r = 0; r < experts->hidden; r++) v->out[r] = dot_row(v, &experts->down[e], r, inner);
}

static void load_row(double *out, Rows rows, int64_t i, int64_t columns) {
  for (int64_t c = 0; c < columns; c++) out[c] = reference_load(rows.data, rows.type, i * rows.step + c);
}

void reference_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                               bool in_int8, float *scratch, Backend *backend) {
  if (in_int8) {  // the rounding is linear_forward_int8's
    experts_forward_by_parts(backend->kernels, y, x, experts, chosen, weights, n, true, scratch, backend);
    return;
  }
  Visit v = visit_new(experts);
  for (int64_t i = 0; i < n; i++) {
    load_row(v.x, x, i, experts->hidden);
    load_row(v.dx, y, i, experts->hidden);
    for (int64_t s = 0; s < experts->used; s++) {
      visit_forward(&v, chosen[i * experts->used + s]);
      for (int64_t c = 0; c < experts->hidden; c++) v.dx[c] += weights[i * experts->used + s] * v.out[c];
    }
    for (int64_t c = 0; c < experts->hidden; c++) reference_store(y.data, y.type, i * y.step + c, v.dx[c]);
  }
  visit_free(&v);
}

static void add_column(const Visit *v, double *out, const Matrix *m, int64_t row, double factor) {
  matrix_dequantize(v->w, m, row, 0, m->columns);
  for (int64_t c = 0; c < m->columns; c++) out[c] += factor * v->w[c];
}

// What expert e with this weight gives to dx; returns dy . its output.
static double visit_backward(Visit *v, int64_t e, const double *dy, double weight) {
  const ExpertMatrices *experts = v->experts;
  visit_forward(v, e);
  double product = 0;
  for (int64_t c = 0; c < experts->hidden; c++) product += dy[c] * v->out[c];
  for (int64_t r = 0; r < experts->width; r++) v->dinner[r] = 0;
  for (int64_t r = 0; r < experts->hidden; r++) add_column(v, v->dinner, &experts->down[e], r, weight * dy[r]);
  for (int64_t r = 0; r < experts->width; r++) {
    ReferenceSlope f = reference_activate(v->gate[r], experts->activation);
    add_column(v, v->dx, &experts->gate[e], r, v->dinner[r] * v->up[r] * f.derivative);
    add_column(v, v->dx, &experts->up[e], r, v->dinner[r] * f.value);
  }
  return product;
}

void reference_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                                const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  (void)scratch, (void)backend;
  Visit v = visit_new(experts);
  double *out = memory_new((size_t)experts->hidden, sizeof *out);
  for (int64_t i = 0; i < n; i++) {
    load_row(v.x, x, i, experts->hidden);
    load_row(out, dy, i, experts->hidden);
    for (int64_t c = 0; c < experts->hidden; c++) v.dx[c] = 0;
    if (accumulate) load_row(v.dx, dx, i, experts->hidden);
    for (int64_t s = i * experts->used; s < (i + 1) * experts->used; s++)
      dweights[s] = (float)visit_backward(&v, chosen[s], out, weights[s]);
    for (int64_t c = 0; c < experts->hidden; c++) reference_store(dx.data, dx.type, i * dx.step + c, v.dx[c]);
  }
  free(out);
  visit_free(&v);
}
