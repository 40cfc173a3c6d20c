// Texts under a grammar: GBNF and what is wrong with it, masks beside a token-by-token check, and the time that masks take.
#include "core/thread.h"
#include "runtime/constraint.h"
#include "tests/support/constraint.h"
#include "tests/support/test.h"

static Tokenizer *tokenizer;

static int start(void **state) {
  (void)state;
  tokenizer = constraint_test_tokenizer();
  return 0;
}

static int end(void **state) {
  (void)state;
  tokenizer_free(tokenizer);
  return 0;
}

static const char json_grammar[] =
    "root   ::= object\n"
    "value  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n"
    "array  ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
    "string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}))* \"\\\"\" ws\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

typedef struct TextCase {
  const char *grammar, *text;
  bool is_taken;
} TextCase;

static const TextCase text_cases[] = {
    {"root ::= \"abc\"", "abc", true},
    {"root ::= \"abc\"", "ab", false},
    {"root ::= \"abc\"", "abcd", false},
    {"root ::= \"a\" | \"b\"", "b", true},
    {"root ::= (\"a\" | \"b\" \"c\")+ \"d\"?", "abcad", true},
    {"root ::= (\"a\" | \"b\" \"c\")+ \"d\"?", "d", false},
    {"root ::= \"a\"{3}", "aaa", true},
    {"root ::= \"a\"{3}", "aa", false},
    {"root ::= \"ab\"{2,}", "ababab", true},
    {"root ::= \"ab\"{2,}", "ab", false},
    {"root ::= \"a\"{1,2} \"b\"*", "aa", true},
    {"root ::= \"a\"{1,2} \"b\"*", "aaa", false},
    {"root ::= \"a\"{0}", "", true},
    {"root ::= \"a\"{0}", "a", false},
    {"root ::= [a-cx]", "x", true},
    {"root ::= [a-cx]", "d", false},
    {"root ::= [^a-c]", "\xc3\xa9", true},
    {"root ::= [^a-c]", "b", false},
    {"root ::= [\xc3\xa9-\xc3\xab]+", "\xc3\xaa\xc3\xa9", true},
    {"root ::= [\\u00e9]", "\xc3\xa9", true},
    {"root ::= \"\\xe9\"", "\xc3\xa9", true},
    {"root ::= \"\\U0001F600\"", "\xf0\x9f\x98\x80", true},
    {"root ::= [\\U00010000-\\U0010ffff]", "\xf0\x9f\x98\x80", true},
    {"root ::= [\\U00010000-\\U0010ffff]", "\xef\xbf\xbd", false},
    {"root ::= . .", "\xe2\x82\xac\n", true},
    {"root ::= . .", "\xed\xa0\x80", false},
    {"root ::= .*", "\xc0\x80", false},
    {"root ::= \"\\t\\r\\n\\\\\\\"\\[\\]\"", "\t\r\n\\\"[]", true},
    {"root ::= [a\\]\\-]+", "]-a", true},
    {"root ::= [-a]+", "-a", true},
    {"# a comment\nroot ::= # another\n  \"a\" # and one\nother ::= \"b\"", "a", true},
    {"root ::= (\n  \"a\" |\n  \"b\"\n)\n", "b", true},
    {"root ::= \"a\"\n  | \"b\"\n", "b", true},
    {"root ::= item (\",\" item)*\nitem ::= [0-9]+", "1,22,3", true},
    {"root ::= item (\",\" item)*\nitem ::= [0-9]+", "1,,3", false},
    {"root ::= \"(\" root \")\" | \"x\"", "(((x)))", true},
    {"root ::= \"(\" root \")\" | \"x\"", "(((x))", false},
    {"root ::= empty root2 empty\nempty ::= \"\"\nroot2 ::= \"a\" root2 | empty", "aaa", true},
    {"root ::= s \"!\"\ns ::= (\"a\" s)? t?\nt ::= \"b\" t | \"c\"", "aabbc!", true},
    {"root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"d\"", "aaaaaaaaaaaaaaaaaaaaaaaadbcbcbcbcbcbcbcbcbcbcbcbc", true},
    {"root ::= s\ns ::= \"a\" s s | \"b\"", "aaabbbb", true},
    {"root ::= s\ns ::= \"a\" s s | \"b\"", "aaabbb", false},
    {"root ::= a b\na ::= \"x\"*\nb ::= \"x\" b \"y\" | \"\"", "xxxxyy", true},
    {json_grammar, "{\"a\": [1, -2.5e3, \"\\u00e9\\n\", {}], \"b\": null}", true},
    {json_grammar, "{\"a\": [1, -2.5e3, \"\\u00eg\"]}", false},
    {json_grammar, "{\"a\"  : 1}", false},
    {json_grammar, "[]", false},
};

