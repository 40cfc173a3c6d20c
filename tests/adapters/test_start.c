// How adapters begin: against PEFT's factors, what the base and the logits are then, what files say, and what is refused.
#include <math.h>

#include "adapters/start.h"
#include "adapters/svd.h"
#include "core/file.h"
#include "tests/support/golden.h"

enum { TOKENS = 24, RANK = 4 };

static const char tiny[] = TESTS_DIR "/data/tiny-hf", blocks[] = TESTS_DIR "/data/tiny.gguf";
static const char golden_path[] = TESTS_DIR "/adapters/data/variants/starts.safetensors";
static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"};

static Backend *backend;

static int open_backend(void **state) {
  (void)state;
  return backend_new(&backend, "cpu", 2) == STATUS_OK ? 0 : 1;
}

static int close_backend(void **state) {
  (void)state;
  backend_free(backend);
  return 0;
}

static Model *open_model(ModelOptions options) {
  Model *model;
  assert_ok(model_open(&model, tiny, options, backend));
  return model;
}

static Adapter *create(Model *model, const char *start, bool dora) {
  Adapter *adapter;
  AdapterSettings settings = {.rank = RANK, .alpha = 6, .all_linear = true, .dora = dora, .seed = 7};
  assert_ok(adapter_start_parse(&settings.start, &settings.start_iterations, start));
  assert_ok(adapter_create(&adapter, model, &settings));
  return adapter;
}

static float *logits_of(const Model *model) {
  int32_t ids[TOKENS];
  for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * 37 + 5) % model->config.vocabulary);
  return golden_logits(model, ids, 1, TOKENS);
}

static void assert_logits(const Model *model, const float *expected, double tolerance) {
  float *actual = logits_of(model);
  assert_close(actual, expected, TOKENS * model->config.vocabulary, tolerance);
  free(actual);
}

// out[out, 4] = scale B A x
static void product(float *out, const LowRank *pair, const float *x) {
  for (int64_t row = 0; row < pair->b.rows; row++)
    for (int k = 0; k < 4; k++) {
      double sum = 0;
      for (int64_t r = 0; r < pair->a.rows; r++) {
        double low = 0;
        for (int64_t c = 0; c < pair->a.columns; c++) low += (double)pair->a.data[r * pair->a.columns + c] * x[c * 4 + k];
        sum += low * pair->b.data[row * pair->a.rows + r];
      }
      out[row * 4 + k] = (float)((double)pair->scale * sum);
    }
}

// (A random subspace ends in the leading vectors where these stand out: of the second module's values the fourth is 1.03 times the fifth, and
// 16 iterations of PEFT's are still half as large as the vectors away from them.)
static void pissa_and_olora_begin_as_in_peft(void **state) {
  (void)state;
  static const struct {
    const char *name;
    double tolerance;
  } starts[] = {{"pissa", 1e-4}, {"olora", 1e-4}, {"pissa_niter_16", 5e-2}};
  Safetensors golden;
  assert_ok(safetensors_open(&golden, golden_path));
  for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
    Model *model = open_model((ModelOptions){0});
    Adapter *adapter = create(model, starts[s].name, false);
    int seen = 0;
    for (int i = 0; i < adapter->count; i++)
      for (int m = 0; m < 2; m++) {
        if (strcmp(adapter->linears[i]->name, modules[m]) != 0 || (s == 2 && m == 1)) continue;
        const LowRank *pair = &adapter->pairs[i];
        char *name = memory_format("%s.%s", starts[s].name, modules[m]), *input = memory_format("x.%d", (int)pair->a.columns);
        float *expected = golden_floats(&golden, name), *x = golden_floats(&golden, input);
        float *actual = memory_new((size_t)pair->b.rows * 4, sizeof *actual);
        product(actual, pair, x);
        assert_close_at(actual, expected, pair->b.rows * 4, starts[s].tolerance, name, __FILE__, __LINE__);
        free(expected);
        free(x);
        free(actual);
        free(name);
        free(input);
        seen++;
      }
    assert_int_equal(seen, s == 2 ? 1 : 2);
    adapter_close(adapter);
    model_close(model);
  }
  safetensors_close(&golden);
}

