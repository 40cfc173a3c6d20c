// The options, and reading A[:SCALE].
#include "cli/model_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/hub_files.h"
#include "core/file.h"
#include "data/tokenizer/tokenizer.h"

Option model_option(const char **model) {
  return (Option){.name = "model",
                  .kind = OPTION_STRING,
                  .value = model,
                  .argument = "MODEL",
                  .help = "a GGUF file, a Hugging Face folder, or an id of the Hub: org/name, org/name@revision, org/name/FILE.gguf"};
}

Option adapter_option(ArgumentList *adapters) {
  return (Option){.name = "adapter",
                  .kind = OPTION_STRINGS,
                  .value = adapters,
                  .argument = "A[:SCALE]",
                  .help = "a PEFT folder, a GGUF adapter, or an id of the Hub; its effect times SCALE; may be repeated"};
}

Option deterministic_option(bool *is_deterministic) {
  return (Option){.name = "deterministic",
                  .kind = OPTION_FLAG,
                  .value = is_deterministic,
                  .help = "on a CUDA device too, a text's bits do not depend on what else is computed; slower"};
}

char *adapter_argument_path(const char *argument, double *scale) {
  *scale = 1;
  const char *colon = strrchr(argument, ':');
  if (!colon || !colon[1] || file_exists(argument) || directory_exists(argument)) return memory_copy_string(argument);
  char *end;
  double value = strtod(colon + 1, &end);
  if (*end || !isfinite(value)) return memory_copy_string(argument);
  *scale = value;
  return memory_format("%.*s", (int)(colon - argument), argument);
}

Status adapter_path_check(const char *path) {
  if (file_exists(path) || directory_exists(path)) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "--adapter %s: there is no such file or folder; give a PEFT folder or a GGUF adapter", path);
}

// The chat template that an adapter was trained with lies beside it.
static Status read_template(char **source, char *const *paths, int count) {
  Status status = STATUS_OK;
  for (int i = 0; i < count && !*source && status == STATUS_OK; i++) {
    char *path = path_join(paths[i], "chat_template.jinja");
    Buffer text = {0};
    if (file_exists(path)) status = file_read(&text, path, 1 << 22);
    if (text.length) *source = memory_copy_string(text.data);
    buffer_release(&text);
    free(path);
  }
  return status;
}

// Whether a token has another text in the adapter's vocabulary, or is there alone.
static bool is_changed(const Tokenizer *own, const Tokenizer *base) {
  bool changed = tokenizer_size(own) > tokenizer_size(base);
  for (int64_t id = 0; id < tokenizer_size(own) && !changed; id++) {
    const char *text = tokenizer_text(own, (int32_t)id), *before = tokenizer_text(base, (int32_t)id);
    changed = text && (!before || strcmp(text, before) != 0);
  }
  return changed;
}

static Status find_tokenizer(char **tokenizer, const char *model, const char *path) {
  char *file = path_join(path, "tokenizer.json");
  bool is_there = file_exists(file);
  free(file);
  if (!is_there || !directory_exists(model)) return STATUS_OK;
  Tokenizer *own = NULL, *base = NULL;
  Status status = tokenizer_open(&own, path);
  if (status == STATUS_OK) status = tokenizer_open(&base, model);
  if (status == STATUS_OK && is_changed(own, base)) *tokenizer = memory_copy_string(path);
  tokenizer_free(own);
  tokenizer_free(base);
  return status;
}

Status adapter_arguments_vocabulary(int64_t *rows, char **tokenizer, const char *model, const ArgumentList *list) {
  *rows = 0;
  *tokenizer = NULL;
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < list->count; i++) {
    double scale;
    int64_t own = 0;
    char *given = adapter_argument_path(list->items[i], &scale), *path = NULL;
    status = hub_argument_path(&path, "--adapter", given, HUB_ADAPTER);
    if (status == STATUS_OK) status = adapter_vocabulary(&own, path);
    if (status == STATUS_OK && !*tokenizer) status = find_tokenizer(tokenizer, model, path);
    if (own > *rows) *rows = own;
    free(given);
    free(path);
  }
  return status;
}

Status adapter_arguments_open(Adapter **out, char **chat_template, Model *model, const ArgumentList *list) {
  *out = NULL;
  *chat_template = NULL;
  if (list->count == 0) return STATUS_OK;
  char **paths = memory_new((size_t)list->count, sizeof *paths);
  double *scales = memory_new((size_t)list->count, sizeof *scales);
  Status status = STATUS_OK;
  for (int i = 0; i < list->count; i++) {
    char *given = adapter_argument_path(list->items[i], &scales[i]);
    if (status == STATUS_OK) status = hub_argument_path(&paths[i], "--adapter", given, HUB_ADAPTER);
    free(given);
    if (status == STATUS_OK) status = adapter_path_check(paths[i]);
  }
  if (status == STATUS_OK) status = read_template(chat_template, paths, list->count);
  if (status == STATUS_OK) status = adapter_open(out, model, (const char *const *)paths, scales, list->count, false);
  for (int i = 0; i < list->count; i++) free(paths[i]);
  free(paths);
  free(scales);
  return status;
}
