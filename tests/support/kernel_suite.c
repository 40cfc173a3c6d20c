// The table of all kernels under test: how each is called, its plain versions, and the shapes that it is tried on.
#include "tests/support/kernel_cases.h"

#include "kernels/adamw_8bit.h"
#include "kernels/loss.h"
#include "tests/support/pages.h"

#include <tgmath.h>

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof *(array)))

static const uint64_t CASE_SEED = 0x0123456789abcdefu, CASE_STREAM = 0x300000007u;

static void round_to_int8(float *levels, float *scales, const float *x, int64_t columns) {
  for (int64_t first = 0; first < columns; first += 32) {
    float largest = 0;
    for (int64_t j = first; j < first + 32; j++) largest = fmaxf(largest, fabsf(x[j]));
    scales[first / 32] = largest / 127;
    for (int64_t j = first; j < first + 32; j++) levels[j] = largest > 0 ? rintf(x[j] * (127 / largest)) : 0;
  }
}

static void plain_double_new_moments(double *out, const KernelCase *c, Moment moment);
static void plain_double_new_states(double *p, double *states, const KernelCase *c);

// How values in 8 bits are compared with the true ones; kernel_cases.h says what the numbers are. A cell is what lies between two bounds.
static void place_codes(double *places, double *ratios, const uint8_t *codes, const double *scales, const double *truth, int64_t n,
                        Moment moment) {
  int64_t blocks = moment_blocks(n);
  double *largest = memory_new((size_t)blocks + 1, sizeof *largest);
  float bounds[MOMENT_LEVELS];
  moment_bounds(bounds, moment);
  for (int64_t i = 0; i < n; i++) largest[i / MOMENT_BLOCK] = fmax(largest[i / MOMENT_BLOCK], fabs(truth[i]));
  for (int64_t i = 0; i < n; i++) {
    double scale = largest[i / MOMENT_BLOCK], x = scale > 0 ? truth[i] / scale : moment == MOMENT_FIRST ? -1 : 0;
    int cell = 0;
    while (bounds[cell] < x) cell++;
    double begin = cell > 0 ? bounds[cell - 1] : moment == MOMENT_FIRST ? -1 : 0, end = cell < MOMENT_LEVELS - 1 ? bounds[cell] : 1;
    double place = cell + (x - begin) / (end - begin);
    places[i] = fmin(fmax(place, codes[i]), codes[i] + 1);
  }
  for (int64_t i = 0; i < blocks; i++) ratios[i] = largest[i] > 0 ? scales[i] / largest[i] : 1 + scales[i];
  free(largest);
}

static void place_moments(double *places, double *ratios, const uint8_t *codes, const double *scales, const KernelCase *c, Moment moment) {
  double *truth = memory_new((size_t)c->n + 1, sizeof *truth);
  plain_double_new_moments(truth, c, moment);
  place_codes(places, ratios, codes, scales, truth, c->n, moment);
  free(truth);
}

static void place_states(double *places, double *ratios, const uint8_t *codes, const double *scales, const KernelCase *c, int state) {
  int64_t count = (update_states(c->update.rule) + 1) * c->n + 1;
  double *truth = memory_new((size_t)count, sizeof *truth);
  plain_double_new_states(truth, truth + c->n, c);
  place_codes(places, ratios, codes, scales, truth + (1 + state) * c->n, c->n, update_moment(c->update.rule, state));
  free(truth);
}

#define REAL float
#define NAME(op) plain_float_##op
#define TERM(i, n) (i)
#include "tests/support/plain_kernels.h"
#undef NAME
#undef TERM
#define NAME(op) reversed_float_##op
#define TERM(i, n) ((n)-1 - (i))
#include "tests/support/plain_kernels.h"
#undef REAL
#undef NAME
#undef TERM
#define REAL double
#define NAME(op) plain_double_##op
#define TERM(i, n) (i)
#include "tests/support/plain_kernels.h"
#undef REAL
#undef NAME
#undef TERM

// How each entry is called. `in` and `out` are the device's.

#define RUN(op) static void run_##op(const KernelCase *c, const Kernels *k, Backend *backend, const void *const *in, float *const *out)

// The matrices of the case that runs, where they were sent to a device.
static struct {
  Matrix *matrices;
  int64_t count, capacity;
} sent;

static void send_matrix(Matrix *matrix, Backend *backend) {
  if (!backend->upload_matrix) return;
  assert_ok(backend->upload_matrix(matrix, NULL, backend));
  ARRAY_PUSH(sent.matrices, sent.count, sent.capacity) = *matrix;
}

void case_release_matrices(Backend *backend) {
  for (int64_t i = 0; i < sent.count; i++) backend->release_matrix(&sent.matrices[i], backend);
  free(sent.matrices);
  memset(&sent, 0, sizeof sent);
}

static Matrix matrix_at(const KernelCase *c, const void *const *in, Backend *backend) {
  static Grouped grouped;  // of the case that runs
  Matrix matrix = c->matrix;
  if (backend->upload_matrix) in = c->inputs;  // from where the host has it
  if (matrix.type == BLOCK_GROUPED) {
    grouped = *matrix.grouped;
    grouped.codes = in[1], grouped.scales = in[2], grouped.zeros = in[3];
    matrix.grouped = &grouped;
  } else if (matrix.type == BLOCK_NF4) {
    matrix.nf4 = (Nf4){(uint8_t *)(uintptr_t)in[1], (uint8_t *)(uintptr_t)in[2], (float *)(uintptr_t)in[3], matrix.nf4.offset};
  } else {
    matrix.data = in[1];
  }
  return matrix;
}

static Matrix sent_matrix(const KernelCase *c, const void *const *in, Backend *backend) {
  Matrix matrix = matrix_at(c, in, backend);
  send_matrix(&matrix, backend);
  return matrix;
}

static Rows typed_rows(const KernelCase *c, const void *data, int64_t step) { return (Rows){(void *)(uintptr_t)data, step, c->type}; }

typedef void LinearForward(const Projection *projections, int count, Rows x, int64_t n, Backend *backend);