static void a_moved_base_and_its_adapter_begin_as_the_base(void **state) {
  (void)state;
  static const char *const starts[] = {"pissa", "olora", "pissa_niter_2"};
  for (int s = 0; s < 6; s++) {
    Model *model = open_model((ModelOptions){0});
    float *base = logits_of(model);
    const Matrix weight = model->linears[0]->weight;
    Adapter *adapter = create(model, starts[s % 3], s >= 3);
    assert_true(model->linears[0]->weight.data != weight.data);
    assert_int_equal(model->linears[0]->weight.type, weight.type);
    int64_t bytes = 0;
    for (int i = 0; i < model->linear_count; i++) bytes += 2 * model->linears[i]->weight.rows * model->linears[i]->weight.columns;
    assert_int_equal(adapter->residual_bytes, bytes);
    assert_logits(model, base, 2e-2);  // what bfloat16 rounds of the rest
    // Off, it is the base itself; and so it is when the adapter is gone.
    adapter_set_enabled(adapter, false);
    float *off = logits_of(model);
    assert_memory_equal(off, base, (size_t)(TOKENS * model->config.vocabulary) * sizeof *base);
    adapter_set_enabled(adapter, true);
    assert_true(model->linears[0]->weight.data != weight.data);
    adapter_close(adapter);
    assert_true(model->linears[0]->weight.data == weight.data);
    free(off);
    free(base);
    model_close(model);
  }
}

static double distance(const float *a, const float *b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
  return sqrt(sum);
}

// The distance of the adapted layers' weights from those of the floats, over all layers.
static double weight_distance(const Model *model, const Adapter *adapter) {
  Model *floats = open_model((ModelOptions){0});
  double sum = 0;
  for (int i = 0; i < model->linear_count; i++) {
    const Matrix *w = &floats->linears[i]->weight, *own = &model->linears[i]->weight;
    const LowRank *pair = adapter ? &adapter->pairs[i] : NULL;
    float *row = memory_new((size_t)w->columns * 2, sizeof *row), *other = row + w->columns;
    for (int64_t r = 0; r < w->rows; r++) {
      matrix_dequantize(row, w, r, 0, w->columns);
      matrix_dequantize(other, own, r, 0, w->columns);
      for (int64_t k = 0; pair && k < pair->a.rows; k++)
        for (int64_t c = 0; c < w->columns; c++)
          other[c] += pair->scale * pair->b.data[r * pair->a.rows + k] * pair->a.data[k * w->columns + c];
      double d = distance(row, other, w->columns);
      sum += d * d;
    }
    free(row);
  }
  model_close(floats);
  return sqrt(sum);
}

static void on_four_and_eight_bits_the_start_brings_weights_nearer_to_the_floats(void **state) {
  (void)state;
  for (int s = 0; s < 4; s++) {
    static const char *const starts[] = {"loftq", "pissa", "olora", "pissa"};
    ModelOptions options = {.quantize_nf4 = s < 3, .quantize_q8_0 = s == 3};
    Model *model = open_model(options);
    double before = weight_distance(model, NULL);
    Adapter *adapter = create(model, starts[s], false);
    assert_int_equal(model->linears[0]->weight.type, s < 3 ? BLOCK_NF4 : BLOCK_Q8_0);
    double after = weight_distance(model, adapter);
    if (s != 2) assert_true(after < 0.99 * before);  // OLoRA's part is not the leading one
    assert_true(after < 1.1 * before);
    if (s == 0) assert_null(adapter->initial);  // LoftQ leaves the quantised weights as they are
    adapter_close(adapter);
    model_close(model);
  }
}

// After some training the file's adapter over the base is what the one in memory is over what it left of it.
static void check_files(const char *start, bool dora, bool is_gguf) {
  Model *model = open_model((ModelOptions){0});
  float *base = logits_of(model);
  Adapter *adapter = create(model, start, dora);
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int64_t i = 0; i < adapter->size; i++) adapter->data[i] *= (float)(1 + 0.2 * rng_normal(&rng));
  float *expected = logits_of(model);
  char *path = path_join(test_folder, is_gguf ? "a.gguf" : "a");
  assert_ok(is_gguf ? adapter_save_gguf(adapter, path) : adapter_save_peft(adapter, path, tiny));
  adapter_close(adapter);
  assert_ok(adapter_open(&adapter, model, (const char *const[]){path}, NULL, 1, false));
  assert_int_equal(adapter->pairs[0].a.rows, 2 * RANK);
  assert_logits(model, expected, 2e-2);
  assert_true(max_relative_error(expected, base, TOKENS * model->config.vocabulary) > 0.1);  // which is more than that
  adapter_close(adapter);
  model_close(model);
  free(expected);
  free(base);
  free(path);
}

static void files_hold_an_adapter_for_the_base_as_it_is(void **state) {
  (void)state;
  check_files("pissa", false, false);
  check_files("pissa", false, true);
  check_files("olora", false, false);
  check_files("pissa", true, false);
}

