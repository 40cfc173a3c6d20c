// Every key of the schema by its fate and kind, with each spelling that a value may have; and every type of datasets.
#include <stdlib.h>

#include "core/file.h"
#include "core/text.h"
#include "recipes/schema.h"
#include "tests/support/recipe.h"
#include "tests/support/test.h"

#define HEAD                                                                                                            \
  "base_model: m\nlearning_rate: 2e-5\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\nadapter: lora\nlora_r: 8\n" \
  "lora_alpha: 16\nlora_target_linear: true\n"
#define DATA "datasets: [{path: d.jsonl, type: alpaca}]\n"

static Status parse(const char *text) { return parse_recipe("r.yml", text, NULL); }

// The remarks about `key` in a sound recipe with "key: value" behind it.
typedef struct Told {
  int problems, notices;
  const char *message;  // the last one
} Told;

static Told tell(const char *key, const char *value) {
  char *text = memory_format("%s%s%s: %s\n", HEAD, DATA, key, value);
  parse(text);
  Told told = {0};
  for (int i = 0; i < recipe.remark_count; i++) {
    const RecipeRemark *remark = &recipe.remarks[i];
    // The value of a key of the base is there twice: that notice is another test's.
    if (strcmp(remark->key, key) != 0 || strstr(remark->message, "is there twice")) continue;
    if (remark->is_notice) told.notices++;
    else told.problems++;
    told.message = remark->message;
  }
  free(text);
  return told;
}

typedef void KeyCheck(const SchemaKey *row, const char *key);

static int each_key(const SchemaTable *table, KeyCheck *check) {
  int count = 0;
  for (int i = 0; i < table->count; i++) {
    char names[2048];
    snprintf(names, sizeof names, "%s", table->keys[i].names ? table->keys[i].names : "");
    for (char *save, *key = strtok_r(names, " ", &save); key; key = strtok_r(NULL, " ", &save)) check(&table->keys[i], key), count++;
  }
  return count;
}

// --- every key ---

static void check_null(const SchemaKey *row, const char *key) {
  (void)row;
  static const char *const nulls[] = {"", "~", "null", "Null", "# nothing"};
  for (size_t i = 0; i < sizeof nulls / sizeof nulls[0]; i++) {
    Told told = tell(key, nulls[i]);
    // Of the keys that a recipe must have, the absence is told.
    if (told.notices || (told.problems && !strstr(told.message, "is missing") && !strstr(told.message, "at least two")))
      fail_msg("%s: %s: %s", key, nulls[i], told.message);
  }
}

static void null_counts_as_absent_for_every_key(void **state) {
  (void)state;
  assert_true(each_key(&schema_recipe, check_null) > 120);
  assert_true(each_key(&schema_others, check_null) > 300);
}

static void check_on_and_off(const SchemaKey *row, const char *key) {
  static const char *const off[] = {"false", "no", "0", "''", "[]", "{}"};
  static const char *const on[] = {"true", "2", "word", "'quoted # text'", "[a, b]", "{a: 1}", "|\n  many\n  lines"};
  for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) {
    Told told = tell(key, off[i]);
    if (told.problems || told.notices) fail_msg("%s: %s: %s", key, off[i], told.message);
  }
  bool refused = row->fate == KEY_REFUSED || row->fate == KEY_PARALLEL, noticed = row->fate == KEY_IDLE || row->fate == KEY_DEAD;
  for (size_t i = 0; i < sizeof on / sizeof on[0]; i++) {
    Told told = tell(key, on[i]);
    // Some of these keys have checks of their own, which is a problem more.
    if (told.problems < refused || told.notices != noticed) fail_msg("%s: %s: %s", key, on[i], told.message ? told.message : "nothing");
    if (refused && !strstr(told.message, "is refused: ")) fail_msg("%s: %s", key, told.message);
  }
  if (row->fate == KEY_PARALLEL) assert_int_equal(tell(key, "1").problems, 0);
}

static void idle_and_dead_keys_get_one_notice_and_refused_ones_a_problem_while_they_are_on(void **state) {
  (void)state;
  each_key(&schema_others, check_on_and_off);
}

