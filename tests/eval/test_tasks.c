// Files of rows become items: the prompts of each kind, shots, and what is wrong with a row, by file and line.
#include "eval/task.h"

#include <sys/stat.h>

#include "core/file.h"
#include "core/text.h"
#include "eval/evaluate.h"
#include "tests/support/test.h"

static char *written(const char *name, const char *text) {
  char *path = path_join(test_folder, name), *parent = path_parent(path);
  assert_ok(directory_create(parent));
  assert_ok(file_write_whole(path, text, strlen(text)));
  free(parent);
  return path;
}

static void write_rows(const char *name, const char *text) { free(written(name, text)); }

static void open_task(TaskSet *set, const char *name, int64_t shots, int64_t limit) {
  assert_ok(task_set_open(set, name, test_folder, shots, limit));
}

static void assert_context(const TaskSet *set, int64_t index, const char *expected) {
  Buffer text = {0};
  item_context(&text, set, &set->items[index], set->items[index].question);
  assert_string_equal(text.data, expected);
  buffer_release(&text);
}

static void queries_get_their_tasks_ending(void **state) {
  (void)state;
  write_rows("arc_easy.jsonl", "{\"query\": \"Question: Why? \\n\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n");
  write_rows("openbook_qa.jsonl", "{\"query\": \"Fog is\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
  TaskSet set;
  open_task(&set, "arc_easy", -1, 0);
  assert_context(&set, 0, "Question: Why?\nAnswer:");
  assert_int_equal(set.items[0].choice_count, 2);
  assert_true(!set.items[0].is_gold[0] && set.items[0].is_gold[1]);
  task_set_release(&set);
  open_task(&set, "openbook_qa", -1, 0);
  assert_context(&set, 0, "Fog is");
  task_set_release(&set);
}

static void each_option_of_winogrande_is_a_context(void **state) {
  (void)state;
  write_rows("winogrande.jsonl", "{\"context_options\": [\"So Ann\", \"So Eve\"], \"continuation\": \"won.\", \"gold\": \"1\"}\n");
  TaskSet set;
  open_task(&set, "winogrande", -1, 0);
  const TaskItem *item = &set.items[0];
  assert_string_equal(item->contexts[1], "So Eve");
  assert_string_equal(item->choices[0], "won.");
  assert_string_equal(item->choices[1], "won.");
  assert_true(item->is_gold[1] && !item->is_gold[0]);
  task_set_release(&set);
}

static void mmlu_has_a_preamble_and_shots_of_its_subject(void **state) {
  (void)state;
  static const char head[] = "question,choice0,choice1,choice2,choice3,answer\n";
  Buffer dev = {0}, test = {0};
  buffer_format(&dev, "%s\"Is, or\nis it?\",yes,no,,may be,3\n One? ,1,2,3,4,0\n", head);
  buffer_format(&test, "%sTwo?,1,2,3,4,1\nThree?,1,2,3,4,2\n", head);
  write_rows("mmlu/dev/old_news_dev.csv", dev.data);
  write_rows("mmlu/test/old_news_test.csv", test.data);
  TaskSet set;
  assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "mmlu", test_folder, 2, 0), "old_news_dev.csv:2",
               "choice2");  // an empty field is none
  task_set_release(&set);
  dev.length = 0;
  buffer_format(&dev, "%s\"Is, or\nis it?\",yes,no,\"a, b\",may be,3\n One? ,1,2,3,4,0\n", head);
  write_rows("mmlu/dev/old_news_dev.csv", dev.data);
  open_task(&set, "mmlu", 2, 1);
  assert_int_equal(set.item_count, 1);
  assert_string_equal(set.groups[0].name, "old_news");
  assert_context(&set, 0,
                 "The following are multiple choice questions (with answers) about old news.\n\n"
                 "Is, or\nis it?\nA. yes\nB. no\nC. a, b\nD. may be\nAnswer: D\n\nOne?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\n"
                 "Two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:");
  assert_string_equal(set.items[0].choices[3], "D");
  assert_true(set.items[0].is_gold[1]);
  task_set_release(&set);
  assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "mmlu", test_folder, -1, 0), "old_news_dev.csv", "5 shots", "2 rows");
  task_set_release(&set);
  buffer_release(&dev);
  buffer_release(&test);
}