// Another buffer of values: logits, files and what is off are of it, and the weights in place of the base's stay.
static void another_buffer_of_values_computes_and_is_written(void **state) {
  (void)state;
  Model *model = open_model((ModelOptions){0});
  float *base = logits_of(model);
  Adapter *adapter = create(model, "pissa", true);
  float *values = memory_new((size_t)adapter->size, sizeof *values), *own = adapter->data;
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int64_t i = 0; i < adapter->size; i++) values[i] = own[i] * (float)(1 + 0.2 * rng_normal(&rng));
  const void *residual = model->linears[0]->weight.data;
  assert_ptr_equal(adapter_set_data(adapter, values), own);
  assert_ptr_equal(adapter->pairs[3].magnitude.data, values + (adapter->pairs[4].a.data - values) - adapter->pairs[3].magnitude.rows);
  assert_ptr_equal(model->linears[0]->weight.data, residual);
  float *expected = logits_of(model);
  char *path = path_join(test_folder, "a");
  assert_ok(adapter_save_peft(adapter, path, tiny));
  adapter_set_enabled(adapter, false);
  float *off = logits_of(model);
  assert_memory_equal(off, base, (size_t)(TOKENS * model->config.vocabulary) * sizeof *base);
  adapter_set_enabled(adapter, true);
  assert_ptr_equal(adapter_set_data(adapter, own), values);
  assert_logits(model, base, 2e-2);
  adapter_close(adapter);
  assert_true(max_relative_error(expected, base, TOKENS * model->config.vocabulary) > 0.1);
  assert_ok(adapter_open(&adapter, model, (const char *const[]){path}, NULL, 1, false));
  assert_logits(model, expected, 2e-2);
  adapter_close(adapter);
  model_close(model);
  free(base), free(expected), free(off), free(values), free(path);
}

static void which_starts_are_the_base_up_to_rounding(void **state) {
  (void)state;
  static const struct {
    AdapterStart start;
    bool in_floats, quantised;
  } cases[] = {{START_PLAIN, true, true},  {START_RANDOM, false, false}, {START_GAUSSIAN, true, true}, {START_ORTHOGONAL, true, true},
               {START_PISSA, true, false}, {START_OLORA, true, false},   {START_LOFTQ, false, false}};
  Model floats = {0}, nf4 = {.options.quantize_nf4 = true}, eight = {.options.quantize_q8_0 = true};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(adapter_start_is_base(cases[i].start, &floats), cases[i].in_floats);
    assert_int_equal(adapter_start_is_base(cases[i].start, &nf4), cases[i].quantised);
    assert_int_equal(adapter_start_is_base(cases[i].start, &eight), cases[i].quantised);
  }
}

// As PEFT begins an adapted embedding: A zero and B normal, and both for `false`. The head is a linear layer like others.
static void the_embedding_and_the_head_begin_plainly(void **state) {
  (void)state;
  static const char *const starts[] = {"true", "gaussian", "false", "orthogonal", "pissa", "olora"}, *const targets[] = {"embed_tokens",
                                                                                                                         "lm_head"};
  Model *model = open_model((ModelOptions){0});
  float *base = logits_of(model);
  for (int s = 0; s < 6; s++)
    for (int t = 0; t < 2; t++) {
      AdapterSettings settings = {.rank = RANK, .alpha = 6, .targets = targets + t, .target_count = 1, .seed = 7};
      Adapter *adapter;
      assert_ok(adapter_start_parse(&settings.start, &settings.start_iterations, starts[s]));
      if (s >= 4 || (s == 3 && t == 0)) {
        assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &settings), "peft_init_lora_weights", targets[t]);
        continue;
      }
      assert_ok(adapter_create(&adapter, model, &settings));
      const LowRank *pair = &adapter->pairs[0];
      int64_t a_count = pair->a.rows * pair->a.columns, b_count = pair->b.rows * pair->b.columns;
      double a = 0, b = 0;
      for (int64_t i = 0; i < a_count; i++) a += (double)pair->a.data[i] * pair->a.data[i] / (double)a_count;
      for (int64_t i = 0; i < b_count; i++) b += (double)pair->b.data[i] * pair->b.data[i] / (double)b_count;
      if (t == 0) assert_true(fabs(b - 1) < 0.2 && (s == 2 ? fabs(a - 1) < 0.2 : a == 0));
      else assert_true(a > 0 && (b > 0) == (s >= 2));
      if (s != 2) assert_logits(model, base, 1e-4);
      adapter_close(adapter);
    }
  free(base);
  model_close(model);
}

