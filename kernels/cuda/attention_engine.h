// Attention of training by another engine than our own kernels: cuDNN's, where the device has it (cudnn.cu). Nothing is taken on trust. The
// first time that a class of shapes is met (type, heads, sizes, how long documents are, and whether all are as long), both engines are given
// the same random documents on this very device, and the other is taken, for the forward or the backward pass or both, only if
//   its results are ours, largest difference to largest value, within ATTENTION_TOLERANCE, and none is NaN,
//   it writes no row that belongs to no document,
//   the same call again gives the same bits,
//   and it is faster by more than a twentieth in a larger case, timed by events.
// Training tries the class of its largest micro-batch before it plans its memory, which the other's workspace is then part of.
// Environment: LORA_CUDA_ATTENTION=auto (as above; as it is without the variable), cudnn (need not be faster), own (never asks).
// Which engine is faster may differ from run to run where they are close: runs that must give the same bits as each other name `own`.
#ifndef KERNELS_CUDA_ATTENTION_ENGINE_H
#define KERNELS_CUDA_ATTENTION_ENGINE_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/status.h"
#include "kernels/attention.h"

typedef struct Device Device;

// Plain causal attention, each span a document without earlier keys. Contracts: kernels/backend.h.
typedef struct AttentionCall {
  FloatType type;
  const AttentionSpan *spans;
  int64_t span_count;
  AttentionShape shape;
  const void *q, *k, *v;
  void *o;  // read by the backward pass, as lse is
  float *lse;
  const void *go;  // of the backward pass, as what follows
  void *dq, *dk, *dv;
  float *scratch;
} AttentionCall;

typedef struct AttentionEngine {
  const char *name;
  bool (*fits)(const AttentionCall *call, bool is_backward, Device *device);  // whether it has a way for these shapes, here and now
  // False: nothing was written, and nothing will be. Only ever called where `fits`.
  bool (*forward)(const AttentionCall *call, Device *device);
  bool (*backward)(const AttentionCall *call, Device *device);
  int64_t (*workspace_bytes)(const AttentionCall *call, bool is_backward, Device *device);  // that such a call takes; its rows may be NULL
  void (*close)(Device *device);
} AttentionEngine;

// What a trial of one pass found.
typedef struct AttentionTrial {
  bool is_run;  // else the engine refused, or there was no memory to try
  bool keeps_others, repeats;  // rows of no document, and bits
  double difference;  // of the largest value; NaN where there is one
  double own_ms, other_ms;
} AttentionTrial;

static const double ATTENTION_TOLERANCE = 2e-2;
enum { ATTENTION_LEAST_ROWS = 512 };  // shorter calls are ours without a question
enum { ATTENTION_EVEN = 128 };

// Whether the documents are of one length, a multiple of ATTENTION_EVEN, and follow one another from row 0 on, in q as in k: without offsets
// an engine may have other ways. A class of its own.
bool attention_is_even(const AttentionCall *call);

bool attention_judge(const AttentionTrial *trial, bool must_be_faster, const char **why);

// Reads the environment; STATUS_USAGE where it says something else. The other engine is sought when it is first wanted.
Status attention_open(Device *device);
void attention_close(Device *device);
// For a run of so many calls, whose largest is this one (its rows are NULL), where `room` bytes are free: tries the engines, and returns what
// workspace the other may then take; 0 where it is not taken, or where it needs more than an eighth of the room, which activations have more use
// for. A run that is over before the other's seconds of preparation are won back is left to our own.
int64_t attention_reserve(const AttentionCall *call, int64_t calls, int64_t room, Device *device);
// The largest workspace that the other engine may take: what was reserved, or, where nothing was planned, half of what is free.
int64_t attention_room(Device *device);

// stats[documents, heads, length] to the rows [.., heads] that documents have, document d being rows begins[d] .. begins[d] + lengths[d] - 1,
// and back, zeros where a document is shorter. All addresses are the device's.
void attention_rows_of_stats(float *rows, const float *stats, const int32_t *begins, const int32_t *lengths, int64_t documents,
                             int64_t length, int64_t heads, Device *device);
void attention_stats_of_rows(float *stats, const float *rows, const int32_t *begins, const int32_t *lengths, int64_t documents,
                             int64_t length, int64_t heads, Device *device);

// cuDNN, or NULL where it is not; under the simulator what a test put in its place.
const AttentionEngine *attention_other_engine(Device *device);
// For tests on the simulated device: what stands for the other engine from the next device on. Returns our own.
const AttentionEngine *attention_stand_in(const AttentionEngine *engine);

#ifdef __cplusplus
}
#endif

#endif
