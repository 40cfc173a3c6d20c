// What validates and cannot be trained yet in this version.
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/text.h"
#include "recipes/schema.h"

// Every AdamW keeps its state in float32: a notice is due where the recipe asks for less.
bool optimizer_is_built(const char *optimizer, bool *low_precision) {
  static const char *const plain[] = {"adamw_torch",           "adamw_torch_fused", "adamw_hf",    "adamw_apex_fused",
                                      "adamw_anyprecision",    "paged_adamw_32bit", "paged_adamw", "adamw_torch_xla",
                                      "adamw_torch_npu_fused", "optimi_adamw",      NULL};
  static const char *const low[] = {"adamw_bnb_8bit", "adamw_8bit",    "adamw_torch_8bit", "adamw_torch_4bit", "paged_adamw_8bit",
                                    "ao_adamw_4bit",  "ao_adamw_8bit", "ao_adamw_fp8",     "flash_adamw",      NULL};
  *low_precision = word_is_in(low, optimizer);
  return *low_precision || word_is_in(plain, optimizer);
}

bool scheduler_is_built(const char *scheduler) {
  static const char *const built[] = {"cosine", "linear", "constant", "constant_with_warmup", NULL};
  return word_is_in(built, scheduler);
}

bool dataset_type_is_built(const char *type) {
  static const char *const built[] = {
      "alpaca",        "alpaca_chat", "alpaca_instruct", "alpaca_w_system", "chat_template", "completion",    "concisechoice",
      "explainchoice", "gpteacher",   "input_output",    "jeopardy",        "oasst",         "summarizetldr", NULL};
  char base[32];  // the type without its variant: prompts of one base are built together
  size_t length = strcspn(type, ":.");
  if (word_is_in(preference_type_words, type) || length >= sizeof base) return false;
  snprintf(base, sizeof base, "%.*s", (int)length, type);
  return word_is_in(built, base);
}

static Status check_types(const Recipe *recipe, const char *list, const DatasetRecipe *datasets, int count) {
  for (int i = 0; i < count; i++) {
    if (!datasets[i].type || datasets[i].type_is_mapping || dataset_type_is_built(datasets[i].type)) continue;
    char key[64];
    snprintf(key, sizeof key, "%s.%d.type", list, i);
    return recipe_fail(recipe, STATUS_USAGE, key,
                       "the type %s is not built yet in this version; give format strings in its place: type: {format: ...}",
                       datasets[i].type);
  }
  return STATUS_OK;
}

// A key of the schema that waits for its feature, and asks for it.
static bool asks_for_more(const SchemaKey *key, const char *name, const Node *value) {
  if ((key->fate != KEY_LATER && key->fate != KEY_PENDING) || node_is_off(value)) return false;
  // The way every adapter starts.
  if (strcmp(name, "peft_init_lora_weights") == 0) return value->kind != NODE_SCALAR || strcmp(value->text, "true") != 0;
  return true;
}

Status recipe_check_trainable(const Recipe *recipe) {
  const Node *tree = recipe->tree;
  for (int i = 0; i < tree->count; i++) {
    const char *name = tree->keys[i]->text;
    const SchemaKey *key = schema_find(&schema_recipe, name);
    if (!key) key = schema_find(&schema_others, name);
    if (key && asks_for_more(key, name, tree->items[i]))
      return recipe_fail(recipe, STATUS_USAGE, name, "is not built yet in this version (%s); remove it to train without", key->doc);
  }
  if (!recipe->adapter)
    return recipe_fail(recipe, STATUS_USAGE, "adapter", "full fine-tuning is not built yet in this version; set adapter: lora or qlora");
  if (strcmp(recipe->adapter, "lora") != 0 && strcmp(recipe->adapter, "qlora") != 0)
    return recipe_fail(recipe, STATUS_USAGE, "adapter", "%s is not built yet in this version; use lora or qlora", recipe->adapter);
  bool low_precision;
  if (!optimizer_is_built(recipe->optimizer, &low_precision))
    return recipe_fail(recipe, STATUS_USAGE, "optimizer", "%s is not built yet in this version; use adamw_torch_fused", recipe->optimizer);
  if (!scheduler_is_built(recipe->lr_scheduler))
    return recipe_fail(recipe, STATUS_USAGE, "lr_scheduler",
                       "%s is not built yet in this version; use cosine, linear, constant or constant_with_warmup", recipe->lr_scheduler);
  if (recipe->save_strategy && strcmp(recipe->save_strategy, "best") == 0)
    return recipe_fail(recipe, STATUS_USAGE, "save_strategy", "best is not built yet in this version; use steps or epoch");
  TRY(check_types(recipe, "datasets", recipe->datasets, recipe->dataset_count));
  TRY(check_types(recipe, "test_datasets", recipe->test_datasets, recipe->test_dataset_count));
  if (low_precision) log_notice("optimizer: %s: runs as AdamW with its state in float32", recipe->optimizer);
  return STATUS_OK;
}
