// JSON schemas as constraints: what each keyword takes and refuses, and that whatever masks let through is JSON that the schema is valid
// for.
#include "core/file.h"
#include "core/log.h"
#include "runtime/constraint.h"
#include "tests/support/constraint.h"
#include "tests/support/json_schema.h"
#include "tests/support/test.h"

enum { SCHEMAS = 200, WALK_STEPS = 3000 };

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

static json_t *load(const char *text) {
  json_error_t error;
  json_t *value = json_loads(text, JSON_DECODE_ANY, &error);
  if (!value) fail_msg("%s: %s", text, error.text);
  return value;
}

typedef struct SchemaCase {
  const char *schema;
  const char *taken[6], *refused[8];  // texts
} SchemaCase;

static void check_case(const SchemaCase *one) {
  json_t *schema = load(one->schema);
  Grammar *grammar;
  assert_ok(grammar_from_schema(&grammar, schema));
  for (int i = 0; i < 6 && one->taken[i]; i++)
    if (!constraint_takes(grammar, tokenizer, one->taken[i])) fail_msg("%s should take %s", one->schema, one->taken[i]);
  for (int i = 0; i < 8 && one->refused[i]; i++)
    if (constraint_takes(grammar, tokenizer, one->refused[i])) fail_msg("%s should not take %s", one->schema, one->refused[i]);
  grammar_free(grammar);
  json_decref(schema);
}

