#include "cli/sampling_options.h"

#include <string.h>

SamplingChoice sampling_choice(void) { return (SamplingChoice){.settings = sampler_defaults()}; }

SamplerSettings sampling_settings(const SamplingChoice *choice) {
  SamplerSettings settings = choice->settings;
  settings.seed = (uint64_t)choice->seed;
  return settings;
}

void sampling_options(Option options[SAMPLING_OPTIONS], SamplingChoice *choice) {
  SamplerSettings *settings = &choice->settings;
  const Option bound[SAMPLING_OPTIONS] = {
      {.name = "temperature",
       .kind = OPTION_FLOAT,
       .value = &settings->temperature,
       .argument = "T",
       .help = "0 takes the likeliest token each time (default: 0.8)",
       .max = 1e6},
      {.name = "top-k",
       .kind = OPTION_INTEGER,
       .value = &settings->top_k,
       .argument = "K",
       .help = "draw among the K likeliest tokens; 0: all (default: 40)",
       .max = 1e9},
      {.name = "top-p",
       .kind = OPTION_FLOAT,
       .value = &settings->top_p,
       .argument = "P",
       .help = "among the likeliest that make up P together; 1: all (default: 0.95)",
       .max = 1},
      {.name = "min-p",
       .kind = OPTION_FLOAT,
       .value = &settings->min_p,
       .argument = "P",
       .help = "among those at least P times as likely as the likeliest; 0: all (default: 0.05)",
       .max = 1},
      {.name = "repetition-penalty",
       .kind = OPTION_FLOAT,
       .value = &settings->repetition_penalty,
       .argument = "R",
       .help = "above 1 makes tokens that stand in the last 64 less likely (default: 1, off)",
       .min = 0.01,
       .max = 100},
      {.name = "repetition-window",
       .kind = OPTION_INTEGER,
       .value = &settings->repetition_window,
       .argument = "N",
       .help = "how many tokens the penalty looks back; -1: all (default: 64)",
       .min = -1,
       .max = 1e9},
      {.name = "seed",
       .kind = OPTION_INTEGER,
       .value = &choice->seed,
       .argument = "S",
       .help = "the same seed gives the same text (default: 0)",
       .max = 9e18},
  };
  memcpy(options, bound, sizeof bound);
}
