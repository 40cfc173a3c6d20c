// `lora inspect` as a user meets it: what it shows of good files, and what it says of bad ones.
#include <math.h>
#include <unistd.h>

#include <jansson.h>

#include "adapters/adapter.h"
#include "core/file.h"
#include "tests/support/shards.h"
#include "tests/support/test.h"
#include "tests/trainer/checkpoint_support.h"

static const char tiny[] = TESTS_DIR "/data/tiny.gguf", tiny_folder[] = TESTS_DIR "/data/tiny-hf";

static char *inside(const char *name) { return path_join(test_folder, name); }

static Buffer inspect_text(const char *path, const char *options, int code) {
  Buffer output = {0};
  int status = run_program(&output, "inspect '%s' %s", path, options);
  if (status != code) fail_msg("inspect %s %s: exit code %d, not %d: %s", path, options, status, code, output.data ? output.data : "");
  return output;
}

// The object that --json prints; stderr's last line may stand behind it.
static json_t *inspect_json(const char *path, const char *options, int code) {
  char *all = memory_format("--json %s", options);
  Buffer output = inspect_text(path, all, code);
  json_error_t error;
  json_t *root = json_loadb(output.data, output.length, JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &error);
  if (!root) fail_msg("inspect --json %s: line %d: %s", path, error.line, error.text);
  buffer_release(&output);
  free(all);
  return root;
}

static const char *text_of(const json_t *root, const char *key) { return json_string_value(json_object_get(root, key)); }

// A problem of this level whose place and message hold the words.
static bool has_problem(const json_t *root, const char *level, const char *where, const char *word) {
  const json_t *problem;
  size_t i;
  json_array_foreach(json_object_get(root, "problems"), i, problem) {
    const char *place = text_of(problem, "where");
    if (strcmp(text_of(problem, "level"), level) == 0 && (!where || (place && strcmp(place, where) == 0)) &&
        strstr(text_of(problem, "message"), word))
      return true;
  }
  return false;
}

static void assert_problem_at(const char *path, int code, const char *level, const char *where, const char *word) {
  json_t *root = inspect_json(path, "", code);
  if (!has_problem(root, level, where, word)) {
    char *text = json_dumps(json_object_get(root, "problems"), 0);
    fail_msg("%s: no %s at %s with \"%s\": %s", path, level, where ? where : "(any place)", word, text);
  }
  json_decref(root);
}

#define assert_error(path, where, word) assert_problem_at(path, 2, "error", where, word)
#define assert_warning(path, where, word) assert_problem_at(path, 0, "warning", where, word)

// The tiny model with one thing changed.
typedef struct Change {
  const char *drop_tensor, *rename_tensor, *drop_key, *add_key, *add_tensor;
  const char *fill_tensor;  // of f32 vectors; blocks of zero bytes are zeros
  float fill;
  bool one_token_less;
} Change;

static void write_changed(const char *path, const Change *change) {
  Gguf in;
  GgufWriter writer;
  assert_ok(gguf_open(&in, tiny));
  gguf_writer_new(&writer);
  for (int64_t i = 0; i < in.value_count; i++) {
    const GgufValue *value = &in.values[i];
    if (change->drop_key && strcmp(value->key, change->drop_key) == 0) continue;
    if (change->one_token_less && strcmp(value->key, "tokenizer.ggml.tokens") == 0)
      gguf_put_string_array(&writer, value->key, value->strings, value->count - 1);
    else if (change->one_token_less && strcmp(value->key, "tokenizer.ggml.token_type") == 0)
      gguf_put_array(&writer, value->key, value->element, value->data, value->count - 1);
    else if (!change->one_token_less || strcmp(value->key, "tokenizer.ggml.merges") != 0) gguf_put_value(&writer, value);
    else gguf_put_string_array(&writer, value->key, value->strings, 1);
  }
  if (change->add_key) gguf_put_uint32(&writer, change->add_key, 1);
  for (int64_t i = 0; i < in.tensor_count; i++) {
    const GgufTensor *t = &in.tensors[i];
    if (change->drop_tensor && strcmp(t->name, change->drop_tensor) == 0) continue;
    bool renamed = change->rename_tensor && strcmp(t->name, change->rename_tensor) == 0;
    gguf_declare_tensor(&writer, renamed ? "blk.0.renamed" : t->name, t->type, t->dimensions, t->shape);
  }
  if (change->add_tensor) gguf_declare_tensor(&writer, change->add_tensor, BLOCK_F32, 1, (int64_t[]){1});
  assert_ok(gguf_writer_open(&writer, path));
  for (int64_t i = 0; i < in.tensor_count; i++) {
    const GgufTensor *t = &in.tensors[i];
    if (change->drop_tensor && strcmp(t->name, change->drop_tensor) == 0) continue;
    uint8_t *bytes = memory_new(t->bytes, 1);
    memcpy(bytes, t->data, t->bytes);
    if (change->fill_tensor && strcmp(t->name, change->fill_tensor) == 0)
      for (size_t j = 0; j < t->bytes; j += sizeof change->fill) memcpy(bytes + j, &change->fill, sizeof change->fill);
    assert_ok(gguf_write_tensor(&writer, bytes, t->bytes));
    free(bytes);
  }
  const float one = 1;
  if (change->add_tensor) assert_ok(gguf_write_tensor(&writer, &one, sizeof one));
  assert_ok(gguf_writer_commit(&writer));
  gguf_close(&in);
}

