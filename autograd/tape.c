#include "autograd/tape.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"

// A stretch of the schedule during which one buffer must hold its contents.
typedef struct Lifetime {
  int first, last;  // event numbers
  int turn, back;  // of events that use it: the last of the forward pass, and the first of the backward pass (-1: none)
  int64_t bytes, offset;
  void **pointer;  // set to the buffer when event `first` begins
  int merged;  // >= 0: this is the same buffer as that lifetime (a shared gradient, or an output in its input's place)
  bool is_shared;  // another is merged with it
} Lifetime;

// A buffer whose contents lie in the host's memory between its use by the forward and by the backward pass: two lifetimes on the device.
typedef struct Offload {
  int before, after;  // the lifetimes
  int produced, released;  // events: copied out after the first of them, and gone before what follows the second begins
  int fetched, needed;  // copied back from before the first of them on, and there before the second begins
  int64_t bytes, offset;  // in the host's block
  int64_t copy;  // the backend's number of the copy that is under way
} Offload;

typedef enum Phase { PHASE_FORWARD, PHASE_RECOMPUTE, PHASE_BACKWARD } Phase;

typedef struct Event {
  Node *node;
  Phase phase;
  unsigned outputs;  // of a forward call: bit i, output i is wanted
  int start, starts;  // lifetimes beginning here: plan->order[start .. start+starts)
  bool has_copies;  // of some Offload, before it or after it
  int next_segment;  // the first other one among later events; -1: none
} Event;

// Its arrays stay from one plan to the next, so that a warm step allocates nothing.
typedef struct TapePlan {
  Event *events;
  int event_count, event_capacity;
  int forward_events;  // 0 while the forward pass is planned
  Lifetime *lifetimes;
  int lifetime_count, lifetime_capacity;
  int *order;  // [lifetime_count]
  Lifetime **sorted, **placed;  // [lifetime_count] while they are placed
  Offload *offloads;
  int offload_count, offload_capacity;
  unsigned *again;  // [nodes]: the outputs that a segment's recomputation has to give
  int order_capacity, again_capacity;
  int64_t bytes, host_bytes;
  int checkpointed;
  bool keeps_cheap;
} TapePlan;

static void plan_free(TapePlan *plan) {
  if (!plan) return;
  free(plan->events);
  free(plan->lifetimes);
  free(plan->order);
  free(plan->sorted);
  free(plan->placed);
  free(plan->offloads);
  free(plan->again);
  free(plan);
}

void tape_new(Tape *tape, Backend *backend) { *tape = (Tape){.backend = backend, .loss_rows = LOSS_ROWS}; }

void tape_free(Tape *tape) {
  plan_free(tape->plan);
  arena_release(&tape->arena);
  free(tape->nodes);
  free(tape->tensors);
  if (tape->block) tape->backend->release(tape->block, tape->backend);
  if (tape->host_block) tape->backend->release_host(tape->host_block, tape->backend);
  *tape = (Tape){0};
}

void tape_begin(Tape *tape, TapeMode mode) {
  arena_reset(&tape->arena);
  tape->node_count = tape->tensor_count = 0;
  tape->mode = mode;
  tape->segment_count = 1;
}

Tensor *tape_tensor(Tape *tape, int64_t rows, int64_t columns, FloatType type) {
  Tensor *tensor = arena_new(&tape->arena, 1, sizeof *tensor);
  *tensor = (Tensor){.rows = rows, .columns = columns, .type = type, .forward_life = -1, .recomputed_life = -1, .gradient_life = -1};
  ARRAY_PUSH(tape->tensors, tape->tensor_count, tape->tensor_capacity) = tensor;
  return tensor;
}

Tensor *tape_input(Tape *tape, const void *host, int64_t rows, int64_t columns) {
  Tensor *tensor = tape_tensor(tape, rows, columns, FLOAT_32);
  tensor->host = host;
  return tensor;
}

