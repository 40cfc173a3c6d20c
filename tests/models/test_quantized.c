// Quantised folders: each format's matrix beside the floats of its reference, bit for bit; whole models; what is refused.
// Reference data: tests/tools/make_quantized_folders.py.
#include <math.h>

#include "adapters/adapter.h"
#include "adapters/merge.h"
#include "adapters/quantization.h"
#include "core/file.h"
#include "core/text.h"
#include "kernels/matrix.h"
#include "models/quantized_folder.h"
#include "tests/support/golden.h"

static const char cases[] = TESTS_DIR "/models/data/quantized.safetensors";
static const char tiny[] = TESTS_DIR "/data/tiny-hf";
enum { ROWS = 64, COLUMNS = 96 };

// ---- A folder of one module, perhaps spoilt ----

typedef struct Change {
  const char *part;  // this tensor
  bool is_left_out;
  int64_t first_size;  // its shape[0] then; 0: as it is
  const void *bytes;  // put at `offset`
  int64_t offset, count;
  const char *config, *config_now;  // this text of config.json, replaced
} Change;

static void write_config(const char *folder, const SafetensorsTensor *config, const Change *change) {
  char *path = path_join(folder, "config.json"), *text = memory_new(config->bytes + 1, 1);
  Buffer out = {0};
  memcpy(text, config->data, config->bytes);
  const char *at = change->config ? strstr(text, change->config) : NULL;
  if (change->config) assert_non_null(at);
  buffer_append(&out, text, at ? (size_t)(at - text) : strlen(text));
  if (at) {
    buffer_append_string(&out, change->config_now);
    buffer_append_string(&out, at + strlen(change->config));
  }
  assert_ok(file_write_whole(path, out.data, out.length));
  buffer_release(&out);
  free(text);
  free(path);
}

static bool is_changed(const Change *change, const char *part) { return change->part && strcmp(change->part, part) == 0; }

static void write_module(const char *folder, const Safetensors *all, const char *name, const Change *change) {
  char *prefix = memory_format("%s/", name), *path = path_join(folder, "model.safetensors"), *key = memory_format("%s/config", name);
  SafetensorsWriter writer;
  safetensors_writer_new(&writer);
  for (int pass = 0; pass < 9; pass++) {  // wider types first, then the bytes in the same order
    int width = 8 >> pass % 4;
    if (pass == 4) assert_ok(safetensors_writer_open(&writer, path));
    if (pass == 8) break;
    for (int64_t i = 0; i < all->tensor_count; i++) {
      const SafetensorsTensor *tensor = &all->tensors[i];
      const char *part = tensor->name + strlen(prefix);
      if (!text_starts_with(tensor->name, prefix) || safetensors_type_bytes(tensor->type) != width || strcmp(part, "expected") == 0 ||
          strcmp(part, "config") == 0 || (is_changed(change, part) && change->is_left_out))
        continue;
      int64_t shape[SAFETENSORS_MAX_DIMENSIONS];
      size_t bytes = tensor->bytes;
      memcpy(shape, tensor->shape, sizeof shape);
      if (is_changed(change, part) && change->first_size) {
        bytes = bytes / (size_t)shape[0] * (size_t)change->first_size;
        shape[0] = change->first_size;
      }
      if (pass < 4) {
        char *full = memory_format("m.%s", part);
        safetensors_declare(&writer, full, tensor->type, tensor->dimensions, shape);
        free(full);
        continue;
      }
      char *copy = memory_new(bytes + 1, 1);
      memcpy(copy, tensor->data, bytes < tensor->bytes ? bytes : tensor->bytes);
      if (is_changed(change, part) && change->bytes) memcpy(copy + change->offset, change->bytes, (size_t)change->count);
      safetensors_write(&writer, copy, bytes);
      free(copy);
    }
  }
  assert_ok(safetensors_writer_commit(&writer));
  write_config(folder, golden_tensor(all, key), change);
  free(prefix);
  free(path);
  free(key);
}

typedef struct Opened {
  Model model;
  Matrix matrix;
  bool is_quantized;
  char *folder;
} Opened;

