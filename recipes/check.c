// Keys against each other: what Axolotl refuses too, so that a recipe means here what it means there, and what
// follows from several keys (the accumulation of a batch_size).
#include <math.h>
#include <string.h>

#include "core/text.h"
#include "recipes/schema.h"

// A key that is there with a value that asks for something.
static bool has(const Loader *loader, const char *key) { return !node_is_off(node_find(loader->root, key)); }

static bool is_word(const char *value, const char *word) { return value && strcmp(value, word) == 0; }

static bool list_holds(const StringList *list, const char *word) {
  for (int i = 0; i < list->count; i++)
    if (strcmp(list->items[i], word) == 0) return true;
  return false;
}

#define FAIL_KEY(loader, key, ...) loader_fail((loader), node_find_key((loader)->root, (key)), (key), __VA_ARGS__)
#define NOTICE_KEY(loader, key, ...) loader_notice((loader), node_find_key((loader)->root, (key)), (key), __VA_ARGS__)

// Refuses two keys that say the same thing in two ways, at the one that stands last.
static void check_not_both(Loader *loader, const char *first, const char *second) {
  if (!has(loader, first) || !has(loader, second)) return;
  const Node *a = node_find_key(loader->root, first), *b = node_find_key(loader->root, second);
  // The command line (line 0) comes after the file.
  bool first_is_last = b->line && (!a->line || a->line > b->line || (a->line == b->line && a->column > b->column));
  const char *last = first_is_last ? first : second;
  FAIL_KEY(loader, last, "%s and %s exclude each other; keep one", first, second);
}

// --- what one key asks of others ---

// Ways of one thing, of which Axolotl takes one at most.
static void check_alternatives(Loader *loader) {
  static const char *const groups[][5] = {
      {"flash_attention", "xformers_attention", "sdp_attention", "flex_attention", NULL},
      {"liger_glu_activation", "liger_swiglu", NULL},
      {"liger_cross_entropy", "liger_fused_linear_cross_entropy", NULL},
      {"is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model", "is_qwen_derived_model", NULL},
      {"s2_attention", "sample_packing", NULL},
      {"warmup_steps", "warmup_ratio", NULL},
      {"eval_steps", "evals_per_epoch", NULL},
      {"save_steps", "saves_per_epoch", NULL},
      {"gradient_accumulation_steps", "batch_size", NULL},
  };
  for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++)
    for (int i = 0; groups[g][i]; i++)
      for (int j = i + 1; groups[g][j]; j++) check_not_both(loader, groups[g][i], groups[g][j]);
}

// An older spelling beside the newer one, with another value.
static void check_spellings(Loader *loader) {
  static const char *const pairs[][2] = {{"evaluation_strategy", "eval_strategy"},
                                         {"dpo_beta", "rl_beta"},
                                         {"noisy_embedding_alpha", "neftune_noise_alpha"},
                                         {"overrides_of_model_config", "model_config"}};
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    const Node *older = node_find(loader->root, pairs[i][0]), *newer = node_find(loader->root, pairs[i][1]);
    if (node_is_null(older) || node_is_null(newer)) continue;
    if (older->kind == NODE_SCALAR && newer->kind == NODE_SCALAR && strcmp(older->text, newer->text) == 0) continue;
    FAIL_KEY(loader, pairs[i][0], "is the older spelling of %s, and they differ; remove this one", pairs[i][1]);
  }
}

// Keys that another one needs, or rules out.
static void check_companions(Loader *loader) {
  if (has(loader, "peft_layers_pattern") && node_is_null(node_find(loader->root, "peft_layers_to_transform")))
    FAIL_KEY(loader, "peft_layers_pattern", "needs peft_layers_to_transform; set that too, or remove this one");
  static const char *const tokens[] = {"special_tokens", "tokens", "added_tokens_overrides", "chat_template"};
  for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
    if (has(loader, "tokenizer_use_mistral_common") && has(loader, tokens[i]))
      FAIL_KEY(loader, tokens[i], "tokenizer_use_mistral_common leaves the tokenizer as it is; remove this key, or that one");
}

static void check_required(Loader *loader) {
  static const char *const required[] = {"base_model", "learning_rate"};
  for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
    const Node *value = node_find(loader->root, required[i]);
    if (node_is_null(value) || (value->kind == NODE_SCALAR && !value->text[0]))
      FAIL_KEY(loader, required[i], "is missing; every recipe needs it");
  }
  if (!has(loader, "datasets") && !has(loader, "pretraining_dataset"))
    FAIL_KEY(loader, "datasets", "is missing; name what to train on: datasets: [{path: rows.jsonl, type: alpaca}]");
}

