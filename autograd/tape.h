// A tape of coarse operations. A graph is built for one micro-batch: each op_* call adds a thin node and gives the
// tensor that it will compute. Then the whole step's memory is planned (forward, recomputation, backward), so that
// its size is known before anything runs; then the step runs inside that one block.
//
//   tape_begin(&tape, backend);
//   Tensor *x = op_embedding(&tape, ...); ... op_cross_entropy(...);
//   tape_plan(&tape, TAPE_TRAIN, checkpointed_segments);
//   tape_forward(&tape); tape_backward(&tape);
//
// Gradient checkpointing (Chen et al. 2016): the graph is cut into segments (one a layer). Of a checkpointed segment
// only what other segments read is kept; its inner tensors are computed once more just before its backward pass,
// and only those nodes run again whose results that pass reads. Cheap ops (norms, activations) are treated so in
// every segment, unless keeps_cheap is set: their outputs cost more memory than time.
// Offloading: what is kept of checkpointed segments lies in the host's memory meanwhile. Each such tensor is copied out while the segment
// that reads it first computes, and copied back, one segment ahead of its use, by the backward pass: so the device holds two of them, however
// many layers there are.
// A tensor's gradient is set by the first op in backward order that contributes to it and added to by the others;
// the plan tells each op which it is. Nothing below the first trainable parameter has a gradient at all.
#ifndef AUTOGRAD_TAPE_H
#define AUTOGRAD_TAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/profile.h"
#include "core/memory.h"
#include "core/status.h"
#include "kernels/backend.h"

typedef struct Tensor {
  int64_t rows, columns;  // row-major
  FloatType type;  // of data and gradient (inputs: float32, or int32 for token ids, positions and row numbers)
  bool needs_gradient;
  void *data, *gradient;  // valid while an op that uses them runs; gradient is NULL when none is wanted
  // private to the plan
  struct Node *producer;  // NULL for an input
  const void *host;  // an input's values
  int keep;  // an output of the tape: its data stays until the end
  int forward_life, recomputed_life, gradient_life;  // indices of lifetimes, -1: none
} Tensor;

enum { NODE_INPUTS = 5, NODE_OUTPUTS = 4 };

typedef struct Node Node;
typedef struct Tape Tape;

typedef struct Op {
  const char *name;
  void (*forward)(Node *node, Tape *tape);
  void (*backward)(Node *node, Tape *tape);  // NULL: no gradient goes through
  int64_t (*scratch)(const Node *node, bool backward);  // floats while it runs; NULL: none
  double (*flop)(const Node *node, bool backward);  // of the products that its last call computed; NULL: none to speak of
  unsigned saved_inputs, saved_outputs;  // bit i: backward reads the data of input / output i
  int aliased_input;  // 1 + the input whose gradient is output 0's own; 0: none
  bool is_in_place;  // output 0 takes the place of input 0, which no other op reads
  bool is_cheap;  // recomputed for the backward pass rather than kept, in every segment (but see keeps_cheap)
  bool is_selective;  // computes only the outputs that have data: a recomputation may want some of them
  bool is_loss;  // begins the backward pass: output 1, where there is one, is the gradient of input 0, which no other op reads
} Op;

struct Node {
  const Op *op;
  Tensor *inputs[NODE_INPUTS], *outputs[NODE_OUTPUTS];  // an absent input is NULL
  int segment;
  void *attributes;  // the op's own, in the tape's arena
  bool needs_backward;  // some input or parameter wants a gradient
  // Set by the plan:
  bool accumulate[NODE_INPUTS];  // the gradient of input i is added to
  bool shares_gradient;  // the aliased input's gradient is output 0's: nothing to do
  void *scratch;  // valid while the node runs
  bool is_again;  // while it runs forward: for the backward pass, not for the first time
};

enum { LOSS_ROWS = 512 };

typedef enum TapeMode { TAPE_FORWARD, TAPE_TRAIN } TapeMode;

// For statistics of activations: sees x [rows, columns] of each linear operation before it is multiplied with the weights, and of each layer
// of routed experts with the experts that its rows have chosen [rows, used], on the device.
typedef struct TapeObserver {
  void (*linear)(struct TapeObserver *observer, const Matrix *const *weights, int count, const Tensor *x);
  void (*experts)(struct TapeObserver *observer, const ExpertMatrices *experts, const int32_t *chosen, const Tensor *x);  // or NULL
} TapeObserver;

