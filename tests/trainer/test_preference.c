// Preference training of tiny models beside TRL's own trainers (tests/tools/make_preference_reference.py, and golden/preference of ../shared):
// losses over five steps, rewards, log-probabilities, gradients; prompts computed once or twice; references computed before or beside; memory.
#include <jansson.h>
#include <math.h>

#include "core/file.h"
#include "tests/support/golden.h"
#include "tests/support/recipe.h"
#include "trainer/preference.h"

typedef struct Fixture {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Step step;
  Preference *preference;
  RowSet rows;
  BatchPlan plan;
  Batch batch;
} Fixture;

// ---- A run: a recipe's settings, a model with its adapter, rows

static void open_run(Fixture *f, const char *family, const char *recipe_lines, bool is_base) {
  *f = (Fixture){0};
  Buffer text = {0};
  buffer_format(&text,
                "base_model: x\ndatasets: [{path: x, type: chatml}]\nlearning_rate: 1e-2\nadapter: lora\nlora_r: 2\nlora_alpha: 4\n%s",
                recipe_lines);
  assert_ok(parse_recipe("recipe.yml", text.data, NULL));
  buffer_release(&text);
  assert_ok(backend_new(&f->backend, "cpu", 2));
  assert_ok(model_open(&f->model, family, (ModelOptions){0}, f->backend));
  char *path = path_join(family, "adapter");
  assert_ok(adapter_open(&f->adapter, f->model, (const char *[]){path}, NULL, 1, true));
  free(path);
  adapter_set_dropout(f->adapter, 0);
  step_new(&f->step, f->model, FLOAT_32, CHECKPOINT_AUTO, (int64_t)1 << 30);
  assert_ok(preference_open(&f->preference, &recipe, f->adapter, &f->step, is_base));
}

static void close_run(Fixture *f) {
  batch_plan_release(&f->plan);
  batch_release(&f->batch);
  row_set_release(&f->rows);
  preference_close(f->preference);
  step_free(&f->step);
  adapter_close(f->adapter);
  model_close(f->model);
  backend_free(f->backend);
}

static void add_ids(int32_t *ids, int64_t *count, const json_t *list) {
  for (size_t i = 0; i < json_array_size(list); i++) ids[(*count)++] = (int32_t)json_integer_value(json_array_get(list, i));
}

// A prompt and one or two replies.
static void add_row(RowSet *rows, const json_t *prompt, const json_t *better, const json_t *worse, bool is_undesirable) {
  int32_t ids[512], labels[512];
  int64_t count = 0, prompt_end, rejected = 0;
  add_ids(ids, &count, prompt);
  prompt_end = count;
  add_ids(ids, &count, better);
  if (worse) {
    rejected = count;
    add_ids(ids, &count, worse);
  }
  for (int64_t i = 0; i < count; i++) labels[i] = i < prompt_end ? LABEL_MASKED : ids[i];
  row_set_add(rows, ids, labels, count, "row");
  TokenRow *row = &rows->rows[rows->count - 1];
  row->prompt = prompt_end;
  row->rejected = rejected;
  row->is_undesirable = is_undesirable;
}

static void plan_rows(Fixture *f, int64_t micro_batch_size, bool shares_prompts) {
  batch_plan_release(&f->plan);
  BatchOptions options = batch_options_from_recipe(&recipe, true);
  options.micro_batch_size = micro_batch_size;
  options.shares_prompts = shares_prompts;
  assert_ok(batch_plan_create(&f->plan, &f->rows, &options, 0));
}

// One pass over the plan, with gradients: the loss of a step.
static double run_pass(Fixture *f, PreferenceSums *sums, PreferenceShare *share, ReferenceScores reference) {
  *sums = (PreferenceSums){0};
  *share = (PreferenceShare){0};
  f->backend->kernels->fill(f->adapter->gradient, 0, f->adapter->size, f->backend);
  for (int64_t b = 0; b < f->plan.batch_count; b++) {
    batch_fill(&f->batch, &f->plan, b);
    preference_count(share, f->preference, &f->batch);
  }
  for (int64_t b = 0; b < f->plan.batch_count; b++) {
    batch_fill(&f->batch, &f->plan, b);
    assert_ok(preference_run(sums, f->preference, &f->plan, b, &f->batch, TAPE_TRAIN, share, 1, reference));
  }
  return preference_mean_loss(sums, share, f->preference);
}

