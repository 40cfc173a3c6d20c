// The server's life: listening, the engine's loop, stopping.
#include "server/server.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "server/routes.h"

enum { HEAD_BYTES = 64 << 10, LAST_SECONDS = 5 };

static volatile sig_atomic_t signals;  // that asked to stop

static void count_signal(int number) {
  (void)number;
  signals = signals + 1;
}

// ---- Listening

static bool is_loopback_address(const struct sockaddr *address) {
  const struct sockaddr_in *four = (const void *)address;
  const struct sockaddr_in6 *six = (const void *)address;
  if (address->sa_family == AF_INET) return (ntohl(four->sin_addr.s_addr) >> 24) == 127;
  return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static int port_of(int socket) {
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  if (getsockname(socket, (struct sockaddr *)&address, &length) != 0) return 0;
  const struct sockaddr_in *four = (const void *)&address;
  const struct sockaddr_in6 *six = (const void *)&address;
  return ntohs(address.ss_family == AF_INET6 ? six->sin6_port : four->sin_port);
}

static int try_address(const struct addrinfo *address) {
  int handle = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  if (handle < 0) return -1;
  setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(handle, address->ai_addr, address->ai_addrlen) == 0 && listen(handle, SOMAXCONN) == 0) return handle;
  int error = errno;
  close(handle);
  errno = error;
  return -1;
}

static Status listen_on(Server *server) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *addresses;
  char port[16];
  snprintf(port, sizeof port, "%d", (int)server->options.port);
  int failure = getaddrinfo(server->options.host, port, &hints, &addresses);
  if (failure)
    return status_fail(STATUS_USAGE, "--host %s: %s; give an address of this machine, as 127.0.0.1 or 0.0.0.0", server->options.host,
                       gai_strerror(failure));
  for (const struct addrinfo *one = addresses; one && server->socket < 0; one = one->ai_next) {
    server->socket = try_address(one);
    server->is_loopback = is_loopback_address(one->ai_addr);
  }
  int error = errno;
  freeaddrinfo(addresses);
  if (server->socket < 0)
    return status_fail(STATUS_USAGE, "cannot listen on %s, port %s: %s; choose another by --host and --port", server->options.host, port,
                       strerror(error));
  server->port = port_of(server->socket);
  return STATUS_OK;
}

static Status start_daemon(Server *server) {
  const ServerOptions *options = &server->options;
  unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC;
  server->daemon =
      MHD_start_daemon(flags, 0, NULL, NULL, routes_handle, server, MHD_OPTION_LISTEN_SOCKET, server->socket, MHD_OPTION_NOTIFY_COMPLETED,
                       routes_completed, server, MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->connections, MHD_OPTION_CONNECTION_TIMEOUT,
                       (unsigned)options->timeout, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES, MHD_OPTION_END);
  return server->daemon ? STATUS_OK : status_fail(STATUS_FAILED, "the HTTP server does not start: are there threads and files left?");
}

static Status tell_address(const Server *server) {
  bool is_six = strchr(server->options.host, ':') != NULL;
  log_info("listening on http://%s%s%s:%d", is_six ? "[" : "", server->options.host, is_six ? "]" : "", server->port);
  if (!server->is_loopback && !server->keys.count)
    log_warning("others can reach this server, and need no key: --api-key-file asks for one");
  if (!server->options.port_file) return STATUS_OK;
  char text[16];
  int length = snprintf(text, sizeof text, "%d\n", server->port);
  return file_write_whole(server->options.port_file, text, (size_t)length);
}

Status server_new(Server **out, const ServerOptions *options) {
  Server *server = *out = memory_new(1, sizeof *server);
  server->options = *options;
  server->socket = -1;
  server->created = (int64_t)time(NULL);
  atomic_init(&server->state, SERVER_LOADING);
  metrics_new(&server->metrics);
  grammars_new(&server->grammars);
  pthread_mutex_init(&server->engine_lock, NULL);
  if (options->key_file) TRY(status_context(key_list_read(&server->keys, options->key_file), "--api-key-file, which has a key a line"));
  TRY(listen_on(server));
  TRY(start_daemon(server));
  return tell_address(server);
}

// No new connections. The socket stays ours to close; shutting it down turns away those who knock.
static void close_door(Server *server) {
  if (!server->is_closed) MHD_quiesce_daemon(server->daemon);
  shutdown(server->socket, SHUT_RDWR);
  server->is_closed = true;
}

