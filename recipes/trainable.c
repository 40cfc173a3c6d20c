// What validates and cannot be trained yet in this version.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "recipes/schema.h"

// Optimisers of Axolotl's list that `train` refuses, and why. All others are in optim/names.c, and a test holds the two to be one list.
const char *optimizer_refusal(const char *optimizer) {
#define FULL_RANK \
  "is a method for training weights in full, whose gradients it projects to low rank; an adapter is of low rank itself: use "
  static const char *const table[][2] = {
      {"galore_adamw", FULL_RANK "adamw_torch_fused"},
      {"galore_adamw_layerwise", FULL_RANK "adamw_torch_fused"},
      {"galore_adamw_8bit", FULL_RANK "adamw_8bit"},
      {"galore_adamw_8bit_layerwise", FULL_RANK "adamw_8bit"},
      {"galore_adafactor", FULL_RANK "adafactor"},
      {"galore_adafactor_layerwise", FULL_RANK "adafactor"},
      {"q_galore_adamw8bit", FULL_RANK "adamw_8bit"},
      {"apollo_adamw", FULL_RANK "adamw_torch_fused"},
      {"apollo_adamw_layerwise", FULL_RANK "adamw_torch_fused"},
      {"lomo", "updates weights within the backward pass, to train them in full without gradients in memory; use sgd"},
      {"adalomo", "updates weights within the backward pass, to train them in full without gradients in memory; use adafactor"},
      {"dion", "is Muon for weights that are spread over devices; on one device use muon"},
      {"came_pytorch", "is Adafactor with a further factored state, and is not built; use adafactor"},
      {"grokadamw", "is AdamW with filtered gradients, and is not built; use adamw_torch_fused"},
      {"adopt_adamw", "is AdamW with its steps in another order, and is not built; use adamw_torch_fused"},
      {"stable_adamw", "is AdamW with its update clipped, and is not built; use adamw_torch_fused with max_grad_norm"},
      {"schedule_free_radam", "is not built; use schedule_free_adamw"},
      {"schedule_free_sgd", "is not built; use schedule_free_adamw, or sgd"},
      {"flash_lion", "keeps its state in pieces of low precision, which is not built; use lion_8bit"},
      {"flash_sgd", "keeps its state in pieces of low precision, which is not built; use sgd"},
      {"flash_sgdw", "keeps its state in pieces of low precision, which is not built; use sgd"},
  };
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
    if (strcmp(table[i][0], optimizer) == 0) return table[i][1];
  return NULL;
}

const char *scheduler_refusal(const char *scheduler) {
  if (strcmp(scheduler, "reduce_lr_on_plateau") != 0) return NULL;
  return "waits for evaluations, so that a rate is no function of the step; use cosine, or warmup_stable_decay";
}

// Types that do not work in Axolotl either, or that are of another kind of training.
const char *dataset_type_refusal(const char *type) {
  static const char *const table[][2] = {
      {"llama2_chat",
       "it places its masks by the token ids and lengths of Llama 2's vocabulary alone, and leaves whole rows untrained by any "
       "other; use type: chat_template with field_messages: conversations and message_property_mappings: {role: from, "
       "content: value}"},
      {"reflection:chat",
       "in this style Axolotl leaves the corrected reply out, and trains to stop where it should begin; use type: reflection"},
      {"stepwise_supervised",
       "its labels are marks for the steps of a process reward model, which is not built; use type: chat_template on "
       "the good replies"},
  };
  size_t length = strlen(type);
  if (text_ends_with(type, ".load")) length -= strlen(".load");
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
    if (strlen(table[i][0]) == length && strncmp(table[i][0], type, length) == 0) return table[i][1];
  return NULL;
}

bool dataset_type_is_built(const char *type) { return !word_is_in(preference_type_words, type) && !dataset_type_refusal(type); }

