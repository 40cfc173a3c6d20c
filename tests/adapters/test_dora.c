// DoRA: against PEFT (tests/tools/make_variant_reference.py), against finite differences on every family, off, at its start, recomputed, in
// files, merged, and in generation.
#include "adapters/merge.h"
#include "adapters/parts.h"
#include "core/file.h"
#include "core/text.h"
#include "tests/adapters/gradient_support.h"
#include "tests/support/decode.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf", tiny_folder[] = TESTS_DIR "/data/tiny-hf";
static const char peft_folder[] = TESTS_DIR "/adapters/data/variants/dora",
                  peft_golden[] = TESTS_DIR "/adapters/data/variants/dora.safetensors";

static void open_dora(Fixture *f, const char *path, int threads, double dropout) {
  AdapterSettings settings = {.rank = 4, .alpha = 8, .dropout = dropout, .all_linear = true, .dora = true, .seed = 7};
  open_fixture_of(f, path, threads, &settings);
  Rng rng = rng_new(13, RNG_STREAM_TEST);
  for (int i = 0; i < f->adapter->count; i++) {
    Parameter *m = &f->adapter->pairs[i].magnitude;
    for (int64_t j = 0; j < m->rows; j++) m->data[j] *= (float)(1 + 0.1 * rng_normal(&rng));
  }
}

// Gradients take the norms for constants, so differences are measured with the norms held.
static void hold_norms(Fixture *f) {
  f->backend->release(f->adapter->norms, f->backend);
  assert_ok(adapter_open_magnitudes(f->adapter, false, true));
}

static void open_beside_modules(Fixture *f, const char *path) {
  static const char *const modules[] = {"lm_head", "norm", "v_proj"};
  AdapterSettings settings = {.rank = 4,
                              .alpha = 8,
                              .all_linear = true,
                              .dora = true,
                              .modules_to_save = modules,
                              .modules_to_save_count = 3,
                              .tokens = (const int32_t[]){7, 300},
                              .token_count = 2,
                              .seed = 7};
  open_fixture_of(f, path, 2, &settings);
}

// Of every tensor of any role.
static void modules_and_tokens_beside_it_have_theirs(void **state) {
  (void)state;
  Fixture f;
  open_beside_modules(&f, tiny);
  hold_norms(&f);
  run(&f, true, 0, NULL);
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  assert_true(f.adapter->tensor_count > 3 * f.adapter->count + 1);
  for (int i = 0; i < f.adapter->tensor_count; i++)
    check_parameter(&f, f.adapter->tensors[i].parameter, f.adapter->tensors[i].module, &rng);
  close_fixture(&f);
}

static void check_gradients(const char *path, double dropout) {
  Fixture f;
  open_dora(&f, path, 2, dropout);
  hold_norms(&f);
  run(&f, true, 0, NULL);
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  for (int i = 0; i < f.adapter->count; i++) {
    LowRank *pair = &f.adapter->pairs[i];
    Parameter *parameters[] = {&pair->a, &pair->b, &pair->magnitude};
    for (int j = 0; j < 3; j++) check_parameter(&f, parameters[j], f.adapter->linears[i]->name, &rng);
  }
  close_fixture(&f);
}

static void every_gradient_is_that_of_finite_differences(void **state) {
  (void)state;
  check_gradients(tiny, 0);
  check_gradients(tiny, 0.25);
}

static void every_family_has_the_gradients_of_finite_differences(void **state) {
  (void)state;
  char **families = golden_families();
  for (char **family = families; *family; family++) check_gradients(*family, 0);
  golden_families_free(families);
}

static void held_norms_are_those_that_a_pass_computes(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  size_t bytes = (size_t)f.adapter->size * sizeof(float);
  double loss = run(&f, true, 0, NULL);
  float *gradient = memory_new(bytes, 1);
  memcpy(gradient, f.adapter->gradient, bytes);
  hold_norms(&f);
  assert_true(run(&f, true, 0, NULL) == loss);
  assert_memory_equal(gradient, f.adapter->gradient, bytes);
  free(gradient);
  close_fixture(&f);
}