// ---- TRL's numbers

static double setting(const json_t *settings, const char *name, double otherwise) {
  const json_t *value = json_object_get(settings, name);
  return value ? json_number_value(value) : otherwise;
}

static void write_list(Buffer *lines, const char *key, const json_t *list) {
  if (!list) return;
  char *text = json_dumps(list, JSON_ENCODE_ANY);
  buffer_format(lines, "%s: %s\n", key, text);
  free(text);
}

// What a recipe says where TRL is told these settings.
static void recipe_of(Buffer *lines, const char *trainer, const json_t *settings, int64_t micro_batch_size) {
  bool is_orpo = strcmp(trainer, "orpo") == 0, is_dpo = strcmp(trainer, "dpo") == 0;
  buffer_format(lines, "rl: %s\n%s: %g\nmicro_batch_size: %d\ngradient_accumulation_steps: 1\n", strcmp(trainer, "cpo") ? trainer : "simpo",
                is_orpo ? "orpo_alpha" : "rl_beta", setting(settings, "beta", 0), (int)micro_batch_size);
  buffer_format(lines, "dpo_label_smoothing: %g\nsimpo_gamma: %g\ncpo_alpha: %g\nkto_desirable_weight: %g\nkto_undesirable_weight: %g\n",
                setting(settings, "label_smoothing", 0), setting(settings, "simpo_gamma", 0.5), setting(settings, "cpo_alpha", 1),
                setting(settings, "desirable_weight", 1), setting(settings, "undesirable_weight", 1));
  if (is_dpo) write_list(lines, "dpo_loss_type", json_object_get(settings, "loss_type"));
  write_list(lines, "dpo_loss_weights", json_object_get(settings, "loss_weights"));
}

// rewards/chosen and so on. TRL's are means over micro-batches, ours over rows: the same where every micro-batch has as many of a kind.
static void check_metrics(const char *name, const Fixture *f, const PreferenceSums *sums, const PreferenceShare *share,
                          const json_t *metrics, bool is_kto) {
  Figures figures = {0};
  preference_figures(&figures, sums, share, f->preference);
  int compared = 0;
  for (int i = 0; i < figures.count; i++) {
    const json_t *value = json_object_get(metrics, figures.items[i].name);
    if (!value || (is_kto && f->plan.batch_count > 1 && strcmp(figures.items[i].name, "kl") != 0)) continue;
    double expected = json_number_value(value);
    if (!(fabs(figures.items[i].value - expected) <= 1e-4 * fmax(1, fabs(expected))))
      fail_msg("%s: %s is %.7g, TRL's is %.7g", name, figures.items[i].name, figures.items[i].value, expected);
    compared++;
  }
  assert_true(compared >= 1);
}

// Within 1e-4 at the first step, 1e-3 after.
static void check_losses(const char *name, Fixture *f, const json_t *losses, const json_t *metrics, bool is_kto, const Safetensors *golden);

static void check_gradients(const char *name, const Fixture *f, const Safetensors *golden, const char *prefix, bool is_gradient) {
  for (int i = 0; i < f->adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &f->adapter->tensors[i];
    char key[256];
    snprintf(key, sizeof key, "%sbase_model.model.%s.lora_%c.weight", prefix, tensor->module, tensor->role == TENSOR_LORA_A ? 'A' : 'B');
    float *expected = golden_floats(golden, key);
    const Parameter *p = tensor->parameter;
    double error = max_relative_error(is_gradient ? p->gradient : p->data, expected, p->rows * p->columns);
    free(expected);
    if (!(error <= (is_gradient ? 1e-4 : 1e-2))) fail_msg("%s: %s is off by %g", name, key, error);
  }
}

static void adamw_step(Fixture *f, float *m, float *v, int64_t step) {
  AdamwSettings adam = {.learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .step = step, .gradient_scale = 1};
  f->backend->kernels->adamw(f->adapter->data, m, v, f->adapter->gradient, f->adapter->size, adam, f->backend);
}