static char *changed(Change change) {
  char *path = inside("changed.gguf");
  write_changed(path, &change);
  return path;
}

static void a_good_model_has_metadata_types_tensors_and_no_problem(void **state) {
  (void)state;
  json_t *root = inspect_json(tiny, "", 0);
  Gguf gguf;
  assert_ok(gguf_open(&gguf, tiny));
  assert_string_equal(text_of(root, "kind"), "GGUF model");
  assert_string_equal(text_of(root, "format"), "GGUF v3");
  assert_int_equal(json_array_size(json_object_get(root, "problems")), 0);
  assert_int_equal(json_integer_value(json_object_get(root, "bytes")), gguf.map.size);
  const json_t *metadata = json_object_get(root, "metadata"), *tokens = json_object_get(metadata, "tokenizer.ggml.tokens");
  assert_int_equal(json_object_size(metadata), gguf.value_count);
  assert_string_equal(text_of(json_object_get(metadata, "general.architecture"), "value"), "llama");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(metadata, "llama.block_count"), "value")), 3);
  assert_true(json_real_value(json_object_get(json_object_get(metadata, "llama.attention.layer_norm_rms_epsilon"), "value")) == 1e-5);
  assert_int_equal(json_integer_value(json_object_get(tokens, "count")), 768);
  assert_int_equal(json_array_size(json_object_get(tokens, "values")), 16);
  const json_t *tensors = json_object_get(root, "tensors"), *types = json_object_get(root, "types"), *item;
  assert_int_equal(json_array_size(tensors), gguf.tensor_count);
  int64_t bytes = 0, count = 0;
  size_t i;
  json_array_foreach(types, i, item) {
    bytes += json_integer_value(json_object_get(item, "bytes"));
    count += json_integer_value(json_object_get(item, "tensors"));
  }
  assert_int_equal(count, gguf.tensor_count);
  assert_int_equal(bytes, json_integer_value(json_object_get(root, "tensor_bytes")));
  json_array_foreach(tensors, i, item) {
    assert_string_equal(text_of(item, "name"), gguf.tensors[i].name);
    assert_int_equal(json_integer_value(json_object_get(item, "bytes")), gguf.tensors[i].bytes);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(item, "shape"), 0)), gguf.tensors[i].shape[0]);
    assert_true(json_real_value(json_object_get(json_object_get(item, "statistics"), "rms")) > 0);
  }
  gguf_close(&gguf);
  json_decref(root);
}

static void text_shortens_long_arrays_and_lists_tensors_when_asked(void **state) {
  (void)state;
  Buffer text = inspect_text(tiny, "", 0);
  assert_non_null(strstr(text.data, "768 strings: \"<|endoftext|>\", \"<|im_start|>\", "));
  assert_non_null(strstr(text.data, ", ...\n"));
  assert_non_null(strstr(text.data, "0.39 MiB"));
  assert_non_null(strstr(text.data, "5.68 bits per weight"));
  assert_non_null(strstr(text.data, "problems: none"));
  assert_null(strstr(text.data, "blk.0.attn_q.weight"));
  buffer_release(&text);
  text = inspect_text(tiny, "--tensors", 0);
  const char *row = strstr(text.data, "blk.0.attn_q.weight");
  assert_non_null(row);
  assert_non_null(strstr(row, "q4_1"));
  assert_non_null(strstr(row, "[128, 128]"));
  buffer_release(&text);
}