Node *tape_node(Tape *tape, const Op *op, void *attributes) {
  Node *node = arena_new(&tape->arena, 1, sizeof *node);
  *node = (Node){.op = op, .attributes = attributes, .segment = tape->segment_count - 1};
  ARRAY_PUSH(tape->nodes, tape->node_count, tape->node_capacity) = node;
  return node;
}

void node_finish(Node *node, bool has_parameters) {
  node->needs_backward = has_parameters;
  for (int i = 0; i < NODE_INPUTS; i++)
    if (node->inputs[i] && node->inputs[i]->needs_gradient) node->needs_backward = true;
  if (!node->op->backward) node->needs_backward = false;
  for (int i = 0; i < NODE_OUTPUTS; i++) {
    if (!node->outputs[i]) continue;
    node->outputs[i]->producer = node;
    node->outputs[i]->needs_gradient = node->needs_backward;
  }
}

void tape_segment(Tape *tape) { tape->segment_count++; }
void tape_keep(Tensor *tensor) { tensor->keep = 1; }
int tape_segments(const Tape *tape) { return tape->segment_count; }

static int64_t tensor_bytes(const Tensor *tensor) { return tensor->rows * tensor->columns * float_bytes(tensor->type); }

static int lifetime_new(TapePlan *plan, int event, int64_t bytes, void **pointer) {
  int64_t rounded = (bytes + 63) / 64 * 64;
  ARRAY_PUSH(plan->lifetimes, plan->lifetime_count, plan->lifetime_capacity) = (Lifetime){
      .first = event, .last = event, .turn = event, .back = -1, .bytes = rounded ? rounded : 64, .pointer = pointer, .merged = -1};
  return plan->lifetime_count - 1;
}

// The lifetime that owns the buffer of `index`.
static Lifetime *lifetime_root(TapePlan *plan, int index) {
  while (plan->lifetimes[index].merged >= 0) index = plan->lifetimes[index].merged;
  return &plan->lifetimes[index];
}

static void lifetime_extend(TapePlan *plan, int index, int event) {
  Lifetime *root = lifetime_root(plan, index);
  if (event > root->last) root->last = event;
  if (!plan->forward_events) root->turn = event;
  else if (root->back < 0) root->back = event;
}

static void lifetime_merge(TapePlan *plan, int index, int into) {
  plan->lifetimes[index].merged = into;
  lifetime_root(plan, into)->is_shared = true;
}

static bool is_checkpointed(const TapePlan *plan, int segment) { return segment < plan->checkpointed; }

// Whether a node's results are not kept for its segment's backward pass.
static bool is_recomputed(const TapePlan *plan, const Node *node) {
  return is_checkpointed(plan, node->segment) || (node->op->is_cheap && !plan->keeps_cheap);
}

// Which copy of its data an event of `segment`'s backward pass reads: the recomputed one, if the tensor is an inner
// one of that very segment.
static bool reads_recomputed(const TapePlan *plan, const Tensor *tensor, int segment) {
  return tensor->producer && tensor->producer->segment == segment && is_recomputed(plan, tensor->producer);
}

static int event_add(TapePlan *plan, Node *node, Phase phase, unsigned outputs) {
  ARRAY_PUSH(plan->events, plan->event_count, plan->event_capacity) = (Event){.node = node, .phase = phase, .outputs = outputs};
  return plan->event_count - 1;
}

static void plan_scratch(TapePlan *plan, Node *node, int event, bool backward) {
  int64_t floats = node->op->scratch ? node->op->scratch(node, backward) : 0;
  if (floats) lifetime_new(plan, event, floats * (int64_t)sizeof(float), &node->scratch);
}

