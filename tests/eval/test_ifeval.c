// IFEval's rules: by hand at their edges, and beside the verdicts that the authors' program gave over a full set of responses.
#include "eval/ifeval.h"

#include "data/source/dataset_file.h"
#include "tests/support/test.h"

static Following strict_of(const char *instruction, const char *arguments, const char *response) {
  json_t *object = json_loads(arguments, 0, NULL);
  Following strict, loose;
  assert_non_null(object);
  assert_ok(ifeval_check(&strict, &loose, instruction, object, response, strlen(response)));
  if (strict == FOLLOWING_YES) assert_int_equal(loose, FOLLOWING_YES);  // the response itself is one of the variants
  json_decref(object);
  return strict;
}

static Following loose_of(const char *instruction, const char *arguments, const char *response) {
  json_t *object = json_loads(arguments, 0, NULL);
  Following strict, loose;
  assert_non_null(object);
  assert_ok(ifeval_check(&strict, &loose, instruction, object, response, strlen(response)));
  json_decref(object);
  return loose;
}

#define FOLLOWS(...) assert_int_equal(strict_of(__VA_ARGS__), FOLLOWING_YES)
#define FAILS(...) assert_int_equal(strict_of(__VA_ARGS__), FOLLOWING_NO)

static void words_are_counted_as_python_sees_them(void **state) {
  (void)state;
  const char *three = "{\"relation\": \"at least\", \"num_words\": 3}", *below = "{\"relation\": \"less than\", \"num_words\": 3}";
  FOLLOWS("length_constraints:number_words", three, "\xC3\xA9t\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87 x2_y");
  FAILS("length_constraints:number_words", three, "two words -- !");
  FOLLOWS("length_constraints:number_words", below, "two words");
  FAILS("length_constraints:number_words", below, "now three words");
  FOLLOWS("keywords:letter_frequency", "{\"letter\": \"K\", \"let_frequency\": 3, \"let_relation\": \"at least\"}", "kK \xE2\x84\xAA");
  FOLLOWS("keywords:forbidden_words", "{\"forbidden_words\": [\"rock\"]}",
          "rocket rocks r\xC3\xB6"
          "ck");
  FAILS("keywords:forbidden_words", "{\"forbidden_words\": [\"rock\"]}", "the ROCK.");
  FAILS("keywords:forbidden_words", "{\"forbidden_words\": [\"rock\"]}", "\xC2\xBBrock\xC2\xAB");
  FOLLOWS("keywords:forbidden_words", "{\"forbidden_words\": [\"rock\"]}", "\xC3\xA9rock");
  FOLLOWS("keywords:existence", "{\"keywords\": [\"a.c\", \"\xC3\x89t\"]}", "ABC \xC3\xA9t\xC3\xA9");
  FAILS("keywords:existence", "{\"keywords\": [\"one\", \"two\"]}", "one");
  FOLLOWS("keywords:frequency", "{\"keyword\": \" oh \", \"frequency\": 2, \"relation\": \"at least\"}", "Oh, oh!");
}

