#include "cli/engine_options.h"

#include <string.h>

EngineChoice engine_choice(void) { return (EngineChoice){.cache_type = pages_type_name(PAGES_F16)}; }

void engine_options(Option options[ENGINE_CHOICES], EngineChoice *choice) {
  options[0] = (Option){.name = "cache-type",
                        .kind = OPTION_STRING,
                        .value = &choice->cache_type,
                        .argument = "T",
                        .help = "of keys and values: f16, q8_0 or f32 (default: f16)"};
  options[1] = (Option){.name = "drafts",
                        .kind = OPTION_INTEGER,
                        .value = &choice->drafts,
                        .argument = "N",
                        .help = "tokens that are proposed from what the text repeats, and checked in one pass (default: 0, off)",
                        .max = ENGINE_DRAFTS};
}

Status engine_choice_read(EngineOptions *options, const EngineChoice *choice) {
  static const PagesType types[] = {PAGES_F16, PAGES_Q8_0, PAGES_F32};
  options->drafts = choice->drafts;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (strcmp(choice->cache_type, pages_type_name(types[i])) != 0) continue;
    options->cache_type = types[i];
    return STATUS_OK;
  }
  return status_fail(STATUS_USAGE, "--cache-type %s is not known: f16, q8_0 or f32", choice->cache_type);
}
