// A mixture of experts by the products of a table of the CPU. The pairs (token, expert) are ordered by expert, then by token; the rows of one
// expert, some hundreds at a time, are gathered, multiplied, and added to their tokens' sums, which so have one order:
//   G, U = x gate^T, x up^T;   H = f(G) * U;   y += weight (H down^T)
//   T = dy down;   dweight = T . H;   dG, dU of weight T;   dx += dG gate + dU up
// G, U, H and their gradients are of x's type, T and the sums float32.
#include "kernels/experts.h"

#include <string.h>

#include "kernels/backend.h"

enum { EXPERT_ROWS = 256, TASK_ROWS = 8, LINE = 16, LANES = 16 };

typedef struct Scratch {
  float *starts;  // int32 [experts + 1]: where each expert's part of `order` begins
  float *order;  // int32 [n * used]: places in chosen[n, used]
  float *x, *dy, *sum;  // [rows, hidden]
  float *gate, *up, *h, *t, *dh;  // [rows, width]
} Scratch;

typedef struct Job {
  const Kernels *kernels;
  const ExpertMatrices *experts;
  Rows x, y, dx, dy;
  const float *weights;
  float *dweights;
  bool in_int8;
  Scratch scratch;
  int32_t *starts, *order;
  Backend *backend;
  // The present part of an expert's rows:
  const int32_t *places;  // in chosen
  int64_t rows;
} Job;

static int64_t most_rows(int64_t n) { return n < EXPERT_ROWS ? n : EXPERT_ROWS; }

// Sets scratch's places in block (NULL: none) and returns their floats.
static int64_t lay_out(Scratch *scratch, float *block, int64_t n, const ExpertMatrices *experts) {
  int64_t wide = most_rows(n) * experts->hidden, narrow = most_rows(n) * experts->width, total = 0;
  struct {
    float **place;
    int64_t floats;
  } parts[] = {{&scratch->starts, experts->experts + 1},
               {&scratch->order, n * experts->used},
               {&scratch->x, wide},
               {&scratch->dy, wide},
               {&scratch->sum, wide},
               {&scratch->gate, narrow},
               {&scratch->up, narrow},
               {&scratch->h, narrow},
               {&scratch->t, narrow},
               {&scratch->dh, narrow}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (block) *parts[i].place = block + total;
    total += (parts[i].floats + LINE - 1) / LINE * LINE;
  }
  return total;
}

int64_t experts_scratch_floats_by_parts(int64_t n, const ExpertMatrices *experts, FloatType type, bool backward, Backend *backend) {
  (void)type;
  (void)backward;
  (void)backend;
  return lay_out(&(Scratch){0}, NULL, n, experts);
}

// Orders the places of chosen by expert; those of one expert stay in their order.
static void order_by_expert(Job *job, const int32_t *chosen, int64_t n) {
  const ExpertMatrices *experts = job->experts;
  int32_t *starts = job->starts = (int32_t *)(void *)job->scratch.starts;
  job->order = (int32_t *)(void *)job->scratch.order;
  memset(starts, 0, (size_t)(experts->experts + 1) * sizeof *starts);
  for (int64_t p = 0; p < n * experts->used; p++) starts[chosen[p] + 1]++;
  for (int64_t e = 0; e < experts->experts; e++) starts[e + 1] += starts[e];
  for (int64_t p = 0; p < n * experts->used; p++) job->order[starts[chosen[p]]++] = (int32_t)p;
  for (int64_t e = experts->experts; e > 0; e--) starts[e] = starts[e - 1];
  starts[0] = 0;
}