// For weights that are not always there: is told before each node runs of which segment it is, and which other one comes next in the
// plan (-1: none).
typedef struct TapeWatcher {
  void (*enter)(struct TapeWatcher *watcher, int segment, int next);
} TapeWatcher;

// Rows of a graph of generation that go by an adapter of a bank, besides those in the model's slots.
typedef struct RowGroup {
  int64_t begin, end;
  int adapter;
} RowGroup;

// What the rows of a graph of generation are; read when it runs.
typedef struct RowKinds {
  int64_t alone;  // the first rows are computed each by itself (texts that are being written), the others together (prompts)
  bool in_int8;  // those alone see activations in 8 bits (Kernels.linear_forward_int8)
  const RowGroup *groups;  // [group_count], ascending; rows of none go by no adapter of the bank
  int group_count;
} RowKinds;

// Of n rows, those alone; none outside generation (kinds NULL).
static inline int64_t rows_alone(const RowKinds *kinds, int64_t n) { return !kinds ? 0 : kinds->alone < n ? kinds->alone : n; }

struct Tape {
  Backend *backend;
  TapeMode mode;
  FloatType activations;  // the type of activations between linear layers; the residual stream is float32
  bool keeps_cheap;  // the results of cheap ops are kept for the backward pass, which saves a little time
  bool offloads;  // what checkpointed segments keep for the backward pass is moved to the host's memory meanwhile
  int64_t loss_rows;  // whose logits are computed at once: LOSS_ROWS, or fewer to save memory, or more to save time
  const RowKinds *row_kinds;  // of what is added to the graph from here on; NULL outside generation
  double flop;  // of products, by all passes so far
  TapeObserver *observer;  // NULL: none
  TapeWatcher *watcher;  // NULL: none
  Profile *profile;  // where times are added up; NULL: nowhere
  uint64_t dropout_seed, dropout_stream;  // dropout masks are a function of these and the adapter's number
  // private
  Arena arena;
  Node **nodes;
  int node_count, node_capacity;
  Tensor **tensors;
  int tensor_count, tensor_capacity;
  int segment_count;
  struct TapePlan *plan;
  void *block;  // the step's memory, kept from one graph to the next
  int64_t block_bytes;
  void *host_block;  // of offloaded tensors
  int64_t host_block_bytes;
};

void tape_new(Tape *tape, Backend *backend);
void tape_free(Tape *tape);
void tape_begin(Tape *tape, TapeMode mode);  // forgets the present graph; keeps its memory for the next one

Tensor *tape_input(Tape *tape, const void *host, int64_t rows,
                   int64_t columns);  // 4-byte values, uploaded at each forward pass; `host` must stay
Tensor *tape_tensor(Tape *tape, int64_t rows, int64_t columns, FloatType type);  // for ops: a new output
Node *tape_node(Tape *tape, const Op *op, void *attributes);  // for ops: appended to the present segment
void node_finish(Node *node, bool has_parameters);  // after inputs and outputs are set: decides who needs gradients
void tape_segment(Tape *tape);  // what follows belongs to a new segment
void tape_keep(Tensor *tensor);  // its data can be had by tape_read and tape_copy after the pass

// Plans memory; the first `checkpointed` segments are recomputed (all when it is larger than their number; the last
// segment, which holds the loss, never is: it would be run twice at once).
void tape_plan(Tape *tape, int checkpointed);
int64_t tape_plan_bytes(const Tape *tape);  // what the present plan needs of the device's memory
int64_t tape_host_bytes(const Tape *tape);  // and of the host's, for what it offloads
int tape_segments(const Tape *tape);
Status tape_reserve(Tape *tape);  // makes the blocks large enough; STATUS_NO_SPACE names the need
void tape_forward(Tape *tape);  // needs tape_reserve
void tape_backward(Tape *tape);  // after tape_forward, in TAPE_TRAIN mode
// A kept tensor's data: to the host, which waits for it, or to another place in the device's memory.
void tape_read(void *host, const Tape *tape, const Tensor *tensor);
void tape_copy(void *to, const Tape *tape, const Tensor *tensor);

#endif
