// Grammars that requests share.
#include "server/grammars.h"
#include "tests/support/test.h"

static void the_same_text_is_the_same_grammar(void **state) {
  (void)state;
  Grammars grammars;
  Grammar *first, *again, *other, *gbnf;
  json_t *schema = json_pack("{s:s}", "type", "integer"), *like = json_pack("{s:s}", "type", "integer");
  grammars_new(&grammars);
  assert_ok(grammars_of_schema(&first, &grammars, schema));
  assert_ok(grammars_of_schema(&again, &grammars, like));
  assert_ptr_equal(again, first);
  assert_ok(grammars_of_schema(&other, &grammars, NULL));
  assert_ptr_not_equal(other, first);
  assert_ok(grammars_of_gbnf(&gbnf, &grammars, "root ::= \"a\""));
  assert_fails(STATUS_BAD_INPUT, grammars_of_gbnf(&again, &grammars, "root ::= ("), "1:");
  grammars_leave(&grammars, first);
  assert_ok(grammars_of_schema(&again, &grammars, schema));
  assert_ptr_equal(again, first);  // kept though nobody used it
  Grammar *used[] = {first, again, other, gbnf};
  for (int i = 1; i < 4; i++) grammars_leave(&grammars, used[i]);
  json_decref(schema);
  json_decref(like);
  grammars_free(&grammars);
}

// More at once than are kept: the others are their users' own, and go with them (leaks are for the sanitizer to find).
static void more_than_are_kept_are_each_their_own(void **state) {
  (void)state;
  enum { MORE = GRAMMARS_MOST + 3 };
  Grammars grammars;
  Grammar *all[MORE], *again;
  grammars_new(&grammars);
  for (int i = 0; i < MORE; i++) {
    char *text = memory_format("root ::= \"%d\"", i);
    assert_ok(grammars_of_gbnf(&all[i], &grammars, text));
    free(text);
  }
  assert_ok(grammars_of_gbnf(&again, &grammars, "root ::= \"66\""));
  assert_ptr_not_equal(again, all[66]);
  grammars_leave(&grammars, again);
  for (int i = 0; i < MORE; i++) grammars_leave(&grammars, all[i]);
  // By now there is room: the oldest goes.
  assert_ok(grammars_of_gbnf(&again, &grammars, "root ::= \"new\""));
  assert_ok(grammars_of_gbnf(&all[0], &grammars, "root ::= \"1\""));
  assert_ptr_equal(all[0], all[1]);
  grammars_leave(&grammars, again);
  grammars_leave(&grammars, all[0]);
  grammars_free(&grammars);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_same_text_is_the_same_grammar),
      cmocka_unit_test(more_than_are_kept_are_each_their_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
