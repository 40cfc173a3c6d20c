// Ranks and alphas of their own for some modules, and adapters in some layers only: what is adapted, and what files say of it.
#include <jansson.h>
#include <math.h>

#include "adapters/adapter.h"
#include "adapters/pattern.h"
#include "core/file.h"
#include "tests/support/golden.h"

enum { TOKENS = 24 };

static const char tiny[] = TESTS_DIR "/data/tiny.gguf";
static const PatternValue ranks[] = {{"layers.0.self_attn.[qk]_proj", 2}, {"down_proj", 6}};
static const PatternValue alphas[] = {{"q_proj", 32}, {"model.layers.1.mlp.up_proj", 3}};

typedef struct Bench {
  Backend *backend;
  Model *model;
  char *folder;
} Bench;

static int bench_open(void **state) {
  Bench *bench = memory_new(1, sizeof *bench);
  if (backend_new(&bench->backend, "cpu", 2) != STATUS_OK) return 1;
  if (model_open(&bench->model, tiny, (ModelOptions){0}, bench->backend) != STATUS_OK) return 1;
  bench->folder = temporary_folder();
  *state = bench;
  return 0;
}

static int bench_close(void **state) {
  Bench *bench = *state;
  model_close(bench->model);
  backend_free(bench->backend);
  (void)directory_remove(bench->folder);
  free(bench->folder);
  free(bench);
  return 0;
}

static AdapterSettings settings_with_patterns(bool rslora) {
  return (AdapterSettings){.rank = 4,
                           .alpha = 8,
                           .all_linear = true,
                           .rslora = rslora,
                           .rank_patterns = ranks,
                           .rank_pattern_count = 2,
                           .alpha_patterns = alphas,
                           .alpha_pattern_count = 2,
                           .seed = 7};
}

static void fill_b(Adapter *adapter) {
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int i = 0; i < adapter->count; i++)
    fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * adapter->pairs[i].b.columns, 0.05, &rng);
}

static float *logits_of(const Model *model) {
  int32_t ids[TOKENS];
  for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * 37 + 5) % model->config.vocabulary);
  return golden_logits(model, ids, 1, TOKENS);
}

