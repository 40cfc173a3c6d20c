// The training loop, in the order in which a row meets it: micro-batches of an epoch, the model's forward and backward
// pass, one optimiser step over their common token count, the log, evaluation, checkpoints; at the end the export.
#include "trainer/train.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "models/balance.h"
#include "trainer/best.h"
#include "trainer/metrics.h"
#include "trainer/memory_use.h"
#include "trainer/progress.h"
#include "trainer/run.h"
#include "trainer/stopping.h"

typedef struct Loop {
  Run *run;
  TrainerState state;
  MetricsWriter metrics;
  TrainProgress progress;
  BatchPlan plan;  // of the present epoch
  Batch *batches;  // [gradient_accumulation_steps]
  double loss;
  Evaluation evaluation;  // the last one
  Verdict verdict;  // on it
  Best best;
  double step_seconds;  // of all steps
} Loop;

// The micro-batches of one optimiser step: as many as are left of the epoch, at most the recipe's accumulation.
static int64_t fill_batches(Loop *loop, int64_t *trained, int64_t *tokens) {
  int64_t count = loop->plan.batch_count - loop->state.micro_batch;
  if (count > loop->run->recipe->gradient_accumulation_steps) count = loop->run->recipe->gradient_accumulation_steps;
  *trained = *tokens = 0;
  for (int64_t i = 0; i < count; i++) {
    batch_fill(&loop->batches[i], &loop->plan, loop->state.micro_batch + i);
    *trained += loop->batches[i].trained_tokens;
    *tokens += loop->batches[i].tokens;
  }
  return count;
}

// While streaming, an epoch is a chunk; one that has no row left after the filters is passed over.
static Status open_epoch(Loop *loop) {
  batch_plan_release(&loop->plan);
  int64_t pass = loop->run->stream ? dataset_stream_pass(loop->run->stream) : 0;
  TRY(run_read_rows(loop->run, (int64_t)loop->state.epoch));
  while (loop->run->stream && loop->run->train_rows.count == 0) {
    if (dataset_stream_pass(loop->run->stream) > pass + 1) return status_fail(STATUS_BAD_INPUT, "no row of the data is left to train on");
    loop->state.epoch++;
    TRY(run_read_rows(loop->run, (int64_t)loop->state.epoch));
  }
  TRY(batch_plan_create(&loop->plan, &loop->run->train_rows, &loop->run->batch_options, (int64_t)loop->state.epoch));
  for (int64_t i = 0; i < loop->run->recipe->gradient_accumulation_steps; i++) batch_reserve(&loop->batches[i], &loop->plan);
  return STATUS_OK;
}

static void seed_micro_batch(Loop *loop, int64_t index) {
  const Recipe *recipe = loop->run->recipe;
  step_seed(&loop->run->step, (uint64_t)recipe->seed, (uint64_t)(loop->state.step * recipe->gradient_accumulation_steps + index));
}

// The micro-batches of a step from likelihoods: queued without a wait, then their losses are read.
static Status run_supervised(Figures *figures, Loop *loop, int64_t count, int64_t trained) {
  Run *run = loop->run;
  double sum;
  float scale = trained ? (float)(run->optimizer->loss_scale.value / (double)trained) : 0;
  for (int64_t i = 0; i < count; i++) {
    seed_micro_batch(loop, i);
    TRY(step_run(&run->step, &loop->batches[i], TAPE_TRAIN, scale));
  }
  TRY(step_loss(&sum, &run->step));
  loop->loss = trained ? sum / (double)trained : 0;
  if (run->step.kl_weight > 0) figures_add(figures, "kl_to_base", "kl", trained ? run->step.kl / (double)trained : 0);
  return STATUS_OK;
}

// And from preferences: each one's loss decides about its gradient.
static Status run_preference(Figures *figures, Loop *loop, int64_t count, int64_t trained) {
  (void)trained;
  Run *run = loop->run;
  PreferenceShare share = {0};
  PreferenceSums sums = {0};
  for (int64_t i = 0; i < count; i++) preference_count(&share, run->preference, &loop->batches[i]);
  for (int64_t i = 0; i < count; i++) {
    seed_micro_batch(loop, i);
    TRY(preference_run(&sums, run->preference, &loop->plan, loop->state.micro_batch + i, &loop->batches[i], TAPE_TRAIN, &share,
                       run->optimizer->loss_scale.value, run->train_reference));
  }
  loop->loss = preference_mean_loss(&sums, &share, run->preference);
  preference_figures(figures, &sums, &share, run->preference);
  return STATUS_OK;
}