static void forms_are_found_as_the_original_finds_them(void **state) {
  (void)state;
  FOLLOWS("length_constraints:number_paragraphs", "{\"num_paragraphs\": 2}", "one\n***\ntwo\n***");
  FAILS("length_constraints:number_paragraphs", "{\"num_paragraphs\": 2}", "one\n***\n\n***\ntwo");
  const char *second = "{\"num_paragraphs\": 2, \"nth_paragraph\": 2, \"first_word\": \"Then\"}";
  FOLLOWS("length_constraints:nth_paragraph_first_word", second, "One.\n\n\"then, two");
  FAILS("length_constraints:nth_paragraph_first_word", second, "One.\n\nThen two.\n\nThree.");
  FAILS("length_constraints:nth_paragraph_first_word", second, "One.");
  FOLLOWS("detectable_content:number_placeholders", "{\"num_placeholders\": 2}", "[a] and [b c]");
  FAILS("detectable_content:number_placeholders", "{\"num_placeholders\": 2}", "[a\nb] [c]");
  FOLLOWS("detectable_content:postscript", "{\"postscript_marker\": \"P.P.S\"}", "So.\np. p.s more");
  FAILS("detectable_content:postscript", "{\"postscript_marker\": \"P.S.\"}", "So.\nPS: more");
  FOLLOWS("detectable_format:number_bullet_lists", "{\"num_bullets\": 3}", "* one\n  * two\n- three\n**bold**");
  FOLLOWS("detectable_format:number_highlighted_sections", "{\"num_highlights\": 2}", "*one* and *two*");
  FAILS("detectable_format:number_highlighted_sections", "{\"num_highlights\": 1}", "* *");
  FOLLOWS("detectable_format:multiple_sections", "{\"section_spliter\": \"Part\", \"num_sections\": 2}", "Part 1 a Part2 b");
  FOLLOWS("detectable_format:json_format", "{}", "```json\n{\"a\": [1, 2.5, null]}\n```");
  FAILS("detectable_format:json_format", "{}", "Here it is: {}");
  FOLLOWS("detectable_format:title", "{}", "<<A day>>\nText");
  FAILS("detectable_format:title", "{}", "<< >>");
  FOLLOWS("combination:two_responses", "{}", "one******two");
  FAILS("combination:two_responses", "{}", "one****** one");
  FAILS("combination:two_responses", "{}", "one************two");
  FOLLOWS("combination:repeat_prompt", "{\"prompt_to_repeat\": \" Say IT \"}", "say it. It.");
  FOLLOWS("startend:end_checker", "{\"end_phrase\": \"The END.\"}", "\"... the end.\" ");
  FOLLOWS("startend:quotation", "{}", " \"all\"\n");
  FAILS("startend:quotation", "{}", "\"");
  FAILS("punctuation:no_comma", "{}", "a, b");
  FOLLOWS("detectable_format:constrained_response", "{}", "Well. My answer is maybe.");
}

static void a_blank_response_follows_nothing(void **state) {
  (void)state;
  FAILS("punctuation:no_comma", "{}", " \n\xC2\xA0");
  assert_int_equal(loose_of("punctuation:no_comma", "{}", ""), FOLLOWING_NO);
}

static void a_loose_verdict_may_leave_out_lines_and_stars(void **state) {
  (void)state;
  const char *quotation = "startend:quotation", *end = "startend:end_checker";
  assert_int_equal(loose_of(quotation, "{}", "Sure:\n\"all\""), FOLLOWING_YES);
  assert_int_equal(loose_of(quotation, "{}", "\"all\"\nThere."), FOLLOWING_YES);
  assert_int_equal(loose_of(quotation, "{}", "Sure:\n*\"all\"*\nThere."), FOLLOWING_YES);
  assert_int_equal(loose_of(quotation, "{}", "Sure:\nand\n\"all\""), FOLLOWING_NO);
  assert_int_equal(loose_of(end, "{\"end_phrase\": \"bye\"}", "so\n**bye**"), FOLLOWING_YES);
  FAILS(quotation, "{}", "Sure:\n\"all\"");
}

static void what_needs_a_language_tool_is_not_scored(void **state) {
  (void)state;
  assert_int_equal(strict_of("language:response_language", "{\"language\": \"kn\"}", "text"), FOLLOWING_NOT_SCORED);
  assert_true(ifeval_is_known("change_case:english_capital") && !ifeval_is_scored("change_case:english_capital"));
  assert_false(ifeval_is_known("keywords:key_sentences"));
}

