// What `lora serve` refuses, whom it lets in, what it bears, and how it stops: the real program on the tiny model.
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/served.h"
#include "tests/support/test.h"
#include "tests/support/tiny_adapter.h"

#include "core/file.h"

static Served common;  // of the tests that do not stop it

static int start_common(void **state) {
  (void)state;
  served_start(&common, "--model " TINY " --alias tiny --parallel 4 --max-body 65536 --chat-template qwen_25");
  return 0;
}

static int stop_common(void **state) {
  (void)state;
  return served_stop(&common, SIGTERM);
}

// ---- What is refused

typedef struct Refusal {
  const char *path, *body;
  int status;
  const char *param, *code, *says;
} Refusal;

static void check_refusal(int port, const Refusal *refusal) {
  Reply reply = ask(port, (Ask){.path = refusal->path, .body = refusal->body});
  const char *param = json_string_value(json_at(reply.json, "error.param")), *code = json_string_value(json_at(reply.json, "error.code"));
  const char *message = json_string_value(json_at(reply.json, "error.message"));
  bool is_right = reply.status == refusal->status && (!refusal->param || (param && strcmp(param, refusal->param) == 0)) &&
                  (!refusal->code || (code && strcmp(code, refusal->code) == 0)) && message && strstr(message, refusal->says);
  if (!is_right)
    fail_msg("%s %s: %d %s", refusal->path, refusal->body ? refusal->body : "", reply.status, reply.body.data ? reply.body.data : "");
  assert_non_null(json_string_value(json_at(reply.json, "error.type")));
  reply_release(&reply);
}