bool preference_type_fits(Buffer *reason, const char *type, const char *rl) {
  const char *const *words = strcmp(rl, "kto") == 0 ? kto_type_words : pair_type_words;
  bool fits = word_is_in(words, type);
  if (fits && !text_starts_with(type, "user_defined")) return true;
  if (fits) {
    buffer_append_string(reason, "it says nothing yet; write its keys in place of the name, as a mapping: type: {field_prompt: ...}");
    return false;
  }
  buffer_format(reason, "it does not go with rl: %s; there are ", rl);
  for (int i = 0; words[i]; i++)
    if (!text_starts_with(words[i], "user_defined")) buffer_format(reason, "%s, ", words[i]);
  buffer_append_string(reason, "a mapping of formats, and no type at all");
  return false;
}

// What `train` refuses: all of it in one go, a line each.
typedef struct Refusals {
  const Recipe *recipe;
  Buffer lines;
} Refusals;

static PRINTF_LIKE(3, 4) void refuse(Refusals *refusals, const char *key, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  recipe_fail(refusals->recipe, STATUS_USAGE, key, "%s", text);
  buffer_format(&refusals->lines, "%s%s", refusals->lines.length ? "\n" : "", status_message());
}

static void check_preference_type(Refusals *refusals, const char *key, const char *type) {
  Buffer reason = {0};
  if (!preference_type_fits(&reason, type, refusals->recipe->rl)) refuse(refusals, key, "the type %s is refused: %s", type, reason.data);
  buffer_release(&reason);
}

static void check_types(Refusals *refusals, const char *list, const DatasetRecipe *datasets, int count) {
  for (int i = 0; i < count; i++) {
    const char *type = datasets[i].type;
    if (!type || !*type || datasets[i].type_is_mapping || (!refusals->recipe->rl && dataset_type_is_built(type))) continue;
    char key[64];
    snprintf(key, sizeof key, "%s.%d.type", list, i);
    if (refusals->recipe->rl) check_preference_type(refusals, key, type);
    else if (word_is_in(preference_type_words, type))
      refuse(refusals, key, "the type %s is not built yet in this version; use chat_template, on the better replies alone", type);
    else refuse(refusals, key, "the type %s is refused: %s", type, dataset_type_refusal(type));
  }
}

// What works in place of a key that waits; of the others, training without.
static const char *find_instead(const char *key) {
  static const char *const table[][2] = {
      {"pretraining_dataset", "use datasets with type: completion"},
      {"streaming", "remove it; rows are read before the first step"},
      {"model_config", "write it into the base_model's own config.json"},
  };
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
    if (strcmp(table[i][0], key) == 0) return table[i][1];
  return "remove it to train without";
}

// What model_config may say: what does not concern a model whose base and router are frozen.
static bool is_harmless(const Node *overrides) {
  static const char *const harmless[] = {"output_router_logits", "router_aux_loss_coef", "use_cache",         "torch_dtype", "dtype",
                                         "_attn_implementation", "attn_implementation",  "attention_dropout", NULL};
  bool all = overrides->kind == NODE_MAPPING;
  for (int i = 0; all && i < overrides->count; i++) all = word_is_in(harmless, overrides->keys[i]->text);
  return all;
}

// A key of the schema that waits for its feature, and asks for it.
static bool asks_for_more(const SchemaKey *key, const char *name, const Node *value) {
  if ((key->fate != KEY_LATER && key->fate != KEY_PENDING) || node_is_off(value)) return false;
  if (strcmp(name, "model_config") == 0 || strcmp(name, "overrides_of_model_config") == 0) return !is_harmless(value);
  return true;
}

static void check_keys(Refusals *refusals) {
  const Node *tree = refusals->recipe->tree;
  for (int i = 0; i < tree->count; i++) {
    const char *name = tree->keys[i]->text;
    const SchemaKey *key = schema_find(&schema_recipe, name);
    if (!key) key = schema_find(&schema_others, name);
    if (key && asks_for_more(key, name, tree->items[i]))
      refuse(refusals, name, "is not built yet in this version (%s); %s", key->doc, find_instead(name));
  }
}

