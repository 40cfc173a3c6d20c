// What a training run tells its user as it goes: loss, tokens a second, memory and time left. On a terminal a bar, redrawn at
// each step; elsewhere a line every logging_steps, at the first step and at the last. Nothing when the log is quiet.
#ifndef TRAINER_PROGRESS_H
#define TRAINER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "trainer/metrics.h"

typedef struct TrainProgress {
  int64_t first_step, steps;  // steps done before this process began, and all steps of the run
  int64_t logging_steps;  // <= 1: every step
  double started;  // time_seconds()
  double loss;  // a running mean over about the last ten steps
  bool has_loss;
} TrainProgress;

void train_progress_start(TrainProgress *progress, int64_t first_step, int64_t steps, int64_t logging_steps);
void train_progress_step(TrainProgress *progress, const StepMetrics *metrics);
void train_progress_evaluation(const TrainProgress *progress, int64_t step, const Evaluation *evaluation);
// Removes the bar and says how long the run took.
void train_progress_finish(TrainProgress *progress, int64_t step);

#endif
