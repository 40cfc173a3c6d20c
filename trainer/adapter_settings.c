// From a recipe's keys to the settings of a new adapter.
#include <stdlib.h>

#include "adapters/start.h"
#include "core/log.h"
#include "trainer/run.h"

// The ids of peft_trainable_token_indices, which the recipe has as text.
static int32_t *token_ids(Arena *arena, const StringList *list) {
  int32_t *ids = arena_new(arena, (size_t)list->count, sizeof *ids);
  for (int i = 0; i < list->count; i++) ids[i] = (int32_t)strtoll(list->items[i], NULL, 10);
  return ids;
}

static PatternValue *pattern_values(Arena *arena, const StringPairs *pairs) {
  PatternValue *values = arena_new(arena, (size_t)pairs->count, sizeof *values);
  for (int i = 0; i < pairs->count; i++) values[i] = (PatternValue){pairs->keys[i], strtod(pairs->values[i], NULL)};
  return values;
}

Status run_adapter_settings(AdapterSettings *settings, Arena *arena, const Recipe *recipe) {
  bool named = recipe->lora_target_modules.count > 0 || recipe->lora_target_modules_regex;
  *settings = (AdapterSettings){.rank = recipe->lora_r,
                                .alpha = recipe->lora_alpha,
                                .dropout = recipe->lora_dropout,
                                .rslora = recipe->peft_use_rslora,
                                .dora = recipe->peft_use_dora,
                                .all_linear = recipe->lora_target_linear || !named,
                                .targets = (const char *const *)recipe->lora_target_modules.items,
                                .target_count = recipe->lora_target_modules.count,
                                .target_regex = recipe->lora_target_modules_regex,
                                .rank_patterns = pattern_values(arena, &recipe->lora_rank_pattern),
                                .rank_pattern_count = recipe->lora_rank_pattern.count,
                                .alpha_patterns = pattern_values(arena, &recipe->lora_alpha_pattern),
                                .alpha_pattern_count = recipe->lora_alpha_pattern.count,
                                .layers = {.layers = recipe->peft_layers_to_transform,
                                           .count = recipe->peft_layers_to_transform_count,
                                           .patterns = (const char *const *)recipe->peft_layers_pattern.items,
                                           .pattern_count = recipe->peft_layers_pattern.count},
                                .trains_all = !recipe->adapter,
                                .modules_to_save = (const char *const *)recipe->lora_modules_to_save.items,
                                .modules_to_save_count = recipe->lora_modules_to_save.count,
                                .tokens = token_ids(arena, &recipe->peft_trainable_token_indices),
                                .token_count = recipe->peft_trainable_token_indices.count,
                                .seed = (uint64_t)recipe->seed};
  const char *start = recipe->peft_loftq_bits > 0 ? "loftq" : recipe->peft_init_lora_weights;
  TRY(adapter_start_parse(&settings->start, &settings->start_iterations, start));
  // What quantised weights lose by another start is not in an adapter for the base as it is.
  if (adapter_start_moves_base(settings->start) && (recipe->load_in_4bit || recipe->load_in_8bit))
    log_notice(
        "peft_init_lora_weights: %s on quantised weights: the base is quantised without its leading part, so that it loses less; over "
        "the base quantised as a whole the adapter is a little off, over its floats nearly exact",
        start);
  return STATUS_OK;
}
