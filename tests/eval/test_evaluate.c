// Tasks over a scorer whose answers are known: what is asked, which choice wins, what is written of it.
#include "eval/evaluate.h"

#include <math.h>

#include "eval/report.h"
#include "tests/support/test.h"

// ---- A scorer of given answers, that keeps what it was asked ----

enum { ASKED_MOST = 64 };

typedef struct Fake {
  const Tokenizer *tokenizer;
  const double *likelihoods;  // in the order of requests
  const bool *greedy;  // NULL: none is
  const char *const *texts;
  char *contexts[ASKED_MOST], *continuations[ASKED_MOST];  // as text
  int64_t counts[ASKED_MOST], asked, max_tokens;
  char stops[200];
  Status status;
} Fake;

static char *decode(const Fake *fake, const int32_t *ids, int64_t count) {
  Buffer text = {0};
  buffer_append(&text, "", 0);
  for (int64_t i = 0; i < count; i++) tokenizer_decode_piece(&text, fake->tokenizer, ids[i], true);
  return text.data;
}

static Status give_likelihoods(Likelihood *out, void *context, const LikelihoodRequest *requests, int64_t count, ScorerProgress progress) {
  Fake *fake = context;
  for (int64_t i = 0; i < count; i++, fake->asked++) {
    const LikelihoodRequest *request = &requests[i];
    assert_true(fake->asked < ASKED_MOST && request->context >= 1 && request->context < request->count);
    fake->contexts[fake->asked] = decode(fake, request->ids, request->context);
    fake->continuations[fake->asked] = decode(fake, request->ids + request->context, request->count - request->context);
    fake->counts[fake->asked] = request->count;
    out[i] = (Likelihood){fake->likelihoods[fake->asked], fake->greedy && fake->greedy[fake->asked]};
    progress.show(i + 1, progress.context);
  }
  return fake->status == STATUS_OK ? STATUS_OK : status_fail(fake->status, "the fake gives up");
}

static Status give_texts(Buffer *texts, void *context, const TextRequest *requests, int64_t count, ScorerProgress progress) {
  Fake *fake = context;
  for (int64_t i = 0; i < count; i++, fake->asked++) {
    fake->contexts[fake->asked] = decode(fake, requests[i].ids, requests[i].count);
    fake->counts[fake->asked] = requests[i].count;
    fake->max_tokens = requests[i].max_tokens;
    fake->stops[0] = 0;
    for (int s = 0; s < requests[i].stop_count; s++) strcat(strcat(fake->stops, requests[i].stops[s]), "|");
    buffer_append_string(&texts[i], fake->texts[fake->asked]);
    progress.show(i + 1, progress.context);
  }
  return STATUS_OK;
}

static Scorer scorer_of(Fake *fake, int64_t most_tokens) { return (Scorer){give_likelihoods, give_texts, fake, most_tokens}; }

static void fake_release(Fake *fake) {
  for (int64_t i = 0; i < fake->asked; i++) {
    free(fake->contexts[i]);
    free(fake->continuations[i]);
  }
}

// ---- Sets in the test's folder ----

static Tokenizer *tokenizer;

static int open_tokenizer(void **state) {
  (void)state;
  return tokenizer_open(&tokenizer, TESTS_DIR "/data/tiny.gguf");
}

static int close_tokenizer(void **state) {
  (void)state;
  tokenizer_free(tokenizer);
  return 0;
}

static void open_rows(TaskSet *set, const char *name, const char *rows) {
  char *path = path_join(test_folder, name), *parent = path_parent(path);
  assert_ok(directory_create(parent));
  assert_ok(file_write_whole(path, rows, strlen(rows)));
  assert_ok(task_set_open(set, path, NULL, -1, 0));
  free(path);
  free(parent);
}

static void open_named(TaskSet *set, const char *task, const char *name, const char *rows, int64_t shots) {
  char *path = path_join(test_folder, name), *parent = path_parent(path);
  assert_ok(directory_create(parent));
  assert_ok(file_write_whole(path, rows, strlen(rows)));
  assert_ok(task_set_open(set, task, test_folder, shots, 0));
  free(path);
  free(parent);
}

