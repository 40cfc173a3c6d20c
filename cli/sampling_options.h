// The options of sampling, the same in every command that writes text.
#ifndef CLI_SAMPLING_OPTIONS_H
#define CLI_SAMPLING_OPTIONS_H

#include "cli/options.h"
#include "runtime/sampler.h"

enum { SAMPLING_OPTIONS = 7 };

// What the options are bound to, with the sampler's defaults.
typedef struct SamplingChoice {
  SamplerSettings settings;
  int64_t seed;
} SamplingChoice;

SamplingChoice sampling_choice(void);
void sampling_options(Option options[SAMPLING_OPTIONS], SamplingChoice *choice);
SamplerSettings sampling_settings(const SamplingChoice *choice);

#endif
