// `lora export`: an adapter from one file format to the other.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/model_options.h"
#include "cli/ollama.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"

static void print_result(const Adapter *adapter, const char *output, bool gguf, bool json) {
  const char *format = gguf ? "gguf" : "peft";
  if (!json) {
    printf("%s: a %s adapter of %d layers\n", output, gguf ? "GGUF" : "PEFT", adapter->count);
    return;
  }
  json_t *result = json_pack("{s:s, s:s, s:i, s:I, s:I}", "output", output, "format", format, "layers", adapter->count, "rank",
                             (json_int_t)adapter->rank, "parameters", (json_int_t)adapter->size);
  json_dumpf(result, stdout, JSON_INDENT(2));
  printf("\n");
  json_decref(result);
}

// Beside the adapter, which it names as it lies from there. `template`: the adapter's own; NULL: the model's.
static Status write_modelfile(const char *model, const char *output, bool gguf, const char *template) {
  Tokenizer *tokenizer = NULL;
  ChatTemplate *chat = NULL;
  char *folder = gguf ? path_parent(output) : memory_copy_string(output), *path = path_join(folder, "Modelfile");
  char *base = realpath(model, NULL), *adapter = memory_format("./%s", gguf ? path_name(output) : "");
  Status status = tokenizer_open(&tokenizer, model);
  if (status == STATUS_OK && template) tokenizer_set_chat_template(tokenizer, template);
  bool has_template = status == STATUS_OK && chat_template_open(&chat, &(ChatTemplateOptions){0}, tokenizer) == STATUS_OK;
  if (status == STATUS_OK) status = ollama_write_modelfile(path, base ? base : model, adapter, has_template ? chat : NULL, tokenizer);
  if (status == STATUS_OK) log_info("%s: for `ollama create NAME -f %s`", path, path);
  chat_template_free(chat);
  tokenizer_free(tokenizer);
  free(folder);
  free(path);
  free(base);
  free(adapter);
  return status;
}

// A folder keeps what the adapter was trained with beside it.
static Status write_template(const char *folder, const char *template) {
  char *path = path_join(folder, "chat_template.jinja");
  Status status = file_write_whole(path, template, strlen(template));
  free(path);
  return status;
}

static Status export_adapter(const char *path, const ArgumentList *adapters, const char *output, bool ollama, const Arguments *arguments) {
  Backend *backend = NULL;
  Model *model = NULL;
  Adapter *adapter = NULL;
  char *found = NULL, *template = NULL, *tokenizer = NULL;
  ModelOptions options = {0};
  Status status;
  bool gguf = text_ends_with(output, ".gguf");
  TRY(backend_new(&backend, NULL, (int)arguments->threads));
  TRY_DONE(hub_argument_path(&found, "--model", path, HUB_MODEL));
  TRY_DONE(adapter_arguments_vocabulary(&options.vocabulary, &tokenizer, found, adapters));
  TRY_DONE(model_open(&model, found, options, backend));
  TRY_DONE(adapter_arguments_open(&adapter, &template, model, adapters));
  TRY_DONE(gguf ? adapter_save_gguf(adapter, output) : adapter_save_peft(adapter, output, path));
  if (template && !gguf) TRY_DONE(write_template(output, template));
  if (ollama) TRY_DONE(write_modelfile(found, output, gguf, template));
  print_result(adapter, output, gguf, arguments->json);
done:
  free(found);
  free(template);
  free(tokenizer);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  return status;
}

Status command_export(int argc, char **argv) {
  const char *model = NULL, *output = NULL;
  bool ollama = false;
  ArgumentList adapters = {0};
  const Option options[] = {
      model_option(&model),
      adapter_option(&adapters),
      {.name = "output", .kind = OPTION_STRING, .value = &output, .argument = "X", .help = "a file that ends in .gguf, else a PEFT folder"},
      {.name = "ollama", .kind = OPTION_FLAG, .value = &ollama, .help = "write a Modelfile for Ollama beside it"},
  };
  const CommandLine line = {.name = "export",
                            .usage = "--model MODEL --adapter A --output X.gguf|FOLDER [--ollama]",
                            .summary = "Writes an adapter alone, as a GGUF adapter (llama.cpp's) or as a PEFT folder.",
                            .options = options,
                            .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) {
    if (!model || !output || adapters.count == 0)
      status = status_fail(STATUS_USAGE, "export: %s is missing; usage: lora export %s",
                           !model    ? "--model"
                           : !output ? "--output"
                                     : "--adapter",
                           line.usage);
    else status = export_adapter(model, &adapters, output, ollama, &arguments);
  }
  free(adapters.items);
  arguments_release(&arguments);
  return status;
}