static void run_forward(LinearForward *forward, const KernelCase *c, Backend *backend, const void *const *in, float *y) {
  Matrix w = sent_matrix(c, in, backend);
  Rows rows = {y, c->rows, c->type}, none = {0};
  Projection p = {.w = &w, .alpha = c->alpha, .y = rows, .residual = c->accumulate ? rows : none};
  forward(&p, 1, typed_rows(c, in[0], c->columns), c->n, backend);
}
RUN(linear_forward) { run_forward(k->linear_forward, c, backend, in, out[0]); }
RUN(linear_forward_rows) { run_forward(k->linear_forward_rows, c, backend, in, out[0]); }
RUN(linear_forward_int8) { run_forward(k->linear_forward_int8, c, backend, in, out[0]); }
RUN(linear_backward) {
  Matrix w = sent_matrix(c, in, backend);
  Projection p = {.w = &w, .alpha = c->alpha, .y = typed_rows(c, in[0], c->rows)};
  k->linear_backward((Rows){out[0], c->columns, c->type}, &p, 1, c->n, c->accumulate, backend);
}
RUN(weight_backward) {
  WeightGradient gradient = {.dw = out[0], .dy = typed_rows(c, in[0], c->rows), .rows = c->rows, .alpha = c->alpha};
  k->weight_backward(&gradient, 1, typed_rows(c, in[1], c->columns), c->columns, c->n, backend);
}
RUN(low_rank_backward) {
  LowRankGradient g = {
      .dy = typed_rows(c, in[0], c->rows), .b = in[2], .db = out[0], .out = c->rows, .rank = c->columns, .scale = c->alpha};
  g.h = typed_rows(c, in[1], c->columns);
  g.dh = typed_rows(c, out[1], c->columns);
  k->low_rank_backward(&g, 1, c->n, backend);
}
RUN(embedding_forward) {
  Matrix w = sent_matrix(c, in, backend);
  k->embedding_forward(out[0], in[0], &w, c->n, c->alpha, backend);
}
static Rows input_rows(const KernelCase *c, const void *const *in, int index, int64_t step) {
  return (Rows){(void *)(uintptr_t)in[index], step, case_type(c, index, false)};
}
static Rows output_rows(const KernelCase *c, float *const *out, int index, int64_t step) {
  return (Rows){out[index], step, case_type(c, index, true)};
}

RUN(norm_forward) {
  NormSettings norm = c->norm;
  norm.weight = in[1], norm.bias = in[2];
  Rows residual = in[3] ? input_rows(c, in, 3, c->y_step) : (Rows){0};
  k->norm_forward(output_rows(c, out, 0, c->y_step), input_rows(c, in, 0, c->x_step), residual, &norm, c->n, backend);
}
RUN(norm_backward) {
  NormSettings norm = c->norm;
  norm.weight = in[2];
  k->norm_backward(output_rows(c, out, 0, c->x_step), input_rows(c, in, 0, c->y_step), input_rows(c, in, 1, c->x_step), &norm, c->n,
                   c->accumulate, backend);
}
RUN(norm_weight_backward) {
  k->norm_weight_backward(out[0], input_rows(c, in, 0, c->y_step), input_rows(c, in, 1, c->x_step), &c->norm, c->n, backend);
}
RUN(column_sums) { k->column_sums(out[0], input_rows(c, in, 0, c->x_step), c->columns, c->n, backend); }
RUN(embedding_backward) { k->embedding_backward(out[0], in[0], in[1], in[2], in[3], c->n, c->columns, c->alpha, backend); }
RUN(low_rank_norms) { k->low_rank_norms(out[0], in[0], in[1], in[2], in[3], c->n, c->columns, c->alpha, backend); }
RUN(magnitude_forward) {
  Magnitude magnitude = {.m = in[1], .norms = in[2], .bias = in[3], .columns = c->columns};
  Rows residual = in[4] ? input_rows(c, in, 4, c->x_step) : (Rows){0};
  k->magnitude_forward(output_rows(c, out, 0, c->y_step), input_rows(c, in, 0, c->x_step), residual, &magnitude, c->n, backend);
}
RUN(magnitude_backward) {
  Magnitude magnitude = {.m = in[2], .norms = in[3], .columns = c->columns};
  k->magnitude_backward(output_rows(c, out, 0, c->x_step), out[1], input_rows(c, in, 0, c->x_step), input_rows(c, in, 1, c->x_step),
                        &magnitude, c->n, backend);
}
RUN(softcap) {
  (void)in;
  k->softcap(out[0], c->n, c->alpha, backend);
}
RUN(copy_heads) {
  k->copy_heads(output_rows(c, out, 0, c->y_step), c->y_head_step, input_rows(c, in, 0, c->x_step), c->x_head_step, c->heads, c->head_size,
                c->n, c->accumulate, backend);
}
RUN(router_forward) {
  RouterSettings router = c->router;
  router.bias = in[1];
  int64_t count = c->n * router.used;
  void *chosen;
  assert_ok(backend->allocate(&chosen, (count + 1) * (int64_t)sizeof(int32_t), "a test", backend));
  k->router_forward(chosen, out[0], out[1], in[0], &router, c->n, backend);
  int32_t *numbers = memory_new((size_t)count + 1, sizeof *numbers);
  float *values = memory_new((size_t)count + 1, sizeof *values);
  backend->download(numbers, chosen, count * (int64_t)sizeof *numbers, backend);
  for (int64_t i = 0; i < count; i++) values[i] = (float)numbers[i];
  backend->upload(out[2], values, count * (int64_t)sizeof *values, backend);
  free(numbers);
  free(values);
  backend->release(chosen, backend);
}
RUN(router_backward) { k->router_backward(out[0], in[0], in[1], in[2], &c->router, c->n, backend); }

typedef struct ExpertCall {
  ExpertMatrices experts;
  Matrix *matrices;
  void *scratch;
} ExpertCall;