// Schedules a forward call: the buffers of its wanted outputs begin here, its inputs' must last until here.
static void plan_forward(TapePlan *plan, Node *node, Phase phase, unsigned outputs) {
  int event = event_add(plan, node, phase, outputs), first_input = -1;
  for (int i = 0; i < NODE_INPUTS; i++) {
    Tensor *tensor = node->inputs[i];
    if (!tensor) continue;
    bool recomputed = phase == PHASE_RECOMPUTE && reads_recomputed(plan, tensor, node->segment);
    int life = recomputed ? tensor->recomputed_life : tensor->forward_life;
    lifetime_extend(plan, life, event);
    if (i == 0) first_input = life;
  }
  for (int i = 0; i < NODE_OUTPUTS; i++) {
    Tensor *tensor = node->outputs[i];
    if (!tensor || !(outputs >> i & 1)) continue;
    int life = lifetime_new(plan, event, tensor_bytes(tensor), &tensor->data);
    if (node->op->is_in_place && i == 0) lifetime_merge(plan, life, first_input);
    if (phase == PHASE_RECOMPUTE) tensor->recomputed_life = life;
    else tensor->forward_life = life;
  }
  plan_scratch(plan, node, event, false);
}

static void plan_saved(TapePlan *plan, Tensor *const *tensors, int count, unsigned saved, int segment, int event) {
  for (int i = 0; i < count; i++) {
    if (!tensors[i] || !(saved >> i & 1)) continue;
    lifetime_extend(plan, reads_recomputed(plan, tensors[i], segment) ? tensors[i]->recomputed_life : tensors[i]->forward_life, event);
  }
}

static void plan_backward(TapePlan *plan, Node *node) {
  int event = event_add(plan, node, PHASE_BACKWARD, 0);
  plan_saved(plan, node->inputs, NODE_INPUTS, node->op->saved_inputs, node->segment, event);
  plan_saved(plan, node->outputs, NODE_OUTPUTS, node->op->saved_outputs, node->segment, event);
  for (int i = 0; i < NODE_OUTPUTS; i++)
    if (node->outputs[i] && node->outputs[i]->gradient_life >= 0) lifetime_extend(plan, node->outputs[i]->gradient_life, event);
  for (int i = 0; i < NODE_INPUTS; i++) {
    Tensor *tensor = node->inputs[i];
    if (!tensor || !tensor->needs_gradient) continue;
    node->accumulate[i] = tensor->gradient_life >= 0;
    if (!node->accumulate[i]) {
      tensor->gradient_life = lifetime_new(plan, event, tensor_bytes(tensor), &tensor->gradient);
      if (node->op->aliased_input == i + 1) {  // the gradient passes through unchanged: one buffer serves both
        lifetime_merge(plan, tensor->gradient_life, node->outputs[0]->gradient_life);
        node->shares_gradient = true;
      }
      if (node->op->is_loss && i == 0 && node->outputs[1]) lifetime_merge(plan, tensor->gradient_life, node->outputs[1]->forward_life);
    }
    lifetime_extend(plan, tensor->gradient_life, event);
  }
  plan_scratch(plan, node, event, true);
}

// Whether a node has anything to pass back: a loss begins the backward pass, others need a gradient of an output.
static bool has_gradient(const Node *node) {
  bool reached = node->op->is_loss;
  for (int i = 0; i < NODE_OUTPUTS; i++) reached |= node->outputs[i] && node->outputs[i]->gradient_life >= 0;
  return node->needs_backward && reached;
}

// Whether the backward pass of a segment, whose last node is end - 1, reads what node n gives as an output, or a node that runs again does.
static bool is_read_again(const TapePlan *plan, const Tape *tape, int n, int end, const Tensor *output) {
  for (int c = n + 1; c < end; c++) {
    const Node *consumer = tape->nodes[c];
    for (int i = 0; i < NODE_INPUTS; i++) {
      if (consumer->inputs[i] != output) continue;
      if (plan->again[c] || (consumer->needs_backward && (consumer->op->saved_inputs >> i & 1))) return true;
    }
  }
  return false;
}