static void check_losses(const char *name, Fixture *f, const json_t *losses, const json_t *metrics, bool is_kto,
                         const Safetensors *golden) {
  float *m = memory_new((size_t)f->adapter->size, sizeof *m), *v = memory_new((size_t)f->adapter->size, sizeof *v);
  PreferenceSums sums;
  PreferenceShare share;
  for (size_t i = 0; i < 5; i++) {
    double loss = run_pass(f, &sums, &share, NULL), expected = json_number_value(json_array_get(losses, i));
    if (i == 0) check_metrics(name, f, &sums, &share, metrics, is_kto);
    if (i == 0 && golden) check_gradients(name, f, golden, "grad.", true);
    if (!(fabs(loss - expected) <= (i ? 1e-3 : 1e-4))) fail_msg("%s: step %d has loss %.7f, TRL %.7f", name, (int)i + 1, loss, expected);
    adamw_step(f, m, v, (int64_t)i + 1);
  }
  if (golden) check_gradients(name, f, golden, "step5.", false);
  free(m);
  free(v);
}

static void check_run(const char *name, const char *family, const char *trainer, const json_t *settings, int64_t micro_batch_size,
                      const json_t *rows, const json_t *losses, const json_t *metrics, const Safetensors *golden) {
  for (int shares = 0; shares < 2; shares++) {
    Fixture f;
    Buffer lines = {0};
    recipe_of(&lines, trainer, settings, micro_batch_size);
    open_run(&f, family, lines.data, true);
    buffer_release(&lines);
    bool is_kto = strcmp(trainer, "kto") == 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
      const json_t *row = json_array_get(rows, i), *parts[3];
      static const char *const names[2][3] = {{"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"}};
      for (size_t p = 0; p < 3; p++) parts[p] = json_is_array(row) ? json_array_get(row, p) : json_object_get(row, names[is_kto][p]);
      add_row(&f.rows, parts[0], parts[1], is_kto ? NULL : parts[2], is_kto && json_integer_value(parts[2]) == 0);
    }
    plan_rows(&f, micro_batch_size, shares);
    check_losses(name, &f, losses, metrics, is_kto, golden);
    close_run(&f);
  }
}

static void every_loss_follows_trl_for_five_steps(void **state) {
  (void)state;
  json_t *root = json_load_file(TESTS_DIR "/trainer/data/preference.json", 0, NULL), *run;
  assert_non_null(root);
  char *family = path_join(TESTS_DIR "/adapters/data/families", json_string_value(json_object_get(root, "family")));
  const char *name;
  int runs = 0;
  json_object_foreach(json_object_get(root, "runs"), name, run) {
    check_run(name, family, json_string_value(json_object_get(run, "trainer")), json_object_get(run, "settings"),
              json_integer_value(json_object_get(run, "rows_per_micro_batch")), json_object_get(run, "rows"),
              json_object_get(run, "losses"), json_object_get(run, "metrics"), NULL);
    runs++;
  }
  assert_int_equal(runs, 22);
  free(family);
  json_decref(root);
}

