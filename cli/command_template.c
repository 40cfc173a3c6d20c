// `lora template`: a conversation as a chat template renders it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/command.h"
#include "cli/hub_files.h"
#include "cli/options.h"
#include "core/file.h"
#include "core/memory.h"
#include "data/template/chat_template.h"

enum { FILE_LIMIT = 1 << 30 };

typedef struct TemplateCommand {
  const char *model, *jinja, *messages, *tools, *documents, *bos, *eos;
  ArgumentList set;  // NAME=VALUE
  bool generation_prompt, json;
} TemplateCommand;

static Status read_json(json_t **value, const char *path) {
  Buffer text = {0};
  json_error_t error;
  TRY(file_read(&text, path, FILE_LIMIT));
  *value = json_loadb(text.data ? text.data : "", text.length, JSON_ALLOW_NUL, &error);
  buffer_release(&text);
  if (*value) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: not JSON: %s", path, error.line, error.column, error.text);
}

// A list, or an object that has it under `key`.
static Status read_list(json_t **list, const char *path, const char *key) {
  json_t *value;
  TRY(read_json(&value, path));
  *list = json_incref(json_is_object(value) ? json_object_get(value, key) : value);
  json_decref(value);
  if (json_is_array(*list)) return STATUS_OK;
  json_decref(*list);
  *list = NULL;
  return status_fail(STATUS_BAD_INPUT, "%s: neither a list nor an object with a list \"%s\"", path, key);
}

// ---- Variables: values are JSON, and text where they are none

static void add_variable(StringPairs *pairs, const char *name, size_t length, char *value) {
  pairs->keys = memory_grow(pairs->keys, (size_t)pairs->count + 1, sizeof *pairs->keys);
  pairs->values = memory_grow(pairs->values, (size_t)pairs->count + 1, sizeof *pairs->values);
  pairs->keys[pairs->count] = memory_format("%.*s", (int)length, name);
  pairs->values[pairs->count++] = value;
}

static void add_text(StringPairs *pairs, const char *name, const char *text) {
  if (!text) return;
  json_t *value = json_string(text);
  add_variable(pairs, name, strlen(name), json_dumps(value, JSON_ENCODE_ANY));
  json_decref(value);
}

static Status add_variables(StringPairs *pairs, const TemplateCommand *command) {
  add_text(pairs, "bos_token", command->bos);
  add_text(pairs, "eos_token", command->eos);
  for (int i = 0; i < command->set.count; i++) {
    const char *given = command->set.items[i], *equals = strchr(given, '=');
    if (!equals || equals == given) return status_fail(STATUS_USAGE, "--set %s: write it as NAME=VALUE", given);
    add_variable(pairs, given, (size_t)(equals - given), memory_copy_string(equals + 1));
  }
  if (!command->documents) return STATUS_OK;
  json_t *documents;
  TRY(read_list(&documents, command->documents, "documents"));
  add_variable(pairs, "documents", strlen("documents"), json_dumps(documents, 0));
  json_decref(documents);
  return STATUS_OK;
}

static void release_variables(StringPairs *pairs) {
  for (int i = 0; i < pairs->count; i++) free(pairs->keys[i]), free(pairs->values[i]);
  free(pairs->keys);
  free(pairs->values);
}

// ---- The text