// Marks in plan->again which outputs of a segment's nodes first .. end-1 must be computed again for its backward pass.
static void plan_recomputed_nodes(TapePlan *plan, const Tape *tape, int first, int end) {
  for (int n = end - 1; n >= first; n--) {
    const Node *node = tape->nodes[n];
    unsigned all = 0, needed = 0;
    for (int o = 0; o < NODE_OUTPUTS; o++) {
      if (!node->outputs[o]) continue;
      all |= 1u << o;
      if (!is_recomputed(plan, node)) continue;
      bool is_saved = node->needs_backward && (node->op->saved_outputs >> o & 1);
      if (is_saved || is_read_again(plan, tape, n, end, node->outputs[o])) needed |= 1u << o;
    }
    plan->again[n] = needed && !node->op->is_selective ? all : needed;
  }
}

// Whether x is placed before y: the larger one or, to be the same each time, the earlier in the schedule.
static bool comes_first(const Lifetime *x, const Lifetime *y) {
  if (x->bytes != y->bytes) return x->bytes > y->bytes;
  return x->first != y->first ? x->first < y->first : x < y;
}

// Heap sort (Williams 1964), for the C library's qsort allocates.
static void sift_down(Lifetime **heap, int i, int count) {
  for (int child; (child = 2 * i + 1) < count; i = child) {
    if (child + 1 < count && comes_first(heap[child], heap[child + 1])) child++;
    if (comes_first(heap[child], heap[i])) return;
    Lifetime *swapped = heap[i];
    heap[i] = heap[child];
    heap[child] = swapped;
  }
}

static void sort_lifetimes(Lifetime **lifetimes, int count) {
  for (int i = count / 2 - 1; i >= 0; i--) sift_down(lifetimes, i, count);
  for (int end = count - 1; end > 0; end--) {
    Lifetime *last = lifetimes[end];
    lifetimes[end] = lifetimes[0];
    lifetimes[0] = last;
    sift_down(lifetimes, 0, end);
  }
}

// Largest first, each at the lowest offset that is free during its whole life.
static void plan_offsets(TapePlan *plan) {
  Lifetime **sorted = plan->sorted, **placed = plan->placed;
  int count = 0;
  for (int i = 0; i < plan->lifetime_count; i++)
    if (plan->lifetimes[i].merged < 0) sorted[count++] = &plan->lifetimes[i];
  sort_lifetimes(sorted, count);
  // `placed` is ordered by offset, so that one walk finds the first gap.
  for (int i = 0; i < count; i++) {
    Lifetime *life = sorted[i];
    int64_t offset = 0;
    for (int j = 0; j < i; j++) {
      Lifetime *other = placed[j];
      if (other->last < life->first || life->last < other->first) continue;
      if (other->offset >= offset + life->bytes) break;
      if (other->offset + other->bytes > offset) offset = other->offset + other->bytes;
    }
    life->offset = offset;
    if (offset + life->bytes > plan->bytes) plan->bytes = offset + life->bytes;
    int at = i;
    for (; at > 0 && placed[at - 1]->offset > offset; at--) placed[at] = placed[at - 1];
    placed[at] = life;
  }
}

// Lists for each event the lifetimes that begin there.
static void plan_starts(TapePlan *plan) {
  for (int i = 0; i < plan->lifetime_count; i++) plan->events[plan->lifetimes[i].first].starts++;
  int start = 0;
  for (int e = 0; e < plan->event_count; e++) {
    plan->events[e].start = start;
    start += plan->events[e].starts;
    plan->events[e].starts = 0;
  }
  for (int i = 0; i < plan->lifetime_count; i++) {
    Event *event = &plan->events[plan->lifetimes[i].first];
    plan->order[event->start + event->starts++] = i;
  }
}

static int segment_begin(const Tape *tape, int segment) {
  int n = 0;
  while (n < tape->node_count && tape->nodes[n]->segment < segment) n++;
  return n;
}

static void plan_next_segments(TapePlan *plan) {
  for (int e = plan->event_count - 1; e >= 0; e--) {
    const Event *after = e + 1 < plan->event_count ? &plan->events[e + 1] : NULL;
    bool is_same = after && after->node->segment == plan->events[e].node->segment;
    plan->events[e].next_segment = !after ? -1 : is_same ? after->next_segment : after->node->segment;
  }
}

