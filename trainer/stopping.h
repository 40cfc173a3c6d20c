// What ends a run before its last step, and which of its evaluations was the best.
//   loss watchdog     the loss stays above loss_watchdog_threshold for loss_watchdog_patience steps in a row: training has gone astray
//   early stopping    metric_for_best_model was no better than before in early_stopping_patience evaluations in a row
// A metric is a figure of evaluations by the name that it has in metrics.jsonl, with or without "eval_"; eval_loss unless the recipe says
// otherwise. More of it is better unless its name ends in "loss" or "perplexity", or greater_is_better says so (transformers' rule).
#ifndef TRAINER_STOPPING_H
#define TRAINER_STOPPING_H

#include "recipes/recipe.h"
#include "trainer/checkpoint.h"
#include "trainer/metrics.h"

// Before the first step, of any evaluation's figures: STATUS_USAGE, at the key's place, when there is none of metric_for_best_model's name.
Status stopping_check(const Recipe *recipe, const Evaluation *evaluation);

// After each step: STATUS_GUARD when the watchdog bites.
Status stopping_step(TrainerState *state, const Recipe *recipe, double loss);

typedef struct Verdict {
  bool is_best;  // of all evaluations so far
  bool stops;  // early stopping
} Verdict;

// After each evaluation.
Status stopping_evaluation(Verdict *verdict, TrainerState *state, const Recipe *recipe, const Evaluation *evaluation);

bool stopping_is_by_loss(const Recipe *recipe);  // whether `best` means the lowest eval_loss

#endif
