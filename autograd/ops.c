// The small operations: rotary positions, gated activation, soft caps, gathering of rows.
#include <assert.h>
#include <math.h>

#include "autograd/ops.h"

static void rope_rotate(void *x, const Node *node, bool inverse, Tape *tape) {
  const RopeSettings *settings = node->attributes;
  const Tensor *y = node->outputs[0];
  const int32_t *positions = node->inputs[1]->data;
  const float *frequencies = node->inputs[2]->data;
  for (int64_t i = 0; i < settings->count; i++) {
    const RopeRows *rows = &settings->rows[i];
    char *first = (char *)x + (rows->first * y->columns + settings->begin) * float_bytes(y->type);
    tape->backend->kernels->rope(first, y->type, positions + rows->first, frequencies + i * settings->rotary / 2, rows->end - rows->first,
                                 y->columns / settings->head_size, settings->head_size, settings->rotary, settings->layout,
                                 settings->magnitude, inverse, tape->backend);
  }
}

static void rope_forward(Node *node, Tape *tape) { rope_rotate(node->outputs[0]->data, node, false, tape); }

// Nothing else reads x: the gradient, too, turns in its place.
static void rope_backward(Node *node, Tape *tape) { rope_rotate(node->inputs[0]->gradient, node, true, tape); }

// Positions and frequencies are read by the backward pass, too; as inputs of the tape they stay in any case.
static const Op rope_op = {.name = "rope", .forward = rope_forward, .backward = rope_backward, .aliased_input = 1, .is_in_place = true};

Tensor *op_rope(Tape *tape, Tensor *x, Tensor *positions, RopeSettings settings) {
  RopeSettings *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = settings;
  Node *node = tape_node(tape, &rope_op, attributes);
  node->inputs[0] = x;
  node->inputs[1] = positions;
  node->inputs[2] = settings.frequencies;
  node->outputs[0] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

void gradient_clear(const Tensor *tensor, Backend *backend) {
  // (Zeros are the same in either type; a buffer's end is a multiple of four bytes.)
  backend->kernels->fill(tensor->gradient, 0, (tensor->rows * tensor->columns * float_bytes(tensor->type) + 3) / 4, backend);
}

static void softcap_forward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  tape->backend->kernels->softcap(y->data, y->rows * y->columns, *(const float *)node->attributes, tape->backend);
}

static const Op softcap_op = {.name = "softcap", .forward = softcap_forward, .is_in_place = true};

Tensor *op_softcap(Tape *tape, Tensor *x, float cap) {
  assert(x->type == FLOAT_32);
  float *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = cap;
  Node *node = tape_node(tape, &softcap_op, attributes);
  node->inputs[0] = x;
  node->outputs[0] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

static void gated_forward(Node *node, Tape *tape) {
  Tensor *y = node->outputs[0];
  const Tensor *up = node->inputs[1];
  tape->backend->kernels->gated_forward(y->data, node->inputs[0]->data, up ? up->data : NULL, y->type, y->rows * y->columns,
                                        *(const Activation *)node->attributes, tape->backend);
}

static void gated_backward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  const Tensor *gate = node->inputs[0], *up = node->inputs[1];
  void *dgate = gate->needs_gradient ? gate->gradient : node->scratch;
  void *dup = up && up->needs_gradient ? up->gradient : node->scratch;
  tape->backend->kernels->gated_backward(dgate, dup, y->gradient, gate->data, up ? up->data : NULL, y->type, y->rows * y->columns,
                                         *(const Activation *)node->attributes, tape->backend);
}

// Room for the gradient of an input that wants none (the other one does, or there would be no backward pass).
static int64_t gated_scratch(const Node *node, bool backward) {
  bool both = node->inputs[0]->needs_gradient && (!node->inputs[1] || node->inputs[1]->needs_gradient);
  return backward && !both ? node->outputs[0]->rows * node->outputs[0]->columns : 0;
}

static const Op gated_op = {
    .name = "gated", .forward = gated_forward, .backward = gated_backward, .scratch = gated_scratch, .saved_inputs = 3, .is_cheap = true};

Tensor *op_gated(Tape *tape, Tensor *gate, Tensor *up, Activation f) {
  Activation *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = f;
  Node *node = tape_node(tape, &gated_op, attributes);
  node->inputs[0] = gate;
  node->inputs[1] = up;
  node->outputs[0] = tape_tensor(tape, gate->rows, gate->columns, gate->type);
  node_finish(node, false);
  return node->outputs[0];
}

static void gather_forward(Node *node, Tape *tape) {
  Tensor *y = node->outputs[0];
  tape->backend->kernels->gather_rows(y->data, node->inputs[0]->data, y->type, node->inputs[1]->data, y->rows, y->columns, tape->backend);
}

static void gather_backward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0];
  Tensor *x = node->inputs[0];
  if (!node->accumulate[0]) gradient_clear(x, tape->backend);
  tape->backend->kernels->scatter_rows(x->gradient, y->gradient, y->type, node->inputs[1]->data, y->rows, y->columns, tape->backend);
}

static const Op gather_op = {.name = "gather_rows", .forward = gather_forward, .backward = gather_backward};

