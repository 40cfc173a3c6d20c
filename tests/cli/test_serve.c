// `lora serve` as clients see it: the real program on the tiny model.
#include <math.h>
#include <signal.h>

#include "core/file.h"
#include "tests/support/served.h"
#include "tests/support/tiny_adapter.h"
#include "tests/support/test.h"

static Served common;  // of the tests that do not stop it

static int start_common(void **state) {
  (void)state;
  served_start(&common, "--model " TINY " --alias tiny --parallel 4");
  return 0;
}

static int stop_common(void **state) {
  (void)state;
  return served_stop(&common, SIGTERM);
}

// ---- Completions

static void a_prompt_as_text_and_as_ids_goes_on_alike(void **state) {
  (void)state;
  Reply tokens = ask_json(common.port, "/tokenize", "{\"content\": \"The\"}");
  char *ids = json_dumps(json_at(tokens.json, "tokens"), 0);
  Reply text = ask_json(common.port, "/v1/completions", "{\"model\": \"tiny\", \"prompt\": \"The\", \"temperature\": 0}");
  Reply list = ask_json(common.port, "/v1/completions", "{\"prompt\": %s, \"temperature\": 0}", ids);
  Reply lists = ask_json(common.port, "/v1/completions", "{\"prompt\": [%s, %s], \"temperature\": 0, \"max_tokens\": 16}", ids, ids);
  assert_string_equal(json_string_at(text.json, "object"), "text_completion");
  assert_string_equal(json_string_at(text.json, "model"), "tiny");
  assert_string_equal(json_string_at(text.json, "choices.0.finish_reason"), "length");
  assert_true(json_is_null(json_at(text.json, "choices.0.logprobs")));
  assert_float_equal(json_number_at(text.json, "usage.completion_tokens"), 16, 0);
  assert_string_equal(json_string_at(text.json, "choices.0.text"), json_string_at(list.json, "choices.0.text"));
  assert_int_equal(json_array_size(json_at(lists.json, "choices")), 2);
  assert_string_equal(json_string_at(text.json, "choices.0.text"), json_string_at(lists.json, "choices.1.text"));
  assert_float_equal(json_number_at(lists.json, "choices.1.index"), 1, 0);
  free(ids);
  reply_release(&tokens), reply_release(&text), reply_release(&list), reply_release(&lists);
}

static void a_stop_string_ends_the_text_before_it(void **state) {
  (void)state;
  Reply whole = ask_json(common.port, "/v1/completions", "{\"prompt\": \"The\", \"temperature\": 0, \"max_tokens\": 30}");
  const char *text = json_string_at(whole.json, "choices.0.text");
  assert_true(strlen(text) > 12);
  char *stop = memory_format("%.4s", text + 8), *before = memory_format("%.*s", (int)(strstr(text, stop) - text), text);
  Reply cut = ask_json(common.port, "/v1/completions",
                       "{\"prompt\": \"The\", \"temperature\": 0, \"max_tokens\": 30, \"stop\": [\"~~\", \"%s\"]}", stop);
  assert_string_equal(json_string_at(cut.json, "choices.0.text"), before);
  assert_string_equal(json_string_at(cut.json, "choices.0.finish_reason"), "stop");
  free(stop), free(before);
  reply_release(&whole), reply_release(&cut);
}

static void a_seed_gives_the_same_text_again(void **state) {
  (void)state;
  static const char format[] = "{\"prompt\": \"The\", \"temperature\": 2, \"max_tokens\": 40, \"seed\": %d, \"n\": %d}";
  Reply first = ask_json(common.port, "/v1/completions", format, 7, 1), again = ask_json(common.port, "/v1/completions", format, 7, 3);
  Reply other = ask_json(common.port, "/v1/completions", format, 8, 1);
  const char *text = json_string_at(first.json, "choices.0.text");
  assert_string_equal(text, json_string_at(again.json, "choices.0.text"));
  assert_string_not_equal(text, json_string_at(again.json, "choices.1.text"));
  assert_string_not_equal(json_string_at(again.json, "choices.1.text"), json_string_at(again.json, "choices.2.text"));
  assert_string_not_equal(text, json_string_at(other.json, "choices.0.text"));
  // One prompt, three texts.
  assert_float_equal(json_number_at(again.json, "usage.prompt_tokens"), json_number_at(first.json, "usage.prompt_tokens"), 0);
  assert_true(json_number_at(again.json, "usage.completion_tokens") > json_number_at(first.json, "usage.completion_tokens"));
  reply_release(&first), reply_release(&again), reply_release(&other);
}

