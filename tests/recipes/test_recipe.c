// Recipes: types, ranges, defaults, positions, every check of keys against each other, and what train cannot do yet.
#include "recipes/recipe.h"

#include "core/file.h"
#include "recipes/schema.h"
#include "tests/support/recipe.h"
#include "tests/support/test.h"

// A recipe with nothing against it; `extra` goes behind.
#define HEAD                                                                                                  \
  "base_model: m\nlearning_rate: 2e-5\nmicro_batch_size: 2\ndatasets:\n  - path: d.jsonl\n    type: alpaca\n" \
  "lora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
#define STEPS "gradient_accumulation_steps: 4\n"
#define LORA HEAD STEPS "adapter: lora\n"

static Status parse(const char *text) { return parse_recipe("r.yml", text, NULL); }

static Status parse_with(const char *text, const char *key, const char *value) {
  return parse_recipe("r.yml", text, &(RecipeOverride){key, value});
}

static bool has_notice(const char *key) {
  for (int i = 0; i < recipe.remark_count; i++)
    if (recipe.remarks[i].is_notice && strcmp(recipe.remarks[i].key, key) == 0) return true;
  return false;
}

// --- reading ---

static void absent_keys_have_their_defaults(void **state) {
  (void)state;
  assert_ok(parse(LORA));
  assert_int_equal(recipe.sequence_len, 512);
  assert_int_equal(recipe.save_total_limit, 4);
  assert_int_equal(recipe.warmup_steps, -1);
  assert_true(recipe.warmup_ratio == -1);
  assert_true(recipe.adam_beta2 == 0.999 && recipe.adam_epsilon == 1e-8 && recipe.max_grad_norm == 1);
  assert_string_equal(recipe.optimizer, "adamw_torch_fused");
  assert_string_equal(recipe.lr_scheduler, "cosine");
  assert_string_equal(recipe.output_dir, "./model-out");
  assert_string_equal(recipe.bf16, "auto");
  assert_true(recipe.shuffle_merged_datasets);
  assert_int_equal(recipe.eval_sample_packing, CHOICE_ABSENT);
  assert_null(recipe.gradient_checkpointing);
  assert_string_equal(recipe.datasets[0].field_messages, "messages");
  assert_int_equal(recipe.datasets[0].drop_system_message, CHOICE_ABSENT);
}

static void values_are_read_by_their_type(void **state) {
  (void)state;
  assert_ok(parse(LORA "gradient_checkpointing: yes\nbf16: off\nsequence_len: '1024'\nlora_dropout: 5e-2\nsave_strategy: no\n"
                       "eval_sample_packing: false\nwarmup_ratio: .1\nmax_memory: 6GiB\ndevice: cuda:1\nseed: 0\nmax_steps: -1\n"
                       "special_tokens: {pad_token: <pad>, additional_special_tokens: [<a>, <b>]}\n"
                       "chat_template_kwargs: {enable_thinking: false, list: [1, x]}\nexport: {gguf: [q4_k_m], merge: true}\n"));
  assert_string_equal(recipe.gradient_checkpointing, "true");
  assert_string_equal(recipe.bf16, "false");
  assert_string_equal(recipe.save_strategy, "no");
  assert_int_equal(recipe.sequence_len, 1024);
  assert_true(recipe.learning_rate == 2e-5 && recipe.lora_dropout == 5e-2 && recipe.warmup_ratio == 0.1);
  assert_int_equal(recipe.eval_sample_packing, CHOICE_FALSE);
  assert_true(recipe.max_memory == 6ll << 30);
  assert_string_equal(recipe.device, "cuda:1");
  assert_int_equal(recipe.seed, 0);
  assert_int_equal(recipe.max_steps, 0);
  assert_string_equal(recipe.special_tokens.values[0], "<pad>");
  assert_int_equal(recipe.additional_special_tokens.count, 2);
  assert_string_equal(recipe.chat_template_kwargs.values[0], "false");
  assert_string_equal(recipe.chat_template_kwargs.values[1], "[1, \"x\"]");
  assert_true(recipe.export_merge && recipe.export_gguf.count == 1);
}