static void check_batch(Loader *loader) {
  static const char *const keys[] = {"micro_batch_size", "gradient_accumulation_steps", "batch_size"};
  Recipe *recipe = loader->recipe;
  int given = 0, missing = 0;
  for (int i = 2; i >= 0; i--) {
    if (has(loader, keys[i])) given++;
    else if (i < 2) missing = i;
  }
  if (given < 2)
    FAIL_KEY(loader, keys[missing],
             "at least two of micro_batch_size, gradient_accumulation_steps and batch_size must be set; add this one");
  if (!has(loader, "batch_size") || has(loader, "gradient_accumulation_steps")) return;
  recipe->gradient_accumulation_steps = recipe->batch_size / recipe->micro_batch_size;
  if (recipe->gradient_accumulation_steps == 0)
    FAIL_KEY(loader, "batch_size", "is less than micro_batch_size (%lld); raise it", (long long)recipe->micro_batch_size);
  else if (recipe->batch_size % recipe->micro_batch_size)
    NOTICE_KEY(loader, "batch_size", "is no multiple of micro_batch_size; a step takes %lld",
               (long long)(recipe->gradient_accumulation_steps * recipe->micro_batch_size));
}

static void check_adapter(Loader *loader) {
  Recipe *recipe = loader->recipe;
  bool adapter = has(loader, "adapter"), qlora = is_word(recipe->adapter, "qlora");
  const char *bits = recipe->load_in_4bit ? "load_in_4bit" : "load_in_8bit";
  if (!adapter && (recipe->load_in_4bit || recipe->load_in_8bit))
    FAIL_KEY(loader, bits, "quantised weights cannot be trained without an adapter; set adapter: %s, or %s: false",
             recipe->load_in_4bit ? "qlora" : "lora", bits);
  if (qlora && !recipe->load_in_4bit) FAIL_KEY(loader, "adapter", "qlora needs a 4-bit base; set load_in_4bit: true, or adapter: lora");
  if (recipe->load_in_8bit && (qlora || recipe->load_in_4bit))
    FAIL_KEY(loader, "load_in_8bit", "%s takes a 4-bit base, not an 8-bit one; set load_in_8bit: false", qlora ? "qlora" : "load_in_4bit");
  if (!recipe->adapter || is_word(recipe->adapter, "llama-adapter")) return;
  if (!recipe->lora_model_dir && node_is_null(node_find(loader->root, "lora_r")))
    FAIL_KEY(loader, "lora_r", "is missing; an adapter needs its rank, 16 say");
  if (!recipe->lora_model_dir && node_is_null(node_find(loader->root, "lora_alpha")))
    FAIL_KEY(loader, "lora_alpha", "is missing; an adapter needs its scale, twice lora_r say");
  bool targets = recipe->lora_target_linear || recipe->lora_target_modules.count || recipe->lora_target_modules_regex;
  if (!targets && !recipe->lora_model_dir && !has(loader, "lora_target_parameters")) {
    recipe->lora_target_linear = true;
    NOTICE_KEY(loader, "adapter", "neither lora_target_modules nor lora_target_linear is set: every linear is adapted");
  }
  // Llama's names, and those of Pythia, GPT-2 and Falcon, whose output is the embedding.
  const StringList *saves = &recipe->lora_modules_to_save;
  bool saved = (list_holds(saves, "embed_tokens") && list_holds(saves, "lm_head")) ||
               (list_holds(saves, "embed_in") && list_holds(saves, "embed_out")) || list_holds(saves, "wte") ||
               list_holds(saves, "word_embeddings");
  if (recipe->tokens.count && !saved && recipe->peft_trainable_token_indices.count == 0)
    FAIL_KEY(loader, "tokens", "added tokens would never be trained; set lora_modules_to_save: [embed_tokens, lm_head]");
}

static void check_checkpointing(Loader *loader) {
  const Recipe *recipe = loader->recipe;
  const char *value = recipe->gradient_checkpointing;
  if (!value || is_word(value, "true") || is_word(value, "false")) return;
  if (!recipe->device || is_word(recipe->device, "cpu"))
    NOTICE_KEY(loader, "gradient_checkpointing", "%s does what true does on the cpu, whose memory is the host's: nothing is moved away",
               value);
  else if (is_word(value, "offload_disk"))
    NOTICE_KEY(loader, "gradient_checkpointing", "offload_disk does what offload does: the host's memory takes what is moved away");
}