static float load(const void *data, FloatType type, int64_t i) {
  return type == FLOAT_BF16 ? bfloat16_to_float(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static void *row_at(Rows rows, int64_t i) { return rows_from(rows, i * rows.step).data; }

static void copy_row(void *to, FloatType type, Rows from, int64_t i, int64_t columns) {
  const void *row = row_at(from, i);
  if (from.type == type) memcpy(to, row, (size_t)(columns * float_bytes(type)));
  else if (type == FLOAT_BF16)
    for (int64_t c = 0; c < columns; c++) ((uint16_t *)to)[c] = bfloat16_from_float(((const float *)row)[c]);
  else
    for (int64_t c = 0; c < columns; c++) ((float *)to)[c] = bfloat16_to_float(((const uint16_t *)row)[c]);
}

// A buffer of the scratch as rows of x's type.
static Rows buffer_rows(const Job *job, float *buffer, int64_t columns) { return (Rows){buffer, columns, job->x.type}; }

typedef void (*RowFunction)(const Job *job, int64_t r, int64_t token);

typedef struct RowLoop {
  const Job *job;
  RowFunction function;
} RowLoop;

static void run_some(void *argument, int64_t task, int thread) {
  (void)thread;
  const RowLoop *loop = argument;
  const Job *job = loop->job;
  for (int64_t r = task * TASK_ROWS; r < job->rows && r < (task + 1) * TASK_ROWS; r++)
    loop->function(job, r, job->places[r] / job->experts->used);
}

static void run_rows(const Job *job, RowFunction function) {
  pool_run(job->backend->pool, (job->rows + TASK_ROWS - 1) / TASK_ROWS, run_some, &(RowLoop){job, function});
}

static void gather_row(const Job *job, int64_t r, int64_t token) {
  int64_t hidden = job->experts->hidden;
  copy_row(row_at(buffer_rows(job, job->scratch.x, hidden), r), job->x.type, job->x, token, hidden);
  if (job->dy.data) copy_row(row_at(buffer_rows(job, job->scratch.dy, hidden), r), job->x.type, job->dy, token, hidden);
}

// G, U and H of the rows.
static void run_gate(const Job *job, int64_t e) {
  const ExpertMatrices *experts = job->experts;
  const Scratch *scratch = &job->scratch;
  run_rows(job, gather_row);
  Projection gated[2] = {{.w = &experts->gate[e], .alpha = 1, .y = buffer_rows(job, scratch->gate, experts->width)},
                         {.w = &experts->up[e], .alpha = 1, .y = buffer_rows(job, scratch->up, experts->width)}};
  Rows x = buffer_rows(job, scratch->x, experts->hidden);
  (job->in_int8 ? job->kernels->linear_forward_int8 : job->kernels->linear_forward)(gated, 2, x, job->rows, job->backend);
  job->kernels->gated_forward(scratch->h, scratch->gate, scratch->up, job->x.type, job->rows * experts->width, experts->activation,
                              job->backend);
}

static void add_output(const Job *job, int64_t r, int64_t token) {
  const float *sum = job->scratch.sum + r * job->experts->hidden;
  float *y = row_at(job->y, token), weight = job->weights[job->places[r]];
  for (int64_t c = 0; c < job->experts->hidden; c++) y[c] += weight * sum[c];
}

static void forward_part(const Job *job, int64_t e) {
  const ExpertMatrices *experts = job->experts;
  run_gate(job, e);
  Projection down = {.w = &experts->down[e], .alpha = 1, .y = rows_f32(job->scratch.sum, experts->hidden)};
  Rows h = buffer_rows(job, job->scratch.h, experts->width);
  (job->in_int8 ? job->kernels->linear_forward_int8 : job->kernels->linear_forward)(&down, 1, h, job->rows, job->backend);
  run_rows(job, add_output);
}

// dweight, and the gradient of H.
static void weigh_row(const Job *job, int64_t r, int64_t token) {
  (void)token;
  int64_t width = job->experts->width;
  const float *t = job->scratch.t + r * width;
  const void *h = row_at(buffer_rows(job, job->scratch.h, width), r);
  float lanes[LANES] = {0}, sum = 0, weight = job->weights[job->places[r]];
  for (int64_t j = 0; j < width; j++) lanes[j % LANES] += t[j] * load(h, job->x.type, j);
  for (int i = 0; i < LANES; i++) sum += lanes[i];
  job->dweights[job->places[r]] = sum;
  void *dh = row_at(buffer_rows(job, job->scratch.dh, width), r);
  for (int64_t j = 0; j < width; j++) {
    if (job->x.type == FLOAT_BF16) ((uint16_t *)dh)[j] = bfloat16_from_float(weight * t[j]);
    else ((float *)dh)[j] = weight * t[j];
  }
}

static void add_gradient(const Job *job, int64_t r, int64_t token) {
  const float *sum = job->scratch.sum + r * job->experts->hidden;
  float *dx = row_at(job->dx, token);
  for (int64_t c = 0; c < job->experts->hidden; c++) dx[c] += sum[c];
}

static void backward_part(const Job *job, int64_t e) {
  const ExpertMatrices *experts = job->experts;
  const Scratch *scratch = &job->scratch;
  int64_t width = experts->width;
  run_gate(job, e);
  Projection down = {.w = &experts->down[e], .alpha = 1, .y = buffer_rows(job, scratch->dy, experts->hidden)};
  job->kernels->linear_backward(rows_f32(scratch->t, width), &down, 1, job->rows, false, job->backend);
  run_rows(job, weigh_row);
  job->kernels->gated_backward(scratch->gate, scratch->up, scratch->dh, scratch->gate, scratch->up, job->x.type, job->rows * width,
                               experts->activation, job->backend);
  Projection gated[2] = {{.w = &experts->gate[e], .alpha = 1, .y = buffer_rows(job, scratch->gate, width)},
                         {.w = &experts->up[e], .alpha = 1, .y = buffer_rows(job, scratch->up, width)}};
  job->kernels->linear_backward(rows_f32(scratch->sum, experts->hidden), gated, 2, job->rows, false, job->backend);
  run_rows(job, add_gradient);
}

static void run_parts(Job *job, const int32_t *chosen, int64_t n, float *scratch, void (*part)(const Job *job, int64_t e)) {
  lay_out(&job->scratch, scratch, n, job->experts);
  order_by_expert(job, chosen, n);
  for (int64_t e = 0; e < job->experts->experts; e++)
    for (int64_t first = job->starts[e]; first < job->starts[e + 1]; first += job->rows) {
      int64_t left = job->starts[e + 1] - first;
      job->places = job->order + first;
      job->rows = left < most_rows(n) ? left : most_rows(n);
      part(job, e);
    }
}

void experts_forward_by_parts(const Kernels *kernels, Rows y, Rows x, const ExpertMatrices *experts, const int32_t *chosen,
                              const float *weights, int64_t n, bool in_int8, float *scratch, Backend *backend) {
  if (n == 0) return;
  Job job = {.kernels = kernels, .experts = experts, .x = x, .y = y, .weights = weights, .in_int8 = in_int8, .backend = backend};
  run_parts(&job, chosen, n, scratch, forward_part);
}

void experts_backward_by_parts(const Kernels *kernels, Rows dx, float *dweights, Rows dy, Rows x, const ExpertMatrices *experts,
                               const int32_t *chosen, const float *weights, int64_t n, bool accumulate, float *scratch, Backend *backend) {
  if (n == 0) return;
  for (int64_t i = 0; i < n && !accumulate; i++) kernels->fill(row_at(dx, i), 0, experts->hidden, backend);
  Job job = {.kernels = kernels, .experts = experts, .x = x, .dx = dx, .dy = dy, .backend = backend};
  job.weights = weights;
  job.dweights = dweights;
  run_parts(&job, chosen, n, scratch, backward_part);
}
