// What a checkpoint of a run holds, what must be the same to go on from one, and going on.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "trainer/divided.h"
#include "trainer/parameters.h"

static void hash_pairs(Buffer *text, const StringPairs *pairs) {
  for (int i = 0; i < pairs->count; i++) buffer_format(text, " %s=%s", pairs->keys[i], pairs->values[i]);
}

// The method with its arguments, the schedule with its own, and each tensor's share of the rate.
static void hash_optimizer(Buffer *text, const Run *run) {
  const Recipe *r = run->recipe;
  const Schedule *s = &run->schedule;
  buffer_format(text, "optimizer %s %.17g %.17g %.17g %.17g %.17g %.17g rate %.17g", run->optimizer->method->name, r->adam_beta1,
                r->adam_beta2, r->adam_beta3, r->adam_epsilon, r->weight_decay, r->max_grad_norm, r->learning_rate);
  hash_pairs(text, &r->optim_args);
  buffer_format(text, "\nschedule %d %lld %lld %.17g %.17g %d", s->kind, (long long)s->steps, (long long)s->warmup_steps,
                s->cosine_min_ratio, s->cosine_constant_ratio, s->quadratic_warmup);
  hash_pairs(text, &r->lr_scheduler_kwargs);
  ParameterTensor *tensors = parameter_tensors(run->adapter, r);
  for (int i = 0; i < run->adapter->tensor_count; i++)
    buffer_format(text, "\n%lld %.17g %.17g", (long long)(tensors[i].rows * tensors[i].columns), tensors[i].weight_decay,
                  tensors[i].rate_multiplier);
  free(tensors);
  buffer_append_string(text, "\n");
}

// Everything that shapes a step. Where to write, how often to log, evaluate or save may differ.
static void hash_recipe(char hex[65], const Run *run) {
  const Recipe *r = run->recipe;
  Buffer text = {0};
  buffer_format(&text, "rank %lld alpha %.17g dropout %.17g rslora %d size %lld layers %d\n", (long long)run->adapter->rank,
                run->adapter->alpha, r->lora_dropout, run->adapter->rslora, (long long)run->adapter->size, run->adapter->count);
  for (int i = 0; i < run->adapter->count; i++) buffer_format(&text, "%s\n", run->adapter->linears[i]->name);
  for (int i = 0; i < run->adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &run->adapter->tensors[i];
    if (tensor->role != TENSOR_LORA_A && tensor->role != TENSOR_LORA_B) buffer_format(&text, "%s %d\n", tensor->module, tensor->role);
  }
  for (int64_t i = 0; i < run->adapter->tokens.rows.rows; i++) buffer_format(&text, "token %d\n", run->adapter->tokens.ids[i]);
  hash_optimizer(&text, run);
  buffer_format(&text, "average %.17g noise %.17g\n", r->ema_decay, r->neftune_noise_alpha);
  if (r->kl_weight > 0) buffer_format(&text, "kl %.17g\n", r->kl_weight);
  if (r->rl) {
    buffer_format(&text, "%s beta %.17g %.17g smoothing %.17g nll %.17g %.17g margin %.17g kto %.17g %.17g reference %s\n", r->rl,
                  r->rl_beta, r->orpo_alpha, r->dpo_label_smoothing, r->rpo_alpha, r->cpo_alpha, r->simpo_gamma, r->kto_desirable_weight,
                  r->kto_undesirable_weight, r->rl_reference ? r->rl_reference : "start");
    for (int i = 0; i < r->dpo_loss_type.count; i++)
      buffer_format(&text, "%s %s\n", r->dpo_loss_type.items[i], i < r->dpo_loss_weights.count ? r->dpo_loss_weights.items[i] : "1");
  }
  const BatchOptions *b = &run->batch_options;
  buffer_format(&text, "batches %d %d %d %d %lld %lld %lld %lld %lld x %lld\n", b->packing, b->sequentially, b->in_order, b->by_length,
                (long long)b->sequence_len, (long long)b->group_size, (long long)b->bin_size, (long long)b->micro_batch_size,
                (long long)b->seed, (long long)run->step_batches);
  sha256_bytes(hex, text.data, text.length);
  buffer_release(&text);
}

static void hash_data(char hex[65], const RowSet *rows) {
  Buffer bytes = {0};
  for (int64_t i = 0; i < rows->count; i++) {
    const TokenRow *row = &rows->rows[i];
    uint64_t parts[5] = {hash_bytes(row->ids, (size_t)row->count * sizeof *row->ids),
                         hash_bytes(row->labels, (size_t)row->count * sizeof *row->labels), (uint64_t)row->prompt, (uint64_t)row->rejected,
                         row->is_undesirable};
    buffer_append(&bytes, parts, sizeof parts);
    row_set_has_read(rows, i);
  }
  sha256_bytes(hex, bytes.data ? bytes.data : "", bytes.length);
  buffer_release(&bytes);
}

int run_checkpoint_arrays(CheckpointArray *arrays, const Run *run) {
  int count = 0;
  const Optimizer *optimizer = run->optimizer;
  arrays[count++] = (CheckpointArray){"parameters", run->adapter->data, run->adapter->size, HDF5_F32};
  if (run->average.values) arrays[count++] = (CheckpointArray){"average", run->average.values, run->adapter->size, HDF5_F32};
  for (int i = 0; i < optimizer->method->state_count; i++) {
    const OptimizerState *state = &optimizer->method->states[i];
    Hdf5Type type = state->kind == STATE_CODES ? HDF5_U8 : HDF5_F32;
    int64_t length = optimizer_state_length(optimizer, i);
    if (length > 0) arrays[count++] = (CheckpointArray){state->name, optimizer->state[i], length, type};
  }
  return count;
}