static void norms_are_the_lengths_of_rows(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  hold_norms(&f);
  const LowRank *pair = &f.adapter->pairs[5];
  const Linear *linear = f.adapter->linears[5];
  int64_t columns = linear->weight.columns;
  float *row = memory_new((size_t)columns, sizeof *row);
  for (int64_t i = 0; i < linear->weight.rows; i++) {
    matrix_dequantize(row, &linear->weight, i, 0, columns);
    double sum = 0;
    for (int64_t j = 0; j < columns; j++) {
      double value = row[j];
      for (int64_t r = 0; r < 4; r++) value += (double)pair->scale * pair->b.data[i * 4 + r] * pair->a.data[r * columns + j];
      sum += value * value;
    }
    if (!(fabs(pair->norms[i] - sqrt(sum)) <= 1e-5 * sqrt(sum))) fail_msg("row %d: %g, not %g", (int)i, (double)pair->norms[i], sqrt(sum));
  }
  free(row);
  close_fixture(&f);
}

static void off_is_the_base_bit_for_bit_and_a_new_one_is_near_it(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  int64_t count = TOKENS * f.model->config.vocabulary;
  float *adapted = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_set_enabled(f.adapter, false);
  float *off = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_close(f.adapter);
  float *base = golden_logits(f.model, f.ids, 1, TOKENS);
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .dora = true, .seed = 7};
  assert_ok(adapter_create(&f.adapter, f.model, &settings));
  float *fresh = golden_logits(f.model, f.ids, 1, TOKENS);
  assert_memory_equal(off, base, (size_t)count * sizeof *base);
  assert_close(fresh, base, count, 1e-5);
  assert_true(max_relative_error(adapted, base, count) > 1e-2);
  free(adapted);
  free(off);
  free(base);
  free(fresh);
  close_fixture(&f);
}

static void recomputation_and_threads_do_not_change_bits(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 1, 0.1);
  size_t bytes = (size_t)f.adapter->size * sizeof(float);
  double loss = run(&f, true, 0, NULL);
  float *plain = memory_new(bytes, 1);
  memcpy(plain, f.adapter->gradient, bytes);
  for (int segments = 2; segments <= (int)f.model->config.layers + 1; segments++) {
    assert_true(run(&f, true, segments, NULL) == loss);
    assert_memory_equal(plain, f.adapter->gradient, bytes);
  }
  close_fixture(&f);
  open_dora(&f, tiny, 3, 0.1);
  assert_true(run(&f, true, 1, NULL) == loss);
  assert_memory_equal(plain, f.adapter->gradient, bytes);
  free(plain);
  close_fixture(&f);
}

// --- PEFT ---

enum { PEFT_LENGTH = 12, PEFT_DOCUMENTS = 2 };

// The mean loss of both documents, and its gradients.
static double peft_step(Adapter *adapter, const int32_t *ids) {
  Model *model = adapter->model;
  int32_t positions[PEFT_DOCUMENTS * PEFT_LENGTH], rows[PEFT_DOCUMENTS * PEFT_LENGTH], targets[PEFT_DOCUMENTS * PEFT_LENGTH], count = 0;
  AttentionSpan spans[PEFT_DOCUMENTS];
  for (int d = 0; d < PEFT_DOCUMENTS; d++) {
    int first = d * PEFT_LENGTH, end = first + PEFT_LENGTH;
    spans[d] = (AttentionSpan){first, end, first, end};
    for (int i = first; i < end; i++) positions[i] = i - first;
    for (int i = first; i + 1 < end; i++) rows[count] = i, targets[count++] = ids[i + 1];
  }
  model->backend->kernels->fill(adapter->gradient, 0, adapter->size, model->backend);
  Tape tape;
  tape_new(&tape, model->backend);
  tape_begin(&tape, TAPE_TRAIN);
  DecoderInput input = {.ids = ids,
                        .positions = positions,
                        .tokens = PEFT_DOCUMENTS * PEFT_LENGTH,
                        .spans = spans,
                        .span_count = PEFT_DOCUMENTS,
                        .rows = rows,
                        .row_count = count};
  Tensor *hidden = decoder_hidden(&tape, model, &input);
  Tensor *loss = decoder_loss(&tape, model, hidden, tape_input(&tape, targets, count, 1), (LossGradient){.scale = 1.0f / (float)count});
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  tape_backward(&tape);
  float nll[PEFT_DOCUMENTS * PEFT_LENGTH];
  tape_read(nll, &tape, loss);
  tape_free(&tape);
  double sum = 0;
  for (int i = 0; i < count; i++) sum += nll[i];
  return sum / count;
}