static void texts_are_taken_or_not(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof text_cases / sizeof *text_cases; i++) {
    Grammar *grammar;
    assert_ok(grammar_parse(&grammar, text_cases[i].grammar));
    if (constraint_takes(grammar, tokenizer, text_cases[i].text) != text_cases[i].is_taken)
      fail_msg("%s: \"%s\" should%s be taken", text_cases[i].grammar, text_cases[i].text, text_cases[i].is_taken ? "" : " not");
    grammar_free(grammar);
  }
}

static const struct {
  const char *grammar, *words[2];
} wrong_grammars[] = {
    {"", {"root", "there is no rule"}},
    {"a ::= \"b\"", {"there is no rule \"root\""}},
    {"root ::= a\n", {"grammar:1:10:", "no rule \"a\""}},
    {"root ::= \"a\"\nroot ::= \"b\"", {"grammar:2:1:", "\"root\" is there already"}},
    {"root = \"a\"", {"grammar:1:6:", "'::='"}},
    {"root ::= \"a", {"grammar:1:10:", "no closing"}},
    {"root ::= [a", {"grammar:1:10:", "no closing"}},
    {"root ::= (\"a\"", {"grammar:1:10:", "not closed"}},
    {"root ::= \"a\")", {"grammar:1:13:", "no part"}},
    {"root ::= [b-a]", {"grammar:1:11:", "ends before"}},
    {"root ::= \"\\q\"", {"grammar:1:11:", "no such escape"}},
    {"root ::= \"\\u12\"", {"grammar:1:15:", "hexadecimal"}},
    {"root ::= \"\\ud800\"", {"grammar:1:11:", "no such character"}},
    {"root ::= \"\\U00110000\"", {"grammar:1:11:", "no such character"}},
    {"root ::= \"\xff\"", {"grammar:1:11:", "UTF-8"}},
    {"root ::= \"\xc3\xa9\" ?x{", {"grammar:1:17:", "number"}},
    {"root ::= \"a\"{3,2}", {"grammar:1:13:", "less than"}},
    {"root ::= \"a\"{9999999}", {"grammar:1:14:", "100000"}},
    {"root ::= \"a\"{1", {"grammar:1:15:", "'}'"}},
    {"root ::= <[12]>", {"grammar:1:10:", "tokens"}},
    {"root ::= *", {"grammar:1:10:", "no part"}},
    {"root ::= root \"a\" | \"b\"", {"\"root\"", "left recursion"}},
    {"root ::= \"x\" a\na ::= b \"1\"\nb ::= \"\" a | \"c\"", {"left recursion"}},
    {"root ::= e root \"a\" | \"b\"\ne ::= \"q\"?", {"left recursion"}},
    {"root ::= \"a\" root", {"no text matches"}},
    {"root ::= []", {"no text matches"}},
    {"root ::= [^a]{100000}", {"too large"}},
    {"root ::= ([ab]* \"a\" [ab]{40}) \"c\"", {"too large"}},
};

static void wrong_grammars_are_refused_with_their_place(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof wrong_grammars / sizeof *wrong_grammars; i++) {
    Grammar *grammar = NULL;
    print_message("%s\n", wrong_grammars[i].grammar);
    assert_fails(STATUS_BAD_INPUT, grammar_parse(&grammar, wrong_grammars[i].grammar), wrong_grammars[i].words[0],
                 wrong_grammars[i].words[1]);
    assert_null(grammar);
  }
  Buffer deep = {0};
  buffer_append_string(&deep, "root ::= ");
  for (int i = 0; i < 100000; i++) buffer_append_string(&deep, "(");
  Grammar *grammar = NULL;
  assert_fails(STATUS_BAD_INPUT, grammar_parse(&grammar, deep.data), "nested too deeply");
  deep.length = 0;
  buffer_append_string(&deep, "root ::= r0");
  for (int i = 0; i < 100000; i++) buffer_format(&deep, "\nr%d ::= r%d", i, i + 1);
  buffer_append_string(&deep, "\nr100000 ::= \"a\"");
  assert_fails(STATUS_BAD_INPUT, grammar_parse(&grammar, deep.data), "too long a chain");
  buffer_release(&deep);
}

