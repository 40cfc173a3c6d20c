// Opening a run: model, rows, adapter, optimiser, and the count of steps; everything that can be refused is refused here,
// before the first step.
#include "trainer/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/start.h"
#include "core/log.h"
#include "data/prepared.h"
#include "kernels/peak.h"
#include "models/balance.h"
#include "models/shards.h"
#include "trainer/divided.h"
#include "trainer/parameters.h"
#include "trainer/stopping.h"

static Status check_ids(const RowSet *rows, const Model *model) {
  int32_t largest = row_set_largest_id(rows);
  if (largest < model->config.vocabulary) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "the data holds token id %d, and the vocabulary of %s has %lld: rows and model do not belong together", largest,
                     model->path, (long long)model->config.vocabulary);
}

static void tell_rows(const RowSet *rows, int64_t events) {
  Buffer text = {0};
  row_set_describe(&text, rows, events);
  while (text.length && text.data[text.length - 1] == '\n') text.data[--text.length] = 0;
  if (text.length) log_info("%s", text.data);
  buffer_release(&text);
}

Status run_read_rows(Run *run, int64_t epoch) {
  if (!run->stream || run->chunk == epoch) return STATUS_OK;
  TRY(dataset_stream_read(&run->train_rows, run->stream, epoch));
  run->chunk = epoch;
  const RowReport *report = &run->train_rows.report;
  if (epoch == 0) tell_rows(&run->train_rows, 5);
  else if (report->event_count)
    log_info("chunk %lld: %lld of %lld rows cut or dropped, the first %s: %s", (long long)epoch, (long long)report->event_count,
             (long long)report->read, report->events[0].source, report->events[0].reason);
  return check_ids(&run->train_rows, run->model);
}

static Status prepare_rows(void *context) {
  Run *run = context;
  DatasetOptions options = {.pool = run->backend->pool};
  return prepared_load(&run->train_rows, &run->eval_rows, run->recipe, run->tokenizer, &options);
}

Status run_open_rows(Run *run) {
  const Recipe *recipe = run->recipe;
  if (!run->tokenizer && dataset_needs_tokenizer(recipe)) TRY(dataset_open_tokenizer(&run->tokenizer, recipe));
  DatasetOptions options = {.pool = run->backend->pool};
  TRY(group_in_turns(prepare_rows, run, "the preparation of rows", run->group));
  TRY(check_ids(&run->eval_rows, run->model));
  if (dataset_is_streamed(recipe)) {
    TRY(dataset_stream_open(&run->stream, recipe, run->tokenizer, &options));
    TRY(run_read_rows(run, 0));
  } else {
    TRY(check_ids(&run->train_rows, run->model));
    tell_rows(&run->train_rows, 5);
  }
  run->batch_options = batch_options_from_recipe(recipe, false);
  run->eval_options = batch_options_from_recipe(recipe, true);
  // A prompt whose rotation depends on how long its document gets is another before each reply.
  const ModelConfig *config = &run->model->config;
  if (rope_depends_on_length(&config->rope) || (config->local_rope.base != 0 && rope_depends_on_length(&config->local_rope)))
    run->batch_options.shares_prompts = run->eval_options.shares_prompts = false;
  return STATUS_OK;
}

double run_dropout(const Run *run) { return run->recipe->rl ? 0 : run->recipe->lora_dropout; }

static Status open_adapter(Run *run) {
  const Recipe *recipe = run->recipe;
  if (recipe->adapter && recipe->lora_model_dir) {
    const char *paths[] = {recipe->lora_model_dir};
    TRY(adapter_open(&run->adapter, run->model, paths, NULL, 1, true));
    adapter_set_dropout(run->adapter, run_dropout(run));
    return STATUS_OK;
  }
  Arena arena = {0};
  AdapterSettings settings;
  Status status = run_adapter_settings(&settings, &arena, recipe);
  settings.dropout = run_dropout(run);
  run->starts_at_base = settings.trains_all || adapter_start_is_base(settings.start, run->model);
  if (status == STATUS_OK) status = adapter_create(&run->adapter, run->model, &settings);
  arena_release(&arena);
  return status;
}

// A message of optim_args or lr_scheduler_kwargs, at its place in the recipe.
static Status refuse_arguments(const Run *run, const char *key, Status status) {
  char *message = memory_copy_string(status_message());
  recipe_fail(run->recipe, status, key, "%s", message);
  free(message);
  return status;
}