static void check_tensors(const Adapter *adapter, const Safetensors *golden, const char *prefix, const float *values, double tolerance) {
  static const char *const ends[] = {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"};
  for (int i = 0; i < adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &adapter->tensors[i];
    char *name = memory_format("%s.base_model.model.%s.%s", prefix, tensor->module, ends[tensor->role]);
    float *expected = golden_floats(golden, name);
    assert_close_at(values + (tensor->parameter->data - adapter->data), expected, tensor->parameter->rows * tensor->parameter->columns,
                    tolerance, name, __FILE__, __LINE__);
    free(expected);
    free(name);
  }
}

static void logits_gradients_and_steps_are_those_of_peft(void **state) {
  (void)state;
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Safetensors golden;
  setenv("LORA_CPU", "scalar", 1);
  assert_ok(backend_new(&backend, "cpu", 2));
  unsetenv("LORA_CPU");
  assert_ok(model_open(&model, tiny_folder, (ModelOptions){0}, backend));
  assert_ok(adapter_open(&adapter, model, (const char *const[]){peft_folder}, NULL, 1, true));
  assert_ok(safetensors_open(&golden, peft_golden));
  assert_int_equal(adapter->count, 6);
  assert_int_equal(adapter->tensor_count, 18);
  int32_t *ids = golden_ids(&golden, "input_ids"), *rows = golden_ids(&golden, "rows");
  float *expected = golden_floats(&golden, "logits"), *logits = golden_logits(model, ids, PEFT_DOCUMENTS, PEFT_LENGTH);
  int64_t vocabulary = model->config.vocabulary;
  for (int d = 0; d < PEFT_DOCUMENTS; d++)
    for (int r = 0; r < 4; r++)
      assert_close(logits + (d * PEFT_LENGTH + rows[r]) * vocabulary, expected + (d * 4 + r) * vocabulary, vocabulary, 1e-4);
  float *losses = golden_floats(&golden, "losses"), actual[5];
  float *m = memory_new((size_t)adapter->size, sizeof *m), *v = memory_new((size_t)adapter->size, sizeof *v);
  for (int step = 0; step < 5; step++) {
    actual[step] = (float)peft_step(adapter, ids);
    if (step == 0) check_tensors(adapter, &golden, "grad", adapter->gradient, 1e-4);
    AdamwSettings settings = {
        .learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .step = step + 1, .gradient_scale = 1};
    backend->kernels->adamw(adapter->data, m, v, adapter->gradient, adapter->size, settings, backend);
  }
  assert_close(actual, losses, 5, 1e-4);
  check_tensors(adapter, &golden, "step5", adapter->data, 1e-3);
  free(m);
  free(v);
  free(losses);
  free(expected);
  free(logits);
  free(ids);
  free(rows);
  safetensors_close(&golden);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
}

// --- files ---

static void assert_same_logits(const Fixture *f, const Model *model, const float *expected, double tolerance) {
  float *actual = golden_logits(model, f->ids, 1, TOKENS);
  assert_close(actual, expected, TOKENS * f->model->config.vocabulary, tolerance);
  free(actual);
}

// The folder's tensors under the name that PEFT gives the magnitude in memory.
static void rename_magnitudes(const char *folder) {
  char *path = path_join(folder, "adapter_model.safetensors");
  Buffer text = {0};
  assert_ok(file_read(&text, path, 16 << 20));
  uint64_t length;
  memcpy(&length, text.data, sizeof length);
  char *header = memory_format("%.*s", (int)length, text.data + sizeof length);
  Buffer out = {0}, renamed = {0};
  for (const char *at = header, *next;; at = next + strlen("lora_magnitude_vector")) {
    next = strstr(at, "lora_magnitude_vector");
    buffer_append(&renamed, at, next ? (size_t)(next - at) : strlen(at));
    if (!next) break;
    buffer_append_string(&renamed, "lora_magnitude_vector.weight");
  }
  while (renamed.length % 8) buffer_append_string(&renamed, " ");
  uint64_t size = renamed.length;
  buffer_append(&out, (const char *)&size, sizeof size);
  buffer_append(&out, renamed.data, renamed.length);
  buffer_append(&out, text.data + sizeof length + length, text.length - sizeof length - length);
  assert_ok(file_write_whole(path, out.data, out.length));
  buffer_release(&out);
  buffer_release(&renamed);
  buffer_release(&text);
  free(header);
  free(path);
}

static void peft_folders_keep_magnitudes_in_either_order_of_rows_and_by_either_name(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  char *folder = path_join(test_folder, "dora"), *again = path_join(test_folder, "again");
  assert_ok(adapter_save_peft(f.adapter, folder, tiny));
  float *expected = golden_logits(f.model, f.ids, 1, TOKENS);
  int64_t size = f.adapter->size;
  float *values = memory_new((size_t)size, sizeof *values);
  memcpy(values, f.adapter->data, (size_t)size * sizeof *values);
  adapter_close(f.adapter);
  Model *other;
  Adapter *there;
  assert_ok(model_open(&other, tiny_folder, (ModelOptions){0}, f.backend));
  assert_ok(adapter_open(&there, other, (const char *const[]){folder}, NULL, 1, false));
  assert_ok(adapter_save_peft(there, again, tiny_folder));
  rename_magnitudes(again);
  adapter_close(there);
  model_close(other);
  assert_ok(adapter_open(&f.adapter, f.model, (const char *const[]){again}, NULL, 1, true));
  assert_true(f.adapter->dora);
  assert_memory_equal(f.adapter->data, values, (size_t)size * sizeof *values);
  assert_same_logits(&f, f.model, expected, 1e-5);
  free(values);
  free(expected);
  free(folder);
  free(again);
  close_fixture(&f);
}

static void what_is_no_sum_is_refused(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  char *folder = path_join(test_folder, "dora"), *gguf = path_join(test_folder, "dora.gguf"), *plain = path_join(test_folder, "plain");
  assert_ok(adapter_save_peft(f.adapter, folder, tiny));
  assert_fails(STATUS_USAGE, adapter_save_gguf(f.adapter, gguf), "DoRA", "`lora merge` writes it");
  assert_false(file_exists(gguf));
  adapter_close(f.adapter);
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .seed = 7};
  assert_ok(adapter_create(&f.adapter, f.model, &settings));
  assert_null(adapter_gguf_obstacle(f.adapter));
  assert_ok(adapter_save_peft(f.adapter, plain, tiny));
  adapter_close(f.adapter);
  assert_fails(STATUS_USAGE, adapter_open(&f.adapter, f.model, (const char *const[]){plain, folder}, NULL, 2, false), "dora", "alone");
  assert_fails(STATUS_USAGE, adapter_open(&f.adapter, f.model, (const char *const[]){folder}, (double[]){0.5}, 1, false),
               "leave the scale out");
  free(folder);
  free(gguf);
  free(plain);
  close_fixture(&f);
}