static void a_pattern_names_ends_of_modules_as_peft_has_it(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *module;
    bool is_it;
  } cases[] = {{"q_proj", "model.layers.0.self_attn.q_proj", true},
               {"_proj", "model.layers.0.self_attn.q_proj", false},
               {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", true},
               {"layers.0.self_attn.q_proj", "model.layers.10.self_attn.q_proj", false},
               {".*0.*[qk]_proj", "model.layers.0.self_attn.k_proj", true},
               {"q_proj|k_proj", "model.layers.0.self_attn.k_proj", true},
               {"self_attn", "model.layers.0.self_attn.k_proj", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double value;
    assert_ok(pattern_value(&value, &(PatternValue){cases[i].pattern, 5}, 1, 1, cases[i].module, "key"));
    if ((value == 5) != cases[i].is_it) fail_msg("%s of %s", cases[i].pattern, cases[i].module);
  }
  double value;
  assert_ok(pattern_value(&value, (PatternValue[]){{"k_proj", 1}, {"q_.*", 2}, {"q_proj", 3}}, 3, 9, "model.q_proj", "key"));
  assert_true(value == 2);  // the first that matches
}

static void modules_get_the_rank_and_alpha_of_their_pattern(void **state) {
  const Bench *bench = *state;
  Adapter *adapter;
  AdapterSettings settings = settings_with_patterns(false);
  assert_ok(adapter_create(&adapter, bench->model, &settings));
  int seen = 0;
  for (int i = 0; i < adapter->count; i++) {
    const char *name = adapter->linears[i]->name;
    bool is_first = strstr(name, "layers.0.") != NULL, is_q = strstr(name, "q_proj") != NULL;
    int64_t rank = is_first && (is_q || strstr(name, "k_proj")) ? 2 : strstr(name, "down_proj") ? 6 : 4;
    double alpha = is_q ? 32 : strstr(name, "layers.1.mlp.up_proj") ? 3 : 8;
    assert_int_equal(adapter->pairs[i].a.rows, rank);
    assert_int_equal(adapter->pairs[i].b.columns, rank);
    assert_true(adapter->pairs[i].scale == (float)(alpha / (double)rank));
    seen += rank != 4 || alpha != 8;
  }
  assert_true(seen >= 5);
  adapter_close(adapter);
}

static void check_round_trip(const Bench *bench, bool rslora, bool is_gguf) {
  Adapter *adapter, *back, *again;
  AdapterSettings settings = settings_with_patterns(rslora);
  assert_ok(adapter_create(&adapter, bench->model, &settings));
  fill_b(adapter);
  char *first = path_join(bench->folder, is_gguf ? "a.gguf" : "a"), *second = path_join(bench->folder, "b");
  assert_ok(is_gguf ? adapter_save_gguf(adapter, first) : adapter_save_peft(adapter, first, tiny));
  float *expected = logits_of(bench->model);
  adapter_close(adapter);
  assert_ok(adapter_open(&back, bench->model, (const char *const[]){first}, NULL, 1, false));
  float *actual = logits_of(bench->model);
  // What reading gives can be written again, whatever it was read from.
  assert_ok(adapter_save_peft(back, second, tiny));
  adapter_close(back);
  assert_ok(adapter_open(&again, bench->model, (const char *const[]){second}, NULL, 1, false));
  float *last = logits_of(bench->model);
  adapter_close(again);
  for (int64_t i = 0; i < TOKENS * bench->model->config.vocabulary; i++) {
    assert_true(fabsf(actual[i] - expected[i]) < 1e-4f && isfinite(actual[i]));
    assert_true(fabsf(last[i] - expected[i]) < 1e-4f && isfinite(last[i]));
  }
  free(expected);
  free(actual);
  free(last);
  free(first);
  free(second);
}

static void ranks_and_alphas_of_their_own_survive_both_formats(void **state) {
  for (int i = 0; i < 4; i++) check_round_trip(*state, i % 2, i / 2);
}

static json_t *read_config(const char *folder) {
  char *path = path_join(folder, "adapter_config.json");
  json_t *config = json_load_file(path, 0, NULL);
  assert_non_null(config);
  free(path);
  return config;
}

static void the_patterns_of_a_recipe_stand_in_adapter_config(void **state) {
  const Bench *bench = *state;
  Adapter *adapter;
  AdapterSettings settings = settings_with_patterns(true);
  assert_ok(adapter_create(&adapter, bench->model, &settings));
  char *folder = path_join(bench->folder, "patterns");
  assert_ok(adapter_save_peft(adapter, folder, tiny));
  adapter_close(adapter);
  json_t *config = read_config(folder), *expected = json_pack("{s:i, s:i}", ranks[0].pattern, 2, "down_proj", 6);
  assert_true(json_equal(json_object_get(config, "rank_pattern"), expected));
  json_decref(expected);
  expected = json_pack("{s:i, s:i}", "q_proj", 32, alphas[1].pattern, 3);
  assert_true(json_equal(json_object_get(config, "alpha_pattern"), expected));
  assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
  assert_true(json_is_true(json_object_get(config, "use_rslora")));
  json_decref(expected);
  json_decref(config);
  free(folder);
}

static void only_the_chosen_layers_are_adapted_and_files_say_which(void **state) {
  const Bench *bench = *state;
  const int64_t layers[] = {1};
  const char *const targets[] = {"q_proj", "down_proj"}, *const patterns[] = {"layers"};
  for (int i = 0; i < 3; i++) {
    Adapter *adapter;
    AdapterSettings settings = {.rank = 2, .alpha = 4, .targets = targets, .target_count = 2, .seed = 1};
    settings.layers = (LayerChoice){layers, 1, patterns, i == 1};
    if (i == 2) settings.targets = NULL, settings.target_count = 0, settings.target_regex = "model.*(q|down)_proj";
    assert_ok(adapter_create(&adapter, bench->model, &settings));
    assert_int_equal(adapter->count, 2);
    for (int j = 0; j < 2; j++) assert_non_null(strstr(adapter->linears[j]->name, "layers.1."));
    char *folder = path_join(bench->folder, "layers");
    assert_ok(adapter_save_peft(adapter, folder, tiny));
    adapter_close(adapter);
    json_t *config = read_config(folder), *one = json_pack("[i]", 1), *names = json_pack("[s, s]", "down_proj", "q_proj");
    assert_true(json_equal(json_object_get(config, "layers_to_transform"), one));
    assert_true(json_equal(json_object_get(config, "target_modules"), names));
    assert_int_equal(json_array_size(json_object_get(config, "layers_pattern")), i == 1);
    assert_ok(adapter_open(&adapter, bench->model, (const char *const[]){folder}, NULL, 1, false));
    assert_int_equal(adapter->count, 2);
    assert_int_equal(adapter->layers.count, 1);
    adapter_close(adapter);
    json_decref(config);
    json_decref(one);
    json_decref(names);
    free(folder);
  }
}

// Patterns reach them, layers_to_transform does not; beside it they are listed by their whole names, by which PEFT finds them.
static void the_embedding_and_the_head_have_patterns_and_no_layer(void **state) {
  const Bench *bench = *state;
  static const char *const targets[] = {"q_proj", "embed_tokens", "lm_head"};
  AdapterSettings settings = {.rank = 4, .alpha = 8, .targets = targets, .target_count = 3, .seed = 1};
  settings.rank_patterns = (PatternValue[]){{"embed_tokens", 2}}, settings.rank_pattern_count = 1;
  settings.alpha_patterns = (PatternValue[]){{"lm_head", 6}}, settings.alpha_pattern_count = 1;
  settings.layers = (LayerChoice){(const int64_t[]){1}, 1, NULL, 0};
  Adapter *adapter;
  assert_ok(adapter_create(&adapter, bench->model, &settings));
  assert_int_equal(adapter->count, 3);
  fill_b(adapter);
  const LowRank *embedding = &adapter->pairs[1], *head = &adapter->pairs[2];
  Rng rng = rng_new(12, RNG_STREAM_TEST);
  fill_normal(embedding->a.data, embedding->a.rows * embedding->a.columns, 0.5, &rng);
  assert_int_equal(embedding->b.columns, 2);
  assert_int_equal(embedding->a.rows, bench->model->config.vocabulary);
  assert_true(embedding->scale == 4 && head->scale == 1.5f && head->b.columns == 4);
  char *folder = path_join(bench->folder, "vocabulary");
  assert_ok(adapter_save_peft(adapter, folder, tiny));
  float *expected = logits_of(bench->model);
  adapter_close(adapter);
  json_t *config = read_config(folder), *names = json_pack("[s, s, s]", "model.layers.1.self_attn.q_proj", "model.embed_tokens", "lm_head"),
         *rank_pattern = json_pack("{s:i}", "embed_tokens", 2);
  assert_true(json_equal(json_object_get(config, "target_modules"), names));
  assert_true(json_equal(json_object_get(config, "rank_pattern"), rank_pattern));
  assert_ok(adapter_open(&adapter, bench->model, (const char *const[]){folder}, NULL, 1, false));
  float *actual = logits_of(bench->model);
  for (int64_t i = 0; i < TOKENS * bench->model->config.vocabulary; i++) assert_true(fabsf(actual[i] - expected[i]) < 1e-5f);
  adapter_close(adapter);
  json_decref(config), json_decref(names), json_decref(rank_pattern);
  free(expected), free(actual), free(folder);
}

static void what_names_nothing_is_refused(void **state) {
  const Bench *bench = *state;
  const int64_t far[] = {99};
  const char *const blocks[] = {"blocks"};
  Adapter *adapter;
  AdapterSettings plain = {.rank = 2, .alpha = 4, .all_linear = true}, settings = plain;
  settings.rank_patterns = (PatternValue[]){{"qproj", 3}}, settings.rank_pattern_count = 1;
  assert_fails(STATUS_USAGE, adapter_create(&adapter, bench->model, &settings), "lora_rank_pattern", "'qproj' names no module");
  settings.rank_patterns = (PatternValue[]){{"q_proj", 2.5}};
  assert_fails(STATUS_USAGE, adapter_create(&adapter, bench->model, &settings), "whole number", "2.5");
  settings.rank_patterns = (PatternValue[]){{"q_(proj", 3}};
  assert_fails(STATUS_USAGE, adapter_create(&adapter, bench->model, &settings), "'q_(proj' is no regular expression");
  settings = plain;
  settings.layers = (LayerChoice){far, 1, NULL, 0};
  assert_fails(STATUS_USAGE, adapter_create(&adapter, bench->model, &settings), "no layer 99");
  settings.layers = (LayerChoice){(const int64_t[]){0}, 1, blocks, 1};
  assert_fails(STATUS_USAGE, adapter_create(&adapter, bench->model, &settings), "no linear layer");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_pattern_names_ends_of_modules_as_peft_has_it),
      cmocka_unit_test(modules_get_the_rank_and_alpha_of_their_pattern),
      cmocka_unit_test(ranks_and_alphas_of_their_own_survive_both_formats),
      cmocka_unit_test(the_patterns_of_a_recipe_stand_in_adapter_config),
      cmocka_unit_test(only_the_chosen_layers_are_adapted_and_files_say_which),
      cmocka_unit_test(the_embedding_and_the_head_have_patterns_and_no_layer),
      cmocka_unit_test(what_names_nothing_is_refused),
  };
  return cmocka_run_group_tests(tests, bench_open, bench_close);
}
