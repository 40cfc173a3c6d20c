// config.json: defaults that a family's class has, both generations, and dimensions that no model has.
#include "models/config.h"

#include "core/file.h"
#include "models/model.h"
#include "tests/support/test.h"

static const char sizes[] =
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 8, \"num_attention_heads\": 4, \"vocab_size\": 99, "
    "\"max_position_embeddings\": 128";

typedef struct Fixture {
  char *folder, *path;
  Arena arena;
  ModelConfig config;
  const Family *family;
} Fixture;

static void set_up(Fixture *f) {
  *f = (Fixture){.folder = temporary_folder()};
  f->path = path_join(f->folder, "config.json");
}

static void tear_down(Fixture *f) {
  arena_release(&f->arena);
  assert_ok(directory_remove(f->folder));
  free(f->folder), free(f->path);
}

static Status read_json(Fixture *f, const char *type, const char *members) {
  char *text = memory_format("{\"model_type\": \"%s\", %s%s%s}", type, sizes, *members ? ", " : "", members);
  assert_ok(file_write_whole(f->path, text, strlen(text)));
  free(text);
  return config_from_folder(&f->config, &f->family, f->folder, &f->arena);
}

static void insane_dimensions_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *type, *members, *word;
  } cases[] = {
      {"nobody", "", "'nobody' is not built"},
      {"llama", "\"num_key_value_heads\": 3", "not a multiple of 3 KV heads"},
      {"llama", "\"num_key_value_heads\": -4", "KV heads"},
      {"llama", "\"head_dim\": 7", "is odd"},
      {"llama", "\"head_dim\": 1e3", "head_dim is missing or no integer"},
      {"llama", "\"hidden_act\": \"relu\"", "'relu' is not built"},
      {"llama", "\"rms_norm_eps\": 2", "epsilon"},
      {"llama", "\"rope_theta\": -1", "base"},
      {"llama", "\"rope_scaling\": {\"type\": \"warp\", \"factor\": 2}", "'warp' is not built"},
      {"llama", "\"rope_scaling\": {\"type\": \"linear\"}", "factor"},
      {"llama", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": -1}", "original"},
      {"llama", "\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 2}", "low_freq_factor"},
      {"llama", "\"partial_rotary_factor\": 0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", "partial_rotary_factor"},
      {"mistral", "\"sliding_window\": -1", "sliding window"},
      {"gemma2", "\"final_logit_softcapping\": -3", "soft-cap"},
      {"gemma3_text", "\"layer_types\": [\"full_attention\"]", "1 elements for 8 layers"},
      {"gemma2", "\"layer_types\": [1, 2, 3, 4, 5, 6, 7, 8]", "layer_types[0]"},
      {"phi3", "\"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": [1], \"short_factor\": [1]}", "8 numbers"},
      {"mixtral", "\"num_experts_per_tok\": 9, \"num_local_experts\": 8", "9 of 8 experts"},
      {"mixtral", "\"num_local_experts\": -1", "experts"},
      {"mixtral", "\"num_local_experts\": null", "num_local_experts"},
      {"qwen3_moe", "\"mlp_only_layers\": [8]", "mlp_only_layers[0]"},
      {"deepseek_v3", "\"n_group\": 7", "groups"},
      {"deepseek_v3", "\"topk_group\": 9", "groups"},
      {"deepseek_v3", "\"kv_lora_rank\": -5", "latent"},
      {"deepseek_v3", "\"qk_nope_head_dim\": 0", "qk_nope_head_dim"},
      {"deepseek_v3", "\"rope_interleave\": false", "rope_interleave"},
  };
  Fixture f;
  set_up(&f);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_fails(STATUS_BAD_INPUT, read_json(&f, cases[i].type, cases[i].members), "config.json", cases[i].word);
  tear_down(&f);
}

static void what_config_json_leaves_out_is_the_familys(void **state) {
  (void)state;
  Fixture f;
  set_up(&f);
  assert_ok(read_json(&f, "gemma2", ""));
  assert_true(f.config.window == 4096 && f.config.head_size == 256 && f.config.attention_softcap == 50 && f.config.final_softcap == 30);
  assert_true(f.config.tied_embeddings && f.config.kinds[0].is_windowed && !f.config.kinds[1].is_windowed);
  assert_ok(read_json(&f, "gemma3_text", ""));
  assert_true(f.config.rope.base == 1e6 && f.config.local_rope.base == 1e4 && f.config.kinds[4].is_windowed &&
              !f.config.kinds[5].is_windowed);
  assert_ok(read_json(&f, "mistral", ""));
  assert_true(f.config.window == 4096 && !f.config.tied_embeddings && f.config.head_size == 16);
  assert_ok(read_json(&f, "mistral", "\"sliding_window\": null"));
  assert_true(f.config.window == 0);
  assert_ok(read_json(&f, "qwen2", "\"sliding_window\": 9"));
  assert_true(f.config.window == 0);  // use_sliding_window is not there
  assert_ok(read_json(&f, "qwen2", "\"sliding_window\": 9, \"use_sliding_window\": true, \"max_window_layers\": 6"));
  assert_true(f.config.window == 9 && !f.config.kinds[5].is_windowed && f.config.kinds[6].is_windowed);
  assert_ok(read_json(&f, "smollm3", ""));
  assert_true(f.config.tied_embeddings && f.config.kinds[2].has_rope && !f.config.kinds[3].has_rope);
  assert_ok(read_json(&f, "deepseek_v3", ""));
  assert_true(f.config.head_size == 192 && f.config.value_size == 128 && f.config.kv_heads == 4 && f.config.groups == 8);
  assert_true(!f.config.kinds[2].is_sparse && f.config.kinds[3].is_sparse && f.config.routed_scale == 2.5);
  assert_ok(read_json(&f, "llama", "\"eos_token_id\": [7, 8], \"bos_token_id\": 3"));
  assert_true(f.config.eos_token == 7 && f.config.bos_token == 3 && f.config.pad_token == -1);
  tear_down(&f);
}

static void both_generations_of_rope_say_the_same(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {"\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}",
       "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4, \"rope_theta\": 5e5}"},
      {"\"rope_theta\": 1e4, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 16}",
       "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 16, \"rope_theta\": 1e4}"},
      {"\"rope_theta\": 1e4, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}",
       "\"rope_parameters\": {\"rope_type\": \"dynamic\", \"factor\": 2, \"rope_theta\": 1e4}"},
  };
  Fixture f;
  set_up(&f);
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    float frequencies[2][8];
    for (int generation = 0; generation < 2; generation++) {
      assert_ok(read_json(&f, "llama", pairs[i][generation]));
      rope_frequencies(frequencies[generation], &f.config.rope, 300, 128);
    }
    assert_memory_equal(frequencies[0], frequencies[1], sizeof frequencies[0]);
    assert_true(frequencies[0][7] > 0 && frequencies[0][7] < 1);
  }
  tear_down(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(insane_dimensions_are_refused),
      cmocka_unit_test(what_config_json_leaves_out_is_the_familys),
      cmocka_unit_test(both_generations_of_rope_say_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