static Status open_module(Opened *out, const Safetensors *all, const char *name, const Change *change) {
  *out = (Opened){.folder = temporary_folder()};
  write_module(out->folder, all, name, change);
  out->model.path = out->folder;
  assert_ok(backend_new(&out->model.backend, NULL, 2));
  assert_ok(safetensors_open(&out->model.safetensors, out->folder));
  TRY(quantized_folder_open(&out->model));
  return quantized_folder_matrix(&out->matrix, &out->is_quantized, &out->model, "m", ROWS, COLUMNS);
}

static void close_module(Opened *opened) {
  quantized_folder_close(&opened->model);
  safetensors_close(&opened->model.safetensors);
  backend_free(opened->model.backend);
  arena_release(&opened->model.arena);
  assert_ok(directory_remove(opened->folder));
  free(opened->folder);
}

// ---- Values ----

static void assert_same_bits(const float *actual, const float *expected, int64_t n, const char *name) {
  for (int64_t i = 0; i < n; i++)
    if (!(actual[i] == expected[i]))
      fail_msg("%s: element %lld is %.9g, not %.9g", name, (long long)i, (double)actual[i], (double)expected[i]);
}

// The rows of w by the kernels of the processor: those chosen by unit vectors.
static void assert_kernels_agree(const Opened *opened, const float *expected, const char *name) {
  float *unit = memory_new(ROWS * ROWS, sizeof *unit), *out = memory_new(ROWS * COLUMNS, sizeof *out);
  for (int64_t i = 0; i < ROWS; i++) unit[i * ROWS + i] = 1;
  Projection projection = projection_f32(unit, &opened->matrix, 1);
  opened->model.backend->kernels->linear_backward(rows_f32(out, COLUMNS), &projection, 1, ROWS, false, opened->model.backend);
  assert_same_bits(out, expected, ROWS * COLUMNS, name);
  free(unit);
  free(out);
}

static void each_formats_matrix_is_that_of_its_reference_bit_for_bit(void **state) {
  (void)state;
  Safetensors all;
  int count = 0;
  assert_ok(safetensors_open(&all, cases));
  for (int64_t i = 0; i < all.tensor_count; i++) {
    if (!text_ends_with(all.tensors[i].name, "/config")) continue;
    char *name = memory_format("%.*s", (int)(strlen(all.tensors[i].name) - strlen("/config")), all.tensors[i].name);
    char *key = memory_format("%s/expected", name);
    float *expected = golden_floats(&all, key), actual[COLUMNS];
    Opened opened;
    assert_ok(open_module(&opened, &all, name, &(Change){0}));
    assert_true(opened.is_quantized);
    assert_int_equal(opened.matrix.type, text_starts_with(name, "bnb_nf4_nested_64") ? BLOCK_NF4 : BLOCK_GROUPED);
    assert_true(opened.model.nf4_bytes + opened.model.quantized_mapped_bytes > 0);
    for (int64_t row = 0; row < ROWS; row++) {
      matrix_dequantize(actual, &opened.matrix, row, 0, COLUMNS);
      assert_same_bits(actual, expected + row * COLUMNS, COLUMNS, name);
    }
    assert_kernels_agree(&opened, expected, name);
    close_module(&opened);
    free(expected);
    free(key);
    free(name);
    count++;
  }
  assert_true(count >= 30);
  safetensors_close(&all);
}

// ---- Refusals ----

static const uint8_t nan_half[2] = {0, 0x7e}, nan_float[4] = {0, 0, 0xc0, 0x7f}, infinite_bfloat[2] = {0x80, 0x7f};
static const uint8_t far_group[4] = {3, 0, 0, 0}, negative_group[4] = {0xfe, 0xff, 0xff, 0xff};