static void wrong_arguments_are_refused_by_name(void **state) {
  (void)state;
  static const struct {
    const char *instruction, *arguments, *word;
  } cases[] = {
      {"length_constraints:number_words", "{\"relation\": \"at most\", \"num_words\": 3}", "relation"},
      {"length_constraints:number_words", "{\"relation\": \"at least\"}", "num_words"},
      {"length_constraints:number_words", "{\"relation\": \"at least\", \"num_words\": -1}", "num_words"},
      {"keywords:existence", "{\"keywords\": \"one\"}", "keywords"},
      {"keywords:existence", "{\"keywords\": [\"(\"]}", "regular expression"},
      {"startend:end_checker", "{}", "end_phrase"},
      {"keywords:sonnets", "{}", "not known"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    json_t *arguments = json_loads(cases[i].arguments, 0, NULL);
    Following strict, loose;
    assert_fails(STATUS_BAD_INPUT, ifeval_check(&strict, &loose, cases[i].instruction, arguments, "a", 1), cases[i].instruction,
                 cases[i].word);
    json_decref(arguments);
  }
}

// ---- Beside the verdicts of the original ----

typedef struct Tally {
  int64_t compared, not_scored, drawn;
} Tally;

// A "letter" that is none ("#") is one where the original draws a letter by chance, each time anew, and counts that.
static bool is_drawn(const char *name, const json_t *arguments) {
  const char *letter = json_string_value(json_object_get(arguments, "letter"));
  return strcmp(name, "keywords:letter_frequency") == 0 && letter && (strlen(letter) != 1 || (*letter | 32) < 'a' || (*letter | 32) > 'z');
}

static void compare_row(Tally *tally, const json_t *input, const json_t *verdicts, bool is_loose) {
  const json_t *names = json_object_get(input, "instruction_id_list"), *response = json_object_get(verdicts, "response");
  assert_string_equal(json_string_value(json_object_get(input, "prompt")), json_string_value(json_object_get(verdicts, "prompt")));
  for (size_t i = 0; i < json_array_size(names); i++) {
    const char *name = json_string_value(json_array_get(names, i));
    const json_t *arguments = json_array_get(json_object_get(input, "kwargs"), i);
    Following strict, loose;
    assert_ok(ifeval_check(&strict, &loose, name, arguments, json_string_value(response), json_string_length(response)));
    Following found = is_loose ? loose : strict;
    bool expected = json_is_true(json_array_get(json_object_get(verdicts, "follow_instruction_list"), i));
    if (found == FOLLOWING_NOT_SCORED) {
      tally->not_scored++;
      continue;
    }
    if (is_drawn(name, arguments)) {
      tally->drawn++;
      continue;
    }
    tally->compared++;
    if ((found == FOLLOWING_YES) != expected)
      fail_msg("%s of the row %lld: %d, expected %d", name, (long long)json_integer_value(json_object_get(input, "key")), found, expected);
  }
}

static void compare_file(const char *inputs_path, const char *verdicts_path, bool is_loose) {
  DatasetFile inputs, verdicts;
  Tally tally = {0};
  assert_ok(dataset_file_open(&inputs, inputs_path, ROWS_JSON));
  assert_ok(dataset_file_open(&verdicts, verdicts_path, ROWS_JSON));
  assert_int_equal(inputs.count, verdicts.count);
  for (int64_t i = 0; i < inputs.count; i++) {
    json_t *input, *verdict;
    assert_ok(dataset_file_row(&input, &inputs, i));
    assert_ok(dataset_file_row(&verdict, &verdicts, i));
    compare_row(&tally, input, verdict, is_loose);
    json_decref(input);
    json_decref(verdict);
  }
  assert_int_equal(tally.compared, 658);
  assert_int_equal(tally.drawn, 2);
  assert_int_equal(tally.not_scored, 172);
  dataset_file_release(&inputs);
  dataset_file_release(&verdicts);
}

static void verdicts_agree_with_the_original_instruction_by_instruction(void **state) {
  (void)state;
  char *inputs = shared_path("data/eval/ifeval/input_data.jsonl");
  char *strict = shared_path("data/eval/ifeval/gpt4_strict.jsonl"), *loose = shared_path("data/eval/ifeval/gpt4_loose.jsonl");
  if (!inputs || !strict || !loose) skip_test("IFEval's responses and verdicts are not beside the checkout");
  compare_file(inputs, strict, false);
  compare_file(inputs, loose, true);
  free(inputs);
  free(strict);
  free(loose);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(words_are_counted_as_python_sees_them),
      cmocka_unit_test(forms_are_found_as_the_original_finds_them),
      cmocka_unit_test(a_blank_response_follows_nothing),
      cmocka_unit_test(a_loose_verdict_may_leave_out_lines_and_stars),
      cmocka_unit_test(what_needs_a_language_tool_is_not_scored),
      cmocka_unit_test(wrong_arguments_are_refused_by_name),
      cmocka_unit_test(verdicts_agree_with_the_original_instruction_by_instruction),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