static void check_start(Refusals *refusals) {
  const Recipe *recipe = refusals->recipe;
  const char *start = recipe->peft_init_lora_weights;
  if (start && (strcmp(start, "eva") == 0 || strcmp(start, "corda") == 0))
    refuse(refusals, "peft_init_lora_weights", "%s needs passes over the data before training, which are not built yet; use pissa, or true",
           start);
  bool is_loftq = recipe->peft_loftq_bits > 0 || (start && strcmp(start, "loftq") == 0);
  if (is_loftq && !recipe->load_in_4bit && !recipe->lora_model_dir)
    refuse(refusals, recipe->peft_loftq_bits > 0 ? "peft" : "peft_init_lora_weights",
           "loftq begins with what 4 bits lose; set load_in_4bit: true and adapter: qlora");
  if (recipe->peft_loftq_bits > 0 && recipe->peft_loftq_bits != 4)
    refuse(refusals, "peft", "loftq_bits: %lld is not built yet in this version; 4 is, the bits of NF4",
           (long long)recipe->peft_loftq_bits);
}

static void check_names(Refusals *refusals) {
  const Recipe *recipe = refusals->recipe;
  if (recipe->adapter && strcmp(recipe->adapter, "lora") != 0 && strcmp(recipe->adapter, "qlora") != 0)
    refuse(refusals, "adapter", "%s is not built yet in this version; use lora or qlora", recipe->adapter);
  const StringList *tokens = &recipe->peft_trainable_token_indices;
  if (tokens->count && tokens->items[0][0] == '{')
    refuse(refusals, "peft_trainable_token_indices",
           "rows of other modules than embed_tokens are not built yet in this version; name that alone");
  if (optimizer_refusal(recipe->optimizer)) refuse(refusals, "optimizer", "%s %s", recipe->optimizer, optimizer_refusal(recipe->optimizer));
  if (scheduler_refusal(recipe->lr_scheduler))
    refuse(refusals, "lr_scheduler", "%s %s", recipe->lr_scheduler, scheduler_refusal(recipe->lr_scheduler));
}

// TRL refuses it too, when it begins.
static void check_kto(Refusals *refusals) {
  const Recipe *recipe = refusals->recipe;
  if (recipe->rl && strcmp(recipe->rl, "kto") == 0 && recipe->micro_batch_size < 2)
    refuse(refusals, "micro_batch_size", "kto estimates the KL divergence by each prompt with its neighbour's reply; set 2 or more");
}

// What is divided stays as the file has it: nothing of it can be trained, or take another matrix's place.
static void check_shards(Refusals *refusals) {
  const Recipe *recipe = refusals->recipe;
  const char *start = recipe->peft_init_lora_weights;
  bool changes_base = recipe->peft_loftq_bits > 0;
  for (int i = 0; start && i < 4; i++)
    changes_base |= text_starts_with(start, (const char *const[]){"pissa", "olora", "loftq", "corda"}[i]);
  if (!recipe->shard_base) return;
  if (!recipe->adapter) refuse(refusals, "shard_base", "divides a frozen base, and without an adapter all of it is trained; remove it");
  if (recipe->adapter && changes_base)
    refuse(refusals, "shard_base", "does not go with a start that changes the base's weights; set peft_init_lora_weights: true");
}

Status recipe_check_trainable(const Recipe *recipe) {
  Refusals refusals = {.recipe = recipe};
  check_keys(&refusals);
  check_kto(&refusals);
  check_names(&refusals);
  check_start(&refusals);
  check_shards(&refusals);
  check_types(&refusals, "datasets", recipe->datasets, recipe->dataset_count);
  check_types(&refusals, "test_datasets", recipe->test_datasets, recipe->test_dataset_count);
  Status status = refusals.lines.length ? status_fail(STATUS_USAGE, "%s", refusals.lines.data) : STATUS_OK;
  buffer_release(&refusals.lines);
  return status;
}