static void spoilt_modules_are_refused_by_tensor_and_reason(void **state) {
  (void)state;
  const struct {
    const char *name;
    Change change;
    const char *words[2];
  } spoilt[] = {
      {"gptq_4bit", {.part = "qweight", .first_size = 11}, {"m.qweight", "I32 [12, 64]"}},
      {"gptq_4bit", {.part = "qzeros", .is_left_out = true}, {"m.qzeros", "missing"}},
      {"gptq_4bit", {.part = "qzeros", .first_size = 2}, {"m.qzeros", "I32 [3, 8]"}},
      {"gptq_4bit", {.part = "scales", .is_left_out = true}, {"m.scales", "missing"}},
      {"gptq_4bit", {.part = "scales", .bytes = nan_half, .count = 2}, {"m.scales", "nan"}},
      {"gptq_4bit_order", {.part = "g_idx", .is_left_out = true}, {"m.g_idx", "missing"}},
      {"gptq_4bit_order", {.part = "g_idx", .first_size = 95}, {"m.g_idx", "I32 [95]"}},
      {"gptq_4bit_order", {.part = "g_idx", .bytes = far_group, .offset = 8, .count = 4}, {"m.g_idx", "group 3 for column 2"}},
      {"gptq_4bit_order", {.part = "g_idx", .bytes = negative_group, .count = 4}, {"m.g_idx", "group -2"}},
      {"gptq_4bit", {.config = "\"bits\": 4", .config_now = "\"bits\": 8"}, {"m.qweight", "I32 [24, 64]"}},
      {"gptq_4bit", {.config = "\"bits\": 4", .config_now = "\"bits\": 5"}, {"5 bits", "2, 3, 4 and 8"}},
      {"gptq_4bit_silent_order", {.part = "g_idx", .bytes = far_group, .offset = 8, .count = 4}, {"m.g_idx", "group 3 for column 2"}},
      {"gptq_4bit_silent_order", {.part = "g_idx", .first_size = 95}, {"m.g_idx", "I32 [95]"}},
      {"gptq_4bit", {.config = "\"group_size\": 32", .config_now = "\"group_size\": 24"}, {"m.qzeros", "I32 [4, 8]"}},
      {"gptq_4bit",
       {.config = "\"desc_act\"", .config_now = "\"checkpoint_format\": \"marlin\", \"desc_act\""},
       {"marlin", "load_in_4bit"}},
      {"gptq_4bit", {.config = "\"gptq\"", .config_now = "\"aqlm\""}, {"aqlm", "load_in_4bit"}},
      {"gptq_4bit", {.config = "\"gptq\"", .config_now = "\"fp8\""}, {"fp8", "another format"}},
      {"gptq_4bit", {.config = "\"desc_act\"", .config_now = "\"modules_to_not_convert\": [\"m\"], \"desc_act\""}, {"not converted", "m"}},
      {"awq_32", {.config = "\"gemm\"", .config_now = "\"gemv\""}, {"gemv", "load_in_4bit"}},
      {"awq_32", {.config = "\"group_size\": 32", .config_now = "\"group_size\": 40"}, {"m.qweight", "40 does not divide"}},
      {"fp8_block", {.part = "weight_scale_inv", .is_left_out = true}, {"m.weight_scale", "missing"}},
      {"fp8_block", {.part = "weight_scale_inv", .bytes = nan_float, .count = 4}, {"m.weight_scale_inv", "nan"}},
      {"fp8_block", {.config = "[48, 64]", .config_now = "[32, 32]"}, {"m.weight_scale_inv", "2 x 2"}},
      {"fp8_block", {.config = "[48, 64]", .config_now = "[48, 0]"}, {"weight_block_size", "positive"}},
      {"fp8_block", {.part = "weight", .first_size = 63}, {"m.weight", "F8_E4M3 [63, 96]"}},
      {"bnb_int8", {.part = "SCB", .bytes = nan_float, .count = 4}, {"m.SCB", "nan"}},
      {"bnb_int8", {.part = "SCB", .is_left_out = true}, {"m.SCB", "missing"}},
      {"bnb_int8", {.part = "weight_format", .bytes = far_group, .count = 1}, {"m.weight_format", "by rows"}},
      {"bnb_nf4_plain_64", {.part = "weight", .first_size = 3071}, {"m.weight", "3071 bytes"}},
      {"bnb_nf4_plain_64", {.part = "weight.absmax", .first_size = 95}, {"m.weight.absmax", "F32 [95]"}},
      {"bnb_nf4_plain_64", {.part = "weight.quant_map", .bytes = nan_float, .count = 4}, {"m.weight.quant_map", "nan"}},
      {"bnb_nf4_nested_128", {.part = "weight.nested_absmax", .is_left_out = true}, {"m.weight.nested_absmax", "missing"}},
      {"bnb_nf4_plain_64", {.part = "weight.quant_state.bitsandbytes__nf4", .bytes = "[", .count = 1}, {"quant_state", "JSON"}},
      {"ct_pack4", {.config = "\"group_size\": 32", .config_now = "\"group_size\": 36"}, {"m.weight_packed", "36 does not divide"}},
      {"ct_pack4", {.config = "\"num_bits\": 4", .config_now = "\"num_bits\": 5"}, {"m.weight_packed", "fill 15"}},
      {"ct_pack4", {.part = "weight_scale", .bytes = infinite_bfloat, .count = 2}, {"m.weight_scale", "inf"}},
      {"ct_pack4", {.part = "weight_shape", .bytes = far_group, .count = 4}, {"m.weight_shape", "3 x 96"}},
      {"ct_pack4_f16_asym", {.part = "weight_zero_point", .is_left_out = true}, {"m.weight_zero_point", "missing"}},
      {"ct_pack4_order", {.part = "weight_g_idx", .bytes = far_group, .count = 4}, {"m.weight_g_idx", "group 3"}},
      {"ct_pack4", {.config = "\"pack-quantized\"", .config_now = "\"nvfp4-pack-quantized\""}, {"nvfp4", "load_in_4bit"}},
      {"ct_float8_channel", {.config = "\"float\"", .config_now = "\"int\""}, {"m.weight", "FP8"}},
  };
  Safetensors all;
  assert_ok(safetensors_open(&all, cases));
  for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
    Opened opened;
    Status status = open_module(&opened, &all, spoilt[i].name, &spoilt[i].change);
    if (status == STATUS_OK) fail_msg("case %zu (%s) is not refused", i, spoilt[i].name);
    assert_fails(STATUS_BAD_INPUT, status, spoilt[i].words[0], spoilt[i].words[1]);
    close_module(&opened);
  }
  safetensors_close(&all);
}

