// A mixture of experts: the router by rows, the experts by this table's products (kernels/experts.h).
#include <stddef.h>

#include "kernels/cpu/cpu.h"

typedef struct Router {
  int32_t *chosen;
  float *weights, *dlogits;
  const float *logits, *dweights;
  const RouterSettings *settings;
  float *scores;  // [n, experts], or NULL
} Router;

static void route_rows(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Router *r = argument;
  int64_t used = r->settings->used, experts = r->settings->experts;
  for (int64_t i = begin; i < end; i++)
    router_row_forward(r->chosen + i * used, r->weights + i * used, r->scores ? r->scores + i * experts : NULL, r->logits + i * experts,
                       r->settings);
}

void cpu_router_forward(int32_t *chosen, float *weights, float *totals, const float *logits, const RouterSettings *router, int64_t n,
                        Backend *backend) {
  int64_t experts = router->experts;
  Router r = {.chosen = chosen, .weights = weights, .logits = logits, .settings = router};
  if (totals) r.scores = backend_shared_scratch(backend, n * experts * (int64_t)sizeof(float));
  run_rows(backend, n, 32 * experts, route_rows, &r);
  for (int64_t i = 0; totals && i < n * router->used; i++) totals[chosen[i]] += 1;
  for (int64_t i = 0; totals && i < n; i++)
    for (int64_t e = 0; e < experts; e++) totals[experts + e] += r.scores[i * experts + e];
}

static void route_rows_backward(void *argument, int64_t begin, int64_t end, int thread) {
  (void)thread;
  const Router *r = argument;
  int64_t used = r->settings->used, experts = r->settings->experts;
  for (int64_t i = begin; i < end; i++)
    router_row_backward(r->dlogits + i * experts, r->dweights + i * used, r->logits + i * experts, r->chosen + i * used, r->settings);
}

void cpu_router_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router,
                         int64_t n, Backend *backend) {
  Router r = {.dlogits = dlogits, .dweights = dweights, .logits = logits, .chosen = (int32_t *)(uintptr_t)chosen, .settings = router};
  run_rows(backend, n, 32 * router->experts, route_rows_backward, &r);
}

void cpu_experts_forward(Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen, const float *weights, int64_t n,
                         bool in_int8, float *scratch, Backend *backend) {
  experts_forward_by_parts(&ISA_NAME(kernels), y, x, experts, chosen, weights, n, in_int8, scratch, backend);
}

void cpu_experts_backward(Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                          const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  experts_backward_by_parts(&ISA_NAME(kernels), dx, dweights, dy, x, experts, chosen, weights, n, accumulate, scratch, backend);
}