static void a_bias_forbids_and_forces_a_token(void **state) {
  (void)state;
  Reply plain = ask_json(common.port, "/v1/completions", "{\"prompt\": \"The\", \"temperature\": 0, \"max_tokens\": 1}");
  Reply ids = ask_json(common.port, "/tokenize", "{\"content\": \"%s\"}", json_string_at(plain.json, "choices.0.text"));
  int id = (int)json_number_at(ids.json, "tokens.0");
  Reply without = ask_json(common.port, "/v1/completions",
                           "{\"prompt\": \"The\", \"temperature\": 0, \"max_tokens\": 1, \"logit_bias\": {\"%d\": -100}}", id);
  Reply forced = ask_json(common.port, "/v1/completions",
                          "{\"prompt\": \"A\", \"temperature\": 1, \"max_tokens\": 3, \"logit_bias\": {\"%d\": 100}}", id);
  assert_string_not_equal(json_string_at(plain.json, "choices.0.text"), json_string_at(without.json, "choices.0.text"));
  const char *one = json_string_at(plain.json, "choices.0.text");
  char *three = memory_format("%s%s%s", one, one, one);
  assert_string_equal(json_string_at(forced.json, "choices.0.text"), three);
  free(three);
  reply_release(&plain), reply_release(&ids), reply_release(&without), reply_release(&forced);
}

// What lm-evaluation-harness reads: entries of the prompt and one more, a null, and the likeliest token known by equality.
static void echo_tells_log_probabilities_of_the_prompt(void **state) {
  (void)state;
  Reply tokens = ask_json(common.port, "/tokenize", "{\"content\": \"The capital of France is Paris.\"}");
  size_t count = json_array_size(json_at(tokens.json, "tokens"));
  char *ids = json_dumps(json_at(tokens.json, "tokens"), 0);
  Reply reply = ask_json(common.port, "/v1/completions",
                         "{\"prompt\": [%s], \"temperature\": 0, \"max_tokens\": 1, \"logprobs\": 1, \"seed\": 1234, \"echo\": true}", ids);
  const json_t *numbers = json_at(reply.json, "choices.0.logprobs.token_logprobs");
  const json_t *tops = json_at(reply.json, "choices.0.logprobs.top_logprobs"), *names = json_at(reply.json, "choices.0.logprobs.tokens");
  const json_t *offsets = json_at(reply.json, "choices.0.logprobs.text_offset");
  const char *text = json_string_at(reply.json, "choices.0.text"), *key;
  assert_int_equal(json_array_size(numbers), count + 1);
  assert_int_equal(json_array_size(tops), count + 1);
  assert_true(json_is_null(json_array_get(numbers, 0)) && json_is_null(json_array_get(tops, 0)));
  int greedy = 0;
  for (size_t i = 1; i < count + 1; i++) {
    double own = json_real_value(json_array_get(numbers, i)), most = -INFINITY;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json_array_get(tops, i), key, value) most = fmax(most, json_real_value(value));
    assert_true(own <= most && own < 0);
    greedy += own == most;
    const char *name = json_string_value(json_array_get(names, i));
    if (i < count) assert_memory_equal(text + json_integer_value(json_array_get(offsets, i)), name, strlen(name));
  }
  assert_true(greedy >= 2);  // the model knows this text
  assert_true(json_real_value(json_array_get(numbers, count)) ==
              json_real_value(json_object_get(json_array_get(tops, count), json_string_value(json_array_get(names, count)))));
  // The prompt alone.
  Reply alone = ask_json(common.port, "/v1/completions", "{\"prompt\": [%s], \"max_tokens\": 0, \"logprobs\": 0, \"echo\": true}", ids);
  assert_int_equal(json_array_size(json_at(alone.json, "choices.0.logprobs.token_logprobs")), count);
  assert_string_equal(json_string_at(alone.json, "choices.0.text"), "The capital of France is Paris.");
  for (size_t i = 1; i < count; i++)
    assert_float_equal(json_real_value(json_array_get(json_at(alone.json, "choices.0.logprobs.token_logprobs"), i)),
                       json_real_value(json_array_get(numbers, i)), 1e-4);
  free(ids);
  reply_release(&tokens), reply_release(&reply), reply_release(&alone);
}