static void assert_score(const TaskResult *result, int64_t item, int metric, double expected) {
  Score score = result->scores[item * METRICS_MAX + metric];
  assert_true(score.count == 1 && fabs(score.sum - expected) < 1e-12);
}

// ---- Choices ----

static void the_largest_wins_and_by_character_another_may(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  // The third choice has 4 characters and 12 bytes.
  open_rows(&set, "a.jsonl",
            "{\"query\": \"Q\", \"choices\": [\"ab\", \"abcdefgh\", \"\\u4e2d\\u6587\\u4e2d\\u6587\"], \"gold\": 0}\n"
            "{\"query\": \"R\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n"
            "{\"query\": \"S\", \"choices\": [\"x\", \"y\", \"z\"], \"gold\": [1, 2]}\n");
  const double likelihoods[] = {-4, -8.1, -8, /* tie: the first */ -1, -1, /* any of the right ones */ -3, -2, -2.5};
  Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods};
  Scorer scorer = scorer_of(&fake, 100);
  assert_ok(task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}));
  assert_score(&result, 0, 0, 1);  // -4
  assert_score(&result, 0, 1, 0);  // -8.1 / 8 > -4 / 2 = -8 / 4
  assert_score(&result, 1, 0, 0);
  assert_score(&result, 2, 0, 1);
  assert_int_equal(fake.asked, 8);
  assert_string_equal(fake.contexts[1], "Q");
  assert_string_equal(fake.continuations[1], " abcdefgh");
  assert_string_equal(fake.contexts[7], "S");
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
}

static void white_space_at_the_end_of_a_context_is_scored_with_what_follows(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  open_rows(&set, "a.jsonl",
            "{\"context\": \"Wait\\n \", \"continuation\": \"here\"}\n{\"context\": \"Wait\", \"continuation\": \"here\"}\n");
  const double likelihoods[] = {-2, -4};
  const bool greedy[] = {true, false};
  Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods, .greedy = greedy};
  Scorer scorer = scorer_of(&fake, 100);
  assert_ok(task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}));
  assert_string_equal(fake.contexts[0], "Wait");
  assert_string_equal(fake.continuations[0], "\n here");
  assert_string_equal(fake.continuations[1], " here");
  assert_score(&result, 0, 0, 1);
  assert_score(&result, 1, 0, 0);
  ReportEntry entry = {.set = &set, .result = result};
  json_t *report = task_report_json(&entry, 1), *values = json_object_get(report, set.name);
  assert_true(fabs(json_real_value(json_object_get(values, "perplexity")) - exp(3)) < 1e-9);
  assert_true(json_real_value(json_object_get(values, "acc")) == 0.5);
  json_decref(report);
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
}

static void what_is_too_long_loses_its_beginning(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  open_rows(&set, "a.jsonl",
            "{\"query\": \"one two three four five six seven eight nine ten\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
  const double likelihoods[] = {-1, -2};
  Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods};
  Scorer scorer = scorer_of(&fake, 8);
  assert_ok(task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}));
  assert_int_equal(result.truncated, 1);
  assert_int_equal(fake.counts[0], 9);  // eight are read, and one more is scored
  assert_string_equal(fake.continuations[1], " b");
  assert_true(strlen(fake.contexts[0]) > 0 && strcmp(fake.contexts[0] + strlen(fake.contexts[0]) - 3, "ten") == 0);
  task_result_release(&result);
  fake_release(&fake);
  fake.asked = 0;
  scorer.most_tokens = 0;
  assert_fails(STATUS_BAD_INPUT, task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}), "a.jsonl:1",
               "--context");
  task_result_release(&result);
  task_set_release(&set);
}

static void a_number_that_is_no_log_probability_is_refused(void **state) {
  (void)state;
  const double wrong[] = {NAN, 0.5, -INFINITY};
  for (int i = 0; i < 3; i++) {
    TaskSet set;
    TaskResult result;
    open_rows(&set, "a.jsonl", "{\"query\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
    const double likelihoods[] = {-1, wrong[i]};
    Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods};
    Scorer scorer = scorer_of(&fake, 100);
    assert_fails(STATUS_FAILED, task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}), "log-probability");
    task_result_release(&result);
    task_set_release(&set);
    fake_release(&fake);
  }
}