static void a_merged_model_has_the_adapters_logits(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    Fixture f;
    open_dora(&f, i ? tiny_folder : tiny, 2, 0);
    char *path = path_join(test_folder, i ? "merged" : "merged.gguf");
    const Quantization *type;
    MergeReport report;
    assert_ok(quantization_parse(&type, "f32"));
    float *expected = golden_logits(f.model, f.ids, 1, TOKENS);
    assert_ok((i ? merge_write_folder : merge_write_gguf)(&report, f.model, path, (MergeOptions){.type = type}));
    Model *merged;
    assert_ok(model_open(&merged, path, (ModelOptions){0}, f.backend));
    assert_same_logits(&f, merged, expected, 1e-4);
    model_close(merged);
    free(expected);
    free(path);
    close_fixture(&f);
  }
}

static void modules_and_tokens_beside_it_come_back_and_merge(void **state) {
  (void)state;
  Fixture f;
  open_beside_modules(&f, tiny_folder);
  Rng rng = rng_new(13, RNG_STREAM_TEST);
  float *base, *expected, *off;
  for (int64_t i = 0; i < f.adapter->size; i++) f.adapter->data[i] *= (float)(1 + 0.1 * rng_normal(&rng));
  char *folder = path_join(test_folder, "dora"), *path = path_join(test_folder, "merged");
  assert_ok(adapter_save_peft(f.adapter, folder, tiny_folder));
  expected = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_set_enabled(f.adapter, false);
  off = golden_logits(f.model, f.ids, 1, TOKENS);
  adapter_close(f.adapter);
  base = golden_logits(f.model, f.ids, 1, TOKENS);
  assert_memory_equal(off, base, (size_t)(TOKENS * f.model->config.vocabulary) * sizeof *base);
  assert_ok(adapter_open(&f.adapter, f.model, (const char *const[]){folder}, NULL, 1, false));
  assert_int_equal(f.adapter->tokens.rows.rows, 2);
  assert_same_logits(&f, f.model, expected, 1e-5);
  assert_non_null(adapter_gguf_obstacle(f.adapter));
  const Quantization *type;
  MergeReport report;
  Model *merged;
  assert_ok(quantization_parse(&type, "f32"));
  assert_ok(merge_write_folder(&report, f.model, path, (MergeOptions){.type = type}));
  assert_ok(model_open(&merged, path, (ModelOptions){0}, f.backend));
  assert_same_logits(&f, merged, expected, 1e-4);
  model_close(merged);
  free(base), free(expected), free(off), free(folder), free(path);
  close_fixture(&f);
}