// The method and its settings, in the order of precedence: its library's, the recipe's keys, optim_args.
static Status choose_optimizer(const OptimizerMethod **method, OptimizerSettings *settings, const Run *run) {
  const Recipe *recipe = run->recipe;
  const char *notice;
  TRY(optimizer_find(method, &notice, recipe->optimizer));
  if (notice) log_notice("%s", notice);
  *settings = optimizer_defaults(*method);
  settings->beta1 = recipe->adam_beta1, settings->beta2 = recipe->adam_beta2, settings->epsilon = recipe->adam_epsilon;
  settings->max_grad_norm = recipe->max_grad_norm;
  if (recipe->adam_beta3 > 0) settings->beta3 = recipe->adam_beta3;
  for (int i = 0; i < recipe->optim_args.count; i++) {
    Status status = optimizer_set_argument(settings, *method, recipe->optim_args.keys[i], recipe->optim_args.values[i]);
    if (status != STATUS_OK) return refuse_arguments(run, "optim_args", status);
  }
  settings->warmup_steps = run->schedule.warmup_steps;
  double momentum = schedule_momentum(&run->schedule, 0);
  if (!isnan(momentum) && (*method)->momentum == MOMENTUM_NONE)
    return recipe_fail(recipe, STATUS_USAGE, "lr_scheduler",
                       "one_cycle lets a momentum go round with the rate, and %s has none; set "
                       "lr_scheduler_kwargs: {cycle_momentum: false}",
                       (*method)->name);
  if (!isnan(momentum)) settings->momentum = momentum;
  *method = optimizer_settle(*method, settings);
  return STATUS_OK;
}

static Status open_optimizer(Run *run) {
  const OptimizerMethod *method;
  OptimizerSettings settings;
  TRY(choose_optimizer(&method, &settings, run));
  int64_t first, last;
  if (run->recipe->shard_optimizer && !optimizer_can_be_divided(method))
    return recipe_fail(run->recipe, STATUS_USAGE, "shard_optimizer", "the states of %s cannot be divided; use adamw_torch_fused or lion",
                       method->name);
  divided_part(&first, &last, run);
  ParameterTensor *tensors = parameter_tensors(run->adapter, run->recipe);
  Status status = optimizer_new_part(&run->optimizer, method, settings, tensors, run->adapter->tensor_count, first, last, run->backend);
  free(tensors);
  return status;
}

// While streaming, what later chunks hold is not known: the largest micro-batch is one of full sequences.
static Status plan_stream(Run *run) {
  const Recipe *recipe = run->recipe;
  int64_t length = recipe->sequence_len, capacity = 0;
  int32_t *ids = memory_new((size_t)length, sizeof *ids);
  RowSet full = {0};
  for (int64_t i = 0; i < recipe->micro_batch_size; i++) row_set_add(&full, ids, ids, length, "");
  BatchPlan plan;
  Status status = batch_plan_create(&plan, &full, &run->batch_options, 0);
  if (status == STATUS_OK) batch_fill(&run->largest, &plan, 0);
  batch_plan_release(&plan);
  row_set_release(&full);
  free(ids);
  run->total_steps = recipe->max_steps;
  ARRAY_PUSH(run->epoch_steps, run->epochs, capacity) = run->total_steps;
  return status;
}

// Every epoch is packed anew, so each has its own number of micro-batches. A part of an epoch counts by its share.
static Status plan_epochs(Run *run) {
  const Recipe *recipe = run->recipe;
  int64_t capacity = 0;
  double wanted = recipe->num_epochs;
  for (int64_t epoch = 0; recipe->max_steps > 0 ? run->total_steps < recipe->max_steps : (double)epoch < wanted; epoch++) {
    BatchPlan plan;
    TRY(batch_plan_create(&plan, &run->train_rows, &run->batch_options, epoch));
    int64_t steps = (plan.batch_count + run->step_batches - 1) / run->step_batches;
    if (plan.most_tokens > run->largest.tokens) batch_fill(&run->largest, &plan, plan.largest);
    batch_plan_release(&plan);
    ARRAY_PUSH(run->epoch_steps, run->epochs, capacity) = steps;
    double share = recipe->max_steps > 0 ? 1 : fmin(1, wanted - (double)epoch);
    run->total_steps += (int64_t)ceil(share * (double)steps);
  }
  if (recipe->max_steps > 0) run->total_steps = recipe->max_steps;
  return STATUS_OK;
}

