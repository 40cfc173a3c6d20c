#include "cli/loaded_model.h"

#include "cli/model_options.h"

Status loaded_model_open(LoadedModel *loaded, const char *command, const char *model, const ArgumentList *adapters,
                         const Arguments *arguments) {
  *loaded = (LoadedModel){0};
  if (!model) return status_fail(STATUS_USAGE, "%s: --model MODEL is missing: a GGUF file or a Hugging Face folder", command);
  TRY(backend_new(&loaded->backend, arguments->device, (int)arguments->threads));
  TRY(model_open(&loaded->model, model, (ModelOptions){0}, loaded->backend));
  TRY(tokenizer_open(&loaded->tokenizer, model));
  return adapter_arguments_open(&loaded->adapter, loaded->model, adapters);
}

void loaded_model_release(LoadedModel *loaded) {
  if (loaded->adapter) adapter_close(loaded->adapter);
  if (loaded->model) model_close(loaded->model);
  tokenizer_free(loaded->tokenizer);
  if (loaded->backend) backend_free(loaded->backend);
  *loaded = (LoadedModel){0};
}