static void target_modules_are_names_a_regex_or_all(void **state) {
  (void)state;
  assert_ok(parse(LORA "lora_target_modules: [q_proj, v_proj]\n"));
  assert_int_equal(recipe.lora_target_modules.count, 2);
  assert_ok(parse(LORA "lora_target_modules: .*(q|v)_proj\n"));
  assert_string_equal(recipe.lora_target_modules_regex, ".*(q|v)_proj");
  assert_ok(parse_with(LORA "lora_target_modules: all-linear\n", "lora_target_linear", "false"));
  assert_null(recipe.lora_target_modules_regex);
}

static void a_dataset_entry_is_read_whole(void **state) {
  (void)state;
  assert_ok(parse(HEAD STEPS
                  "adapter: lora\ntest_datasets:\n  - path: t.jsonl\n    type: {format: 'Q {instruction}', field_output: answer}\n"
                  "    data_files: one.jsonl\n    roles: {assistant: [gpt, model], user: human}\n    roles_to_train: []\n"
                  "    message_field_role: from\n    message_property_mappings: {content: value}\n    train_on_eos: last\n"));
  const DatasetRecipe *dataset = &recipe.test_datasets[0];
  assert_true(dataset->type_is_mapping && !dataset->type);
  assert_string_equal(dataset->format, "Q {instruction}");
  assert_string_equal(dataset->field_output, "answer");
  assert_string_equal(dataset->data_files.items[0], "one.jsonl");
  assert_string_equal(dataset->roles.keys[0], "assistant");
  assert_string_equal(dataset->roles.values[0], "gpt,model");
  assert_true(dataset->has_roles_to_train && dataset->roles_to_train.count == 0);
  assert_int_equal(dataset->message_property_mappings.count, 2);
  assert_string_equal(dataset->train_on_eos, "last");
  assert_int_equal(dataset->position.line, 13);
}

static void a_null_key_counts_as_absent_even_a_refused_one(void **state) {
  (void)state;
  assert_ok(parse(
      LORA "fsdp:\nfsdp_config: null\ndeepspeed: ~\nwandb_project:\nsequence_len:\nspecial_tokens:\nrl:\ngptq: false\nfsdp_version:\n"));
  assert_int_equal(recipe.sequence_len, 512);
  assert_int_equal(recipe.remark_count, 0);
}

static void overrides_win_and_reach_into_lists(void **state) {
  (void)state;
  assert_ok(parse_with(LORA, "datasets.0.path", "other.jsonl"));
  assert_string_equal(recipe.datasets[0].path, "other.jsonl");
  assert_ok(parse_with(LORA, "learning_rate", "3e-4"));
  assert_true(recipe.learning_rate == 3e-4);
  assert_ok(parse_with(LORA, "lora_target_modules", "[q_proj]"));
  assert_int_equal(recipe.lora_target_modules.count, 1);
  assert_ok(parse_with(LORA "wandb_project: x\n", "wandb_project", ""));
  assert_int_equal(recipe.remark_count, 0);
  assert_fails(STATUS_USAGE, parse_with(LORA, "learning_rate", "fast"), "--learning_rate: must be a number");
  assert_fails(STATUS_USAGE, parse_with(LORA, "lerning_rate", "1"), "--lerning_rate: unknown key", "learning_rate");
  assert_fails(STATUS_USAGE, parse_with(LORA, "datasets.5.path", "x"), "--datasets.5.path", "end of the list");
}

static void the_resolved_recipe_reads_back_the_same(void **state) {
  (void)state;
  assert_ok(parse_with(LORA "default_system_message: 'yes'\n", "datasets.0.path", "a: b"));
  char *resolved = memory_copy_string(recipe.resolved);
  assert_ok(parse(resolved));
  assert_string_equal(recipe.datasets[0].path, "a: b");
  assert_string_equal(recipe.default_system_message, "yes");
  assert_string_equal(recipe.resolved, resolved);
  free(resolved);
}

// --- problems and their places ---

static void a_misspelt_key_is_refused_with_its_place_and_the_nearest(void **state) {
  (void)state;
  assert_fails(STATUS_USAGE, parse(LORA "  \nsequence_length: 512\n"),
               "r.yml:13:1: sequence_length: unknown key; did you mean sequence_len?");
  assert_fails(STATUS_USAGE, parse(LORA "lora_rank: 512\n"), "r.yml:12:1: lora_rank:", "did you mean lora_r?");
  assert_fails(STATUS_USAGE, parse(LORA "zzzzzzzz: 1\n"), "r.yml:12:1: zzzzzzzz: unknown key; remove it");
  assert_fails(STATUS_USAGE, parse(LORA "datasets_: [{pth: x}]\n"), "datasets_");
  assert_fails(STATUS_USAGE, parse(LORA "test_datasets:\n  - path: x\n    typo_key: 1\n"), "r.yml:14:5: test_datasets.0.typo_key");
}

