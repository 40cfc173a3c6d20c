// Whole tiny models in each quantised format, routed experts among them: the logits that transformers computes with the floats of the
// format's own library; a training step and merged files that are those of the floats.
// Reference data: tests/tools/make_quantized_models.py.
#include <math.h>

#include "adapters/adapter.h"
#include "adapters/merge.h"
#include "adapters/quantization.h"
#include "core/file.h"
#include "core/text.h"
#include "tests/support/golden.h"

enum { TOKENS = 9, VOCABULARY = 768 };
static const int32_t ids[TOKENS] = {1, 300, 17, 402, 99, 45, 511, 260, 3};
static const char cases[] = TESTS_DIR "/models/data/quantized_models.safetensors";

// ---- A case's folder ----

// The tensor's name in the folder of the case, or NULL: it is not the folder's.
static const char *name_in_folder(const char *name, const char *prefix) {
  if (strcmp(name, "embedding") == 0) return "model.embed_tokens.weight";
  if (!text_starts_with(name, prefix)) return NULL;
  name += strlen(prefix);
  return strcmp(name, "config") == 0 || strcmp(name, "logits") == 0 ? NULL : name;
}

static void copy_file(const char *folder, const char *name) {
  char *from = path_join(TESTS_DIR "/data/tiny-hf", name), *to = path_join(folder, name);
  Buffer text = {0};
  assert_ok(file_read(&text, from, 1 << 24));
  assert_ok(file_write_whole(to, text.data, text.length));
  buffer_release(&text);
  free(from);
  free(to);
}

static void write_folder(const char *folder, const Safetensors *all, const char *name) {
  char *prefix = memory_format("%s/", name), *key = memory_format("%s/config", name), *path = path_join(folder, "model.safetensors");
  char *config_path = path_join(folder, "config.json");
  const SafetensorsTensor *config = golden_tensor(all, key);
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  for (int pass = 0; pass < 8; pass++) {  // wider types first, so that all are aligned; declared, then written
    if (pass == 4) assert_ok(safetensors_writer_open(&writer, path));
    for (int64_t i = 0; i < all->tensor_count; i++) {
      const SafetensorsTensor *tensor = &all->tensors[i];
      const char *own = name_in_folder(tensor->name, prefix);
      if (!own || safetensors_type_bytes(tensor->type) != 8 >> pass % 4) continue;
      if (pass < 4) safetensors_declare(&writer, own, tensor->type, tensor->dimensions, tensor->shape);
      else safetensors_write(&writer, tensor->data, tensor->bytes);
    }
  }
  assert_ok(safetensors_writer_commit(&writer));
  assert_ok(file_write_whole(config_path, config->data, config->bytes));
  copy_file(folder, "tokenizer.json");
  copy_file(folder, "tokenizer_config.json");
  free(prefix);
  free(key);
  free(path);
  free(config_path);
}

typedef struct Case {
  Backend *backend;
  char *name, *parent, *folder, *floats;  // floats: the same model merged into float32
  float *logits;
} Case;

static float *logits_of(const Case *c, const char *path, ModelOptions options) {
  Model *model;
  assert_ok(model_open(&model, path, options, c->backend));
  float *logits = golden_logits(model, ids, 1, TOKENS);
  model_close(model);
  return logits;
}

static void assert_logits(const Case *c, const char *path, ModelOptions options, double tolerance) {
  float *logits = logits_of(c, path, options);
  double error = max_relative_error(logits, c->logits, TOKENS * VOCABULARY);
  if (!(error <= tolerance)) fail_msg("%s: logits of %s are off by %g, not up to %g", c->name, path, error, tolerance);
  free(logits);
}

static BlockType merge(const Case *c, const char *from, const char *to, const char *type) {
  Model *model;
  MergeReport report;
  MergeOptions options = {0};
  assert_ok(quantization_parse(&options.type, type));
  assert_ok(model_open(&model, from, (ModelOptions){0}, c->backend));
  if (text_ends_with(to, ".gguf")) assert_ok(merge_write_gguf(&report, model, to, options));
  else assert_ok(merge_write_folder(&report, model, to, options));
  model_close(model);
  return report.main_type;
}

typedef void Check(const Case *c);

// Does `check` with each case's folder, and its floats beside it.
static void for_each_case(Check *check) {
  Safetensors all;
  int count = 0;
  assert_ok(safetensors_open(&all, cases));
  for (int64_t i = 0; i < all.tensor_count; i++) {
    if (!text_ends_with(all.tensors[i].name, "/config")) continue;
    Case c = {.parent = temporary_folder()};
    c.name = memory_format("%.*s", (int)(strlen(all.tensors[i].name) - strlen("/config")), all.tensors[i].name);
    char *key = memory_format("%s/logits", c.name);
    c.folder = path_join(c.parent, "quantised");
    c.floats = path_join(c.parent, "floats");
    c.logits = golden_floats(&all, key);
    assert_ok(backend_new(&c.backend, NULL, 2));
    assert_ok(directory_create(c.folder));
    write_folder(c.folder, &all, c.name);
    merge(&c, c.folder, c.floats, "f32");
    check(&c);
    backend_free(c.backend);
    assert_ok(directory_remove(c.parent));
    free(c.name);
    free(c.parent);
    free(c.folder);
    free(c.floats);
    free(c.logits);
    free(key);
    count++;
  }
  assert_int_equal(count, 9);
  safetensors_close(&all);
}

// ---- Logits ----

static void check_logits(const Case *c) {
  assert_logits(c, c->folder, (ModelOptions){0}, 1e-4);
  assert_logits(c, c->floats, (ModelOptions){0}, 1e-4);
}

static void every_formats_model_has_the_logits_of_its_floats(void **state) {
  (void)state;
  for_each_case(check_logits);
}

