// Tensors trained in full, beside the references of tests/tools/make_trained_reference.py: gradients of every tensor of whole models, and
// PEFT's adapters with modules_to_save, rows of tokens, and LoRA on embedding and head.
#include <math.h>
#include <unistd.h>

#include "adapters/adapter.h"
#include "adapters/merge.h"
#include "core/file.h"
#include "core/text.h"
#include "tests/support/golden.h"

enum { SAMPLES = 16 };

static const char trained_data[] = TESTS_DIR "/adapters/data/trained";

typedef struct Golden {
  Safetensors golden;
  int32_t *ids, *labels;
  int64_t documents, length;
} Golden;

static void open_rows(Golden *rows, const char *folder) {
  char *path = path_join(folder, "golden.safetensors");
  assert_ok(safetensors_open(&rows->golden, path));
  free(path);
  rows->ids = golden_ids(&rows->golden, "input_ids");
  rows->labels = golden_ids(&rows->golden, "labels");
  rows->documents = golden_tensor(&rows->golden, "input_ids")->shape[0];
  rows->length = golden_tensor(&rows->golden, "input_ids")->shape[1];
}

static void close_rows(Golden *rows) {
  safetensors_close(&rows->golden);
  free(rows->ids);
  free(rows->labels);
}

static const char *role_name(const AdapterTensor *tensor) {
  switch (tensor->role) {
    case TENSOR_LORA_A: return ".lora_A.weight";
    case TENSOR_LORA_B: return ".lora_B.weight";
    case TENSOR_BIAS: return ".bias";
    case TENSOR_TOKENS: return ".token_adapter.trainable_tokens_delta";
    case TENSOR_EMBEDDING_A: return ".lora_embedding_A";
    case TENSOR_EMBEDDING_B: return ".lora_embedding_B";
    default: return ".weight";
  }
}

// Element i of a tensor in the order that PEFT and transformers have.
static int64_t file_order(const AdapterTensor *tensor, int64_t i) {
  const Parameter *p = tensor->parameter;
  return tensor->role == TENSOR_EMBEDDING_A ? i % p->rows * p->columns + i / p->rows : i;
}

// A gradient beside some of the reference's values and its norm.
static void check_gradient(const AdapterTensor *tensor, const float *actual, const Safetensors *golden, const char *name) {
  int64_t count = tensor->parameter->rows * tensor->parameter->columns;
  float *expected = golden_floats(golden, name);
  double norm = 0, scale = expected[SAMPLES] / sqrt((double)count);
  for (int64_t i = 0; i < count; i++) norm += (double)actual[i] * actual[i];
  norm = sqrt(norm);
  if (!(expected[SAMPLES] > 0)) fail_msg("%s: the reference has no gradient", name);
  if (!(fabs(norm - expected[SAMPLES]) <= 2e-5 * expected[SAMPLES])) fail_msg("%s: norm %g, expected %g", name, norm, expected[SAMPLES]);
  for (int i = 0; i < SAMPLES; i++) scale = fmax(scale, fabs((double)expected[i]));
  for (int i = 0; i < SAMPLES; i++) {
    float value = actual[file_order(tensor, i * count / SAMPLES)];
    if (!(fabs((double)value - expected[i]) <= 5e-5 * scale)) fail_msg("%s: sample %d is %g, expected %g", name, i, value, expected[i]);
  }
  free(expected);
}

static void check_full_gradients(const char *folder, const Safetensors *gradients, const char *device, int checkpointed) {
  Backend *backend;
  Model *model;
  Adapter *adapter;
  Golden rows;
  open_rows(&rows, folder);
  assert_ok(backend_new(&backend, device, 2));
  assert_ok(model_open(&model, folder, (ModelOptions){0}, backend));
  assert_ok(adapter_create(&adapter, model, &(AdapterSettings){.trains_all = true}));
  char *loss_name = memory_format("%s.loss", path_name(folder));
  float *loss = golden_floats(gradients, loss_name);
  free(loss_name);
  float actual = (float)golden_train(model, rows.ids, rows.labels, rows.documents, rows.length, checkpointed);
  assert_close(&actual, loss, 1, 1e-5);
  free(loss);
  float *values = memory_new((size_t)adapter->size, sizeof *values);
  backend->download(values, adapter->gradient, adapter->size * (int64_t)sizeof *values, backend);
  int64_t checked = 0;
  for (int i = 0; i < adapter->tensor_count; i++) {
    const AdapterTensor *tensor = &adapter->tensors[i];
    char *name = memory_format("%s.%s%s", path_name(folder), tensor->module, role_name(tensor));
    check_gradient(tensor, values + (tensor->parameter->gradient - adapter->gradient), gradients, name);
    checked++;
    free(name);
  }
  int64_t there = 0;
  char *prefix = memory_format("%s.", path_name(folder));
  for (int64_t i = 0; i < gradients->tensor_count; i++) there += text_starts_with(gradients->tensors[i].name, prefix);
  assert_int_equal(checked + 1, there);  // nothing of the model is left out
  free(prefix);
  free(values);
  adapter_close(adapter);
  model_close(model);
  backend_free(backend);
  close_rows(&rows);
}