static void check_precision(Loader *loader) {
  const Recipe *recipe = loader->recipe;
  bool bf16 = is_word(recipe->bf16, "true") || is_word(recipe->bf16, "full");
  if (bf16 && recipe->fp16) FAIL_KEY(loader, "fp16", "bf16 and fp16 exclude each other; keep one");
  if (recipe->fp16 && !(recipe->device && text_starts_with(recipe->device, "cuda")))
    NOTICE_KEY(loader, "fp16", "the CPU has no products in float16: activations are float32, or bfloat16 where that is faster");
}

static void check_chat(Loader *loader) {
  Recipe *recipe = loader->recipe;
  static char jinja[] = "jinja";
  if (recipe->chat_template_jinja && !recipe->chat_template) recipe->chat_template = jinja;
  else if (recipe->chat_template_jinja && !is_word(recipe->chat_template, "jinja"))
    NOTICE_KEY(loader, "chat_template_jinja", "changes nothing: chat_template is %s; set that to jinja to use it", recipe->chat_template);
  if (is_word(recipe->chat_template, "jinja") && !recipe->chat_template_jinja)
    FAIL_KEY(loader, "chat_template", "is jinja, but there is no template; set chat_template_jinja to a template or its path");
  for (int i = 0; i < recipe->eot_tokens.count; i++)
    if (!recipe->eot_tokens.items[i][0]) FAIL_KEY(loader, "eot_tokens", "holds an empty token; remove it");
}

static void notice_misfit(Loader *loader, const Node *at, const char *key, const char *type) {
  Buffer reason = {0};
  if (!preference_type_fits(&reason, type, loader->recipe->rl)) loader_notice(loader, at, key, "%s: %s", type, reason.data);
  buffer_release(&reason);
}

// A type of another kind of training than the recipe asks for. Axolotl validates it and stops when it loads the rows.
static void notice_types(Loader *loader, const char *list, const DatasetRecipe *datasets, int count) {
  const Node *entries = node_find(loader->root, list);
  for (int i = 0; i < count; i++) {
    const char *type = datasets[i].type;
    if (!type) continue;
    const char *base = arena_copy_bytes(loader->arena, type, strcspn(type, ":."));
    const char *key = arena_format(loader->arena, "%s.%d.type", list, i);
    const Node *at = node_find(entries->items[i], "type");
    if (!has(loader, "rl") && word_is_in(preference_type_words, type))
      loader_notice(loader, at, key, "%s is a type of preference training; set rl: dpo, or use type: chat_template", type);
    else if (loader->recipe->rl && word_is_in(supervised_type_words, base))
      loader_notice(loader, at, key, "%s has no pairs for rl: %s; use chat_template.default, or remove rl", type, loader->recipe->rl);
    else if (loader->recipe->rl && *type && !datasets[i].type_is_mapping) notice_misfit(loader, at, key, type);
  }
}

static void check_data(Loader *loader) {
  Recipe *recipe = loader->recipe;
  notice_types(loader, "datasets", recipe->datasets, recipe->dataset_count);
  notice_types(loader, "test_datasets", recipe->test_datasets, recipe->test_dataset_count);
  const Node *flattening = node_find(loader->root, "batch_flattening");
  if (recipe->sample_packing && has(loader, "batch_flattening") && strcmp(flattening->text ? flattening->text : "", "auto") != 0)
    FAIL_KEY(loader, "batch_flattening", "does for unpacked batches what sample_packing does; remove one");
  if (recipe->sample_packing && has(loader, "rl"))
    FAIL_KEY(loader, "sample_packing", "pairs are not packed; set sample_packing: false with rl");
  if (has(loader, "test_datasets")) check_not_both(loader, "val_set_size", "test_datasets");
  if (recipe->val_set_size > 1 && recipe->val_set_size != floor(recipe->val_set_size))
    FAIL_KEY(loader, "val_set_size", "above 1 it is a number of rows, and must be whole");
  bool streams = recipe->streaming || recipe->has_pretraining;
  if (recipe->rl && streams)
    FAIL_KEY(loader, "rl", "rows of preference training are not streamed; remove streaming and pretraining_dataset");
  const char *stream_key = recipe->streaming ? "streaming" : "pretraining_dataset";
  if (streams && recipe->max_steps <= 0) FAIL_KEY(loader, stream_key, "a stream has no length; set max_steps");
  if (streams && recipe->group_by_length) FAIL_KEY(loader, "group_by_length", "a stream cannot be sorted; set group_by_length: false");
  if (recipe->dataset_count && recipe->has_pretraining) check_not_both(loader, "datasets", "pretraining_dataset");
}