static void plan_place(TapePlan *plan) {
  if (plan->lifetime_count > plan->order_capacity) {
    plan->order_capacity = 2 * plan->lifetime_count;
    plan->order = memory_grow(plan->order, (size_t)plan->order_capacity, sizeof *plan->order);
    plan->sorted = memory_grow(plan->sorted, (size_t)plan->order_capacity, sizeof(Lifetime *));
    plan->placed = memory_grow(plan->placed, (size_t)plan->order_capacity, sizeof(Lifetime *));
  }
  plan_offsets(plan);
  plan_starts(plan);
}

// The backward pass, segment by segment from the last, each with what has to be computed again before it.
static void plan_backward_pass(TapePlan *plan, Tape *tape) {
  if (tape->node_count > plan->again_capacity) {
    plan->again_capacity = 2 * tape->node_count;
    plan->again = memory_grow(plan->again, (size_t)plan->again_capacity, sizeof *plan->again);
  }
  int end = tape->node_count;
  for (int segment = tape->segment_count - 1; segment >= 0; segment--) {
    int first = segment_begin(tape, segment);
    plan_recomputed_nodes(plan, tape, first, end);
    for (int n = first; n < end; n++)
      if (plan->again[n]) plan_forward(plan, tape->nodes[n], PHASE_RECOMPUTE, plan->again[n]);
    for (int n = end - 1; n >= first; n--)
      if (has_gradient(tape->nodes[n])) plan_backward(plan, tape->nodes[n]);
    end = first;
  }
}

// The last event of the forward pass, and the first of the backward pass, of the segment that an event of that pass belongs to.
static int forward_end(const TapePlan *plan, int event) {
  int segment = plan->events[event].node->segment;
  while (event + 1 < plan->forward_events && plan->events[event + 1].node->segment == segment) event++;
  return event;
}
static int backward_begin(const TapePlan *plan, int event) {
  int segment = plan->events[event].node->segment;
  while (event > plan->forward_events && plan->events[event - 1].node->segment == segment) event--;
  return event;
}

// The copy out has the time of the segment that reads the buffer next. The copy back has that of the segment before (in backward order) the
// one that needs it, so that two such buffers are there at once.
static void plan_offload(TapePlan *plan, int index) {
  Lifetime life = plan->lifetimes[index];
  int begin = backward_begin(plan, life.back);
  Offload offload = {.before = index,
                     .produced = life.first,
                     .released = forward_end(plan, life.turn),
                     .fetched = begin > plan->forward_events ? backward_begin(plan, begin - 1) : begin,
                     .needed = life.back,
                     .bytes = life.bytes,
                     .offset = plan->host_bytes};
  if (offload.fetched - offload.released < 2) return;  // it would be back before anything else could take its place
  offload.after = lifetime_new(plan, offload.fetched, life.bytes, life.pointer);
  plan->lifetimes[offload.after].last = life.last;
  plan->lifetimes[index].last = offload.released;
  const int events[] = {offload.produced, offload.released + 1, offload.fetched, offload.needed};
  for (int i = 0; i < 4; i++) plan->events[events[i]].has_copies = true;
  ARRAY_PUSH(plan->offloads, plan->offload_count, plan->offload_capacity) = offload;
  plan->host_bytes += life.bytes;  // all of them are there when the forward pass ends
}

// What the backward pass reads of a checkpointed segment's results, but for buffers that several tensors share.
static void plan_offloads(TapePlan *plan, const Tape *tape) {
  for (int i = 0; i < tape->tensor_count; i++) {
    const Tensor *tensor = tape->tensors[i];
    if (!tensor->producer || tensor->keep || !is_checkpointed(plan, tensor->producer->segment)) continue;
    const Lifetime *life = &plan->lifetimes[tensor->forward_life];
    if (life->back >= 0 && life->merged < 0 && !life->is_shared) plan_offload(plan, tensor->forward_life);
  }
}