Tensor *op_gather_rows(Tape *tape, Tensor *x, Tensor *rows) {
  Node *node = tape_node(tape, &gather_op, NULL);
  node->inputs[0] = x;
  node->inputs[1] = rows;
  node->outputs[0] = tape_tensor(tape, rows->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

typedef struct NoiseAttributes {
  const AttentionSpan *spans;
  int64_t span_count;
  float magnitude;
} NoiseAttributes;

static void noise_forward(Node *node, Tape *tape) {
  const NoiseAttributes *attributes = node->attributes;
  const Tensor *x = node->outputs[0];
  for (int64_t s = 0; s < attributes->span_count; s++) {
    const AttentionSpan *span = &attributes->spans[s];
    int64_t count = (span->query_end - span->query_begin) * x->columns;
    // As the streams of dropout are, but for bit 23: adapters are fewer.
    uint64_t stream = 1ull << 63 | tape->dropout_stream << 24 | 1u << 23 | (uint64_t)s;
    if (count > 0)
      tape->backend->kernels->add_uniform((float *)x->data + span->query_begin * x->columns, count,
                                          attributes->magnitude / sqrtf((float)count), tape->dropout_seed, stream, tape->backend);
  }
}

static void noise_backward(Node *node, Tape *tape) {
  const Tensor *x = node->inputs[0], *y = node->outputs[0];
  if (!node->shares_gradient) tape->backend->kernels->add(x->gradient, y->gradient, 1, y->rows * y->columns, tape->backend);
}

static const Op noise_op = {.name = "noise", .forward = noise_forward, .backward = noise_backward, .aliased_input = 1, .is_in_place = true};

Tensor *op_noise(Tape *tape, Tensor *x, const AttentionSpan *spans, int64_t span_count, float magnitude) {
  NoiseAttributes *attributes = arena_new(&tape->arena, 1, sizeof *attributes);
  *attributes = (NoiseAttributes){.spans = spans, .span_count = span_count, .magnitude = magnitude};
  Node *node = tape_node(tape, &noise_op, attributes);
  node->inputs[0] = x;
  node->outputs[0] = tape_tensor(tape, x->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}

enum { REPEAT_X, REPEAT_ROWS, REPEAT_PLACES, REPEAT_AGAIN, REPEAT_REPEATED };

static void repeat_backward(Node *node, Tape *tape) {
  const Tensor *y = node->outputs[0], *x = node->inputs[REPEAT_X], *again = node->inputs[REPEAT_AGAIN];
  const Kernels *kernels = tape->backend->kernels;
  assert(!node->accumulate[REPEAT_X]);
  kernels->gather_rows(x->gradient, y->gradient, y->type, node->inputs[REPEAT_PLACES]->data, x->rows, x->columns, tape->backend);
  if (!again) return;
  kernels->gather_rows(node->scratch, y->gradient, y->type, again->data, again->rows, y->columns, tape->backend);
  kernels->scatter_rows(x->gradient, node->scratch, y->type, node->inputs[REPEAT_REPEATED]->data, again->rows, y->columns, tape->backend);
}

static int64_t repeat_scratch(const Node *node, bool backward) {
  const Tensor *again = node->inputs[REPEAT_AGAIN];
  return backward && again ? again->rows * node->outputs[0]->columns : 0;
}

static const Op repeat_op = {.name = "repeat_rows", .forward = gather_forward, .backward = repeat_backward, .scratch = repeat_scratch};

RepeatedRows repeated_rows(Tape *tape, const int32_t *rows, int64_t count, int64_t x_rows) {
  int32_t *places = arena_new(&tape->arena, (size_t)x_rows, sizeof *places);
  int32_t *again = arena_new(&tape->arena, 2 * (size_t)(count - x_rows), sizeof *again), *repeated = again + (count - x_rows);
  int64_t repetitions = 0;
  for (int64_t i = 0; i < x_rows; i++) places[i] = -1;
  for (int64_t i = 0; i < count; i++) {
    if (places[rows[i]] < 0) {
      places[rows[i]] = (int32_t)i;
    } else {
      again[repetitions] = (int32_t)i;
      repeated[repetitions++] = rows[i];
    }
  }
  assert(repetitions == count - x_rows);
  RepeatedRows result = {.rows = tape_input(tape, rows, count, 1), .places = tape_input(tape, places, x_rows, 1)};
  if (repetitions == 0) return result;
  result.again = tape_input(tape, again, repetitions, 1);
  result.repeated = tape_input(tape, repeated, repetitions, 1);
  return result;
}

Tensor *op_repeat_rows(Tape *tape, Tensor *x, const RepeatedRows *rows) {
  Node *node = tape_node(tape, &repeat_op, NULL);
  node->inputs[REPEAT_X] = x;
  node->inputs[REPEAT_ROWS] = rows->rows;
  node->inputs[REPEAT_PLACES] = rows->places;
  node->inputs[REPEAT_AGAIN] = rows->again;
  node->inputs[REPEAT_REPEATED] = rows->repeated;
  node->outputs[0] = tape_tensor(tape, rows->rows->rows, x->columns, x->type);
  node_finish(node, false);
  return node->outputs[0];
}