// Weights that are quantised already stay as they are: a second rounding to NF4 would show.
static void check_load_in_4bit(const Case *c) {
  Model *model;
  assert_ok(model_open(&model, c->folder, (ModelOptions){.quantize_nf4 = true}, c->backend));
  float *actual = golden_logits(model, ids, 1, TOKENS), *expected = logits_of(c, c->folder, (ModelOptions){0});
  assert_memory_equal(actual, expected, TOKENS * VOCABULARY * sizeof *actual);
  free(actual);
  free(expected);
  model_close(model);
}

static void load_in_4bit_leaves_quantised_weights_as_they_are(void **state) {
  (void)state;
  for_each_case(check_load_in_4bit);
}

// ---- A training step ----

typedef struct Step {
  double loss;
  float *gradient;
  int64_t size;
} Step;

static Step train_step(const Case *c, const char *path) {
  Model *model;
  Adapter *adapter;
  Tape tape;
  AdapterSettings settings = {.rank = 4, .alpha = 8, .all_linear = true, .seed = 7};
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  int32_t positions[TOKENS], rows[TOKENS], targets[TOKENS];
  AttentionSpan span = {0, TOKENS, 0, TOKENS};
  assert_ok(model_open(&model, path, (ModelOptions){0}, c->backend));
  assert_ok(adapter_create(&adapter, model, &settings));
  for (int i = 0; i < adapter->count; i++) {
    Parameter *b = &adapter->pairs[i].b;
    fill_normal(b->data, b->rows * b->columns, 0.05, &rng);
  }
  for (int i = 0; i < TOKENS; i++) positions[i] = rows[i] = i, targets[i] = ids[(i + 1) % TOKENS];
  tape_new(&tape, c->backend);
  tape_begin(&tape, TAPE_TRAIN);
  DecoderInput input = {
      .ids = ids, .positions = positions, .tokens = TOKENS, .spans = &span, .span_count = 1, .rows = rows, .row_count = TOKENS};
  Tensor *hidden = decoder_hidden(&tape, model, &input);
  Tensor *loss = op_cross_entropy(&tape, hidden, &model->head.weight, tape_input(&tape, targets, TOKENS, 1), (LossGradient){.scale = 1}, 0);
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  c->backend->kernels->fill(adapter->gradient, 0, adapter->size, c->backend);
  tape_backward(&tape);
  float nll[TOKENS];
  tape_read(nll, &tape, loss);
  Step step = {.size = adapter->size, .gradient = memory_new((size_t)adapter->size, sizeof(float))};
  for (int i = 0; i < TOKENS; i++) step.loss += nll[i];
  memcpy(step.gradient, adapter->gradient, (size_t)adapter->size * sizeof(float));
  tape_free(&tape);
  adapter_close(adapter);
  model_close(model);
  return step;
}

static void check_step(const Case *c) {
  Step actual = train_step(c, c->folder), expected = train_step(c, c->floats);
  assert_int_equal(actual.size, expected.size);
  if (!(fabs(actual.loss - expected.loss) <= 1e-5 * fabs(expected.loss)))
    fail_msg("%s: the loss is %.9g, not %.9g", c->name, actual.loss, expected.loss);
  double error = max_relative_error(actual.gradient, expected.gradient, expected.size);
  if (!(error <= 1e-5)) fail_msg("%s: gradients are off by %g", c->name, error);
  free(actual.gradient);
  free(expected.gradient);
}

static void a_training_step_has_the_loss_and_gradients_of_the_floats(void **state) {
  (void)state;
  for_each_case(check_step);
}

// ---- Merging ----

// What the floats themselves merge to: the same logits, bit for bit. Q8_0 rounds enough to route a token to other experts, so that its
// distance from the reference says nothing.
static void check_merges(const Case *c) {
  const struct {
    const char *file, *of_floats;
    const char *type;
    BlockType main_type;
    double tolerance;  // from the reference; 0: none
  } merges[] = {
      {"f16.gguf", "floats_f16.gguf", "f16", BLOCK_F16, 2e-3},
      {"q8_0.gguf", "floats_q8_0.gguf", "q8_0", BLOCK_Q8_0, 0},
      {"same", "floats_f16", "same", BLOCK_F16, 2e-3},
  };
  for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
    char *path = path_join(c->parent, merges[i].file), *of_floats = path_join(c->parent, merges[i].of_floats);
    const char *type = block_traits(merges[i].main_type)->name;
    assert_int_equal(merge(c, c->folder, path, merges[i].type), merges[i].main_type);
    merge(c, c->floats, of_floats, type);
    float *actual = logits_of(c, path, (ModelOptions){0}), *expected = logits_of(c, of_floats, (ModelOptions){0});
    assert_memory_equal(actual, expected, TOKENS * VOCABULARY * sizeof *actual);
    if (merges[i].tolerance > 0) assert_logits(c, path, (ModelOptions){0}, merges[i].tolerance);
    free(actual);
    free(expected);
    free(path);
    free(of_floats);
  }
  char *config = path_join(c->floats, "config.json");
  Buffer text = {0};
  assert_ok(file_read(&text, config, 1 << 20));
  assert_null(strstr(text.data, "quantization_config"));
  buffer_release(&text);
  free(config);
}

static void quantised_bases_merge_into_gguf_files_and_folders(void **state) {
  (void)state;
  for_each_case(check_merges);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_formats_model_has_the_logits_of_its_floats),
      cmocka_unit_test(load_in_4bit_leaves_quantised_weights_as_they_are),
      cmocka_unit_test(a_training_step_has_the_loss_and_gradients_of_the_floats),
      cmocka_unit_test(quantised_bases_merge_into_gguf_files_and_folders),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
