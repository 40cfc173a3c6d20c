// A mixture of experts out of a table's own products: the rows of one expert at a time, EXPERT_ROWS of them at once, in the order of
// experts and of rows, so that sums do not depend on threads.
#include "kernels/experts.h"

#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "kernels/backend.h"

// ---- The router, a row ----

static double score_of(const RouterSettings *router, const float *logits, int64_t e, double maximum, double sum) {
  return router->is_sigmoid ? 1 / (1 + exp(-(double)logits[e])) : exp(logits[e] - maximum) / sum;
}

// The best of the eligible by value, ties to the lower number.
static int64_t take_best(const double *values, bool *eligible, int64_t count) {
  int64_t best = -1;
  for (int64_t i = 0; i < count; i++)
    if (eligible[i] && (best < 0 || values[i] > values[best])) best = i;
  if (best >= 0) eligible[best] = false;
  return best;
}

// Leaves only experts of the best groups eligible.
static void choose_groups(bool *eligible, const double *choice, const RouterSettings *router) {
  int64_t size = router->experts / router->groups;
  double values[ROUTER_MOST_EXPERTS];
  bool open[ROUTER_MOST_EXPERTS];
  for (int64_t g = 0; g < router->groups; g++) {
    double best = -INFINITY, second = -INFINITY;
    for (int64_t e = g * size; e < (g + 1) * size; e++) {
      if (choice[e] > best) second = best, best = choice[e];
      else if (choice[e] > second) second = choice[e];
    }
    values[g] = router->groups_by_two ? best + second : best;
    open[g] = true;
  }
  memset(eligible, 0, (size_t)router->experts * sizeof *eligible);
  for (int64_t i = 0; i < router->groups_used; i++) {
    int64_t group = take_best(values, open, router->groups);
    if (group < 0) group = i;  // not finite: any choice will do
    for (int64_t e = 0; e < size; e++) eligible[group * size + e] = true;
  }
}

void router_row_forward(int32_t *chosen, float *weights, float *scores, const float *logits, const RouterSettings *router) {
  double own[ROUTER_MOST_EXPERTS], choice[ROUTER_MOST_EXPERTS], maximum = -INFINITY, sum = 0, total = 0, chosen_sum = 0;
  bool eligible[ROUTER_MOST_EXPERTS];
  for (int64_t e = 0; e < router->experts; e++) maximum = fmax(maximum, logits[e]);
  for (int64_t e = 0; e < router->experts; e++) sum += exp(logits[e] - maximum);
  for (int64_t e = 0; e < router->experts; e++) {
    own[e] = score_of(router, logits, e, maximum, sum);
    choice[e] = own[e] + (router->bias ? router->bias[e] : 0);
    eligible[e] = true;
    total += own[e];
  }
  for (int64_t e = 0; scores && e < router->experts; e++) scores[e] = (float)(own[e] / total);
  if (router->groups > 1) choose_groups(eligible, choice, router);
  for (int64_t s = 0; s < router->used; s++) {
    int64_t best = take_best(choice, eligible, router->experts);
    chosen[s] = (int32_t)(best < 0 ? s : best);
    chosen_sum += own[chosen[s]];
  }
  for (int64_t s = 0; s < router->used; s++)
    weights[s] = (float)(router->scale * own[chosen[s]] / (router->is_normalized ? chosen_sum + 1e-20 : 1));
}

// With p the scores and t the chosen ones' sum: dp_s = scale (dw_s - is_normalized sum_r dw_r p_r / t) / (t or 1), then through the
// softmax, dlogits_e = p_e (dp_e - sum_f dp_f p_f), or the sigmoid, dp_e p_e (1 - p_e).
void router_row_backward(float *dlogits, const float *dweights, const float *logits, const int32_t *chosen, const RouterSettings *router) {
  double scores[ROUTER_MOST_EXPERTS], slopes[ROUTER_MOST_EXPERTS], maximum = -INFINITY, sum = 0, chosen_sum = 0, shared = 0, product = 0;
  for (int64_t e = 0; e < router->experts; e++) maximum = fmax(maximum, logits[e]);
  for (int64_t e = 0; e < router->experts; e++) sum += exp(logits[e] - maximum);
  for (int64_t e = 0; e < router->experts; e++) {
    scores[e] = score_of(router, logits, e, maximum, sum);
    slopes[e] = 0;
  }
  for (int64_t s = 0; s < router->used; s++) chosen_sum += scores[chosen[s]];
  chosen_sum = router->is_normalized ? chosen_sum + 1e-20 : 1;
  for (int64_t s = 0; router->is_normalized && s < router->used; s++) shared += dweights[s] * scores[chosen[s]] / chosen_sum;
  for (int64_t s = 0; s < router->used; s++) slopes[chosen[s]] = router->scale * (dweights[s] - shared) / chosen_sum;
  for (int64_t e = 0; e < router->experts; e++) product += slopes[e] * scores[e];
  for (int64_t e = 0; e < router->experts; e++)
    dlogits[e] = (float)(scores[e] * (router->is_sigmoid ? slopes[e] * (1 - scores[e]) : slopes[e] - product));
}