static int for_each_dense_family(const char *device, int checkpointed) {
  Safetensors gradients;
  assert_ok(safetensors_open(&gradients, TESTS_DIR "/adapters/data/trained/full_gradients.safetensors"));
  char **families = golden_families();
  int count = 0;
  for (char **family = families; *family; family++) {
    char *name = memory_format("%s.model.embed_tokens.weight", path_name(*family));
    if (safetensors_find(&gradients, name)) {
      check_full_gradients(*family, &gradients, device, checkpointed);
      count++;
    }
    free(name);
  }
  golden_families_free(families);
  safetensors_close(&gradients);
  return count;
}

static void every_tensor_of_every_family_has_the_gradient_of_torch(void **state) {
  (void)state;
  assert_true(for_each_dense_family("cpu", 0) >= 5);
}

static void recomputed_layers_give_the_same_gradients(void **state) {
  (void)state;
  assert_true(for_each_dense_family("cpu", 99) >= 5);
}

// ---- PEFT's adapters ----

typedef struct PeftCase {
  char *folder, *base;
  Golden rows;
  Backend *backend;
  Model *model;
  Adapter *adapter;
} PeftCase;

static void open_case(PeftCase *c, const char *name, const char *base) {
  c->folder = path_join(trained_data, name);
  c->base = memory_format("%s/adapters/data/families/%s", TESTS_DIR, base);
  open_rows(&c->rows, c->folder);
  assert_ok(backend_new(&c->backend, "cpu", 2));
  assert_ok(model_open(&c->model, c->base, (ModelOptions){0}, c->backend));
  assert_ok(adapter_open(&c->adapter, c->model, (const char *const[]){c->folder}, NULL, 1, true));
}

static void close_case(PeftCase *c) {
  adapter_close(c->adapter);
  model_close(c->model);
  backend_free(c->backend);
  close_rows(&c->rows);
  free(c->folder);
  free(c->base);
}

static const struct {
  const char *name, *base;
  bool in_gguf;  // a GGUF adapter can hold it
} cases[] = {
    {"modules_tied", "gemma2_scalar", false},
    {"modules_apart", "starcoder2_window", false},
    {"tokens_tied", "gemma2_scalar", false},
    {"tokens_apart", "mixtral_window", false},
    {"lora_vocabulary", "mixtral_window", true},
    {"lora_vocabulary_tied", "phi3_partial", false},  // its head is the embedding, which has no name of its own there
    {"lora_embedding_tied", "gemma2_scalar", true},
};
enum { CASES = sizeof cases / sizeof *cases };

static float *some_logits(const Model *model, const Golden *rows, int64_t *count) {
  int64_t vocabulary = model->config.vocabulary;
  float *all = golden_logits(model, rows->ids, rows->documents, rows->length);
  *count = 0;
  for (int64_t d = 0; d < rows->documents; d++)
    for (int64_t i = 0; i < rows->length; i += 7)
      memmove(all + (*count)++ * vocabulary, all + (d * rows->length + i) * vocabulary, (size_t)vocabulary * sizeof *all);
  *count *= vocabulary;
  return all;
}

static void check_logits(const Model *model, const Golden *rows, double tolerance) {
  int64_t count;
  float *actual = some_logits(model, rows, &count), *expected = golden_floats(&rows->golden, "logits");
  assert_int_equal(count, golden_tensor(&rows->golden, "logits")->count);
  assert_close(actual, expected, count, tolerance);
  free(actual);
  free(expected);
}

static void adapters_of_peft_give_its_logits_and_gradients(void **state) {
  (void)state;
  for (int i = 0; i < CASES; i++) {
    PeftCase c;
    open_case(&c, cases[i].name, cases[i].base);
    check_logits(c.model, &c.rows, 1e-5);
    float *loss = golden_floats(&c.rows.golden, "loss");
    float actual = (float)golden_train(c.model, c.rows.ids, c.rows.labels, c.rows.documents, c.rows.length, 0);
    assert_close(&actual, loss, 1, 1e-5);
    free(loss);
    int64_t there = 0;
    for (int t = 0; t < c.adapter->tensor_count; t++) {
      const AdapterTensor *tensor = &c.adapter->tensors[t];
      char *name = memory_format("grad.base_model.model.%s%s", tensor->module, role_name(tensor));
      check_gradient(tensor, tensor->parameter->gradient, &c.rows.golden, name);
      free(name);
    }
    for (int64_t t = 0; t < c.rows.golden.tensor_count; t++) there += text_starts_with(c.rows.golden.tensors[t].name, "grad.");
    assert_int_equal(there, c.adapter->tensor_count);
    close_case(&c);
  }
}

