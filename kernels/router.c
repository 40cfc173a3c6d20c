// Which experts a token goes through (kernels/experts.h): of the groups with the best scores, the experts with the best scores. What may not
// be chosen, or is chosen already, has the score -infinity, and nothing else has: so no expert is chosen twice, whatever the logits are.
#include <assert.h>
#include <float.h>
#include <math.h>

#include "kernels/experts.h"

// The place of the largest of values[count], the first of equal ones; -1: all are -infinity.
static int64_t largest_place(const float *values, int64_t count) {
  int64_t best = -1;
  float largest = -INFINITY;
  for (int64_t i = 0; i < count; i++)
    if (values[i] > largest) largest = values[i], best = i;
  return best;
}

static float group_score(const float *choice, int64_t count, bool by_two) {
  float best = -INFINITY, second = -INFINITY;
  for (int64_t i = 0; i < count; i++) {
    if (choice[i] > best) second = best, best = choice[i];
    else if (choice[i] > second) second = choice[i];
  }
  float score = by_two && count > 1 ? best + second : best;
  return score > -FLT_MAX ? score : -FLT_MAX;
}

// All experts but those of the best groups become -infinity.
static void leave_groups(float *choice, const RouterSettings *router) {
  enum { MOST = 256 };
  int64_t size = router->experts / router->groups;
  float scores[MOST];
  bool stays[MOST] = {false};
  assert(router->groups <= MOST);
  for (int64_t g = 0; g < router->groups; g++) scores[g] = group_score(choice + g * size, size, router->groups_by_two);
  for (int64_t i = 0; i < router->groups_used; i++) {
    int64_t g = largest_place(scores, router->groups);
    stays[g] = true;
    scores[g] = -INFINITY;
  }
  for (int64_t e = 0; e < router->experts; e++)
    if (!stays[e / size]) choice[e] = -INFINITY;
}

void router_choose(int32_t *chosen, float *choice, const RouterSettings *router) {
  for (int64_t e = 0; e < router->experts; e++)
    if (!(choice[e] > -FLT_MAX)) choice[e] = -FLT_MAX;  // NaN, too
  if (router->groups > 1) leave_groups(choice, router);
  for (int64_t i = 0; i < router->used; i++) {
    int64_t e = largest_place(choice, router->experts);
    assert(e >= 0);
    chosen[i] = (int32_t)e;
    choice[e] = -INFINITY;
  }
}
