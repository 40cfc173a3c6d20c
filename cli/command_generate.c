// `lora generate`: one prompt, the new text on stdout as it comes.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/engine_options.h"
#include "cli/generate_output.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "core/file.h"

typedef struct GenerateCommand {
  const char *model, *prompt, *prompt_file, *system;
  ArgumentList adapters, stops;
  SamplingChoice sampling;
  EngineChoice engine;
  int64_t max_tokens, context;
  bool chat;
} GenerateCommand;

static Status read_stream(Buffer *text, FILE *stream) {
  char block[1 << 14];
  for (size_t n; (n = fread(block, 1, sizeof block, stream)) > 0;) buffer_append(text, block, n);
  return ferror(stream) ? status_fail(STATUS_FAILED, "standard input cannot be read") : STATUS_OK;
}

static Status read_prompt(Buffer *text, const GenerateCommand *command) {
  if (!command->prompt == !command->prompt_file)
    return status_fail(STATUS_USAGE, "generate: give the prompt by --prompt P, or in a file by --prompt-file F ('-': standard input)");
  if (command->prompt) {
    buffer_append_string(text, command->prompt);
    return STATUS_OK;
  }
  if (strcmp(command->prompt_file, "-") == 0) return read_stream(text, stdin);
  FileMap map;  // the bytes as they are: file_read would unpack a gzip file
  TRY(file_map(&map, command->prompt_file));
  buffer_append(text, map.data, map.size);
  file_unmap(&map);
  return STATUS_OK;
}

// One user message in the model's chat template.
static Status encode_message(TokenList *ids, const Buffer *text, const char *system, const LoadedModel *loaded) {
  json_t *messages = json_array();
  Status status = system ? message_append(messages, "system", system, strlen(system)) : STATUS_OK;
  if (status == STATUS_OK) status = message_append(messages, "user", text->data ? text->data : "", text->length);
  if (status == STATUS_OK) status = messages_encode(ids, messages, loaded->chat, loaded->tokenizer);
  json_decref(messages);
  return status;
}

static Status encode_prompt(TokenList *ids, const GenerateCommand *command, const LoadedModel *loaded) {
  Buffer text = {0};
  Status status = read_prompt(&text, command);
  if (status == STATUS_OK && command->chat) status = encode_message(ids, &text, command->system, loaded);
  else if (status == STATUS_OK) status = generate_encode(ids, loaded->tokenizer, text.data ? text.data : "", text.length);
  buffer_release(&text);
  return status;
}

// Room for the prompt and what it may bring, within what the model was made for.
static int64_t needed_context(const GenerateCommand *command, const ModelConfig *config, int64_t prompt) {
  if (command->context > 0) return command->context;
  int64_t needed = prompt + command->max_tokens;
  return needed < config->context_length ? needed : config->context_length;
}

static void print_json(const Generation *result) {
  json_t *ids = json_array();
  for (int64_t i = 0; i < result->tokens.count; i++) json_array_append_new(ids, json_integer(result->tokens.ids[i]));
  json_t *object = json_pack("{s:s%, s:o, s:s, s:I, s:I, s:f, s:f}", "text", result->text.data ? result->text.data : "",
                             result->text.length, "tokens", ids, "finish_reason", finish_reason_name(result->finish), "prompt_tokens",
                             (json_int_t)result->usage.prompt_tokens, "generated_tokens", (json_int_t)result->tokens.count,
                             "prompt_tokens_per_second", tokens_per_second(result->usage.prompt_tokens, result->usage.prompt_seconds),
                             "generation_tokens_per_second", writing_rate(&result->usage));
  json_dumpf(object, stdout, JSON_COMPACT);
  printf("\n");
  json_decref(object);
}