static void switched_off_or_closed_they_leave_the_base_bit_for_bit(void **state) {
  (void)state;
  for (int i = 0; i < CASES; i++) {
    PeftCase c;
    open_case(&c, cases[i].name, cases[i].base);
    int64_t count = c.rows.documents * c.rows.length * c.model->config.vocabulary;
    float *on = golden_logits(c.model, c.rows.ids, c.rows.documents, c.rows.length);
    adapter_set_enabled(c.adapter, false);
    float *off = golden_logits(c.model, c.rows.ids, c.rows.documents, c.rows.length);
    adapter_set_enabled(c.adapter, true);
    float *again = golden_logits(c.model, c.rows.ids, c.rows.documents, c.rows.length);
    adapter_close(c.adapter);
    c.adapter = NULL;
    float *closed = golden_logits(c.model, c.rows.ids, c.rows.documents, c.rows.length);
    assert_memory_equal(on, again, (size_t)count * sizeof *on);
    assert_memory_equal(off, closed, (size_t)count * sizeof *on);
    assert_memory_not_equal(on, off, (size_t)count * sizeof *on);
    free(on), free(off), free(again), free(closed);
    close_case(&c);
  }
}

// What is written is read back with every bit, and names what PEFT names.
static void written_adapters_come_back_whole(void **state) {
  (void)state;
  char folder[] = "/tmp/lora-trained-XXXXXX";
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < CASES; i++) {
    PeftCase c;
    open_case(&c, cases[i].name, cases[i].base);
    assert_ok(adapter_save_peft(c.adapter, folder, c.base));
    char *path = path_join(folder, "adapter_model.safetensors"), *original = path_join(c.folder, "adapter_model.safetensors");
    Safetensors written, given;
    assert_ok(safetensors_open(&written, path));
    assert_ok(safetensors_open(&given, original));
    assert_int_equal(written.tensor_count, given.tensor_count);
    for (int64_t t = 0; t < given.tensor_count; t++) {
      const SafetensorsTensor *a = &given.tensors[t], *b = safetensors_find(&written, a->name);
      if (!b) fail_msg("%s: %s was not written", cases[i].name, a->name);
      float *expected = golden_floats(&given, a->name), *actual = golden_floats(&written, a->name);
      assert_int_equal(a->dimensions, b->dimensions);
      assert_int_equal(a->shape[0], b->shape[0]);
      assert_memory_equal(actual, expected, (size_t)a->count * sizeof *actual);
      free(expected), free(actual);
    }
    safetensors_close(&written);
    safetensors_close(&given);
    adapter_close(c.adapter);
    assert_ok(adapter_open(&c.adapter, c.model, (const char *const[]){folder}, NULL, 1, false));
    check_logits(c.model, &c.rows, 1e-5);
    free(path), free(original);
    close_case(&c);
  }
  assert_ok(directory_remove(folder));
}

// A merged model is a model of its own, with the logits of base and adapter, in both formats; an untied head is written beside the embedding.
static void check_merged(const PeftCase *c, const char *path, double tolerance) {
  Model *merged;
  assert_ok(model_open(&merged, path, (ModelOptions){0}, c->backend));
  check_logits(merged, &c->rows, tolerance);
  model_close(merged);
}

static void merged_models_have_the_logits_of_base_and_adapter(void **state) {
  (void)state;
  char folder[] = "/tmp/lora-trained-XXXXXX";
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < CASES; i++) {
    PeftCase c;
    const Quantization *f32;
    assert_ok(quantization_parse(&f32, "f32"));
    open_case(&c, cases[i].name, cases[i].base);
    char *gguf = memory_format("%s/%s.gguf", folder, cases[i].name), *plain = memory_format("%s/%s", folder, cases[i].name);
    char *again = memory_format("%s/%s-again", folder, cases[i].name), *adapter = path_join(folder, "adapter");
    MergeReport report;
    assert_ok(merge_write_folder(&report, c.model, plain, (MergeOptions){.type = f32}));
    assert_true(report.adapted > 0);
    check_merged(&c, plain, 1e-5);
    assert_ok(adapter_save_peft(c.adapter, adapter, c.base));
    // Over a GGUF base of the same weights the same adapter, whose norms and rows are in another form there.
    adapter_close(c.adapter);
    c.adapter = NULL;
    assert_ok(merge_write_gguf(&report, c.model, gguf, (MergeOptions){.type = f32}));
    Model *base;
    Adapter *over;
    assert_ok(model_open(&base, gguf, (ModelOptions){0}, c.backend));
    assert_ok(adapter_open(&over, base, (const char *const[]){adapter}, NULL, 1, false));
    check_logits(base, &c.rows, 1e-5);
    assert_int_equal(adapter_gguf_obstacle(over) == NULL, cases[i].in_gguf);
    char *merged = memory_format("%s/%s-merged.gguf", folder, cases[i].name);
    assert_ok(merge_write_gguf(&report, base, merged, (MergeOptions){0}));
    check_merged(&c, merged, 1e-5);
    assert_ok(merge_write_folder(&report, base, again, (MergeOptions){.type = f32}));
    check_merged(&c, again, 1e-5);
    adapter_close(over);
    model_close(base);
    free(gguf), free(plain), free(again), free(merged), free(adapter);
    close_case(&c);
  }
  assert_ok(directory_remove(folder));
}