static void nan_is_found_unless_values_are_not_read(void **state) {
  (void)state;
  char *path = changed((Change){.fill_tensor = "blk.1.attn_norm.weight", .fill = NAN});
  assert_error(path, "blk.1.attn_norm.weight", "128 NaN");
  json_t *root = inspect_json(path, "--no-statistics", 0);
  assert_true(json_is_null(json_object_get(json_array_get(json_object_get(root, "tensors"), 0), "statistics")));
  json_decref(root);
  free(path);
  path = changed((Change){.fill_tensor = "output_norm.weight", .fill = -INFINITY});
  assert_error(path, "output_norm.weight", "128 infinite");
  free(path);
}

static void zeros_are_an_error_in_a_matrix_and_a_warning_in_a_vector(void **state) {
  (void)state;
  char *path = changed((Change){.fill_tensor = "blk.0.ffn_up.weight", .fill = 0});
  assert_error(path, "blk.0.ffn_up.weight", "zero");
  free(path);
  path = changed((Change){.fill_tensor = "blk.0.ffn_norm.weight", .fill = 0});
  assert_warning(path, "blk.0.ffn_norm.weight", "zero");
  free(path);
}

static void names_that_are_missing_or_unknown_are_told(void **state) {
  (void)state;
  char *path = changed((Change){.rename_tensor = "blk.0.attn_q.weight"});
  assert_error(path, "blk.0.attn_q.weight", "missing");
  assert_problem_at(path, 2, "warning", "blk.0.renamed", "not used");
  free(path);
  path = changed((Change){.drop_tensor = "output_norm.weight"});
  assert_error(path, "output_norm.weight", "missing");
  free(path);
  path = changed((Change){.add_tensor = "stray.weight"});
  assert_warning(path, "stray.weight", "not used");
  free(path);
  path = changed((Change){.add_key = "vendor.secret"});
  assert_warning(path, "vendor.secret", "unknown key");
  free(path);
}

static void what_opening_refuses_is_an_error_and_the_rest_is_shown(void **state) {
  (void)state;
  char *path = changed((Change){.drop_key = "llama.embedding_length"});
  assert_error(path, NULL, "embedding_length");
  free(path);
  path = changed((Change){.one_token_less = true});
  assert_error(path, "token_embd.weight", "768 rows");
  free(path);
  Buffer bytes = {0};
  assert_ok(file_read(&bytes, tiny, 1 << 24));
  path = inside("short.gguf");
  assert_ok(file_write_whole(path, bytes.data, bytes.length - 100000));
  json_t *root = inspect_json(path, "", 2);
  assert_true(has_problem(root, "error", NULL, "fetch it again"));
  assert_int_equal(json_object_size(json_object_get(root, "metadata")), 30);
  assert_int_equal(json_array_size(json_object_get(root, "tensors")), 29);
  json_decref(root);
  assert_ok(file_write_whole(path, bytes.data, 2000));
  Buffer text = inspect_text(path, "", 2);
  assert_non_null(strstr(text.data, "general.architecture"));
  assert_non_null(strstr(text.data, "error: "));
  buffer_release(&text);
  buffer_release(&bytes);
  free(path);
}

static void split_models_are_one_and_missing_parts_are_named(void **state) {
  (void)state;
  char *first = split_gguf(tiny, test_folder, 3, 1, NULL);
  json_t *split = inspect_json(first, "", 0), *whole = inspect_json(tiny, "", 0);
  assert_int_equal(json_array_size(json_object_get(split, "files")), 3);
  assert_true(json_equal(json_object_get(split, "tensors"), json_object_get(whole, "tensors")));
  assert_true(json_equal(json_object_get(split, "metadata"), json_object_get(whole, "metadata")));
  json_decref(split);
  json_decref(whole);
  char *last = inside("model-00003-of-00003.gguf");
  assert_error(last, NULL, "give the first");
  unlink(last);
  assert_error(first, NULL, "model-00003-of-00003.gguf");
  free(first), free(last);
}

