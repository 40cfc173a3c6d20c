// `lora chat`: a conversation on the terminal, or line by line from a pipe. The whole history goes through the model's chat
// template at each turn; the engine keeps what it has already read of it, so that only the new turn is computed.
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
#include "core/log.h"
#include "core/text.h"

typedef struct ChatCommand {
  const char *model, *system;
  ArgumentList adapters, stops;
  SamplingChoice sampling;
  EngineChoice engine;
  int64_t max_tokens, context;
} ChatCommand;

typedef struct Conversation {
  const ChatCommand *command;
  LoadedModel loaded;
  Engine *engine;
  json_t *messages;
  int64_t turn;  // each turn draws from a seed of its own
} Conversation;

static const char help_text[] =
    "/reset          forget the conversation\n"
    "/system TEXT    begin anew with this system message; none: the template's own\n"
    "/exit           end (as does the end of the input)\n";

static Status conversation_begin(Conversation *talk, const char *system) {
  json_array_clear(talk->messages);
  talk->turn = 0;
  return system && *system ? message_append(talk->messages, "system", system, strlen(system)) : STATUS_OK;
}

static Status conversation_open(Conversation *talk, ChatCommand *command, const Arguments *arguments) {
  *talk = (Conversation){.command = command, .messages = json_array()};
  for (int i = 0; i < command->stops.count; i++)
    if (!*command->stops.items[i]) return status_fail(STATUS_USAGE, "chat: --stop must not be empty");
  TRY(loaded_model_open(&talk->loaded, "chat", command->model, &command->adapters, arguments));
  TRY(loaded_model_open_chat(&talk->loaded, &command->stops));
  TRY(loaded_model_engine(&talk->engine, &talk->loaded, loaded_model_context(&talk->loaded, command->context), &command->engine));
  return conversation_begin(talk, command->system);
}

static void conversation_close(Conversation *talk) {
  engine_free(talk->engine);
  json_decref(talk->messages);
  loaded_model_release(&talk->loaded);
}

// One turn: the user's message, and the answer, which joins the history.
static Status answer(Conversation *talk, const char *text, size_t length) {
  const ChatCommand *command = talk->command;
  Generation result = {0};
  TokenList ids = {0};
  GenerateOptions options = {.sampling = sampling_settings(&command->sampling),
                             .max_tokens = command->max_tokens,
                             .stops = command->stops.items,
                             .stop_count = command->stops.count,
                             .emit = emit_to_stdout};
  options.sampling.seed += (uint64_t)talk->turn;
  size_t before = json_array_size(talk->messages);
  Status status = message_append(talk->messages, "user", text, length);
  if (status == STATUS_OK) status = messages_encode(&ids, talk->messages, talk->loaded.chat, talk->loaded.tokenizer);
  if (status == STATUS_OK) status = generate(&result, talk->engine, talk->loaded.tokenizer, ids.ids, ids.count, &options);
  if (result.text.length || status == STATUS_OK) printf("\n");
  fflush(stdout);
  if (status == STATUS_OK) {
    status = message_append(talk->messages, "assistant", result.text.data ? result.text.data : "", result.text.length);
    log_speed(&result);
    if (result.finish == FINISH_LENGTH && result.tokens.count < command->max_tokens)
      log_warning("the context of %" PRId64 " tokens is full; /reset begins a new conversation", engine_context(talk->engine));
    talk->turn++;
  } else if (json_array_size(talk->messages) > before) {
    json_array_remove(talk->messages, before);
  }
  token_list_release(&ids);
  generation_release(&result);
  return status;
}

// A line that begins with '/'. False: the conversation is over.
static bool obey(Conversation *talk, const char *line) {
  if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
  bool resets = strcmp(line, "/reset") == 0;
  if (resets || strcmp(line, "/system") == 0 || text_starts_with(line, "/system ")) {
    const char *system = resets ? talk->command->system : line + strlen("/system");
    if (!resets) system += strspn(system, " ");
    if (conversation_begin(talk, system) != STATUS_OK) log_warning("%s", status_message());
    return true;
  }
  if (strcmp(line, "/help") != 0) log_warning("%s is not known", line);
  fputs(help_text, stderr);
  return true;
}

// What stands against one message (too long, no text) is said, and the conversation goes on; a broken model ends it.
static Status converse(Conversation *talk) {
  bool shows_prompt = isatty(STDIN_FILENO);
  char *line = NULL;
  size_t capacity = 0;
  Status status = STATUS_OK;
  while (status == STATUS_OK && !ferror(stdout)) {
    if (shows_prompt) fputs("> ", stderr);
    ssize_t length = getline(&line, &capacity, stdin);
    if (length < 0) break;
    while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = 0;
    if (length == 0) continue;
    if (line[0] == '/') {
      if (!obey(talk, line)) break;
      continue;
    }
    status = answer(talk, line, (size_t)length);
    if (status != STATUS_USAGE) continue;
    log_warning("%s", status_message());
    status = STATUS_OK;
  }
  free(line);
  return status;
}

static Status run(ChatCommand *command, const Arguments *arguments) {
  Conversation talk;
  Status status = conversation_open(&talk, command, arguments);
  if (status == STATUS_OK && isatty(STDIN_FILENO)) log_info("/help lists the commands");
  if (status == STATUS_OK) status = converse(&talk);
  conversation_close(&talk);
  return status;
}

Status command_chat(int argc, char **argv) {
  ChatCommand command = {.sampling = sampling_choice(), .engine = engine_choice(), .max_tokens = 1024};
  const Option own[] = {
      model_option(&command.model),
      adapter_option(&command.adapters),
      {.name = "system",
       .kind = OPTION_STRING,
       .value = &command.system,
       .argument = "S",
       .help = "the system message (default: the template's)"},
      {.name = "max-tokens",
       .kind = OPTION_INTEGER,
       .value = &command.max_tokens,
       .argument = "N",
       .help = "the longest answer, in tokens (default: 1024)",
       .min = 1,
       .max = 1e9},
      {.name = "context",
       .kind = OPTION_INTEGER,
       .value = &command.context,
       .argument = "N",
       .help = "room for the whole conversation, in tokens (default: the model's own, at most 4096)",
       .min = 1,
       .max = 1e9},
      {.name = "stop", .kind = OPTION_STRINGS, .value = &command.stops, .argument = "S", .help = "ends an answer where S would appear"},
  };
  enum { OWN = sizeof own / sizeof own[0] };
  Option options[OWN + SAMPLING_OPTIONS + ENGINE_CHOICES];
  memcpy(options, own, sizeof own);
  sampling_options(options + OWN, &command.sampling);
  engine_options(options + OWN + SAMPLING_OPTIONS, &command.engine);
  const CommandLine line = {.name = "chat",
                            .usage = "--model MODEL [--adapter A[:SCALE]]... [options]",
                            .summary =
                                "A conversation: a line of input is a message; answers go to stdout as they come. /help lists what else\n"
                                "can be typed.",
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
