// Merged models: W + scale * B A in every format and back, what of a file is carried over, adapters between formats.
#include <math.h>

#include "adapters/divergence.h"
#include "adapters/merge.h"
#include "core/file.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/shards.h"
#include "tests/support/test.h"

enum { TOKENS = 24, RANK = 4 };

static const char *const all_targets[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
static const char tiny_gguf[] = TESTS_DIR "/data/tiny.gguf", tiny_folder[] = TESTS_DIR "/data/tiny-hf";

typedef struct Bench {
  Backend *backend;
  char *folder;
} Bench;

static int bench_open(void **state) {
  Bench *bench = memory_new(1, sizeof *bench);
  if (backend_new(&bench->backend, NULL, 2) != STATUS_OK) return 1;
  bench->folder = temporary_folder();
  *state = bench;
  return 0;
}

static int bench_close(void **state) {
  Bench *bench = *state;
  backend_free(bench->backend);
  (void)directory_remove(bench->folder);
  free(bench->folder);
  free(bench);
  return 0;
}

static Model *open_model(const Bench *bench, const char *path) {
  Model *model;
  assert_ok(model_open(&model, path, (ModelOptions){0}, bench->backend));
  return model;
}

// An adapter whose B is random too, as after training.
static Adapter *random_adapter(Model *model, int targets) {
  Adapter *adapter;
  AdapterSettings settings = {.rank = RANK, .alpha = 8, .targets = all_targets, .target_count = targets, .seed = 7};
  assert_ok(adapter_create(&adapter, model, &settings));
  Rng rng = rng_new(11, RNG_STREAM_TEST);
  for (int i = 0; i < adapter->count; i++) fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * RANK, 0.05, &rng);
  return adapter;
}

// Logits [TOKENS, vocabulary] of a fixed sequence; a new array.
static float *logits_of(const Model *model) {
  Backend *backend = model->backend;
  int32_t ids[TOKENS], positions[TOKENS];
  for (int i = 0; i < TOKENS; i++) {
    ids[i] = (int32_t)((i * 37 + 5) % model->config.vocabulary);
    positions[i] = i;
  }
  AttentionSpan span = {0, TOKENS, 0, TOKENS};
  DecoderInput input = {.ids = ids, .positions = positions, .tokens = TOKENS, .spans = &span, .span_count = 1};
  Tape tape;
  tape_new(&tape, backend);
  tape_begin(&tape, TAPE_FORWARD);
  Tensor *hidden = decoder_hidden(&tape, model, &input);
  tape_keep(hidden);
  tape_plan(&tape, 0);
  assert_ok(tape_reserve(&tape));
  tape_forward(&tape);
  float *x = memory_new((size_t)(TOKENS * model->config.hidden), sizeof *x);
  float *logits = memory_new((size_t)(TOKENS * model->config.vocabulary), sizeof *logits);
  tape_read(x, &tape, hidden);
  Projection head = projection_f32(logits, &model->head.weight, 1);
  backend->kernels->linear_forward(&head, 1, rows_f32(x, model->config.hidden), TOKENS, backend);
  free(x);
  tape_free(&tape);
  return logits;
}

static void assert_same_logits(const Bench *bench, const char *path, const float *expected, double tolerance) {
  Model *model = open_model(bench, path);
  float *logits = logits_of(model);
  assert_close(logits, expected, TOKENS * model->config.vocabulary, tolerance);
  free(logits);
  model_close(model);
}

static Status write_merged(MergeReport *report, const Model *model, const char *path, const char *type) {
  MergeOptions options = {0};
  TRY(quantization_parse(&options.type, type));
  return strstr(path, ".gguf") ? merge_write_gguf(report, model, path, options) : merge_write_folder(report, model, path, options);
}

// Merges a random adapter into `base`, writes f32, and compares logits; the base alone must be another model.
static void check_merge(const Bench *bench, const char *base, const char *name) {
  Model *model = open_model(bench, base);
  float *plain = logits_of(model);
  Adapter *adapter = random_adapter(model, 7);
  float *expected = logits_of(model);
  char *path = path_join(bench->folder, name);
  MergeReport report;
  assert_true(max_relative_error(plain, expected, TOKENS * model->config.vocabulary) > 0.01);
  assert_ok(write_merged(&report, model, path, "f32"));
  assert_int_equal(report.adapted, 7 * model->config.layers);
  assert_same_logits(bench, path, expected, 1e-5);
  free(plain);
  free(expected);
  free(path);
  adapter_close(adapter);
  model_close(model);
}

