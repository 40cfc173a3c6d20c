#include "trainer/stopping.h"

#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "core/text.h"

Status stopping_step(TrainerState *state, const Recipe *recipe, double loss) {
  double threshold = recipe->loss_watchdog_threshold;
  if (threshold <= 0) return STATUS_OK;
  state->high_losses = loss > threshold ? state->high_losses + 1 : 0;
  if (state->high_losses < recipe->loss_watchdog_patience) return STATUS_OK;
  return status_fail(STATUS_GUARD,
                     "step %lld: the loss was above loss_watchdog_threshold (%g) for %lld steps in a row, and is %g now: training has gone "
                     "astray; lower learning_rate, or look at the data, and go on from a checkpoint before that",
                     (long long)state->step, threshold, (long long)state->high_losses, loss);
}

static const char *metric_name(const Recipe *recipe) {
  const char *name = recipe->metric_for_best_model ? recipe->metric_for_best_model : "loss";
  return text_starts_with(name, "eval_") ? name + strlen("eval_") : name;
}

bool stopping_is_by_loss(const Recipe *recipe) { return strcmp(metric_name(recipe), "loss") == 0; }

static Status find_metric(double *value, const Recipe *recipe, const Evaluation *evaluation) {
  const char *name = metric_name(recipe);
  Buffer known = {0};
  *value = evaluation->loss;
  if (strcmp(name, "loss") == 0) return STATUS_OK;
  *value = evaluation->perplexity;
  if (strcmp(name, "perplexity") == 0 && !isnan(evaluation->perplexity)) return STATUS_OK;
  for (int i = 0; i < evaluation->figures.count; i++) {
    const Figure *figure = &evaluation->figures.items[i];
    *value = figure->value;
    if (strcmp(name, figure->name) == 0) {
      buffer_release(&known);
      return STATUS_OK;
    }
    buffer_format(&known, ", eval_%s", figure->name);
  }
  Status status =
      recipe_fail(recipe, STATUS_USAGE, "metric_for_best_model", "evaluations have no '%s'; use eval_loss%s%s",
                  recipe->metric_for_best_model, isnan(evaluation->perplexity) ? "" : ", eval_perplexity", known.length ? known.data : "");
  buffer_release(&known);
  return status;
}

Status stopping_check(const Recipe *recipe, const Evaluation *evaluation) {
  double value;
  return find_metric(&value, recipe, evaluation);
}

static bool is_better(double value, double best, const Recipe *recipe) {
  bool is_greater = !text_ends_with(metric_name(recipe), "loss") && !text_ends_with(metric_name(recipe), "perplexity");
  if (recipe->greater_is_better == CHOICE_TRUE || recipe->greater_is_better == CHOICE_FALSE)
    is_greater = recipe->greater_is_better == CHOICE_TRUE;
  return is_greater ? value > best : value < best;
}

Status stopping_evaluation(Verdict *verdict, TrainerState *state, const Recipe *recipe, const Evaluation *evaluation) {
  double value;
  TRY(find_metric(&value, recipe, evaluation));
  verdict->is_best = isfinite(value) && (state->best_step < 0 || is_better(value, state->best_metric, recipe));
  state->stale_evaluations = verdict->is_best ? 0 : state->stale_evaluations + 1;
  if (verdict->is_best) {
    state->best_metric = value;
    state->best_step = state->step;
  }
  verdict->stops = recipe->early_stopping_patience > 0 && state->stale_evaluations >= recipe->early_stopping_patience;
  return STATUS_OK;
}