void tape_plan(Tape *tape, int checkpointed) {
  if (!tape->plan) tape->plan = memory_new(1, sizeof *tape->plan);
  TapePlan *plan = tape->plan;
  plan->event_count = plan->forward_events = plan->lifetime_count = plan->offload_count = 0;
  plan->bytes = plan->host_bytes = 0;
  plan->keeps_cheap = tape->keeps_cheap;
  plan->checkpointed = checkpointed < tape->segment_count - 1 ? checkpointed : tape->segment_count - 1;
  for (int i = 0; i < tape->tensor_count; i++) {
    Tensor *tensor = tape->tensors[i];
    tensor->forward_life = tensor->recomputed_life = tensor->gradient_life = -1;
    tensor->gradient = NULL;
  }
  for (int i = 0; i < tape->node_count; i++) {
    Node *node = tape->nodes[i];
    node->shares_gradient = false;
    memset(node->accumulate, 0, sizeof node->accumulate);
  }
  if (tape->node_count == 0) return;
  for (int i = 0; i < tape->tensor_count; i++)
    if (!tape->tensors[i]->producer)
      tape->tensors[i]->forward_life = lifetime_new(plan, 0, tensor_bytes(tape->tensors[i]), &tape->tensors[i]->data);
  for (int i = 0; i < tape->node_count; i++) plan_forward(plan, tape->nodes[i], PHASE_FORWARD, ~0u);
  plan->forward_events = plan->event_count;
  if (tape->mode == TAPE_TRAIN) plan_backward_pass(plan, tape);
  int last = plan->event_count - 1;
  for (int i = 0; i < tape->tensor_count; i++) {
    Tensor *tensor = tape->tensors[i];
    // Inputs are uploaded once, before the first event, and stay.
    if (tensor->keep || !tensor->producer) lifetime_extend(plan, tensor->forward_life, last);
  }
  if (tape->offloads) plan_offloads(plan, tape);
  plan_place(plan);
  plan_next_segments(plan);
}

int64_t tape_plan_bytes(const Tape *tape) { return tape->plan->bytes; }
int64_t tape_host_bytes(const Tape *tape) { return tape->plan->host_bytes; }

static Status reserve_host(Tape *tape) {
  if (tape->plan->host_bytes <= tape->host_block_bytes) return STATUS_OK;
  if (tape->host_block) tape->backend->release_host(tape->host_block, tape->backend);
  tape->host_block = NULL;
  tape->host_block_bytes = 0;
  TRY(tape->backend->allocate_host(&tape->host_block, tape->plan->host_bytes, "offloaded activations", tape->backend));
  tape->host_block_bytes = tape->plan->host_bytes;
  return STATUS_OK;
}

Status tape_reserve(Tape *tape) {
  TRY(reserve_host(tape));
  if (tape->plan->bytes <= tape->block_bytes) return STATUS_OK;
  if (tape->block) tape->backend->release(tape->block, tape->backend);
  tape->block = NULL;
  tape->block_bytes = 0;
  TRY(tape->backend->allocate(&tape->block, tape->plan->bytes, "the step's activations and gradients", tape->backend));
  tape->block_bytes = tape->plan->bytes;
  return STATUS_OK;
}

// Of the tensors that an event reads and writes.
static double event_bytes(const Event *event) {
  const Node *node = event->node;
  int64_t bytes = 0, factor = event->phase == PHASE_BACKWARD ? 2 : 1;  // data and gradient
  for (int i = 0; i < NODE_INPUTS; i++) bytes += node->inputs[i] ? factor * tensor_bytes(node->inputs[i]) : 0;
  for (int i = 0; i < NODE_OUTPUTS; i++)
    if (node->outputs[i] && (event->phase == PHASE_BACKWARD || event->outputs >> i & 1)) bytes += tensor_bytes(node->outputs[i]);
  return (double)bytes;
}

static char *buffer_of(const Tape *tape, int index) { return (char *)tape->block + lifetime_root(tape->plan, index)->offset; }