// Evaluations of Axolotl that generate text: `lora` has other ways for them, and Axolotl its conditions.
static void check_generation(Loader *loader) {
  static const char *const metrics[] = {"sacrebleu", "comet", "ter", "chrf", "perplexity", NULL};
  const Recipe *recipe = loader->recipe;
  if (has(loader, "eval_table_size") && recipe->sample_packing && recipe->eval_sample_packing != CHOICE_FALSE)
    FAIL_KEY(loader, "eval_table_size", "does not go with packed evaluation; set eval_sample_packing: false, or remove it");
  if (has(loader, "do_causal_lm_eval") && recipe->eval_sample_packing == CHOICE_TRUE)
    FAIL_KEY(loader, "do_causal_lm_eval", "does not go with packed evaluation; set eval_sample_packing: false, or remove it");
  const Node *asked = node_find(loader->root, "eval_causal_lm_metrics");
  for (int i = 0; asked && asked->kind == NODE_SEQUENCE && i < asked->count; i++)
    if (asked->items[i]->kind == NODE_SCALAR && !word_is_in(metrics, asked->items[i]->text))
      loader_fail(loader, asked->items[i], "eval_causal_lm_metrics", "\"%s\" is not known; give sacrebleu, comet, ter, chrf or perplexity",
                  asked->items[i]->text);
}

static bool evaluates(const Loader *loader) { return loader->recipe->val_set_size > 0 || has(loader, "test_datasets"); }

static void check_evaluation(Loader *loader) {
  const Recipe *recipe = loader->recipe;
  const char *strategy = has(loader, "evaluation_strategy") ? "evaluation_strategy" : "eval_strategy";
  bool never = is_word(recipe->eval_strategy, "no"), by_steps = !recipe->eval_strategy || is_word(recipe->eval_strategy, "steps");
  if (!by_steps && !never && has(loader, "eval_steps")) FAIL_KEY(loader, "eval_steps", "goes with %s: steps only; remove one", strategy);
  if (!by_steps && has(loader, "evals_per_epoch")) FAIL_KEY(loader, "evals_per_epoch", "goes with %s: steps only; remove one", strategy);
  check_generation(loader);
  if (evaluates(loader)) return;
  if (has(loader, "do_bench_eval"))
    FAIL_KEY(loader, "do_bench_eval", "there is no evaluation data; set val_set_size or test_datasets, or remove it");
  if (recipe->load_best_model_at_end)
    NOTICE_KEY(loader, "load_best_model_at_end", "changes nothing: there is no evaluation data (val_set_size, test_datasets)");
  static const char remedy[] = "there is no evaluation data; set val_set_size or test_datasets, or remove it";
  if (has(loader, "eval_steps") && !never) FAIL_KEY(loader, "eval_steps", "%s", remedy);
  if (recipe->eval_strategy && !never) FAIL_KEY(loader, strategy, "%s", remedy);
  if (has(loader, "evals_per_epoch"))
    NOTICE_KEY(loader, "evals_per_epoch", "changes nothing: there is no evaluation data (val_set_size, test_datasets)");
}

static void check_saving(Loader *loader) {
  const Recipe *recipe = loader->recipe;
  bool by_steps = !recipe->save_strategy || is_word(recipe->save_strategy, "steps");
  if (!by_steps && has(loader, "save_steps")) FAIL_KEY(loader, "save_steps", "goes with save_strategy: steps only; remove one");
  if (!by_steps && has(loader, "saves_per_epoch")) FAIL_KEY(loader, "saves_per_epoch", "goes with save_strategy: steps only; remove one");
  if (is_word(recipe->save_strategy, "best") && !recipe->metric_for_best_model)
    FAIL_KEY(loader, "save_strategy", "best needs to know by what; set metric_for_best_model: eval_loss");
  else if (is_word(recipe->save_strategy, "best") && !evaluates(loader))
    FAIL_KEY(loader, "save_strategy", "best needs evaluations; set val_set_size or test_datasets");
}

// How often something happens: every `steps` steps, `per_epoch` times an epoch, or neither.
typedef struct Interval {
  double steps, per_epoch;
} Interval;

static Interval find_interval(double steps, double per_epoch, const char *strategy) {
  if (is_word(strategy, "no")) return (Interval){0, 0};
  if (steps > 0) return (Interval){steps, 0};
  return (Interval){0, per_epoch > 0 ? per_epoch : 1};
}

static bool is_multiple(double a, double b) {
  double ratio = a / b;
  return ratio >= 1 && fabs(ratio - round(ratio)) < 1e-6;
}

