// Answers put together from what an engine says, by calls that the test makes in its place; a server that has no model yet.
#include <math.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/served.h"
#include "tests/support/test.h"

#include "core/file.h"
#include "server/answer.h"
#include "server/auth.h"
#include "server/token_json.h"
#include "server/routes.h"

static Server server;

static int open_vocabulary(void **state) {
  (void)state;
  Tokenizer *tokenizer;
  assert_ok(tokenizer_open(&tokenizer, TESTS_DIR "/data/tiny.gguf"));
  server.served.tokenizer = tokenizer;
  metrics_new(&server.metrics);
  pthread_mutex_init(&server.engine_lock, NULL);
  return 0;
}

static int close_vocabulary(void **state) {
  (void)state;
  tokenizer_free((Tokenizer *)(uintptr_t)server.served.tokenizer);
  metrics_release(&server.metrics);
  pthread_mutex_destroy(&server.engine_lock);
  return 0;
}

// Has the reader told of a text's tokens; returns how many it took before it said that it is enough.
static int say(Answer *answer, const char *text) {
  EngineReader reader = answer_reader(answer);
  TokenList ids = {0};
  assert_ok(tokenizer_encode(&ids, server.served.tokenizer, text, strlen(text), 0));
  int taken = 0;
  for (bool goes_on = true; goes_on && taken < ids.count; taken++) {
    const TokenChance top[] = {{ids.ids[taken], -0.25f}, {5, -2}};
    goes_on = reader.token(&(EngineToken){.id = ids.ids[taken], .log_probability = -0.25f, .top = top, .top_count = 2}, reader.context);
  }
  token_list_release(&ids);
  return taken;
}

static void end(Answer *answer, FinishReason reason, const char *message) {
  EngineReader reader = answer_reader(answer);
  const EngineUsage usage = {.new_tokens = answer->token_count};
  reader.end(reason, &usage, STATUS_FAILED, message, reader.context);
}

static void open_answers(AnswerSet *set, int count, const char *const *stops, int stop_count) {
  answers_new(set, &server, count, stops, stop_count, false);
  set->open = count;
}

static void a_stop_string_is_held_back_and_ends_the_text(void **state) {
  (void)state;
  const char *const stops[] = {"sea"};
  AnswerSet set;
  open_answers(&set, 1, stops, 1);
  Answer *answer = &set.answers[0];
  say(answer, "The river starts in the se");
  assert_string_equal(answer->text.data, "The river starts in the ");
  assert_true(say(answer, "a and more") < 4);
  end(answer, FINISH_STOP, "");
  assert_string_equal(answer->text.data, "The river starts in the ");
  assert_true(answer->token_count > 4 && answer->chance_count == 2 * answer->token_count);
  answers_release(&set);
}

static void what_is_no_text_becomes_text(void **state) {
  (void)state;
  AnswerSet set;
  open_answers(&set, 1, NULL, 0);
  say(&set.answers[0], "caf\xc3\xa9 \xe2\x82");
  assert_string_equal(set.answers[0].text.data, "caf\xc3\xa9 ");
  end(&set.answers[0], FINISH_LENGTH, "");
  assert_string_equal(set.answers[0].text.data, "caf\xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd");
  answers_release(&set);
}

static void *say_later(void *pointer) {
  AnswerSet *set = pointer;
  for (int i = 0; i < set->count; i++) {
    say(&set->answers[i], "A cat");
    end(&set->answers[i], i ? FINISH_ERROR : FINISH_STOP, "the model is broken");
  }
  return NULL;
}