static void merged_f32_gguf_of_a_gguf_gives_the_logits_of_base_and_adapter(void **state) { check_merge(*state, tiny_gguf, "a.gguf"); }
static void merged_f32_folder_of_a_gguf_gives_the_logits_of_base_and_adapter(void **state) { check_merge(*state, tiny_gguf, "a"); }
static void merged_f32_gguf_of_a_folder_gives_the_logits_of_base_and_adapter(void **state) { check_merge(*state, tiny_folder, "b.gguf"); }
static void merged_f32_folder_of_a_folder_gives_the_logits_of_base_and_adapter(void **state) { check_merge(*state, tiny_folder, "b"); }

static void families_without_a_tokenizer_merge_as_well(void **state) {
  static const char *const families[] = {"golden/families/llama", "golden/families/llama_tied", "golden/families/llama_linear"};
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    char *base = shared_path(families[i]), name[32];
    if (!base) skip_test("the reference models are not there");
    snprintf(name, sizeof name, "family%zu.gguf", i);
    check_merge(*state, base, name);
    free(base);
  }
}

static bool same_value(const GgufValue *a, const GgufValue *b) {
  return b && a->type == b->type && a->count == b->count && a->bytes == b->bytes && (a->type != GGUF_ARRAY || a->element == b->element) &&
         memcmp(a->data, b->data, a->bytes) == 0;
}

// Every key of `from`, but for one, is in `to` with the same bytes.
static void assert_keys_carried(const char *from, const char *to, const char *but) {
  Gguf a, b;
  assert_ok(gguf_open(&a, from));
  assert_ok(gguf_open(&b, to));
  assert_true(a.value_count > 20);
  for (int64_t i = 0; i < a.value_count; i++) {
    if (but && strcmp(a.values[i].key, but) == 0) continue;
    if (!same_value(&a.values[i], gguf_find(&b, a.values[i].key))) fail_msg("%s is not carried over as it was", a.values[i].key);
  }
  gguf_close(&a);
  gguf_close(&b);
}

// Writes a model that has no adapter.
static char *convert(const Bench *bench, const char *base, const char *name, const char *type) {
  Model *model = open_model(bench, base);
  char *path = path_join(bench->folder, name);
  MergeReport report;
  assert_ok(write_merged(&report, model, path, type));
  assert_int_equal(report.adapted, 0);
  model_close(model);
  return path;
}

static void gguf_to_gguf_carries_every_key_and_the_order_of_tensors(void **state) {
  char *path = convert(*state, tiny_gguf, "q8.gguf", "q8_0");
  assert_keys_carried(tiny_gguf, path, "general.file_type");
  Gguf a, b;
  int64_t file_type = -1;
  assert_ok(gguf_open(&a, tiny_gguf));
  assert_ok(gguf_open(&b, path));
  assert_true(gguf_get_integer(&b, "general.file_type", &file_type));
  assert_int_equal(file_type, block_traits(BLOCK_Q8_0)->file_type);
  assert_int_equal(a.tensor_count, b.tensor_count);
  for (int64_t i = 0; i < a.tensor_count; i++) {
    assert_string_equal(a.tensors[i].name, b.tensors[i].name);
    assert_int_equal(b.tensors[i].type, a.tensors[i].dimensions == 1 ? BLOCK_F32 : BLOCK_Q8_0);
  }
  gguf_close(&a);
  gguf_close(&b);
  free(path);
}