// Before event e: waits for the copies whose buffers it reads or may write to, and begins those that may come next.
static void copies_before(Tape *tape, int e) {
  Backend *backend = tape->backend;
  for (int i = 0; i < tape->plan->offload_count; i++) {
    Offload *offload = &tape->plan->offloads[i];
    void *host = (char *)tape->host_block + offload->offset;
    if (e == offload->released + 1) backend->await_copy(offload->copy, backend);
    if (e == offload->fetched) offload->copy = backend->fetch(buffer_of(tape, offload->after), host, offload->bytes, backend);
    if (e == offload->needed) backend->await_copy(offload->copy, backend);
  }
}

static void copies_after(Tape *tape, int e) {
  Backend *backend = tape->backend;
  for (int i = 0; i < tape->plan->offload_count; i++) {
    Offload *offload = &tape->plan->offloads[i];
    void *host = (char *)tape->host_block + offload->offset;
    if (e == offload->produced) offload->copy = backend->offload(host, buffer_of(tape, offload->before), offload->bytes, backend);
  }
}

static void event_run(Tape *tape, int e) {
  TapePlan *plan = tape->plan;
  Event *event = &plan->events[e];
  if (tape->watcher) tape->watcher->enter(tape->watcher, event->node->segment, event->next_segment);
  if (event->has_copies) copies_before(tape, e);
  for (int i = 0; i < event->starts; i++) {
    int index = plan->order[event->start + i];
    *plan->lifetimes[index].pointer = buffer_of(tape, index);
  }
  for (int i = 0; i < NODE_OUTPUTS && event->phase == PHASE_RECOMPUTE; i++)
    if (event->node->outputs[i] && !(event->outputs >> i & 1)) event->node->outputs[i]->data = NULL;
  Node *node = event->node;
  node->is_again = event->phase == PHASE_RECOMPUTE;
  double start = tape->profile ? time_seconds() : 0;
  bool backward = event->phase == PHASE_BACKWARD;
  if (backward) node->op->backward(node, tape);
  else node->op->forward(node, tape);
  if (event->has_copies) copies_after(tape, e);
  double flop = node->op->flop ? node->op->flop(node, backward) : 0;
  tape->flop += flop;
  if (!tape->profile) return;
  (void)tape->backend->check(tape->backend);  // waits for the device's part; a failure stays for the step's end
  static const char *const directions[] = {"forward", "again", "backward"};
  profile_add(tape->profile, node->op->name, directions[event->phase], time_seconds() - start, flop, event_bytes(event));
}

void tape_forward(Tape *tape) {
  TapePlan *plan = tape->plan;
  for (int i = 0; i < tape->tensor_count; i++) {
    Tensor *tensor = tape->tensors[i];
    if (tensor->producer) continue;
    tensor->data = buffer_of(tape, tensor->forward_life);
    tape->backend->upload(tensor->data, tensor->host, tensor_bytes(tensor), tape->backend);
  }
  for (int e = 0; e < plan->forward_events; e++) event_run(tape, e);
}

void tape_backward(Tape *tape) {
  for (int e = tape->plan->forward_events; e < tape->plan->event_count; e++) event_run(tape, e);
}

void tape_copy(void *to, const Tape *tape, const Tensor *tensor) {
  const Kernels *kernels = tape->backend->kernels;
  void *from = buffer_of(tape, tensor->forward_life);
  int64_t rows = tensor->rows, columns = tensor->columns;
  if (tensor->type == FLOAT_32) kernels->copy(to, from, rows * columns, tape->backend);
  else
    kernels->copy_heads((Rows){to, columns, tensor->type}, columns, (Rows){from, columns, tensor->type}, columns, 1, columns, rows, false,
                        tape->backend);
}

void tape_read(void *host, const Tape *tape, const Tensor *tensor) {
  tape->backend->download(host, buffer_of(tape, tensor->forward_life), tensor_bytes(tensor), tape->backend);
}