// "every N steps", from a number (below 1: a share of all steps), a count per epoch, or a strategy's name.
static int64_t interval(double steps, double per_epoch, const char *strategy, const char *otherwise, const Run *run) {
  if (strategy && strcmp(strategy, "no") == 0) return 0;
  double every = 0;
  if (steps > 0) every = steps < 1 ? ceil(steps * (double)run->total_steps) : steps;
  else if (per_epoch > 0) every = ceil((double)run->epoch_steps[0] / per_epoch);
  else if (strcmp(strategy ? strategy : otherwise, "epoch") == 0) every = (double)run->epoch_steps[0];
  return every > 0 && every < 1 ? 1 : (int64_t)every;
}

// What can be refused without a count of steps.
static Status choose_schedule(Run *run) {
  const Recipe *recipe = run->recipe;
  TRY(schedule_new(&run->schedule, recipe->lr_scheduler));
  run->schedule.learning_rate = recipe->learning_rate;
  run->schedule.cosine_min_ratio = recipe->cosine_min_lr_ratio;
  run->schedule.cosine_constant_ratio = recipe->cosine_constant_lr_ratio;
  run->schedule.quadratic_warmup = recipe->lr_quadratic_warmup;
  for (int i = 0; i < recipe->lr_scheduler_kwargs.count; i++) {
    Status status = schedule_set_argument(&run->schedule, recipe->lr_scheduler_kwargs.keys[i], recipe->lr_scheduler_kwargs.values[i]);
    if (status != STATUS_OK) return refuse_arguments(run, "lr_scheduler_kwargs", status);
  }
  Status status = schedule_check(&run->schedule);
  return status == STATUS_OK ? status
                             : refuse_arguments(run, recipe->lr_scheduler_kwargs.count ? "lr_scheduler_kwargs" : "lr_scheduler", status);
}

static void open_schedule(Run *run) {
  const Recipe *recipe = run->recipe;
  run->schedule.steps = run->total_steps;
  run->schedule.warmup_steps = schedule_warmup_steps(recipe->warmup_steps, recipe->warmup_ratio, run->total_steps);
  run->save_every = interval(recipe->save_steps, recipe->saves_per_epoch, recipe->save_strategy, "epoch", run);
  run->eval_every = run->eval_rows.count ? interval(recipe->eval_steps, recipe->evals_per_epoch, recipe->eval_strategy, "epoch", run) : 0;
}

// (Where the device's memory is the host's own, offloading would only copy.)
static Checkpointing checkpointing(const Run *run) {
  const char *value = run->recipe->gradient_checkpointing;
  if (!value) return CHECKPOINT_AUTO;
  if (strcmp(value, "false") == 0) return CHECKPOINT_NONE;
  return strcmp(value, "true") == 0 || !run->backend->upload_matrix ? CHECKPOINT_ALL : CHECKPOINT_OFFLOAD;
}

// bf16: auto takes the type in which products are fastest, which some tens of milliseconds tell: bfloat16, or float16 where the device
// has only that, or float32.
Status run_choose_activations(FloatType *out, Run *run) {
  const Recipe *recipe = run->recipe;
  FloatType fastest = peak_fastest(&run->peak_flops, run->backend), type = FLOAT_BF16;
  bool is_auto = strcmp(recipe->bf16, "auto") == 0, has_half = run->backend->kernels->peak_flops(FLOAT_F16, run->backend) > 0;
  if (recipe->fp16 && has_half) type = FLOAT_F16;
  else if (is_auto) type = fastest;
  else if (strcmp(recipe->bf16, "false") == 0) type = FLOAT_32;
  // All ranks take what the first has found: what is fastest is a matter of measuring.
  int64_t chosen = type;
  TRY(group_broadcast(&chosen, sizeof chosen, "the type of activations", run->group));
  *out = type = (FloatType)chosen;
  double peak = type == fastest ? run->peak_flops : run->backend->kernels->peak_flops(type, run->backend);
  if (peak > 0) run->peak_flops = peak;
  if (peak > 0 || !run->backend->upload_matrix) return STATUS_OK;
  return status_fail(STATUS_USAGE, "bf16: this device has no instructions for bfloat16; leave bf16 out, or set fp16: true");
}

