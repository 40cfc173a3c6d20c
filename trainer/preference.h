// Preference training: micro-batches of pairs of replies (of KTO: of single ones) by the losses of preference_loss.h.
// The reference is the policy as it started: the base with the adapter off for a fresh adapter; a frozen copy of its values where it was read
// from a file or changes the base (lora_model_dir; rl_reference: base takes the base then, too). No second copy of the weights is held. Its
// log-probabilities are computed beside each micro-batch, or once before the first step (precompute_ref_log_probs). Dropout is off.
#ifndef TRAINER_PREFERENCE_H
#define TRAINER_PREFERENCE_H

#include "adapters/adapter.h"
#include "data/batch.h"
#include "parallel/group.h"
#include "trainer/metrics.h"
#include "trainer/preference_loss.h"
#include "trainer/step.h"

typedef struct Preference {
  PreferenceSettings settings;
  Adapter *adapter;
  Step *step;
  float *start;  // [adapter->size] on the device: the adapter as it started; NULL: the reference is the base
  // private
  ReplyScore *replies, *mismatched;  // [capacity] of a micro-batch
  int64_t capacity;
  Batch rotated;  // KTO: each prompt with its neighbour's reply
} Preference;

// The reference's log-probabilities of all replies of a set of rows, computed once: [2 rows]; NULL: beside each micro-batch.
typedef double *ReferenceScores;

// What a loss's means divide by, of a whole optimiser step or evaluation.
typedef struct PreferenceShare {
  int64_t rows;  // pairs, or rows of KTO
  int64_t nll_tokens;  // of better replies, and of their prompts where the method counts them
} PreferenceShare;

// Sums over micro-batches.
typedef struct PreferenceSums {
  double loss, nll;
  struct {
    double reward, policy;  // policy: log-probabilities of replies; of a method without a reference, means over their tokens
    int64_t count;
  } better, worse;  // of KTO: desirable and undesirable rows
  int64_t right;  // pairs whose better reply has the larger reward
  double kl;
  int64_t micro_batches;
} PreferenceSums;

// Starts with the adapter as it is now. is_base: the reference is the base whatever the adapter holds.
Status preference_open(Preference **out, const Recipe *recipe, Adapter *adapter, Step *step, bool is_base);
void preference_close(Preference *preference);

void preference_count(PreferenceShare *share, const Preference *preference, const Batch *batch);  // adds a micro-batch

// Micro-batch `index` of a plan, which `batch` holds: adds to *sums and, in TAPE_TRAIN mode, loss_scale times the gradient of the loss over
// the share to the adapter's. Waits for the device.
Status preference_run(PreferenceSums *sums, Preference *preference, const BatchPlan *plan, int64_t index, const Batch *batch, TapeMode mode,
                      const PreferenceShare *share, double loss_scale, ReferenceScores reference);

// In place of a preference_run where this rank has no micro-batch left (step_idle).
void preference_idle(Preference *preference, TapeMode mode, ReferenceScores reference);

// Fills scores for every row of a plan, which the ranks share, with a progress bar.
Status preference_precompute(ReferenceScores *scores, Preference *preference, const BatchPlan *plan, Group *group);

// Those of all ranks together.
Status preference_share_sum(PreferenceShare *share, Group *group);
Status preference_sums_sum(PreferenceSums *sums, Group *group);

double preference_mean_loss(const PreferenceSums *sums, const PreferenceShare *share, const Preference *preference);
// rewards/chosen, rewards/rejected, rewards/accuracies, rewards/margins, logps/chosen, logps/rejected, and kl or nll_loss, as TRL names them.
void preference_figures(Figures *figures, const PreferenceSums *sums, const PreferenceShare *share, const Preference *preference);

#endif
