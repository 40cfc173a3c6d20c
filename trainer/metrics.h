// metrics.jsonl in output_dir: one JSON object a line, in the file as soon as it is written.
//   a step:        {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "trained_tokens",
//                   "tokens_per_second", "peak_share", "peak_memory_bytes"}, and behind "loss" what the method or the model adds: its
//                   "load_balancing_loss" where it has routed experts, "kl_to_base" of kl_weight, "gathered_bytes" of shard_base, "rewards/chosen" and the like (trainer/preference.h)
// peak_share: the step's flop a second by what peak_flops measured at the start, which a loop of nothing but multiply-adds reaches.
//   an evaluation: {"step", "eval_loss", "eval_perplexity"}, and what the method adds under the same names with "eval_" before them
// A number that is NaN or infinite (a skipped step) is null. Others are the shortest text that reads back as the same bits.
#ifndef TRAINER_METRICS_H
#define TRAINER_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

enum { METRICS_FIGURES = 16 };

// What a method or a model adds to a line.
typedef struct Figure {
  const char *name;  // in metrics.jsonl
  const char *label;  // before the value in the log; NULL: it is not there
  double value;
} Figure;

typedef struct Figures {
  Figure items[METRICS_FIGURES];
  int count;
} Figures;

static inline void figures_add(Figures *figures, const char *name, const char *label, double value) {
  figures->items[figures->count++] = (Figure){name, label, value};
}

// Mean loss over the evaluation rows. No perplexity (NaN) where the loss is no likelihood's.
typedef struct Evaluation {
  double loss, perplexity;
  Figures figures;
} Evaluation;

typedef struct StepMetrics {
  int64_t step;  // 1 for the first
  double epoch;
  double loss;  // over the labelled tokens of the whole step; of a preference method over its pairs or rows
  Figures figures;
  double grad_norm;  // before clipping
  double learning_rate;
  int64_t tokens, trained_tokens;  // of this step
  double tokens_per_second;
  double peak_share;
  int64_t peak_memory_bytes;
} StepMetrics;

typedef struct MetricsWriter {
  int descriptor;  // -1: closed
  char *path;
  int64_t length;  // of the whole lines in the file
} MetricsWriter;

// Keeps the lines of steps up to `last_step` and continues after them: a resumed run passes its checkpoint's step (whose
// evaluation therefore has to be written before the checkpoint), a new one -1, which empties the file. Lines that are no
// JSON, such as one that a crash left half-written, are dropped. What was there stays as it was if this fails.
Status metrics_open(MetricsWriter *writer, const char *output_dir, int64_t last_step);
// STATUS_NO_SPACE on a full disk; the file then ends with the last whole line.
Status metrics_write_step(MetricsWriter *writer, const StepMetrics *metrics);
Status metrics_write_evaluation(MetricsWriter *writer, int64_t step, const Evaluation *evaluation);
void metrics_close(MetricsWriter *writer);

#endif