static void plain_starts_have_their_deviations(void **state) {
  (void)state;
  Model *model = open_model((ModelOptions){0});
  static const char *const starts[] = {"true", "false", "gaussian", "orthogonal"};
  for (int s = 0; s < 4; s++) {
    Adapter *adapter = create(model, starts[s], false);
    double a = 0, b = 0, count = 0;
    for (int i = 0; i < adapter->count; i++) {
      const LowRank *pair = &adapter->pairs[i];
      for (int64_t j = 0; j < pair->a.rows * pair->a.columns; j++)
        a += (double)pair->a.data[j] * pair->a.data[j] * (s < 2 ? (double)pair->a.columns : 1);
      for (int64_t j = 0; j < pair->b.rows * pair->b.columns; j++) b += (double)pair->b.data[j] * pair->b.data[j];
      count += (double)(pair->a.rows * pair->a.columns);
      float *x = memory_new((size_t)pair->a.columns * 4, sizeof *x), *y = memory_new((size_t)pair->b.rows * 4, sizeof *y);
      for (int64_t j = 0; j < pair->a.columns * 4; j++) x[j] = (float)(j % 7) - 3;
      product(y, pair, x);
      for (int64_t j = 0; j < pair->b.rows * 4; j++) assert_true(s == 1 || fabsf(y[j]) < 1e-5f);  // nothing, to begin with
      free(x);
      free(y);
    }
    // Uniform in +-1/sqrt(in): a third of 1/in; gaussian: 1/rank^2; orthogonal: half of 1/100.
    double expected = s < 2 ? 1.0 / 3 : s == 2 ? 1.0 / (RANK * RANK) : 0.005;
    assert_true(fabs(a / count - expected) < 0.1 * expected);
    assert_int_equal(b > 0, s == 1 || s == 3);
    assert_null(adapter->residuals);
    adapter_close(adapter);
  }
  model_close(model);
}

static void a_start_is_the_same_each_time_and_on_any_number_of_threads(void **state) {
  (void)state;
  float *first = NULL;
  Backend *before = backend;
  for (int threads = 1; threads <= 3; threads++) {
    assert_ok(backend_new(&backend, "cpu", threads));
    Model *model = open_model((ModelOptions){0});
    Adapter *adapter = create(model, "pissa_niter_3", false);
    size_t bytes = (size_t)adapter->size * sizeof *first;
    if (first) assert_memory_equal(adapter->data, first, bytes);
    else first = memcpy(memory_new(bytes, 1), adapter->data, bytes);
    adapter_close(adapter);
    model_close(model);
    backend_free(backend);
  }
  backend = before;
  free(first);
}

static void a_quantised_file_and_unknown_starts_are_refused(void **state) {
  (void)state;
  AdapterSettings settings = {.rank = RANK, .alpha = 6, .all_linear = true, .start = START_PISSA, .start_iterations = SVD_EXACT};
  Adapter *adapter;
  Model *model;
  assert_ok(model_open(&model, blocks, (ModelOptions){.quantize_nf4 = true}, backend));
  assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &settings), "pissa", "quantised in", "base_model in floats");
  assert_null(model->linears[0]->adapter);
  model_close(model);
  model = open_model((ModelOptions){0});
  settings.start = START_LOFTQ;
  assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &settings), "loftq", "load_in_4bit: true");
  settings.start = START_ORTHOGONAL;
  settings.rank = 3;
  assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &settings), "even rank");
  model_close(model);
  assert_fails(STATUS_USAGE, adapter_start_parse(&settings.start, &settings.start_iterations, "eva"), "eva is not built");
  assert_ok(adapter_start_parse(&settings.start, &settings.start_iterations, "pissa_niter_12"));
  assert_int_equal(settings.start_iterations, 12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pissa_and_olora_begin_as_in_peft),
      cmocka_unit_test(a_moved_base_and_its_adapter_begin_as_the_base),
      cmocka_unit_test(on_four_and_eight_bits_the_start_brings_weights_nearer_to_the_floats),
      unit_test_in_folder(files_hold_an_adapter_for_the_base_as_it_is),
      unit_test_in_folder(another_buffer_of_values_computes_and_is_written),
      cmocka_unit_test(which_starts_are_the_base_up_to_rounding),
      cmocka_unit_test(the_embedding_and_the_head_begin_plainly),
      cmocka_unit_test(plain_starts_have_their_deviations),
      cmocka_unit_test(a_start_is_the_same_each_time_and_on_any_number_of_threads),
      cmocka_unit_test(a_quantised_file_and_unknown_starts_are_refused),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