static void gradients_and_adapters_are_those_of_the_golden_runs(void **state) {
  (void)state;
  char *family = shared_path("golden/families/llama");
  if (!family) skip_test("../shared/golden is not there");
  static const char *const names[][2] = {{"dpo", "dpo"},     {"dpo_hinge", "dpo"}, {"dpo_ls", "dpo"}, {"dpo_robust", "dpo"},
                                         {"dpo_rpo", "dpo"}, {"ipo", "dpo"},       {"simpo", "cpo"},  {"orpo", "orpo"},
                                         {"kto", "kto"},     {"kto_micro", "kto"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char relative[96];
    snprintf(relative, sizeof relative, "golden/preference/%s.json", names[i][0]);
    char *path = shared_path(relative);
    json_t *root = json_load_file(path, 0, NULL), *trl = json_object_get(root, "trl");
    assert_non_null(root);
    Safetensors golden;
    snprintf(relative, sizeof relative, "golden/preference/%s.safetensors", names[i][0]);
    char *tensors = shared_path(relative);
    assert_ok(safetensors_open(&golden, tensors));
    check_run(names[i][0], family, names[i][1], json_object_get(trl, "settings"),
              json_integer_value(json_object_get(trl, "rows_per_micro_batch")), json_object_get(root, "rows"),
              json_object_get(root, "losses"), json_object_get(root, "metrics"), &golden);
    safetensors_close(&golden);
    json_decref(root);
    free(path);
    free(tensors);
  }
  free(family);
}

// ---- Prompts computed once

// Random pairs: prompts of 0, 1, 2 tokens and longer ones than a window.
static void random_pairs(Fixture *f) {
  static const int64_t lengths[][3] = {{30, 9, 14}, {0, 5, 7}, {1, 6, 3}, {2, 4, 8}, {17, 1, 20}, {45, 12, 1}};
  Rng rng = rng_new(23, RNG_STREAM_TEST);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    int32_t ids[128], labels[128];
    int64_t count = lengths[i][0] + lengths[i][1] + lengths[i][2];
    for (int64_t t = 0; t < count; t++) {
      ids[t] = (int32_t)rng_below(&rng, (uint64_t)f->model->config.vocabulary);
      labels[t] = t < lengths[i][0] ? LABEL_MASKED : ids[t];
    }
    row_set_add(&f->rows, ids, labels, count, "row");
    f->rows.rows[i].prompt = lengths[i][0];
    f->rows.rows[i].rejected = lengths[i][0] + lengths[i][1];
  }
}

// A run of DPO over the random pairs, which share their prompts.
static void open_pairs(Fixture *f, int micro_batch_size, bool is_base) {
  char lines[96];
  snprintf(lines, sizeof lines, "rl: dpo\nmicro_batch_size: %d\ngradient_accumulation_steps: 1\n", micro_batch_size);
  open_run(f, TESTS_DIR "/adapters/data/families/smollm3_nope", lines, is_base);
  random_pairs(f);
  plan_rows(f, micro_batch_size, true);
}

static float *gradient_copy(const Fixture *f) {
  float *copy = memory_new((size_t)f->adapter->size, sizeof *copy);
  memcpy(copy, f->adapter->gradient, (size_t)f->adapter->size * sizeof *copy);
  return copy;
}

static void a_shared_prompt_gives_what_two_prompts_give(void **state) {
  (void)state;
  char **families = golden_families();
  int compared = 0;
  for (char **family = families; *family; family++) {
    for (int method = 0; method < 2; method++) {
      Fixture f;
      open_run(&f, *family,
               method ? "rl: orpo\nmicro_batch_size: 3\ngradient_accumulation_steps: 1\n"
                      : "rl: dpo\nrl_beta: 0.5\nmicro_batch_size: 3\ngradient_accumulation_steps: 1\n",
               true);
      const ModelConfig *config = &f.model->config;
      bool depends = rope_depends_on_length(&config->rope) || (config->local_rope.base != 0 && rope_depends_on_length(&config->local_rope));
      if (!depends) {
        random_pairs(&f);
        PreferenceSums sums[2];
        PreferenceShare share[2];
        double losses[2];
        float *gradients[2];
        int64_t tokens[2];
        for (int shares = 0; shares < 2; shares++) {
          plan_rows(&f, 3, shares);
          losses[shares] = run_pass(&f, &sums[shares], &share[shares], NULL);
          gradients[shares] = gradient_copy(&f);
          tokens[shares] = f.plan.most_tokens;
        }
        assert_true(tokens[1] < tokens[0]);
        if (!(fabs(losses[1] - losses[0]) <= 1e-5)) fail_msg("%s: loss %.9f, apart %.9f", *family, losses[1], losses[0]);
        assert_int_equal(share[0].nll_tokens, share[1].nll_tokens);
        assert_close(gradients[1], gradients[0], f.adapter->size, 2e-5);
        free(gradients[0]);
        free(gradients[1]);
        compared++;
      }
      close_run(&f);
    }
  }
  golden_families_free(families);
  assert_true(compared >= 8);
}