static const SchemaCase value_cases[] = {
    {"{\"type\": \"boolean\"}", {"true", "false"}, {"null", "0", " true", "true "}},
    {"{\"type\": \"null\"}", {"null"}, {"false"}},
    {"{\"type\": \"integer\"}", {"0", "-7", "9007199254740993"}, {"-0", "01", "1.0", "1e3", "", "12345678901234567"}},
    {"{\"type\": \"number\"}", {"0", "-0.5", "1e-9", "2E+10", "1.25"}, {"1.", ".5", "01", "+1", "1e", "1e100"}},
    {"{\"type\": \"integer\", \"minimum\": 7, \"maximum\": 123}",
     {"7", "9", "10", "99", "100", "123"},
     {"6", "124", "0", "-9", "200", "1230", "07"}},
    {"{\"type\": \"integer\", \"exclusiveMinimum\": -12, \"maximum\": 3}",
     {"-11", "-1", "0", "3", "-9"},
     {"-12", "4", "-13", "-20", "-0", "30"}},
    {"{\"type\": \"integer\", \"maximum\": -5}", {"-5", "-6", "-10", "-100"}, {"-4", "0", "5", "-0", "-1"}},
    {"{\"type\": \"integer\", \"minimum\": 0.5}", {"1", "10"}, {"0", "-1"}},
    {"{\"type\": \"number\", \"minimum\": 1.25, \"exclusiveMaximum\": 1.5}",
     {"1.25", "1.250", "1.3", "1.4999"},
     {"1.2", "1.5", "1.50", "1", "1.249", "2"}},
    {"{\"type\": \"number\", \"exclusiveMinimum\": 0, \"maximum\": 1}", {"0.1", "1", "1.0", "0.0001"}, {"0", "0.0", "1.01", "-0.1", "-0"}},
    {"{\"type\": \"number\", \"minimum\": -2.5, \"maximum\": -1}", {"-1", "-1.0", "-2.5", "-2.49"}, {"-0.9", "-2.51", "0", "1", "-3"}},
    {"{\"type\": \"string\"}",
     {"\"\"", "\"a\\n\\u00e9\xc3\xa9\"", "\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
     {"\"\\ud83d\"", "\"\\ude00\"", "\"\\ud83dx\"", "\"\n\"", "\"\xff\"", "\"\\u0000\"", "\"\\x\"", "\"a"}},
    {"{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"\xc3\xa9\\n\xc3\xa9\""},
     {"\"a\"", "\"abcd\"", "\"\xc3\xa9\""}},
    {"{\"type\": \"string\", \"minLength\": 2}", {"\"ab\"", "\"abcdefgh\""}, {"\"a\"", "\"\""}},
    {"{\"type\": \"string\", \"pattern\": \"^[a-c]{2}$\"}", {"\"ab\""}, {"\"abc\"", "\"ad\""}},
    {"{\"type\": \"string\", \"pattern\": \"\\\\d\"}", {"\"a1\"", "\"1\""}, {"\"a\"", "\"\""}},
    {"{\"type\": \"string\", \"pattern\": \"^a|b$\"}", {"\"ax\"", "\"xb\""}, {"\"xa\"", "\"bx\""}},
    {"{\"type\": \"string\", \"pattern\": \"^.\\\"\\\\\\\\\\\\s$\"}",
     {"\"x\\\"\\\\ \"", "\"x\\\"\\\\\\t\""},
     {"\"x\"", "\"\\n\\\"\\\\ \""}},
    {"{\"type\": \"string\", \"pattern\": \"^[a-z]+$\", \"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"abc\""},
     {"\"a\"", "\"abcd\"", "\"A1\""}},
    {"{\"type\": \"string\", \"format\": \"date\"}",
     {"\"2024-02-28\"", "\"1999-12-31\""},
     {"\"2024-02-30\"", "\"2024-13-01\"", "\"24-1-1\""}},
    {"{\"type\": \"string\", \"format\": \"date-time\"}",
     {"\"2024-02-28T23:59:59Z\"", "\"2024-01-01T00:00:00.5+01:00\""},
     {"\"2024-02-28 23:59:59Z\"", "\"2024-02-28T24:00:00Z\""}},
    {"{\"type\": \"string\", \"format\": \"ipv4\"}",
     {"\"127.0.0.1\"", "\"255.255.255.255\""},
     {"\"256.1.1.1\"", "\"1.1.1\"", "\"01.1.1.1\""}},
    {"{\"type\": \"string\", \"format\": \"ipv6\"}",
     {"\"::1\"", "\"2001:db8::ff00:42:8329\"", "\"1:2:3:4:5:6:7:8\""},
     {"\"1:2:3\"", "\":::\"", "\"1:2:3:4:5:6:7:8:9\""}},
    {"{\"enum\": [\"a\", 1, null, [1, {\"b\": 2}]]}", {"\"a\"", "1", "null", "[1,{\"b\":2}]"}, {"\"b\"", "2", "[]"}},
    {"{\"enum\": [\"a\", \"bcd\", 3], \"type\": \"string\", \"minLength\": 2}", {"\"bcd\""}, {"\"a\"", "3"}},
    {"{\"const\": 5}", {"5"}, {"6", "\"5\""}},
    {"{\"const\": [0.1, 1e-7]}", {"[0.1,1e-7]"}, {"[0.10000000000000001,1e-7]"}},
    {"{\"type\": [\"integer\", \"null\"]}", {"3", "null"}, {"\"3\"", "true"}},
    {"{\"type\": \"string\", \"nullable\": true}", {"null", "\"a\""}, {"1"}},
    {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 1, \"maxItems\": 3}",
     {"[1]", "[1,2,3]", "[ 1, 2 ]", "[\n  1,\n  2\n]"},
     {"[]", "[1,2,3,4]", "[1 ,2]", "[  1]", "[\"a\"]", "[1,]"}},
    {"{\"type\": \"array\", \"maxItems\": 0}", {"[]", "[ ]"}, {"[1]"}},
    {"{\"type\": \"array\", \"prefixItems\": [{\"type\": \"integer\"}, {\"type\": \"string\"}], \"items\": {\"type\": \"null\"}, "
     "\"minItems\": 1}",
     {"[1]", "[1,\"a\"]", "[1,\"a\",null,null]"},
     {"[]", "[\"a\"]", "[1,null]", "[1,\"a\",1]"}},
    {"{\"type\": \"array\", \"prefixItems\": [true, false]}", {"[]", "[{}]"}, {"[1,1]"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"null\"}, \"c\": {\"type\": "
     "\"boolean\"}}, \"required\": [\"b\"],"
     " \"additionalProperties\": false}",
     {"{\"b\":null}", "{\"a\":1,\"b\":null}", "{ \"a\": 1, \"b\": null, \"c\": true }", "{\"b\":null,\"c\":false}"},
     {"{}", "{\"a\":1}", "{\"b\":null,\"a\":1}", "{\"b\":null,\"b\":null}", "{\"b\":null,}", "{\"b\":null,\"d\":1}", "{,\"b\":null}",
      "{\"b\" :null}"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"integer\"}}, \"additionalProperties\": "
     "false}",
     {"{}", "{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"},
     {"{\"b\":1,\"a\":1}", "{\"a\":1\"b\":2}"}},
    {"{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"integer\"}}, \"additionalProperties\": {\"type\": \"null\"}}",
     {"{\"name\":1}", "{\"nam\":null}", "{\"name\":1,\"names\":null,\"\":null}", "{\"x\":null,\"y\":null}"},
     {"{\"name\":null}", "{\"x\":1}", "{\"x\":null,\"name\":1}", "{\"name\":1,\"name\":null}", "{\"x\":null,\"x\":null}",
      "{\"x\":null,\"\\u0078\":null}"}},
    {"{\"properties\": {\"a\": {\"type\": \"object\"}}, \"required\": [\"z\"]}",
     {"{\"z\":1}", "{\"a\":{\"z\":1},\"z\":{\"z\":2}}"},
     {"{}", "{\"a\":{\"z\":1}}", "{\"z\":1,\"z\":2}"}},
    {"true", {"1", "{\"a\":[{}]}", "[[[]]]", "\"x\""}, {"{\"a\":1,\"a\":2}", "[{\"a\":{\"b\":1,\"b\":1}}]", "tru"}},
    {"{\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"array\", \"items\": {\"$ref\": \"#\"}}]}",
     {"1", "[]", "[1,[2,[3]]]"},
     {"\"a\"", "[\"a\"]"}},
    {"{\"type\": \"object\", \"properties\": {\"next\": {\"anyOf\": [{\"$ref\": \"#\"}, {\"type\": \"null\"}]}}, \"required\": "
     "[\"next\"], \"additionalProperties\": false}",
     {"{\"next\":null}", "{\"next\":{\"next\":null}}"},
     {"{}", "{\"next\":{}}"}},
    {"{\"$ref\": \"#/$defs/a~1b\", \"$defs\": {\"a/b\": {\"type\": \"null\"}}}", {"null"}, {"1"}},
    {"{\"$ref\": \"#/definitions/n\", \"maximum\": 5, \"definitions\": {\"n\": {\"type\": \"integer\", \"minimum\": 3}}}",
     {"3", "5"},
     {"2", "6"}},
    {"{\"allOf\": [{\"type\": \"integer\", \"minimum\": 3}, {\"maximum\": 9, \"minimum\": 5}]}", {"5", "9"}, {"4", "10", "\"a\""}},
    {"{\"allOf\": [{\"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"a\"]}, {\"properties\": {\"a\": {\"minimum\": 5}, "
     "\"b\": {\"const\": 1}},"
     " \"additionalProperties\": false}], \"type\": \"object\"}",
     {"{\"a\":5}", "{\"a\":7,\"b\":1}"},
     {"{\"a\":4}", "{}", "{\"a\":5,\"c\":1}", "{\"a\":5,\"b\":2}"}},
    {"{\"type\": \"string\", \"anyOf\": [{\"maxLength\": 2}, {\"pattern\": \"^x+$\"}]}", {"\"ab\"", "\"xxxx\""}, {"\"abc\"", "1"}},
    {"{\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"integer\", \"maximum\": 3}, {\"type\": \"number\", \"minimum\": 3.5}]}",
     {"\"a\"", "3", "3.5"},
     {"null", "3.25"}},
    {"{\"oneOf\": [{\"type\": \"object\", \"properties\": {\"k\": {\"const\": 1}}, \"required\": [\"k\"]}, {\"type\": \"object\", "
     "\"properties\": {\"k\":"
     " {\"const\": 2}}, \"required\": [\"k\"]}, {\"type\": \"string\", \"pattern\": \"^a\"}, {\"type\": \"string\", \"pattern\": "
     "\"^b\"}]}",
     {"{\"k\":1}", "{\"k\":2}", "\"a\"", "\"b\""},
     {"{\"k\":3}", "\"c\"", "{}"}},
    {"{\"oneOf\": [{\"$ref\": \"#/$defs/cat\"}, {\"$ref\": \"#/$defs/dog\"}], \"$defs\": {\"cat\": {\"type\": \"object\", "
     "\"properties\": {\"kind\": {\"const\": \"cat\"}, \"kittens\": "
     "{\"type\": \"array\", \"items\": {\"oneOf\": [{\"$ref\": \"#/$defs/cat\"}, {\"$ref\": \"#/$defs/dog\"}]}}}, "
     "\"additionalProperties\": false}, \"dog\": {\"type\": \"object\", "
     "\"properties\": {\"kind\": {\"const\": \"dog\"}}, \"additionalProperties\": false}}}",
     {"{\"kind\":\"cat\"}", "{\"kind\":\"dog\"}", "{\"kind\":\"cat\",\"kittens\":[{\"kind\":\"cat\"},{\"kind\":\"dog\"}]}"},
     {"{}", "{\"kittens\":[]}", "{\"kind\":\"cow\"}", "{\"kind\":\"cat\",\"kittens\":[{}]}"}},
    {"{\"$defs\": {\"n\": {\"type\": \"object\", \"properties\": {\"n\": {\"$ref\": \"#/$defs/n\", \"required\": [\"v\"]}, \"v\": "
     "{\"type\": \"integer\"}}, \"additionalProperties\": "
     "false}}, \"$ref\": \"#/$defs/n\", \"minProperties\": 0}",
     {"{}", "{\"n\":{\"v\":1}}", "{\"n\":{\"n\":{\"v\":1},\"v\":2}}"},
     {"{\"n\":{}}", "{\"n\":{\"n\":{}}}"}},
    {"{\"type\": \"integer\", \"title\": \"t\", \"description\": \"d\", \"default\": 3, \"examples\": [1], \"x-order\": 1, "
     "\"multipleOf\": 1}",
     {"3"},
     {"\"3\""}},
};

static void values_are_taken_or_not(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof value_cases / sizeof *value_cases; i++) check_case(&value_cases[i]);
}