static void vocabularies_and_importance_matrices_are_known(void **state) {
  (void)state;
  char *path = inside("vocabulary.gguf");
  GgufWriter writer;
  Gguf in;
  assert_ok(gguf_open(&in, tiny));
  gguf_writer_new(&writer);
  for (int64_t i = 0; i < in.value_count; i++) gguf_put_value(&writer, &in.values[i]);
  assert_ok(gguf_writer_open(&writer, path));
  assert_ok(gguf_writer_commit(&writer));
  gguf_close(&in);
  json_t *root = inspect_json(path, "", 0);
  assert_string_equal(text_of(root, "kind"), "GGUF vocabulary");
  json_decref(root);
  for (int bad = 0; bad < 2; bad++) {
    gguf_writer_new(&writer);
    gguf_put_string(&writer, "general.type", "imatrix", 7);
    gguf_declare_tensor(&writer, "blk.0.attn_q.weight.in_sum2", BLOCK_F32, 1, (int64_t[]){1});
    if (!bad) gguf_declare_tensor(&writer, "blk.0.attn_q.weight.counts", BLOCK_F32, 1, (int64_t[]){1});
    assert_ok(gguf_writer_open(&writer, path));
    for (int i = 0; i < 2 - bad; i++) assert_ok(gguf_write_tensor(&writer, "\0\0\x80\x3F", 4));
    assert_ok(gguf_writer_commit(&writer));
    root = inspect_json(path, "", bad ? 2 : 0);
    assert_string_equal(text_of(root, "kind"), "GGUF importance matrix");
    assert_int_equal(has_problem(root, "error", "blk.0.attn_q.weight.in_sum2", ".counts"), bad);
    json_decref(root);
  }
  free(path);
}

static void model_folders_show_their_config(void **state) {
  (void)state;
  json_t *root = inspect_json(tiny_folder, "", 0);
  assert_string_equal(text_of(root, "kind"), "Hugging Face model folder");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(root, "metadata"), "config.hidden_size"), "value")),
                   128);
  assert_int_equal(json_array_size(json_object_get(root, "problems")), 0);
  assert_int_equal(json_array_size(json_object_get(root, "tensors")), 29);
  json_decref(root);
}

static void copy_to(const char *to, const char *name) {
  char *from = path_join(tiny_folder, name), *path = path_join(to, name);
  Buffer bytes = {0};
  assert_ok(file_read(&bytes, from, 1 << 24));
  assert_ok(file_write_whole(path, bytes.data, bytes.length));
  buffer_release(&bytes);
  free(from), free(path);
}

// The tiny folder again, as two shards; the embedding has `rows` rows, and config.json says so.
static char *write_model_folder(int64_t rows, const char *drop) {
  char *to = inside("model"), *source = path_join(tiny_folder, "model.safetensors"), *config = inside("model/config.json");
  Safetensors st;
  assert_ok(safetensors_open(&st, source));
  assert_ok(directory_create(to));
  copy_to(to, "config.json"), copy_to(to, "tokenizer.json"), copy_to(to, "tokenizer_config.json");
  json_t *root = json_load_file(config, 0, NULL), *index = json_object(), *places = json_object();
  json_object_set_new(root, "vocab_size", json_integer(rows));
  json_dump_file(root, config, 0);
  for (int shard = 0; shard < 2; shard++) {
    char *name = memory_format("model-%05d-of-00002.safetensors", shard + 1), *path = path_join(to, name);
    SafetensorsWriter writer;
    safetensors_writer_new(&writer);
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t i = shard; i < st.tensor_count; i += 2) {
        const SafetensorsTensor *t = &st.tensors[i];
        bool is_embedding = strcmp(t->name, "model.embed_tokens.weight") == 0;
        int64_t shape[2] = {is_embedding ? rows : t->shape[0], t->shape[1]};
        if (drop && strcmp(t->name, drop) == 0) continue;
        if (pass == 0) safetensors_declare(&writer, t->name, t->type, t->dimensions, shape);
        else safetensors_write(&writer, t->data, t->bytes / (size_t)t->shape[0] * (size_t)shape[0]);
        if (pass == 0) json_object_set_new(places, t->name, json_string(name));
      }
      if (pass == 0) assert_ok(safetensors_writer_open(&writer, path));
    }
    assert_ok(safetensors_writer_commit(&writer));
    free(name), free(path);
  }
  json_object_set_new(index, "weight_map", places);
  char *path = path_join(to, "model.safetensors.index.json");
  json_dump_file(index, path, 0);
  json_decref(root), json_decref(index);
  safetensors_close(&st);
  free(source), free(config), free(path);
  return to;
}