static void same_type_changes_no_bit_of_what_has_no_adapter(void **state) {
  const Bench *bench = *state;
  Model *model = open_model(bench, tiny_gguf);
  Adapter *adapter = random_adapter(model, 1);
  char *path = path_join(bench->folder, "same.gguf");
  MergeReport report;
  assert_ok(write_merged(&report, model, path, "same"));
  assert_keys_carried(tiny_gguf, path, NULL);
  Gguf written;
  assert_ok(gguf_open(&written, path));
  int changed = 0;
  for (int64_t i = 0; i < written.tensor_count; i++) {
    const GgufTensor *before = &model->gguf.tensors[i], *after = &written.tensors[i];
    assert_int_equal(before->type, after->type);
    assert_int_equal(before->bytes, after->bytes);
    bool adapted = strstr(after->name, "attn_q.weight") != NULL, same = memcmp(before->data, after->data, after->bytes) == 0;
    assert_true(adapted != same);
    changed += !same;
  }
  assert_int_equal(changed, model->config.layers);
  gguf_close(&written);
  free(path);
  adapter_close(adapter);
  model_close(model);
}

static void a_split_base_gives_the_file_that_the_whole_one_gives(void **state) {
  const Bench *bench = *state;
  char *split = split_gguf(tiny_gguf, bench->folder, 3, 1, NULL);
  char *whole_path = convert(bench, tiny_gguf, "of-whole.gguf", "q8_0"), *split_path = convert(bench, split, "of-split.gguf", "q8_0");
  FileMap whole, merged;
  assert_ok(file_map(&whole, whole_path));
  assert_ok(file_map(&merged, split_path));
  assert_int_equal(whole.size, merged.size);
  assert_memory_equal(whole.data, merged.data, whole.size);
  file_unmap(&whole);
  file_unmap(&merged);
  // None of the base's own files may be written over.
  Model *model = open_model(bench, split);
  MergeReport report;
  for (int i = 0; i < model->gguf.shard_count; i++)
    assert_fails(STATUS_USAGE, write_merged(&report, model, model->gguf.shard_paths[i], "q8_0"), "base model itself");
  model_close(model);
  free(split), free(whole_path), free(split_path);
}

static void gguf_to_folder_to_gguf_keeps_every_bit_and_key(void **state) {
  char *first = convert(*state, tiny_gguf, "first.gguf", "f32");
  char *folder = convert(*state, first, "first", "f32");
  char *second = convert(*state, folder, "second.gguf", "f32");
  assert_keys_carried(first, second, NULL);
  Gguf a, b;
  assert_ok(gguf_open(&a, first));
  assert_ok(gguf_open(&b, second));
  assert_int_equal(a.tensor_count, b.tensor_count);
  for (int64_t i = 0; i < a.tensor_count; i++) {
    const GgufTensor *tensor = gguf_find_tensor(&b, a.tensors[i].name);
    assert_non_null(tensor);
    assert_int_equal(tensor->type, BLOCK_F32);
    assert_int_equal(tensor->bytes, a.tensors[i].bytes);
    assert_memory_equal(tensor->data, a.tensors[i].data, tensor->bytes);
  }
  gguf_close(&a);
  gguf_close(&b);
  free(first);
  free(folder);
  free(second);
}

static void a_folder_as_gguf_gives_the_same_logits_in_its_own_type(void **state) {
  Model *model = open_model(*state, tiny_folder);
  float *expected = logits_of(model);
  char *path = convert(*state, tiny_folder, "own.gguf", "same");
  assert_same_logits(*state, path, expected, 1e-5);
  free(path);
  free(expected);
  model_close(model);
}

static void a_chat_template_takes_the_place_of_the_base_s(void **state) {
  static const char template[] = "{% for m in messages %}{{ m.content }}{% endfor %}";
  static const char *const bases[] = {tiny_gguf, tiny_folder}, *const outputs[] = {"t.gguf", "t"};
  for (int i = 0; i < 4; i++) {
    Model *model = open_model(*state, bases[i / 2]);
    char *path = path_join(((const Bench *)*state)->folder, outputs[i % 2]);
    MergeReport report;
    MergeOptions options = {.chat_template = template};
    assert_ok(quantization_parse(&options.type, "f32"));
    assert_ok(i % 2 ? merge_write_folder(&report, model, path, options) : merge_write_gguf(&report, model, path, options));
    Tokenizer *tokenizer;
    assert_ok(tokenizer_open(&tokenizer, path));
    assert_string_equal(tokenizer_chat_template(tokenizer), template);
    tokenizer_free(tokenizer);
    model_close(model);
    free(path);
  }
}