static void without_a_schema_any_object_is_taken(void **state) {
  (void)state;
  Grammar *grammar;
  assert_ok(grammar_from_schema(&grammar, NULL));
  assert_true(constraint_takes(grammar, tokenizer, "{\"a\": [1, {\"b\": null}], \"c\": \"d\"}"));
  assert_true(constraint_takes(grammar, tokenizer, "{}"));
  assert_false(constraint_takes(grammar, tokenizer, "[]"));
  assert_false(constraint_takes(grammar, tokenizer, "{\"a\": 1, \"a\": 2}"));
  assert_true(constraint_takes(grammar, tokenizer, "{\"a\": {\"a\": 1}, \"b\": [{\"a\": 1}, {\"a\": 2}]}"));
  grammar_free(grammar);
}

static const struct {
  const char *schema, *words[3];
} refused_schemas[] = {
    {"3", {"#:", "object, true or false"}},
    {"{\"type\": \"strin\"}", {"#:", "\"type\""}},
    {"{\"properties\": {\"a\": {\"not\": {}}}}", {"#/properties/a:", "\"not\""}},
    {"{\"type\": \"object\", \"requried\": []}", {"\"requried\"", "is \"required\" meant"}},
    {"{\"items\": {\"uniqueItems\": true}}", {"#/items:", "\"uniqueItems\""}},
    {"{\"patternProperties\": {\"a\": {}}}", {"\"patternProperties\""}},
    {"{\"if\": {}, \"then\": {}}", {"\"if\""}},
    {"{\"type\": \"number\", \"multipleOf\": 0.1}", {"\"multipleOf\""}},
    {"{\"type\": \"string\", \"format\": \"regex\"}", {"\"format\"", "\"regex\""}},
    {"{\"type\": \"string\", \"pattern\": \"(?=a)b\"}", {"#", "\"pattern\"", "character 1"}},
    {"{\"type\": \"string\", \"pattern\": \"(a)\\\\1\"}", {"character 4", "references"}},
    {"{\"type\": \"string\", \"pattern\": \"a(b\"}", {"character 2", "not closed"}},
    {"{\"type\": \"string\", \"pattern\": \"[z-a]\"}", {"character 2", "ends before"}},
    {"{\"type\": \"string\", \"pattern\": \"*a\"}", {"character 1", "nothing to repeat"}},
    {"{\"type\": \"string\", \"pattern\": \"a\\\\p{L}\"}", {"character 2", "escape"}},
    {"{\"type\": \"string\", \"pattern\": \"(^a)b\"}", {"character 2", "outermost"}},
    {"{\"type\": \"string\", \"minLength\": 3, \"maxLength\": 2}", {"\"maxLength\" is less"}},
    {"{\"type\": \"string\", \"minLength\": -1}", {"\"minLength\"", "whole number"}},
    {"{\"type\": \"string\", \"maxLength\": 1000000}", {"too large"}},
    {"{\"minProperties\": 1}", {"\"minProperties\""}},
    {"{\"maxProperties\": 1}", {"\"maxProperties\""}},
    {"{\"minimum\": 1e300}", {"\"minimum\"", "9e15"}},
    {"{\"minimum\": \"a\"}", {"\"minimum\"", "number"}},
    {"{\"exclusiveMinimum\": true}", {"\"exclusiveMinimum\"", "number"}},
    {"{\"$ref\": \"other.json\"}", {"\"other.json\""}},
    {"{\"$ref\": \"#/$defs/a\"}", {"nothing at"}},
    {"{\"$ref\": \"#\"}", {"no text matches"}},
    {"{\"$defs\": {\"a\": {\"$ref\": \"#/$defs/a\", \"minimum\": 1}}, \"$ref\": \"#/$defs/a\"}", {"refers to itself"}},
    {"{\"anyOf\": [{\"$ref\": \"#\"}, {\"type\": \"null\"}]}", {"left recursion"}},
    {"{\"anyOf\": []}", {"\"anyOf\""}},
    {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", {"\"oneOf\"", "branches 0 and 1"}},
    {"{\"oneOf\": [{\"type\": \"string\"}, {\"minimum\": 3}]}", {"\"oneOf\"", "branches 0 and 1"}},
    {"{\"allOf\": [{\"format\": \"date\"}, {\"format\": \"time\"}]}", {"\"format\"", "merged"}},
    {"{\"type\": \"integer\", \"minimum\": 5, \"maximum\": 4}", {"no text matches"}},
    {"false", {"no text matches"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": false}, \"required\": [\"a\"]}", {"no text matches"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}", {"no text matches"}},
    {"{\"enum\": [{\"a\": 1}], \"properties\": {\"a\": {}}}", {"\"enum\""}},
    {"{\"required\": \"a\"}", {"\"required\""}},
    {"{\"required\": [1]}", {"\"required\""}},
};

static void what_would_not_be_enforced_is_refused_by_name(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refused_schemas / sizeof *refused_schemas; i++) {
    json_t *schema = load(refused_schemas[i].schema);
    Grammar *grammar = NULL;
    print_message("%s\n", refused_schemas[i].schema);
    assert_fails(STATUS_BAD_INPUT, grammar_from_schema(&grammar, schema), refused_schemas[i].words[0],
                 refused_schemas[i].words[1] ? refused_schemas[i].words[1] : "",
                 refused_schemas[i].words[2] ? refused_schemas[i].words[2] : "");
    assert_null(grammar);
    json_decref(schema);
  }
  Buffer deep = {0};
  buffer_append_string(&deep, "{\"$defs\": {\"d40\": {\"type\": \"integer\"}");
  for (int i = 0; i < 40; i++)
    buffer_format(&deep,
                  ", \"d%d\": {\"anyOf\": [{\"$ref\": \"#/$defs/d%d\", \"minimum\": 1}, {\"$ref\": \"#/$defs/d%d\", \"maximum\": 0}]}", i,
                  i + 1, i + 1);
  buffer_append_string(&deep, "}, \"$ref\": \"#/$defs/d0\"}");
  json_t *schema = load(deep.data);
  Grammar *grammar = NULL;
  assert_fails(STATUS_BAD_INPUT, grammar_from_schema(&grammar, schema), "too large");
  json_decref(schema);
  buffer_release(&deep);
}