static ExpertCall expert_call(const KernelCase *c, Backend *backend, const void *const *in) {
  int64_t count = c->experts.experts;
  int64_t floats = backend->kernels->experts_scratch_floats(c->n, &c->experts, c->type, c->op == OP_experts_backward, backend);
  ExpertCall call = {.experts = c->experts, .matrices = memory_new((size_t)(3 * count), sizeof(Matrix))};
  Matrix all = matrix_at(c, in, backend);
  for (int which = 0; which < 3; which++)
    for (int64_t e = 0; e < count; e++) {
      call.matrices[which * count + e] = case_expert_matrix(c, &all, which, e);
      send_matrix(&call.matrices[which * count + e], backend);
    }
  call.experts.gate = call.matrices, call.experts.up = call.matrices + count, call.experts.down = call.matrices + 2 * count;
  assert_ok(backend->allocate(&call.scratch, (floats + 1) * (int64_t)sizeof(float), "a test", backend));
  return call;
}
static void expert_call_end(ExpertCall *call, Backend *backend) {
  free(call->matrices);
  backend->release(call->scratch, backend);
}
RUN(experts_forward) {
  ExpertCall call = expert_call(c, backend, in);
  k->experts_forward(output_rows(c, out, 0, c->columns), input_rows(c, in, 0, c->columns), &call.experts, in[4], in[5], c->n, false,
                     call.scratch, backend);
  expert_call_end(&call, backend);
}
RUN(experts_backward) {
  ExpertCall call = expert_call(c, backend, in);
  k->experts_backward(output_rows(c, out, 0, c->columns), out[1], input_rows(c, in, 6, c->columns), input_rows(c, in, 0, c->columns),
                      &call.experts, in[4], in[5], c->n, c->accumulate, call.scratch, backend);
  expert_call_end(&call, backend);
}
RUN(rope) { k->rope(out[0], c->type, in[0], in[1], c->n, c->heads, c->head_size, c->rotary, c->layout, c->alpha, c->inverse, backend); }
RUN(attention_forward) {
  k->attention_forward(out[0], out[1], in[0], in[1], in[2], c->type, c->inputs[3], c->span_count, in[4], c->shape, backend);
}
RUN(attention_backward) {
  void *scratch;
  int64_t floats = attention_scratch_floats(c->queries, &c->shape, c->type);
  assert_ok(backend->allocate(&scratch, floats * (int64_t)sizeof(float), "a test", backend));
  k->attention_backward(out[0], out[1], out[2], scratch, in[0], in[1], in[2], in[3], in[4], in[5], c->type, c->inputs[6], c->span_count,
                        in[7], c->shape, backend);
  k->copy(out[3], scratch, c->span_count ? c->counts[3] : 0, backend);
  backend->release(scratch, backend);
}
RUN(gated_forward) { k->gated_forward(out[0], in[0], in[1], c->type, c->n, c->activation, backend); }
RUN(gated_backward) {
  k->gated_backward(out[0], out[1], in[0], c->in_place ? out[0] : in[1], c->in_place && in[2] ? out[1] : in[2], c->type, c->n,
                    c->activation, backend);
}
RUN(cross_entropy) { k->cross_entropy(out[0], out[1], c->columns, in[0], in[1], FLOAT_32, c->n, c->columns, c->softcap, backend); }
RUN(divergence) { k->divergence(out[0], out[1], in[0], c->columns, in[1], c->n, c->columns, c->softcap, backend); }
RUN(linear_cross_entropy) {
  Matrix head = sent_matrix(c, in, backend);
  void *scratch;
  int64_t floats = linear_cross_entropy_floats(c->n, c->rows, c->columns);
  assert_ok(backend->allocate(&scratch, floats * (int64_t)sizeof(float), "a test", backend));
  k->linear_cross_entropy(out[0], c->counts[1] ? (Rows){out[1], c->columns, c->type} : (Rows){0}, typed_rows(c, in[0], c->columns), &head,
                          in[4], in[5], c->n, scratch, c->softcap, backend);
  backend->release(scratch, backend);
}
RUN(dropout) { k->dropout(out[0], in[0], c->type, c->n, c->alpha, CASE_SEED, CASE_STREAM, c->accumulate, backend); }
RUN(add_uniform) {
  (void)in;
  k->add_uniform(out[0], c->n, c->alpha, CASE_SEED, CASE_STREAM, backend);
}
RUN(gather_rows) { k->gather_rows(out[0], in[0], c->type, in[1], c->n, c->columns, backend); }
RUN(scatter_rows) { k->scatter_rows(out[0], in[0], c->type, in[1], c->n, c->columns, backend); }
RUN(fill) {
  (void)in;
  k->fill(out[0], c->alpha, c->n, backend);
}
RUN(copy) { k->copy(out[0], in[0], c->n, backend); }
RUN(add) { k->add(out[0], in[0], c->alpha, c->n, backend); }
RUN(adamw) { k->adamw(out[0], out[1], out[2], in[0], c->n, c->adamw, backend); }