// What is left for a step of max_memory, or of what the machine has free, once the run is open. The weights are
// counted whole, though few of their pages have been touched by now.
int64_t run_free_bytes(const Run *run) {
  enum { PROGRAM_BYTES = 32 << 20 };  // code, libraries, stacks, the export's buffers
  Backend *backend = run->backend;
  if (backend->upload_matrix) {  // what lies on the device by now stays
    int64_t most = backend->available_bytes(backend), limit = run->recipe->max_memory - backend->peak_bytes(backend);
    return run->recipe->max_memory > 0 && limit < most ? limit : most;
  }
  if (run->recipe->max_memory <= 0) return (int64_t)(0.8 * (double)run->backend->available_bytes(run->backend)) / run->group->local_size;
  return run->recipe->max_memory - memory_private_bytes() - model_mapped_bytes(run->model) - run->model->shared_bytes - PROGRAM_BYTES;
}

char *run_describe_trained(const Run *run) {
  const Adapter *adapter = run->adapter;
  if (adapter->is_full) return memory_copy_string("all weights trained in full");
  Buffer text = {0};
  int linears = 0;
  for (int i = 0; i < adapter->count; i++)
    linears += adapter->linears[i] != &run->model->embedding && adapter->linears[i] != &run->model->head;
  buffer_format(&text, "%d of %d linear layers", linears, run->model->linear_count);
  for (int i = 0; i < adapter->count; i++)
    if (adapter->linears[i] == &run->model->embedding || adapter->linears[i] == &run->model->head)
      buffer_format(&text, ", %s", adapter->linears[i] == &run->model->head ? "the head" : "the embedding");
  buffer_append_string(&text, " adapted");
  if (adapter->trained_count) buffer_format(&text, ", %d tensors trained in full", adapter->trained_count);
  if (adapter->tokens.rows.rows) buffer_format(&text, ", %lld tokens' embeddings trained", (long long)adapter->tokens.rows.rows);
  return text.data;
}

static void tell_shards(const Run *run) {
  char bytes[32], step[32], forward[32];
  const Model *model = run->model;
  if (run->recipe->shard_base && run->group->size > 1 && !model->shards)
    log_info("shard_base: the processes of this machine share one copy of the base, so that nothing has to be divided");
  if (!model->shards) return;
  log_info(
      "the base is divided: each process keeps %s of its layers, two whole ones at a time among it; a micro-batch brings it %s from the "
      "others, one that is only evaluated %s",
      format_bytes(bytes, (double)shards_bytes(model)), format_bytes(step, (double)shards_step_bytes(model)),
      format_bytes(forward, (double)shards_forward_bytes(model)));
  if (model->embedding_on_host) log_info("the embedding stays in the host's memory, which looks its rows up");
}

static void describe(const Run *run) {
  char base[32], adapter[32], activations[32], offloaded[32];
  const Model *model = run->model;
  RowStatistics rows = row_set_statistics(&run->train_rows);
  char *trained = run_describe_trained(run);
  log_info("%s: %lld layers, %s, %lld trainable parameters", recipe_model_name(run->recipe), (long long)model->config.layers, trained,
           (long long)run->adapter->size);
  free(trained);
  log_info("%s%lld rows, %lld tokens (%lld trained); %lld steps, warm-up %lld", run->stream ? "streaming; the first chunk: " : "",
           (long long)run->train_rows.count, (long long)rows.tokens, (long long)rows.trained, (long long)run->total_steps,
           (long long)run->schedule.warmup_steps);
  int64_t values = 2 * run->adapter->size * (int64_t)sizeof(float);  // and gradients
  format_bytes(base, (double)((model->is_uploaded ? model->device_bytes : model_host_bytes(model)) + run->adapter->residual_bytes));
  format_bytes(adapter, (double)(values + optimizer_state_bytes(run->optimizer)));
  format_bytes(activations, (double)run->step.tape.block_bytes);
  if (run->group->size > 1)
    log_info("%d processes on %d machine%s: a step is %lld micro-batches, at most %lld of one process", run->group->size,
             run->group->machines, run->group->machines == 1 ? "" : "s", (long long)run->step_batches,
             (long long)((run->step_batches + run->group->size - 1) / run->group->size));
  tell_shards(run);
  log_info("activations in %s; products at most %.0f GFLOP/s here", float_name(run->step.tape.activations), run->peak_flops / 1e9);
  log_info("memory: base %s; adapter, gradient and optimiser %s; activations %s, %d of %lld layers recomputed", base, adapter, activations,
           run->step.recomputed_layers, (long long)model->config.layers);
  int64_t host = run->step.tape.host_block_bytes;
  if (host > 0)
    log_info("offloaded: the residual stream between layers, %s, waits for the backward pass in the host's memory",
             format_bytes(offloaded, (double)host));
}

