// `lora serve`: a model and its adapters over HTTP, as OpenAI's API has it (https://platform.openai.com/docs/api-reference).
//
//   server_new (listens, and answers that the model is loading) -> server_run (until SIGTERM or SIGINT) -> server_free
//
// libmicrohttpd gives each connection a thread, in which a handler (server/routes.c) submits texts to the engine and waits for their tokens
// (server/answer.h). The engine's passes run in the thread of server_run.
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdatomic.h>

#include "data/template/chat_template.h"
#include "runtime/engine.h"
#include "server/auth.h"
#include "server/grammars.h"
#include "server/metrics.h"

typedef struct ServerOptions {
  const char *host;  // an address or a name of this machine
  int64_t port;  // 0: one that is free
  const char *port_file;  // the port is written there; NULL: nowhere
  const char *key_file;  // server/auth.h; NULL: anybody may ask
  const char *allowed_origin;  // whose pages may ask (CORS), "*": all; NULL: only our own
  int64_t connections;  // at once
  int64_t queue;  // texts that wait; then 429
  int64_t body_limit;  // bytes
  int64_t timeout;  // seconds without a byte, in the middle of a request or between two
  int64_t grace;  // seconds that answers get to end when the server stops
} ServerOptions;

// What is served. All is borrowed.
typedef struct ServedModel {
  const char *name;  // as requests call it
  const Model *model;
  const Tokenizer *tokenizer;
  const ChatTemplate *chat;  // NULL: there is none, so no conversations
  ChatTemplate *const *adapter_chats;  // [adapters] what each was trained with; NULL: the model's
  AdapterBank *adapters;  // NULL: none
  EngineOptions engine;
} ServedModel;

typedef enum ServerState { SERVER_LOADING, SERVER_READY, SERVER_STOPPING } ServerState;

typedef struct Server {
  ServerOptions options;
  KeyList keys;
  Metrics metrics;
  Grammars grammars;
  struct MHD_Daemon *daemon;
  int socket;  // that listens; -1: none
  int port;
  bool is_closed;  // no new connections are taken
  bool is_loopback;  // nobody but this machine reaches it
  atomic_int state;
  atomic_int calls;  // requests that are being answered
  int64_t created;  // seconds since 1970: of the models' `created`
  // From SERVER_READY on:
  ServedModel served;
  struct ConstraintVocabulary *vocabulary;
  pthread_mutex_t engine_lock;  // while it is held `engine` does not go away
  Engine *engine;  // NULL: not yet, or not any more
} Server;

// STATUS_USAGE for an address that cannot be listened on, STATUS_BAD_INPUT for a file of keys. `options` is copied, its strings are not.
Status server_new(Server **out, const ServerOptions *options);
// Serves until a signal ends it, which is STATUS_OK; what the engine fails by else.
Status server_run(Server *server, const ServedModel *served);
void server_free(Server *server);

// Any thread, as engine_submit, engine_cancel and engine_counts. STATUS_FAILED, and false, when there is no engine any more.
Status server_submit(int64_t *number, Server *server, const EngineRequest *request);
void server_cancel(Server *server, int64_t number);
bool server_counts(EngineCounts *counts, Server *server);
Status server_set_scale(Server *server, int adapter, double scale);  // engine_set_scale
double server_scale(Server *server, int adapter);

#endif