// ---- Conversations

static void a_conversation_is_answered(void **state) {
  (void)state;
  Reply plain = ask_json(common.port, "/v1/chat/completions", "{\"messages\": [" QUESTION "], \"temperature\": 0}");
  assert_string_equal(json_string_at(plain.json, "object"), "chat.completion");
  assert_string_equal(json_string_at(plain.json, "choices.0.message.role"), "assistant");
  assert_string_equal(json_string_at(plain.json, "choices.0.message.content"), "The capital of France is Paris.");
  assert_string_equal(json_string_at(plain.json, "choices.0.finish_reason"), "stop");
  Reply parts = ask_json(common.port, "/v1/chat/completions",
                         "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"What is the capital\"}, "
                         "{\"type\": \"text\", \"text\": \" of France?\"}]}], \"temperature\": 0, \"max_completion_tokens\": 3, "
                         "\"logprobs\": true, \"top_logprobs\": 2}");
  assert_string_equal(json_string_at(parts.json, "choices.0.message.content"), "The capital of");
  assert_string_equal(json_string_at(parts.json, "choices.0.finish_reason"), "length");
  const json_t *content = json_at(parts.json, "choices.0.logprobs.content");
  assert_int_equal(json_array_size(content), 3);
  assert_string_equal(json_string_at(content, "1.token"), " capital");
  assert_float_equal(json_number_at(content, "1.bytes.0"), ' ', 0);
  assert_int_equal(json_array_size(json_at(content, "1.top_logprobs")), 2);
  assert_true(json_number_at(content, "1.logprob") == json_number_at(content, "1.top_logprobs.0.logprob"));
  Reply begun = ask_json(common.port, "/v1/chat/completions",
                         "{\"messages\": [" QUESTION
                         ", {\"role\": \"assistant\", \"content\": \"The capital of France\"}], "
                         "\"continue_final_message\": true, \"temperature\": 0}");
  assert_string_equal(json_string_at(begun.json, "choices.0.message.content"), " is Paris.");
  reply_release(&plain), reply_release(&parts), reply_release(&begun);
}

// The texts of a stream's chunks, one behind the other.
static char *joined(const json_t *events, const char *path) {
  Buffer text = {0};
  buffer_reserve(&text, 1);
  text.data[0] = 0;
  for (size_t i = 0; i < json_array_size(events); i++) {
    const char *piece = json_string_value(json_at(json_array_get(events, i), path));
    if (piece) buffer_append_string(&text, piece);
  }
  return text.data;
}

static void a_stream_says_what_a_whole_answer_says(void **state) {
  (void)state;
  Reply reply =
      ask_json(common.port, "/v1/chat/completions",
               "{\"messages\": [" QUESTION "], \"temperature\": 0, \"stream\": true, \"stream_options\": {\"include_usage\": true}}");
  bool is_done;
  json_t *events = reply_events(&reply, &is_done);
  size_t count = json_array_size(events);
  assert_true(is_done && strstr(reply.head.data, "text/event-stream"));
  assert_true(count >= 4);
  assert_string_equal(json_string_at(events, "0.object"), "chat.completion.chunk");
  assert_string_equal(json_string_at(events, "0.choices.0.delta.role"), "assistant");
  for (size_t i = 0; i + 2 < count; i++) assert_true(json_is_null(json_at(json_array_get(events, i), "choices.0.finish_reason")));
  assert_string_equal(json_string_at(json_array_get(events, count - 2), "choices.0.finish_reason"), "stop");
  assert_int_equal(json_array_size(json_at(json_array_get(events, count - 1), "choices")), 0);
  assert_float_equal(json_number_at(json_array_get(events, count - 1), "usage.completion_tokens"), 11, 0);
  char *text = joined(events, "choices.0.delta.content");
  assert_string_equal(text, "The capital of France is Paris.");
  free(text);
  json_decref(events);
  reply_release(&reply);
}

