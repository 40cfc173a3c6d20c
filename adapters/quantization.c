// The mixes as tables: a rule gives the tensors of a role, in some layers, a type; the first that holds decides.
#include "adapters/quantization.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum Role {
  ROLE_OTHER,
  ROLE_OUTPUT,  // the last matrix: output.weight, or the embedding where there is none
  ROLE_ATTENTION_K,
  ROLE_ATTENTION_V,
  ROLE_ATTENTION_QKV,  // fused
  ROLE_ATTENTION_OUTPUT,
  ROLE_FFN_DOWN,  // of experts, too
} Role;

// Layer i of n.
typedef enum Where {
  ANYWHERE,
  FIRST_TWO,
  FIRST_FOUR,
  FIRST_SIXTEENTH,
  FIRST_EIGHTH,
  FIRST_EIGHTH_WITH_IMPORTANCE,
  FIRST_EIGHTH_WITHOUT_IMPORTANCE,
  MORE_BITS,  // the first and the last eighth, and every third layer between: errors at both ends cost most
  FOUR_QUERIES_A_KEY,  // the model has four or more query heads for each of keys: v is small
  EIGHT_EXPERTS,  // Mixtral's: attention is a small part of the model
  EIGHTY_LAYERS,  // models of 70B: v is an eighth of what it is in smaller ones
} Where;

typedef struct Rule {
  const char *mixes;  // names between spaces; "*": all quantised ones
  Role role;
  Where where;
  BlockType type;
} Rule;

static const Rule rules[] = {
    {"*", ROLE_ATTENTION_V, EIGHT_EXPERTS, BLOCK_Q8_0},
    {"*", ROLE_ATTENTION_K, EIGHT_EXPERTS, BLOCK_Q8_0},
    {" q2_k q3_k_s q3_k_m q4_k_s q4_k_m iq4_nl iq4_xs ", ROLE_ATTENTION_OUTPUT, EIGHT_EXPERTS, BLOCK_Q5_K},

    {" q2_k ", ROLE_ATTENTION_V, EIGHTY_LAYERS, BLOCK_Q5_K},
    {" q2_k ", ROLE_ATTENTION_V, FOUR_QUERIES_A_KEY, BLOCK_Q4_K},
    {" q2_k ", ROLE_ATTENTION_V, ANYWHERE, BLOCK_Q3_K},
    {" q2_k ", ROLE_FFN_DOWN, ANYWHERE, BLOCK_Q3_K},
    {" q2_k ", ROLE_ATTENTION_OUTPUT, ANYWHERE, BLOCK_Q3_K},

    {" q3_k_s ", ROLE_ATTENTION_V, EIGHTY_LAYERS, BLOCK_Q5_K},

    {" q3_k_m ", ROLE_ATTENTION_V, FIRST_TWO, BLOCK_Q5_K},
    {" q3_k_m ", ROLE_ATTENTION_V, EIGHTY_LAYERS, BLOCK_Q5_K},
    {" q3_k_m ", ROLE_ATTENTION_V, ANYWHERE, BLOCK_Q4_K},
    {" q3_k_m ", ROLE_FFN_DOWN, FIRST_SIXTEENTH, BLOCK_Q5_K},
    {" q3_k_m ", ROLE_FFN_DOWN, ANYWHERE, BLOCK_Q4_K},
    {" q3_k_m ", ROLE_ATTENTION_OUTPUT, ANYWHERE, BLOCK_Q4_K},
    {" q3_k_m ", ROLE_ATTENTION_QKV, ANYWHERE, BLOCK_Q4_K},

    {" q3_k_l ", ROLE_ATTENTION_V, ANYWHERE, BLOCK_Q5_K},
    {" q3_k_l ", ROLE_FFN_DOWN, ANYWHERE, BLOCK_Q5_K},
    {" q3_k_l ", ROLE_ATTENTION_OUTPUT, ANYWHERE, BLOCK_Q5_K},
    {" q3_k_l ", ROLE_ATTENTION_QKV, ANYWHERE, BLOCK_Q4_K},

    {" q4_k_s ", ROLE_ATTENTION_V, FIRST_FOUR, BLOCK_Q5_K},
    {" q4_k_s ", ROLE_ATTENTION_V, EIGHTY_LAYERS, BLOCK_Q5_K},
    {" q4_k_s ", ROLE_FFN_DOWN, FIRST_EIGHTH, BLOCK_Q5_K},

    {" q4_k_m ", ROLE_ATTENTION_V, MORE_BITS, BLOCK_Q6_K},
    {" q4_k_m ", ROLE_ATTENTION_V, EIGHTY_LAYERS, BLOCK_Q5_K},
    {" q4_k_m ", ROLE_FFN_DOWN, MORE_BITS, BLOCK_Q6_K},
    {" q4_k_m ", ROLE_ATTENTION_QKV, ANYWHERE, BLOCK_Q5_K},

    {" q5_k_m ", ROLE_ATTENTION_V, MORE_BITS, BLOCK_Q6_K},
    {" q5_k_m ", ROLE_FFN_DOWN, MORE_BITS, BLOCK_Q6_K},
    {" q5_k_m ", ROLE_ATTENTION_QKV, ANYWHERE, BLOCK_Q6_K},

    {" iq4_nl iq4_xs ", ROLE_ATTENTION_V, FOUR_QUERIES_A_KEY, BLOCK_Q5_K},
    {" iq4_nl iq4_xs ", ROLE_FFN_DOWN, FIRST_EIGHTH_WITHOUT_IMPORTANCE, BLOCK_Q5_K},

    {" q4_0 ", ROLE_FFN_DOWN, FIRST_EIGHTH_WITH_IMPORTANCE, BLOCK_Q4_1},
    {" q5_0 ", ROLE_FFN_DOWN, FIRST_EIGHTH_WITH_IMPORTANCE, BLOCK_Q5_1},

    {" q8_0 ", ROLE_OUTPUT, ANYWHERE, BLOCK_Q8_0},
    {"*", ROLE_OUTPUT, ANYWHERE, BLOCK_Q6_K},
};