static void a_scorer_that_fails_ends_the_task(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  open_rows(&set, "a.jsonl", "{\"query\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
  const double likelihoods[] = {-1, -2};
  Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods, .status = STATUS_NO_SPACE};
  Scorer scorer = scorer_of(&fake, 100);
  assert_fails(STATUS_NO_SPACE, task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}), "a.jsonl", "gives up");
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
}

static void samples_tell_each_item(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  FileWriter samples;
  char *path = path_join(test_folder, "samples.jsonl");
  open_rows(
      &set, "a.jsonl",
      "{\"query\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n\n{\"query\": \"R\", \"choices\": [\"c\", \"d\"], \"gold\": 1}\n");
  const double likelihoods[] = {-1, -2, -5, -3};
  Fake fake = {.tokenizer = tokenizer, .likelihoods = likelihoods};
  Scorer scorer = scorer_of(&fake, 100);
  assert_ok(file_writer_open(&samples, path));
  EvaluateOptions options = {.tokenizer = tokenizer, .samples = &samples, .label = "base"};
  assert_ok(task_evaluate(&result, &set, &scorer, &options));
  assert_ok(file_writer_commit(&samples));
  DatasetFile file;
  json_t *row;
  assert_ok(dataset_file_open(&file, path, ROWS_JSON));
  assert_int_equal(file.count, 2);
  assert_ok(dataset_file_row(&row, &file, 1));
  const json_t *second = json_array_get(json_object_get(row, "choices"), 1);
  assert_string_equal(json_string_value(json_object_get(row, "prompt")), "R");
  assert_string_equal(json_string_value(json_object_get(row, "model")), "base");
  assert_int_equal(json_integer_value(json_object_get(row, "id")), 1);
  assert_int_equal(json_integer_value(json_object_get(row, "line")), 3);
  assert_true(json_real_value(json_object_get(row, "acc")) == 1);
  assert_string_equal(json_string_value(json_object_get(second, "text")), "d");
  assert_true(json_real_value(json_object_get(second, "log_probability")) == -3);
  assert_true(json_is_true(json_object_get(second, "is_gold")) && json_is_false(json_object_get(second, "is_greedy")));
  json_decref(row);
  dataset_file_release(&file);
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
  free(path);
}

// ---- Texts ----

static void texts_are_asked_with_their_stops_and_judged(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  const char *const texts[] = {"so 1+1 is 2\n#### 2", "I think 5"}, *const more[] = {"<end>"};
  char *train = path_join(test_folder, "gsm8k/train.jsonl"), *folder = path_join(test_folder, "gsm8k");
  assert_ok(directory_create(folder));
  assert_ok(file_write_whole(train, "{\"question\": \"0+0?\", \"answer\": \"#### 0\"}\n", 40));
  open_named(&set, "gsm8k", "gsm8k/test.jsonl",
             "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\n{\"question\": \"2+3?\", \"answer\": \"#### 5\"}\n", 1);
  Fake fake = {.tokenizer = tokenizer, .texts = texts};
  Scorer scorer = scorer_of(&fake, 1000);
  EvaluateOptions options = {.tokenizer = tokenizer, .stops = more, .stop_count = 1};
  assert_ok(task_evaluate(&result, &set, &scorer, &options));
  assert_string_equal(fake.contexts[1], "Question: 0+0?\nAnswer: #### 0\n\nQuestion: 2+3?\nAnswer:");
  assert_string_equal(fake.stops, "Question:|</s>|<|im_end|>|<end>|");
  assert_int_equal(fake.max_tokens, 256);
  assert_score(&result, 0, 0, 1);
  assert_score(&result, 0, 1, 1);
  assert_score(&result, 1, 0, 0);
  assert_score(&result, 1, 1, 1);
  task_result_release(&result);
  fake_release(&fake);
  fake = (Fake){.tokenizer = tokenizer, .texts = texts};
  scorer.most_tokens = 20;
  options.max_tokens = 12;
  assert_ok(task_evaluate(&result, &set, &scorer, &options));
  assert_int_equal(fake.counts[0], 8);
  assert_int_equal(result.truncated, 2);
  task_result_release(&result);
  options.max_tokens = 20;
  assert_fails(STATUS_USAGE, task_evaluate(&result, &set, &scorer, &options), "gsm8k", "--max-tokens");
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
  free(train);
  free(folder);
}

