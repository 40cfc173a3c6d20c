// `lora serve`: a model and its adapters over HTTP.
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/engine_options.h"
#include "cli/hub_files.h"
#include "cli/loaded_model.h"
#include "cli/model_options.h"
#include "core/file.h"
#include "core/text.h"
#include "data/template/builtin.h"
#include "server/server.h"

typedef struct ServeCommand {
  const char *model, *name, *chat_template;
  EngineChoice choice;
  ArgumentList adapters;
  bool is_deterministic;
  int64_t parallel, context, cache_tokens;
  ServerOptions server;
  EngineOptions engine;
  LoadedModel loaded;
  AdapterBank *bank;
  ChatTemplate **adapter_chats;  // [bank]
  int chat_count;
} ServeCommand;

// ---- Chat templates

// Where it ends a turn by a token, texts end there.
static Status open_template(ChatTemplate **chat, const ChatTemplateOptions *options, Tokenizer *tokenizer) {
  TRY(chat_template_open(chat, options, tokenizer));
  const char *stop = chat_template_stop(*chat);
  return *stop && tokenizer_find(tokenizer, stop) >= 0 ? tokenizer_set_special(tokenizer, "stop", stop) : STATUS_OK;
}

// The model's own template, or the one that is asked for. A model without one serves completions alone.
static Status open_chat(ServeCommand *command) {
  const char *wanted = command->chat_template;
  LoadedModel *loaded = &command->loaded;
  if (!wanted && !tokenizer_chat_template(loaded->tokenizer)) return STATUS_OK;
  bool is_file = wanted && file_exists(wanted);
  // A recipe's unknown name stands for the model's own template; who types one here has mistyped it.
  if (wanted && !is_file && !builtin_template(wanted))
    return status_fail(STATUS_USAGE, "serve: --chat-template %s: no such file, and no built-in template of that name (docs/recipes.md)",
                       wanted);
  return open_template(&loaded->chat, &(ChatTemplateOptions){.name = is_file ? "jinja" : wanted, .jinja = is_file ? wanted : NULL},
                       loaded->tokenizer);
}

// ---- Adapters

// What the adapter was trained with lies beside it, unless one is asked for by name.
static Status open_adapter_chat(ServeCommand *command, const char *adapter) {
  char *path = path_join(adapter, "chat_template.jinja");
  command->adapter_chats = memory_grow(command->adapter_chats, (size_t)command->chat_count + 1, sizeof *command->adapter_chats);
  ChatTemplate **chat = &command->adapter_chats[command->chat_count++];
  *chat = NULL;
  bool is_own = !command->chat_template && file_exists(path);
  Status status =
      is_own ? open_template(chat, &(ChatTemplateOptions){.name = "jinja", .jinja = path}, command->loaded.tokenizer) : STATUS_OK;
  free(path);
  return status;
}

// The last part of a path, without slashes behind it; a new string.
static char *last_part(const char *path) {
  size_t end = strlen(path);
  while (end > 1 && path[end - 1] == '/') end--;
  char *trimmed = memory_format("%.*s", (int)end, path), *name = memory_copy_string(path_name(trimmed));
  free(trimmed);
  return name;
}

// NAME=A[:SCALE]; without a name, the last part of the path is one.
static Status add_adapter(ServeCommand *command, const char *argument) {
  const char *equals = file_exists(argument) || directory_exists(argument) ? NULL : strchr(argument, '=');
  double scale;
  char *given = adapter_argument_path(equals ? equals + 1 : argument, &scale), *path = NULL;
  Status status = hub_argument_path(&path, "--adapter", given, HUB_ADAPTER);
  if (status == STATUS_OK) status = adapter_path_check(path);
  char *name = equals ? memory_format("%.*s", (int)(equals - argument), argument) : last_part(given);
  if (status == STATUS_OK && !text_is_printable(name, strlen(name)))
    status = status_fail(STATUS_USAGE, "--adapter %s: give it a name to ask for it by, as NAME=PATH", argument);
  if (status == STATUS_OK && strcmp(name, command->name) == 0)
    status = status_fail(STATUS_USAGE, "--adapter %s: the model itself is called so; give another NAME=", argument);
  if (status == STATUS_OK) status = adapter_bank_add(command->bank, name, path, scale);
  if (status == STATUS_OK) status = open_adapter_chat(command, path);
  free(name);
  free(path);
  free(given);
  return status;
}

static Status open_adapters(ServeCommand *command) {
  if (command->adapters.count == 0) return STATUS_OK;
  TRY(adapter_bank_new(&command->bank, command->loaded.model));
  for (int i = 0; i < command->adapters.count; i++) TRY(add_adapter(command, command->adapters.items[i]));
  return STATUS_OK;
}

// ---- The model

static Status serve(ServeCommand *command, Server *server, const Arguments *arguments) {
  const ArgumentList none = {0};
  TRY(loaded_model_open(&command->loaded, "serve", command->model, &none, arguments));
  command->loaded.backend->is_deterministic = command->is_deterministic;
  TRY(open_chat(command));
  TRY(open_adapters(command));
  const ServedModel served = {.name = command->name,
                              .model = command->loaded.model,
                              .tokenizer = command->loaded.tokenizer,
                              .chat = command->loaded.chat,
                              .adapter_chats = command->adapter_chats,
                              .adapters = command->bank,
                              .engine = {.context = loaded_model_context(&command->loaded, command->context),
                                         .parallel = command->parallel,
                                         .cache_tokens = command->cache_tokens,
                                         .cache_type = command->engine.cache_type,
                                         .drafts = command->engine.drafts,
                                         .tokenizer = command->loaded.tokenizer,
                                         .adapters = command->bank}};
  return server_run(server, &served);
}

