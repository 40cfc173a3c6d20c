#define _GNU_SOURCE
#include "tests/support/hub_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "core/file.h"
#include "core/text.h"
#include "tests/support/test.h"

enum { MOST_FAULTS = 16, REQUEST_LIMIT = 1 << 14 };

typedef struct ServedFile {
  char *name, *bytes;
  size_t length;
  char etag[65];
  bool lfs;
} ServedFile;

typedef struct Repository {
  char *kind, *name, *revision;
  char commit[41];
  ServedFile *files;
  int count, capacity;
} Repository;

struct HubServer {
  int listener;
  pthread_t thread;
  char url[64];
  Repository *repositories;
  int repository_count, repository_capacity;
  const char *token, *token_error, *cdn;
  HubFault faults[MOST_FAULTS];
  int fault_used[MOST_FAULTS], fault_count;
  HubSeen *seen;
  int seen_count, seen_capacity;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int connections;
  bool stopping, released, plain_lists;
};

// --- contents ---

static void digest(char *hex, const EVP_MD *method, const char *prefix, size_t prefix_length, const void *bytes, size_t length) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(context, method, NULL);
  EVP_DigestUpdate(context, prefix, prefix_length);
  EVP_DigestUpdate(context, bytes, length);
  EVP_DigestFinal_ex(context, out, &size);
  EVP_MD_CTX_free(context);
  for (unsigned int i = 0; i < size; i++) snprintf(hex + 2 * i, 3, "%02x", out[i]);
}

static Repository *find_repository(const HubServer *server, const char *kind, const char *name) {
  for (int i = 0; i < server->repository_count; i++)
    if (strcmp(server->repositories[i].kind, kind) == 0 && strcmp(server->repositories[i].name, name) == 0) return &server->repositories[i];
  return NULL;
}

static Repository *need_repository(HubServer *server, const char *kind, const char *name) {
  Repository *found = find_repository(server, kind, name);
  if (found) return found;
  Repository repository = {memory_copy_string(kind), memory_copy_string(name), memory_copy_string("main"), .files = NULL};
  digest(repository.commit, EVP_sha1(), kind, strlen(kind), name, strlen(name));
  ARRAY_PUSH(server->repositories, server->repository_count, server->repository_capacity) = repository;
  return &server->repositories[server->repository_count - 1];
}

void hub_server_add(HubServer *server, const char *kind, const char *repository, const char *name, const void *bytes, size_t length) {
  Repository *into = need_repository(server, kind, repository);
  ServedFile file = {memory_copy_string(name), memory_new(length + 1, 1), length, .lfs = length > LFS_BYTES};
  memcpy(file.bytes, bytes, length);
  char header[32];
  int header_length = snprintf(header, sizeof header, "blob %zu", length);
  if (file.lfs) digest(file.etag, EVP_sha256(), "", 0, bytes, length);
  else digest(file.etag, EVP_sha1(), header, (size_t)header_length + 1, bytes, length);
  ARRAY_PUSH(into->files, into->count, into->capacity) = file;
}

void hub_server_add_file(HubServer *server, const char *kind, const char *repository, const char *name, const char *path) {
  Buffer bytes = {0};
  assert_ok(file_read(&bytes, path, (size_t)1 << 30));
  hub_server_add(server, kind, repository, name, bytes.data, bytes.length);
  buffer_release(&bytes);
}

void hub_server_set_revision(HubServer *server, const char *kind, const char *repository, const char *revision) {
  Repository *found = need_repository(server, kind, repository);
  free(found->revision);
  found->revision = memory_copy_string(revision);
}

const char *hub_server_commit(const HubServer *server, const char *kind, const char *repository) {
  return find_repository(server, kind, repository)->commit;
}

// --- one connection ---

typedef struct Connection {
  HubServer *server;
  int socket;
  char text[REQUEST_LIMIT];  // of the request
  HubSeen seen;
  const char *authorization;
  HubFault fault;
  int index;  // in the log
} Connection;

static bool send_all(Connection *connection, const char *bytes, size_t length) {
  for (ssize_t sent; length; bytes += sent, length -= (size_t)sent)
    if ((sent = send(connection->socket, bytes, length, MSG_NOSIGNAL)) <= 0) return false;
  return true;
}