// One optimiser step: the loss and every gradient have one denominator, the step's trained tokens.
static Status train_step(Loop *loop, StepMetrics *metrics) {
  Run *run = loop->run;
  double start = time_seconds(), flop = run->step.tape.flop;
  int64_t trained, tokens, count = fill_batches(loop, &trained, &tokens);
  run->backend->kernels->fill(run->adapter->gradient, 0, run->adapter->size, run->backend);
  model_balance_clear(run->model);
  Figures figures = {0};
  TRY((run->preference ? run_preference : run_supervised)(&figures, loop, count, trained));
  if (run->model->balance) figures_add(&figures, "load_balancing_loss", "load balance", model_balance_loss(run->model));
  double update_start = time_seconds(), rate = run->recipe->learning_rate * schedule_factor(&run->schedule, loop->state.step);
  double momentum = schedule_momentum(&run->schedule, loop->state.step);
  if (!isnan(momentum)) optimizer_set_momentum(run->optimizer, momentum);
  OptimizerReport report;
  TRY(optimizer_step(run->optimizer, run->adapter->data, run->adapter->gradient, rate, loop->loss, &report));
  if (report.overflowed)
    log_info("step %lld: a gradient overflowed float16; left out, and the loss is scaled by %g from here on",
             (long long)loop->state.step + 1, run->optimizer->loss_scale.value);
  else if (report.skipped)
    log_warning("step %lld: the loss or its gradient is not a number; the step was skipped", (long long)loop->state.step + 1);
  if (!report.skipped) average_update(&run->average);
  double epoch_share = (double)(loop->state.micro_batch + count) / (double)loop->plan.batch_count;
  loop->state.step++;
  loop->state.micro_batch += count;
  loop->state.tokens += tokens;
  loop->state.trained_tokens += trained;
  double seconds = time_seconds() - start;
  if (run->options.profile) profile_add(&run->profile, "optimiser", "", time_seconds() - update_start, 0, 0);
  loop->step_seconds += seconds;
  *metrics = (StepMetrics){.step = loop->state.step,
                           .epoch = run->stream ? (double)dataset_stream_pass(run->stream) : (double)loop->state.epoch + epoch_share,
                           .loss = loop->loss,
                           .figures = figures,
                           .grad_norm = report.gradient_norm,
                           .learning_rate = rate,
                           .tokens = tokens,
                           .trained_tokens = trained,
                           .tokens_per_second = (double)tokens / seconds,
                           .peak_share = (run->step.tape.flop - flop) / seconds / run->peak_flops,
                           .peak_memory_bytes = run->backend->peak_bytes(run->backend)};
  return STATUS_OK;
}

// The state beside it is of what is trained on; what is written to be used is the average, where the optimiser has one.
static Status write_adapter(const char *folder, void *context) {
  const Run *run = context;
  run_show_average(run, true);
  Status status = run_write_trained(run, folder);
  run_show_average(run, false);
  return status;
}

static Status save_checkpoint(Loop *loop) {
  Run *run = loop->run;
  const Recipe *recipe = run->recipe;
  TRY(run->backend->check(run->backend));  // nothing of a device that has failed is kept
  loop->state.updates = run->optimizer->updates;
  loop->state.skipped = run->optimizer->skipped;
  loop->state.skipped_in_row = run->optimizer->skipped_in_row;
  memcpy(loop->state.optimizer_scalars, run->optimizer->scalars, sizeof run->optimizer->scalars);
  loop->state.loss_scale = run->optimizer->loss_scale.value;
  loop->state.loss_scale_steps = run->optimizer->loss_scale.good_steps;
  for (int i = 0; i < run->backend->tuning_count; i++) loop->state.tuning[i] = run->backend->tuning[i];
  CheckpointArray arrays[RUN_ARRAYS];
  int count = recipe->save_only_model ? 0 : run_checkpoint_arrays(arrays, run);
  TRY(checkpoint_write(recipe->output_dir, &loop->state, arrays, count, run->backend, write_adapter, run));
  return checkpoint_prune(recipe->output_dir, recipe->save_total_limit, loop->state.step, loop->state.best_step);
}

static Status evaluate(Loop *loop) {
  run_show_average(loop->run, true);
  Status status = run_evaluate(&loop->evaluation, loop->run);
  run_show_average(loop->run, false);
  TRY(status);
  train_progress_evaluation(&loop->progress, loop->state.step, &loop->evaluation);
  TRY(metrics_write_evaluation(&loop->metrics, loop->state.step, &loop->evaluation));
  TRY(stopping_evaluation(&loop->verdict, &loop->state, loop->run->recipe, &loop->evaluation));
  if (loop->verdict.is_best) best_keep(&loop->best, loop->run);
  return STATUS_OK;
}

