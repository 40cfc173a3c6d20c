// The router of a mixture of experts (kernels/experts.h), a row of logits[experts] at a time. With s the scores, S the sum of those of the
// chosen (+ ROUTER_LEAST_SUM):
//   w_k = scale s_k / S, or scale s_k;   ds_k = scale (dw_k - sum_j dw_j s_j / S) / S, or scale dw_k
//   softmax: dl_e = s_e (ds_e - sum_k ds_k s_k);   sigmoid: dl_e = ds_e s_e (1 - s_e);   ds_e = 0 of those that are not chosen
// Totals are summed by blocks of rows first, so that they do not depend on threads.
#include <assert.h>
#include <math.h>

#include "kernels/cpu/typed.h"

enum { BLOCK_ROWS = 32 };

typedef struct Routing {
  int32_t *chosen;  // [n, used]
  float *weights;
  float *totals;  // [blocks][2][experts], or NULL
  float *dlogits;
  const float *logits, *dweights;
  const RouterSettings *router;
  Backend *backend;
} Routing;

// Sets scores[experts] and returns their sum.
static float row_scores(float *scores, const float *logits, const RouterSettings *router) {
  int64_t experts = router->experts;
  Vec largest = vec_set(-INFINITY), sum = vec_zero();
  for (int64_t e = 0; e < experts && !router->is_sigmoid; e += VL)
    largest = vec_max(largest, vec_select(vec_first(experts - e), vec_load_first(logits + e, experts - e), largest));
  Vec shift = vec_set(router->is_sigmoid ? 0 : vec_largest(largest));
  float sign = router->is_sigmoid ? -1 : 1;
  for (int64_t e = 0; e < experts; e += VL) {
    Vec l = vec_load_first(logits + e, experts - e);
    Vec score = vec_exp(vec_set(sign) * (l - shift));
    if (router->is_sigmoid) score = vec_set(1) / (vec_set(1) + score);
    sum += (Vec)((VecI)score & vec_first(experts - e));
    vec_store_first(scores + e, score, experts - e);
  }
  float total = vec_sum(sum);
  if (router->is_sigmoid) return total;
  for (int64_t e = 0; e < experts; e += VL)
    vec_store_first(scores + e, vec_load_first(scores + e, experts - e) / vec_set(total), experts - e);
  return 1;
}

static float chosen_sum(const float *scores, const int32_t *chosen, const RouterSettings *router) {
  float sum = ROUTER_LEAST_SUM;
  for (int64_t k = 0; k < router->used && router->is_normalized; k++) sum += scores[chosen[k]];
  return router->is_normalized ? sum : 1;
}

static void forward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Routing *r = argument;
  const RouterSettings *router = r->router;
  int64_t experts = router->experts, used = router->used;
  float *scores = backend_scratch(r->backend, thread), *choice = scores + round_up(experts, VL);
  float *counts = r->totals ? r->totals + begin / BLOCK_ROWS * 2 * experts : NULL, *sums = counts ? counts + experts : NULL;
  for (int64_t e = 0; counts && e < 2 * experts; e++) counts[e] = 0;
  for (int64_t i = begin; i < end; i++) {
    int32_t *chosen = r->chosen + i * used;
    float sum = row_scores(scores, r->logits + i * experts, router);
    for (int64_t e = 0; e < experts; e++) choice[e] = scores[e] + (router->bias ? router->bias[e] : 0);
    router_choose(chosen, choice, router);
    float scale = router->scale / chosen_sum(scores, chosen, router);
    for (int64_t k = 0; k < used; k++) r->weights[i * used + k] = scale * scores[chosen[k]];
    if (!counts) continue;
    for (int64_t k = 0; k < used; k++) counts[chosen[k]] += 1;
    for (int64_t e = 0; e < experts; e++) sums[e] += scores[e] / sum;
  }
}

void cpu_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                        Backend *backend) {
  assert(router->experts < KERNEL_SCRATCH_BYTES / 16);
  int64_t blocks = divide_up(n, BLOCK_ROWS), count = 2 * router->experts;
  Routing routing = {.chosen = chosen, .weights = weights, .logits = logits, .router = router, .backend = backend};
  if (totals) routing.totals = backend_shared_scratch(backend, (blocks * count + 1) * (int64_t)sizeof(float));
  run_ranges(backend, n, BLOCK_ROWS, forward_rows, &routing);
  for (int64_t b = 0; totals && b < blocks; b++)
    for (int64_t e = 0; e < count; e++) totals[e] += routing.totals[b * count + e];
}

static void backward_rows(void *argument, int64_t begin, int64_t end, int thread) {
  const Routing *r = argument;
  const RouterSettings *router = r->router;
  int64_t experts = router->experts, used = router->used;
  float *scores = backend_scratch(r->backend, thread);
  for (int64_t i = begin; i < end; i++) {
    const int32_t *chosen = r->chosen + i * used;
    const float *dweights = r->dweights + i * used;
    float *dlogits = r->dlogits + i * experts, shift = 0, mean = 0;
    row_scores(scores, r->logits + i * experts, router);
    float sum = chosen_sum(scores, chosen, router), scale = router->scale / sum;
    for (int64_t k = 0; k < used && router->is_normalized; k++) shift += dweights[k] * (scores[chosen[k]] / sum);
    for (int64_t k = 0; k < used && !router->is_sigmoid; k++) mean += scale * (dweights[k] - shift) * scores[chosen[k]];
    for (int64_t e = 0; e < experts; e += VL)
      vec_store_first(dlogits + e, vec_load_first(scores + e, experts - e) * vec_set(router->is_sigmoid ? 0 : -mean), experts - e);
    for (int64_t k = 0; k < used; k++) {
      float score = scores[chosen[k]], dscore = scale * (dweights[k] - shift);
      dlogits[chosen[k]] = score * (router->is_sigmoid ? dscore * (1 - score) : dscore - mean);
    }
  }
}

void cpu_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                         int64_t n, Backend *backend) {
  Routing routing = {.dlogits = dlogits, .dweights = dweights, .logits = logits, .router = router, .backend = backend};
  routing.chosen = (int32_t *)(uintptr_t)chosen;
  run_ranges(backend, n, BLOCK_ROWS, backward_rows, &routing);
}