static void answer(Connection *connection, int code, const char *headers, const char *body, size_t length) {
  char head[4096];
  const char *more = connection->fault.headers ? connection->fault.headers : "";
  int used = snprintf(head, sizeof head, "HTTP/1.1 %d Answer\r\nConnection: close\r\nContent-Length: %zu\r\n%s%s\r\n", code, length,
                      headers, more);
  if (!send_all(connection, head, (size_t)used) || strcmp(connection->seen.method, "HEAD") == 0) return;
  if (connection->fault.stall_seconds) sleep((unsigned)connection->fault.stall_seconds);
  size_t sent = connection->fault.cut_after && (size_t)connection->fault.cut_after < length ? (size_t)connection->fault.cut_after : length;
  pthread_mutex_lock(&connection->server->mutex);
  connection->server->seen[connection->index].sent = (int64_t)sent;
  pthread_mutex_unlock(&connection->server->mutex);
  if (connection->fault.corrupt && length) {
    char other = (char)(body[0] ^ 1);
    send_all(connection, &other, 1), body++, sent--;
  }
  send_all(connection, body, sent);
}

static void answer_content(Connection *connection, const ServedFile *file, const char *headers) {
  char more[1024];
  int64_t from = connection->fault.ignores_range ? -1 : connection->seen.from;
  if (from < 0) {
    answer(connection, 200, headers, file->bytes, file->length);
  } else if ((size_t)from >= file->length) {
    answer(connection, 416, "", "", 0);
  } else {
    snprintf(more, sizeof more, "%sContent-Range: bytes %lld-%zu/%zu\r\n", headers, (long long)from, file->length - 1, file->length);
    answer(connection, 206, more, file->bytes + from, file->length - (size_t)from);
  }
}

static void answer_missing(Connection *connection, const char *error) {
  char header[128];
  snprintf(header, sizeof header, "X-Error-Code: %s\r\n", error);
  answer(connection, 404, header, "", 0);
}

static const ServedFile *find_file(const Repository *repository, const char *name) {
  for (int i = 0; i < repository->count; i++)
    if (strcmp(repository->files[i].name, name) == 0) return &repository->files[i];
  return NULL;
}

static void answer_resolve(Connection *connection, const Repository *repository, const char *rest) {
  const char *slash = strchr(rest, '/');
  const ServedFile *file = slash ? find_file(repository, slash + 1) : NULL;
  if (!file) {
    answer_missing(connection, "EntryNotFound");
    return;
  }
  char headers[1024];
  if (file->lfs) {
    const char *base = connection->server->cdn ? connection->server->cdn : connection->server->url;
    snprintf(headers, sizeof headers,
             "X-Repo-Commit: %s\r\nX-Linked-Etag: \"%s\"\r\nX-Linked-Size: %zu\r\nETag: \"of-the-redirect\"\r\nLocation: "
             "%s/cdn/%s?signature=1\r\n",
             repository->commit, file->etag, file->length, base, file->etag);
    answer(connection, 302, headers, "moved", 5);
  } else {
    snprintf(headers, sizeof headers, "X-Repo-Commit: %s\r\nETag: W/\"%s\"\r\n", repository->commit, file->etag);
    answer_content(connection, file, headers);
  }
}

static void answer_list(Connection *connection, const Repository *repository, const char *revision) {
  if (strcmp(revision, repository->revision) != 0 && strcmp(revision, repository->commit) != 0) {
    answer_missing(connection, "RevisionNotFound");
    return;
  }
  Buffer body = {0};
  buffer_format(&body, "{\"id\": \"%s\", \"sha\": \"%s\", \"siblings\": [", repository->name, repository->commit);
  for (int i = 0; i < repository->count; i++) {
    const ServedFile *file = &repository->files[i];
    buffer_format(&body, "%s{\"rfilename\": \"%s\"", i ? ", " : "", file->name);
    if (!connection->server->plain_lists) {
      buffer_format(&body, ", \"size\": %zu, \"blobId\": \"%.40s\"", file->length, file->etag);
      if (file->lfs) buffer_format(&body, ", \"lfs\": {\"sha256\": \"%s\", \"size\": %zu, \"pointerSize\": 130}", file->etag, file->length);
    }
    buffer_append_string(&body, "}");
  }
  buffer_append_string(&body, "]}");
  answer(connection, 200, "Content-Type: application/json\r\n", body.data, body.length);
  buffer_release(&body);
}

