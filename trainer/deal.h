// Which micro-batches of an optimiser step this rank takes. All ranks see the same plan, so each finds all shares by itself, and every
// micro-batch keeps its number, by which its dropout is drawn: a step is the same whoever computes which part.
#ifndef TRAINER_DEAL_H
#define TRAINER_DEAL_H

#include "data/batch.h"
#include "parallel/group.h"

typedef struct Deal {
  int64_t *own;  // [own_count] this rank's, ascending, counted from the step's first
  int64_t own_count;
  int64_t rounds;  // the most of any rank
  int64_t most;  // that any rank gets of a full step
  // private
  struct DealItem *items;  // [step_batches]
  struct DealHand *hands;  // [ranks]
  int ranks, rank;
} Deal;

void deal_open(Deal *deal, int64_t step_batches, const Group *group);
void deal_close(Deal *deal);
// Micro-batches first .. first + count - 1 of a plan: the longest first, each to the rank that has the fewest tokens and not yet `most`.
void deal_micro_batches(Deal *deal, const BatchPlan *plan, int64_t first, int64_t count);

#endif