static Status write_answer(const GenerateCommand *command, const LoadedModel *loaded, const TokenList *prompt, bool json) {
  Engine *engine = NULL;
  Generation result = {0};
  GenerateOptions options = {.sampling = sampling_settings(&command->sampling),
                             .max_tokens = command->max_tokens,
                             .stops = command->stops.items,
                             .stop_count = command->stops.count,
                             .emit = json ? NULL : emit_to_stdout};
  Status status = loaded_model_engine(&engine, loaded, needed_context(command, &loaded->model->config, prompt->count), &command->engine);
  if (status == STATUS_OK) status = generate(&result, engine, loaded->tokenizer, prompt->ids, prompt->count, &options);
  if (!json && result.text.length && isatty(STDOUT_FILENO)) printf("\n");
  if (status == STATUS_OK && json) print_json(&result);
  if (status == STATUS_OK) log_speed(&result);
  generation_release(&result);
  engine_free(engine);
  return status;
}

static Status check(const GenerateCommand *command) {
  for (int i = 0; i < command->stops.count; i++)
    if (!*command->stops.items[i]) return status_fail(STATUS_USAGE, "generate: --stop must not be empty");
  if (command->system && !command->chat) return status_fail(STATUS_USAGE, "generate: --system goes with --chat");
  return STATUS_OK;
}

static Status run(GenerateCommand *command, const Arguments *arguments) {
  LoadedModel loaded = {0};
  TokenList prompt = {0};
  Status status = check(command);
  if (status == STATUS_OK) status = loaded_model_open(&loaded, "generate", command->model, &command->adapters, arguments);
  if (status == STATUS_OK && command->chat) status = loaded_model_open_chat(&loaded, &command->stops);
  if (status == STATUS_OK) status = encode_prompt(&prompt, command, &loaded);
  if (status == STATUS_OK) status = write_answer(command, &loaded, &prompt, arguments->json);
  token_list_release(&prompt);
  loaded_model_release(&loaded);
  return status;
}

Status command_generate(int argc, char **argv) {
  GenerateCommand command = {.sampling = sampling_choice(), .engine = engine_choice(), .max_tokens = 256};
  const Option own[] = {
      model_option(&command.model),
      adapter_option(&command.adapters),
      {.name = "prompt", .kind = OPTION_STRING, .value = &command.prompt, .argument = "P", .help = "the text to go on from"},
      {.name = "prompt-file",
       .kind = OPTION_STRING,
       .value = &command.prompt_file,
       .argument = "F",
       .help = "a file that holds it; '-' for standard input"},
      {.name = "chat", .kind = OPTION_FLAG, .value = &command.chat, .help = "the prompt is a user's message, in the model's chat template"},
      {.name = "system",
       .kind = OPTION_STRING,
       .value = &command.system,
       .argument = "S",
       .help = "with --chat: the system message before it"},
      {.name = "max-tokens",
       .kind = OPTION_INTEGER,
       .value = &command.max_tokens,
       .argument = "N",
       .help = "how many tokens to write at most (default: 256)",
       .min = 1,
       .max = 1e9},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "room for prompt and answer, in tokens (default: what they need, within the model's own)",
       .min = 1,
       .max = 1e9},
      {.name = "stop", .kind = OPTION_STRINGS, .value = &command.stops, .argument = "S", .help = "ends the text where S would appear"},
  };
  enum { OWN = sizeof own / sizeof own[0] };
  Option options[OWN + SAMPLING_OPTIONS + ENGINE_CHOICES];
  memcpy(options, own, sizeof own);
  sampling_options(options + OWN, &command.sampling);
  engine_options(options + OWN + SAMPLING_OPTIONS, &command.engine);
  const CommandLine line = {
      .name = "generate",
      .usage = "--model MODEL [--adapter A[:SCALE]]... (--prompt P | --prompt-file F) [--chat] [options]",
      .summary =
          "Writes what the model, with its adapters, makes of a prompt: the new text only. Filters work in llama.cpp's\n"
          "order: repetition penalty, top-k, top-p, min-p, temperature.",
      .options = options,
      .option_count = OWN + SAMPLING_OPTIONS + ENGINE_CHOICES};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = run(&command, &arguments);
  free(command.adapters.items);
  free(command.stops.items);
  arguments_release(&arguments);
  return status;
}