static const char *const *spellings(const SchemaKey *row) {
  static const char *const truths[] = {"true",   "True",      "TRUE", "false", "yes", "No", "on", "off",
                                       "'true'", "\"false\"", "1",    "0",     "1.0", "t",  "n",  NULL};
  static const char *const wholes[] = {"2", "2.0", "'2'", "+2", "2e0", "0x2", "2_0", NULL};
  static const char *const numbers[] = {"0.5", ".5", "5e-1", "'0.5'", "5E-1", "+0.5", NULL};
  static const char *const texts[] = {"word",      "'quoted'", "\"with: colon\"", "5", "|\n  two\n  lines", ">-\n  one\n  line",
                                      "'{{ x }}'", NULL};
  static const char *const lists[] = {"one", "[one, two]", "\n  - one\n  - 'two'", "[]", "[one,\n   two]", "\n- one\n- two", NULL};
  static const char *const mappings[] = {"{a: 1}", "\n  a: 1\n  b: [x]", "{}", "[]", "{'a b': {c: d}}", NULL};
  switch (row->kind) {
    case VALUE_BOOLEAN:
    case VALUE_CHOICE: return truths;
    case VALUE_INTEGER: return wholes;
    case VALUE_NUMBER: return numbers;
    case VALUE_TEXT: return texts;
    case VALUE_TEXTS: return lists;
    case VALUE_PAIRS: return mappings;
    case VALUE_WORD: return row->words;
    case VALUE_SPECIAL: break;
  }
  return NULL;
}

static bool is_of_form(const char *message) { return strstr(message, "must be") || strstr(message, "not known"); }

static void check_spellings(const SchemaKey *row, const char *key) {
  for (const char *const *value = spellings(row); value && *value; value++) {
    // Only what is said about the form counts here; the weights of losses are numbers, which their kind does not tell.
    Told told = tell(key, *value);
    if (told.problems && is_of_form(told.message) && !strstr(told.message, "must be numbers"))
      fail_msg("%s: %s: %s", key, *value, told.message);
  }
}

static void every_spelling_of_a_value_is_read(void **state) {
  (void)state;
  each_key(&schema_recipe, check_spellings);
}

static void check_wrong(const SchemaKey *row, const char *key) {
  static const char *const wrong[][2] = {
      [VALUE_TEXT] = {"[a]", "{a: 1}"},    [VALUE_BOOLEAN] = {"maybe", "[true]"}, [VALUE_CHOICE] = {"maybe", "{a: 1}"},
      [VALUE_INTEGER] = {"2.5", "many"},   [VALUE_NUMBER] = {"much", "[1]"},      [VALUE_WORD] = {"qwertz", "[a]"},
      [VALUE_TEXTS] = {"{a: 1}", "[[a]]"}, [VALUE_PAIRS] = {"word", "[a]"},
  };
  if (row->kind == VALUE_SPECIAL || (row->fate != KEY_WORKS && row->fate != KEY_LATER)) return;
  for (int i = 0; i < 2; i++)
    if (tell(key, wrong[row->kind][i]).problems == 0) fail_msg("%s: %s is not refused", key, wrong[row->kind][i]);
}

static void a_value_of_another_form_is_refused(void **state) {
  (void)state;
  each_key(&schema_recipe, check_wrong);
}

static void an_empty_text_and_false_say_nothing_where_no_truth_is_asked_for(void **state) {
  (void)state;
  assert_ok(parse(HEAD DATA "lora_model_dir: ''\nresume_from_checkpoint: false\nrl: no\nmax_steps: false\nhub_model_id: \"\"\n"
                            "chat_template: ''\neval_strategy: ''\ntest_datasets: false\nneftune_noise_alpha: off\n"));
  assert_null(recipe.lora_model_dir);
  assert_null(recipe.resume_from_checkpoint);
  assert_null(recipe.rl);
  assert_null(recipe.hub_model_id);
  assert_null(recipe.chat_template);
  assert_int_equal(recipe.remark_count, 0);
}

// --- values of their own form ---