static void strict_false_makes_unknown_keys_warnings(void **state) {
  (void)state;
  assert_ok(parse("strict: false\n" LORA "sequence_length: 512\n"));
  assert_true(has_notice("sequence_length"));
  assert_ok(parse_with(LORA "sequence_length: 512\n", "strict", "false"));
  assert_fails(STATUS_USAGE, parse("strict: false\n" LORA "seed: x\n"), "seed");
}

static void every_problem_of_a_file_is_reported_a_line_each(void **state) {
  (void)state;
  assert_fails(STATUS_USAGE, parse("base_model: m\nlearning_rate: fast\nlora_r: 0\nadapter: lorra\nnum_epochs: [1]\nseed: 1.5\n"),
               "r.yml:2:16: learning_rate: must be a number", "\nr.yml:3:9: lora_r: 0 is too small", "\nr.yml:4:10: adapter: \"lorra\"",
               "did you mean lora?", "\nr.yml:5:13: num_epochs: must be a number, not a list", "\nr.yml:6:7: seed: must be a whole number",
               "datasets: is missing");
  assert_true(recipe.problem_count >= 6);
}

static void what_is_no_recipe_is_refused(void **state) {
  (void)state;
  assert_fails(STATUS_USAGE, parse(""), "r.yml:1:1");
  assert_fails(STATUS_USAGE, parse("- a\n- b\n"), "r.yml:1:1");
  assert_fails(STATUS_USAGE, parse("just words"), "no recipe");
  assert_fails(STATUS_USAGE, parse("a: [\n"), "malformed YAML");
  recipe_release(&recipe);
  assert_fails(STATUS_USAGE, recipe_load(&recipe, "no/such/recipe.yml", NULL, 0), "no/such/recipe.yml");
}

static void values_of_their_own_form_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *line, *key;
  } cases[] = {
      {"device: gpu\n", "device"},
      {"max_memory: {cpu: lots}\n", "max_memory"},
      {"max_memory: much\n", "max_memory"},
      {"export: {ggufs: [q8_0]}\n", "export.ggufs"},
      {"special_tokens: {pad: x}\n", "special_tokens.pad"},
      {"special_tokens: [a]\n", "special_tokens"},
      {"peft: {loftq: 4}\n", "peft.loftq"},
      {"peft_layers_to_transform: [a]\n", "peft_layers_to_transform"},
      {"bnb_config_kwargs: {bnb_4bit_quant_type: fp4}\n", "bnb_4bit_quant_type"},
      {"chat_template: chatmll\n", "chat_template"},
      {"chat_template: tokenizer_default_fallback_x\n", "chat_template"},
      {"lr_groups: [{name: a}]\n", "lr_groups"},
      {"test_datasets: {path: x}\n", "test_datasets"},
      {"test_datasets: [x]\n", "test_datasets.0"},
      {"lora_dropout: 1.5\n", "lora_dropout"},
      {"pretraining_dataset: [{path: a}, {path: b}]\nmax_steps: 5\n", "pretraining_dataset"},
      {"optimizer: adamw\n", "optimizer"},
      {"test_datasets: [{path: x, shards: 2, shards_idx: 2}]\n", "shards_idx"},
      {"test_datasets: [{path: x, roles: [a]}]\n", "roles"},
      {"test_datasets: [{path: x, type: alpacca}]\n", "alpaca"},
      {"test_datasets: [{path: x, message_field_role: a, message_property_mappings: {role: b}}]\n", "message_field_role"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *text = memory_format("%s%s", LORA, cases[i].line);
    assert_fails(STATUS_USAGE, parse(text), "r.yml:", cases[i].key);
    free(text);
  }
}

// --- keys against each other ---