// A device's copy of `bytes`, `shift` from the beginning of a block that is one byte's value before and behind it.
enum { MARGIN = 64, MARGIN_BYTE = 0xa5 };
static uint8_t *marked_new(const void *host, int64_t bytes, int64_t shift, Backend *backend) {
  uint8_t *marked = memory_new((size_t)bytes + 2 * MARGIN, 1);
  void *device;
  memset(marked, MARGIN_BYTE, (size_t)bytes + 2 * MARGIN);
  memcpy(marked + shift, host, (size_t)bytes);
  assert_ok(backend->allocate(&device, bytes + 2 * MARGIN, "a test", backend));
  backend->upload(device, marked, bytes + 2 * MARGIN, backend);
  free(marked);
  return device;
}
static void marked_end(void *host, uint8_t *device, int64_t bytes, int64_t shift, Backend *backend) {
  uint8_t *marked = memory_new((size_t)bytes + 2 * MARGIN, 1);
  backend->download(marked, device, bytes + 2 * MARGIN, backend);
  backend->release(device, backend);
  for (int64_t i = 0; i < bytes + 2 * MARGIN; i++)
    if ((i < shift || i >= shift + bytes) && marked[i] != MARGIN_BYTE)
      fail_msg("written outside, at %lld of %lld", (long long)(i - shift), (long long)bytes);
  memcpy(host, marked + shift, (size_t)bytes);
  free(marked);
}
RUN(adamw_8bit) {
  int64_t n = c->n, blocks = moment_blocks(n), scale_bytes = blocks * (int64_t)sizeof(float);
  int64_t shift = n % 2 ? MARGIN - 3 : MARGIN, scale_shift = n % 2 ? MARGIN - 4 : MARGIN;
  uint8_t *codes[MOMENT_COUNT], *scales[MOMENT_COUNT], *taken = memory_new((size_t)n + 1, 1);
  float *single = memory_new((size_t)(n + blocks) + 1, sizeof *single);
  double *wide = memory_new((size_t)(n + 2 * blocks) + 1, sizeof *wide);
  for (int i = 0; i < MOMENT_COUNT; i++) {
    codes[i] = marked_new(c->inputs[1 + i], n, shift, backend);
    scales[i] = marked_new((const float *)c->inputs[3] + i * blocks, scale_bytes, scale_shift, backend);
  }
  k->adamw_8bit(out[0], codes[0] + shift, (float *)(void *)(scales[0] + scale_shift), codes[1] + shift,
                (float *)(void *)(scales[1] + scale_shift), in[0], n, c->adamw, backend);
  for (int i = 0; i < MOMENT_COUNT; i++) {
    marked_end(taken, codes[i], n, shift, backend);
    marked_end(single, scales[i], scale_bytes, scale_shift, backend);
    for (int64_t j = 0; j < blocks; j++) wide[n + blocks + j] = single[j];
    place_moments(wide, wide + n, taken, wide + n + blocks, c, i);
    for (int64_t j = 0; j < n + blocks; j++) single[j] = (float)wide[j];
    backend->upload(out[1 + i], single, n * (int64_t)sizeof(float), backend);
    backend->upload(out[3] + i * blocks, single + n, scale_bytes, backend);
  }
  free(taken);
  free(single);
  free(wide);
}
// Pages are written beside marks, and what lies in them becomes the outputs.
RUN(store_pages) {
  const int64_t sizes[2] = {c->shape.head_size, c->shape.value_size}, heads = c->page_count * c->shape.kv_heads;
  uint8_t *pages[2];
  for (int i = 0; i < 2; i++) pages[i] = marked_new(c->inputs[3 + i], c->input_bytes[3 + i], MARGIN, backend);
  k->store_pages(&(Pages){pages[0] + MARGIN, pages[1] + MARGIN, c->pages}, in[0], in[1], in[2], c->n, c->shape, backend);
  for (int i = 0; i < 2; i++) {
    int64_t count = heads * PAGE_TOKENS * sizes[i];
    uint8_t *taken = memory_new((size_t)c->input_bytes[3 + i], 1);
    float *elements = memory_new((size_t)(2 * count), sizeof *elements), *scales = elements + count;
    marked_end(taken, pages[i], c->input_bytes[3 + i], MARGIN, backend);
    pages_elements(elements, scales, taken, c->pages, heads, sizes[i]);
    backend->upload(out[i], elements, count * (int64_t)sizeof *elements, backend);
    if (out[i + 2]) backend->upload(out[i + 2], scales, c->counts[i + 2] * (int64_t)sizeof *scales, backend);
    free(taken);
    free(elements);
  }
}
RUN(paged_attention) {
  Pages pages = {(void *)(uintptr_t)in[1], (void *)(uintptr_t)in[2], c->pages};
  k->paged_attention(out[0], in[0], &pages, in[3], c->inputs[4], c->span_count, c->shape, backend);
}
RUN(low_rank_rows) {
  LowRankRows *groups = memory_new((size_t)c->span_count + 1, sizeof *groups);
  for (int64_t g = 0; g < c->span_count; g++) {
    const RowGroup *group = (const RowGroup *)c->inputs[3] + g;
    int64_t begin = c->n ? group->begin : 0, end = c->n ? group->end : 0;
    groups[g] = (LowRankRows){.begin = begin, .end = end, .y = out[group->y], .rank = group->rank, .scale = group->scale};
    groups[g].a = (const float *)in[1] + group->a, groups[g].b = (const float *)in[2] + group->b;
    groups[g].out = c->n ? c->counts[group->y] / c->n : 1;
  }
  k->low_rank_rows(groups, (int)c->span_count, rows_f32(in[0], c->x_step), c->columns, backend);
  free(groups);
}
RUN(update) { k->update(out[0], (float *const[]){out[1], out[2], out[3]}, in[0], c->n, c->update, backend); }
RUN(update_8bit) {
  int64_t n = c->n, blocks = moment_blocks(n), scale_bytes = blocks * (int64_t)sizeof(float);
  int64_t shift = n % 2 ? MARGIN - 3 : MARGIN, scale_shift = n % 2 ? MARGIN - 4 : MARGIN;
  int count = update_states(c->update.rule);
  uint8_t *codes[UPDATE_STATES], *scales[UPDATE_STATES], *shifted[UPDATE_STATES] = {0}, *taken = memory_new((size_t)n + 1, 1);
  float *shifted_scales[UPDATE_STATES] = {0}, *single = memory_new((size_t)(n + blocks) + 1, sizeof *single);
  double *wide = memory_new((size_t)(n + 2 * blocks) + 1, sizeof *wide);
  for (int i = 0; i < count; i++) {
    codes[i] = marked_new((const uint8_t *)c->inputs[1] + i * n, n, shift, backend);
    scales[i] = marked_new((const float *)c->inputs[2] + i * blocks, scale_bytes, scale_shift, backend);
    shifted[i] = codes[i] + shift, shifted_scales[i] = (float *)(void *)(scales[i] + scale_shift);
  }
  k->update_8bit(out[0], shifted, shifted_scales, in[0], n, c->update, backend);
  for (int i = 0; i < count; i++) {
    marked_end(taken, codes[i], n, shift, backend);
    marked_end(single, scales[i], scale_bytes, scale_shift, backend);
    for (int64_t j = 0; j < blocks; j++) wide[n + blocks + j] = single[j];
    place_states(wide, wide + n, taken, wide + n + blocks, c, i);
    for (int64_t j = 0; j < n + blocks; j++) single[j] = (float)wide[j];
    backend->upload(out[1] + i * n, single, n * (int64_t)sizeof(float), backend);
    backend->upload(out[2] + i * blocks, single + n, scale_bytes, backend);
  }
  free(taken);
  free(single);
  free(wide);
}
RUN(factored_moments) { k->factored_moments(out[0], out[1], in[0], c->n, c->columns, c->factored, backend); }
RUN(factored_update) { k->factored_update(out[0], in[0], in[1], in[2], c->n, c->columns, c->factored.gradient_scale, backend); }
RUN(sum_of_squares) {
  float sum = (float)k->sum_of_squares(in[0], c->n, backend);
  backend->upload(out[0], &sum, sizeof sum, backend);
}

// The shapes. Rows and columns around the widths of vector registers and tiles, and one that crosses cache blocks.

static const BlockType weight_types[] = {BLOCK_F32,    BLOCK_F16,    BLOCK_BF16,  BLOCK_Q4_0,  BLOCK_Q4_1,  BLOCK_Q5_0, BLOCK_Q5_1,
                                         BLOCK_Q8_0,   BLOCK_Q2_K,   BLOCK_Q3_K,  BLOCK_Q4_K,  BLOCK_Q5_K,  BLOCK_Q6_K, BLOCK_Q8_K,
                                         BLOCK_IQ4_NL, BLOCK_IQ4_XS, BLOCK_MXFP4, BLOCK_TQ1_0, BLOCK_TQ2_0, BLOCK_NF4,  BLOCK_GROUPED};

typedef struct LinearShape {
  int64_t n, rows, blocks;  // blocks of columns
} LinearShape;

static const LinearShape linear_shapes[] = {{1, 1, 1},   {1, 7, 3},   {2, 16, 2},  {3, 3, 5},    {7, 17, 1},   {17, 33, 2}, {6, 65, 3},
                                            {33, 63, 1}, {65, 15, 2}, {13, 96, 1}, {64, 128, 1}, {150, 70, 2}, {5, 130, 4}};

static int64_t linear_columns(BlockType type, int64_t blocks, Rng *rng) {
  const BlockTraits *traits = block_traits(type);
  if (traits && traits->elements > 1 && type != BLOCK_GROUPED) return blocks * traits->elements;
  return blocks == 1 ? 1 + (int64_t)rng_below(rng, 40) : blocks * 63 + (int64_t)rng_below(rng, 3);
}