static void sharded_folders_are_one_model_and_their_faults_are_told(void **state) {
  (void)state;
  char *path = write_model_folder(768, NULL), *shard = inside("model/model-00002-of-00002.safetensors");
  json_t *root = inspect_json(path, "", 0);
  assert_string_equal(text_of(root, "format"), "sharded safetensors");
  assert_int_equal(json_array_size(json_object_get(root, "files")), 2);
  assert_int_equal(json_array_size(json_object_get(root, "tensors")), 29);
  json_decref(root);
  unlink(shard);
  assert_error(path, NULL, "model-00002-of-00002.safetensors");
  free(path);
  path = write_model_folder(760, NULL);
  assert_error(path, "model.embed_tokens.weight", "fewer than the 768 tokens");
  free(path);
  path = write_model_folder(768, "model.layers.1.mlp.up_proj.weight");
  assert_error(path, "model.layers.1.mlp.up_proj.weight", "missing");
  free(path), free(shard);
}

static Adapter *new_adapter(Model **model, Backend **backend, bool trained) {
  static const char *const targets[] = {"q_proj", "down_proj"};
  Adapter *adapter;
  assert_ok(backend_new(backend, NULL, 2));
  assert_ok(model_open(model, tiny, (ModelOptions){0}, *backend));
  assert_ok(adapter_create(&adapter, *model, &(AdapterSettings){.rank = 3, .alpha = 12, .targets = targets, .target_count = 2, .seed = 1}));
  Rng rng = rng_new(3, RNG_STREAM_TEST);
  for (int i = 0; trained && i < adapter->count; i++) fill_normal(adapter->pairs[i].b.data, adapter->pairs[i].b.rows * 3, 0.1, &rng);
  return adapter;
}

static double norm(const float *values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += (double)values[i] * values[i];
  return sqrt(sum);
}

static double delta_norm(const LowRank *pair) {
  double sum = 0;
  for (int64_t row = 0; row < pair->b.rows; row++)
    for (int64_t column = 0; column < pair->a.columns; column++) {
      double value = 0;
      for (int64_t r = 0; r < pair->a.rows; r++)
        value += (double)pair->b.data[row * pair->a.rows + r] * pair->a.data[r * pair->a.columns + column];
      sum += value * value;
    }
  return pair->scale * sqrt(sum);
}

static void assert_pairs(const json_t *root, const Adapter *adapter, bool is_gguf) {
  const json_t *pairs = json_object_get(json_object_get(root, "adapter"), "pairs"), *item;
  assert_int_equal(json_array_size(pairs), adapter->count);
  size_t i;
  int found = 0;
  json_array_foreach(pairs, i, item) for (int j = 0; j < adapter->count; j++) {
    const LowRank *pair = &adapter->pairs[j];
    if (strcmp(text_of(item, "module"), is_gguf ? adapter->linears[j]->gguf_name : adapter->linears[j]->name) != 0) continue;
    found++;
    assert_int_equal(json_integer_value(json_object_get(item, "rank")), 3);
    assert_int_equal(json_integer_value(json_object_get(item, "in")), pair->a.columns);
    assert_int_equal(json_integer_value(json_object_get(item, "out")), pair->b.rows);
    const struct {
      const char *key;
      double value;
    } numbers[] = {{"scale", 4},
                   {"a_norm", norm(pair->a.data, pair->a.rows * pair->a.columns)},
                   {"b_norm", norm(pair->b.data, pair->b.rows * pair->b.columns)},
                   {"delta_norm", delta_norm(pair)}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
      double seen = json_number_value(json_object_get(item, numbers[k].key));
      if (!(fabs(seen - numbers[k].value) <= 1e-9 * numbers[k].value)) fail_msg("%s: %g, not %g", numbers[k].key, seen, numbers[k].value);
    }
  }
  assert_int_equal(found, adapter->count);
}