static void a_stream_of_a_completion_has_echo_and_log_probabilities(void **state) {
  (void)state;
  static const char format[] =
      "{\"prompt\": \"The river\", \"temperature\": 0, \"max_tokens\": 12, \"logprobs\": 1, \"echo\": true, \"stream\": %s}";
  Reply whole = ask_json(common.port, "/v1/completions", format, "false"), reply = ask_json(common.port, "/v1/completions", format, "true");
  bool is_done;
  json_t *events = reply_events(&reply, &is_done), *numbers = json_array(), *offsets = json_array();
  char *text = joined(events, "choices.0.text");
  assert_true(is_done);
  assert_string_equal(text, json_string_at(whole.json, "choices.0.text"));
  for (size_t i = 0; i < json_array_size(events); i++) {
    json_array_extend(numbers, (json_t *)(uintptr_t)json_at(json_array_get(events, i), "choices.0.logprobs.token_logprobs"));
    json_array_extend(offsets, (json_t *)(uintptr_t)json_at(json_array_get(events, i), "choices.0.logprobs.text_offset"));
  }
  assert_int_equal(json_array_size(numbers), json_array_size(json_at(whole.json, "choices.0.logprobs.token_logprobs")));
  assert_true(json_equal(offsets, json_at(whole.json, "choices.0.logprobs.text_offset")));
  free(text);
  json_decref(events), json_decref(numbers), json_decref(offsets);
  reply_release(&whole), reply_release(&reply);
}

// ---- Constraints

static void a_grammar_is_what_the_text_may_be(void **state) {
  (void)state;
  for (int seed = 0; seed < 8; seed++) {
    Reply reply = ask_json(common.port, "/v1/completions",
                           "{\"prompt\": \"The\", \"temperature\": 2, \"seed\": %d, \"max_tokens\": 50, \"grammar\": \"root ::= "
                           "\\\"yes\\\" | [0-9] [0-9] \\\"!\\\"\"}",
                           seed);
    const char *text = json_string_at(reply.json, "choices.0.text");
    bool is_number = strlen(text) == 3 && strspn(text, "0123456789") == 2 && text[2] == '!';
    if (strcmp(text, "yes") != 0 && !is_number) fail_msg("the grammar has no \"%s\"", text);
    assert_string_equal(json_string_at(reply.json, "choices.0.finish_reason"), "stop");
    reply_release(&reply);
  }
}

static void a_schema_is_what_an_answer_may_be(void **state) {
  (void)state;
  for (int seed = 0; seed < 8; seed++) {
    Reply reply = ask_json(common.port, "/v1/chat/completions",
                           "{\"messages\": [" QUESTION
                           "], \"temperature\": 1.5, \"seed\": %d, \"max_tokens\": 300, \"response_format\": "
                           "{\"type\": \"json_schema\", \"json_schema\": {\"name\": \"x\", \"schema\": {\"type\": \"object\", "
                           "\"properties\": {\"city\": {\"enum\": [\"Paris\", \"Rome\"]}, \"sure\": {\"type\": \"boolean\"}}, "
                           "\"required\": [\"city\", \"sure\"], \"additionalProperties\": false}}}}",
                           seed);
    json_t *value = json_loads(json_string_at(reply.json, "choices.0.message.content"), 0, NULL);
    const char *city = json_string_at(value, "city");
    assert_true(strcmp(city, "Paris") == 0 || strcmp(city, "Rome") == 0);
    assert_true(json_is_boolean(json_at(value, "sure")) && json_object_size(value) == 2);
    json_decref(value);
    reply_release(&reply);
  }
}

static void a_json_object_is_one_if_it_has_room(void **state) {
  (void)state;
  int whole = 0;
  for (int seed = 0; seed < 8; seed++) {
    Reply reply = ask_json(
        common.port, "/v1/chat/completions",
        "{\"messages\": [" QUESTION "], \"seed\": %d, \"max_tokens\": 400, \"response_format\": {\"type\": \"json_object\"}}", seed);
    const char *text = json_string_at(reply.json, "choices.0.message.content");
    bool has_ended = strcmp(json_string_at(reply.json, "choices.0.finish_reason"), "stop") == 0;
    json_t *value = json_loads(text, JSON_ALLOW_NUL, NULL);
    if (text[strspn(text, " \t\n\r")] != '{' || (has_ended && !json_is_object(value))) fail_msg("this is no object: %s", text);
    whole += has_ended;
    json_decref(value);
    reply_release(&reply);
  }
  assert_true(whole > 0);
}

// ---- Embeddings, and the vocabulary