static void assert_same_tokens(const char *a, const char *b) {
  static const char text[] = "<|im_start|>user\nWhat's 1234 + 56?\n\n  Caf\xc3\xa9 \xe6\xbc\xa2\xe5\xad\x97<|im_end|>\n";
  Tokenizer *tokenizers[2];
  TokenList ids[2] = {{0}, {0}};
  assert_ok(tokenizer_open(&tokenizers[0], a));
  assert_ok(tokenizer_open(&tokenizers[1], b));
  for (int i = 0; i < 2; i++)
    assert_ok(tokenizer_encode(&ids[i], tokenizers[i], text, sizeof text - 1, TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL));
  assert_true(ids[0].count > 10);
  assert_int_equal(ids[0].count, ids[1].count);
  assert_memory_equal(ids[0].ids, ids[1].ids, (size_t)ids[0].count * sizeof *ids[0].ids);
  assert_string_equal(tokenizer_chat_template(tokenizers[0]), tokenizer_chat_template(tokenizers[1]));
  assert_int_equal(tokenizer_bos(tokenizers[0]), tokenizer_bos(tokenizers[1]));
  assert_int_equal(tokenizer_eos(tokenizers[0]), tokenizer_eos(tokenizers[1]));
  assert_int_equal(tokenizer_pad(tokenizers[0]), tokenizer_pad(tokenizers[1]));
  for (int i = 0; i < 2; i++) {
    token_list_release(&ids[i]);
    tokenizer_free(tokenizers[i]);
  }
}

static void a_rebuilt_tokenizer_cuts_text_as_its_source_does(void **state) {
  char *folder = convert(*state, tiny_gguf, "tokens", "f16"), *gguf = convert(*state, tiny_folder, "tokens.gguf", "f16");
  assert_same_tokens(tiny_gguf, folder);
  assert_same_tokens(tiny_folder, gguf);
  free(folder);
  free(gguf);
}

// A copy of the tiny folder with one word of one of its files replaced.
static char *changed_folder(const Bench *bench, const char *name, const char *file, const char *word, const char *replacement) {
  static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"};
  char *folder = path_join(bench->folder, name);
  assert_ok(directory_create(folder));
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char *from = path_join(tiny_folder, files[i]), *to = path_join(folder, files[i]);
    Buffer text = {0}, changed = {0};
    assert_ok(file_read(&text, from, 1 << 28));
    const char *place = strcmp(files[i], file) == 0 ? strstr(text.data, word) : text.data + text.length;
    assert_non_null(place);
    buffer_append(&changed, text.data, (size_t)(place - text.data));
    if (place < text.data + text.length) {
      buffer_append_string(&changed, replacement);
      buffer_append_string(&changed, place + strlen(word));
    }
    assert_ok(file_write_whole(to, changed.data, changed.length));
    buffer_release(&text);
    buffer_release(&changed);
    free(from);
    free(to);
  }
  return folder;
}

static void check_llama3(void **state, int original_context) {
  char *scaling = memory_format(
      "\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
      "\"original_max_position_embeddings\": %d",
      original_context);
  char *folder = changed_folder(*state, "llama3", "config.json", "\"rope_type\": \"default\"", scaling);
  Model *model = open_model(*state, folder);
  float *expected = logits_of(model);
  char *gguf = convert(*state, folder, "llama3.gguf", "f32"), *back = convert(*state, gguf, "llama3-back", "f32");
  assert_same_logits(*state, gguf, expected, 1e-5);
  assert_same_logits(*state, back, expected, 1e-5);
  Model *returned = open_model(*state, back);
  assert_int_equal(returned->config.rope.scaling, ROPE_SCALING_LLAMA3);
  assert_true(returned->config.rope.factor == 8 && returned->config.rope.original_context == original_context);
  model_close(returned);
  free(scaling);
  model_close(model);
  free(expected);
  free(folder);
  free(gguf);
  free(back);
}

static void llama3_rope_scaling_survives_gguf_and_the_way_back(void **state) {
  check_llama3(state, 8192);
  check_llama3(state, 64);
}

