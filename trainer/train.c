// The training loop, in the order in which a row meets it: micro-batches of an epoch, the model's forward and backward
// pass, one optimiser step over their common token count, the log, evaluation, checkpoints; at the end the export.
// Of several ranks each computes some of a step's micro-batches; counts, losses and gradients are summed, and from there on all ranks do the
// same. What is on disk is the first one's.
#include "trainer/train.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "models/balance.h"
#include "trainer/best.h"
#include "trainer/deal.h"
#include "trainer/divided.h"
#include "trainer/metrics.h"
#include "trainer/memory_use.h"
#include "trainer/progress.h"
#include "trainer/run.h"
#include "trainer/stopping.h"

// What a rank tells the others at the end of a step.
typedef struct RankReport {
  int64_t signal, peak_bytes;
  double peak_share;
} RankReport;

typedef struct Loop {
  Run *run;
  TrainerState state;
  MetricsWriter metrics;
  TrainProgress progress;
  BatchPlan plan;  // of the present epoch
  Deal deal;  // this rank's micro-batches of the present step
  Batch *batches;  // [deal.most]
  double loss;
  Evaluation evaluation;  // the last one
  Verdict verdict;  // on it
  Best best;
  double step_seconds;  // of all steps
  RankReport *reports;  // [ranks]
} Loop;

// Of one optimiser step, all ranks together.
typedef struct StepSize {
  int64_t micro_batches, tokens, trained;
} StepSize;

// The micro-batches of a step: as many as are left of the epoch, at most step_batches.
static Status fill_batches(StepSize *size, Loop *loop) {
  Deal *deal = &loop->deal;
  int64_t left = loop->plan.batch_count - loop->state.micro_batch;
  size->micro_batches = left < loop->run->step_batches ? left : loop->run->step_batches;
  deal_micro_batches(deal, &loop->plan, loop->state.micro_batch, size->micro_batches);
  double counts[2] = {0};
  for (int64_t i = 0; i < deal->own_count; i++) {
    batch_fill(&loop->batches[i], &loop->plan, loop->state.micro_batch + deal->own[i]);
    counts[0] += (double)loop->batches[i].tokens;
    counts[1] += (double)loop->batches[i].trained_tokens;
  }
  TRY(group_sum(counts, 2, "the counts of a step", loop->run->group));
  size->tokens = (int64_t)counts[0], size->trained = (int64_t)counts[1];
  return STATUS_OK;
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
  for (int64_t i = 0; i < loop->deal.most; i++) batch_reserve(&loop->batches[i], &loop->plan);
  return STATUS_OK;
}

static void seed_micro_batch(Loop *loop, int64_t number) {
  const Run *run = loop->run;
  step_seed(&loop->run->step, (uint64_t)run->recipe->seed, (uint64_t)(loop->state.step * run->step_batches + number));
}

static Status sum_gradients(Run *run) {
  return group_sum_floats(run->adapter->gradient, run->adapter->size, "the gradients of a step", run->group);
}

// The micro-batches of a step from likelihoods: queued without a wait, then their losses are read.
static Status run_supervised(Figures *figures, Loop *loop, const StepSize *size) {
  Run *run = loop->run;
  double trained = (double)size->trained, sums[2];
  float scale = size->trained ? (float)(run->optimizer->loss_scale.value / trained) : 0;
  for (int64_t i = 0; i < loop->deal.own_count; i++) {
    seed_micro_batch(loop, loop->deal.own[i]);
    TRY(step_run(&run->step, &loop->batches[i], TAPE_TRAIN, scale));
  }
  for (int64_t i = loop->deal.own_count; i < loop->deal.rounds; i++) step_idle(&run->step, TAPE_TRAIN);
  TRY(sum_gradients(run));
  TRY(step_loss(&sums[0], &run->step));
  sums[1] = run->step.kl;
  TRY(group_sum(sums, 2, "the losses of a step", run->group));
  loop->loss = size->trained ? sums[0] / trained : 0;
  if (run->step.kl_weight > 0) figures_add(figures, "kl_to_base", "kl", size->trained ? sums[1] / trained : 0);
  return STATUS_OK;
}