// A checkpoint is only the best one if it was evaluated: saves must fall on evaluations.
static void check_early_stopping(Loader *loader) {
  const Recipe *recipe = loader->recipe;
  if (recipe->early_stopping_patience <= 0) return;
  static const char key[] = "early_stopping_patience";
  Interval save = find_interval(recipe->save_steps, recipe->saves_per_epoch, recipe->save_strategy);
  Interval eval = find_interval(recipe->eval_steps, recipe->evals_per_epoch, recipe->eval_strategy);
  // Steps and shares of all steps cannot be compared before the rows are counted.
  bool same_unit = (save.steps > 0) == (eval.steps > 0) && (save.steps < 1) == (eval.steps < 1);
  if (!evaluates(loader) || (eval.steps == 0 && eval.per_epoch == 0))
    FAIL_KEY(loader, key, "needs evaluations; set val_set_size or test_datasets, and eval_steps or evals_per_epoch");
  else if (save.steps == 0 && save.per_epoch == 0) FAIL_KEY(loader, key, "needs checkpoints; set save_steps or saves_per_epoch");
  else if (!same_unit) FAIL_KEY(loader, key, "saves and evaluations must meet; give both in steps, or both per epoch");
  else if (save.steps > 0 && !is_multiple(save.steps, eval.steps))
    FAIL_KEY(loader, key, "save_steps (%g) must be a multiple of eval_steps (%g), so that what is saved was evaluated", save.steps,
             eval.steps);
  else if (save.steps == 0 && !is_multiple(eval.per_epoch, save.per_epoch))
    FAIL_KEY(loader, key, "evals_per_epoch (%g) must be a multiple of saves_per_epoch (%g), so that what is saved was evaluated",
             eval.per_epoch, save.per_epoch);
}

static void check_preference(Loader *loader) {
  enum { MOST_LOSSES = 16 };
  const Recipe *recipe = loader->recipe;
  if (recipe->rl && recipe->kl_weight > 0)
    FAIL_KEY(loader, "kl_weight",
             "preference training has its own measure of what is near the reference; remove this key, and set rl_beta");
  const StringList *losses = &recipe->dpo_loss_type;
  if (is_word(recipe->rl, "ipo") && losses->count && !(losses->count == 1 && list_holds(losses, "ipo")))
    FAIL_KEY(loader, "dpo_loss_type", "rl: ipo is one loss already; write rl: dpo with dpo_loss_type: [ipo, ...], or remove this one");
  bool is_dpo = is_word(recipe->rl, "dpo") || is_word(recipe->rl, "ipo");
  if ((is_dpo || is_word(recipe->rl, "kto")) && recipe->rl_beta <= 0) FAIL_KEY(loader, "rl_beta", "has to be above 0");
  if (is_dpo && list_holds(losses, "exo_pair") && recipe->dpo_label_smoothing <= 0)
    FAIL_KEY(loader, "dpo_loss_type", "exo_pair needs dpo_label_smoothing above 0, for instance 0.001");
  if (is_dpo && list_holds(losses, "robust") && recipe->dpo_label_smoothing >= 0.5)
    FAIL_KEY(loader, "dpo_label_smoothing", "robust divides by 1 - 2 dpo_label_smoothing; set it below 0.5");
  if (losses->count > MOST_LOSSES) FAIL_KEY(loader, "dpo_loss_type", "has more than %d losses", MOST_LOSSES);
  if (recipe->dpo_loss_weights.count && recipe->dpo_loss_weights.count != recipe->dpo_loss_type.count)
    FAIL_KEY(loader, "dpo_loss_weights", "must have as many weights as dpo_loss_type has losses (%d)", recipe->dpo_loss_type.count);
  for (int i = 0; i < recipe->dpo_loss_weights.count; i++) {
    const Node weight = {.kind = NODE_SCALAR, .text = recipe->dpo_loss_weights.items[i]};
    double number;
    if (!node_number(&weight, &number)) FAIL_KEY(loader, "dpo_loss_weights", "must be numbers, not \"%s\"", weight.text);
  }
}

void recipe_check(Loader *loader) {
  Recipe *recipe = loader->recipe;
  if (recipe->max_steps < 0) recipe->max_steps = 0;
  check_required(loader);
  check_alternatives(loader);
  check_spellings(loader);
  check_companions(loader);
  check_batch(loader);
  check_adapter(loader);
  check_checkpointing(loader);
  check_precision(loader);
  check_chat(loader);
  check_data(loader);
  // A value of 0 beside the other key says nothing.
  if (!has(loader, "warmup_steps") && has(loader, "warmup_ratio")) recipe->warmup_steps = -1;
  if (!has(loader, "warmup_ratio") && has(loader, "warmup_steps")) recipe->warmup_ratio = -1;
  check_evaluation(loader);
  check_saving(loader);
  check_early_stopping(loader);
  check_preference(loader);
}