static void a_pretraining_dataset_is_read_whole(void **state) {
  (void)state;
  assert_ok(parse(HEAD "max_steps: 10\npretraining_dataset:\n  - path: org/texts\n    name: en\n    text_column: body\n    skip: 100\n"
                       "    data_files: [a.parquet, b.parquet]\n    ds_type: parquet\n    revision: v2\n    type: pretrain\n"
                       "    trust_remote_code: true\n"));
  const DatasetRecipe *dataset = &recipe.pretraining;
  assert_true(recipe.has_pretraining);
  assert_string_equal(dataset->path, "org/texts");
  assert_string_equal(dataset->name, "en");
  assert_string_equal(dataset->field, "body");
  assert_string_equal(dataset->split, "train");
  assert_string_equal(dataset->type, "pretrain");
  assert_string_equal(dataset->ds_type, "parquet");
  assert_string_equal(dataset->revision, "v2");
  assert_int_equal(dataset->data_files.count, 2);
  assert_int_equal(dataset->skip, 100);
  assert_int_equal(dataset->position.line, 11);
  assert_int_equal(dataset->drop_system_message, CHOICE_ABSENT);
  assert_int_equal(recipe.remark_count, 1);
  static const char *const others[] = {"pretraining_dataset: texts.txt\n", "pretraining_dataset: {path: texts.txt}\n",
                                       "pretraining_dataset: [texts.txt]\n",
                                       "pretraining_dataset: [{path: texts.txt, type: completion, field: text}]\n"};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
    char *text = memory_format("%smax_steps: 10\n%s", HEAD, others[i]);
    assert_ok(parse(text));
    assert_string_equal(recipe.pretraining.path, "texts.txt");
    assert_string_equal(recipe.pretraining.field, "text");
    free(text);
  }
  assert_ok(parse(HEAD DATA "pretraining_dataset: []\n"));
  assert_false(recipe.has_pretraining);
}

static void forms_of_special_values_are_read(void **state) {
  (void)state;
  assert_ok(parse(HEAD DATA "peft_init_lora_weights: pissa_niter_4\noptim_args: a=1, b=x\npeft_trainable_token_indices: [1, 2]\n"
                            "tf32: auto\nfp16: auto\nmax_memory: {0: 20GiB, cpu: 8GiB}\nlora_rank_pattern: {q_proj: 4}\n"
                            "chat_template_jinja: own.jinja\ngradient_checkpointing: unsloth\ndpo_loss_type: hinge\n"));
  assert_string_equal(recipe.peft_init_lora_weights, "pissa_niter_4");
  assert_int_equal(recipe.optim_args.count, 2);
  assert_string_equal(recipe.optim_args.values[1], "x");
  assert_int_equal(recipe.peft_trainable_token_indices.count, 2);
  assert_true(recipe.max_memory == 8ll << 30);
  assert_string_equal(recipe.chat_template, "jinja");
  assert_string_equal(recipe.dpo_loss_type.items[0], "hinge");
  assert_ok(parse(HEAD DATA "device: cuda:0\nmax_memory: {0: 20GiB, cpu: 8GiB}\npeft_trainable_token_indices: {embed_tokens: [5]}\n"));
  assert_true(recipe.max_memory == 20ll << 30);
  assert_string_equal(recipe.peft_trainable_token_indices.items[0], "5");
  assert_ok(parse(HEAD DATA "peft_trainable_token_indices: {embed_tokens: [5], lm_head: [6]}\n"));
  assert_string_equal(recipe.peft_trainable_token_indices.items[0], "{\"embed_tokens\": [5], \"lm_head\": [6]}");
}

static void a_key_that_is_there_twice_is_noticed_wherever_it_stands(void **state) {
  (void)state;
  assert_ok(
      parse(HEAD "datasets:\n  - path: a\n    path: b\n    type: alpaca\nspecial_tokens: {pad_token: x, pad_token: y}\nlora_r: 32\n"));
  assert_int_equal(recipe.lora_r, 32);
  assert_string_equal(recipe.datasets[0].path, "b");
  assert_int_equal(recipe.remark_count, 3);
  assert_string_equal(recipe.remarks[0].key, "lora_r");
  assert_int_equal(recipe.remarks[0].position.line, 14);
  assert_string_equal(recipe.remarks[1].key, "datasets.0.path");
  assert_string_equal(recipe.remarks[2].key, "special_tokens.pad_token");
}

// --- types of datasets ---

static Status parse_type(const char *type, const char *more) {
  char *text = memory_format("%sdatasets: [{path: d.jsonl, type: %s}]\n%s", HEAD, type, more);
  Status status = parse(text);
  free(text);
  return status;
}