// ---- A whole model ----

static bool is_projection(const char *name) { return text_ends_with(name, "_proj.weight"); }

// The tiny model with 8-bit rows (compressed-tensors' int-quantized), and with the floats that these mean.
static void write_models(const char *quantized, const char *floats) {
  Safetensors from;
  SafetensorsWriter writers[2];
  char *paths[2] = {path_join(quantized, "model.safetensors"), path_join(floats, "model.safetensors")};
  assert_ok(safetensors_open(&from, tiny));
  for (int w = 0; w < 2; w++) safetensors_writer_new(&writers[w]);
  for (int pass = 0; pass < 4; pass++) {  // scales, floats, then bytes of integers; declared, then written
    for (int kind = 0; kind < 3; kind++)
      for (int64_t i = 0; i < from.tensor_count && pass < 2; i++) {
        const SafetensorsTensor *tensor = &from.tensors[i];
        bool is_matrix = is_projection(tensor->name);
        if (is_matrix ? kind == 1 : kind != 1) continue;
        int64_t rows = tensor->shape[0], columns = is_matrix ? tensor->shape[1] : 0;
        char *scale = memory_format("%s_scale", tensor->name);
        if (pass == 0) {
          if (kind == 0) safetensors_declare(&writers[0], scale, ST_F32, 2, (int64_t[]){rows, 1});
          else safetensors_declare(&writers[0], tensor->name, kind == 2 ? ST_I8 : tensor->type, tensor->dimensions, tensor->shape);
          if (kind == 2) safetensors_declare(&writers[1], tensor->name, ST_F32, 2, tensor->shape);
          if (kind == 1) safetensors_declare(&writers[1], tensor->name, ST_F32, tensor->dimensions, tensor->shape);
        } else {
          float *values = memory_new((size_t)tensor->count, sizeof *values), *scales = memory_new((size_t)rows, sizeof *scales);
          int8_t *codes = memory_new((size_t)tensor->count, 1);
          safetensors_to_float(values, tensor, 0, tensor->count);
          for (int64_t row = 0; row < rows && is_matrix; row++) {
            for (int64_t j = 0; j < columns; j++) scales[row] = fmaxf(scales[row], fabsf(values[row * columns + j]) / 127);
            for (int64_t j = 0; j < columns; j++) {
              codes[row * columns + j] = (int8_t)lrintf(values[row * columns + j] / scales[row]);
              values[row * columns + j] = (float)codes[row * columns + j] * scales[row];
            }
          }
          if (kind == 0) safetensors_write(&writers[0], scales, (size_t)rows * sizeof *scales);
          if (kind == 1) safetensors_write(&writers[0], tensor->data, tensor->bytes);
          if (kind == 2) safetensors_write(&writers[0], codes, (size_t)tensor->count);
          if (kind > 0) safetensors_write(&writers[1], values, (size_t)tensor->count * sizeof *values);
          free(values);
          free(scales);
          free(codes);
        }
        free(scale);
      }
    for (int w = 0; w < 2 && pass == 0; w++) assert_ok(safetensors_writer_open(&writers[w], paths[w]));
  }
  for (int w = 0; w < 2; w++) {
    assert_ok(safetensors_writer_commit(&writers[w]));
    free(paths[w]);
  }
  safetensors_close(&from);
}

