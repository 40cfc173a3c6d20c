// Which files are chosen, beside Hugging Face's datasets (tests/tools/make_hub_reference.py), and what ids and names are taken.
#include "tests/support/test.h"

#include <jansson.h>

#include "hub/card.h"
#include "hub/glob.h"
#include "hub/hub.h"
#include "hub/name.h"
#include "hub/select.h"

static json_t *reference;

static int load(void **state) {
  (void)state;
  reference = json_load_file(TESTS_DIR "/hub/data/splits.json", 0, NULL);
  return reference ? 0 : -1;
}

static int release(void **state) {
  (void)state;
  json_decref(reference);
  return 0;
}

static HubNames names_of(const json_t *list) {
  HubNames names = {0};
  for (size_t i = 0; i < json_array_size(list); i++) hub_names_add(&names, json_string_value(json_array_get(list, i)));
  return names;
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void assert_same_names(const char *what, HubNames *actual, const json_t *expected) {
  if (actual->count) qsort(actual->items, (size_t)actual->count, sizeof *actual->items, compare);
  if ((size_t)actual->count != json_array_size(expected))
    fail_msg("%s: %d files in place of %zu", what, actual->count, json_array_size(expected));
  for (int i = 0; i < actual->count; i++)
    if (strcmp(actual->items[i], json_string_value(json_array_get(expected, (size_t)i))) != 0)
      fail_msg("%s: %s is chosen in place of %s", what, actual->items[i], json_string_value(json_array_get(expected, (size_t)i)));
}

static void splits_are_found_as_datasets_finds_them(void **state) {
  (void)state;
  static const char *const splits[] = {"train", "validation", "test", "train_sft"};
  json_t *layouts = json_object_get(reference, "layouts");
  assert_true(json_array_size(layouts) > 10);
  for (size_t i = 0; i < json_array_size(layouts); i++) {
    json_t *layout = json_array_get(layouts, i);
    HubNames all = names_of(json_object_get(layout, "files"));
    for (size_t s = 0; s < sizeof splits / sizeof *splits; s++) {
      HubNames chosen = {0};
      HubRequest request = {.kind = HUB_DATASET, .split = splits[s]};
      json_t *expected = json_object_get(json_object_get(layout, "splits"), splits[s]);
      char *what = memory_format("layout %zu, %s", i, splits[s]);
      Status status = hub_select_data(&chosen, &all, &request, "org/rows");
      if ((status == STATUS_OK) != (expected != NULL)) fail_msg("%s: status %d: %s", what, status, status_message());
      if (expected) assert_same_names(what, &chosen, expected);
      free(what);
      hub_names_release(&chosen);
    }
    hub_names_release(&all);
  }
}

static void patterns_match_what_fsspec_matches(void **state) {
  (void)state;
  HubNames all = names_of(json_object_get(reference, "glob_files"));
  const char *pattern;
  json_t *expected;
  json_object_foreach(json_object_get(reference, "globs"), pattern, expected) {
    HubNames found = {0};
    for (int i = 0; i < all.count; i++)
      if (glob_matches(pattern, all.items[i])) hub_names_add(&found, all.items[i]);
    assert_same_names(pattern, &found, expected);
    hub_names_release(&found);
  }
  assert_true(glob_matches("a[b", "a[b") && !glob_matches("a[b", "ab") && glob_matches("", "") && !glob_matches("", "a"));
  hub_names_release(&all);
}

static void check_config(const json_t *card, const HubNames *all, const char *config, const char *name) {
  const char *text = json_string_value(json_object_get(card, "card")), *split;
  json_t *expected;
  json_object_foreach(json_object_get(json_object_get(card, "configs"), name), split, expected) {
    HubNames patterns = {0}, chosen = {0};
    char *folder;
    assert_ok(hub_card_patterns(&patterns, &folder, text, strlen(text), config, split));
    assert_true(patterns.count > 0 && !folder);
    HubRequest request = {.kind = HUB_DATASET, .patterns = (const char *const *)patterns.items, .pattern_count = patterns.count};
    assert_ok(hub_select_data(&chosen, all, &request, "org/rows"));
    assert_same_names(name, &chosen, expected);
    hub_names_release(&patterns);
    hub_names_release(&chosen);
  }
}

static void cards_are_read_as_datasets_reads_them(void **state) {
  (void)state;
  json_t *cards = json_object_get(reference, "cards");
  assert_true(json_array_size(cards) > 4);
  for (size_t i = 0; i < json_array_size(cards); i++) {
    const json_t *card = json_array_get(cards, i);
    HubNames all = names_of(json_object_get(card, "files"));
    const char *name, *standard = json_string_value(json_object_get(card, "default"));
    json_t *config;
    json_object_foreach(json_object_get(card, "configs"), name, config) check_config(card, &all, name, name);
    if (standard) check_config(card, &all, NULL, standard);
    hub_names_release(&all);
  }
}

static void cards_that_say_nothing_are_no_failure(void **state) {
  (void)state;
  static const char *const cards[] = {"", "# Rows", "---\n", "---\nlicense: mit\n---\n", "---\n{: [\n---\n", "---\nconfigs: 7\n---\n"};
  for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
    HubNames patterns = {0};
    char *folder;
    assert_ok(hub_card_patterns(&patterns, &folder, cards[i], strlen(cards[i]), NULL, "train"));
    assert_true(!patterns.count && !folder);
  }
  static const char two[] = "---\nconfigs:\n- {config_name: a, data_files: a}\n- {config_name: b, data_files: b}\n---\n";
  HubNames patterns = {0};
  char *folder;
  assert_fails(STATUS_BAD_INPUT, hub_card_patterns(&patterns, &folder, two, sizeof two - 1, NULL, "train"), "more than one configuration",
               "a, b");
}

static void ids_are_told_from_paths(void **state) {
  (void)state;
  static const char *const ids[] = {"org/name",        "meta-llama/Llama-3.2-1B", "a/b", "org/name@v1.0", "org/name@refs/pr/1",
                                    "org/name/x.gguf", "org/name@main/q/x.gguf"};
  static const char *const paths[] = {
      "name",      "./org/name",    "../name",  "/org/name",  "org/name/",     "org//name",        "~/models",         "org/a..b",
      "-org/name", "org/name.",     "org/a--b", "org/name/x", "a/b/../x.gguf", "rows/train.jsonl", "models/tiny.gguf", "org/na me",
      "org/name@", "org/name@../x", "",         "org/"};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    if (!hub_is_id(ids[i])) fail_msg("%s is an id", ids[i]);
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (hub_is_id(paths[i])) fail_msg("%s is no id", paths[i]);
  HubId id;
  assert_true(hub_id_parse(&id, "org/name@main/q/x.gguf"));
  assert_string_equal(id.repository, "org/name");
  assert_string_equal(id.revision, "main");
  assert_string_equal(id.file, "q/x.gguf");
  hub_id_release(&id);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(splits_are_found_as_datasets_finds_them),
      cmocka_unit_test(patterns_match_what_fsspec_matches),
      cmocka_unit_test(cards_are_read_as_datasets_reads_them),
      cmocka_unit_test(cards_that_say_nothing_are_no_failure),
      cmocka_unit_test(ids_are_told_from_paths),
  };
  return cmocka_run_group_tests(tests, load, release);
}