static void types_that_are_built_validate_and_train(void **state) {
  (void)state;
  static const char *const types[] = {"alpaca",
                                      "alpaca:chat",
                                      "alpaca:instruct",
                                      "alpaca:chatml",
                                      "alpaca:phi",
                                      "alpaca_chat",
                                      "alpaca_chat.load",
                                      "alpaca_chat.load_qa",
                                      "alpaca_chat.load_concise",
                                      "alpaca_chat.load_camel_ai",
                                      "alpaca_chat.load_no_prompt",
                                      "alpaca_instruct",
                                      "alpaca_instruct.load",
                                      "alpaca_instruct.load_no_prompt",
                                      "alpaca_w_system",
                                      "alpaca_w_system.load",
                                      "alpaca_w_system.load_chat",
                                      "alpaca_w_system.load_instruct",
                                      "alpaca_w_system.load_open_orca",
                                      "alpaca_w_system.load_open_orca_chatml",
                                      "chat_template",
                                      "chat_template.default",
                                      "completion",
                                      "completion.load",
                                      "context_qa",
                                      "context_qa.load_404",
                                      "context_qa.load_v2",
                                      "creative_acr.load_answer",
                                      "creative_acr.load_critique",
                                      "creative_acr.load_revise",
                                      "messages.chat",
                                      "metharme",
                                      "metharme.load",
                                      "orcamini",
                                      "pygmalion",
                                      "reflection",
                                      "reflection:instruct",
                                      "concisechoice",
                                      "concisechoice:chat",
                                      "explainchoice",
                                      "explainchoice:chat",
                                      "gpteacher",
                                      "gpteacher:chat",
                                      "input_output",
                                      "jeopardy",
                                      "jeopardy:instruct",
                                      "oasst",
                                      "oasst:chat",
                                      "summarizetldr",
                                      "summarizetldr:chat",
                                      "",
                                      "~",
                                      "{format: 'Q: {instruction}'}"};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    assert_ok(parse_type(types[i], ""));
    assert_ok(recipe_check_trainable(&recipe));
    assert_int_equal(recipe.remark_count, 0);
  }
}

static void types_that_do_not_work_validate_and_train_says_why(void **state) {
  (void)state;
  static const char *const types[][2] = {{"llama2_chat", "Llama 2's vocabulary"},
                                         {"llama2_chat.load", "use type: chat_template"},
                                         {"reflection:chat", "the corrected reply"},
                                         {"stepwise_supervised", "process reward model"}};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    assert_ok(parse_type(types[i][0], ""));
    assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "r.yml:9:28: datasets.0.type: the type ", types[i][0], types[i][1]);
  }
}

static void types_of_preference_training_validate_with_rl_and_are_noticed_without(void **state) {
  (void)state;
  for (int i = 0; preference_type_words[i]; i++) {
    assert_ok(parse_type(preference_type_words[i], "rl: dpo\n"));
    bool says_nothing = text_starts_with(preference_type_words[i], "user_defined");
    assert_int_equal(recipe.remark_count, says_nothing);
    if (says_nothing) assert_non_null(strstr(recipe.remarks[0].message, "as a mapping"));
    assert_ok(parse_type(preference_type_words[i], ""));
    assert_int_equal(recipe.remark_count, 1);
    assert_non_null(strstr(recipe.remarks[0].message, "set rl: dpo"));
    assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "datasets.0.type", "not built yet");
  }
  assert_ok(parse_type("alpaca", "rl: kto\n"));
  assert_int_equal(recipe.remark_count, 1);
  assert_non_null(strstr(recipe.remarks[0].message, "alpaca has no pairs for rl: kto"));
}

// What `train` says of a type beside what it says of `rl` itself.
static void check_fit(const char *type, const char *rl, const char *reason) {
  char *top = memory_format("rl: %s\n", rl);
  assert_ok(parse_type(type, top));
  Status status = recipe_check_trainable(&recipe);
  const char *told = status == STATUS_OK ? NULL : strstr(status_message(), "datasets.0.type");
  if (reason) {
    assert_non_null(told);
    assert_non_null(strstr(told, reason));
  } else {
    assert_null(told);
  }
  free(top);
}

static void types_of_preference_training_go_with_their_methods(void **state) {
  (void)state;
  static const char *const paired[] = {"dpo", "ipo", "simpo", "orpo"};
  for (int m = 0; m < 4; m++)
    for (int i = 0; pair_type_words[i]; i++)
      check_fit(pair_type_words[i], paired[m], text_starts_with(pair_type_words[i], "user_defined") ? "as a mapping" : NULL);
  for (int i = 0; preference_type_words[i]; i++) {
    const char *type = preference_type_words[i];
    bool goes = word_is_in(kto_type_words, type);
    check_fit(type, "kto",
              text_starts_with(type, "user_defined") ? "as a mapping"
              : goes                                 ? NULL
                                                     : "does not go with rl: kto; there are chat_template,");
  }
  for (int i = 0; kto_type_words[i]; i++) assert_true(word_is_in(dataset_type_words, kto_type_words[i]));
  check_fit("chatml.icr", "kto", "chatml.argilla");
  check_fit("alpaca", "dpo", "does not go with rl: dpo; there are chat_template,");
  check_fit("", "dpo", NULL);
  check_fit("{field_prompt: q}", "orpo", NULL);
}