static void decode_percent(char *text) {
  char *out = text;
  for (unsigned int byte; *text; out++) {
    if (*text == '%' && sscanf(text + 1, "%2x", &byte) == 1) *out = (char)byte, text += 3;
    else *out = *text++;
  }
  *out = 0;
}

// "/api/models/org/name/revision/REV", "/org/name/resolve/COMMIT/FILE", "/datasets/org/...", "/cdn/ETAG"
static void route(Connection *connection, char *path) {
  HubServer *server = connection->server;
  path[strcspn(path, "?")] = 0;
  decode_percent(path);
  if (text_starts_with(path, "/cdn/")) {
    for (int i = 0; i < server->repository_count; i++)
      for (int j = 0; j < server->repositories[i].count; j++)
        if (strcmp(server->repositories[i].files[j].etag, path + 5) == 0) {
          answer_content(connection, &server->repositories[i].files[j], "ETag: \"of-the-cdn\"\r\n");
          return;
        }
    answer_missing(connection, "EntryNotFound");
    return;
  }
  if (server->token && (!connection->authorization || !strstr(connection->authorization, server->token))) {
    char header[128];
    snprintf(header, sizeof header, "X-Error-Code: %s\r\n", server->token_error);
    answer(connection, strcmp(server->token_error, "GatedRepo") == 0 ? 403 : 401, header, "", 0);
    return;
  }
  const char *kind = "models", *rest = path + 1;
  bool api = text_starts_with(rest, "api/models/") || text_starts_with(rest, "api/datasets/");
  if (api) rest += 4;
  if (text_starts_with(rest, "datasets/")) kind = "datasets", rest += 9;
  else if (api) rest += 7;
  for (int i = 0; i < server->repository_count; i++) {
    const Repository *repository = &server->repositories[i];
    size_t length = strlen(repository->name);
    if (strcmp(repository->kind, kind) != 0 || strncmp(rest, repository->name, length) != 0) continue;
    const char *action = rest + length;
    if (api && text_starts_with(action, "/revision/")) answer_list(connection, repository, action + 10);
    else if (text_starts_with(action, "/resolve/")) answer_resolve(connection, repository, action + 9);
    else continue;
    return;
  }
  answer_missing(connection, "RepoNotFound");
}

static void take_fault(Connection *connection) {
  HubServer *server = connection->server;
  pthread_mutex_lock(&server->mutex);
  for (int i = 0; i < server->fault_count; i++) {
    const HubFault *fault = &server->faults[i];
    bool spent = fault->times && server->fault_used[i] >= fault->times;
    if (spent || !strstr(connection->seen.path, fault->path) || (fault->only_get && strcmp(connection->seen.method, "GET") != 0)) continue;
    server->fault_used[i]++;
    connection->fault = *fault;
    break;
  }
  connection->index = server->seen_count;
  ARRAY_PUSH(server->seen, server->seen_count, server->seen_capacity) = connection->seen;
  while (connection->fault.hold && !server->released && !server->stopping) pthread_cond_wait(&server->changed, &server->mutex);
  pthread_mutex_unlock(&server->mutex);
}

static bool read_request(Connection *connection) {
  size_t length = 0;
  while (length + 1 < sizeof connection->text) {
    ssize_t got = recv(connection->socket, connection->text + length, sizeof connection->text - 1 - length, 0);
    if (got <= 0) return false;
    length += (size_t)got;
    connection->text[length] = 0;
    if (strstr(connection->text, "\r\n\r\n")) break;
  }
  char path[sizeof connection->seen.path];
  if (sscanf(connection->text, "%7s %255s", connection->seen.method, path) != 2) return false;
  memcpy(connection->seen.path, path, sizeof path);
  connection->seen.from = -1;
  const char *range = strcasestr(connection->text, "\r\nRange: bytes=");
  if (range) connection->seen.from = atoll(range + 15);
  connection->authorization = strcasestr(connection->text, "\r\nAuthorization: ");
  connection->seen.has_token = connection->authorization != NULL;
  return true;
}