static void the_first_rows_of_gsm8k_are_its_shots(void **state) {
  (void)state;
  write_rows("gsm8k/train.jsonl",
             "{\"question\": \"1+1?\", \"answer\": \"#### 2\"}\n{\"question\": \"2+2?\", \"answer\": \"four\\n#### 4\"}\n");
  write_rows("gsm8k/test.jsonl", "{\"question\": \"3+3?\", \"answer\": \"#### 6\"}\n");
  TaskSet set;
  open_task(&set, "gsm8k", 2, 0);
  assert_context(&set, 0, "Question: 1+1?\nAnswer: #### 2\n\nQuestion: 2+2?\nAnswer: four\n#### 4\n\nQuestion: 3+3?\nAnswer:");
  task_set_release(&set);
  open_task(&set, "gsm8k", 0, 0);
  assert_context(&set, 0, "Question: 3+3?\nAnswer:");
  task_set_release(&set);
  write_rows("gsm8k/test.jsonl", "{\"question\": \"3+3?\", \"answer\": \"six\"}\n");
  assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "gsm8k", test_folder, 0, 0), "test.jsonl:1", "####");
  task_set_release(&set);
}

static void any_file_is_a_task_by_its_path(void **state) {
  (void)state;
  char *choices = written("mine.jsonl", "{\"query\": \"A \", \"choices\": [\"b\", \"c\"], \"gold\": [\"c\", 0]}\n\n");
  char *plain = written("plain.jsonl", "{\"context\": \"A\", \"continuation\": \"b\"}\n{\"context\": \"A\", \"continuation\": \"\\nb\"}\n");
  write_rows("mine.shots.jsonl", "{\"query\": \"X\", \"choices\": [\"y\", \"z\"], \"gold\": \"z\"}\n");
  TaskSet set;
  open_task(&set, choices, -1, 0);
  assert_string_equal(set.name, choices);
  assert_true(set.items[0].is_gold[0] && set.items[0].is_gold[1]);
  assert_context(&set, 0, "A ");
  assert_string_equal(item_delimiter(&set, "A ", "b"), " ");
  task_set_release(&set);
  open_task(&set, choices, 1, 0);
  assert_context(&set, 0, "X z\n\nA ");
  task_set_release(&set);
  open_task(&set, plain, -1, 0);
  assert_int_equal(set.item_count, 2);
  assert_string_equal(item_delimiter(&set, "A", "b"), " ");
  assert_string_equal(item_delimiter(&set, "A", "\nb"), "");
  assert_string_equal(item_delimiter(&set, "A\xE3\x80\x80", "b"), "");
  task_set_release(&set);
  assert_fails(STATUS_USAGE, task_set_open(&set, plain, NULL, 1, 0), "plain.shots.jsonl");
  task_set_release(&set);
  free(choices);
  free(plain);
}

static void the_answer_of_a_problem_may_be_boxed_in_its_solution(void **state) {
  (void)state;
  write_rows("math500.jsonl", "{\"problem\": \"P\", \"solution\": \"so \\\\boxed{\\\\frac{1}{2}}.\"}\n");
  TaskSet set;
  open_task(&set, "math500", -1, 0);
  assert_context(&set, 0, "Problem: P\nAnswer:");
  assert_string_equal(set.items[0].answer, "\\frac{1}{2}");
  task_set_release(&set);
  write_rows("math500.jsonl", "{\"problem\": \"P\", \"solution\": \"nothing\"}\n");
  assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "math500", test_folder, -1, 0), "math500.jsonl:1", "boxed");
  task_set_release(&set);
}

static void what_is_wrong_with_a_row_is_told_by_its_line(void **state) {
  (void)state;
  static const char good[] = "{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": 1}\n";
  static const struct {
    const char *row, *words;
  } cases[] = {
      {"{\"choices\": [\"b\"], \"gold\": 0}", "\"query\" is missing"},
      {"{\"query\": 3, \"choices\": [\"b\"], \"gold\": 0}", "\"query\" must be a string, and is a whole number"},
      {"{\"query\": \"A\\u0000\", \"choices\": [\"b\"], \"gold\": 0}", "NUL"},
      {"{\"query\": \"A\", \"choices\": \"b\", \"gold\": 0}", "\"choices\" must be a list"},
      {"{\"query\": \"A\", \"choices\": [], \"gold\": 0}", "empty"},
      {"{\"query\": \"A\", \"choices\": [\"b\", null], \"gold\": 0}", "null"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"\"], \"gold\": 0}", "\"choices\"[1] is empty"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"]}", "\"gold\" is missing"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": 2}", "\"gold\" is 2, and there are 2 choices"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": -1}", "\"gold\" is -1"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": \"7\"}", "\"gold\" is 7"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": \"d\"}", "none of the choices"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": 1.5}", "\"gold\" must be the index"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": []}", "empty list"},
      {"{\"query\": \"A\", \"choices\": [\"b\", \"c\"], \"gold\": [0, 9]}", "\"gold\" is 9"},
      {"[1, 2]", "no object"},
      {"{\"query\": ", "not JSON"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Buffer text = {0};
    TaskSet set;
    buffer_format(&text, "%s\n%s\n", good, cases[i].row);  // an empty line counts, too
    char *path = written("rows.jsonl", text.data);
    assert_fails(STATUS_BAD_INPUT, task_set_open(&set, path, NULL, -1, 0), "rows.jsonl:3: ", cases[i].words);
    task_set_release(&set);
    free(path);
    buffer_release(&text);
  }
}

