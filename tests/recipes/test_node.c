// YAML as nodes: positions, types, anchors, limits, overrides, and the tree written out again.
#include "recipes/node.h"
#include "tests/support/test.h"

static Arena arena;

static int release(void **state) {
  (void)state;
  arena_release(&arena);
  return 0;
}

static Status parse(Node **root, const char *text) { return node_parse(root, &arena, "r.yml", text, strlen(text)); }

static void nodes_know_their_line_and_column(void **state) {
  (void)state;
  Node *root;
  assert_ok(parse(&root, "# head\na: 1\nb:\n  - x\n  - {c: deep}\n"));
  assert_int_equal(node_find_key(root, "b")->line, 3);
  const Node *list = node_find(root, "b");
  assert_int_equal(list->items[0]->line, 4);
  assert_int_equal(list->items[0]->column, 5);
  const Node *deep = node_find(list->items[1], "c");
  assert_int_equal(deep->line, 5);
  assert_int_equal(deep->column, 9);
}

static void numbers_are_read_as_people_write_them(void **state) {
  (void)state;
  static const struct {
    const char *text;
    double value;
  } cases[] = {{"2e-5", 2e-5}, {"2E-5", 2e-5}, {".5", 0.5}, {"1_000", 1000}, {"0x10", 16}, {"-3", -3}, {"+4.0", 4}, {"1e3", 1000}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Node node = {.kind = NODE_SCALAR, .text = (char *)cases[i].text};
    double value = 0;
    assert_true(node_number(&node, &value));
    assert_true(value == cases[i].value);
  }
  static const char *const others[] = {"", "nan", "inf", ".inf", "1e999", "12abc", "1 2", "--1", "0x", "e5", "infinity", "0x1p4"};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
    Node node = {.kind = NODE_SCALAR, .text = (char *)others[i]};
    double value;
    if (node_number(&node, &value)) fail_msg("\"%s\" was read as a number", others[i]);
  }
}

static void a_whole_number_has_no_fraction(void **state) {
  (void)state;
  int64_t value;
  assert_true(node_integer(&(Node){.text = (char *)"4096.0"}, &value));
  assert_int_equal(value, 4096);
  assert_false(node_integer(&(Node){.text = (char *)"0.5"}, &value));
  assert_false(node_integer(&(Node){.text = (char *)"1e17"}, &value));
}

static void empty_values_are_null_and_quoted_ones_are_text(void **state) {
  (void)state;
  Node *root;
  assert_ok(parse(&root, "a:\nb: ~\nc: null\nd: ''\ne: 'null'\n"));
  assert_true(node_is_null(node_find(root, "a")) && node_is_null(node_find(root, "b")) && node_is_null(node_find(root, "c")));
  assert_false(node_is_null(node_find(root, "d")) || node_is_null(node_find(root, "e")));
  assert_true(node_is_null(node_find(root, "absent")));
}

static void aliases_and_merge_keys_bring_their_values(void **state) {
  (void)state;
  Node *root;
  assert_ok(parse(&root, "base: &b {r: 8, x: 1}\nother: &o {x: 3, z: 4}\nmine:\n  <<: [*b, *o]\n  r: 16\nsame: *b\n"));
  const Node *mine = node_find(root, "mine");
  assert_string_equal(node_find(mine, "r")->text, "16");
  assert_string_equal(node_find(mine, "x")->text, "1");
  assert_string_equal(node_find(mine, "z")->text, "4");
  assert_null(node_find(mine, "<<"));
  assert_string_equal(node_find(node_find(root, "same"), "r")->text, "8");
  assert_int_equal(node_find(root, "same")->line, 6);
}

static void a_key_that_is_there_twice_has_its_last_value(void **state) {
  (void)state;
  Node *root;
  assert_ok(parse(&root, "a: 1\nb: 2\na: 3\nc: {x: 1, x: 2}\n"));
  assert_int_equal(root->count, 3);
  assert_string_equal(node_find(root, "a")->text, "3");
  assert_int_equal(node_find_key(root, "a")->overrules_line, 1);
  assert_int_equal(node_find_key(root, "a")->line, 3);
  assert_int_equal(node_find_key(root, "b")->overrules_line, 0);
  assert_string_equal(node_find(node_find(root, "c"), "x")->text, "2");
}

static void what_is_no_plain_tree_is_refused_with_its_place(void **state) {
  (void)state;
  Node *root;
  assert_fails(STATUS_USAGE, parse(&root, "a: [1, 2\nb: 3\n"), "r.yml:", "malformed YAML");
  assert_fails(STATUS_USAGE, parse(&root, "a: 1\n\tb: 2\n"), "r.yml:2", "malformed YAML");
  assert_fails(STATUS_USAGE, parse(&root, "a: *b\n"), "r.yml:1:4", "anchor");
  assert_fails(STATUS_USAGE, parse(&root, "a: &a [*a]\n"), "r.yml:1:8", "inside");
  assert_fails(STATUS_USAGE, parse(&root, "a: 1\n---\nb: 2\n"), "second document");
  assert_fails(STATUS_USAGE, parse(&root, "[1]: 2\n"), "r.yml:1:1", "key");
  assert_fails(STATUS_USAGE, parse(&root, "a: !!python/object:os.system x\n"), "r.yml:1:4", "tag");
  assert_fails(STATUS_USAGE, parse(&root, "a: \"x\\0y\"\n"), "NUL");
  assert_fails(STATUS_USAGE, parse(&root, "a:\n  <<: 5\n"), "<<");
}