static void in_a_conversation_shots_are_turns(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  ChatTemplate *chat;
  const char *const texts[] = {"#### 2"};
  char *train = path_join(test_folder, "gsm8k/train.jsonl"), *folder = path_join(test_folder, "gsm8k");
  assert_ok(directory_create(folder));
  assert_ok(file_write_whole(train, "{\"question\": \"0+0?\", \"answer\": \"#### 0\"}\n", 40));
  open_named(&set, "gsm8k", "gsm8k/test.jsonl", "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\n", 1);
  assert_ok(chat_template_open(&chat, &(ChatTemplateOptions){.name = "chatml"}, tokenizer));
  Fake fake = {.tokenizer = tokenizer, .texts = texts};
  Scorer scorer = scorer_of(&fake, 1000);
  assert_ok(task_evaluate(&result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer, .chat = chat}));
  assert_string_equal(fake.contexts[0],
                      "<|im_start|>user\nQuestion: 0+0?\nAnswer:<|im_end|>\n<|im_start|>assistant\n#### 0<|im_end|>\n"
                      "<|im_start|>user\nQuestion: 1+1?\nAnswer:<|im_end|>\n<|im_start|>assistant\n");
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
  chat_template_free(chat);
  free(train);
  free(folder);
}

static void a_program_in_a_conversation_begins_in_its_block(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  ChatTemplate *chat;
  const char *const texts[] = {"    return a + b\n```\nThat is it."};
  open_named(&set, "humaneval", "humaneval/HumanEval.jsonl.gz",
             "{\"task_id\": \"T/0\", \"prompt\": \"def f(a, b):\\n\", \"entry_point\": \"f\", \"test\": \"def check(g):\\n    assert g(1, "
             "2) == 3\\n\"}\n",
             0);
  assert_ok(chat_template_open(&chat, &(ChatTemplateOptions){.name = "chatml"}, tokenizer));
  Fake fake = {.tokenizer = tokenizer, .texts = texts};
  Scorer scorer = scorer_of(&fake, 2000);
  EvaluateOptions options = {.tokenizer = tokenizer, .chat = chat, .allows_code = true};
  Status status = task_evaluate(&result, &set, &scorer, &options);
  if (status == STATUS_USAGE) skip_test("%s", status_message());
  assert_ok(status);
  assert_string_equal(
      fake.contexts[0],
      "<|im_start|>user\nWrite a solution to the following problem and make sure that it passes the tests:\n```python\n"
      "def f(a, b):\n\n```\n<|im_end|>\n<|im_start|>assistant\nHere is the completed function:\n```python\ndef f(a, b):\n\n");
  assert_string_equal(fake.stops, "\nclass|\ndef|\n#|\nif|\nprint|");
  assert_score(&result, 0, 0, 1);
  task_result_release(&result);
  task_set_release(&set);
  fake_release(&fake);
  chat_template_free(chat);
}