static void conflicting_keys_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *key, *word;
  } cases[] = {
      {HEAD "adapter: lora\n", "gradient_accumulation_steps", "at least two"},
      {LORA "batch_size: 16\n", "batch_size", "exclude"},
      {HEAD STEPS "load_in_4bit: true\n", "load_in_4bit", "adapter"},
      {HEAD STEPS "load_in_8bit: true\n", "load_in_8bit", "adapter"},
      {HEAD STEPS "adapter: qlora\n", "adapter", "load_in_4bit: true"},
      {HEAD STEPS "adapter: qlora\nload_in_4bit: true\nload_in_8bit: true\n", "load_in_8bit", "4-bit"},
      {LORA "warmup_steps: 5\nwarmup_ratio: 0.1\n", "warmup_ratio", "exclude"},
      {LORA "save_steps: 5\nsaves_per_epoch: 1\n", "saves_per_epoch", "exclude"},
      {LORA "save_steps: 5\nsave_strategy: epoch\n", "save_steps", "save_strategy"},
      {LORA "val_set_size: 0.1\neval_steps: 5\nevals_per_epoch: 1\n", "evals_per_epoch", "exclude"},
      {LORA "eval_steps: 5\n", "eval_steps", "no evaluation data"},
      {LORA "eval_strategy: epoch\n", "eval_strategy", "no evaluation data"},
      {LORA "evaluation_strategy: epoch\n", "evaluation_strategy", "no evaluation data"},
      {LORA "val_set_size: 0.1\ntest_datasets: [{path: x, type: alpaca}]\n", "test_datasets", "exclude"},
      {LORA "val_set_size: 1.5\n", "val_set_size", "whole"},
      {LORA "rl: dpo\nsample_packing: true\n", "sample_packing", "rl"},
      {LORA "rl: dpo\nstreaming: true\nmax_steps: 5\n", "rl", "not streamed"},
      {LORA "rl: dpo\ndpo_loss_type: [exo_pair]\n", "dpo_loss_type", "label_smoothing"},
      {LORA "rl: dpo\ndpo_loss_type: [robust]\ndpo_label_smoothing: 0.5\n", "dpo_label_smoothing", "below 0.5"},
      {LORA "rl: dpo\nrl_beta: 0\n", "rl_beta", "above 0"},
      {LORA "test_datasets: [{path: x, type: sharegpt}]\n", "test_datasets.0.type", "chat_template"},
      {LORA "test_datasets: [{path: x, type: sharegpt:chat}]\n", "test_datasets.0.type", "message_property_mappings"},
      {LORA "chat_template: jinja\n", "chat_template", "chat_template_jinja"},
      {LORA "test_datasets: [{path: x, type: chat_template, chat_template: jinja}]\n", "test_datasets.0.chat_template",
       "chat_template_jinja"},
      {LORA "val_set_size: 0.1\nearly_stopping_patience: 3\nsave_steps: 25\neval_steps: 10\n", "early_stopping_patience", "multiple"},
      {LORA "val_set_size: 0.1\nearly_stopping_patience: 3\nsave_steps: 20\nevals_per_epoch: 2\n", "early_stopping_patience", "meet"},
      {LORA "val_set_size: 0.1\nearly_stopping_patience: 3\nsaves_per_epoch: 2\nevals_per_epoch: 3\n", "early_stopping_patience",
       "multiple"},
      {LORA "early_stopping_patience: 3\nsave_steps: 20\n", "early_stopping_patience", "val_set_size"},
      {LORA "save_strategy: best\n", "save_strategy", "metric_for_best_model"},
      {LORA "tokens: [<a>]\n", "tokens", "lora_modules_to_save"},
      {LORA "tokens: [<a>]\nlora_modules_to_save: [lm_head]\n", "tokens", "embed_tokens"},
      {LORA "streaming: true\n", "streaming", "max_steps"},
      {LORA "eot_tokens: ['']\n", "eot_tokens", "empty"},
      {LORA "bf16: true\nfp16: true\n", "fp16", "exclude"},
      {LORA "dpo_loss_type: [sigmoid, hinge]\ndpo_loss_weights: [1]\n", "dpo_loss_weights", "2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *key = memory_format(": %s: ", cases[i].key);
    assert_fails(STATUS_USAGE, parse(cases[i].text), "r.yml:", key, cases[i].word);
    assert_int_equal(recipe.problem_count, 1);
    free(key);
  }
}

