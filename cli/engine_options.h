// The options of the engine, the same in every command that writes text.
#ifndef CLI_ENGINE_OPTIONS_H
#define CLI_ENGINE_OPTIONS_H

#include "cli/options.h"
#include "runtime/engine.h"

enum { ENGINE_CHOICES = 2 };

typedef struct EngineChoice {
  const char *cache_type;
  int64_t drafts;
} EngineChoice;

EngineChoice engine_choice(void);
void engine_options(Option options[ENGINE_CHOICES], EngineChoice *choice);
// Sets cache_type and drafts. STATUS_USAGE for a type that is not known.
Status engine_choice_read(EngineOptions *options, const EngineChoice *choice);

#endif
