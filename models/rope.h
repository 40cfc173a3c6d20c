// Rotary positions (Su et al. 2021) and the ways in which models stretch them to longer contexts.
#ifndef MODELS_ROPE_H
#define MODELS_ROPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"
#include "formats/gguf.h"

typedef enum RopeScaling {
  ROPE_SCALING_NONE,
  ROPE_SCALING_LINEAR,  // Chen et al. 2023
  ROPE_SCALING_DYNAMIC,  // NTK-aware by the document's length, beyond the context that the model was trained with
  ROPE_SCALING_LLAMA3,  // Grattafiori et al. 2024
  ROPE_SCALING_YARN,  // Peng et al. 2023
  ROPE_SCALING_LONGROPE,  // Ding et al. 2024: divisors for documents longer than the original context, others for the rest
  ROPE_SCALING_COUNT,
} RopeScaling;

extern const char *const rope_scaling_names[ROPE_SCALING_COUNT];  // config.json's

typedef struct Rope {
  double base;  // 0: there is no such RoPE
  int64_t rotary;  // dimensions of a head that turn
  RopeScaling scaling;
  double factor, low_frequency_factor, high_frequency_factor, original_context;
  double beta_fast, beta_slow, mscale, mscale_all_dim;  // YaRN; the two mscales are 0 where they are not given
  bool truncates;  // YaRN: its range is of whole dimensions
  double attention_factor;  // of sine and cosine; 0: what the scaling says
  const float *long_factors, *short_factors;  // [rotary / 2]: LongRoPE's divisors
  const float *divisors;  // [rotary / 2], or NULL: GGUF's rope_freqs.weight
} Rope;

// frequencies[rotary / 2] for a document of `length` tokens; `context`: of the model.
void rope_frequencies(float *frequencies, const Rope *rope, int64_t length, int64_t context);
bool rope_depends_on_length(const Rope *rope);
double rope_magnitude(const Rope *rope);  // what sine and cosine are multiplied by
double rope_score_factor(const Rope *rope);  // what DeepSeek's YaRN multiplies scores by

// config.json: `root` has rope_theta, rope_parameters (new) or rope_scaling (old). `rotary` is set before to all of a head's dimensions;
// `local` gets a base where has_local says that windowed layers have their own. `context`: max_position_embeddings.
Status rope_from_json(Rope *rope, Rope *local, const json_t *root, bool has_local, int64_t context, const char *path, Arena *arena);
// rope_theta, rope_scaling and rope_parameters. rotary_of: the dimensions of which `rotary` turn. STATUS_BAD_INPUT when GGUF's divisors
// are of no kind that config.json knows.
Status rope_to_json(json_t *root, const Rope *rope, const Rope *local, int64_t rotary_of, const char *path);
json_t *json_float(double value);  // a real number with the fewest digits that are this float32
// GGUF's {arch}.rope keys, and the tensors that belong to them; `rotary` is set before.
Status rope_from_gguf(Rope *rope, Rope *local, const Gguf *gguf, const char *architecture, bool has_local, int64_t context, Arena *arena);
void rope_to_gguf(GgufWriter *writer, const Rope *rope, const Rope *local, const char *architecture);
Status rope_check(const Rope *rope, const char *path);

#endif