static void keys_that_agree_are_accepted(void **state) {
  (void)state;
  static const char *const cases[] = {
      LORA "warmup_steps: 0\nwarmup_ratio: 0.1\n",
      LORA "val_set_size: 0.1\nearly_stopping_patience: 3\nsave_steps: 20\neval_steps: 10\n",
      LORA "val_set_size: 0.1\nearly_stopping_patience: 3\nsaves_per_epoch: 1\nevals_per_epoch: 4\n",
      LORA "val_set_size: 0\ntest_datasets: [{path: x, type: alpaca}]\n",
      LORA "save_strategy: best\nmetric_for_best_model: eval_loss\nval_set_size: 0.1\n",
      LORA "tokens: [<a>]\nlora_modules_to_save: [embed_tokens, lm_head]\n",
      LORA "streaming: true\nmax_steps: 100\n",
      LORA "eval_strategy: no\n",
      LORA "tensor_parallel_size: 1\ncontext_parallel_size: 1\n",
      HEAD STEPS,
      HEAD STEPS "adapter: qlora\nload_in_4bit: true\n",
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) assert_ok(parse(cases[i]));
}

static void evals_per_epoch_without_data_is_only_a_notice(void **state) {
  (void)state;
  assert_ok(parse(LORA "evals_per_epoch: 4\nval_set_size: 0\n"));
  assert_true(has_notice("evals_per_epoch"));
}

static void a_batch_size_gives_the_accumulation(void **state) {
  (void)state;
  assert_ok(parse(HEAD "adapter: lora\nbatch_size: 16\n"));
  assert_int_equal(recipe.gradient_accumulation_steps, 8);
  assert_fails(STATUS_USAGE, parse(HEAD "adapter: lora\nbatch_size: 1\n"), "batch_size", "micro_batch_size");
}

// --- the other keys ---

static void keys_that_change_nothing_are_noticed_once(void **state) {
  (void)state;
  assert_ok(parse(LORA "wandb_project: p\nplugins: [x]\nflash_attention: true\nxformers_attention: false\nunfrozen_parameters: [a]\n"));
  assert_true(has_notice("wandb_project") && has_notice("plugins") && has_notice("flash_attention") && has_notice("unfrozen_parameters"));
  assert_int_equal(recipe.remark_count, 4);
}

static void refused_keys_say_why_and_what_to_do(void **state) {
  (void)state;
  assert_fails(STATUS_USAGE, parse(LORA "fsdp: [full_shard]\n"), "r.yml:12:1: fsdp: is refused", "shard_base");
  assert_fails(STATUS_USAGE, parse(LORA "deepspeed: zero2.json\n"), "deepspeed: is refused");
  assert_fails(STATUS_USAGE, parse(LORA "tensor_parallel_size: 2\n"), "tensor_parallel_size: is refused");
  assert_fails(STATUS_USAGE, parse(LORA "processor_type: AutoProcessor\n"), "processor_type: is refused", "text");
  assert_fails(STATUS_USAGE, parse(LORA "gptq: true\n"), "gptq: is refused");
  assert_fails(STATUS_USAGE, parse(LORA "rl: grpo\n"), "r.yml:12:5: rl: grpo is refused", "use dpo");
}

static void offloading_is_noticed_where_it_moves_nothing(void **state) {
  (void)state;
  assert_ok(parse(LORA "gradient_checkpointing: offload\n"));
  assert_true(has_notice("gradient_checkpointing"));
  assert_ok(parse(LORA "gradient_checkpointing: offload\ndevice: cuda\n"));
  assert_false(has_notice("gradient_checkpointing"));
  assert_ok(parse(LORA "gradient_checkpointing: offload_disk\ndevice: cuda\n"));
  assert_true(has_notice("gradient_checkpointing"));
  assert_ok(parse(LORA "gradient_checkpointing: true\n"));
  assert_false(has_notice("gradient_checkpointing"));
}

static void dead_keys_are_noticed_with_what_was_meant(void **state) {
  (void)state;
  assert_ok(parse(LORA "adam_eps: 1e-6\ngptq_groupsize: 128\n"));
  assert_true(has_notice("adam_eps") && has_notice("gptq_groupsize"));
  assert_non_null(strstr(recipe.remarks[0].message, "adam_epsilon"));
}