void server_free(Server *server) {
  if (!server) return;
  if (server->daemon) {
    close_door(server);
    MHD_stop_daemon(server->daemon);
  }
  if (server->socket >= 0) close(server->socket);
  if (server->engine) engine_free(server->engine);
  grammars_free(&server->grammars);
  if (server->vocabulary) constraint_vocabulary_free(server->vocabulary);
  pthread_mutex_destroy(&server->engine_lock);
  metrics_release(&server->metrics);
  key_list_release(&server->keys);
  free(server);
}

// ---- The engine, for handlers

Status server_submit(int64_t *number, Server *server, const EngineRequest *request) {
  pthread_mutex_lock(&server->engine_lock);
  Status status = server->engine ? engine_submit(number, server->engine, request) : status_fail(STATUS_FAILED, "the server is stopping");
  pthread_mutex_unlock(&server->engine_lock);
  return status;
}

void server_cancel(Server *server, int64_t number) {
  pthread_mutex_lock(&server->engine_lock);
  if (server->engine) engine_cancel(server->engine, number);
  pthread_mutex_unlock(&server->engine_lock);
}

bool server_counts(EngineCounts *counts, Server *server) {
  pthread_mutex_lock(&server->engine_lock);
  bool is_there = server->engine != NULL;
  if (is_there) *counts = engine_counts(server->engine);
  pthread_mutex_unlock(&server->engine_lock);
  return is_there;
}

Status server_set_scale(Server *server, int adapter, double scale) {
  pthread_mutex_lock(&server->engine_lock);
  Status status = server->engine ? engine_set_scale(server->engine, adapter, scale) : status_fail(STATUS_FAILED, "the server is stopping");
  pthread_mutex_unlock(&server->engine_lock);
  return status;
}

double server_scale(Server *server, int adapter) {
  pthread_mutex_lock(&server->engine_lock);
  double scale = adapter_bank_scale(server->served.adapters, adapter);
  pthread_mutex_unlock(&server->engine_lock);
  return scale;
}

// ---- The loop

static Status open_engine(Server *server, const ServedModel *served) {
  Engine *engine;
  server->served = *served;
  TRY(engine_new(&engine, served->model, served->engine));
  pthread_mutex_lock(&server->engine_lock);
  server->engine = engine;
  pthread_mutex_unlock(&server->engine_lock);
  return constraint_vocabulary_new(&server->vocabulary, served->tokenizer, engine_vocabulary(engine));
}

static void begin_stopping(Server *server) {
  log_info("stopping: %d requests have up to %" PRId64 " seconds to end", atomic_load(&server->calls), server->options.grace);
  atomic_store(&server->state, SERVER_STOPPING);
  close_door(server);
}

// Passes until a signal has come and all answers are sent, or their time is over; a second signal ends it.
static Status work(Server *server) {
  double deadline = 0;
  for (;;) {
    bool is_idle = true;
    TRY(engine_step(server->engine, &is_idle));
    bool is_stopping = deadline > 0;
    if (signals && !is_stopping) {
      begin_stopping(server);
      deadline = time_seconds() + (double)server->options.grace;
    }
    if (is_stopping && (atomic_load(&server->calls) == 0 || signals > 1 || time_seconds() > deadline)) return STATUS_OK;
    if (is_idle) engine_wait(server->engine, is_stopping ? 0.01 : 0.1);
  }
}

// Texts that are still under way end as cancelled, and their clients are told.
static void end_texts(Server *server) {
  atomic_store(&server->state, SERVER_STOPPING);
  pthread_mutex_lock(&server->engine_lock);
  Engine *engine = server->engine;
  server->engine = NULL;
  pthread_mutex_unlock(&server->engine_lock);
  engine_free(engine);
  const struct timespec moment = {.tv_nsec = 10000000};
  for (double end = time_seconds() + LAST_SECONDS; atomic_load(&server->calls) && time_seconds() < end;) nanosleep(&moment, NULL);
}

Status server_run(Server *server, const ServedModel *served) {
  TRY(open_engine(server, served));
  struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART}, old_interrupt, old_terminate;
  signals = 0;
  sigaction(SIGINT, &action, &old_interrupt);
  sigaction(SIGTERM, &action, &old_terminate);
  atomic_store(&server->state, SERVER_READY);
  log_info("%s is ready", served->name);
  Status status = work(server);
  end_texts(server);
  sigaction(SIGINT, &old_interrupt, NULL);
  sigaction(SIGTERM, &old_terminate, NULL);
  return status;
}
