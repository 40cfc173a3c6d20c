#include "tests/support/served.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"

static void sleep_milliseconds(long milliseconds) {
  const struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
  nanosleep(&time, NULL);
}

// ---- The process

void served_log(Buffer *out, const Served *served) {
  char *path = path_join(served->folder, "log");
  assert_ok(file_read(out, path, 1 << 24));
  free(path);
}

static void wait_until_ready(Served *served) {
  char *path = path_join(served->folder, "port");
  for (int i = 0; i < 3000; i++, sleep_milliseconds(20)) {
    Buffer log = {0}, text = {0};
    if (waitpid(served->process, NULL, WNOHANG) == served->process) {
      served_log(&log, served);
      fail_msg("the server has ended: %s", log.data ? log.data : "");
    }
    if (!served->port && file_exists(path) && file_read(&text, path, 64) == STATUS_OK) served->port = atoi(text.data ? text.data : "");
    buffer_release(&text);
    if (!served->port) continue;
    Reply reply = ask(served->port, (Ask){.path = "/health"});
    bool is_ready = reply.status == 200;
    reply_release(&reply);
    if (!is_ready) continue;
    free(path);
    return;
  }
  fail_msg("the server is not ready after a minute");
}

void served_start(Served *served, const char *format, ...) {
  char arguments[4096];
  va_list list;
  va_start(list, format);
  vsnprintf(arguments, sizeof arguments, format, list);
  va_end(list);
  *served = (Served){.folder = temporary_folder()};
  char *line = memory_format("exec '%s' serve --port 0 --port-file '%s/port' %s </dev/null >'%s/log' 2>&1", LORA_PROGRAM, served->folder,
                             arguments, served->folder);
  served->process = fork();
  if (served->process == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that fails half way leaves no server behind
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
  }
  free(line);
  wait_until_ready(served);
}

int served_stop(Served *served, int signal) {
  int status = 0;
  kill(served->process, signal);
  assert_int_equal(waitpid(served->process, &status, 0), served->process);
  assert_ok(directory_remove(served->folder));
  free(served->folder);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// ---- Requests

static size_t take(char *bytes, size_t size, size_t count, void *context) {
  buffer_append(context, bytes, size * count);
  return size * count;
}

static struct curl_slist *list_headers(const Ask *request) {
  struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
  for (size_t i = 0; i < sizeof request->headers / sizeof *request->headers; i++)
    if (request->headers[i]) headers = curl_slist_append(headers, request->headers[i]);
  return headers;
}

Reply ask(int port, Ask request) {
  Reply reply = {0};
  CURL *curl = curl_easy_init();
  struct curl_slist *headers = list_headers(&request);
  char *url = memory_format("http://127.0.0.1:%d%s", port, request.path);
  long status = 0, length = request.body ? (long)(request.body_length ? request.body_length : strlen(request.body)) : 0;
  curl_easy_setopt(curl, CURLOPT_URL, url);
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply.body);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &reply.head);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, request.seconds > 0 ? (long)(request.seconds * 1000) : 300000L);
  if (request.body) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, length);
  }
  if (request.method) curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method);
  if (request.method && strcmp(request.method, "HEAD") == 0) curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  reply.is_whole = curl_easy_perform(curl) == CURLE_OK;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  reply.status = (int)status;
  reply.json = reply.body.length ? json_loadb(reply.body.data, reply.body.length, JSON_DECODE_ANY, NULL) : NULL;
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  free(url);
  return reply;
}

Reply ask_json(int port, const char *path, const char *format, ...) {
  char body[8192];
  va_list list;
  va_start(list, format);
  vsnprintf(body, sizeof body, format, list);
  va_end(list);
  Reply reply = ask(port, (Ask){.path = path, .body = body});
  if (reply.status != 200 || !reply.is_whole) fail_msg("%s %s: %d: %s", path, body, reply.status, reply.body.data ? reply.body.data : "");
  return reply;
}

void reply_release(Reply *reply) {
  buffer_release(&reply->head);
  buffer_release(&reply->body);
  json_decref(reply->json);
}

// ---- Values

const json_t *json_at(const json_t *root, const char *path) {
  char *words = memory_copy_string(path), *rest;
  for (char *word = strtok_r(words, ".", &rest); word && root; word = strtok_r(NULL, ".", &rest))
    root = json_is_array(root) ? json_array_get(root, (size_t)atoi(word)) : json_object_get(root, word);
  free(words);
  return root;
}

const char *json_string_at(const json_t *root, const char *path) {
  const json_t *value = json_at(root, path);
  if (!json_is_string(value)) fail_msg("there is no string at %s", path);
  return json_string_value(value);
}

double json_number_at(const json_t *root, const char *path) {
  const json_t *value = json_at(root, path);
  if (!json_is_number(value)) fail_msg("there is no number at %s", path);
  return json_number_value(value);
}

json_t *reply_events(const Reply *reply, bool *is_done) {
  json_t *events = json_array();
  char *text = memory_copy_string(reply->body.data ? reply->body.data : ""), *rest;
  *is_done = false;
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    if (strncmp(line, "data: ", 6) != 0) fail_msg("a line of the stream is no event: %s", line);
    assert_false(*is_done);
    *is_done = strcmp(line, "data: [DONE]") == 0;
    if (!*is_done) assert_int_equal(json_array_append_new(events, json_loads(line + 6, 0, NULL)), 0);
  }
  free(text);
  return events;
}

double metric_value(int port, const char *name) {
  Reply reply = ask(port, (Ask){.path = "/metrics"});
  char *line = memory_format("\n%s ", name), *found = reply.body.data ? strstr(reply.body.data, line) : NULL;
  double value = found ? atof(found + strlen(line)) : -1;
  free(line);
  reply_release(&reply);
  return value;
}

void metric_wait(int port, const char *name, double value) {
  for (int i = 0; i < 3000 && metric_value(port, name) != value; i++) sleep_milliseconds(20);
  assert_float_equal(metric_value(port, name), value, 0);
}