static void adapters_show_their_pairs_and_norms(void **state) {
  (void)state;
  Model *model;
  Backend *backend;
  Adapter *adapter = new_adapter(&model, &backend, true);
  char *gguf = inside("adapter.gguf"), *peft = inside("peft"), *weights = inside("peft/adapter_model.safetensors");
  assert_ok(adapter_save_gguf(adapter, gguf));
  assert_ok(adapter_save_peft(adapter, peft, "base"));
  json_t *root = inspect_json(gguf, "", 0);
  assert_string_equal(text_of(root, "kind"), "GGUF adapter");
  assert_pairs(root, adapter, true);
  json_decref(root);
  root = inspect_json(peft, "", 0);
  assert_string_equal(text_of(root, "kind"), "PEFT adapter folder");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "adapter"), "rank")), 3);
  assert_int_equal(json_array_size(json_object_get(root, "problems")), 0);
  assert_pairs(root, adapter, false);
  json_decref(root);
  root = inspect_json(weights, "", 0);
  assert_string_equal(text_of(root, "kind"), "PEFT adapter's weights");
  json_decref(root);
  adapter_close(adapter), model_close(model), backend_free(backend);
  free(gguf), free(peft), free(weights);
}

static void an_untrained_adapter_changes_nothing(void **state) {
  (void)state;
  Model *model;
  Backend *backend;
  Adapter *adapter = new_adapter(&model, &backend, false);
  char *gguf = inside("zero.gguf"), *peft = inside("zero");
  assert_ok(adapter_save_gguf(adapter, gguf));
  assert_ok(adapter_save_peft(adapter, peft, "base"));
  assert_error(gguf, NULL, "changes nothing");
  assert_error(peft, NULL, "changes nothing");
  adapter->pairs[0].b.data[0] = 1;
  assert_ok(adapter_save_peft(adapter, peft, "base"));
  assert_warning(peft, adapter->linears[1]->name, "changes nothing here");
  adapter_close(adapter), model_close(model), backend_free(backend);
  free(gguf), free(peft);
}

static void a_dora_adapter_shows_its_pairs_and_has_no_problem(void **state) {
  (void)state;
  Model *model;
  Backend *backend;
  Adapter *adapter = new_adapter(&model, &backend, false);
  adapter_close(adapter);
  assert_ok(adapter_create(&adapter, model, &(AdapterSettings){.rank = 3, .alpha = 12, .all_linear = true, .dora = true, .seed = 1}));
  char *peft = inside("dora");
  assert_ok(adapter_save_peft(adapter, peft, "base"));
  json_t *root = inspect_json(peft, "", 0);
  assert_int_equal(json_array_size(json_object_get(root, "problems")), 0);
  assert_int_equal(json_array_size(json_object_get(json_object_get(root, "adapter"), "pairs")), adapter->count);
  json_decref(root);
  adapter_close(adapter), model_close(model), backend_free(backend);
  free(peft);
}

static void faulty_adapters_are_refused(void **state) {
  (void)state;
  Model *model;
  Backend *backend;
  Adapter *adapter = new_adapter(&model, &backend, true);
  char *peft = inside("faulty"), *config = inside("faulty/adapter_config.json"), *weights = inside("faulty/adapter_model.safetensors");
  assert_ok(adapter_save_peft(adapter, peft, "base"));
  const char *dora = "{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 8, \"use_dora\": true, \"target_modules\": [\"q_proj\"]}";
  assert_ok(file_write_whole(config, dora, strlen(dora)));
  assert_error(peft, "model.layers.0.self_attn.q_proj", "use_dora is set, and its lora_magnitude_vector is missing");
  const char *plain = "{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"o_proj\"]}";
  assert_ok(file_write_whole(config, plain, strlen(plain)));
  assert_warning(peft, "o_proj", "no pair adapts it");
  assert_warning(peft, "model.layers.0.self_attn.q_proj", "has rank 3");
  unlink(config);
  assert_error(peft, NULL, "adapter_config.json");
  SafetensorsWriter writer;
  const float ones[6] = {1, 1, 1, 1, 1, 1};
  safetensors_writer_new(&writer);
  safetensors_declare(&writer, "base_model.model.a.lora_A.weight", ST_F32, 2, (int64_t[]){2, 3});
  safetensors_declare(&writer, "base_model.model.b.lora_A.weight", ST_F32, 2, (int64_t[]){2, 3});
  safetensors_declare(&writer, "base_model.model.b.lora_B.weight", ST_F32, 2, (int64_t[]){2, 3});
  safetensors_declare(&writer, "base_model.model.c.lora_magnitude_vector", ST_F32, 1, (int64_t[]){6});
  assert_ok(safetensors_writer_open(&writer, weights));
  for (int i = 0; i < 4; i++) safetensors_write(&writer, ones, sizeof ones);
  assert_ok(safetensors_writer_commit(&writer));
  assert_error(weights, "base_model.model.a.lora_A.weight", "lora_B.weight, is missing");
  assert_error(weights, "base_model.model.b.lora_A.weight", "do not fit");
  assert_error(weights, "base_model.model.c.lora_magnitude_vector", "no tensor of a LoRA pair");
  unlink(weights);
  char *pickle = inside("faulty/adapter_model.bin");
  assert_ok(file_write_whole(pickle, "\x80\2", 2));
  assert_error(peft, NULL, "pickle");
  adapter_close(adapter), model_close(model), backend_free(backend);
  free(peft), free(config), free(weights), free(pickle);
}