static void the_embedding_and_the_head_are_refused(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  adapter_close(f.adapter);
  static const char *const targets[] = {"embed_tokens", "lm_head"};
  for (int i = 0; i < 2; i++) {
    AdapterSettings settings = {.rank = 2, .alpha = 4, .all_linear = true, .dora = true, .targets = targets + i, .target_count = 1};
    assert_fails(STATUS_USAGE, adapter_create(&f.adapter, f.model, &settings), "peft_use_dora", targets[i], "lora_modules_to_save");
    // Nor is one read, as PEFT may have trained it.
    char *folder = path_join(test_folder, "vocabulary"), *path = path_join(folder, "adapter_config.json");
    Buffer text = {0};
    settings.dora = settings.all_linear = false;
    assert_ok(adapter_create(&f.adapter, f.model, &settings));
    assert_ok(adapter_save_peft(f.adapter, folder, tiny));
    adapter_close(f.adapter);
    f.adapter = NULL;
    assert_ok(file_read(&text, path, 1 << 20));
    char *flag = strstr(text.data, "\"use_dora\": false");
    assert_non_null(flag);
    memcpy(flag, "\"use_dora\": true ", strlen("\"use_dora\": true "));
    assert_ok(file_write_whole(path, text.data, text.length));
    assert_fails(STATUS_BAD_INPUT, adapter_open(&f.adapter, f.model, (const char *const[]){folder}, NULL, 1, false), targets[i], "DoRA");
    buffer_release(&text);
    free(folder);
    free(path);
  }
  close_fixture(&f);
}

static void generation_has_the_logits_of_whole_passes(void **state) {
  (void)state;
  Fixture f;
  open_dora(&f, tiny, 2, 0);
  char *folder = path_join(test_folder, "dora");
  assert_ok(adapter_save_peft(f.adapter, folder, tiny));
  adapter_close(f.adapter);
  assert_ok(adapter_open(&f.adapter, f.model, (const char *const[]){folder}, NULL, 1, false));
  Decoded decoded = decode(f.model, (EngineOptions){.is_exact = true}, f.ids, 16, TOKENS - 16);
  assert_decodes(f.model, &decoded, 1e-4);
  decoded_release(&decoded);
  free(folder);
  close_fixture(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_gradient_is_that_of_finite_differences),
      cmocka_unit_test(every_family_has_the_gradients_of_finite_differences),
      cmocka_unit_test(modules_and_tokens_beside_it_have_theirs),
      cmocka_unit_test(held_norms_are_those_that_a_pass_computes),
      cmocka_unit_test(norms_are_the_lengths_of_rows),
      cmocka_unit_test(off_is_the_base_bit_for_bit_and_a_new_one_is_near_it),
      cmocka_unit_test(recomputation_and_threads_do_not_change_bits),
      cmocka_unit_test(logits_gradients_and_steps_are_those_of_peft),
      unit_test_in_folder(peft_folders_keep_magnitudes_in_either_order_of_rows_and_by_either_name),
      unit_test_in_folder(what_is_no_sum_is_refused),
      unit_test_in_folder(a_merged_model_has_the_adapters_logits),
      unit_test_in_folder(modules_and_tokens_beside_it_come_back_and_merge),
      unit_test_in_folder(the_embedding_and_the_head_are_refused),
      unit_test_in_folder(generation_has_the_logits_of_whole_passes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