// And from preferences: each one's loss decides about its gradient.
static Status run_preference(Figures *figures, Loop *loop, const StepSize *size) {
  (void)size;
  Run *run = loop->run;
  PreferenceShare share = {0};
  PreferenceSums sums = {0};
  for (int64_t i = 0; i < loop->deal.own_count; i++) preference_count(&share, run->preference, &loop->batches[i]);
  TRY(preference_share_sum(&share, run->group));
  for (int64_t i = 0; i < loop->deal.own_count; i++) {
    seed_micro_batch(loop, loop->deal.own[i]);
    TRY(preference_run(&sums, run->preference, &loop->plan, loop->state.micro_batch + loop->deal.own[i], &loop->batches[i], TAPE_TRAIN,
                       &share, run->optimizer->loss_scale.value, run->train_reference));
  }
  for (int64_t i = loop->deal.own_count; i < loop->deal.rounds; i++) preference_idle(run->preference, TAPE_TRAIN, run->train_reference);
  TRY(sum_gradients(run));
  TRY(preference_sums_sum(&sums, run->group));
  loop->loss = preference_mean_loss(&sums, &share, run->preference);
  preference_figures(figures, &sums, &share, run->preference);
  return STATUS_OK;
}

static Status add_balance(Figures *figures, Run *run) {
  Model *model = run->model;
  if (!model->balance) return STATUS_OK;
  TRY(group_sum_floats(model->balance, model->balance_floats, "the counts of routed tokens", run->group));
  figures_add(figures, "load_balancing_loss", "load balance", model_balance_loss(model));
  return STATUS_OK;
}

// *signal: one that any rank has caught. Memory is the most of any, shares of the peak are the mean.
static Status exchange_reports(StepMetrics *metrics, int *signal, Loop *loop) {
  Run *run = loop->run;
  RankReport *reports = loop->reports;
  reports[run->group->rank] =
      (RankReport){run->options.signal ? *run->options.signal : 0, run->backend->peak_bytes(run->backend), metrics->peak_share};
  TRY(group_exchange(reports, sizeof *reports, "the end of a step", run->group));
  *signal = 0;
  metrics->peak_share = 0;
  for (int r = 0; r < run->group->size; r++) {
    if (reports[r].signal) *signal = (int)reports[r].signal;
    if (reports[r].peak_bytes > metrics->peak_memory_bytes) metrics->peak_memory_bytes = reports[r].peak_bytes;
    metrics->peak_share += reports[r].peak_share / run->group->size;
  }
  return STATUS_OK;
}