static void nesting_size_and_alias_expansion_have_limits(void **state) {
  (void)state;
  Node *root;
  Buffer text = {0};
  for (int i = 0; i < 1000; i++) buffer_append_string(&text, "[");
  assert_fails(STATUS_USAGE, parse(&root, text.data), "deeper");
  text.length = 0;
  buffer_append_string(&text, "a: &a [x,x,x,x,x,x,x,x,x,x]\n");
  for (char c = 'b'; c < 'k'; c++) {
    buffer_format(&text, "%c: &%c [", c, c);
    for (int i = 0; i < 10; i++) buffer_format(&text, "*%c,", c - 1);
    buffer_append_string(&text, "]\n");
  }
  assert_fails(STATUS_USAGE, parse(&root, text.data), "aliases counted");
  text.length = 0;
  buffer_reserve(&text, NODE_MAX_BYTES + 1);
  memset(text.data, '#', NODE_MAX_BYTES + 1);
  assert_fails(STATUS_USAGE, node_parse(&root, &arena, "r.yml", text.data, NODE_MAX_BYTES + 1), "bytes");
  buffer_release(&text);
}

static void a_path_with_dots_sets_without_touching_what_an_alias_shares(void **state) {
  (void)state;
  Node *root, *value;
  assert_ok(parse(&root, "a: &a {x: 1}\nb: *a\nlist:\n  - {p: q}\n"));
  assert_ok(node_parse_argument(&value, &arena, "--b.x", "2"));
  assert_null(node_set_path(&arena, &root, "b.x", value));
  assert_string_equal(node_find(node_find(root, "b"), "x")->text, "2");
  assert_string_equal(node_find(node_find(root, "a"), "x")->text, "1");
  assert_null(node_set_path(&arena, &root, "list.0.p", value));
  assert_null(node_set_path(&arena, &root, "list.1.p", value));
  assert_int_equal(node_find(root, "list")->count, 2);
  assert_null(node_set_path(&arena, &root, "new.deep.key", value));
  assert_string_equal(node_find(node_find(node_find(root, "new"), "deep"), "key")->text, "2");
  assert_non_null(node_set_path(&arena, &root, "list.9.p", value));
  assert_non_null(node_set_path(&arena, &root, "list.first.p", value));
  assert_non_null(node_set_path(&arena, &root, "a..x", value));
  assert_non_null(node_set_path(&arena, &root, "a.x.y", value));
  assert_non_null(node_set_path(&arena, &root, "", value));
}

static void an_argument_is_flow_yaml_or_plain_text(void **state) {
  (void)state;
  Node *value;
  assert_ok(node_parse_argument(&value, &arena, "--k", "[q_proj, v_proj]"));
  assert_int_equal(value->kind, NODE_SEQUENCE);
  assert_int_equal(value->line, 0);
  assert_int_equal(value->items[1]->line, 0);
  assert_ok(node_parse_argument(&value, &arena, "--k", "You are: a helper # really"));
  assert_string_equal(value->text, "You are: a helper # really");
  assert_fails(STATUS_USAGE, node_parse_argument(&value, &arena, "--k", "[a"), "--k");
}

static bool nodes_equal(const Node *a, const Node *b) {
  if (node_is_null(a) || node_is_null(b)) return node_is_null(a) && node_is_null(b);
  if (a->kind != b->kind || a->count != b->count || a->quoted != b->quoted) return false;
  if (a->kind == NODE_SCALAR) return strcmp(a->text, b->text) == 0;
  for (int i = 0; i < a->count; i++) {
    if (a->kind == NODE_MAPPING && strcmp(a->keys[i]->text, b->keys[i]->text) != 0) return false;
    if (!nodes_equal(a->items[i], b->items[i])) return false;
  }
  return true;
}

static void what_is_written_reads_back_as_the_same_tree(void **state) {
  (void)state;
  Node *first, *second;
  assert_ok(parse(&first,
                  "a: 2e-5\nb: '2e-5'\nc:\nd: \"two\\nlines: # \\\"x\\\"\"\ne: |\n  kept\n   as is\nf: [1, {g: ~}, []]\nh: {}\n"
                  "i: &n {x: yes}\nj: *n\nk: \"\\u00e9\\u4e2d\"\nl: many\n  folded words\n"));
  Buffer text = {0};
  node_write_yaml(&text, first);
  assert_ok(parse(&second, text.data));
  assert_true(nodes_equal(first, second));
  buffer_release(&text);
}

static void json_keeps_the_types_of_scalars(void **state) {
  (void)state;
  Node *root;
  assert_ok(parse(&root, "{a: true, b: 'true', c: 2, d: [x, null], e: \"q\\\"\\n\"}"));
  Buffer text = {0};
  node_write_json(&text, root);
  assert_string_equal(text.data, "{\"a\": true, \"b\": \"true\", \"c\": 2, \"d\": [\"x\", null], \"e\": \"q\\\"\\u000a\"}");
  buffer_release(&text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nodes_know_their_line_and_column),
      cmocka_unit_test(numbers_are_read_as_people_write_them),
      cmocka_unit_test(a_whole_number_has_no_fraction),
      cmocka_unit_test(empty_values_are_null_and_quoted_ones_are_text),
      cmocka_unit_test(aliases_and_merge_keys_bring_their_values),
      cmocka_unit_test(a_key_that_is_there_twice_has_its_last_value),
      cmocka_unit_test(what_is_no_plain_tree_is_refused_with_its_place),
      cmocka_unit_test(nesting_size_and_alias_expansion_have_limits),
      cmocka_unit_test(a_path_with_dots_sets_without_touching_what_an_alias_shares),
      cmocka_unit_test(an_argument_is_flow_yaml_or_plain_text),
      cmocka_unit_test(what_is_written_reads_back_as_the_same_tree),
      cmocka_unit_test(json_keeps_the_types_of_scalars),
  };
  return cmocka_run_group_tests(tests, NULL, release);
}
