// Time left is the mean time of a step so far, times the steps that remain. The loss shown on the bar is a running
// mean, l <- 0.9 l + 0.1 loss; the lines of a log have each step's own.
#include "trainer/progress.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "core/log.h"

void train_progress_start(TrainProgress *progress, int64_t first_step, int64_t steps, int64_t logging_steps) {
  *progress = (TrainProgress){.first_step = first_step, .steps = steps, .logging_steps = logging_steps < 1 ? 1 : logging_steps};
  progress->started = time_seconds();
}

static const char *time_left(char text[32], const TrainProgress *progress, int64_t step) {
  int64_t done = step - progress->first_step;
  if (done <= 0) return "?";
  return format_duration(text, (time_seconds() - progress->started) / (double)done * (double)(progress->steps - step));
}

enum { FIGURES_TEXT = 256 };

// "  margin 0.12  accuracy 0.75": those that have a label.
static const char *figures_text(char text[FIGURES_TEXT], const Figures *figures) {
  size_t length = 0;
  text[0] = 0;
  for (int i = 0; i < figures->count && length < FIGURES_TEXT; i++) {
    const Figure *figure = &figures->items[i];
    if (figure->label) length += (size_t)snprintf(text + length, FIGURES_TEXT - length, "  %s %.3f", figure->label, figure->value);
  }
  return text;
}

void train_progress_step(TrainProgress *progress, const StepMetrics *metrics) {
  char left[32], memory[32], text[FIGURES_TEXT];
  const char *figures = figures_text(text, &metrics->figures);
  if (isfinite(metrics->loss)) {
    progress->loss = progress->has_loss ? 0.9 * progress->loss + 0.1 * metrics->loss : metrics->loss;
    progress->has_loss = true;
  }
  const char *remaining = time_left(left, progress, metrics->step), *bytes = format_bytes(memory, (double)metrics->peak_memory_bytes);
  if (isatty(STDERR_FILENO)) {
    progress_show(metrics->step, progress->steps, "loss %.4f%s  %.0f tok/s  %s  %s left", progress->loss, figures,
                  metrics->tokens_per_second, bytes, remaining);
    return;
  }
  bool edge = metrics->step == progress->first_step + 1 || metrics->step == progress->steps;
  if (!edge && metrics->step % progress->logging_steps != 0) return;
  log_info("step %lld/%lld  epoch %.2f  loss %.4f%s  grad_norm %.4g  lr %.3g  %.0f tok/s (%.0f%% of peak)  %s  %s left",
           (long long)metrics->step, (long long)progress->steps, metrics->epoch, metrics->loss, figures, metrics->grad_norm,
           metrics->learning_rate, metrics->tokens_per_second, 100 * metrics->peak_share, bytes, remaining);
}

void train_progress_evaluation(const TrainProgress *progress, int64_t step, const Evaluation *evaluation) {
  char text[FIGURES_TEXT], perplexity[48] = "";
  if (!isnan(evaluation->perplexity)) snprintf(perplexity, sizeof perplexity, "  eval_perplexity %.3f", evaluation->perplexity);
  log_info("step %lld/%lld  eval_loss %.4f%s%s", (long long)step, (long long)progress->steps, evaluation->loss, perplexity,
           figures_text(text, &evaluation->figures));
}

void train_progress_finish(TrainProgress *progress, int64_t step) {
  char duration[32];
  progress_clear();
  log_info("%lld steps in %s", (long long)(step - progress->first_step), format_duration(duration, time_seconds() - progress->started));
}