static void embeddings_have_length_one_in_both_forms(void **state) {
  (void)state;
  Reply list = ask_json(common.port, "/v1/embeddings", "{\"input\": [\"The river\", \"A cat\"], \"encoding_format\": \"float\"}");
  Reply text = ask_json(common.port, "/v1/embeddings", "{\"input\": \"A cat\", \"encoding_format\": \"base64\"}");
  const json_t *first = json_at(list.json, "data.0.embedding"), *second = json_at(list.json, "data.1.embedding");
  double length = 0, product = 0;
  size_t count = json_array_size(second);
  assert_true(count > 8 && json_array_size(first) == count);
  for (size_t i = 0; i < count; i++) {
    double value = json_real_value(json_array_get(second, i));
    length += value * value;
    product += value * json_real_value(json_array_get(first, i));
  }
  assert_true(fabs(length - 1) < 1e-5 && product < 0.999);
  // Four bytes are five and a third characters of base64; the first number is compared bit for bit.
  const char *encoded = json_string_at(text.json, "data.0.embedding");
  assert_int_equal(strlen(encoded), (count * 4 + 2) / 3 * 4);
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint64_t bits = 0;
  for (int i = 0; i < 8; i++) bits = bits << 6 | (uint64_t)(strchr(alphabet, encoded[i]) - alphabet);
  uint32_t word = 0;
  for (int byte = 0; byte < 4; byte++) word |= (uint32_t)(bits >> (40 - 8 * byte) & 0xff) << (8 * byte);
  float value;
  memcpy(&value, &word, sizeof value);
  assert_true(value == (float)json_real_value(json_array_get(second, 0)));
  reply_release(&list), reply_release(&text);
}

static void the_vocabulary_can_be_asked(void **state) {
  (void)state;
  Reply tokens = ask_json(common.port, "/tokenize", "{\"prompt\": \"Na\\u00efve caf\\u00e9\", \"add_special_tokens\": false}");
  char *ids = json_dumps(json_at(tokens.json, "tokens"), 0);
  assert_int_equal(json_array_size(json_at(tokens.json, "tokens")), (size_t)json_number_at(tokens.json, "count"));
  Reply text = ask_json(common.port, "/detokenize", "{\"tokens\": %s}", ids);
  assert_string_equal(json_string_at(text.json, "content"), "Na\xc3\xafve caf\xc3\xa9");
  assert_string_equal(json_string_at(text.json, "prompt"), "Na\xc3\xafve caf\xc3\xa9");
  Reply pieces = ask_json(common.port, "/tokenize", "{\"content\": \"The river\", \"with_pieces\": true}");
  assert_string_equal(json_string_at(pieces.json, "tokens.1.piece"), " river");
  Reply information = ask(common.port, (Ask){.path = "/tokenizer_info"});
  assert_string_equal(json_string_at(information.json, "eos_token"), "<|im_end|>");
  assert_non_null(strstr(json_string_at(information.json, "chat_template"), "messages"));
  free(ids);
  reply_release(&tokens), reply_release(&text), reply_release(&pieces), reply_release(&information);
}

// ---- The page, and counts

static void the_page_allows_its_own_script_alone(void **state) {
  (void)state;
  Reply page = ask(common.port, (Ask){.path = "/"});
  assert_int_equal(page.status, 200);
  assert_non_null(strstr(page.head.data, "Content-Security-Policy: default-src 'none'"));
  assert_non_null(strstr(page.head.data, "script-src 'sha256-"));
  assert_null(strstr(page.head.data, "unsafe"));
  assert_non_null(strstr(page.body.data, "<script>"));
  assert_null(strstr(page.body.data, "innerHTML"));
  reply_release(&page);
  Reply head = ask(common.port, (Ask){.method = "HEAD", .path = "/"});
  assert_int_equal(head.status, 200);
  assert_int_equal(head.body.length, 0);
  reply_release(&head);
}

static void metrics_count_requests(void **state) {
  (void)state;
  const char *name = "lora_requests_total{route=\"/v1/models\",status=\"200\"}";
  double before = fmax(metric_value(common.port, name), 0);
  Reply reply = ask(common.port, (Ask){.path = "/v1/models"});
  assert_string_equal(json_string_at(reply.json, "data.0.id"), "tiny");
  reply_release(&reply);
  metric_wait(common.port, name, before + 1);
  assert_true(metric_value(common.port, "lora_request_seconds_count") > 0);
  assert_true(metric_value(common.port, "lora_prompt_tokens_total") > 0);
  assert_true(metric_value(common.port, "lora_first_token_seconds_bucket{le=\"+Inf\"}") > 0);
}