static void rows_of_instructions_are_tried_when_they_are_read(void **state) {
  (void)state;
  static const struct {
    const char *row, *words;
  } cases[] = {
      {"{\"prompt\": \"P\", \"instruction_id_list\": [\"keywords:sonnets\"], \"kwargs\": [{}]}", "keywords:sonnets"},
      {"{\"prompt\": \"P\", \"instruction_id_list\": [\"punctuation:no_comma\"], \"kwargs\": []}", "kwargs"},
      {"{\"prompt\": \"P\", \"instruction_id_list\": [\"keywords:existence\"], \"kwargs\": [{\"keywords\": [\"(\"]}]}",
       "regular expression"},
      {"{\"prompt\": \"P\", \"instruction_id_list\": [\"length_constraints:number_words\"], \"kwargs\": [{}]}", "num_words"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    TaskSet set;
    write_rows("ifeval/input_data.jsonl", cases[i].row);
    assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "ifeval", test_folder, -1, 0), "input_data.jsonl:1: ", cases[i].words);
    task_set_release(&set);
  }
}

static void names_that_are_no_task_are_refused(void **state) {
  (void)state;
  TaskSet set;
  assert_fails(STATUS_USAGE, task_set_open(&set, "arc_esy", test_folder, -1, 0), "arc_easy");
  task_set_release(&set);
  assert_fails(STATUS_USAGE, task_set_open(&set, "x", test_folder, -1, 0), "mmlu", ".jsonl");
  task_set_release(&set);
  assert_fails(STATUS_USAGE, task_set_open(&set, "mmlu", NULL, -1, 0), "--data");
  task_set_release(&set);
  assert_fails(STATUS_BAD_INPUT, task_set_open(&set, "mmlu", test_folder, -1, 0), "mmlu/test", "SUBJECT_test.csv");
  task_set_release(&set);
  write_rows("ifeval/input_data.jsonl", "{}");
  assert_fails(STATUS_USAGE, task_set_open(&set, "ifeval", test_folder, 2, 0), "without shots");
  task_set_release(&set);
}

// Every row of the data sets that lie beside the checkout.
static void the_data_sets_are_read_whole(void **state) {
  (void)state;
  char *folder = shared_path("data/eval");
  if (!folder) skip_test("the evaluation data is not beside the checkout");
  for (int i = 0; i < task_count(); i++) {
    TaskSet set;
    assert_ok(task_set_open(&set, task_at(i)->name, folder, -1, 0));
    assert_true(set.item_count >= 100);
    for (int64_t g = 0; g < set.group_count; g++) assert_int_equal(set.groups[g].shot_count, task_at(i)->shots);
    if (strcmp(set.name, "mmlu") == 0) assert_int_equal(set.group_count, 57);
    task_set_release(&set);
  }
  free(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(queries_get_their_tasks_ending),
      unit_test_in_folder(each_option_of_winogrande_is_a_context),
      unit_test_in_folder(mmlu_has_a_preamble_and_shots_of_its_subject),
      unit_test_in_folder(the_first_rows_of_gsm8k_are_its_shots),
      unit_test_in_folder(any_file_is_a_task_by_its_path),
      unit_test_in_folder(the_answer_of_a_problem_may_be_boxed_in_its_solution),
      unit_test_in_folder(what_is_wrong_with_a_row_is_told_by_its_line),
      unit_test_in_folder(rows_of_instructions_are_tried_when_they_are_read),
      unit_test_in_folder(names_that_are_no_task_are_refused),
      cmocka_unit_test(the_data_sets_are_read_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