// One optimiser step: the loss and every gradient have one denominator, the step's trained tokens.
static Status train_step(Loop *loop, StepMetrics *metrics) {
  Run *run = loop->run;
  double start = time_seconds(), flop = run->step.tape.flop;
  int64_t gathered = run->group->gathered_bytes;
  StepSize size;
  TRY(fill_batches(&size, loop));
  run->backend->kernels->fill(run->adapter->gradient, 0, run->adapter->size, run->backend);
  model_balance_clear(run->model);
  Figures figures = {0};
  TRY((run->preference ? run_preference : run_supervised)(&figures, loop, &size));
  TRY(add_balance(&figures, run));
  if (run->model->shards) figures_add(&figures, "gathered_bytes", NULL, (double)(run->group->gathered_bytes - gathered));
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
  TRY(divided_exchange(run));
  if (!report.skipped) average_update(&run->average);
  double epoch_share = (double)(loop->state.micro_batch + size.micro_batches) / (double)loop->plan.batch_count;
  loop->state.step++;
  loop->state.micro_batch += size.micro_batches;
  loop->state.tokens += size.tokens;
  loop->state.trained_tokens += size.trained;
  double seconds = time_seconds() - start;
  if (run->options.profile) profile_add(&run->profile, "optimiser", "", time_seconds() - update_start, 0, 0);
  loop->step_seconds += seconds;
  *metrics = (StepMetrics){.step = loop->state.step,
                           .epoch = run->stream ? (double)dataset_stream_pass(run->stream) : (double)loop->state.epoch + epoch_share,
                           .loss = loop->loss,
                           .figures = figures,
                           .grad_norm = report.gradient_norm,
                           .learning_rate = rate,
                           .tokens = size.tokens,
                           .trained_tokens = size.trained,
                           .tokens_per_second = (double)size.tokens / seconds,
                           .peak_share = (run->step.tape.flop - flop) / seconds / run->peak_flops};
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

// All ranks have done the same steps with the same sums: a last bit that is another is a fault of a machine.
static Status check_ranks_agree(const Run *run) {
  if (run->group->size == 1) return STATUS_OK;
  char text[32];
  snprintf(text, sizeof text, "%a", run->backend->kernels->sum_of_squares(run->adapter->data, run->adapter->size, run->backend));
  return group_compare("state of the adapter", text, run->group);
}

static Status save_checkpoint(Loop *loop) {
  Run *run = loop->run;
  const Recipe *recipe = run->recipe;
  TRY(run->backend->check(run->backend));  // nothing of a device that has failed is kept
  TRY(check_ranks_agree(run));
  loop->state.updates = run->optimizer->updates;
  loop->state.skipped = run->optimizer->skipped;
  loop->state.skipped_in_row = run->optimizer->skipped_in_row;
  memcpy(loop->state.optimizer_scalars, run->optimizer->scalars, sizeof run->optimizer->scalars);
  loop->state.loss_scale = run->optimizer->loss_scale.value;
  loop->state.loss_scale_steps = run->optimizer->loss_scale.good_steps;
  for (int i = 0; i < run->backend->tuning_count; i++) loop->state.tuning[i] = run->backend->tuning[i];
  CheckpointArray arrays[RUN_ARRAYS];
  WholeStates states = {{NULL}};
  int count = recipe->save_only_model ? 0 : run_checkpoint_arrays(arrays, run);
  Status status = divided_collect(&states, arrays, count, run);
  if (status == STATUS_OK && group_is_first(run->group))
    status = checkpoint_write(recipe->output_dir, &loop->state, arrays, count, run->backend, write_adapter, run);
  divided_release(&states);
  TRY(status);
  return group_is_first(run->group)
             ? checkpoint_prune(recipe->output_dir, recipe->save_total_limit, loop->state.step, loop->state.best_step)
             : STATUS_OK;
}

static Status evaluate(Loop *loop) {
  run_show_average(loop->run, true);
  Status status = run_evaluate(&loop->evaluation, loop->run);
  run_show_average(loop->run, false);
  TRY(status);
  train_progress_evaluation(&loop->progress, loop->state.step, &loop->evaluation);
  if (group_is_first(loop->run->group)) TRY(metrics_write_evaluation(&loop->metrics, loop->state.step, &loop->evaluation));
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
static Status after_step(Loop *loop, StepMetrics *metrics) {
  const Run *run = loop->run;
  bool last = loop->state.step == run->total_steps;
  int caught;
  TRY(exchange_reports(metrics, &caught, loop));
  if (group_is_first(run->group)) TRY(metrics_write_step(&loop->metrics, metrics));
  train_progress_step(&loop->progress, metrics);
  TRY(stopping_step(&loop->state, run->recipe, loop->loss));
  bool evaluated = is_due(loop->state.step, run->eval_every) || (last && run->eval_every > 0);
  if (evaluated) TRY(evaluate(loop));
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
  if (group_is_first(run->group)) TRY(metrics_open(&loop->metrics, run->recipe->output_dir, loop->state.step ? loop->state.step : -1));
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
  return group_barrier("the end of training", run->group);
}

static Status open_loop(Loop *loop, const Recipe *recipe, TrainOptions options, Backend *backend, Group *group) {
  TRY(run_open(loop->run, recipe, options, backend, group));
  deal_open(&loop->deal, loop->run->step_batches, group);
  loop->batches = memory_new((size_t)loop->deal.most, sizeof *loop->batches);
  loop->reports = memory_new((size_t)group->size, sizeof *loop->reports);
  return STATUS_OK;
}

static void close_loop(Loop *loop) {
  metrics_close(&loop->metrics);
  best_release(&loop->best);
  batch_plan_release(&loop->plan);
  for (int64_t i = 0; loop->batches && i < loop->deal.most; i++) batch_release(&loop->batches[i]);
  free(loop->batches);
  free(loop->reports);
  deal_close(&loop->deal);
  run_close(loop->run);
}

static bool is_stopped_by_signal(Status status) { return status == STATUS_INTERRUPTED || status == STATUS_TERMINATED; }

Status train(const Recipe *recipe, TrainOptions options, Backend *backend, Group *group) {
  TRY(recipe_check_trainable(recipe));
  Run run = {0};
  Loop loop = {.run = &run, .metrics = {.descriptor = -1}, .loss = NAN, .evaluation = {.loss = NAN}};
  bool is_first = group_is_first(group);
  Status status = open_loop(&loop, recipe, options, backend, group);
  if (status == STATUS_OK) status = train_loop(&loop);
  // From here on the first rank is alone: what it writes may take long, and nobody waits for it.
  if (status == STATUS_OK || is_stopped_by_signal(status)) group_close(group);
  if (is_stopped_by_signal(status) && !is_first) status = STATUS_OK;
  else if (status == STATUS_OK && is_first) status = run_export(&run, loop.loss, loop.evaluation.loss);
  close_loop(&loop);
  return status;
}