// Listens first, so that whoever waits for the model can ask how it is.
static Status run(ServeCommand *command, const Arguments *arguments) {
  Server *server = NULL;
  if (!command->model)
    return status_fail(STATUS_USAGE, "serve: --model MODEL is missing: a GGUF file, a Hugging Face folder, or an id of the Hub");
  TRY(engine_choice_read(&command->engine, &command->choice));
  char *name = last_part(command->model);
  if (!command->name) command->name = name;
  Status status = server_new(&server, &command->server);
  if (status == STATUS_OK) status = serve(command, server, arguments);
  server_free(server);
  for (int i = 0; i < command->chat_count; i++) chat_template_free(command->adapter_chats[i]);
  free(command->adapter_chats);
  if (command->bank) adapter_bank_free(command->bank);
  loaded_model_release(&command->loaded);
  free(name);
  return status;
}

// ---- The command line

static const char summary[] =
    "Serves the model, and each adapter by its name, over HTTP as OpenAI's API has it: /v1/completions, /v1/chat/completions,\n"
    "/v1/embeddings, /v1/models; /tokenize, /detokenize, /tokenizer_info, /lora-adapters, /health, /metrics; a page to talk to it\n"
    "at /. SIGTERM and SIGINT let answers end first.";

Status command_serve(int argc, char **argv) {
  ServeCommand command = {
      .choice = engine_choice(),
      .parallel = 8,
      .server = {.host = "127.0.0.1", .port = 8080, .connections = 256, .queue = 256, .body_limit = 16 << 20, .timeout = 60, .grace = 30}};
  ServerOptions *server = &command.server;
  const Option own[] = {
      model_option(&command.model),
      {.name = "adapter",
       .kind = OPTION_STRINGS,
       .value = &command.adapters,
       .argument = "NAME=A[:SCALE]",
       .help = "an adapter that requests may name as their model; may be repeated"},
      deterministic_option(&command.is_deterministic),
      {.name = "alias",
       .kind = OPTION_STRING,
       .value = &command.name,
       .argument = "NAME",
       .help = "the model's name (default: its file's)"},
      {.name = "chat-template",
       .kind = OPTION_STRING,
       .value = &command.chat_template,
       .argument = "T",
       .help = "a built-in template or a Jinja file (default: the model's own)"},
      {.name = "host",
       .kind = OPTION_STRING,
       .value = &server->host,
       .argument = "H",
       .help = "the address to listen on (default: 127.0.0.1, which this machine alone reaches)"},
      {.name = "port",
       .kind = OPTION_INTEGER,
       .value = &server->port,
       .argument = "P",
       .help = "0: one that is free (default: 8080)",
       .max = 65535},
      {.name = "port-file", .kind = OPTION_STRING, .value = &server->port_file, .argument = "F", .help = "a file to write the port to"},
      {.name = "api-key-file",
       .kind = OPTION_STRING,
       .value = &server->key_file,
       .argument = "F",
       .help = "keys, one a line, one of which a request has to bear"},
      {.name = "allow-origin",
       .kind = OPTION_STRING,
       .value = &server->allowed_origin,
       .argument = "O",
       .help = "lets pages of this origin ask, as https://example.org; *: of all (default: none)"},
      {.name = "parallel",
       .kind = OPTION_INTEGER,
       .value = &command.parallel,
       .argument = "N",
       .help = "texts that are worked on at once (default: 8)",
       .min = 1,
       .max = 1024},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "room for one prompt and its answer, in tokens (default: the model's own, at most 4096)",
       .min = 1,
       .max = 1e9},
      {.name = "cache-tokens",
       .kind = OPTION_INTEGER,
       .value = &command.cache_tokens,
       .argument = "N",
       .help = "tokens that keys and values are kept of, of earlier texts as well (default: parallel * context)",
       .min = 1,
       .max = 1e12},
      {.name = "queue",
       .kind = OPTION_INTEGER,
       .value = &server->queue,
       .argument = "N",
       .help = "texts that may wait; more are refused with 429 (default: 256)",
       .max = 1e6},
      {.name = "max-connections",
       .kind = OPTION_INTEGER,
       .value = &server->connections,
       .argument = "N",
       .help = "connections at once (default: 256)",
       .min = 1,
       .max = 65536},
      {.name = "max-body",
       .kind = OPTION_INTEGER,
       .value = &server->body_limit,
       .argument = "BYTES",
       .help = "the longest request (default: 16 MiB)",
       .min = 1,
       .max = 1 << 30},
      {.name = "timeout",
       .kind = OPTION_INTEGER,
       .value = &server->timeout,
       .argument = "S",
       .help = "seconds that a client may be silent, or not read (default: 60)",
       .min = 1,
       .max = 1e6},
      {.name = "grace",
       .kind = OPTION_INTEGER,
       .value = &server->grace,
       .argument = "S",
       .help = "seconds that answers get to end when the server stops (default: 30)",
       .max = 1e6},
  };
  enum { OWN = sizeof own / sizeof own[0] };
  Option options[OWN + ENGINE_CHOICES];
  memcpy(options, own, sizeof own);
  engine_options(options + OWN, &command.choice);
  const CommandLine line = {.name = "serve",
                            .usage = "--model MODEL [--adapter NAME=A[:SCALE]]... [options]",
                            .summary = summary,
                            .options = options,
                            .option_count = OWN + ENGINE_CHOICES};
  Arguments arguments;
  Status status = options_parse(&arguments, &line, argc, argv);
  if (status == STATUS_OK && !arguments.help) status = run(&command, &arguments);
  free(command.adapters.items);
  arguments_release(&arguments);
  return status;
}