static KernelCase *make_linear(Arena *arena, Rng *rng, KernelOp op, int index) {
  const int per_type = COUNT_OF(linear_shapes) + 1, all = per_type * COUNT_OF(weight_types);
  // A sum that is long enough to be taken in pieces.
  if (index == all || index == all + 1) {
    bool is_forward = op != OP_linear_backward;
    return case_linear(arena, rng, op, BLOCK_F32, 20, is_forward ? 40 : 8300, is_forward ? 8300 : 40, 1, index == all);
  }
  if (index > all) return NULL;
  BlockType type = weight_types[index / per_type];
  float alpha = index % 3 == 0 ? 1 : -0.75f;
  if (index % per_type == COUNT_OF(linear_shapes)) return case_linear(arena, rng, op, type, 130, 270, 768, alpha, index % 2);
  LinearShape shape = linear_shapes[index % per_type];
  return case_linear(arena, rng, op, type, shape.n, shape.rows, linear_columns(type, shape.blocks, rng), alpha,
                     (index + index / per_type) % 2);
}

#define MAKE(op) static KernelCase *make_##op(Arena *arena, Rng *rng, int index)

MAKE(linear_forward) { return make_linear(arena, rng, OP_linear_forward, index); }
MAKE(linear_forward_rows) { return make_linear(arena, rng, OP_linear_forward_rows, index); }
MAKE(linear_forward_int8) { return make_linear(arena, rng, OP_linear_forward_int8, index); }
MAKE(linear_backward) { return make_linear(arena, rng, OP_linear_backward, index); }

MAKE(weight_backward) {
  static const int64_t shapes[][3] = {{1, 1, 1},    {3, 1, 7},     {1, 8, 17},   {7, 3, 33},    {17, 16, 63},    {33, 17, 65},
                                      {64, 8, 576}, {65, 63, 130}, {128, 64, 1}, {512, 16, 96}, {300, 100, 200}, {5, 300, 3}};
  if (index >= COUNT_OF(shapes)) return NULL;
  return case_weight(arena, rng, shapes[index][0], shapes[index][1], shapes[index][2], index % 2 ? 0.5f : 1);
}

MAKE(low_rank_backward) {
  static const int64_t shapes[][3] = {{1, 1, 1},    {3, 7, 2},     {1, 17, 8},  {7, 33, 3},    {33, 63, 16},  {64, 64, 17},
                                      {31, 576, 8}, {130, 65, 63}, {70, 8, 16}, {700, 96, 16}, {40, 2100, 4}, {96, 160, 64}};
  if (index >= COUNT_OF(shapes)) return NULL;
  return case_low_rank(arena, rng, shapes[index][0], shapes[index][1], shapes[index][2], index % 2 ? 0.5f : 1);
}

static const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 576, 1000, 4099};

MAKE(embedding_forward) {
  if (index >= COUNT_OF(weight_types) * 3) return NULL;
  BlockType type = weight_types[index / 3];
  return case_rows(arena, rng, OP_embedding_forward, type, 1 + index % 3 * 8, 1 + index % 3 * 6, linear_columns(type, 1 + index % 3, rng));
}

// Bits of `index` choose the kind of norm: centered, an offset, a gap between rows.
static NormSettings norm_settings(int64_t columns, int index) {
  return (NormSettings){.columns = columns, .epsilon = 1e-5f, .offset = (float)(index / 2 % 2), .is_centered = index % 2};
}

MAKE(norm_forward) {
  if (index >= 8 * COUNT_OF(sizes)) return NULL;
  int kind = index % 8;
  bool has_bias = kind % 2 && kind != 3, has_residual = kind == 2 || kind == 5;
  KernelCase *c = case_norm(arena, rng, OP_norm_forward, 1 + index % 5, norm_settings(sizes[index / 8], kind), has_bias, has_residual,
                            kind / 4 * 3, false);
  c->exact_inputs = kind < 4;  // the residual stream is float32, and its norm is not
  c->exact_outputs = has_residual;
  return c;
}

MAKE(norm_backward) {
  if (index >= 8 * COUNT_OF(sizes)) return NULL;
  int kind = index % 8;
  KernelCase *c = case_norm(arena, rng, OP_norm_backward, 1 + index % 5, norm_settings(sizes[index / 8], kind), false, false, kind / 4 * 3,
                            (index / 3) % 2);
  c->exact_inputs = kind == 2 ? 0 : kind < 4 ? 2 : (unsigned)(kind == 6);  // x; or dy, the gradient of a sum with the residual stream
  c->exact_outputs = kind < 4;
  return c;
}

MAKE(copy_heads) {
  static const int64_t shapes[][5] = {{1, 1, 1, 1, 1},    {3, 2, 5, 5, 9},        {2, 4, 16, 48, 24},  {5, 3, 8, 0, 24},
                                      {7, 9, 64, 64, 64}, {3, 5, 17, 17, 0},      {4, 16, 64, 192, 0}, {2, 3, 9, 0, 9},
                                      {6, 1, 130, 0, 0},  {33, 8, 128, 256, 192}, {1, 128, 64, 0, 192}};
  if (index >= 4 * COUNT_OF(shapes)) return NULL;
  const int64_t *shape = shapes[index / 4];
  KernelCase *c = case_heads(arena, rng, shape[0], shape[1], shape[2], shape[3], shape[4], index % 2);
  c->exact_inputs = index % 4 == 2, c->exact_outputs = index % 4 == 3;
  return c;
}

static const RouterSettings routers[] = {
    {.experts = 1, .used = 1, .scale = 1},
    {.experts = 8, .used = 2, .is_normalized = true, .scale = 1},  // Mixtral
    {.experts = 60, .used = 4, .scale = 1},  // Qwen1.5-MoE
    {.experts = 128, .used = 8, .is_normalized = true, .scale = 1},  // Qwen3-MoE
    {.experts = 64, .used = 6, .groups = 8, .groups_used = 3, .scale = 16},  // DeepSeek-V2
    {.experts = 256,
     .used = 8,
     .is_sigmoid = true,
     .groups = 8,
     .groups_used = 4,
     .groups_by_two = true,
     .is_normalized = true,
     .scale = 2.5f},
    {.experts = 33, .used = 5, .is_sigmoid = true, .scale = 0.5f},
    {.experts = 9, .used = 9, .is_normalized = true, .scale = 1},
    {.experts = 12, .used = 3, .groups = 12, .groups_used = 5, .groups_by_two = true, .scale = 1},  // groups of one
    {.experts = 17, .used = 1, .is_normalized = true, .scale = 3},
};

static KernelCase *make_router(Arena *arena, Rng *rng, KernelOp op, int index) {
  static const int64_t rows[] = {1, 7, 33, 100};
  if (index >= 4 * COUNT_OF(routers)) return NULL;
  return case_router(arena, rng, op, rows[index % 4], routers[index / 4], op == OP_router_forward && index % 2);
}
MAKE(router_forward) { return make_router(arena, rng, OP_router_forward, index); }
MAKE(router_backward) { return make_router(arena, rng, OP_router_backward, index); }