static Status save_adapter(const char *path, void *adapter) { return adapter_save_peft(adapter, path, "base"); }

static void checkpoints_and_outputs_show_their_state(void **state) {
  (void)state;
  enum { COUNT = 500 };
  Model *model;
  Backend *backend;
  Adapter *adapter = new_adapter(&model, &backend, true);
  char *output = inside("output"), *checkpoint = inside("output/checkpoint-20"), *file = inside("output/checkpoint-20/state.h5");
  for (int64_t step = 10; step <= 20; step += 10) {
    Sample sample = sample_new(step, COUNT);
    for (int i = 0; i < COUNT; i++) sample.buffers[0][i] = (float)i, sample.buffers[1][i] = sample.buffers[2][i] = 0;
    assert_ok(checkpoint_write(output, &sample.state, sample.arrays, 3, &host, save_adapter, adapter));
    sample_release(&sample);
  }
  for (int i = 0; i < 2; i++) {
    json_t *root = inspect_json(i ? file : checkpoint, "", 0), *metadata = json_object_get(root, "metadata");
    assert_string_equal(text_of(root, "kind"), i ? "HDF5 file" : "checkpoint");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(metadata, "step"), "value")), 20);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(metadata, "seed"), "value")), 42);
    assert_int_equal(strlen(text_of(json_object_get(metadata, "model_sha256"), "value")), 64);
    const json_t *tensors = json_object_get(root, "tensors"), *array = NULL, *item;
    size_t j;
    json_array_foreach(tensors, j, item) if (strcmp(text_of(item, "name"), "parameters") == 0) array = item;
    assert_int_equal(json_integer_value(json_array_get(json_object_get(array, "shape"), 0)), COUNT);
    assert_true(json_real_value(json_object_get(json_object_get(array, "statistics"), "mean")) == (COUNT - 1) / 2.0);
    json_decref(root);
  }
  json_t *root = inspect_json(output, "", 0);
  assert_int_equal(json_array_size(json_object_get(root, "checkpoints")), 2);
  json_decref(root);
  assert_ok(adapter_save_peft(adapter, output, "base"));
  root = inspect_json(output, "", 0);
  assert_non_null(strstr(text_of(root, "kind"), "with its adapter"));
  assert_pairs(root, adapter, false);
  json_decref(root);
  FILE *stream = fopen(file, "r+b");
  fseek(stream, -1, SEEK_END);
  fputc(1, stream);
  fclose(stream);
  assert_error(checkpoint, NULL, "state.h5");
  assert_error(output, NULL, "state.h5");
  assert_ok(file_write_whole(file, "\x89HDF broken", 11));
  assert_error(file, NULL, "not an HDF5 file");
  adapter_close(adapter), model_close(model), backend_free(backend);
  free(output), free(checkpoint), free(file);
}