static void what_is_wrong_is_refused_by_its_name(void **state) {
  (void)state;
  static const char completions[] = "/v1/completions", chat[] = "/v1/chat/completions";
  const Refusal refusals[] = {
      {"/nothing", NULL, 404, .says = "/nothing"},
      {"/v1/models/other", NULL, 404, .code = "model_not_found", .says = "other"},
      {"/v1/completions", NULL, 405, .says = "POST"},
      {completions, "", 400, .says = "no JSON"},
      {completions, "{\"prompt\": ", 400, .says = "no JSON"},
      {completions, "[1]", 400, .says = "object"},
      {completions, "{\"prompt\": \"x\", \"prompt\": \"y\"}", 400, .says = "duplicate"},
      {completions, "{\"prompt\": \"\\u0000\"}", 400, .says = "no JSON"},
      {completions, "{}", 400, "prompt", .says = "missing"},
      {completions, "{\"prompt\": []}", 400, "prompt", .says = "empty"},
      {completions, "{\"prompt\": \"\"}", 400, "prompt", .says = "without tokens"},
      {completions, "{\"prompt\": 5}", 400, "prompt", .says = "must be"},
      {completions, "{\"prompt\": [1, -1]}", 400, "prompt", .says = "-1"},
      {completions, "{\"prompt\": [1, 1000000]}", 400, "prompt", .says = "1000000"},
      {completions, "{\"prompt\": \"x\", \"model\": \"other\"}", 404, "model", "model_not_found", "other"},
      {completions, "{\"prompt\": \"x\", \"model\": 3}", 400, "model", .says = "string"},
      {completions, "{\"prompt\": \"x\", \"max_tokens\": -1}", 400, "max_tokens", .says = "-1"},
      {completions, "{\"prompt\": \"x\", \"max_tokens\": 1.5}", 400, "max_tokens", .says = "integer"},
      {completions, "{\"prompt\": \"x\", \"temperature\": \"hot\"}", 400, "temperature", .says = "number"},
      {completions, "{\"prompt\": \"x\", \"temperature\": -1}", 400, "temperature", .says = "from 0"},
      {completions, "{\"prompt\": \"x\", \"top_p\": 1.5}", 400, "top_p", .says = "1.5"},
      {completions, "{\"prompt\": \"x\", \"n\": 17}", 400, "n", .says = "16"},
      {completions, "{\"prompt\": \"x\", \"best_of\": 3}", 400, "best_of", .says = "best_of"},
      {completions, "{\"prompt\": \"x\", \"suffix\": \"y\"}", 400, "suffix", .says = "suffix"},
      {completions, "{\"prompt\": \"x\", \"logprobs\": 21}", 400, "logprobs", .says = "20"},
      {completions, "{\"prompt\": \"x\", \"stop\": [\"\"]}", 400, "stop", .says = "empty"},
      {completions, "{\"prompt\": \"x\", \"stop\": [\"\", 4]}", 400, "stop", .says = "stop"},
      {completions, "{\"prompt\": \"x\", \"stream\": 1}", 400, "stream", .says = "boolean"},
      {completions, "{\"prompt\": \"x\", \"stream_options\": {}}", 400, "stream_options", .says = "stream"},
      {completions, "{\"prompt\": \"x\", \"logit_bias\": {\"a\": 1}}", 400, "logit_bias", .says = "\"a\""},
      {completions, "{\"prompt\": \"x\", \"logit_bias\": {\"1\": 101}}", 400, "logit_bias", .says = "100"},
      {completions, "{\"prompt\": \"x\", \"response_format\": {\"type\": \"xml\"}}", 400, "response_format", .says = "json_schema"},
      {completions, "{\"prompt\": \"x\", \"response_format\": {\"type\": \"json_schema\"}}", 400, "response_format", .says = "schema"},
      {completions, "{\"prompt\": \"x\", \"grammar\": \"root ::= (\"}", 400, "grammar", .says = "grammar"},
      {chat, "{}", 400, "messages", .says = "missing"},
      {chat, "{\"messages\": \"x\"}", 400, "messages", .says = "list"},
      {chat, "{\"messages\": [3]}", 400, "messages", .says = "role"},
      {chat, "{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", 400, "messages", .says = "content"},
      {chat, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", 400, "messages", .says = "text"},
      {chat, "{\"messages\": [" QUESTION "], \"top_logprobs\": 2}", 400, "top_logprobs", .says = "logprobs"},
      {chat, "{\"messages\": [" QUESTION "], \"tools\": [{}]}", 400, "tools", .says = "function"},
      {chat, "{\"messages\": [" QUESTION "], " TOOLS ", \"tool_choice\": \"often\"}", 400, "tool_choice", .says = "auto"},
      {chat, "{\"messages\": [" QUESTION "], \"tool_choice\": \"required\"}", 400, "tool_choice", .says = "no \"tools\""},
      {chat, "{\"messages\": [" QUESTION "], " TOOLS ", \"tool_choice\": {\"function\": {\"name\": \"x\"}}}", 400, "tool_choice",
       .says = "none of the tools"},
      {chat,
       "{\"messages\": [" QUESTION
       ", {\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"x\", \"arguments\": \"{\"}}]}]}",
       400, "messages", .says = "no JSON"},
      {"/v1/embeddings", "{\"input\": \"x\", \"dimensions\": 3}", 400, "dimensions", .says = "dimensions"},
      {"/v1/embeddings", "{\"input\": \"x\", \"encoding_format\": \"hex\"}", 400, "encoding_format", .says = "base64"},
      {"/detokenize", "{\"tokens\": [\"a\"]}", 400, "tokens", .says = "ids"},
      {"/tokenize", "{}", 400, "content", .says = "missing"},
      {"/lora-adapters", "{}", 400, .says = "list"},
      {"/lora-adapters", "[{\"id\": 0, \"scale\": 1}]", 400, "id", .says = "id"},
  };
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) check_refusal(common.port, &refusals[i]);
}