static KernelCase *make_experts(Arena *arena, Rng *rng, KernelOp op, int index) {
  static const struct {
    BlockType type;
    int64_t n, experts, used, hidden, width;
  } shapes[] = {{BLOCK_F32, 1, 1, 1, 1, 1},      {BLOCK_F32, 3, 2, 2, 7, 5},     {BLOCK_BF16, 1, 8, 2, 33, 17},
                {BLOCK_Q8_0, 1, 16, 4, 64, 32},  {BLOCK_Q8_0, 9, 4, 2, 32, 64},  {BLOCK_F16, 40, 5, 3, 40, 24},
                {BLOCK_Q4_0, 17, 64, 8, 32, 32}, {BLOCK_F32, 70, 3, 1, 65, 33},  {BLOCK_Q8_0, 530, 2, 1, 32, 32},
                {BLOCK_F32, 300, 2, 2, 24, 40},  {BLOCK_Q4_K, 5, 4, 2, 256, 256}};
  if (index >= 2 * COUNT_OF(shapes)) return NULL;
  ExpertMatrices shape = {.experts = shapes[index / 2].experts,
                          .used = shapes[index / 2].used,
                          .hidden = shapes[index / 2].hidden,
                          .width = shapes[index / 2].width,
                          .activation = index % 2 ? ACTIVATION_GELU_TANH : ACTIVATION_SILU};
  return case_experts(arena, rng, op, shapes[index / 2].type, shapes[index / 2].n, shape, op == OP_experts_backward && index % 2);
}
MAKE(experts_forward) { return make_experts(arena, rng, OP_experts_forward, index); }
MAKE(experts_backward) { return make_experts(arena, rng, OP_experts_backward, index); }

MAKE(rope) {
  static const int64_t shapes[][4] = {{1, 1, 2, 2},   {1, 1, 8, 8},   {3, 2, 8, 4},   {7, 3, 64, 64},   {2, 9, 64, 32},
                                      {5, 1, 80, 80}, {4, 2, 96, 24}, {3, 4, 20, 14}, {2, 2, 128, 128}, {1, 2, 256, 64}};
  if (index >= 4 * COUNT_OF(shapes)) return NULL;
  const int64_t *shape = shapes[index / 4];
  return case_rope(arena, rng, shape[0], shape[1], shape[2], shape[3], index % 2 ? ROPE_INTERLEAVED : ROPE_HALVES, index % 4 / 2);
}

typedef struct AttentionPlan {
  AttentionShape shape;  // with scale 0: 1 / sqrt(head_size)
  int64_t span_count, queries[3], earlier[3];
} AttentionPlan;

static const AttentionPlan attention_plans[] = {
    {{1, 1, 8, 8, 0, 0, 0}, 1, {1}, {0}},  // one token
    {{1, 1, 1, 1, 0, 0, 0}, 1, {3}, {0}},  // size one
    {{2, 1, 7, 5, 0, 0, 0}, 2, {3, 1}, {0, 0}},  // odd sizes, a span of one token
    {{3, 1, 16, 8, 0, 0, 0}, 3, {5, 1, 17}, {0, 0, 0}},  // packed documents, value_size < head_size
    {{4, 2, 32, 48, 0, 0, 0}, 2, {33, 7}, {0, 0}},  // value_size > head_size
    {{9, 3, 64, 64, 0, 0, 0}, 2, {40, 25}, {0, 0}},  // SmolLM2's heads
    {{9, 3, 64, 64, 0, 0, 0}, 1, {1}, {66}},  // decoding one token after a cache
    {{4, 2, 24, 40, 0, 0, 0}, 3, {1, 1, 1}, {0, 200, 63}},  // single queries after caches of several tiles
    {{2, 1, 80, 130, 0, 50, 0}, 2, {1, 1}, {140, 10}},  // with a window across tiles
    {{2, 2, 33, 7, 0, 9, 3}, 2, {1, 1}, {127, 128}},  // with softcap, too
    {{2, 2, 20, 12, 0, 0, 0}, 2, {3, 6}, {70, 1}},  // a few queries after caches
    {{4, 1, 128, 128, 0, 0, 0}, 1, {65}, {0}},
    {{2, 1, 256, 256, 0, 0, 0}, 1, {17}, {5}},
    {{2, 2, 80, 80, 0, 0, 0}, 1, {130}, {0}},
    {{2, 1, 16, 16, 0, 1, 0}, 2, {9, 4}, {0, 3}},  // each query sees itself alone
    {{2, 1, 16, 16, 0, 4, 0}, 2, {33, 3}, {0, 40}},  // a window; the oldest keys are seen by none
    {{2, 1, 16, 16, 0, 64, 0}, 1, {130}, {10}},  // a window wider than a tile
    {{2, 1, 16, 16, 0, 8, 0}, 3, {5, 6, 20}, {0, 0, 2}},  // a window wider than packed documents: it ends where they begin
    {{2, 2, 24, 24, 0, 0, 5}, 2, {19, 2}, {0, 31}},  // softcap
    {{4, 2, 32, 32, 1, 7, 2}, 2, {37, 5}, {0, 9}},  // softcap and window, unscaled: tanh saturates
    {{2, 1, 64, 64, 40, 0, 0}, 1, {50}, {0}},  // huge scores
    {{3, 1, 16, 8, 0, 0, 0}, 3, {25, 0, 17}, {3, 9, 0}},  // a document without queries: nothing sees its keys
    {{2, 1, 16, 16, 0, 0, 0}, 2, {2, 3}, {300, 250}},  // where they are some rows: whole tiles of keys that no query sees
};

static KernelCase *make_attention(Arena *arena, Rng *rng, KernelOp op, int index) {
  if (index >= 2 * COUNT_OF(attention_plans)) return NULL;
  bool are_some = index >= COUNT_OF(attention_plans);
  AttentionPlan plan = attention_plans[index % COUNT_OF(attention_plans)];
  for (int s = 0; s < plan.span_count && are_some; s++) plan.earlier[s] += 2 * plan.queries[s] + 17 * s;
  if (plan.shape.scale == 0) plan.shape.scale = 1 / sqrt((float)plan.shape.head_size);
  return case_attention(arena, rng, op, plan.shape, plan.span_count, plan.queries, plan.earlier, are_some);
}

MAKE(attention_forward) { return make_attention(arena, rng, OP_attention_forward, index); }
MAKE(attention_backward) { return make_attention(arena, rng, OP_attention_backward, index); }