static void print_text(const ChatText *text, bool json) {
  if (!json) {
    fwrite(text->text.data, 1, text->text.length, stdout);
    return;
  }
  json_t *spans = json_array();
  for (int64_t s = 0; s < text->count; s++) {
    const ChatSpan *span = &text->spans[s];
    json_array_append_new(
        spans, json_pack("{s:I, s:I, s:I, s:I, s:I}", "message", (json_int_t)span->message, "begin", (json_int_t)span->begin, "end",
                         (json_int_t)span->end, "stop_begin", (json_int_t)span->stop_begin, "stop_end", (json_int_t)span->stop_end));
  }
  json_t *result = json_pack("{s:o, s:o}", "text", json_stringn(text->text.data, text->text.length), "spans", spans);
  json_dumpf(result, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(result);
}

static Status open_template(ChatTemplate **chat, const TemplateCommand *command, const StringPairs *variables) {
  ChatTemplateOptions options = {.variables = variables};
  if (command->jinja) {
    options.name = "jinja";
    options.jinja = command->jinja;
    return chat_template_open(chat, &options, NULL);
  }
  char *path = NULL;
  Tokenizer *tokenizer = NULL;
  Status status = hub_argument_path(&path, "--model", command->model, HUB_TOKENIZER);
  if (status == STATUS_OK) status = tokenizer_open(&tokenizer, path);
  if (status == STATUS_OK) status = chat_template_open(chat, &options, tokenizer);
  tokenizer_free(tokenizer);
  free(path);
  return status;
}

static Status render(const TemplateCommand *command) {
  if (!command->model == !command->jinja)
    return status_fail(STATUS_USAGE, "template: name the template by --model MODEL, or by --template F.jinja");
  if (!command->messages) return status_fail(STATUS_USAGE, "template: --messages F.json is missing: a list of {\"role\", \"content\"}");
  json_t *messages = NULL, *tools = NULL;
  StringPairs variables = {0};
  ChatTemplate *chat = NULL;
  ChatText text = {0};
  Status status = read_list(&messages, command->messages, "messages");
  if (status == STATUS_OK && command->tools) status = read_list(&tools, command->tools, "tools");
  if (status == STATUS_OK) status = add_variables(&variables, command);
  if (status == STATUS_OK) status = open_template(&chat, command, &variables);
  if (status == STATUS_OK) status = chat_template_render(&text, chat, messages, tools, command->generation_prompt);
  if (status == STATUS_OK) print_text(&text, command->json);
  chat_text_release(&text);
  chat_template_free(chat);
  release_variables(&variables);
  json_decref(messages);
  json_decref(tools);
  return status;
}

Status command_template(int argc, char **argv) {
  TemplateCommand command = {0};
  const Option options[] = {
      {.name = "model",
       .kind = OPTION_STRING,
       .value = &command.model,
       .argument = "MODEL",
       .help = "the model whose template it is: a GGUF file, a folder, or an id of the Hub"},
      {.name = "template", .kind = OPTION_STRING, .value = &command.jinja, .argument = "F.jinja", .help = "a template by itself"},
      {.name = "messages",
       .kind = OPTION_STRING,
       .value = &command.messages,
       .argument = "F.json",
       .help = "a list of {\"role\", \"content\"}, or an object with \"messages\""},
      {.name = "tools", .kind = OPTION_STRING, .value = &command.tools, .argument = "F.json", .help = "a list of tools"},
      {.name = "documents", .kind = OPTION_STRING, .value = &command.documents, .argument = "F.json", .help = "a list of documents"},
      {.name = "generation-prompt", .kind = OPTION_FLAG, .value = &command.generation_prompt, .help = "with what asks the model to go on"},
      {.name = "bos", .kind = OPTION_STRING, .value = &command.bos, .argument = "S", .help = "bos_token (default: the model's)"},
      {.name = "eos", .kind = OPTION_STRING, .value = &command.eos, .argument = "S", .help = "eos_token (default: the model's)"},
      {.name = "set",
       .kind = OPTION_STRINGS,
       .value = &command.set,
       .argument = "NAME=VALUE",
       .help = "a variable of the template, as enable_thinking=false"},
  };
  const CommandLine line = {
      .name = "template",
      .usage = "(--model MODEL | --template F.jinja) --messages F.json [--tools F.json] [--generation-prompt]",
      .summary =
          "Prints a conversation as a chat template renders it, byte for byte as transformers does; with --json also\n"
          "which bytes came from which message.",
      .options = options,
      .option_count = sizeof options / sizeof options[0]};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  command.json = arguments.json;
  if (status == STATUS_OK && !arguments.help) status = render(&command);
  free(command.set.items);
  arguments_release(&arguments);
  return status;
}