static bool is_due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

static bool is_by_best(const Recipe *recipe) {
  return recipe->load_best_model_at_end || (recipe->save_strategy && strcmp(recipe->save_strategy, "best") == 0);
}

// Whether this step's checkpoint is kept: it is due, the first or the last, or better than all before it.
static bool saves_now(const Loop *loop, bool evaluated) {
  const Run *run = loop->run;
  bool last = loop->state.step == run->total_steps || loop->verdict.stops;
  if (evaluated && loop->verdict.is_best && is_by_best(run->recipe)) return true;
  return is_due(loop->state.step, run->save_every) || (last && run->save_every > 0) ||
         (loop->state.step == 1 && run->recipe->save_first_step);
}

// What follows a step: its log line, evaluation and checkpoint where they are due, and a signal that came meanwhile.
static Status after_step(Loop *loop, const StepMetrics *metrics) {
  const Run *run = loop->run;
  bool last = loop->state.step == run->total_steps;
  TRY(metrics_write_step(&loop->metrics, metrics));
  train_progress_step(&loop->progress, metrics);
  TRY(stopping_step(&loop->state, run->recipe, loop->loss));
  bool evaluated = is_due(loop->state.step, run->eval_every) || (last && run->eval_every > 0);
  if (evaluated) TRY(evaluate(loop));
  int caught = run->options.signal ? *run->options.signal : 0;
  if (caught || saves_now(loop, evaluated)) TRY(save_checkpoint(loop));
  if (!caught) return STATUS_OK;
  return status_fail(caught == SIGINT ? STATUS_INTERRUPTED : STATUS_TERMINATED,
                     "stopped by a signal after step %lld; `--resume` goes on from its checkpoint", (long long)loop->state.step);
}

// Time by operation, then memory by purpose. Times are of the steps alone: opening and export are not in them.
static void tell_profile(const Loop *loop) {
  Buffer text = {0};
  profile_describe(&text, &loop->run->profile, loop->step_seconds);
  buffer_append_string(&text, "\n");
  memory_use_describe(&text, loop->run);
  log_info("%s", text.data);
  buffer_release(&text);
}

static Status train_loop(Loop *loop) {
  Run *run = loop->run;
  TRY(run_resume(&loop->state, run));
  TRY(metrics_open(&loop->metrics, run->recipe->output_dir, loop->state.step ? loop->state.step : -1));
  train_progress_start(&loop->progress, loop->state.step, run->total_steps, run->recipe->logging_steps);
  TRY(open_epoch(loop));
  while (loop->state.step < run->total_steps && !loop->verdict.stops) {
    if (loop->state.micro_batch >= loop->plan.batch_count) {
      loop->state.epoch++;
      loop->state.micro_batch = 0;
      TRY(open_epoch(loop));
    }
    StepMetrics metrics;
    TRY(train_step(loop, &metrics));
    TRY(after_step(loop, &metrics));
  }
  train_progress_finish(&loop->progress, loop->state.step);
  if (loop->verdict.stops)
    log_info("stopped early: %lld evaluations in a row were no better than that of step %lld", (long long)loop->state.stale_evaluations,
             (long long)loop->state.best_step);
  bool is_taken;
  TRY(best_take(&is_taken, &loop->best, run, &loop->state));
  if (is_taken) loop->evaluation = (Evaluation){.loss = stopping_is_by_loss(run->recipe) ? loop->state.best_metric : NAN};
  run_show_average(run, true);
  if (run->options.profile) tell_profile(loop);
  return run_export(run, loop->loss, loop->evaluation.loss);
}

Status train(const Recipe *recipe, TrainOptions options, Backend *backend) {
  TRY(recipe_check_trainable(recipe));
  Run run;
  Loop loop = {.run = &run, .metrics = {.descriptor = -1}, .loss = NAN, .evaluation = {.loss = NAN}};
  loop.batches = memory_new((size_t)recipe->gradient_accumulation_steps, sizeof *loop.batches);
  Status status = run_open(&run, recipe, options, backend);
  if (status == STATUS_OK) status = train_loop(&loop);
  metrics_close(&loop.metrics);
  best_release(&loop.best);
  batch_plan_release(&loop.plan);
  for (int64_t i = 0; i < recipe->gradient_accumulation_steps; i++) batch_release(&loop.batches[i]);
  free(loop.batches);
  run_close(&run);
  return status;
}