static KernelCase *make_gated(Arena *arena, Rng *rng, KernelOp op, int index) {
  if (index >= 8 * COUNT_OF(sizes)) return NULL;
  return case_gated(arena, rng, op, sizes[index / 8], index % 2 ? ACTIVATION_GELU_TANH : ACTIVATION_SILU,
                    op == OP_gated_backward && index % 4 / 2, index % 8 < 4);
}

MAKE(gated_forward) { return make_gated(arena, rng, OP_gated_forward, index); }
MAKE(gated_backward) { return make_gated(arena, rng, OP_gated_backward, index); }

MAKE(cross_entropy) {
  if (index >= 8 * COUNT_OF(sizes)) return NULL;
  float softcap = index % 8 < 4 ? 0 : index % 3 ? 4 : 30;
  return case_cross_entropy(arena, rng, 1 + index % 7, sizes[index / 8], index % 4 / 2 ? 1e4f : 3, index % 2, softcap);
}

MAKE(divergence) {
  if (index >= 8 * COUNT_OF(sizes)) return NULL;
  float softcap = index % 8 < 4 ? 0 : index % 3 ? 4 : 30;
  bool is_far = index % 4 / 2;
  return case_divergence(arena, rng, 1 + index % 7, sizes[index / 8], is_far ? 1e4f : 3, index % 3 ? (is_far ? 1e4f : 0.1f) : 2, index % 2,
                         softcap);
}

MAKE(linear_cross_entropy) {
  static const int64_t shapes[][3] = {{1, 1, 32},   {2, 5, 32},   {3, 31, 96},   {7, 32, 64},   {4, 33, 576},
                                      {33, 63, 32}, {5, 100, 64}, {70, 300, 96}, {300, 96, 32}, {5, 2085, 96}};
  if (index >= 6 * COUNT_OF(shapes)) return NULL;
  const int64_t *shape = shapes[index / 6];
  int kind = index % 6;
  return case_linear_cross_entropy(arena, rng, index % 5 ? BLOCK_Q8_0 : BLOCK_F32, shape[0], shape[1], shape[2], kind % 2,
                                   kind / 2 % 2 || kind >= 4,
                                   kind < 4    ? 0
                                   : kind == 4 ? 2.5f
                                               : 50);
}

MAKE(dropout) {
  static const float probabilities[] = {0, 0.05f, 0.5f, 0.9f};
  if (index >= 4 * COUNT_OF(sizes)) return NULL;
  return case_dropout(arena, rng, sizes[index / 4], probabilities[index % 4], (index + index / 4) % 2);
}

MAKE(gather_rows) {
  return index < COUNT_OF(sizes) ? case_rows(arena, rng, OP_gather_rows, BLOCK_F32, 1 + index, 3 + index, sizes[index]) : NULL;
}
MAKE(scatter_rows) {
  return index < COUNT_OF(sizes) ? case_rows(arena, rng, OP_scatter_rows, BLOCK_F32, 1 + index, 3 + index, sizes[index]) : NULL;
}
MAKE(fill) { return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_fill, sizes[index]) : NULL; }
MAKE(copy) { return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_copy, sizes[index]) : NULL; }
MAKE(softcap) { return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_softcap, sizes[index]) : NULL; }
MAKE(add) { return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_add, sizes[index]) : NULL; }
MAKE(adamw) { return index < 2 * COUNT_OF(sizes) ? case_adamw(arena, rng, sizes[index / 2], index % 2 ? 1000 : 1) : NULL; }

MAKE(adamw_8bit) {
  static const int64_t counts[] = {1, 7, 255, 256, 257, 1031, 2048, 20001};
  return index < 2 * COUNT_OF(counts) ? case_adamw_8bit(arena, rng, counts[index / 2], index % 2 ? 1000 : 1) : NULL;
}

MAKE(update) {
  if (index >= 2 * UPDATE_COUNT * COUNT_OF(sizes)) return NULL;
  return case_update(arena, rng, index / 2 % UPDATE_COUNT, sizes[index / 2 / UPDATE_COUNT], index % 2 == 0);
}

MAKE(update_8bit) {
  static const int64_t counts[] = {1, 7, 255, 257, 1031, 9001};
  if (index >= 2 * UPDATE_COUNT * COUNT_OF(counts)) return NULL;
  return case_update_8bit(arena, rng, index / 2 % UPDATE_COUNT, counts[index / 2 / UPDATE_COUNT], index % 2 == 0);
}

static KernelCase *make_factored(Arena *arena, Rng *rng, KernelOp op, int index) {
  static const int64_t shapes[][2] = {{1, 1},   {1, 5},   {2, 3},   {5, 1},    {7, 8},    {16, 33},
                                      {33, 16}, {64, 65}, {3, 900}, {1000, 8}, {257, 31}, {1, 4097}};
  return index < COUNT_OF(shapes) ? case_factored(arena, rng, op, shapes[index][0], shapes[index][1]) : NULL;
}
MAKE(factored_moments) { return make_factored(arena, rng, OP_factored_moments, index); }
MAKE(factored_update) { return make_factored(arena, rng, OP_factored_update, index); }
MAKE(low_rank_norms) {
  static const int64_t shapes[][3] = {{1, 1, 1}, {5, 3, 7}, {64, 8, 32}, {130, 16, 48}, {33, 37, 20}, {257, 64, 96}};
  if (index >= COUNT_OF(shapes)) return NULL;
  return case_norms(arena, rng, shapes[index][0], shapes[index][1], shapes[index][2]);
}

static const int64_t magnitude_shapes[][2] = {{1, 1}, {2, 5}, {3, 64}, {70, 96}, {5, 259}, {200, 33}, {130, 512}};

MAKE(magnitude_forward) {
  if (index >= 6 * COUNT_OF(magnitude_shapes)) return NULL;
  const int64_t *shape = magnitude_shapes[index / 6];
  int kind = index % 6;
  KernelCase *c = case_magnitude(arena, rng, OP_magnitude_forward, shape[0], shape[1], kind % 2, kind % 3 == 0, kind == 5 ? 3 : 0);
  c->exact_inputs = 2, c->exact_outputs = kind % 3 == 0;  // the residual stream is float32
  return c;
}

MAKE(magnitude_backward) {
  if (index >= 3 * COUNT_OF(magnitude_shapes)) return NULL;
  const int64_t *shape = magnitude_shapes[index / 3];
  KernelCase *c = case_magnitude(arena, rng, OP_magnitude_backward, shape[0], shape[1], false, false, index % 3 == 2 ? 5 : 0);
  c->exact_inputs = index % 3 == 1;  // dy of the residual stream
  return c;
}

MAKE(sum_of_squares) {
  if (index == COUNT_OF(sizes)) return case_elementwise(arena, rng, OP_sum_of_squares, 300001);
  return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_sum_of_squares, sizes[index]) : NULL;
}