static Status reserve_evaluation(Run *run) {
  BatchPlan plan;
  Batch batch = {0};
  TRY(batch_plan_create(&plan, &run->eval_rows, &run->eval_options, 0));
  batch_fill(&batch, &plan, plan.largest);
  Status status = step_reserve(&run->step, &batch, TAPE_FORWARD);
  batch_release(&batch);
  batch_plan_release(&plan);
  return status;
}

// The reference is the policy as it started: the base, unless the adapter was one already, or its start changes what the model says.
static Status open_preference(Run *run) {
  const Recipe *recipe = run->recipe;
  if (!recipe->rl) return STATUS_OK;
  bool is_base = run->starts_at_base || (recipe->rl_reference && strcmp(recipe->rl_reference, "base") == 0);
  if (recipe->lora_dropout > 0) log_notice("lora_dropout: dropout is off in preference training, as it is in TRL");
  return preference_open(&run->preference, recipe, run->adapter, &run->step, is_base);
}

// metric_for_best_model has to be a figure that evaluations will have.
static Status check_metric(const Run *run) {
  Evaluation any = {.perplexity = run->preference ? NAN : 1};
  if (run->preference) preference_figures(&any.figures, &(PreferenceSums){0}, &(PreferenceShare){0}, run->preference);
  return run->eval_every > 0 ? stopping_check(run->recipe, &any) : STATUS_OK;
}

static Status precompute(ReferenceScores *scores, Run *run, const RowSet *rows, const BatchOptions *options) {
  BatchOptions in_order = *options;
  in_order.in_order = true;
  BatchPlan plan;
  TRY(batch_plan_create(&plan, rows, &in_order, 0));
  Status status = preference_precompute(scores, run->preference, &plan, run->group);
  batch_plan_release(&plan);
  return status;
}

static Status precompute_reference(Run *run) {
  if (!run->preference || !run->recipe->precompute_ref_log_probs || !preference_has_reference(&run->preference->settings)) return STATUS_OK;
  TRY(precompute(&run->train_reference, run, &run->train_rows, &run->batch_options));
  return run->eval_every > 0 ? precompute(&run->eval_reference, run, &run->eval_rows, &run->eval_options) : STATUS_OK;
}

// Whether the recipe changes the base's vocabulary: by `tokens` that it has not, or by other texts for some of its own.
static Status find_new_tokens(Run *run) {
  const StringList *tokens = &run->recipe->tokens;
  const char *path = dataset_tokenizer_path(run->recipe);
  Tokenizer *base;
  TRY(tokenizer_open(&base, path));
  run->has_new_tokens = run->recipe->added_tokens_overrides.count > 0;
  for (int i = 0; i < tokens->count; i++) run->has_new_tokens |= tokenizer_find(base, tokens->items[i]) < 0;
  tokenizer_free(base);
  char *file = path_join(path, "tokenizer.json");
  bool is_there = file_exists(file);
  free(file);
  if (!run->has_new_tokens || is_there) return STATUS_OK;
  return recipe_fail(run->recipe, STATUS_USAGE, tokens->count ? "tokens" : "added_tokens_overrides",
                     "%s has no tokenizer.json, into which new tokens would be written; name a base_model that is a Hugging Face folder",
                     path);
}

// The rows that the vocabulary must have: for `tokens`, and for the adapter that is gone on from.
static Status find_vocabulary(int64_t *rows, Run *run) {
  const Recipe *recipe = run->recipe;
  *rows = 0;
  if (recipe->adapter && recipe->lora_model_dir) TRY(adapter_vocabulary(rows, recipe->lora_model_dir));
  if (recipe->tokens.count + recipe->added_tokens_overrides.count == 0) return STATUS_OK;
  TRY(find_new_tokens(run));
  TRY(dataset_open_tokenizer(&run->tokenizer, recipe));
  if (run->has_new_tokens && tokenizer_size(run->tokenizer) > *rows) *rows = tokenizer_size(run->tokenizer);
  return STATUS_OK;
}