// One line for a peer that validates the same texts: FILE from the environment.
static void write_line(const char *name, const json_t *schema, const json_t *value) {
  const char *path = getenv(name);
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  json_t *line = json_pack("[O, O]", schema, value);
  json_dumpf(line, file, JSON_COMPACT);
  fputc('\n', file);
  fclose(file);
  json_decref(line);
}

static void walk_schema(const json_t *schema, const Words *words, const ConstraintVocabulary *vocabulary, Rng *rng, const char *favoured) {
  Constraint *constraint;
  Grammar *grammar = NULL;
  Buffer text = {0}, why = {0};
  json_error_t error;
  char *source = json_dumps(schema, JSON_COMPACT);
  if (grammar_from_schema(&grammar, schema) != STATUS_OK) fail_msg("%s: %s", source, status_message());
  assert_ok(constraint_new(&constraint, grammar, vocabulary));
  bool ended = constraint_walk(&text, NULL, constraint, words, rng, (WalkOptions){.steps = WALK_STEPS, .favoured = favoured});
  if (!ended) fail_msg("%s: no end after %s", source, text.data);
  json_t *value = json_loads(text.data, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
  if (!value) fail_msg("%s: %s is no JSON: %s", source, text.data, error.text);
  buffer_append(&why, "", 0);
  if (!schema_validate(&why, schema, schema, value)) fail_msg("%s: %s is not valid: %s", source, text.data, why.data);
  write_line("LORA_TEST_SCHEMA_LINES", schema, value);
  json_decref(value);
  constraint_free(constraint);
  grammar_free(grammar);
  buffer_release(&text);
  buffer_release(&why);
  free(source);
}

static void walk_random_schemas(const Tokenizer *own, uint64_t seed, int count) {
  Rng rng = rng_new(seed, RNG_STREAM_TEST);
  ConstraintVocabulary *vocabulary;
  Words words;
  words_new(&words, own);
  assert_ok(constraint_vocabulary_new(&vocabulary, own, words.count));
  for (int i = 0; i < count; i++) {
    json_t *schema = schema_random(&rng, 3);
    walk_schema(schema, &words, vocabulary, &rng, NULL);
    json_decref(schema);
  }
  print_message("%d of %d random schemas: valid\n", count, count);
  constraint_vocabulary_free(vocabulary);
  words_release(&words);
}

static void texts_for_random_schemas_are_valid(void **state) {
  (void)state;
  walk_random_schemas(tokenizer, 1, SCHEMAS);
}

static void texts_by_a_real_vocabulary_are_valid(void **state) {
  (void)state;
  Tokenizer *tiny;
  assert_ok(tokenizer_open(&tiny, TESTS_DIR "/data/tiny.gguf"));
  walk_random_schemas(tiny, 2, SCHEMAS);
  tokenizer_free(tiny);
}

// A SentencePiece vocabulary, and a large one.
static void texts_by_shared_vocabularies_are_valid(void **state) {
  (void)state;
  static const char *const names[] = {"llama-spm", "gpt-2"};
  for (int i = 0; i < 2; i++) {
    char *relative = memory_format("data/vocab/ggml-vocab-%s.gguf", names[i]), *path = shared_path(relative);
    Tokenizer *words;
    free(relative);
    if (!path) skip_test("no shared vocabulary %s", names[i]);
    assert_ok(tokenizer_open(&words, path));
    walk_random_schemas(words, 3 + (uint64_t)i, 40);
    tokenizer_free(words);
    free(path);
  }
}

// Walks by grammars that were not used before, and the same once more: what masks take at first, and later.
static void time_schema(const char *name, const char *text, const Tokenizer *own) {
  enum { WALKS = 8 };
  ConstraintVocabulary *vocabulary;
  MaskTimes first = {0}, later = {0};
  Words words;
  json_t *schema = text ? load(text) : NULL;
  double begin = time_seconds(), compiling = 0;
  assert_ok(constraint_vocabulary_new(&vocabulary, own, tokenizer_size(own)));
  double reading = time_seconds() - begin;
  words_new(&words, own);
  for (int walk = 0; walk < 2 * WALKS; walk++) {
    static Grammar *grammar;
    Constraint *constraint;
    Buffer out = {0};
    Rng rng = rng_new((uint64_t)walk / 2, RNG_STREAM_TEST);
    begin = time_seconds();
    if (walk % 2 == 0) assert_ok(grammar_from_schema(&grammar, schema));
    compiling += time_seconds() - begin;
    assert_ok(constraint_new(&constraint, grammar, vocabulary));
    constraint_walk(&out, NULL, constraint, &words, &rng, (WalkOptions){.steps = WALK_STEPS, .times = walk % 2 ? &later : &first});
    constraint_free(constraint);
    if (walk % 2) grammar_free(grammar);
    buffer_release(&out);
  }
  print_message(
      "%s, %d tokens: a mask takes %.3f ms at first (the longest %.1f ms), %.3f ms later; reading the vocabulary %.0f ms, the schema %.1f "
      "ms\n",
      name, (int)words.count, first.total / (double)first.count * 1e3, first.longest * 1e3, later.total / (double)later.count * 1e3,
      reading * 1e3, compiling / WALKS * 1e3);
  assert_true(later.total <= first.total);  // what was found before is used
  constraint_vocabulary_free(vocabulary);
  words_release(&words);
  json_decref(schema);
}

static void masks_are_fast(void **state) {
  (void)state;
  static const struct {
    const char *name, *schema;
  } cases[] = {
      {"any object", NULL},
      {"a person",
       "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, \"age\": {\"type\": \"integer\", \"minimum\": 0, "
       "\"maximum\": 150}, "
       "\"email\": {\"type\": \"string\", \"format\": \"email\"}, \"tags\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}}, "
       "\"required\": [\"name\", "
       "\"age\"], \"additionalProperties\": false}"},
      {"counted strings",
       "{\"type\": \"array\", \"items\": {\"type\": \"string\", \"minLength\": 5, \"maxLength\": 200}, \"minItems\": 3, \"maxItems\": 50}"},
      {"a recursive schema",
       "{\"type\": \"object\", \"properties\": {\"value\": {\"type\": \"number\"}, \"children\": {\"type\": \"array\", \"items\": "
       "{\"$ref\": \"#\"}}}, \"required\": "
       "[\"value\", \"children\"]}"},
  };
  static const char *const names[] = {"gpt-2", "qwen2"};
  for (int i = 0; i < 2; i++) {
    char *relative = memory_format("data/vocab/ggml-vocab-%s.gguf", names[i]), *path = shared_path(relative);
    Tokenizer *words;
    free(relative);
    if (!path) skip_test("no shared vocabulary %s", names[i]);
    assert_ok(tokenizer_open(&words, path));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) time_schema(cases[k].name, cases[k].schema, words);
    tokenizer_free(words);
    free(path);
  }
}