// The checkpoint that options or recipe ask for; NULL: begin at the beginning.
static Status find_checkpoint(char **folder, const Run *run) {
  const Recipe *recipe = run->recipe;
  const char *wanted = run->options.resume ? run->options.resume : recipe->resume_from_checkpoint;
  bool newest = (wanted && (wanted[0] == 0 || strcmp(wanted, "true") == 0)) || (!wanted && recipe->auto_resume_from_checkpoints);
  *folder = NULL;
  if (!wanted && !newest) return checkpoint_clean(recipe->output_dir);
  TRY(checkpoint_find(folder, recipe->output_dir, newest ? NULL : wanted));
  if (!*folder && run->options.resume)
    return status_fail(STATUS_BAD_INPUT, "%s: there is no checkpoint to resume from; leave --resume out to begin", recipe->output_dir);
  return STATUS_OK;
}

// Of the same recipe run by another number of ranks, which would make a step of another size.
static Status keep_step(Run *run) {
  TrainerState saved;
  TRY(checkpoint_read(run->checkpoint, NULL, &saved, NULL, 0, run->backend));
  if (saved.accumulation != run->recipe->gradient_accumulation_steps || saved.step_batches == run->step_batches) return STATUS_OK;
  log_info("a step stays %lld micro-batches, as it was with %lld processes", (long long)saved.step_batches, (long long)saved.ranks);
  run->step_batches = saved.step_batches;
  return STATUS_OK;
}

Status run_find_checkpoint(Run *run) {
  run->step_batches = run->recipe->gradient_accumulation_steps * run->group->size;
  if (group_is_first(run->group)) {
    TRY(find_checkpoint(&run->checkpoint, run));
    if (run->checkpoint) TRY(keep_step(run));
  }
  int64_t told[] = {run->checkpoint != NULL, run->step_batches};
  TRY(group_broadcast(told, sizeof told, "the checkpoint", run->group));
  if (told[0] && !run->checkpoint) run->checkpoint = memory_copy_string("");  // only the first rank has to see it
  run->step_batches = told[1];
  return STATUS_OK;
}

static Status read_and_tell(TrainerState *state, const WholeStates *states, CheckpointArray *arrays, int count, Run *run,
                            const char *folder) {
  RunFingerprint expected = state->fingerprint;
  if (group_is_first(run->group)) TRY(checkpoint_read(folder, &expected, state, arrays, count, run->backend));
  TRY(group_broadcast(state, sizeof *state, "the checkpoint", run->group));
  for (int i = 0; i < count; i++)
    if (!arrays[i].is_host) TRY(group_broadcast_device(arrays[i].data, checkpoint_array_bytes(&arrays[i]), "the checkpoint", run->group));
  return divided_spread(states, run);
}

Status run_read_checkpoint(TrainerState *state, Run *run, const char *folder) {
  CheckpointArray arrays[RUN_ARRAYS];
  WholeStates states;
  int count = run_checkpoint_arrays(arrays, run);
  divided_expect(&states, arrays, count, run);
  Status status = read_and_tell(state, &states, arrays, count, run, folder);
  divided_release(&states);
  return status;
}

static Status compare_models(const Model *model, Group *group) {
  char *const *paths = model->is_gguf ? model->gguf.shard_paths : model->safetensors.paths;
  int count = model->is_gguf ? model->gguf.shard_count : model->safetensors.path_count;
  const char *one[] = {model->path};
  TRY(group_compare("base model", model->hash, group));
  return count > 0 ? group_compare_files("base model", (const char *const *)paths, count, group)
                   : group_compare_files("base model", one, 1, group);
}

// Ranks whose files differ would go apart.
static Status compare_ranks(const TrainerState *state, const Run *run) {
  char evaluation[65];
  if (run->group->size == 1) return STATUS_OK;
  TRY(compare_models(run->model, run->group));
  TRY(group_compare("set of training rows", state->fingerprint.data, run->group));
  hash_data(evaluation, &run->eval_rows);
  TRY(group_compare("set of evaluation rows", evaluation, run->group));
  return group_compare("plan", state->fingerprint.recipe, run->group);
}

Status run_resume(TrainerState *state, Run *run) {
  *state = (TrainerState){.seed = run->recipe->seed,
                          .accumulation = run->recipe->gradient_accumulation_steps,
                          .step_batches = run->step_batches,
                          .ranks = run->group->size,
                          .best_step = -1};
  hash_recipe(state->fingerprint.recipe, run);
  hash_data(state->fingerprint.data, &run->train_rows);
  memcpy(state->fingerprint.model, run->model->hash, sizeof run->model->hash);
  TRY(compare_ranks(state, run));
  if (group_is_first(run->group)) TRY(directory_create(run->recipe->output_dir));
  if (!run->checkpoint) return STATUS_OK;
  TRY(run_read_checkpoint(state, run, run->checkpoint));
  state->accumulation = run->recipe->gradient_accumulation_steps;
  state->ranks = run->group->size;
  run->optimizer->updates = state->updates;
  run->optimizer->skipped = state->skipped;
  run->optimizer->skipped_in_row = state->skipped_in_row;
  memcpy(run->optimizer->scalars, state->optimizer_scalars, sizeof run->optimizer->scalars);
  run->optimizer->loss_scale.value = state->loss_scale;
  run->optimizer->loss_scale.good_steps = state->loss_scale_steps;
  for (int i = 0; i < run->backend->tuning_count; i++)
    if (state->tuning[i]) run->backend->tuning[i] = state->tuning[i];  // none are those of a run on another device
  log_info("resuming from %s", run->checkpoint);
  return STATUS_OK;
}