static void types_that_nobody_has_are_refused(void **state) {
  (void)state;
  static const char *const types[][2] = {
      {"alpacca", "alpaca"},           {"chat-template", "chat_template"}, {"alpaca:chatt", "alpaca:"},
      {"input_ouput", "input_output"}, {"chatml.intell", "chatml.intel"},  {"completion:text", "completion"},
      {"[alpaca]", "one word"},        {"gpteachr", "gpteacher"}};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
    assert_fails(STATUS_USAGE, parse_type(types[i][0], ""), "r.yml:9:34: datasets.0.type: ", types[i][1]);
}

// --- what train cannot do yet ---

static void check_pending(const SchemaKey *row, const char *key) {
  if (row->fate != KEY_PENDING) return;
  char *text = memory_format("%s%s%s: 2\n", HEAD, DATA, key), *place = memory_format("r.yml:10:1: %s: ", key);
  assert_ok(parse(text));
  assert_int_equal(recipe.remark_count, 0);
  assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), place, "not built yet");
  free(text);
  free(place);
}

static void keys_of_methods_that_are_not_built_validate_and_train_names_them(void **state) {
  (void)state;
  each_key(&schema_others, check_pending);
  assert_ok(parse(HEAD DATA "mora: {mora_rank: 4}\n"));
  assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "mora", "not built yet");
  static const char *const adapters[] = {"mora", "llama-adapter"};
  for (int i = 0; i < 2; i++) {
    char *text = memory_format("%s%sadapter: %s\n", HEAD, DATA, adapters[i]);
    assert_ok(parse(text));
    assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "r.yml:10:1: adapter: ", adapters[i], "use lora or qlora");
    free(text);
  }
}

static void every_optimiser_and_schedule_validates_and_train_names_those_that_are_not_built(void **state) {
  (void)state;
  int trained = 0;
  for (int i = 0; optimizer_words[i]; i++) {
    char *text = memory_format("%s%soptimizer: %s\n", HEAD, DATA, optimizer_words[i]);
    assert_ok(parse(text));
    const char *reason = optimizer_refusal(optimizer_words[i]);
    if (reason) assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "r.yml:10:1: optimizer: ", optimizer_words[i], reason, "use ");
    else trained += recipe_check_trainable(&recipe) == STATUS_OK;
    free(text);
  }
  assert_true(trained >= 38);
  for (int i = 0; scheduler_words[i]; i++) {
    char *text = memory_format("%s%slr_scheduler: %s\n", HEAD, DATA, scheduler_words[i]);
    assert_ok(parse(text));
    if (strcmp(scheduler_words[i], "reduce_lr_on_plateau") != 0) assert_ok(recipe_check_trainable(&recipe));
    else assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "r.yml:10:1: lr_scheduler: ", "waits for evaluations", "use cosine");
    free(text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(null_counts_as_absent_for_every_key),
      cmocka_unit_test(idle_and_dead_keys_get_one_notice_and_refused_ones_a_problem_while_they_are_on),
      cmocka_unit_test(every_spelling_of_a_value_is_read),
      cmocka_unit_test(a_value_of_another_form_is_refused),
      cmocka_unit_test(an_empty_text_and_false_say_nothing_where_no_truth_is_asked_for),
      cmocka_unit_test(a_pretraining_dataset_is_read_whole),
      cmocka_unit_test(forms_of_special_values_are_read),
      cmocka_unit_test(a_key_that_is_there_twice_is_noticed_wherever_it_stands),
      cmocka_unit_test(types_that_are_built_validate_and_train),
      cmocka_unit_test(types_that_do_not_work_validate_and_train_says_why),
      cmocka_unit_test(types_of_preference_training_validate_with_rl_and_are_noticed_without),
      cmocka_unit_test(types_of_preference_training_go_with_their_methods),
      cmocka_unit_test(types_that_nobody_has_are_refused),
      cmocka_unit_test(keys_of_methods_that_are_not_built_validate_and_train_names_them),
      cmocka_unit_test(every_optimiser_and_schedule_validates_and_train_names_those_that_are_not_built),
  };
  return cmocka_run_group_tests(tests, recipe_set_up, recipe_tear_down);
}
