#include "cli/loaded_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/memory.h"

// PATH or PATH:SCALE; a path that is there is taken whole, colons and all. Returns a new string.
static char *adapter_path(double *scale, const char *word) {
  *scale = 1;
  const char *colon = strrchr(word, ':');
  if (!colon || colon == word || file_exists(word) || directory_exists(word)) return memory_copy_string(word);
  char *end;
  double value = strtod(colon + 1, &end);
  if (end == colon + 1 || *end || !isfinite(value)) return memory_copy_string(word);
  *scale = value;
  return memory_format("%.*s", (int)(colon - word), word);
}

static Status open_adapters(LoadedModel *loaded, const ArgumentList *adapters) {
  if (adapters->count == 0) return STATUS_OK;
  char **paths = memory_new((size_t)adapters->count, sizeof *paths);
  double *scales = memory_new((size_t)adapters->count, sizeof *scales);
  for (int i = 0; i < adapters->count; i++) paths[i] = adapter_path(&scales[i], adapters->items[i]);
  Status status = adapter_open(&loaded->adapter, loaded->model, (const char *const *)paths, scales, adapters->count, false);
  for (int i = 0; i < adapters->count; i++) free(paths[i]);
  free(paths);
  free(scales);
  return status;
}

Status loaded_model_open(LoadedModel *loaded, const char *command, const char *model, const ArgumentList *adapters,
                         const Arguments *arguments) {
  *loaded = (LoadedModel){0};
  if (!model) return status_fail(STATUS_USAGE, "%s: --model MODEL is missing: a GGUF file or a Hugging Face folder", command);
  TRY(backend_new(&loaded->backend, arguments->device, (int)arguments->threads));
  TRY(model_open(&loaded->model, model, (ModelOptions){0}, loaded->backend));
  TRY(tokenizer_open(&loaded->tokenizer, model));
  return open_adapters(loaded, adapters);
}

void loaded_model_release(LoadedModel *loaded) {
  if (loaded->adapter) adapter_close(loaded->adapter);
  if (loaded->model) model_close(loaded->model);
  tokenizer_free(loaded->tokenizer);
  if (loaded->backend) backend_free(loaded->backend);
  *loaded = (LoadedModel){0};
}