// ---- Tools and adapters, on servers of their own

static void check_call(const char *name, const char *arguments) {
  json_t *value = json_loads(arguments, 0, NULL);
  assert_string_equal(name, "weather");
  const char *city = json_string_at(value, "city");
  assert_true(strcmp(city, "Paris") == 0 || strcmp(city, "Rome") == 0);
  json_decref(value);
}

static void a_tool_is_called_where_it_has_to_be(void **state) {
  (void)state;
  static const char format[] = "{\"messages\": [" QUESTION "], " TOOLS
                               ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"weather\"}}, "
                               "\"seed\": %d, \"max_tokens\": 200, \"stream\": %s}";
  Served served;
  served_start(&served, "--model " TINY " --chat-template qwen_25 --context 2048");
  for (int seed = 0; seed < 4; seed++) {
    Reply whole = ask_json(served.port, "/v1/chat/completions", format, seed, "false");
    assert_true(json_is_null(json_at(whole.json, "choices.0.message.content")));
    assert_string_equal(json_string_at(whole.json, "choices.0.finish_reason"), "tool_calls");
    assert_int_equal(strlen(json_string_at(whole.json, "choices.0.message.tool_calls.0.id")), 9);
    const json_t *function = json_at(whole.json, "choices.0.message.tool_calls.0.function");
    check_call(json_string_at(function, "name"), json_string_at(function, "arguments"));
    Reply stream = ask_json(served.port, "/v1/chat/completions", format, seed, "true");
    bool is_done;
    json_t *events = reply_events(&stream, &is_done);
    char *name = joined(events, "choices.0.delta.tool_calls.0.function.name");
    char *arguments = joined(events, "choices.0.delta.tool_calls.0.function.arguments"), *text = joined(events, "choices.0.delta.content");
    assert_true(is_done);
    assert_string_equal(text, "");
    assert_string_equal(name, "weather");
    assert_string_equal(arguments, json_string_at(function, "arguments"));
    assert_string_equal(json_string_at(json_array_get(events, json_array_size(events) - 1), "choices.0.finish_reason"), "tool_calls");
    free(name), free(arguments), free(text);
    json_decref(events);
    reply_release(&whole), reply_release(&stream);
  }
  // The call and its result go back, and text that is no call stays text.
  Reply next = ask_json(
      served.port, "/v1/chat/completions",
      "{\"messages\": [" QUESTION
      ", {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"123456789\", "
      "\"type\": \"function\", \"function\": {\"name\": \"weather\", \"arguments\": \"{\\\"city\\\": \\\"Rome\\\"}\"}}]}, "
      "{\"role\": \"tool\", \"tool_call_id\": \"123456789\", \"content\": \"rain\"}], " TOOLS ", \"temperature\": 0, \"max_tokens\": 8}");
  assert_string_equal(json_string_at(next.json, "choices.0.finish_reason"), "length");
  assert_true(json_at(next.json, "choices.0.message.tool_calls") == NULL);
  reply_release(&next);
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

// What a model says to one prompt; new.
static char *text_of(int port, const char *model) {
  Reply reply =
      ask_json(port, "/v1/completions", "{\"model\": \"%s\", \"prompt\": \"The\", \"temperature\": 0, \"max_tokens\": 24}", model);
  assert_string_equal(json_string_at(reply.json, "model"), model);
  char *text = memory_copy_string(json_string_at(reply.json, "choices.0.text"));
  reply_release(&reply);
  return text;
}

// An adapter's template lies beside it, and ends turns by a text of its own.
static void an_adapter_has_its_own_template(void **state) {
  (void)state;
  static const char template[] =
      "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} @@\n{% endfor %}Now {% if add_generation_prompt %}assistant:{% endif %}";
  char *path = write_tiny_adapter(test_folder), *file = path_join(path, "chat_template.jinja");
  assert_ok(file_write_whole(file, template, strlen(template)));
  Served served;
  served_start(&served, "--model " TINY " --alias tiny --adapter own=%s:0", path);
  Reply own = ask_json(served.port, "/v1/chat/completions", "{\"model\": \"own\", \"messages\": [" QUESTION "], \"max_tokens\": 1}");
  Reply tokens = ask_json(served.port, "/tokenize", "{\"content\": \"user: What is the capital of France? @@\\nNow assistant:\"}");
  assert_float_equal(json_number_at(own.json, "usage.prompt_tokens"), json_number_at(tokens.json, "count"), 0);
  Reply ended = ask_json(served.port, "/v1/chat/completions",
                         "{\"model\": \"own\", \"messages\": [" QUESTION "], \"grammar\": \"root ::= \\\"yes @@\\\" [a-z]*\"}");
  assert_string_equal(json_string_at(ended.json, "choices.0.message.content"), "yes ");
  assert_int_equal(served_stop(&served, SIGTERM), 0);
  reply_release(&own), reply_release(&tokens), reply_release(&ended);
  free(path), free(file);
}

static void set_scale(int port, int id, double scale) {
  Reply reply = ask_json(port, "/lora-adapters", "[{\"id\": %d, \"scale\": %g}]", id, scale);
  assert_float_equal(json_number_at(json_array_get(reply.json, (size_t)id), "scale"), scale, 0);
  reply_release(&reply);
}

static void an_adapter_answers_by_its_name_and_scale(void **state) {
  (void)state;
  char *path = write_tiny_adapter(test_folder);
  Served served;
  served_start(&served, "--model " TESTS_DIR "/data/tiny-hf/ --adapter loud=%s --adapter none=%s:0 --adapter %s/", path, path, path);
  Reply models = ask(served.port, (Ask){.path = "/v1/models"}), list = ask(served.port, (Ask){.path = "/lora-adapters"});
  assert_string_equal(json_string_at(models.json, "data.1.id"), "loud");
  assert_string_equal(json_string_at(models.json, "data.2.parent"), "tiny-hf");
  assert_string_equal(json_string_at(models.json, "data.3.id"), "adapter");
  assert_string_equal(json_string_at(list.json, "0.path"), path);
  assert_float_equal(json_number_at(list.json, "1.scale"), 0, 0);
  char *base = text_of(served.port, "tiny-hf"), *loud = text_of(served.port, "loud"), *none = text_of(served.port, "none");
  assert_string_not_equal(base, loud);
  assert_string_equal(base, none);
  set_scale(served.port, 0, 0);
  set_scale(served.port, 1, 1);
  char *silent = text_of(served.port, "loud"), *heard = text_of(served.port, "none");
  assert_string_equal(silent, base);
  assert_string_equal(heard, loud);
  char *texts[] = {base, loud, none, silent, heard, path};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]);
  reply_release(&models), reply_release(&list);
  assert_int_equal(served_stop(&served, SIGTERM), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_prompt_as_text_and_as_ids_goes_on_alike),
      cmocka_unit_test(a_stop_string_ends_the_text_before_it),
      cmocka_unit_test(a_seed_gives_the_same_text_again),
      cmocka_unit_test(a_bias_forbids_and_forces_a_token),
      cmocka_unit_test(echo_tells_log_probabilities_of_the_prompt),
      cmocka_unit_test(a_conversation_is_answered),
      cmocka_unit_test(a_stream_says_what_a_whole_answer_says),
      cmocka_unit_test(a_stream_of_a_completion_has_echo_and_log_probabilities),
      cmocka_unit_test(a_grammar_is_what_the_text_may_be),
      cmocka_unit_test(a_schema_is_what_an_answer_may_be),
      cmocka_unit_test(a_json_object_is_one_if_it_has_room),
      cmocka_unit_test(embeddings_have_length_one_in_both_forms),
      cmocka_unit_test(the_vocabulary_can_be_asked),
      cmocka_unit_test(the_page_allows_its_own_script_alone),
      cmocka_unit_test(metrics_count_requests),
  };
  const struct CMUnitTest own[] = {
      unit_test_in_folder(a_tool_is_called_where_it_has_to_be),
      unit_test_in_folder(an_adapter_has_its_own_template),
      unit_test_in_folder(an_adapter_answers_by_its_name_and_scale),
  };
  int failed = cmocka_run_group_tests_name("one server", tests, start_common, stop_common);
  return failed + cmocka_run_group_tests_name("servers of their own", own, NULL, NULL);
}
