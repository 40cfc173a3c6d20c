// The router of a mixture of experts (kernels/experts.h). With s the scores, S the sum of those of the chosen (+ ROUTER_LEAST_SUM):
//   w_k = scale s_k / S, or scale s_k;   ds_k = scale (dw_k - sum_j dw_j s_j / S) / S, or scale dw_k
//   softmax: dl_e = s_e (ds_e - sum_k ds_k s_k);   sigmoid: dl_e = ds_e s_e (1 - s_e);   ds_e = 0 of those that are not chosen
#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "kernels/reference/reference.h"

static void row_scores(double *scores, const float *logits, const RouterSettings *router) {
  double largest = -INFINITY, sum = 0;
  for (int64_t e = 0; e < router->experts; e++) largest = fmax(largest, logits[e]);
  for (int64_t e = 0; e < router->experts; e++) {
    scores[e] = router->is_sigmoid ? 1 / (1 + exp(-(double)logits[e])) : exp(logits[e] - largest);
    sum += scores[e];
  }
  for (int64_t e = 0; e < router->experts && !router->is_sigmoid; e++) scores[e] /= sum;
}

static double chosen_sum(const double *scores, const int32_t *chosen, const RouterSettings *router) {
  double sum = ROUTER_LEAST_SUM;
  for (int64_t k = 0; k < router->used; k++) sum += scores[chosen[k]];
  return router->is_normalized ? sum : 1;
}

void reference_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                              Backend *backend) {
  (void)backend;
  size_t experts = (size_t)router->experts;
  double *scores = memory_new(experts, sizeof *scores), *sums = memory_new(2 * experts, sizeof *sums);
  float *choice = memory_new(experts, sizeof *choice);
  for (int64_t i = 0; i < n; i++, logits += router->experts, chosen += router->used, weights += router->used) {
    row_scores(scores, logits, router);
    double sum = 0;
    for (int64_t e = 0; e < router->experts; e++) {
      choice[e] = (float)scores[e] + (router->bias ? router->bias[e] : 0);
      sum += scores[e];
    }
    router_choose(chosen, choice, router);
    for (int64_t e = 0; e < router->experts; e++) sums[router->experts + e] += scores[e] / sum;
    for (int64_t k = 0; k < router->used; k++) {
      sums[chosen[k]] += 1;
      weights[k] = (float)(router->scale * scores[chosen[k]] / chosen_sum(scores, chosen, router));
    }
  }
  for (int64_t e = 0; totals && e < 2 * router->experts; e++) totals[e] = (float)(totals[e] + sums[e]);
  free(scores);
  free(sums);
  free(choice);
}

void reference_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen,
                               const RouterSettings *router, int64_t n, Backend *backend) {
  (void)backend;
  int64_t experts = router->experts, used = router->used;
  double *scores = memory_new((size_t)experts, sizeof *scores), *dscores = memory_new((size_t)experts, sizeof *dscores);
  for (int64_t i = 0; i < n; i++, dlogits += experts, logits += experts, dweights += used, chosen += used) {
    row_scores(scores, logits, router);
    double sum = chosen_sum(scores, chosen, router), shift = 0, mean = 0;
    for (int64_t k = 0; k < used && router->is_normalized; k++) shift += dweights[k] * scores[chosen[k]] / sum;
    for (int64_t e = 0; e < experts; e++) dscores[e] = 0;
    for (int64_t k = 0; k < used; k++) {
      dscores[chosen[k]] = router->scale * (dweights[k] - shift) / sum;
      mean += dscores[chosen[k]] * scores[chosen[k]];
    }
    for (int64_t e = 0; e < experts; e++)
      dlogits[e] = (float)(scores[e] * (router->is_sigmoid ? dscores[e] * (1 - scores[e]) : dscores[e] - mean));
  }
  free(scores);
  free(dscores);
}