// ---- The experts ----

static int64_t most_rows(int64_t n) { return n < EXPERT_ROWS ? n : EXPERT_ROWS; }
static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

// x, y and dx of an expert's rows, and of width: gate, up, f(gate) * up, and the last one's gradient; the sum of all experts' dx.
int64_t experts_scratch_floats(int64_t n, const ExpertMatrices *experts) {
  int64_t rows = most_rows(n);
  return padded(2 * n * experts->used) + 3 * padded(rows * experts->hidden) + 4 * padded(rows * experts->width) +
         padded(n * experts->hidden);
}

typedef struct Parts {
  const Kernels *kernels;
  const ExpertMatrices *experts;
  int32_t *rows, *slots;  // [n * used]: the tokens of expert 0, of expert 1, ..., and which of a token's experts it is
  void *x;  // [rows, hidden] in x's type
  float *y, *dx;  // [rows, hidden]
  void *gate, *up, *inner, *dinner;  // [rows, width] in x's type
  float *sum;  // [n, hidden]
  FloatType type;
  Backend *backend;
} Parts;

static Parts parts_of(const Kernels *kernels, Rows x, const ExpertMatrices *experts, int64_t n, float *scratch, Backend *backend) {
  int64_t rows = most_rows(n), hidden = padded(rows * experts->hidden), width = padded(rows * experts->width);
  Parts parts = {.kernels = kernels, .experts = experts, .type = x.type, .backend = backend};
  parts.rows = (int32_t *)(void *)scratch;
  parts.slots = parts.rows + n * experts->used;
  float *rest = scratch + padded(2 * n * experts->used);
  parts.x = rest;
  parts.y = rest + hidden;
  parts.dx = rest + 2 * hidden;
  rest += 3 * hidden;
  parts.gate = rest;
  parts.up = rest + width;
  parts.inner = rest + 2 * width;
  parts.dinner = rest + 3 * width;
  parts.sum = rest + 4 * width;
  return parts;
}

// Fills rows and slots; first[e] .. first[e + 1] - 1 are expert e's.
static void sort_by_expert(Parts *parts, int64_t *first, const int32_t *chosen, int64_t n) {
  int64_t used = parts->experts->used, count = parts->experts->experts;
  memset(first, 0, (size_t)(count + 1) * sizeof *first);
  for (int64_t i = 0; i < n * used; i++) first[chosen[i] + 1]++;
  for (int64_t e = 0; e < count; e++) first[e + 1] += first[e];
  for (int64_t i = 0; i < n * used; i++) {
    int64_t at = first[chosen[i]]++;
    parts->rows[at] = (int32_t)(i / used);
    parts->slots[at] = (int32_t)(i % used);
  }
  for (int64_t e = count; e > 0; e--) first[e] = first[e - 1];
  first[0] = 0;
}

typedef struct Move {
  char *packed;  // [count, hidden]
  Rows rows;
  const int32_t *numbers;
  const float *factors;  // by row, NULL: 1
  int64_t hidden;
  FloatType type;  // of packed
} Move;

