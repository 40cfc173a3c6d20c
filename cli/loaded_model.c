#include "cli/loaded_model.h"

#include <stdlib.h>

#include "cli/hub_files.h"
#include "cli/model_options.h"

Status loaded_model_open(LoadedModel *loaded, const char *command, const char *model, const ArgumentList *adapters,
                         const Arguments *arguments) {
  *loaded = (LoadedModel){0};
  if (!model)
    return status_fail(STATUS_USAGE, "%s: --model MODEL is missing: a GGUF file, a Hugging Face folder, or an id of the Hub", command);
  TRY(backend_new(&loaded->backend, arguments->device, (int)arguments->threads));
  char *path, *larger = NULL;
  ModelOptions options = {0};
  TRY(hub_argument_path(&path, "--model", model, HUB_MODEL));
  Status status = adapter_arguments_vocabulary(&options.vocabulary, &larger, path, adapters);
  if (status == STATUS_OK) status = model_open(&loaded->model, path, options, loaded->backend);
  if (status == STATUS_OK) status = tokenizer_open(&loaded->tokenizer, larger ? larger : path);
  free(larger);
  free(path);
  TRY(status);
  char *template;
  status = adapter_arguments_open(&loaded->adapter, &template, loaded->model, adapters);
  if (template) tokenizer_set_chat_template(loaded->tokenizer, template);
  free(template);
  return status;
}

Status loaded_model_open_chat(LoadedModel *loaded, ArgumentList *stops) {
  TRY(chat_template_open(&loaded->chat, &(ChatTemplateOptions){0}, loaded->tokenizer));
  const char *stop = chat_template_stop(loaded->chat);
  if (!*stop) return STATUS_OK;
  if (tokenizer_find(loaded->tokenizer, stop) >= 0) return tokenizer_set_special(loaded->tokenizer, "stop", stop);
  ARRAY_PUSH(stops->items, stops->count, stops->capacity) = stop;
  return STATUS_OK;
}

int64_t loaded_model_context(const LoadedModel *loaded, int64_t asked) {
  enum { MOST = 4096 };
  int64_t made_for = loaded->model->config.context_length;
  return asked > 0 ? asked : made_for < MOST ? made_for : MOST;
}

Status loaded_model_engine(Engine **out, const LoadedModel *loaded, int64_t context, const EngineChoice *choice) {
  EngineOptions options = {.context = context, .parallel = 1, .tokenizer = loaded->tokenizer};
  TRY(engine_choice_read(&options, choice));
  return engine_new(out, loaded->model, options);
}

void loaded_model_release(LoadedModel *loaded) {
  if (loaded->adapter) adapter_close(loaded->adapter);
  if (loaded->model) model_close(loaded->model);
  chat_template_free(loaded->chat);
  tokenizer_free(loaded->tokenizer);
  if (loaded->backend) backend_free(loaded->backend);
  *loaded = (LoadedModel){0};
}
