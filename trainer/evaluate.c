#include "trainer/evaluate.h"

#include <math.h>

#include "core/log.h"
#include "trainer/run.h"

// The ranks take micro-batches in turn.
static Status likelihood_of(Evaluation *evaluation, Run *run, const BatchPlan *plan, Batch *batch) {
  double sums[2] = {0};  // of losses, and their tokens
  for (int64_t i = run->group->rank; i < plan->batch_count + run->group->rank; i += run->group->size) {
    double nll = 0;
    if (i >= plan->batch_count) {
      step_idle(&run->step, TAPE_FORWARD);
      continue;
    }
    batch_fill(batch, plan, i);
    TRY(step_run(&run->step, batch, TAPE_FORWARD, 0));
    TRY(step_loss(&nll, &run->step));
    sums[0] += nll;
    sums[1] += (double)batch->trained_tokens;
    progress_show(i + 1, plan->batch_count, "evaluation");
  }
  TRY(group_sum(sums, 2, "an evaluation", run->group));
  evaluation->loss = sums[1] > 0 ? sums[0] / sums[1] : NAN;
  evaluation->perplexity = exp(evaluation->loss);
  return STATUS_OK;
}

static Status preference_of(Evaluation *evaluation, Run *run, const BatchPlan *plan, Batch *batch) {
  PreferenceSums sums = {0};
  PreferenceShare share = {0};
  for (int64_t i = run->group->rank; i < plan->batch_count + run->group->rank; i += run->group->size) {
    if (i >= plan->batch_count) {
      preference_idle(run->preference, TAPE_FORWARD, run->eval_reference);
      continue;
    }
    batch_fill(batch, plan, i);
    preference_count(&share, run->preference, batch);
    TRY(preference_run(&sums, run->preference, plan, i, batch, TAPE_FORWARD, &share, 0, run->eval_reference));
    progress_show(i + 1, plan->batch_count, "evaluation");
  }
  TRY(preference_share_sum(&share, run->group));
  TRY(preference_sums_sum(&sums, run->group));
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
  if (run->adapter) adapter_set_dropout(run->adapter, 0);
  Status status = (run->preference ? preference_of : likelihood_of)(evaluation, run, &plan, &batch);
  progress_clear();
  if (run->adapter) adapter_set_dropout(run->adapter, run_dropout(run));
  batch_release(&batch);
  batch_plan_release(&plan);
  return status;
}

// Those of evaluation, or the training rows where these are asked for or there are no others.
static Status take_rows(Run *run, bool wants_training_rows) {
  if (!wants_training_rows && run->eval_rows.count > 0) return STATUS_OK;
  if (run->stream) return status_fail(STATUS_USAGE, "rows that are streamed have no end to be measured to; set test_datasets");
  row_set_release(&run->eval_rows);
  run->eval_rows = run->train_rows;
  run->train_rows = (RowSet){0};
  return STATUS_OK;
}

static Status measure(Evaluation *evaluation, Run *run, bool wants_training_rows) {
  FloatType activations;
  TRY(run_open_rows(run));
  TRY(take_rows(run, wants_training_rows));
  TRY(run_choose_activations(&activations, run));
  step_new(&run->step, run->model, activations, CHECKPOINT_NONE, run_free_bytes(run));
  if (run->recipe->rl) TRY(preference_open(&run->preference, run->recipe, run->adapter, &run->step, true));
  return run_evaluate(evaluation, run);
}

Status evaluate_rows(Evaluation *evaluation, RowStatistics *rows, const Recipe *recipe, Model *model, Adapter *adapter,
                     bool wants_training_rows) {
  Group alone = group_alone();
  Run run = {.recipe = recipe, .group = &alone, .backend = model->backend, .model = model, .adapter = adapter, .chunk = -1};
  Status status = STATUS_OK;
  if (recipe->rl && !adapter)
    status = status_fail(STATUS_USAGE, "rl: %s measures an adapter beside its base; name one by --adapter", recipe->rl);
  if (status == STATUS_OK) status = measure(evaluation, &run, wants_training_rows);
  *rows = row_set_statistics(&run.eval_rows);
  run.model = NULL, run.adapter = NULL;  // the caller's
  run_close(&run);
  return status;
}