static void a_pre_tokenizer_that_gguf_cannot_name_is_refused_with_the_remedy(void **state) {
  const Bench *bench = *state;
  char *folder = changed_folder(bench, "unknown-pre", "tokenizer.json", "\"individual_digits\":true", "\"individual_digits\":false");
  Model *model = open_model(bench, folder);
  char *path = path_join(bench->folder, "unknown-pre.gguf");
  MergeReport report;
  assert_fails(STATUS_BAD_INPUT, write_merged(&report, model, path, "f32"), "tokenizer.json", "Hugging Face folder");
  assert_false(file_exists(path));
  free(path);
  path = path_join(bench->folder, "unknown-pre-out");
  assert_ok(write_merged(&report, model, path, "same"));
  free(path);
  free(folder);
  model_close(model);
}

static void adapters_keep_their_values_between_peft_and_gguf(void **state) {
  const Bench *bench = *state;
  Model *gguf_model = open_model(bench, tiny_gguf), *folder_model = open_model(bench, tiny_folder);
  Adapter *adapter = random_adapter(gguf_model, 7), *in_folder, *back;
  int64_t size = adapter->size;
  float *values = memory_new((size_t)size, sizeof *values);
  memcpy(values, adapter->data, (size_t)size * sizeof *values);
  char *peft = path_join(bench->folder, "peft"), *gguf = path_join(bench->folder, "adapter.gguf");
  assert_ok(adapter_save_peft(adapter, peft, tiny_gguf));
  adapter_close(adapter);
  // Rows of q and k stand elsewhere in a Hugging Face model, so the flat values differ there...
  assert_ok(adapter_open(&in_folder, folder_model, (const char *const[]){peft}, NULL, 1, false));
  assert_int_equal(in_folder->size, size);
  assert_memory_not_equal(in_folder->data, values, (size_t)size * sizeof *values);
  assert_ok(adapter_save_gguf(in_folder, gguf));
  // ... and are the same again in the GGUF model.
  assert_ok(adapter_open(&back, gguf_model, (const char *const[]){gguf}, NULL, 1, false));
  assert_int_equal(back->size, size);
  assert_memory_equal(back->data, values, (size_t)size * sizeof *values);
  for (int i = 0; i < back->count; i++) assert_true(back->pairs[i].scale == in_folder->pairs[i].scale);
  adapter_close(back);
  adapter_close(in_folder);
  model_close(gguf_model);
  model_close(folder_model);
  free(values);
  free(peft);
  free(gguf);
}

static void outputs_that_would_destroy_something_are_refused(void **state) {
  const Bench *bench = *state;
  char *path = convert(bench, tiny_gguf, "precious.gguf", "f32");
  Model *model = open_model(bench, path);
  MergeReport report;
  assert_fails(STATUS_USAGE, write_merged(&report, model, path, "f32"), "base model itself");
  char *folder = path_join(bench->folder, "diary"), *file = path_join(folder, "diary.txt");
  assert_ok(directory_create(folder));
  assert_ok(file_write_whole(file, "dear", 4));
  assert_fails(STATUS_USAGE, write_merged(&report, model, folder, "f32"), "diary.txt");
  assert_true(file_exists(file));
  assert_fails(STATUS_USAGE, write_merged(&report, model, folder, "q8_0"), "f16");
  model_close(model);
  free(folder);
  free(file);
  free(path);
}

static void an_earlier_folder_is_replaced(void **state) {
  const Bench *bench = *state;
  char *first = convert(bench, tiny_gguf, "again", "f32"), *second = convert(bench, tiny_gguf, "again", "f16");
  Model *model = open_model(bench, second);
  assert_int_equal(model->linears[0]->weight.type, BLOCK_F16);
  model_close(model);
  free(first);
  free(second);
}

