// What validates and cannot be trained yet in this version.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "recipes/schema.h"

// AdamW keeps its state in float32 or in 8 bits: a notice is due where the recipe asks for less.
bool optimizer_is_built(const char *optimizer, bool *low_precision) {
  static const char *const plain[] = {"adamw_torch",           "adamw_torch_fused", "adamw_hf",       "adamw_apex_fused",
                                      "adamw_anyprecision",    "paged_adamw_32bit", "paged_adamw",    "adamw_torch_xla",
                                      "adamw_torch_npu_fused", "optimi_adamw",      "adamw_bnb_8bit", "adamw_8bit",
                                      "adamw_torch_8bit",      "paged_adamw_8bit",  "ao_adamw_8bit",  NULL};
  static const char *const low[] = {"adamw_torch_4bit", "ao_adamw_4bit", "ao_adamw_fp8", "flash_adamw", NULL};
  *low_precision = word_is_in(low, optimizer);
  return *low_precision || word_is_in(plain, optimizer);
}

bool scheduler_is_built(const char *scheduler) {
  static const char *const built[] = {"cosine", "linear", "constant", "constant_with_warmup", NULL};
  return word_is_in(built, scheduler);
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

static void check_types(Refusals *refusals, const char *list, const DatasetRecipe *datasets, int count) {
  for (int i = 0; i < count; i++) {
    const char *type = datasets[i].type;
    if (!type || datasets[i].type_is_mapping || dataset_type_is_built(type)) continue;
    char key[64];
    snprintf(key, sizeof key, "%s.%d.type", list, i);
    if (word_is_in(preference_type_words, type))
      refuse(refusals, key, "the type %s is not built yet in this version; use chat_template, on the better replies alone", type);
    else refuse(refusals, key, "the type %s is refused: %s", type, dataset_type_refusal(type));
  }
}

// What works in place of a key that waits; of the others, training without.
static const char *find_instead(const char *key) {
  static const char *const table[][2] = {
      {"rl", "train on the better replies alone, with type: chat_template"},
      {"load_in_8bit", "use load_in_4bit: true, or neither"},
      {"peft_use_dora", "use plain LoRA, or peft_use_rslora: true"},
      {"pretraining_dataset", "use datasets with type: completion"},
      {"streaming", "remove it; rows are read before the first step"},
      {"model_config", "write it into the base_model's own config.json"},
      {"cosine_min_lr_ratio", "remove it; cosine falls to 0"},
      {"early_stopping_patience", "set num_epochs or max_steps"},
      {"load_best_model_at_end", "remove it; save_total_limit keeps checkpoints to choose from"},
      {"lora_rank_pattern", "use lora_r for all"},
      {"lora_alpha_pattern", "use lora_alpha for all"},
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
  // The way every adapter starts.
  if (strcmp(name, "peft_init_lora_weights") == 0) return value->kind != NODE_SCALAR || strcmp(value->text, "true") != 0;
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

static void check_names(Refusals *refusals, bool *low_precision) {
  const Recipe *recipe = refusals->recipe;
  if (recipe->adapter && strcmp(recipe->adapter, "lora") != 0 && strcmp(recipe->adapter, "qlora") != 0)
    refuse(refusals, "adapter", "%s is not built yet in this version; use lora or qlora", recipe->adapter);
  const StringList *tokens = &recipe->peft_trainable_token_indices;
  if (tokens->count && tokens->items[0][0] == '{')
    refuse(refusals, "peft_trainable_token_indices",
           "rows of other modules than embed_tokens are not built yet in this version; name that alone");
  if (!optimizer_is_built(recipe->optimizer, low_precision))
    refuse(refusals, "optimizer", "%s is not built yet in this version; use adamw_torch_fused", recipe->optimizer);
  if (!scheduler_is_built(recipe->lr_scheduler))
    refuse(refusals, "lr_scheduler", "%s is not built yet in this version; use cosine, linear, constant or constant_with_warmup",
           recipe->lr_scheduler);
  if (recipe->save_strategy && strcmp(recipe->save_strategy, "best") == 0)
    refuse(refusals, "save_strategy", "best is not built yet in this version; use steps or epoch");
}

Status recipe_check_trainable(const Recipe *recipe) {
  Refusals refusals = {.recipe = recipe};
  bool low_precision = false;
  check_keys(&refusals);
  check_names(&refusals, &low_precision);
  check_types(&refusals, "datasets", recipe->datasets, recipe->dataset_count);
  check_types(&refusals, "test_datasets", recipe->test_datasets, recipe->test_dataset_count);
  Status status = refusals.lines.length ? status_fail(STATUS_USAGE, "%s", refusals.lines.data) : STATUS_OK;
  buffer_release(&refusals.lines);
  if (status == STATUS_OK && low_precision) log_notice("optimizer: %s: runs as AdamW with its state in float32", recipe->optimizer);
  return status;
}