static void answers_may_be_given(void **state) {
  (void)state;
  TaskSet set;
  TaskResult result;
  Responses responses;
  char *path = path_join(test_folder, "responses.jsonl");
  static const char rows[] = "{\"prompt\": \"P\", \"response\": \"no, commas\"}\n{\"prompt\": \"R\", \"response\": \"none\"}\n";
  assert_ok(file_write_whole(path, rows, strlen(rows)));
  open_named(&set, "ifeval", "ifeval/input_data.jsonl",
             "{\"prompt\": \"R\", \"instruction_id_list\": [\"punctuation:no_comma\"], \"kwargs\": [{}]}\n"
             "{\"prompt\": \"P\", \"instruction_id_list\": [\"punctuation:no_comma\"], \"kwargs\": [{}]}\n",
             0);
  assert_ok(responses_read(&responses, path));
  EvaluateOptions options = {.responses = &responses};
  assert_ok(task_evaluate(&result, &set, &(Scorer){0}, &options));
  assert_score(&result, 0, 0, 1);
  assert_score(&result, 1, 0, 0);
  task_result_release(&result);
  task_set_release(&set);
  open_named(&set, "ifeval", "ifeval/input_data.jsonl",
             "{\"prompt\": \"S\", \"instruction_id_list\": [\"punctuation:no_comma\"], \"kwargs\": [{}]}\n", 0);
  assert_fails(STATUS_BAD_INPUT, task_evaluate(&result, &set, &(Scorer){0}, &options), "input_data.jsonl:1", "no response");
  task_result_release(&result);
  task_set_release(&set);
  responses_release(&responses);
  assert_ok(file_write_whole(path, "{\"prompt\": \"P\"}\n", 16));
  assert_fails(STATUS_BAD_INPUT, responses_read(&responses, path), "responses.jsonl:1", "\"response\"");
  responses_release(&responses);
  free(path);
}

// ---- Reports ----

static void a_report_compares_base_and_adapter(void **state) {
  (void)state;
  TaskSet set;
  open_rows(&set, "a.jsonl",
            "{\"query\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n{\"query\": \"R\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
  const double base_answers[] = {-2, -1, -1, -2}, answers[] = {-1, -2, -1, -2};
  Fake base = {.tokenizer = tokenizer, .likelihoods = base_answers}, adapter = {.tokenizer = tokenizer, .likelihoods = answers};
  Scorer base_scorer = scorer_of(&base, 100), scorer = scorer_of(&adapter, 100);
  ReportEntry entry = {.set = &set, .has_base = true};
  assert_ok(task_evaluate(&entry.base, &set, &base_scorer, &(EvaluateOptions){.tokenizer = tokenizer}));
  assert_ok(task_evaluate(&entry.result, &set, &scorer, &(EvaluateOptions){.tokenizer = tokenizer}));
  json_t *report = task_report_json(&entry, 1), *values = json_object_get(report, set.name);
  json_t *comparison = json_object_get(json_object_get(values, "comparison"), "acc");
  assert_true(json_real_value(json_object_get(values, "acc")) == 1 && json_integer_value(json_object_get(values, "n")) == 2);
  assert_true(json_is_real(json_object_get(values, "acc_stderr")) && json_is_real(json_object_get(values, "acc_norm")));
  assert_true(json_real_value(json_object_get(json_object_get(values, "base"), "acc")) == 0.5);
  assert_true(json_real_value(json_object_get(comparison, "difference")) == 0.5);
  assert_int_equal(json_integer_value(json_object_get(comparison, "better")), 1);
  assert_int_equal(json_integer_value(json_object_get(comparison, "same")), 1);
  char *text = NULL;
  size_t length = 0;
  FILE *stream = open_memstream(&text, &length);
  task_report_print(stream, &entry, 1);
  fclose(stream);
  assert_non_null(strstr(text, "difference"));
  assert_non_null(strstr(text, "0.5000    1.0000      0.5000"));
  free(text);
  json_decref(report);
  task_result_release(&entry.base);
  task_result_release(&entry.result);
  task_set_release(&set);
  fake_release(&base);
  fake_release(&adapter);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(the_largest_wins_and_by_character_another_may),
      unit_test_in_folder(white_space_at_the_end_of_a_context_is_scored_with_what_follows),
      unit_test_in_folder(what_is_too_long_loses_its_beginning),
      unit_test_in_folder(a_number_that_is_no_log_probability_is_refused),
      unit_test_in_folder(a_scorer_that_fails_ends_the_task),
      unit_test_in_folder(samples_tell_each_item),
      unit_test_in_folder(texts_are_asked_with_their_stops_and_judged),
      unit_test_in_folder(in_a_conversation_shots_are_turns),
      unit_test_in_folder(a_program_in_a_conversation_begins_in_its_block),
      unit_test_in_folder(answers_may_be_given),
      unit_test_in_folder(a_report_compares_base_and_adapter),
  };
  return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