static void tools_need_a_template_that_prints_them(void **state) {
  (void)state;
  Served served;
  served_start(&served, "--model " TINY " --chat-template chatml");
  check_refusal(served.port,
                &(Refusal){"/v1/chat/completions", "{\"messages\": [" QUESTION "], " TOOLS "}", 400, "tools", .says = "--chat-template"});
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

static void limits_are_told_with_their_numbers(void **state) {
  (void)state;
  Buffer body = {0};
  buffer_append_string(&body, "{\"prompt\": \"");
  for (int i = 0; i < 600; i++) buffer_append_string(&body, "The river ");
  buffer_append_string(&body, "\"}");
  check_refusal(common.port, &(Refusal){"/v1/completions", body.data, 400, "prompt", "context_length_exceeded", "512"});
  while (body.length <= 65536) buffer_append_string(&body, "          ");
  check_refusal(common.port, &(Refusal){"/v1/completions", body.data, 413, .says = "65536"});
  body.length = 0;
  buffer_append_string(&body, "{\"prompt\": \"x\", \"stop\": \"");
  for (int i = 0; i < 1025; i++) buffer_append_string(&body, "x");
  buffer_append_string(&body, "\"}");
  check_refusal(common.port, &(Refusal){"/v1/completions", body.data, 400, "stop", .says = "1024 bytes"});
  body.length = 0;
  for (int i = 0; i < 200; i++) buffer_append_string(&body, "[");
  check_refusal(common.port, &(Refusal){"/v1/completions", body.data, 400, .says = "deep"});
  body.length = 0;
  buffer_append_string(&body, "X-Long: ");
  for (int i = 0; i < 20000; i++) buffer_append_string(&body, "0123456789");
  Reply reply = ask(common.port, (Ask){.path = "/health", .headers = {body.data}});
  assert_true(reply.status == 431 || !reply.is_whole);
  reply_release(&reply);
  buffer_release(&body);
}

static void other_hosts_and_origins_are_refused(void **state) {
  (void)state;
  const struct {
    const char *header;
    int status;
  } cases[] = {{"Host: localhost:80", 200},     {"Host: [::1]:80", 200}, {"Host: evil.example", 403},
               {"Host: 127.evil.example", 403}, {"Origin: null", 403},   {"Origin: http://evil.example", 403}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Reply reply = ask(common.port, (Ask){.path = "/health", .headers = {cases[i].header}});
    if (reply.status != cases[i].status) fail_msg("%s: %d", cases[i].header, reply.status);
    reply_release(&reply);
  }
  Reply preflight = ask(common.port, (Ask){.method = "OPTIONS", .path = "/v1/completions"});
  assert_int_equal(preflight.status, 405);
  assert_non_null(strstr(preflight.head.data, "Allow: POST"));
  assert_null(strstr(preflight.head.data, "Access-Control"));
  reply_release(&preflight);
}

// ---- Clients that go

static void a_client_that_goes_away_costs_no_more(void **state) {
  (void)state;
  // So many tokens as take much longer than the client waits.
  static const char format[] =
      "{\"prompt\": [\"A\", \"B\", \"C\", \"D\"], \"ignore_eos\": true, \"max_tokens\": 480, \"n\": 16, \"stream\": %s}";
  for (int i = 0; i < 2; i++) {
    char *body = memory_format(format, i ? "true" : "false");
    double before = metric_value(common.port, "lora_new_tokens_total");
    Reply reply = ask(common.port, (Ask){.path = "/v1/completions", .body = body, .seconds = 0.15});
    assert_false(reply.is_whole);
    reply_release(&reply);
    metric_wait(common.port, "lora_texts_running", 0);
    metric_wait(common.port, "lora_texts_waiting", 0);
    assert_true(metric_value(common.port, "lora_new_tokens_total") < before + 4 * 16 * 480);
    free(body);
  }
}

// ---- Servers of their own

static void a_key_is_asked_for(void **state) {
  (void)state;
  char *keys = path_join(test_folder, "keys");
  assert_ok(file_write_whole(keys, "first-key\n\n  second-key \r\n", 26));
  Served served;
  served_start(&served, "--model " TINY " --api-key-file %s --allow-origin https://example.org", keys);
  const struct {
    const char *path, *header;
    int status;
  } cases[] = {{"/health", NULL, 200},
               {"/", NULL, 200},
               {"/v1/models", NULL, 401},
               {"/metrics", NULL, 401},
               {"/nothing", NULL, 401},
               {"/v1/models", "Authorization: Bearer first-key", 200},
               {"/v1/models", "Authorization: Bearer second-key", 200},
               {"/v1/models", "Authorization: Bearer first-ke", 401},
               {"/v1/models", "Authorization: Bearer ", 401},
               {"/v1/models", "Authorization: Basic first-key", 401}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Reply reply = ask(served.port, (Ask){.path = cases[i].path, .headers = {cases[i].header}});
    if (reply.status != cases[i].status) fail_msg("%s %s: %d", cases[i].path, cases[i].header, reply.status);
    if (reply.status == 401) assert_string_equal(json_string_at(reply.json, "error.code"), "invalid_api_key");
    reply_release(&reply);
  }
  Reply preflight = ask(served.port, (Ask){.method = "OPTIONS", .path = "/v1/models", .headers = {"Origin: https://example.org"}});
  assert_int_equal(preflight.status, 204);
  assert_non_null(strstr(preflight.head.data, "Access-Control-Allow-Origin: https://example.org"));
  reply_release(&preflight);
  assert_int_equal(served_stop(&served, SIGINT), 0);
  free(keys);
}

typedef struct Client {
  pthread_t thread;
  int port;
  const char *body;
  Reply reply;
} Client;

static void *ask_in_thread(void *pointer) {
  Client *client = pointer;
  client->reply = ask(client->port, (Ask){.path = "/v1/completions", .body = client->body});
  return NULL;
}

static void a_full_queue_is_told(void **state) {
  (void)state;
  Served served;
  served_start(&served, "--model " TINY " --parallel 1 --queue 3");
  Client client = {.port = served.port, .body = "{" LONG_ANSWER ", \"n\": 4}"};
  pthread_create(&client.thread, NULL, ask_in_thread, &client);
  for (int i = 0; i < 500 && metric_value(served.port, "lora_texts_waiting") < 3; i++)
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  Reply reply = ask(served.port, (Ask){.path = "/v1/completions", .body = "{\"prompt\": \"x\"}"});
  assert_int_equal(reply.status, 429);
  assert_non_null(strstr(reply.head.data, "Retry-After: "));
  assert_string_equal(json_string_at(reply.json, "error.code"), "queue_full");
  check_refusal(served.port, &(Refusal){"/v1/completions", "{\"prompt\": \"x\", \"n\": 5}", 400, "prompt", .says = "4 at most"});
  pthread_join(client.thread, NULL);
  assert_int_equal(client.reply.status, 200);
  reply_release(&client.reply);
  reply_release(&reply);
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

static double texts_under_way(int port) { return metric_value(port, "lora_texts_running") + metric_value(port, "lora_texts_waiting"); }

// Two clients, one of each kind, whose answers are under way, so many texts at least, when the server is told to stop.
static int stop_under_way(Client clients[2], int texts, const char *options, const char *stream, const char *whole) {
  Served served;
  served_start(&served, "--model " TINY " %s", options);
  const char *const bodies[] = {stream, whole};
  for (int i = 0; i < 2; i++) {
    clients[i] = (Client){.port = served.port, .body = bodies[i]};
    pthread_create(&clients[i].thread, NULL, ask_in_thread, &clients[i]);
  }
  for (int i = 0; i < 500 && texts_under_way(served.port) < texts; i++) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  int status = served_stop(&served, SIGTERM);
  for (int i = 0; i < 2; i++) pthread_join(clients[i].thread, NULL);
  return status;
}

static void answers_end_before_the_server_does(void **state) {
  (void)state;
  Client clients[2];
  assert_int_equal(stop_under_way(clients, 2, "", "{" LONG_ANSWER ", \"stream\": true}", "{" LONG_ANSWER "}"), 0);
  bool is_done;
  json_t *events = reply_events(&clients[0].reply, &is_done);
  assert_true(is_done && clients[0].reply.is_whole);
  assert_int_equal(clients[1].reply.status, 200);
  assert_float_equal(json_number_at(clients[1].reply.json, "usage.completion_tokens"), 480, 0);
  json_decref(events);
  for (int i = 0; i < 2; i++) reply_release(&clients[i].reply);
}

static void what_does_not_end_in_time_is_told_so(void **state) {
  (void)state;
  Client clients[2];
  assert_int_equal(
      stop_under_way(clients, 17, "--grace 0", "{" LONG_ANSWER ", \"n\": 16, \"stream\": true}", "{" LONG_ANSWER ", \"n\": 16}"), 0);
  bool is_done;
  json_t *events = reply_events(&clients[0].reply, &is_done);
  assert_false(is_done || clients[0].reply.is_whole);
  assert_non_null(strstr(json_string_at(json_array_get(events, json_array_size(events) - 1), "error.message"), "stopping"));
  assert_int_equal(clients[1].reply.status, 503);
  json_decref(events);
  for (int i = 0; i < 2; i++) reply_release(&clients[i].reply);
}

static void an_answer_may_take_longer_than_a_client_may_be_silent(void **state) {
  (void)state;
  Served served;
  served_start(&served, "--model " TINY " --parallel 1 --timeout 1");
  double seconds = 0;
  for (int choices = 4; choices <= 16 && seconds < 1.5; choices *= 2) {
    char *body = memory_format("{" LONG_ANSWER ", \"n\": %d}", choices);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    Reply reply = ask_json(served.port, "/v1/completions", "%s", body);
    clock_gettime(CLOCK_MONOTONIC, &end);
    seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    assert_int_equal(json_array_size(json_at(reply.json, "choices")), choices);
    reply_release(&reply);
    free(body);
  }
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

// Requests of all kinds, a third of whose clients go away half way; schemas, drafts and an adapter in the same passes.
static void many_clients_come_and_go(void **state) {
  (void)state;
  if (run_line(NULL, "command -v python3 >/dev/null") != 0) skip_test("the load test needs python3");
  char *adapter = write_tiny_adapter(test_folder);
  Served served;
  served_start(&served, "--model " TINY " --adapter loud=%s --drafts 4", adapter);
  char *line = memory_format("python3 " SOURCE_DIR
                             "/scripts/load-test http://127.0.0.1:%d --clients 12 --requests 120 --tokens 24 --cancel 0.3 "
                             "--mixed --schema 2>&1",
                             served.port);
  Buffer output = {0};
  if (run_line(&output, line) != 0) fail_msg("%s", output.data ? output.data : "");
  assert_non_null(strstr(output.data, " 0 errors"));
  assert_null(strstr(output.data, " 0 cancelled"));
  buffer_release(&output);
  free(line), free(adapter);
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

static int connect_narrowly(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int handle = socket(AF_INET, SOCK_STREAM, 0), bytes = 4096;
  setsockopt(handle, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  assert_int_equal(connect(handle, (struct sockaddr *)&address, sizeof address), 0);
  return handle;
}

// More than the sockets between hold, so that the server has to wait for whoever asked.
static void a_client_that_does_not_read_is_left(void **state) {
  (void)state;
  Served served;
  served_start(&served, "--model " TINY " --timeout 1");
  static const char body[] =
      "{\"prompt\": [\"A\", \"B\", \"C\", \"D\", \"E\", \"F\", \"G\", \"H\"], \"n\": 16, \"ignore_eos\": true, "
      "\"max_tokens\": 480, \"logprobs\": 20, \"stream\": true}";
  char *request = memory_format("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
  int handle = connect_narrowly(served.port);
  assert_int_equal(send(handle, request, strlen(request), 0), (ssize_t)strlen(request));
  metric_wait(served.port, "lora_requests_total{route=\"/v1/completions\",status=\"200\"}", 1);
  metric_wait(served.port, "lora_texts_running", 0);
  assert_true(metric_value(served.port, "lora_new_tokens_total") < 8 * 16 * 480);
  close(handle);
  free(request);
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

static void what_cannot_be_served_is_refused(void **state) {
  (void)state;
  const struct {
    int status;
    const char *arguments, *says;
  } cases[] = {{2, "serve", "--model MODEL is missing"},
               {2, "serve --model " TINY " --host 203.0.113.1 --port 0", "cannot listen"},
               {2, "serve --model " TINY " --host no.such.host.invalid", "--host"},
               {2, "serve --model " TINY " --cache-type f8", "q8_0"},
               {2, "serve --model " TINY " --chat-template qwen_52 --port 0", "no built-in template of that name"},
               {3, "serve --model no-such-model.gguf --port 0", "no-such-model.gguf"},
               {3, "serve --model " TINY " --adapter x=no-such-adapter --port 0", "give a PEFT folder or a GGUF adapter"},
               {3, "serve --model " TINY " --api-key-file /dev/null", "no key"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer output = {0};
    int status = run_program(&output, "%s", cases[i].arguments);
    if (status != cases[i].status || !strstr(output.data, cases[i].says))
      fail_msg("%s: %d: %s", cases[i].arguments, status, output.data ? output.data : "");
    buffer_release(&output);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_wrong_is_refused_by_its_name),  cmocka_unit_test(tools_need_a_template_that_prints_them),
      cmocka_unit_test(limits_are_told_with_their_numbers),    cmocka_unit_test(other_hosts_and_origins_are_refused),
      cmocka_unit_test(a_client_that_goes_away_costs_no_more),
  };
  const struct CMUnitTest own[] = {
      unit_test_in_folder(a_key_is_asked_for),
      unit_test_in_folder(a_full_queue_is_told),
      unit_test_in_folder(answers_end_before_the_server_does),
      unit_test_in_folder(what_does_not_end_in_time_is_told_so),
      unit_test_in_folder(an_answer_may_take_longer_than_a_client_may_be_silent),
      unit_test_in_folder(many_clients_come_and_go),
      unit_test_in_folder(a_client_that_does_not_read_is_left),
      unit_test_in_folder(what_cannot_be_served_is_refused),
  };
  int failed = cmocka_run_group_tests_name("one server", tests, start_common, stop_common);
  return failed + cmocka_run_group_tests_name("servers of their own", own, NULL, NULL);
}