// The mask of a place, token by token: what accepting it by a constraint that has read the same tokens says.
static void assert_mask_is_what_is_accepted(const Grammar *grammar, const ConstraintVocabulary *vocabulary, const Tokenizer *words,
                                            const TokenList *ids, int64_t count, int64_t stride) {
  Constraint *constraint, *other;
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  for (int64_t i = 0; i < count; i++) assert_ok(constraint_accept(constraint, ids->ids[i]));
  const uint64_t *mask = constraint_mask(constraint);
  assert_ok(constraint_new(&other, grammar, vocabulary));
  for (int64_t i = 0; i < count; i++) assert_ok(constraint_accept(other, ids->ids[i]));
  for (int64_t id = 0; id < tokenizer_size(words); id += stride) {
    bool is_allowed = mask[id / 64] >> (id % 64) & 1, is_accepted = constraint_accept(other, (int32_t)id) == STATUS_OK;
    if (is_allowed != is_accepted) fail_msg("after %d tokens: token %d is %sin the mask", (int)count, (int)id, is_allowed ? "" : "not ");
    if (!is_accepted) continue;
    constraint_free(other);
    assert_ok(constraint_new(&other, grammar, vocabulary));
    for (int64_t i = 0; i < count; i++) assert_ok(constraint_accept(other, ids->ids[i]));
  }
  constraint_free(other);
  constraint_free(constraint);
}