ModelOptions run_model_options(const Recipe *recipe) {
  bool is_qlora = recipe->adapter && strcmp(recipe->adapter, "qlora") == 0;
  return (ModelOptions){.quantize_nf4 = recipe->load_in_4bit || is_qlora, .quantize_q8_0 = recipe->load_in_8bit};
}

// Whether the embedding is only read, as the file has it; what may be meant otherwise counts as not.
static bool has_plain_embedding(const Recipe *r) {
  bool is_named = r->lora_target_modules_regex != NULL;
  for (int i = 0; i < r->lora_target_modules.count; i++) is_named |= strstr(r->lora_target_modules.items[i], "embed") != NULL;
  return r->adapter && !is_named && !r->lora_model_dir && r->lora_modules_to_save.count == 0 && r->tokens.count == 0 &&
         r->added_tokens_overrides.count == 0 && r->peft_trainable_token_indices.count == 0 && r->neftune_noise_alpha <= 0;
}

Status run_open(Run *run, const Recipe *recipe, TrainOptions options, Backend *backend, Group *group) {
  *run = (Run){.recipe = recipe, .options = options, .backend = backend, .group = group, .chunk = -1};
  run->program_bytes = memory_resident_bytes();
  ModelOptions model_options = run_model_options(recipe);
  model_options.group = group, model_options.is_sharded = recipe->shard_base;
  model_options.has_plain_embedding = has_plain_embedding(recipe);
  if (recipe->load_in_8bit)
    log_notice("load_in_8bit: weights become llama.cpp's Q8_0, 8 bits in blocks of 32, where Axolotl takes LLM.int8()");
  TRY(choose_schedule(run));
  TRY(find_vocabulary(&model_options.vocabulary, run));
  TRY(model_open(&run->model, recipe->base_model, model_options, backend));
  TRY(model_balance_open(run->model));
  int64_t before = memory_private_bytes();
  TRY(run_open_rows(run));
  run->rows_bytes = memory_private_bytes() - before;
  TRY(open_adapter(run));
  TRY(group_broadcast_device(run->adapter->data, run->adapter->size * (int64_t)sizeof(float), "the adapter's start", group));
  TRY(run_find_checkpoint(run));
  TRY(run->stream ? plan_stream(run) : plan_epochs(run));
  open_schedule(run);
  TRY(open_optimizer(run));
  TRY(average_open(&run->average, run->adapter, recipe->ema_decay));
  FloatType activations;
  TRY(run_choose_activations(&activations, run));
  run->optimizer->loss_scale = loss_scale_new(activations == FLOAT_F16);
  step_new(&run->step, run->model, activations, checkpointing(run), run_free_bytes(run));
  run->step.noise = (float)recipe->neftune_noise_alpha;
  run->step.kl_weight = (float)recipe->kl_weight, run->step.adapter = run->adapter;
  TRY(open_preference(run));
  TRY(check_metric(run));
  step_leave_workspace(&run->step, &run->largest, run->total_steps * ((run->step_batches + group->size - 1) / group->size));
  if (options.profile) run->step.tape.profile = &run->profile;
  TRY(step_reserve(&run->step, &run->largest, TAPE_TRAIN));
  if (run->eval_every > 0) TRY(reserve_evaluation(run));
  describe(run);
  return precompute_reference(run);
}

void run_close(Run *run) {
  preference_close(run->preference);
  free(run->train_reference);
  free(run->eval_reference);
  if (run->step.model) step_free(&run->step);
  average_close(&run->average);
  optimizer_free(run->optimizer);
  adapter_close(run->adapter);
  batch_release(&run->largest);
  dataset_stream_close(run->stream);
  row_set_release(&run->train_rows);
  row_set_release(&run->eval_rows);
  tokenizer_free(run->tokenizer);
  model_close(run->model);
  free(run->epoch_steps);
  free(run->checkpoint);
  *run = (Run){0};
}

void run_show_average(const Run *run, bool is_shown) {
  (is_shown ? optimizer_show_average : optimizer_show_training)(run->optimizer, run->adapter->data);
  average_show(&run->average, is_shown);
}
