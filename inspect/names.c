// Tensors by name: what the architecture needs, and what it does not know.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "inspect/parts.h"

static const char *const gguf_names[] = {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"};
static const char *const folder_names[] = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"};
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

static void know_layer(Names *names, const char *format, int64_t layer, bool has_bias, const char *family) {
  char base[160], name[176];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  snprintf(base, sizeof base, format, (int)layer);  // the formats are the families' own, each with one %d
#pragma GCC diagnostic pop
  snprintf(name, sizeof name, "%s.weight", base);
  know(names, name, true, family);
  snprintf(name, sizeof name, "%s.bias", base);
  if (has_bias) know(names, name, false, family);
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
    for (int i = 0; i < family->norm_count; i++)
      know_layer(&names, is_gguf ? family->norms[i].gguf : family->norms[i].name, layer, false, type);
    for (int i = 0; i < family->linear_count; i++)
      know_layer(&names, is_gguf ? family->linears[i].gguf : family->linears[i].name, layer, true, type);
  }
  for (int64_t i = 0; i < report->tensor_count; i++)
    if (!map_get_string(&names.known, report->tensors[i].name, NULL))
      report_warning(report, report->tensors[i].name, "no tensor of the family %s has this name; it is not used", type);
  map_release(&names.known);
}