static void compare_masks(const Tokenizer *own, int walks, int64_t stride) {
  static const char *const grammars[] = {
      json_grammar,
      "root ::= (word (\" \" word)* [.!?] \"\\n\")+\nword ::= [a-z]+ | \"\xc3\xa9\" | [0-9]{1,3}",
      "root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"[\" s \"]\" s | \"{\" \"\\\"\" s \"\\\"\" \"}\" | \"d\" | \"\"",
      "root ::= ([^\\n]{0,30} \"\\n\"){1,4}",
      "root ::= list\nlist ::= \"[\" (item (\",\" item){0,3})? \"]\"\nitem ::= list | str | [0-9]+\nstr ::= \"\\\"\" [^\"]{0,8} \"\\\"\"",
  };
  ConstraintVocabulary *vocabulary;
  Words words;
  Rng rng = rng_new(17, RNG_STREAM_TEST);
  assert_ok(constraint_vocabulary_new(&vocabulary, own, tokenizer_size(own)));
  words_new(&words, own);
  for (size_t g = 0; g < sizeof grammars / sizeof *grammars; g++) {
    Grammar *grammar;
    assert_ok(grammar_parse(&grammar, grammars[g]));
    for (int walk = 0; walk < walks; walk++) {
      Constraint *constraint;
      Buffer text = {0};
      TokenList ids = {0};
      assert_ok(constraint_new(&constraint, grammar, vocabulary));
      constraint_walk(&text, &ids, constraint, &words, &rng, (WalkOptions){.steps = 40});
      for (int64_t count = 0; count <= ids.count; count += 1 + (int64_t)rng_below(&rng, 4))
        assert_mask_is_what_is_accepted(grammar, vocabulary, own, &ids, count, stride);
      token_list_release(&ids);
      buffer_release(&text);
      constraint_free(constraint);
    }
    grammar_free(grammar);
  }
  words_release(&words);
  constraint_vocabulary_free(vocabulary);
}

static void masks_are_what_is_accepted_token_by_token(void **state) {
  (void)state;
  compare_masks(tokenizer, 6, 1);
}

static void masks_of_a_real_vocabulary_are_what_is_accepted(void **state) {
  (void)state;
  Tokenizer *tiny;
  assert_ok(tokenizer_open(&tiny, TESTS_DIR "/data/tiny.gguf"));
  compare_masks(tiny, 2, 1);
  tokenizer_free(tiny);
}

typedef struct ThreadWalks {
  const Grammar *grammar;
  const ConstraintVocabulary *vocabulary;
  const Words *words;
  Buffer texts[64];
} ThreadWalks;

static void walk_in_thread(void *argument, int64_t task, int thread) {
  ThreadWalks *walks = argument;
  Constraint *constraint;
  Rng rng = rng_new((uint64_t)task, RNG_STREAM_TEST);
  (void)thread;
  if (constraint_new(&constraint, walks->grammar, walks->vocabulary) != STATUS_OK) return;
  constraint_walk(&walks->texts[task], NULL, constraint, walks->words, &rng, (WalkOptions){.steps = 300});
  constraint_free(constraint);
}

// One grammar, whose masks all threads ask for and add to.
static void texts_in_several_threads_are_those_of_one(void **state) {
  (void)state;
  enum { TASKS = 64 };
  ThreadWalks *walks[2];
  ConstraintVocabulary *vocabulary;
  Grammar *grammars[2];
  Words words;
  words_new(&words, tokenizer);
  assert_ok(constraint_vocabulary_new(&vocabulary, tokenizer, words.count));
  for (int i = 0; i < 2; i++) {
    ThreadPool *pool = pool_new(i ? 4 : 1);
    assert_ok(grammar_parse(&grammars[i], json_grammar));
    walks[i] = memory_new(1, sizeof **walks);
    walks[i]->grammar = grammars[i];
    walks[i]->vocabulary = vocabulary;
    walks[i]->words = &words;
    pool_run(pool, TASKS, walk_in_thread, walks[i]);
    pool_free(pool);
  }
  for (int i = 0; i < TASKS; i++) {
    assert_true(walks[0]->texts[i].length > 0);
    assert_string_equal(walks[0]->texts[i].data, walks[1]->texts[i].data);
    buffer_release(&walks[0]->texts[i]);
    buffer_release(&walks[1]->texts[i]);
  }
  for (int i = 0; i < 2; i++) grammar_free(grammars[i]), free(walks[i]);
  constraint_vocabulary_free(vocabulary);
  words_release(&words);
}

static void control_tokens_and_ends_are_where_they_belong(void **state) {
  (void)state;
  ConstraintVocabulary *vocabulary;
  Constraint *constraint;
  Grammar *grammar;
  Tokenizer *tiny;
  assert_ok(tokenizer_open(&tiny, TESTS_DIR "/data/tiny.gguf"));
  int64_t size = tokenizer_size(tiny);
  assert_ok(constraint_vocabulary_new(&vocabulary, tiny, size + 100));  // rows that no token has
  assert_ok(grammar_parse(&grammar, "root ::= .{0,1}"));
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  int32_t control = tokenizer_find(tiny, "<|im_start|>"), last = tokenizer_find(tiny, "<|im_end|>"), letter = tokenizer_find(tiny, "a");
  assert_true(tokenizer_is_special(tiny, control) && !tokenizer_is_end(tiny, control) && tokenizer_is_end(tiny, last));
  const uint64_t *mask = constraint_mask(constraint);
  assert_false(mask[control / 64] >> (control % 64) & 1);
  assert_true(mask[last / 64] >> (last % 64) & 1);  // the empty text is complete
  for (int64_t id = size; id < size + 100; id++) assert_false(mask[id / 64] >> (id % 64) & 1);
  assert_fails(STATUS_FAILED, constraint_accept(constraint, control), "no part of the text");
  assert_fails(STATUS_FAILED, constraint_accept(constraint, (int32_t)size + 5), "no part");
  assert_fails(STATUS_FAILED, constraint_accept(constraint, -1), "no token -1");
  assert_ok(constraint_accept(constraint, letter));
  mask = constraint_mask(constraint);  // nothing but an end
  for (int64_t id = 0; id < size; id++) assert_int_equal(mask[id / 64] >> (id % 64) & 1, tokenizer_is_end(tiny, (int32_t)id));
  assert_fails(STATUS_FAILED, constraint_accept(constraint, letter), "does not allow");
  assert_true(constraint_is_complete(constraint));
  assert_ok(constraint_accept(constraint, last));
  assert_fails(STATUS_FAILED, constraint_accept(constraint, letter), "no part");
  constraint_free(constraint);
  grammar_free(grammar);
  assert_ok(grammar_parse(&grammar, "root ::= \"ab\""));
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  assert_false(constraint_is_complete(constraint));
  assert_fails(STATUS_FAILED, constraint_accept(constraint, last), "cannot end");
  constraint_free(constraint);
  grammar_free(grammar);
  constraint_vocabulary_free(vocabulary);
  tokenizer_free(tiny);
}

// Each more of this text can be read in more ways: it is refused before memory is full.
static void ambiguity_is_bounded(void **state) {
  (void)state;
  ConstraintVocabulary *vocabulary;
  Constraint *constraint;
  Grammar *grammar;
  Status status = STATUS_OK;
  int64_t steps = 0;
  int32_t a = tokenizer_find(tokenizer, "a");
  assert_ok(constraint_vocabulary_new(&vocabulary, tokenizer, tokenizer_size(tokenizer)));
  assert_ok(grammar_parse(&grammar, "root ::= s\ns ::= \"a\" s \"b\" | \"a\" s | \"a\" s \"c\" | \"\""));
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  for (; steps < 10000 && status == STATUS_OK; steps++) status = constraint_accept(constraint, a);
  assert_true(steps > 300);
  assert_int_equal(status, STATUS_FAILED);
  assert_non_null(strstr(status_message(), "too ambiguous"));
  constraint_free(constraint);
  grammar_free(grammar);
  constraint_vocabulary_free(vocabulary);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(texts_are_taken_or_not),
      cmocka_unit_test(wrong_grammars_are_refused_with_their_place),
      cmocka_unit_test(masks_are_what_is_accepted_token_by_token),
      cmocka_unit_test(masks_of_a_real_vocabulary_are_what_is_accepted),
      cmocka_unit_test(texts_in_several_threads_are_those_of_one),
      cmocka_unit_test(control_tokens_and_ends_are_where_they_belong),
      cmocka_unit_test(ambiguity_is_bounded),
  };
  return cmocka_run_group_tests(tests, start, end);
}