static void *serve(void *argument) {
  Connection *connection = argument;
  HubServer *server = connection->server;
  if (read_request(connection)) {
    take_fault(connection);
    char path[sizeof connection->seen.path];
    memcpy(path, connection->seen.path, sizeof path);
    if (connection->fault.code) answer(connection, connection->fault.code, "", "refused", 7);
    else route(connection, path);
  }
  shutdown(connection->socket, SHUT_RDWR);
  close(connection->socket);
  free(connection);
  pthread_mutex_lock(&server->mutex);
  server->connections--;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->mutex);
  return NULL;
}

static void *listen_to_all(void *argument) {
  HubServer *server = argument;
  for (;;) {
    int socket = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    pthread_mutex_lock(&server->mutex);
    bool stopping = server->stopping;
    if (!stopping && socket >= 0) server->connections++;
    pthread_mutex_unlock(&server->mutex);
    if (stopping || socket < 0) {
      if (socket >= 0) close(socket);
      return NULL;
    }
    Connection *connection = memory_new(1, sizeof *connection);
    connection->server = server;
    connection->socket = socket;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, serve, connection), 0);
    pthread_detach(thread);
  }
}

// --- the server ---

HubServer *hub_server_start(void) {
  HubServer *server = memory_new(1, sizeof *server);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(server->listener >= 0);
  assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(server->listener, 64), 0);
  assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &length), 0);
  snprintf(server->url, sizeof server->url, "http://127.0.0.1:%d", ntohs(address.sin_port));
  pthread_mutex_init(&server->mutex, NULL);
  pthread_cond_init(&server->changed, NULL);
  assert_int_equal(pthread_create(&server->thread, NULL, listen_to_all, server), 0);
  return server;
}

void hub_server_stop(HubServer *server) {
  if (!server) return;
  pthread_mutex_lock(&server->mutex);
  server->stopping = true;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->mutex);
  shutdown(server->listener, SHUT_RDWR);
  pthread_join(server->thread, NULL);
  close(server->listener);
  pthread_mutex_lock(&server->mutex);
  while (server->connections) pthread_cond_wait(&server->changed, &server->mutex);
  pthread_mutex_unlock(&server->mutex);
  for (int i = 0; i < server->repository_count; i++) {
    Repository *repository = &server->repositories[i];
    for (int j = 0; j < repository->count; j++) free(repository->files[j].name), free(repository->files[j].bytes);
    free(repository->kind), free(repository->name), free(repository->revision), free(repository->files);
  }
  free(server->repositories);
  free(server->seen);
  pthread_mutex_destroy(&server->mutex);
  pthread_cond_destroy(&server->changed);
  free(server);
}

const char *hub_server_url(const HubServer *server) { return server->url; }

void hub_server_require_token(HubServer *server, const char *token, const char *error_code) {
  server->token = token;
  server->token_error = error_code;
}

void hub_server_list_plainly(HubServer *server) { server->plain_lists = true; }

void hub_server_redirect_cdn(HubServer *server, const char *url) { server->cdn = url; }

void hub_server_fault(HubServer *server, HubFault fault) {
  pthread_mutex_lock(&server->mutex);
  assert_true(server->fault_count < MOST_FAULTS);
  server->faults[server->fault_count++] = fault;
  pthread_mutex_unlock(&server->mutex);
}

void hub_server_release(HubServer *server) {
  pthread_mutex_lock(&server->mutex);
  server->released = true;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->mutex);
}

int hub_server_seen_count(const HubServer *server) {
  HubServer *locked = (HubServer *)(uintptr_t)server;
  pthread_mutex_lock(&locked->mutex);
  int count = server->seen_count;
  pthread_mutex_unlock(&locked->mutex);
  return count;
}

const HubSeen *hub_server_seen(const HubServer *server, int index) { return &server->seen[index]; }

int hub_server_count(const HubServer *server, const char *method, const char *path) {
  HubServer *locked = (HubServer *)(uintptr_t)server;
  int count = 0;
  pthread_mutex_lock(&locked->mutex);
  for (int i = 0; i < server->seen_count; i++)
    count += (!method || strcmp(server->seen[i].method, method) == 0) && strstr(server->seen[i].path, path) != NULL;
  pthread_mutex_unlock(&locked->mutex);
  return count;
}

void hub_server_forget(HubServer *server) {
  pthread_mutex_lock(&server->mutex);
  server->seen_count = 0;
  pthread_mutex_unlock(&server->mutex);
}