static void waiting_ends_with_the_texts_or_the_client(void **state) {
  (void)state;
  AnswerSet set;
  pthread_t thread;
  int sockets[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  open_answers(&set, 2, NULL, 0);
  pthread_create(&thread, NULL, say_later, &set);
  assert_true(answers_wait(&set, 0, sockets[0]));
  assert_true(answers_wait_end(&set, sockets[0]));
  pthread_join(thread, NULL);
  assert_string_equal(set.answers[1].message, "the model is broken");
  answers_release(&set);
  open_answers(&set, 1, NULL, 0);
  close(sockets[1]);
  assert_false(answers_wait(&set, 0, sockets[0]));
  assert_false(answers_wait_end(&set, sockets[0]));
  end(&set.answers[0], FINISH_CANCEL, "");
  answers_release(&set);
  close(sockets[0]);
}

static void log_probabilities_have_both_forms(void **state) {
  (void)state;
  AnswerSet set;
  open_answers(&set, 1, NULL, 0);
  Answer *answer = &set.answers[0];
  say(answer, "A\xe2\x82\xac!");  // a character of several tokens
  end(answer, FINISH_STOP, "");
  ChanceLists lists;
  chance_lists_new(&lists, server.served.tokenizer, 3);
  for (int64_t t = 0; t < answer->token_count; t++) chance_lists_add(&lists, answer->tokens[t].id, t ? &answer->tokens[t] : NULL, answer);
  json_t *object = chance_lists_object(&lists), *content = chance_content(server.served.tokenizer, answer, 0, answer->token_count);
  size_t last = (size_t)answer->token_count - 1;
  assert_true(last > 2);
  assert_true(json_is_null(json_at(object, "token_logprobs.0")) && json_is_null(json_at(object, "top_logprobs.0")));
  assert_float_equal(json_number_at(object, "text_offset.0"), 3, 0);
  assert_float_equal(json_number_at(json_at(object, "text_offset"), "1"), 4, 0);
  assert_int_equal(json_integer_value(json_array_get(json_at(object, "text_offset"), last)), 5);  // two characters before it
  assert_true(strncmp(json_string_at(object, "tokens.1"), "bytes:\\x", 8) == 0);
  assert_int_equal(json_object_size(json_at(object, "top_logprobs.1")), 2);
  assert_int_equal(json_array_size(json_at(content, "content")), last + 1);
  assert_float_equal(json_number_at(content, "content.0.bytes.0"), 'A', 0);
  assert_float_equal(json_number_at(content, "content.1.logprob"), -0.25, 0);
  json_decref(object), json_decref(content);
  json_t *least = chance_number(-INFINITY), *none = chance_number(NAN);
  assert_true(json_real_value(least) == -9999 && json_is_null(none));
  json_decref(least), json_decref(none);
  answers_release(&set);
}

// ---- Keys and hosts

static void keys_are_lines_of_a_file(void **state) {
  (void)state;
  char *path = path_join(test_folder, "keys");
  KeyList keys = {0};
  assert_true(key_list_allows(&keys, NULL));
  assert_ok(file_write_whole(path, "one\n\n  two\t\r\n", 13));
  assert_ok(key_list_read(&keys, path));
  assert_int_equal(keys.count, 2);
  assert_true(key_list_allows(&keys, "Bearer one") && key_list_allows(&keys, "bearer  two "));
  const char *const wrong[] = {NULL, "", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "one"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_false(key_list_allows(&keys, wrong[i]));
  key_list_release(&keys);
  assert_ok(file_write_whole(path, " \n", 2));
  assert_fails(STATUS_BAD_INPUT, key_list_read(&keys, path), path, "no key");
  assert_fails(STATUS_BAD_INPUT, key_list_read(&keys, "no-such-file"), "no-such-file");
  key_list_release(&keys);
  free(path);
}

static void a_host_is_local_by_its_name(void **state) {
  (void)state;
  const char *const local[] = {"localhost", "localhost:8080", "127.0.0.1", "127.0.0.2:1", "[::1]:8080", "[::1]", "box:80"};
  const char *const other[] = {"", "evil.example", "127.evil.example", "localhost.evil.example", "[::2]", "boxes"};
  for (size_t i = 0; i < sizeof local / sizeof *local; i++) assert_true(host_is_local(local[i], "box"));
  for (size_t i = 0; i < sizeof other / sizeof *other; i++) assert_false(host_is_local(other[i], "box"));
}

// ---- Before the model is open

static void a_server_that_loads_says_so(void **state) {
  (void)state;
  Server *loading;
  assert_ok(server_new(&loading, &(ServerOptions){.host = "127.0.0.1", .connections = 8, .queue = 8, .body_limit = 1024, .timeout = 5}));
  Reply health = ask(loading->port, (Ask){.path = "/health"}), models = ask(loading->port, (Ask){.path = "/v1/models"});
  assert_int_equal(health.status, 503);
  assert_string_equal(json_string_at(health.json, "status"), "loading");
  assert_int_equal(models.status, 503);
  assert_non_null(strstr(models.head.data, "Retry-After: "));
  assert_string_equal(json_string_at(models.json, "error.type"), "server_error");
  Reply page = ask(loading->port, (Ask){.path = "/"}), counts = ask(loading->port, (Ask){.path = "/metrics"});
  assert_int_equal(page.status, 200);
  assert_non_null(strstr(counts.body.data, "lora_requests_total{route=\"/health\",status=\"503\"} 1"));
  reply_release(&health), reply_release(&models), reply_release(&page), reply_release(&counts);
  server_free(loading);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_stop_string_is_held_back_and_ends_the_text),
      cmocka_unit_test(what_is_no_text_becomes_text),
      cmocka_unit_test(waiting_ends_with_the_texts_or_the_client),
      cmocka_unit_test(log_probabilities_have_both_forms),
      unit_test_in_folder(keys_are_lines_of_a_file),
      cmocka_unit_test(a_host_is_local_by_its_name),
      cmocka_unit_test(a_server_that_loads_says_so),
  };
  return cmocka_run_group_tests(tests, open_vocabulary, close_vocabulary);
}