static const Quantization quantizations[] = {
    {"q2_k", BLOCK_Q2_K, 10},     {"q3_k_s", BLOCK_Q3_K, 11},   {"q3_k_m", BLOCK_Q3_K, 12}, {"q3_k_l", BLOCK_Q3_K, 13},
    {"iq4_xs", BLOCK_IQ4_XS, 30}, {"iq4_nl", BLOCK_IQ4_NL, 25}, {"q4_0", BLOCK_Q4_0, 2},    {"q4_1", BLOCK_Q4_1, 3},
    {"q4_k_s", BLOCK_Q4_K, 14},   {"q4_k_m", BLOCK_Q4_K, 15},   {"q5_0", BLOCK_Q5_0, 8},    {"q5_1", BLOCK_Q5_1, 9},
    {"q5_k_s", BLOCK_Q5_K, 16},   {"q5_k_m", BLOCK_Q5_K, 17},   {"q6_k", BLOCK_Q6_K, 18},   {"q8_0", BLOCK_Q8_0, 7},
    {"f16", BLOCK_F16, 1},        {"bf16", BLOCK_BF16, 32},     {"f32", BLOCK_F32, 0},
};
enum { QUANTIZATIONS = sizeof quantizations / sizeof *quantizations };

// llama.cpp's own short names.
static const char *const aliases[][2] = {{"q3_k", "q3_k_m"}, {"q4_k", "q4_k_m"}, {"q5_k", "q5_k_m"}};

char *quantization_names(void) {
  Buffer names = {0};
  for (int i = 0; i < QUANTIZATIONS; i++) buffer_format(&names, "%s, ", quantizations[i].name);
  buffer_append_string(&names, "same");
  return names.data;
}

Status quantization_parse(const Quantization **out, const char *name) {
  *out = NULL;
  if (strcasecmp(name, "same") == 0) return STATUS_OK;
  const char *full = name;
  for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
    if (strcasecmp(name, aliases[i][0]) == 0) full = aliases[i][1];
  for (int i = 0; i < QUANTIZATIONS; i++)
    if (strcasecmp(full, quantizations[i].name) == 0) *out = &quantizations[i];
  if (*out) return STATUS_OK;
  char *names = quantization_names();
  Status status = status_fail(STATUS_USAGE, "%s: %s; types are %s", name,
                              block_traits_by_name(name) ? "this type is read, but not written" : "no type is called that", names);
  free(names);
  return status;
}

// ---- A model's tensors ----

static int64_t layer_of(const char *tensor) {
  int layer, end = 0;
  return sscanf(tensor, "blk.%d.%n", &layer, &end) == 1 && end && layer >= 0 ? layer : -1;
}

QuantizationModel quantization_model_new(int64_t layers, int64_t heads, int64_t kv_heads, bool has_importance) {
  QuantizationModel model = {.layers = layers, .heads = heads, .kv_heads = kv_heads, .has_importance = has_importance};
  model.has_attention_v = arena_new(&model.arena, (size_t)layers, sizeof *model.has_attention_v);
  return model;
}

void quantization_model_release(QuantizationModel *model) { arena_release(&model->arena); }

