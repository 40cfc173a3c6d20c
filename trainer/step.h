// One micro-batch through the model: the graph is built, its memory planned within the budget, and it runs. With kl_weight the base, which
// is the model with its adapter off, goes before: of its pass only what its output layer reads is kept, the hidden states of labelled
// tokens, and the logits of both meet in the loss, some rows at a time (autograd/op_head_loss.c).
#ifndef TRAINER_STEP_H
#define TRAINER_STEP_H

#include "adapters/adapter.h"
#include "data/batch.h"

typedef enum Checkpointing {
  CHECKPOINT_AUTO,  // as few segments as the budget needs
  CHECKPOINT_ALL,  // every layer
  CHECKPOINT_OFFLOAD,  // every layer, and what is kept of them lies in the host's memory meanwhile
  CHECKPOINT_NONE,  // none; what does not fit is refused
} Checkpointing;

// A number for each labelled token of the micro-batches that have run, which are summed up together.
typedef struct TokenValues {
  float *device;
  float *host;  // [capacity], where they are read to
  int64_t count, capacity;
} TokenValues;

typedef struct Step {
  Model *model;
  Tape tape;
  Checkpointing checkpointing;
  int64_t budget_bytes;  // for the activations and gradients of a micro-batch
  int recomputed_layers;  // of the last micro-batch
  bool is_likelihood;  // training is by step_likelihood
  float noise;  // NEFTune's alpha
  // Of KL(p || q), p being the policy's distribution at a trained token and q the base's, in TAPE_TRAIN mode of step_run; 0: none. With it
  // the adapter is set, too.
  float kl_weight;
  Adapter *adapter;
  double kl;  // the sum of KL(p || q) over the tokens that step_loss has last summed up
  // private: the micro-batch in the form that the graph reads
  AttentionSpan *spans;
  int64_t span_count;
  int32_t *key_rows;  // [key_count] where documents fork; else key_count is 0
  int64_t key_count;
  int32_t *rows, *targets;  // the labelled positions
  float *slopes;  // [labelled] for the backward pass of step_likelihood
  int64_t labelled;  // of the micro-batch that is at hand there
  int64_t token_capacity, span_capacity, key_capacity;
  TokenValues losses, divergences;  // -log p, and KL(p || q)
  Teacher teacher;  // the base of the present micro-batch
  void *base_hidden;  // the device's: its hidden states
  int64_t base_bytes;
} Step;

void step_new(Step *step, Model *model, FloatType activations, Checkpointing checkpointing, int64_t budget_bytes);
void step_free(Step *step);

// Takes from the budget what kernels will want for themselves in a run of so many micro-batches, of which this is the largest.
void step_leave_workspace(Step *step, const Batch *largest, int64_t micro_batches);

// Plans the run's largest micro-batch of a mode and takes the memory for it, so that what does not fit is told before the first
// step: STATUS_NO_SPACE with the remedy.
Status step_reserve(Step *step, const Batch *batch, TapeMode mode);

// The random numbers of the next micro-batch that trains: a seed, and its number in the run.
void step_seed(Step *step, uint64_t seed, uint64_t number);

// In TAPE_TRAIN mode the gradient of gradient_scale * (nll + kl_weight * kl), the sums of -log p and of KL(p || q) over the batch's trained
// tokens, is added to the adapter's.
// STATUS_NO_SPACE when it cannot fit. A device is not waited for: while it is at this
// micro-batch, the next is planned and queued.
Status step_run(Step *step, const Batch *batch, TapeMode mode, float gradient_scale);

// In place of a step_run, step_likelihood or step_likelihood_backward where this rank has no micro-batch left and others have: what they gather
// of the base's layers is gathered by all (models/shards.h). Nothing is done where layers are whole.
void step_idle(Step *step, TapeMode mode);

// *nll: the sum over the micro-batches that ran since it was last asked for; step->kl likewise. Waits for them; STATUS_FAILED when the
// device has failed.
Status step_loss(double *nll, Step *step);

// What a preference loss is built on: -log p of each labelled token, of a micro-batch that is at hand.
typedef struct Likelihood {
  const int32_t *rows;  // [count] which tokens of the micro-batch are labelled, ascending
  const float *nll;  // [count] of their targets
  float *slopes;  // [count] of TAPE_TRAIN: the caller's, the loss's derivatives by nll
  int64_t count;
} Likelihood;

// The forward pass of a micro-batch, which is waited for. What *likelihood points to lasts until the next call. step_loss knows nothing of it.
Status step_likelihood(Likelihood *likelihood, Step *step, const Batch *batch, TapeMode mode);
// In TAPE_TRAIN mode, after the slopes have been written, of however many: adds the gradient of sum slopes[i] nll[i] to the adapter's.
void step_likelihood_backward(Step *step);

#endif