static void words_of_a_file_do_not_steer_the_terminal(void **state) {
  (void)state;
  char *path = inside("escape.safetensors");
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  safetensors_put_metadata(&writer, "key\x1b[2J", "value\x1b[2J\n");
  assert_ok(safetensors_writer_open(&writer, path));
  assert_ok(safetensors_writer_commit(&writer));
  Buffer text = inspect_text(path, "", 0);
  assert_null(strchr(text.data, 0x1b));
  assert_non_null(strstr(text.data, "key?[2J"));
  assert_non_null(strstr(text.data, "\"value\\x1b[2J\\n\""));
  buffer_release(&text);
  free(path);
}

// Two tensors of a type that is not built, of 2^62 elements each.
static void claimed_sizes_do_not_overflow_the_sums(void **state) {
  (void)state;
  Buffer file = {0};
  const uint64_t header[] = {2, 0}, name_length = 1, shape = 1ull << 62;
  const uint32_t one = 1, iq4_nl = 20;
  buffer_append(&file, "GGUF\3\0\0", 8);
  buffer_append(&file, header, sizeof header);
  for (uint64_t i = 0; i < 2; i++) {
    const uint64_t offset = 32 * i;
    buffer_append(&file, &name_length, 8), buffer_append(&file, i ? "a" : "b", 1), buffer_append(&file, &one, 4);
    buffer_append(&file, &shape, 8), buffer_append(&file, &iq4_nl, 4), buffer_append(&file, &offset, 8);
  }
  while (file.length % 32) buffer_append(&file, "", 1);
  for (int i = 0; i < 64; i++) buffer_append(&file, "", 1);
  char *path = inside("claims.gguf");
  assert_ok(file_write_whole(path, file.data, file.length));
  json_t *root = inspect_json(path, "", 2);
  assert_true(json_integer_value(json_object_get(root, "parameters")) == INT64_MAX);
  assert_true(json_number_value(json_object_get(root, "bits_per_weight")) >= 0);
  json_decref(root);
  buffer_release(&file);
  free(path);
}

static void foreign_files_and_empty_folders_are_problems_with_the_remedy(void **state) {
  (void)state;
  static const struct {
    const char *name, *bytes, *word;
  } cases[] = {{"pytorch_model.bin", "PK\3\4 and so on", "safe_serialization=True"},
               {"model.onnx", "\x08\7 and so on", "ONNX"},
               {"model.plan", "ptrt and so on", "TensorRT"},
               {"some.safetensors", "0123456789", "fetch it again"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *path = inside(cases[i].name);
    assert_ok(file_write_whole(path, cases[i].bytes, strlen(cases[i].bytes)));
    assert_error(path, NULL, cases[i].word);
    free(path);
  }
  char *empty = inside("empty");
  assert_ok(directory_create(empty));
  assert_error(empty, NULL, "give a file");
  free(empty);
  Buffer text = inspect_text("/nowhere/at/all", "", 3);
  assert_non_null(strstr(text.data, "no such file"));
  buffer_release(&text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      unit_test_in_folder(a_good_model_has_metadata_types_tensors_and_no_problem),
      unit_test_in_folder(text_shortens_long_arrays_and_lists_tensors_when_asked),
      unit_test_in_folder(nan_is_found_unless_values_are_not_read),
      unit_test_in_folder(zeros_are_an_error_in_a_matrix_and_a_warning_in_a_vector),
      unit_test_in_folder(names_that_are_missing_or_unknown_are_told),
      unit_test_in_folder(what_opening_refuses_is_an_error_and_the_rest_is_shown),
      unit_test_in_folder(split_models_are_one_and_missing_parts_are_named),
      unit_test_in_folder(vocabularies_and_importance_matrices_are_known),
      unit_test_in_folder(model_folders_show_their_config),
      unit_test_in_folder(sharded_folders_are_one_model_and_their_faults_are_told),
      unit_test_in_folder(adapters_show_their_pairs_and_norms),
      unit_test_in_folder(an_untrained_adapter_changes_nothing),
      unit_test_in_folder(a_dora_adapter_shows_its_pairs_and_has_no_problem),
      unit_test_in_folder(faulty_adapters_are_refused),
      unit_test_in_folder(checkpoints_and_outputs_show_their_state),
      unit_test_in_folder(words_of_a_file_do_not_steer_the_terminal),
      unit_test_in_folder(claimed_sizes_do_not_overflow_the_sums),
      unit_test_in_folder(foreign_files_and_empty_folders_are_problems_with_the_remedy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