void quantization_model_note(QuantizationModel *model, const char *tensor, const int64_t shape[4]) {
  int64_t layer = layer_of(tensor);
  model->has_output |= strcmp(tensor, "output.weight") == 0;
  if (strstr(tensor, "ffn_down_exps.weight")) model->experts = shape[2];
  bool holds_v = strstr(tensor, "attn_v.weight") || strstr(tensor, "attn_qkv.weight") || strstr(tensor, "attn_kv_b.weight");
  if (holds_v && layer >= 0 && layer < model->layers) model->has_attention_v[layer] = true;
}

static Role role_of(const QuantizationModel *model, const char *tensor) {
  static const struct {
    const char *part;
    Role role;
  } parts[] = {{"attn_v.weight", ROLE_ATTENTION_V},
               {"attn_k.weight", ROLE_ATTENTION_K},
               {"attn_qkv.weight", ROLE_ATTENTION_QKV},
               {"attn_output.weight", ROLE_ATTENTION_OUTPUT},
               {"ffn_down", ROLE_FFN_DOWN}};
  if (strcmp(tensor, model->has_output ? "output.weight" : "token_embd.weight") == 0) return ROLE_OUTPUT;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (strstr(tensor, parts[i].part)) return parts[i].role;
  return ROLE_OTHER;
}

// Layer i of n among those that have the role: attention is not in every layer of every model.
static void position_of(int64_t *i, int64_t *n, const QuantizationModel *model, Role role, int64_t layer) {
  *i = layer;
  *n = model->layers;
  if (role != ROLE_ATTENTION_V) return;
  *i = *n = 0;
  for (int64_t other = 0; other < model->layers; other++) {
    *n += model->has_attention_v[other];
    *i += model->has_attention_v[other] && other < layer;
  }
}

static bool holds(Where where, const QuantizationModel *model, int64_t i, int64_t n) {
  switch (where) {
    case ANYWHERE: return true;
    case FIRST_TWO: return i < 2;
    case FIRST_FOUR: return i < 4;
    case FIRST_SIXTEENTH: return i < n / 16;
    case FIRST_EIGHTH: return i < n / 8;
    case FIRST_EIGHTH_WITH_IMPORTANCE: return i < n / 8 && model->has_importance;
    case FIRST_EIGHTH_WITHOUT_IMPORTANCE: return i < n / 8 && !model->has_importance;
    case MORE_BITS: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case FOUR_QUERIES_A_KEY: return model->kv_heads > 0 && model->heads / model->kv_heads >= 4;
    case EIGHT_EXPERTS: return model->experts == 8;
    case EIGHTY_LAYERS: return model->layers == 80;
  }
  return false;
}

static bool is_of_mix(const Rule *rule, const Quantization *quantization) {
  char word[16];
  snprintf(word, sizeof word, " %s ", quantization->name);
  return rule->mixes[0] == '*' || strstr(rule->mixes, word);
}

// What stands for a type whose blocks of 256 do not divide a row; F16 where blocks of 32 do not, either.
static BlockType fitting_type(BlockType type, int64_t columns) {
  if (columns % block_traits(type)->elements == 0) return type;
  BlockType smaller = BLOCK_F16;
  switch (type) {
    case BLOCK_Q2_K:
    case BLOCK_Q3_K:
    case BLOCK_IQ4_XS: smaller = BLOCK_IQ4_NL; break;
    case BLOCK_Q4_K: smaller = BLOCK_Q5_0; break;
    case BLOCK_Q5_K: smaller = BLOCK_Q5_1; break;
    case BLOCK_Q6_K: smaller = BLOCK_Q8_0; break;
    default: break;
  }
  return columns % block_traits(smaller)->elements == 0 ? smaller : BLOCK_F16;
}

// Small matrices of which every bit counts: norms, the router of experts, short convolutions.
static bool stays_float(const char *tensor) {
  static const char *const parts[] = {"_norm.weight", "ffn_gate_inp", "ssm_conv1d", "shortconv.conv"};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (strstr(tensor, parts[i])) return true;
  return false;
}

BlockType quantization_type(const Quantization *quantization, const QuantizationModel *model, const char *tensor, int64_t columns) {
  if (stays_float(tensor)) return BLOCK_F32;
  BlockType type = quantization->type;
  Role role = role_of(model, tensor);
  if (block_traits(type)->elements == 1) return type;
  int64_t i, n;
  position_of(&i, &n, model, role, layer_of(tensor));
  for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
    if (rules[r].role != role || !is_of_mix(&rules[r], quantization) || !holds(rules[r].where, model, i, n)) continue;
    type = rules[r].type;
    break;
  }
  return fitting_type(type, columns);
}

BlockType quantization_same_type(BlockType base) {
  switch (base) {
    case BLOCK_TQ1_0:
    case BLOCK_TQ2_0: return BLOCK_Q4_0;
    case BLOCK_MXFP4: return BLOCK_Q5_0;
    case BLOCK_Q8_K: return BLOCK_Q8_0;
    default: return base;
  }
}