MAKE(add_uniform) { return index < COUNT_OF(sizes) ? case_elementwise(arena, rng, OP_add_uniform, sizes[index]) : NULL; }
static const int64_t sum_shapes[][2] = {{1, 1}, {2, 7}, {33, 17}, {31, 64}, {129, 130}, {700, 33}, {64, 1000}, {2500, 5}};

MAKE(column_sums) {
  if (index >= 2 * COUNT_OF(sum_shapes)) return NULL;
  KernelCase *c = case_column_sums(arena, rng, sum_shapes[index / 2][0], sum_shapes[index / 2][1], index % 2 * 3);
  c->exact_inputs = index / 2 % 3 == 2;
  return c;
}
MAKE(norm_weight_backward) {
  if (index >= 4 * COUNT_OF(sum_shapes)) return NULL;
  const int64_t *shape = sum_shapes[index / 4];
  KernelCase *c = case_norm_weight(arena, rng, shape[0], norm_settings(shape[1], index), index / 2 % 2 * 3);
  c->exact_inputs = (unsigned)(index % 3);  // x is the residual stream; dy is the gradient of a sum with it
  return c;
}
MAKE(embedding_backward) {
  static const int64_t shapes[][3] = {{1, 1, 1}, {5, 3, 7}, {20, 50, 33}, {300, 4, 64}, {64, 64, 130}, {40, 9, 600}};
  if (index >= COUNT_OF(shapes)) return NULL;
  return case_embedding_backward(arena, rng, shapes[index][0], shapes[index][1], shapes[index][2]);
}

static const AttentionPlan paged_plans[] = {
    {{2, 2, 32, 32, 0, 0, 0}, 3, {1, 1, 1}, {30, 31, 32}},  // lengths at the border of a page
    {{4, 2, 64, 32, 0, 0, 0}, 3, {1, 3, 1}, {63, 64, 95}},
    {{12, 1, 32, 32, 0, 0, 0}, 2, {2, 5}, {40, 70}},  // more heads a KV head than are worth summing at once
    {{8, 2, 32, 64, 0, 0, 0}, 3, {1, 4, 70}, {700, 66, 400}},  // texts of many pages, which begin alike
    {{5, 1, 32, 32, 0, 40, 0}, 3, {1, 2, 70}, {1500, 31, 1000}},  // a window far into a text
    {{2, 1, 32, 32, 0, 0, 3}, 2, {1, 7}, {9000, 8190}},
};

MAKE(paged_attention) {
  enum { COMMON = COUNT_OF(attention_plans), OWN = COUNT_OF(paged_plans), ALL = COMMON + OWN };
  if (index >= 4 * ALL) return NULL;
  int which = index % ALL, turn = index / ALL;
  AttentionPlan plan = which < COMMON ? attention_plans[which] : paged_plans[which - COMMON];
  PagesType type = (which + turn / 2) % 3;
  if (!pages_type_fits(type, plan.shape.head_size) || !pages_type_fits(type, plan.shape.value_size)) type = (PagesType)(which % 2);
  if (plan.shape.scale == 0) plan.shape.scale = 1 / sqrt((float)plan.shape.head_size);
  return case_paged(arena, rng, type, plan.shape, plan.span_count, plan.queries, plan.earlier, turn % 2);
}

MAKE(store_pages) {
  static const int64_t shapes[][5] = {{1, 1, 1, 1, 1},    {7, 2, 3, 5, 2},     {1, 2, 64, 64, 9}, {33, 3, 128, 96, 2},
                                      {40, 1, 32, 64, 3}, {64, 2, 256, 32, 2}, {5, 8, 96, 96, 1}};  // tokens, heads, sizes, pages
  if (index >= 3 * COUNT_OF(shapes)) return NULL;
  const int64_t *s = shapes[index / 3];
  AttentionShape shape = {.heads = s[1], .kv_heads = s[1], .head_size = s[2], .value_size = s[3]};
  PagesType type = (PagesType)(index % 3);
  if (!pages_type_fits(type, s[2]) || !pages_type_fits(type, s[3])) type = PAGES_F16;
  return case_store(arena, rng, type, shape, s[4], s[0]);
}

MAKE(low_rank_rows) {
  static const int64_t outs[] = {70, 256, 33}, ranks[] = {8, -1, 16, 3, 300};
  static const int64_t shapes[][3] = {{1, 1, 0}, {1, 64, 0}, {3, 33, 2}, {9, 256, 0}, {40, 130, 5}, {70, 96, 0}};
  if (index >= 3 * COUNT_OF(shapes)) return NULL;
  const int64_t *s = shapes[index / 3];
  return case_low_rank_rows(arena, rng, s[0], s[1], s[2], outs, 1 + index % 3, ranks, s[0] == 1 ? 1 : 5);
}

// Which inputs and outputs are activations, as bits.
static const struct {
  unsigned inputs, outputs;
} activations[OP_COUNT] = {
    [OP_linear_forward] = {1, 1},
    [OP_linear_forward_int8] = {1, 1},
    [OP_linear_forward_rows] = {1, 1},
    [OP_linear_backward] = {1, 1},
    [OP_weight_backward] = {3, 0},
    [OP_low_rank_backward] = {3, 2},
    [OP_norm_forward] = {1, 1},
    [OP_norm_backward] = {3, 1},
    [OP_rope] = {0, 1},
    [OP_copy_heads] = {1, 1},
    [OP_magnitude_forward] = {1, 1},
    [OP_magnitude_backward] = {3, 1},
    [OP_experts_forward] = {1, 0},
    [OP_experts_backward] = {1 | 64, 0},
    [OP_attention_forward] = {7, 1},
    [OP_attention_backward] = {1 | 2 | 8 | 16 | 32, 7},
    [OP_gated_forward] = {3, 1},
    [OP_gated_backward] = {7, 3},
    [OP_linear_cross_entropy] = {1, 2},
    [OP_dropout] = {1, 1},
    [OP_gather_rows] = {1, 1},
    [OP_scatter_rows] = {1, 1},
    [OP_column_sums] = {1, 0},
    [OP_norm_weight_backward] = {3, 0},
};

bool case_is_activation(const KernelCase *c, int index, bool is_output) {
  unsigned own = is_output ? activations[c->op].outputs & ~c->exact_outputs : activations[c->op].inputs & ~c->exact_inputs;
  return own >> index & 1;
}

#define KERNEL_OP_TRAITS(op) \
  [OP_##op] = {#op, offsetof(Kernels, op), run_##op, {plain_float_##op, reversed_float_##op}, plain_double_##op, make_##op},
const KernelOpTraits kernel_ops[OP_COUNT] = {KERNEL_OPS(KERNEL_OP_TRAITS)};