static const char int8_settings[] =
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", \"ignore\": [\"lm_head\"], "
    "\"config_groups\": {\"group_0\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 8, \"type\": \"int\", \"strategy\": "
    "\"channel\"}}}},";

static void copy_config(const char *folder, const char *start) {
  Buffer text = {0}, out = {0};
  char *path = path_join(folder, "config.json");
  assert_ok(file_read(&text, TESTS_DIR "/data/tiny-hf/config.json", 1 << 20));
  buffer_append_string(&out, start);
  buffer_append_string(&out, strchr(text.data, '{') + 1);
  assert_ok(file_write_whole(path, out.data, out.length));
  free(path);
  buffer_release(&text);
  buffer_release(&out);
}

enum { TOKENS = 9 };
static const int32_t ids[TOKENS] = {1, 300, 17, 402, 99, 45, 511, 260, 3};

static float *logits_of(const char *folder, ModelOptions options, Backend *backend) {
  Model *model;
  assert_ok(model_open(&model, folder, options, backend));
  float *logits = golden_logits(model, ids, 1, TOKENS);
  model_close(model);
  return logits;
}

static void a_quantised_folder_is_the_model_of_its_floats_and_merges_to_them(void **state) {
  (void)state;
  char *quantized = temporary_folder(), *floats = temporary_folder(), *parent = temporary_folder(), *merged = path_join(parent, "merged"),
       *config = path_join(merged, "config.json");
  Backend *backend;
  Model *model;
  write_models(quantized, floats);
  copy_config(quantized, int8_settings);
  copy_config(floats, "{");
  assert_ok(backend_new(&backend, NULL, 2));
  float *expected = logits_of(floats, (ModelOptions){0}, backend), *actual = logits_of(quantized, (ModelOptions){0}, backend);
  assert_close(actual, expected, TOKENS * 768, 1e-4);
  free(actual);
  actual = logits_of(quantized, (ModelOptions){.quantize_nf4 = true}, backend);  // blocks that are quantised stay
  assert_close(actual, expected, TOKENS * 768, 1e-4);
  free(actual);
  assert_ok(model_open(&model, quantized, (ModelOptions){0}, backend));
  assert_true(model_mapped_bytes(model) > 3 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 256));
  MergeReport report;
  const Quantization *f32;
  assert_ok(quantization_parse(&f32, "f32"));
  assert_ok(merge_write_folder(&report, model, merged, (MergeOptions){.type = f32}));
  actual = logits_of(merged, (ModelOptions){0}, backend);
  assert_close(actual, expected, TOKENS * 768, 1e-4);
  free(actual);
  Buffer text = {0};
  assert_ok(merge_write_folder(&report, model, merged, (MergeOptions){0}));
  assert_int_equal(report.main_type, BLOCK_BF16);
  assert_ok(file_read(&text, config, 1 << 20));
  assert_null(strstr(text.data, "quantization_config"));
  free(logits_of(merged, (ModelOptions){0}, backend));
  model_close(model);
  buffer_release(&text);
  backend_free(backend);
  free(expected);
  char *const folders[] = {quantized, floats, parent};
  for (int i = 0; i < 3; i++) {
    assert_ok(directory_remove(folders[i]));
    free(folders[i]);
  }
  free(merged);
  free(config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_formats_matrix_is_that_of_its_reference_bit_for_bit),
      cmocka_unit_test(spoilt_modules_are_refused_by_tensor_and_reason),
      cmocka_unit_test(a_quantised_folder_is_the_model_of_its_floats_and_merges_to_them),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
