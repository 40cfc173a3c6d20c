// Tensors by name: what the architecture needs, and what it does not know.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "inspect/parts.h"

static const char *const gguf_names[] = {"token_embd.weight",        "output_norm.weight", "output.weight",
                                         "output_norm.bias",         "rope_freqs.weight",  "rope_factors_long.weight",
                                         "rope_factors_short.weight"};
static const char *const folder_names[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.norm.bias"};
enum { NEEDED = 2 };  // of each list, the first so many; the head is not there where it is tied

typedef struct Names {
  Report *report;
  Map known;
  bool is_gguf;
} Names;

// A decoder that was saved without its head has no "model." before its names.
static bool is_there(const Names *names, const char *name) {
  if (report_find_tensor(names->report, name)) return true;
  return !names->is_gguf && text_starts_with(name, "model.") && report_find_tensor(names->report, name + strlen("model."));
}

static void know(Names *names, const char *name, bool needed, const char *family) {
  map_set_string(&names->known, name, 0);
  if (!names->is_gguf && text_starts_with(name, "model.")) map_set_string(&names->known, name + strlen("model."), 0);
  if (needed && !is_there(names, name)) report_error(names->report, name, "missing: a model of the family %s has it", family);
}

static void know_layer(Names *names, const char *name, int64_t layer, bool has_bias, const char *family) {
  char base[160], whole[176];
  snprintf(base, sizeof base, names->is_gguf ? "blk.%d.%s" : "model.layers.%d.%s", (int)layer, name);
  snprintf(whole, sizeof whole, "%s.weight", base);
  know(names, whole, true, family);
  snprintf(whole, sizeof whole, "%s.bias", base);
  if (has_bias) know(names, whole, false, family);
}

// The routed experts: one tensor a kind in GGUF, one a kind and expert in a folder.
static void know_experts(Names *names, const Family *family, const ModelConfig *config, int64_t layer) {
  const char *type = family->model_type;
  const ExpertNames *own = &family->experts;
  know_layer(names, names->is_gguf ? "ffn_gate_inp" : own->router, layer, false, type);
  char bias[160];
  snprintf(bias, sizeof bias, names->is_gguf ? "blk.%d.%s" : "model.layers.%d.%s", (int)layer,
           names->is_gguf ? "exp_probs_b.bias"
           : own->bias    ? own->bias
                          : "");
  if (own->bias) know(names, bias, false, type);
  for (int kind = 0; kind < EXPERT_KINDS; kind++) {
    if (names->is_gguf) know_layer(names, expert_gguf_names[kind], layer, false, type);
    Arena arena = {0};
    for (int e = 0; !names->is_gguf && e < config->experts; e++)
      know_layer(names, family_expert_name(&arena, own->matrices[kind], e), layer, false, type);
    arena_release(&arena);
  }
}

// Latent attention's keys and values may stand apart.
static bool is_kept_in_parts(const Names *names, const LinearName *linear, int64_t layer) {
  char name[64];
  snprintf(name, sizeof name, "blk.%d.attn_k_b.weight", (int)layer);
  return names->is_gguf && linear->offset == offsetof(Layer, kv_b) && is_there(names, name);
}

void names_check(Report *report, const Family *family, const ModelConfig *config, bool is_gguf) {
  Names names = {.report = report, .is_gguf = is_gguf};
  const char *type = family->model_type;
  const char *const *list = is_gguf ? gguf_names : folder_names;
  size_t count = is_gguf ? sizeof gguf_names / sizeof *gguf_names : sizeof folder_names / sizeof *folder_names;
  // Of tied weights a folder may hold either name.
  bool head_is_embedding = !is_gguf && config->tied_embeddings && is_there(&names, folder_names[2]);
  for (size_t i = 0; i < count; i++) {
    bool is_head = i == 2;
    know(&names, list[i], is_head ? !is_gguf && !config->tied_embeddings : i < NEEDED && !(i == 0 && head_is_embedding), type);
  }
  for (int64_t layer = 0; layer < config->layers; layer++) {
    for (int i = 0; i < family_norm_count(family); i++)
      if (config_has(config, family->norms[i].presence, (int)layer))
        know_layer(&names, is_gguf ? family->norms[i].gguf : family->norms[i].name, layer, family->is_centered, type);
    for (int i = 0; i < family_linear_count(family); i++) {
      const LinearName *linear = &family->linears[i];
      if (!config_has(config, linear->presence, (int)layer)) continue;
      if (is_kept_in_parts(&names, linear, layer)) {
        know_layer(&names, "attn_k_b", layer, false, type);
        know_layer(&names, "attn_v_b", layer, false, type);
      } else {
        know_layer(&names, is_gguf ? linear->gguf : linear->name, layer, true, type);
      }
    }
    if (config->kinds[layer].is_sparse) know_experts(&names, family, config, layer);
  }
  for (int64_t i = 0; i < report->tensor_count; i++)
    if (!map_get_string(&names.known, report->tensors[i].name, NULL))
      report_warning(report, report->tensors[i].name, "no tensor of the family %s has this name; it is not used", type);
  map_release(&names.known);
}