static void every_key_of_axolotl_is_known_by_name(void **state) {
  (void)state;
  char *path = shared_path("design/axolotl-keys.tsv");
  if (!path) skip_test("the list of Axolotl's keys is not there");
  Buffer text = {0};
  assert_ok(file_read(&text, path, 1 << 20));
  free(path);
  int known = 0, dataset_keys = 0;
  bool of_datasets = false;
  for (char *save, *line = strtok_r(text.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    if (line[0] == '#') {
      of_datasets = strstr(line, "datasets[]") != NULL;
      continue;
    }
    for (char *inner, *name = strtok_r(line, of_datasets ? " " : "\t", &inner); name; name = strtok_r(NULL, " ", &inner)) {
      bool found =
          of_datasets ? schema_find(&schema_dataset, name) != NULL : schema_find(&schema_recipe, name) || schema_find(&schema_others, name);
      if (!found) fail_msg("the key %s is not known", name);
      if (!of_datasets) {
        // The other columns: uses, uses in scope, and "dead" where Axolotl reads the key nowhere.
        const SchemaKey *key = schema_find(&schema_others, name);
        bool dead = strstr(inner, "dead") != NULL;
        if (dead != (key && key->fate == KEY_DEAD)) fail_msg("whether %s is dead is not as in the list", name);
        known++;
        break;
      }
      dataset_keys++;
    }
  }
  assert_true(known > 400 && dataset_keys > 30);
  buffer_release(&text);
}

static int count_rows(const SchemaTable *table, const char *name) {
  int rows = 0;
  for (int i = 0; i < table->count; i++) {
    const SchemaTable one = {&table->keys[i], 1};
    if (schema_find(&one, name)) rows++;
  }
  return rows;
}

static void no_key_has_two_rows(void **state) {
  (void)state;
  const SchemaTable *const tables[] = {&schema_recipe, &schema_others};
  for (int t = 0; t < 2; t++) {
    for (int i = 0; i < tables[t]->count; i++) {
      char names[2048];
      snprintf(names, sizeof names, "%s", tables[t]->keys[i].names ? tables[t]->keys[i].names : "");
      for (char *save, *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save))
        if (count_rows(&schema_recipe, name) + count_rows(&schema_others, name) != 1) fail_msg("%s stands in two rows", name);
    }
  }
}

// --- what train cannot do yet ---

static void supported_recipes_can_be_trained(void **state) {
  (void)state;
  static const char *const cases[] = {LORA,
                                      HEAD STEPS,
                                      LORA "lora_modules_to_save: [lm_head]\n",
                                      LORA "peft_trainable_token_indices: {embed_tokens: [5, 7]}\n",
                                      LORA "optimizer: adamw_bnb_8bit\nlr_scheduler: linear\n",
                                      LORA "optimizer: muon\noptim_args: mu=0.9, nesterov=false\nlr_scheduler: rex\n",
                                      LORA "cosine_min_lr_ratio: 0.1\ncosine_constant_lr_ratio: 0.8\nlr_quadratic_warmup: false\n",
                                      LORA
                                      "loraplus_lr_ratio: 16\nlr_groups: [{name: a, modules: [q_proj], lr: 1e-3}]\nembedding_lr: 1e-5\n",
                                      LORA "optimizer: paged_adamw_32bit\npeft_init_lora_weights: true\n",
                                      LORA "lr_scheduler: constant_with_warmup\nwandb_project: x\nearly_stopping_patience:\n",
                                      LORA "test_datasets: [{path: x}, {path: y, type: {format: a}}, {path: z, type: completion}]\n"};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    assert_ok(parse(cases[i]));
    assert_ok(recipe_check_trainable(&recipe));
  }
}

static void what_is_not_built_validates_and_train_names_it(void **state) {
  (void)state;
  static const struct {
    const char *text, *place;
  } cases[] = {{LORA "peft_trainable_token_indices: {lm_head: [5]}\n", "r.yml:12:1: peft_trainable_token_indices"},
               {LORA "model_config: {rope_theta: 5}\n", "r.yml:12:1: model_config"},
               {LORA "optimizer: adopt_adamw\n", "r.yml:12:1: optimizer"},
               {LORA "test_datasets: [{path: x, type: chatml.intel}]\n", "r.yml:12:27: test_datasets.0.type"},
               {LORA "peft_init_lora_weights: eva\n", "peft_init_lora_weights"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    assert_ok(parse(cases[i].text));
    assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), cases[i].place, "not built");
  }
}