static void recomputed_layers_give_the_same_bits(void **state) {
  (void)state;
  Fixture f;
  PreferenceSums sums;
  PreferenceShare share;
  open_pairs(&f, 3, true);
  double kept = run_pass(&f, &sums, &share, NULL);
  float *gradient = gradient_copy(&f);
  f.step.checkpointing = CHECKPOINT_ALL;
  assert_true(run_pass(&f, &sums, &share, NULL) == kept);
  assert_memory_equal(gradient, f.adapter->gradient, (size_t)f.adapter->size * sizeof *gradient);
  f.step.checkpointing = CHECKPOINT_OFFLOAD;
  f.step.tape.offloads = true;
  assert_true(run_pass(&f, &sums, &share, NULL) == kept);
  assert_memory_equal(gradient, f.adapter->gradient, (size_t)f.adapter->size * sizeof *gradient);
  free(gradient);
  close_run(&f);
}

// ---- References

static void a_reference_computed_before_is_that_computed_beside(void **state) {
  (void)state;
  Fixture f;
  PreferenceSums sums;
  PreferenceShare share;
  open_pairs(&f, 2, true);
  double beside = run_pass(&f, &sums, &share, NULL);
  ReferenceScores scores;
  Group alone = group_alone();
  assert_ok(preference_precompute(&scores, f.preference, &f.plan, &alone));
  assert_true(run_pass(&f, &sums, &share, scores) == beside);
  for (int64_t i = 0; i < 2 * f.rows.count; i++) assert_true(scores[i] < 0);
  free(scores);
  close_run(&f);
}

// With a frozen copy as the reference every ratio is 1 at the start, whatever the adapter holds, and no longer once it has moved.
static void the_reference_is_the_adapter_as_it_started(void **state) {
  (void)state;
  Fixture f;
  PreferenceSums sums;
  PreferenceShare share;
  open_pairs(&f, 3, false);
  double loss = run_pass(&f, &sums, &share, NULL);
  assert_true(sums.better.reward == 0 && sums.worse.reward == 0 && fabs(loss - log(2)) < 1e-12);
  float *m = memory_new((size_t)f.adapter->size, sizeof *m), *v = memory_new((size_t)f.adapter->size, sizeof *v);
  adamw_step(&f, m, v, 1);
  assert_true(run_pass(&f, &sums, &share, NULL) < loss);
  assert_true(sums.better.reward > sums.worse.reward);
  free(m);
  free(v);
  close_run(&f);
}

// ---- Memory: at most 1.3 times that of supervised training on the same tokens

static void pairs_take_little_more_memory_than_their_tokens(void **state) {
  (void)state;
  for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
    Fixture f;
    open_pairs(&f, 6, true);
    f.step.checkpointing = checkpointed ? CHECKPOINT_ALL : CHECKPOINT_NONE;
    batch_fill(&f.batch, &f.plan, 0);
    assert_ok(step_reserve(&f.step, &f.batch, TAPE_TRAIN));
    int64_t preference = tape_plan_bytes(&f.step.tape);
    memset(f.batch.forks, 0, (size_t)f.batch.document_count * sizeof *f.batch.forks);  // the same tokens as documents that do not fork
    f.step.is_likelihood = false;
    assert_ok(step_reserve(&f.step, &f.batch, TAPE_TRAIN));
    int64_t supervised = tape_plan_bytes(&f.step.tape);
    if (!(preference <= 1.3 * (double)supervised))
      fail_msg("pairs take %lld bytes, their tokens %lld", (long long)preference, (long long)supervised);
    close_run(&f);
  }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, recipe_set_up, recipe_tear_down)
  const struct CMUnitTest tests[] = {
      TEST(every_loss_follows_trl_for_five_steps),
      TEST(gradients_and_adapters_are_those_of_the_golden_runs),
      TEST(a_shared_prompt_gives_what_two_prompts_give),
      TEST(recomputed_layers_give_the_same_bits),
      TEST(a_reference_computed_before_is_that_computed_beside),
      TEST(the_reference_is_the_adapter_as_it_started),
      TEST(pairs_take_little_more_memory_than_their_tokens),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
