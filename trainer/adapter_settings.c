// From a recipe's keys to the settings of a new adapter.
#include <stdlib.h>

#include "trainer/run.h"

static PatternValue *pattern_values(Arena *arena, const StringPairs *pairs) {
  PatternValue *values = arena_new(arena, (size_t)pairs->count, sizeof *values);
  for (int i = 0; i < pairs->count; i++) values[i] = (PatternValue){pairs->keys[i], strtod(pairs->values[i], NULL)};
  return values;
}

AdapterSettings run_adapter_settings(Arena *arena, const Recipe *recipe) {
  bool named = recipe->lora_target_modules.count > 0 || recipe->lora_target_modules_regex;
  return (AdapterSettings){.rank = recipe->lora_r,
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
                           .seed = (uint64_t)recipe->seed};
}