static void adapters_of_embedding_and_head_come_back_from_gguf(void **state) {
  (void)state;
  char path[] = "/tmp/lora-trained-XXXXXX";
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  close(descriptor);
  for (int i = 0; i < CASES; i++) {
    if (!cases[i].in_gguf) continue;
    PeftCase c;
    open_case(&c, cases[i].name, cases[i].base);
    assert_ok(adapter_save_gguf(c.adapter, path));
    adapter_close(c.adapter);
    assert_ok(adapter_open(&c.adapter, c.model, (const char *const[]){path}, NULL, 1, false));
    check_logits(c.model, &c.rows, 1e-5);
    close_case(&c);
  }
  remove(path);
}

static void what_cannot_be_trained_or_added_up_is_refused(void **state) {
  (void)state;
  PeftCase c;
  Adapter *adapter;
  open_case(&c, "modules_tied", "gemma2_scalar");
  adapter_close(c.adapter);
  c.adapter = NULL;
  const double half[] = {0.5}, whole[] = {1, 1};
  assert_fails(STATUS_USAGE, adapter_open(&adapter, c.model, (const char *const[]){c.folder}, half, 1, false), "in full", "unscaled");
  assert_fails(STATUS_USAGE, adapter_open(&adapter, c.model, (const char *const[]){c.folder, c.folder}, whole, 2, false), "in full",
               "alone");
  AdapterSettings settings = {.rank = 2, .alpha = 4, .all_linear = true, .modules_to_save = (const char *const[]){"embed_token"}};
  settings.modules_to_save_count = 1;
  assert_fails(STATUS_USAGE, adapter_create(&adapter, c.model, &settings), "lora_modules_to_save", "embed_token");
  AdapterSettings tokens = {.rank = 2, .alpha = 4, .all_linear = true, .tokens = (const int32_t[]){3, 40}, .token_count = 2};
  assert_fails(STATUS_USAGE, adapter_create(&adapter, c.model, &tokens), "peft_trainable_token_indices", "40");
  close_case(&c);
  // An adapter of another model: its embedding has other sizes.
  open_case(&c, "lora_vocabulary", "mixtral_window");
  char *other = path_join(trained_data, "modules_apart");
  assert_fails(STATUS_BAD_INPUT, adapter_open(&adapter, c.model, (const char *const[]){other}, NULL, 1, false), "another model");
  free(other);
  close_case(&c);
  // Quantised weights are no parameters.
  Backend *backend;
  Model *model;
  assert_ok(backend_new(&backend, "cpu", 2));
  assert_ok(model_open(&model, TESTS_DIR "/adapters/data/families/gemma2_scalar", (ModelOptions){.quantize_nf4 = true}, backend));
  assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &(AdapterSettings){.trains_all = true}), "quantised", "qlora");
  model_close(model);
  assert_ok(model_open(&model, TESTS_DIR "/adapters/data/families/mixtral_window", (ModelOptions){0}, backend));
  assert_fails(STATUS_USAGE, adapter_create(&adapter, model, &(AdapterSettings){.trains_all = true}), "experts");
  model_close(model);
  backend_free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_tensor_of_every_family_has_the_gradient_of_torch),
      cmocka_unit_test(recomputed_layers_give_the_same_gradients),
      cmocka_unit_test(adapters_of_peft_give_its_logits_and_gradients),
      cmocka_unit_test(switched_off_or_closed_they_leave_the_base_bit_for_bit),
      cmocka_unit_test(written_adapters_come_back_whole),
      cmocka_unit_test(merged_models_have_the_logits_of_base_and_adapter),
      cmocka_unit_test(adapters_of_embedding_and_head_come_back_from_gguf),
      cmocka_unit_test(what_cannot_be_trained_or_added_up_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