static void white_space_comes_to_an_end(void **state) {
  (void)state;
  Rng rng = rng_new(5, RNG_STREAM_TEST);
  json_t *schema = load(
      "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"maxItems\": 3}, \"b\": "
      "{\"type\":"
      " \"boolean\"}}, \"required\": [\"a\", \"b\"], \"additionalProperties\": false}");
  ConstraintVocabulary *vocabulary;
  Words words;
  words_new(&words, tokenizer);
  assert_ok(constraint_vocabulary_new(&vocabulary, tokenizer, words.count));
  for (int i = 0; i < 50; i++) walk_schema(schema, &words, vocabulary, &rng, " \n\t");
  constraint_vocabulary_free(vocabulary);
  words_release(&words);
  json_decref(schema);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_are_taken_or_not),
      cmocka_unit_test(without_a_schema_any_object_is_taken),
      cmocka_unit_test(what_would_not_be_enforced_is_refused_by_name),
      cmocka_unit_test(texts_for_random_schemas_are_valid),
      cmocka_unit_test(texts_by_a_real_vocabulary_are_valid),
      cmocka_unit_test(texts_by_shared_vocabularies_are_valid),
      cmocka_unit_test(white_space_comes_to_an_end),
      cmocka_unit_test(masks_are_fast),
  };
  return cmocka_run_group_tests(tests, start, end);
}