static void starts_that_need_the_data_or_other_bits_are_refused(void **state) {
  (void)state;
  static const char *const cases[][3] = {
      {LORA "peft_init_lora_weights: eva\n", "r.yml:12:1: peft_init_lora_weights: eva", "passes over the data"},
      {LORA "peft_init_lora_weights: corda\n", "r.yml:12:1: peft_init_lora_weights: corda", "passes over the data"},
      {LORA "peft_init_lora_weights: loftq\n", "r.yml:12:1: peft_init_lora_weights: loftq", "load_in_4bit: true"},
      {LORA "peft: {loftq_config: {loftq_bits: 4}}\n", "r.yml:12:1: peft: loftq", "load_in_4bit: true"},
      {LORA "load_in_4bit: true\npeft: {loftq_config: {loftq_bits: 2}}\n", "r.yml:13:1: peft: loftq_bits: 2", "4 is"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    assert_ok(parse(cases[i][0]));
    assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), cases[i][1], cases[i][2]);
  }
  static const char *const good[] = {LORA "peft_init_lora_weights: pissa_niter_4\n",
                                     LORA "peft_init_lora_weights: orthogonal\npeft_use_dora: true\n",
                                     LORA "load_in_8bit: true\nlora_rank_pattern: {q_proj: 2}\npeft_layers_to_transform: [0]\n",
                                     LORA "load_in_4bit: true\npeft: {loftq_config: {loftq_bits: 4}}\n"};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    assert_ok(parse(good[i]));
    assert_ok(recipe_check_trainable(&recipe));
  }
}

static void train_names_all_that_is_not_built_at_once(void **state) {
  (void)state;
  assert_ok(parse(
      LORA "model_config: {rope_theta: 5}\noptimizer: galore_adamw\nlr_div_factor: 25\ntest_datasets: [{path: x, type: chatml.intel}]\n"));
  assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe),
               "r.yml:12:1: model_config: is not built yet in this version (keys of the model", "remove it to train without",
               "\nr.yml:14:1: lr_div_factor: is not built yet",
               "\nr.yml:13:1: optimizer: galore_adamw is a method for training weights in full",
               "\nr.yml:15:27: test_datasets.0.type: the type chatml.intel");
}

static void overrides_that_concern_no_frozen_model_train(void **state) {
  (void)state;
  assert_ok(parse(LORA "model_config:\n  output_router_logits: true\nresize_token_embeddings_to_32x: true\n"));
  assert_ok(recipe_check_trainable(&recipe));
  assert_ok(parse(LORA "model_config:\n  output_router_logits: true\n  rope_theta: 1e6\n"));
  assert_fails(STATUS_USAGE, recipe_check_trainable(&recipe), "model_config", "config.json");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(absent_keys_have_their_defaults),
      cmocka_unit_test(values_are_read_by_their_type),
      cmocka_unit_test(target_modules_are_names_a_regex_or_all),
      cmocka_unit_test(a_dataset_entry_is_read_whole),
      cmocka_unit_test(a_null_key_counts_as_absent_even_a_refused_one),
      cmocka_unit_test(overrides_win_and_reach_into_lists),
      cmocka_unit_test(the_resolved_recipe_reads_back_the_same),
      cmocka_unit_test(a_misspelt_key_is_refused_with_its_place_and_the_nearest),
      cmocka_unit_test(strict_false_makes_unknown_keys_warnings),
      cmocka_unit_test(every_problem_of_a_file_is_reported_a_line_each),
      cmocka_unit_test(what_is_no_recipe_is_refused),
      cmocka_unit_test(values_of_their_own_form_are_checked),
      cmocka_unit_test(conflicting_keys_are_refused),
      cmocka_unit_test(keys_that_agree_are_accepted),
      cmocka_unit_test(evals_per_epoch_without_data_is_only_a_notice),
      cmocka_unit_test(a_batch_size_gives_the_accumulation),
      cmocka_unit_test(keys_that_change_nothing_are_noticed_once),
      cmocka_unit_test(refused_keys_say_why_and_what_to_do),
      cmocka_unit_test(offloading_is_noticed_where_it_moves_nothing),
      cmocka_unit_test(dead_keys_are_noticed_with_what_was_meant),
      cmocka_unit_test(every_key_of_axolotl_is_known_by_name),
      cmocka_unit_test(no_key_has_two_rows),
      cmocka_unit_test(supported_recipes_can_be_trained),
      cmocka_unit_test(what_is_not_built_validates_and_train_names_it),
      cmocka_unit_test(overrides_that_concern_no_frozen_model_train),
      cmocka_unit_test(starts_that_need_the_data_or_other_bits_are_refused),
      cmocka_unit_test(train_names_all_that_is_not_built_at_once),
  };
  return cmocka_run_group_tests(tests, recipe_set_up, recipe_tear_down);
}