static void divergence_is_zero_for_the_same_model(void **state) {
  const Bench *bench = *state;
  Model *model = open_model(bench, tiny_folder), *base = open_model(bench, tiny_folder);
  int32_t ids[700];
  int64_t begins[] = {0, 3, 503, 700};
  for (int i = 0; i < 700; i++) ids[i] = (i * 31 + 7) % 700;
  DivergenceTexts texts = {.ids = ids, .begins = begins, .count = 3};
  Divergence none, some;
  assert_ok(divergence_measure(&none, model, base, &texts));
  assert_int_equal(none.tokens, 700);
  assert_true(none.mean == 0 && none.agreement == 1);
  Adapter *adapter = random_adapter(model, 7);
  assert_ok(divergence_measure(&some, model, base, &texts));
  assert_true(some.mean > 1e-3 && some.largest >= some.mean && some.agreement < 1);
  ids[5] = (int32_t)model->config.vocabulary;
  assert_fails(STATUS_BAD_INPUT, divergence_measure(&some, model, base, &texts), "vocabulary");
  adapter_close(adapter);
  model_close(model);
  model_close(base);
}

// KL from its definition, in float64, for the logits of one sequence.
static void divergence_equals_its_definition(void **state) {
  const Bench *bench = *state;
  Model *model = open_model(bench, tiny_folder), *base = open_model(bench, tiny_folder);
  int64_t vocabulary = model->config.vocabulary;
  Adapter *adapter = random_adapter(model, 7);
  float *p = logits_of(model), *q = logits_of(base);
  double expected = 0;
  for (int row = 0; row < TOKENS; row++) {
    double p_sum = 0, q_sum = 0;
    for (int64_t i = 0; i < vocabulary; i++) {
      p_sum += exp(p[row * vocabulary + i]);
      q_sum += exp(q[row * vocabulary + i]);
    }
    for (int64_t i = 0; i < vocabulary; i++) {
      double a = exp(p[row * vocabulary + i]) / p_sum, b = exp(q[row * vocabulary + i]) / q_sum;
      expected += a * log(a / b) / TOKENS;
    }
  }
  int32_t ids[TOKENS];
  int64_t begins[] = {0, TOKENS};
  for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * 37 + 5) % vocabulary);
  Divergence measured;
  assert_ok(divergence_measure(&measured, model, base, &(DivergenceTexts){.ids = ids, .begins = begins, .count = 1}));
  assert_true(fabs(measured.mean - expected) <= 1e-6 * expected);
  free(p);
  free(q);
  adapter_close(adapter);
  model_close(model);
  model_close(base);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_chat_template_takes_the_place_of_the_base_s),
      cmocka_unit_test(merged_f32_gguf_of_a_gguf_gives_the_logits_of_base_and_adapter),
      cmocka_unit_test(merged_f32_folder_of_a_gguf_gives_the_logits_of_base_and_adapter),
      cmocka_unit_test(merged_f32_gguf_of_a_folder_gives_the_logits_of_base_and_adapter),
      cmocka_unit_test(merged_f32_folder_of_a_folder_gives_the_logits_of_base_and_adapter),
      cmocka_unit_test(families_without_a_tokenizer_merge_as_well),
      cmocka_unit_test(gguf_to_gguf_carries_every_key_and_the_order_of_tensors),
      cmocka_unit_test(same_type_changes_no_bit_of_what_has_no_adapter),
      cmocka_unit_test(a_split_base_gives_the_file_that_the_whole_one_gives),
      cmocka_unit_test(gguf_to_folder_to_gguf_keeps_every_bit_and_key),
      cmocka_unit_test(a_folder_as_gguf_gives_the_same_logits_in_its_own_type),
      cmocka_unit_test(a_rebuilt_tokenizer_cuts_text_as_its_source_does),
      cmocka_unit_test(llama3_rope_scaling_survives_gguf_and_the_way_back),
      cmocka_unit_test(a_pre_tokenizer_that_gguf_cannot_name_is_refused_with_the_remedy),
      cmocka_unit_test(adapters_keep_their_values_between_peft_and_gguf),
      cmocka_unit_test(outputs_that_would_destroy_something_are_refused),
      cmocka_unit_test(an_earlier_folder_is_replaced),
      cmocka_unit_test(divergence_is_zero_for_the_same_model),
      cmocka_unit_test(divergence_equals_its_definition),
  };
  return cmocka_run_group_tests(tests, bench_open, bench_close);
}
