// Frequencies of rotary positions, and what both formats say of them. With i < rotary / 2 and theta_i = base^(-2i / rotary):
//   linear    theta_i / factor
//   dynamic   theta_i of base (factor length / context - (factor - 1))^(rotary / (rotary - 2)), length at least context
//   llama3    by wavelength: theta_i / factor where it is long, theta_i where it is short, a blend between
//   yarn      by turns within the original context: theta_i / factor below beta_slow, theta_i above beta_fast, a ramp between
//   longrope  theta_i / long_factors[i] where length exceeds the original context, else theta_i / short_factors[i]
// as transformers' modeling_rope_utils.py computes them.
#include "models/rope.h"

#include <math.h>
#include <string.h>

const char *const rope_scaling_names[ROPE_SCALING_COUNT] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};

// YaRN's dimension that turns `turns` times within the original context.
static double yarn_dimension(double turns, const Rope *rope) {
  return (double)rope->rotary * log(rope->original_context / (turns * 2 * M_PI)) / (2 * log(rope->base));
}

static double yarn_frequency(double frequency, int64_t i, const Rope *rope) {
  double low = yarn_dimension(rope->beta_fast, rope), high = yarn_dimension(rope->beta_slow, rope);
  if (rope->truncates) low = floor(low), high = ceil(high);
  low = fmax(low, 0);
  high = fmin(high, (double)rope->rotary - 1);
  if (low == high) high += 0.001;
  double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
  return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

static double llama3_frequency(double frequency, const Rope *rope) {
  double wavelength = 2 * M_PI / frequency;
  if (wavelength > rope->original_context / rope->low_frequency_factor) return frequency / rope->factor;
  if (wavelength < rope->original_context / rope->high_frequency_factor) return frequency;
  double smooth =
      (rope->original_context / wavelength - rope->low_frequency_factor) / (rope->high_frequency_factor - rope->low_frequency_factor);
  return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

void rope_frequencies(float *frequencies, const Rope *rope, int64_t length, int64_t context) {
  double base = rope->base;
  if (rope->scaling == ROPE_SCALING_DYNAMIC && length > context)
    base *= pow(rope->factor * (double)length / (double)context - (rope->factor - 1), (double)rope->rotary / (double)(rope->rotary - 2));
  const float *longrope = (double)length > rope->original_context ? rope->long_factors : rope->short_factors;
  for (int64_t i = 0; i < rope->rotary / 2; i++) {
    double frequency = 1 / pow(base, (double)(2 * i) / (double)rope->rotary);
    switch (rope->scaling) {
      case ROPE_SCALING_NONE:
      case ROPE_SCALING_DYNAMIC:
      case ROPE_SCALING_COUNT: break;
      case ROPE_SCALING_LINEAR: frequency /= rope->factor; break;
      case ROPE_SCALING_LLAMA3: frequency = llama3_frequency(frequency, rope); break;
      case ROPE_SCALING_YARN: frequency = yarn_frequency(frequency, i, rope); break;
      case ROPE_SCALING_LONGROPE: frequency /= longrope[i]; break;
    }
    if (rope->divisors) frequency /= rope->divisors[i];
    frequencies[i] = (float)frequency;
  }
}

bool rope_depends_on_length(const Rope *rope) { return rope->scaling == ROPE_SCALING_DYNAMIC || rope->scaling == ROPE_SCALING_LONGROPE; }

static double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

double rope_magnitude(const Rope *rope) {
  if (rope->attention_factor > 0) return rope->attention_factor;
  if (rope->scaling == ROPE_SCALING_LONGROPE && rope->factor > 1) return sqrt(1 + log(rope->factor) / log(rope->original_context));
  if (rope->scaling != ROPE_SCALING_YARN) return 1;
  if (rope->mscale == 0 || rope->mscale_all_dim == 0) return yarn_mscale(rope->factor, 1);
  return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
}

double rope_score_factor(const Rope *rope) {
  if (rope->scaling == ROPE_SCALING_NONE || rope->mscale_all_dim == 0) return 1;
  double mscale = yarn_mscale(rope->factor, rope->mscale_all_dim);
  return mscale * mscale;
}

static Status check_factors(const float *factors, const Rope *rope, const char *path) {
  for (int64_t i = 0; i < rope->rotary / 2; i++)
    if (!(factors[i] > 0 && isfinite(factors[i])))
      return status_fail(STATUS_BAD_INPUT, "%s: a RoPE factor is not positive and finite", path);
  return STATUS_OK;
}

Status rope_check(const Rope *rope, const char *path) {
  if (rope->base == 0) return STATUS_OK;
  if (!(rope->base > 0 && isfinite(rope->base))) return status_fail(STATUS_BAD_INPUT, "%s: the RoPE base is not sane", path);
  if (rope->rotary <= 0 || rope->rotary % 2)
    return status_fail(STATUS_BAD_INPUT, "%s: %lld rotary dimensions are not pairs", path, (long long)rope->rotary);
  if (!(rope->attention_factor >= 0 && isfinite(rope->attention_factor)))
    return status_fail(STATUS_BAD_INPUT, "%s: the RoPE attention factor is not sane", path);
  if (rope->divisors) TRY(check_factors(rope->divisors, rope, path));
  if (rope->scaling == ROPE_SCALING_NONE) return STATUS_OK;
  const char *name = rope_scaling_names[rope->scaling];
  if (!(rope->factor > 0 && isfinite(rope->factor)))
    return status_fail(STATUS_BAD_INPUT, "%s: the factor of %s RoPE scaling is missing or not sane", path, name);
  bool needs_context = rope->scaling >= ROPE_SCALING_LLAMA3;
  if (needs_context && !(rope->original_context > 0 && rope->original_context <= UINT32_MAX))
    return status_fail(STATUS_BAD_INPUT, "%s: %s RoPE scaling needs the original context length", path, name);
  if (rope->scaling == ROPE_SCALING_LLAMA3 && !(rope->high_frequency_factor > rope->low_frequency_factor && rope->low_frequency_factor > 0))
    return status_fail(STATUS_BAD_INPUT, "%s: llama3 RoPE scaling needs 0 < low_freq_factor < high_freq_factor", path);
  if (rope->scaling == ROPE_SCALING_YARN && !(rope->beta_fast > 0 && rope->beta_slow > 0 && rope->base > 1))
    return status_fail(STATUS_BAD_INPUT, "%s: yarn RoPE scaling needs positive beta_fast and beta_slow", path);
  if (rope->scaling == ROPE_SCALING_DYNAMIC && rope->rotary <= 2)
    return status_fail(STATUS_BAD_INPUT, "%s: dynamic RoPE scaling needs more than two rotary dimensions", path);
  if (rope->scaling != ROPE_SCALING_LONGROPE) return STATUS_OK;
  if (!rope->long_factors || !rope->short_factors)
    return status_fail(STATUS_BAD_INPUT, "%s: longrope scaling needs %lld long and short factors", path, (long long)rope->rotary / 2);
  TRY(check_factors(rope->long_factors, rope, path));
  return check_factors(rope->short_factors, rope, path);
}