static float element(const void *data, FloatType type, int64_t i) {
  return type == FLOAT_BF16 ? bfloat16_to_float(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static void gather_row(void *argument, int64_t i, int thread) {
  (void)thread;
  const Move *move = argument;
  int64_t from = move->numbers[i] * move->rows.step, to = i * move->hidden;
  if (move->type == move->rows.type && !move->factors) {
    int64_t size = float_bytes(move->type);
    memcpy(move->packed + to * size, (const char *)move->rows.data + from * size, (size_t)(move->hidden * size));
    return;
  }
  float factor = move->factors ? move->factors[i] : 1;
  for (int64_t c = 0; c < move->hidden; c++) {
    float value = factor * element(move->rows.data, move->rows.type, from + c);
    if (move->type == FLOAT_BF16) ((uint16_t *)(void *)move->packed)[to + c] = bfloat16_from_float(value);
    else ((float *)(void *)move->packed)[to + c] = value;
  }
}

// rows += factor * packed; a token occurs once among an expert's rows. float32.
static void scatter_row(void *argument, int64_t i, int thread) {
  (void)thread;
  const Move *move = argument;
  const float *from = (const float *)(const void *)move->packed + i * move->hidden;
  float *to = (float *)move->rows.data + move->numbers[i] * move->rows.step, factor = move->factors ? move->factors[i] : 1;
  for (int64_t c = 0; c < move->hidden; c++) to[c] += factor * from[c];
}

// inner = f(gate x) * up x of the `count` rows from `at` on, which parts->x receives.
static void expert_inner(const Parts *parts, Rows x, int64_t e, int64_t at, int64_t count, bool in_int8) {
  const ExpertMatrices *experts = parts->experts;
  Move move = {.packed = parts->x, .rows = x, .numbers = parts->rows + at, .hidden = experts->hidden, .type = parts->type};
  pool_run(parts->backend->pool, count, gather_row, &move);
  const Projection projections[2] = {
      {.w = &experts->gate[e], .alpha = 1, .y = {parts->gate, experts->width, parts->type}},
      {.w = &experts->up[e], .alpha = 1, .y = {parts->up, experts->width, parts->type}},
  };
  (in_int8 ? parts->kernels->linear_forward_int8 : parts->kernels->linear_forward)(
      projections, 2, (Rows){parts->x, experts->hidden, parts->type}, count, parts->backend);
  parts->kernels->gated_forward(parts->inner, parts->gate, parts->up, parts->type, count * experts->width, experts->activation,
                                parts->backend);
}

void experts_forward_by_parts(const Kernels *kernels, Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                              const float *weights, int64_t n, bool in_int8, float *scratch, Backend *backend) {
  Parts parts = parts_of(kernels, x, experts, n, scratch, backend);
  int64_t first[ROUTER_MOST_EXPERTS + 1];
  sort_by_expert(&parts, first, chosen, n);
  for (int64_t e = 0; e < experts->experts; e++)
    for (int64_t at = first[e]; at < first[e + 1]; at += EXPERT_ROWS) {
      int64_t count = most_rows(first[e + 1] - at);
      expert_inner(&parts, x, e, at, count, in_int8);
      Projection down = {.w = &experts->down[e], .alpha = 1, .y = rows_f32(parts.y, experts->hidden)};
      (in_int8 ? kernels->linear_forward_int8 : kernels->linear_forward)(&down, 1, (Rows){parts.inner, experts->width, x.type}, count,
                                                                         backend);
      float factors[EXPERT_ROWS];
      for (int64_t i = 0; i < count; i++) factors[i] = weights[parts.rows[at + i] * experts->used + parts.slots[at + i]];
      Move move = {.packed = (char *)parts.y,
                   .rows = y,
                   .numbers = parts.rows + at,
                   .factors = factors,
                   .hidden = experts->hidden,
                   .type = FLOAT_32};
      pool_run(backend->pool, count, scatter_row, &move);
    }
}

typedef struct WeightTask {
  float *dweights;
  const Parts *parts;
  int64_t at;
} WeightTask;

// dweights = dinner . inner, as dy . (down inner) = (down^T dy) . inner.
static void weight_row(void *argument, int64_t i, int thread) {
  (void)thread;
  const WeightTask *task = argument;
  const Parts *parts = task->parts;
  int64_t width = parts->experts->width, place = task->at + i;
  double sum = 0;
  for (int64_t c = 0; c < width; c++)
    sum += (double)element(parts->inner, parts->type, i * width + c) * element(parts->dinner, parts->type, i * width + c);
  task->dweights[parts->rows[place] * parts->experts->used + parts->slots[place]] = (float)sum;
}

typedef struct Finish {
  Rows dx;
  const float *sum;  // [n, hidden]
  int64_t hidden;
  bool accumulate;
} Finish;

static void scale_rows(void *argument, int64_t i, int thread) {
  (void)thread;
  const Move *move = argument;
  for (int64_t c = i * move->hidden; c < (i + 1) * move->hidden; c++) {
    float value = move->factors[i] * element(move->packed, move->type, c);
    if (move->type == FLOAT_BF16) ((uint16_t *)(void *)move->packed)[c] = bfloat16_from_float(value);
    else ((float *)(void *)move->packed)[c] = value;
  }
}

// One expert's rows: what they give to dweights and to the sum of dx.
static void expert_backward(const Parts *parts, Rows dx, float *dweights, Rows dy, Rows x, const float *weights, int64_t e, int64_t at,
                            int64_t count) {
  const ExpertMatrices *experts = parts->experts;
  const Kernels *kernels = parts->kernels;
  float factors[EXPERT_ROWS];
  for (int64_t i = 0; i < count; i++) factors[i] = weights[parts->rows[at + i] * experts->used + parts->slots[at + i]];
  expert_inner(parts, x, e, at, count, false);
  Move in = {.packed = parts->x, .rows = dy, .numbers = parts->rows + at, .hidden = experts->hidden, .type = parts->type};
  pool_run(parts->backend->pool, count, gather_row, &in);
  Projection down = {.w = &experts->down[e], .alpha = 1, .y = {parts->x, experts->hidden, parts->type}};
  kernels->linear_backward((Rows){parts->dinner, experts->width, parts->type}, &down, 1, count, false, parts->backend);
  pool_run(parts->backend->pool, count, weight_row, &(WeightTask){dweights, parts, at});
  pool_run(parts->backend->pool, count, scale_rows,
           &(Move){.packed = parts->dinner, .factors = factors, .hidden = experts->width, .type = parts->type});
  kernels->gated_backward(parts->gate, parts->up, parts->dinner, parts->gate, parts->up, parts->type, count * experts->width,
                          experts->activation, parts->backend);
  const Projection projections[2] = {
      {.w = &experts->gate[e], .alpha = 1, .y = {parts->gate, experts->width, parts->type}},
      {.w = &experts->up[e], .alpha = 1, .y = {parts->up, experts->width, parts->type}},
  };
  kernels->linear_backward(rows_f32(parts->dx, experts->hidden), projections, 2, count, false, parts->backend);
  Move out = {.packed = (char *)parts->dx, .rows = dx, .numbers = parts->rows + at, .hidden = experts->hidden, .type = FLOAT_32};
  pool_run(parts->backend->pool, count, scatter_row, &out);
}

static void finish_row(void *argument, int64_t i, int thread) {
  (void)thread;
  const Finish *finish = argument;
  for (int64_t c = 0; c < finish->hidden; c++) {
    int64_t at = i * finish->dx.step + c;
    float value = finish->sum[i * finish->hidden + c] + (finish->accumulate ? element(finish->dx.data, finish->dx.type, at) : 0);
    if (finish->dx.type == FLOAT_BF16) ((uint16_t *)finish->dx.data)[at] = bfloat16_from_float(value);
    else ((float *)finish->dx.data)[at] = value;
  }
}

void experts_backward_by_parts(const Kernels *kernels, Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts,
                               const int32_t *chosen, const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  Parts parts = parts_of(kernels, x, experts, n, scratch, backend);
  int64_t first[ROUTER_MOST_EXPERTS + 1];
  sort_by_expert(&parts, first, chosen, n);
  // A row's experts are summed in float32 and rounded once.
  memset(parts.sum, 0, (size_t)(n * experts->hidden) * sizeof *parts.sum);
  for (int64_t e = 0; e < experts->experts; e++)
    for (int64_t at = first[e]; at < first[e + 1]; at += EXPERT_ROWS)
      expert_backward(&parts, rows_f32(parts.sum, experts->hidden), dweights, dy, x, weights, e, at, most_rows(first[e + 1] - at));
  pool_run(backend->pool, n, finish_row, &(Finish){dx, parts.sum, experts->hidden, accumulate});
}
