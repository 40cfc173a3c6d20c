// The loss over the evaluation rows, in their order, with dropout off.
#include <math.h>

#include "core/log.h"
#include "trainer/run.h"

static Status likelihood_of(Evaluation *evaluation, Run *run, const BatchPlan *plan, Batch *batch) {
  double sum = 0;
  int64_t tokens = 0;
  for (int64_t i = 0; i < plan->batch_count; i++) {
    double nll = 0;
    batch_fill(batch, plan, i);
    TRY(step_run(&run->step, batch, TAPE_FORWARD, 0));
    TRY(step_loss(&nll, &run->step));
    sum += nll;
    tokens += batch->trained_tokens;
    progress_show(i + 1, plan->batch_count, "evaluation");
  }
  evaluation->loss = tokens ? sum / (double)tokens : NAN;
  evaluation->perplexity = exp(evaluation->loss);
  return STATUS_OK;
}

static Status preference_of(Evaluation *evaluation, Run *run, const BatchPlan *plan, Batch *batch) {
  PreferenceSums sums = {0};
  PreferenceShare share = {0};
  for (int64_t i = 0; i < plan->batch_count; i++) {
    batch_fill(batch, plan, i);
    preference_count(&share, run->preference, batch);
    TRY(preference_run(&sums, run->preference, plan, i, batch, TAPE_FORWARD, &share, 0, run->eval_reference));
    progress_show(i + 1, plan->batch_count, "evaluation");
  }
  evaluation->loss = preference_mean_loss(&sums, &share, run->preference);
  evaluation->perplexity = NAN;
  preference_figures(&evaluation->figures, &sums, &share, run->preference);
  return STATUS_OK;
}

Status run_evaluate(Evaluation *evaluation, Run *run) {
  BatchPlan plan;
  *evaluation = (Evaluation){.loss = NAN, .perplexity = NAN};
  TRY(batch_plan_create(&plan, &run->eval_rows, &run->eval_options, 0));
  Batch batch = {0};
  batch_reserve(&batch, &plan);
  adapter_set_dropout(run->adapter, 0);
  Status status = (run->preference ? preference_of : likelihood_of)(evaluation, run, &plan, &batch);
  progress_clear();
  adapter_set_dropout(run->adapter, run_dropout(run));
  batch_release(&batch);
  batch_plan_release(&plan);
  return status;
}
