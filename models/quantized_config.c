// config.json's quantization_config (or AutoGPTQ's quantize_config.json): which format, with which settings. What is not built is
// refused by its name.
#include <jansson.h>
#include <stdlib.h>
#include <strings.h>

#include "core/file.h"
#include "models/quantized_parts.h"

typedef struct Reader {
  QuantConfig *config;
  const json_t *object;
  const char *path;
  Arena *arena;
} Reader;

static const char remedy[] =
    "give the float weights with load_in_4bit, a GGUF file, or bitsandbytes, GPTQ, AWQ, FP8 or compressed-tensors weights";

static Status refuse(const Reader *reader, const char *what, const char *name) {
  return status_fail(STATUS_BAD_INPUT, "%s: %s '%s' is not built; %s", reader->path, what, name, remedy);
}

static const char *text_of(const json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }
static bool is(const char *text, const char *name) { return text && strcasecmp(text, name) == 0; }

static Status read_integer(int64_t *value, const Reader *reader, const json_t *object, const char *key, int64_t fallback, int64_t low,
                           int64_t high) {
  const json_t *found = json_object_get(object, key);
  *value = fallback;
  if (!found || json_is_null(found)) return STATUS_OK;
  *value = json_integer_value(found);
  if (json_is_integer(found) && *value >= low && *value <= high) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: %s is no integer of %lld to %lld", reader->path, key, (long long)low, (long long)high);
}

// A group size is a number of columns, or -1 (0 and nothing too) for the row.
static Status read_group_size(QuantScheme *scheme, const Reader *reader, const json_t *object, const char *key, int64_t fallback) {
  TRY(read_integer(&scheme->group_size, reader, object, key, fallback, -1, 1 << 24));
  if (scheme->group_size == 0) scheme->group_size = -1;
  return STATUS_OK;
}

static Status read_block(QuantScheme *scheme, const Reader *reader, const json_t *object, const char *key) {
  const json_t *block = json_object_get(object, key);
  if (!block || json_is_null(block)) return STATUS_OK;
  for (size_t i = 0; i < 2; i++) {
    scheme->block[i] = json_integer_value(json_array_get(block, i));
    if (json_array_size(block) != 2 || scheme->block[i] < 1 || scheme->block[i] > 1 << 24)
      return status_fail(STATUS_BAD_INPUT, "%s: %s is not two positive integers", reader->path, key);
  }
  return STATUS_OK;
}

static void read_skipped(const Reader *reader, const char *key) {
  const json_t *names = json_object_get(reader->object, key), *name;
  size_t i;
  if (!json_is_array(names)) return;
  QuantConfig *config = reader->config;
  config->skipped = arena_new(reader->arena, json_array_size(names) + 1, sizeof *config->skipped);
  json_array_foreach(names, i, name) if (json_is_string(name)) config->skipped[config->skipped_count++] =
      arena_copy_string(reader->arena, json_string_value(name));
}

static Status read_bitsandbytes(const Reader *reader) {
  bool is_4bit =
      json_is_true(json_object_get(reader->object, "load_in_4bit")) || json_is_true(json_object_get(reader->object, "_load_in_4bit"));
  reader->config->is_8bit = json_is_true(json_object_get(reader->object, "load_in_8bit"));
  if (is_4bit == reader->config->is_8bit)
    return status_fail(STATUS_BAD_INPUT, "%s: bitsandbytes with %s load_in_4bit and load_in_8bit", reader->path,
                       is_4bit ? "both" : "neither");
  read_skipped(reader, "llm_int8_skip_modules");
  return STATUS_OK;
}

static Status read_gptq(const Reader *reader) {
  const char *format = text_of(reader->object, "checkpoint_format");
  if (json_is_true(json_object_get(reader->object, "is_marlin_format"))) format = "marlin";
  if (format && !is(format, "gptq") && !is(format, "gptq_v2")) return refuse(reader, "GPTQ's checkpoint_format", format);
  QuantScheme *scheme = &reader->config->schemes[0];
  TRY(read_integer(&scheme->bits, reader, reader->object, "bits", 4, 2, 8));
  if (scheme->bits != 2 && scheme->bits != 3 && scheme->bits != 4 && scheme->bits != 8)
    return status_fail(STATUS_BAD_INPUT, "%s: GPTQ of %lld bits is not built; 2, 3, 4 and 8 are", reader->path, (long long)scheme->bits);
  TRY(read_group_size(scheme, reader, reader->object, "group_size", -1));
  reader->config->is_activation_ordered = json_is_true(json_object_get(reader->object, "desc_act"));
  reader->config->stores_zero_less_one = !is(format, "gptq_v2");
  reader->config->has_overrides = json_object_size(json_object_get(reader->object, "dynamic")) > 0;
  read_skipped(reader, "modules_to_not_convert");
  return STATUS_OK;
}

static Status read_awq(const Reader *reader) {
  const char *version = text_of(reader->object, "version");
  if (version && !is(version, "gemm")) return refuse(reader, "AWQ's version", version);
  QuantScheme *scheme = &reader->config->schemes[0];
  const char *bits = json_object_get(reader->object, "w_bit") ? "w_bit" : "bits";
  TRY(read_integer(&scheme->bits, reader, reader->object, bits, 4, 1, 16));
  if (scheme->bits != 4)
    return status_fail(STATUS_BAD_INPUT, "%s: AWQ of %lld bits is not built; 4 are", reader->path, (long long)scheme->bits);
  TRY(read_group_size(scheme, reader, reader->object, json_object_get(reader->object, "q_group_size") ? "q_group_size" : "group_size",
                      128));
  read_skipped(reader, "modules_to_not_convert");
  return STATUS_OK;
}

static Status read_fp8(const Reader *reader) {
  const char *format = text_of(reader->object, "fmt");
  if (format && !is(format, "e4m3")) return refuse(reader, "FP8's fmt", format);
  QuantScheme *scheme = &reader->config->schemes[0];
  *scheme = (QuantScheme){.bits = 8, .group_size = -1, .is_float = true};
  read_skipped(reader, json_object_get(reader->object, "modules_to_not_convert") ? "modules_to_not_convert" : "ignored_layers");
  return read_block(scheme, reader, reader->object, "weight_block_size");
}

static bool is_compressed_format(const char *format) {
  static const char *const built[] = {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision"};
  for (size_t i = 0; i < sizeof built / sizeof *built; i++)
    if (is(format, built[i])) return true;
  return false;
}

static Status read_scheme(const Reader *reader, const json_t *group) {
  const json_t *weights = json_object_get(group, "weights");
  const char *format = text_of(group, "format"), *type = text_of(weights, "type"), *strategy = text_of(weights, "strategy");
  if (!json_is_object(weights)) return STATUS_OK;  // of activations alone
  if (format && !is_compressed_format(format)) return refuse(reader, "the compressed-tensors format", format);
  QuantConfig *config = reader->config;
  if (config->scheme_count == QUANT_SCHEMES)
    return status_fail(STATUS_BAD_INPUT, "%s: more than %d config_groups are not built", reader->path, QUANT_SCHEMES);
  QuantScheme *scheme = &config->schemes[config->scheme_count++];
  scheme->is_float = is(type, "float");
  if (!scheme->is_float && type && !is(type, "int")) return refuse(reader, "the compressed-tensors type", type);
  TRY(read_integer(&scheme->bits, reader, weights, "num_bits", 8, 1, 8));
  if (scheme->is_float && scheme->bits != 8) return refuse(reader, "the compressed-tensors type", "float of less than 8 bits");
  TRY(read_group_size(scheme, reader, weights, "group_size", -1));
  const json_t *symmetric = json_object_get(weights, "symmetric");
  scheme->is_symmetric = !json_is_false(symmetric);
  bool is_known = !strategy || is(strategy, "tensor") || is(strategy, "channel") || is(strategy, "group") || is(strategy, "block");
  if (!is_known) return refuse(reader, "the compressed-tensors strategy", strategy);
  return is(strategy, "block") ? read_block(scheme, reader, weights, "block_structure") : STATUS_OK;
}

static Status read_compressed(const Reader *reader) {
  const char *format = text_of(reader->object, "format");
  const char *sparsity = text_of(json_object_get(reader->object, "sparsity_config"), "format");
  if (format && !is_compressed_format(format)) return refuse(reader, "the compressed-tensors format", format);
  if (sparsity && !is(sparsity, "dense")) return refuse(reader, "the sparsity format", sparsity);
  json_t *groups = json_object_get(reader->object, "config_groups"), *group;
  const char *name;
  json_object_foreach(groups, name, group) TRY(read_scheme(reader, group));
  if (reader->config->scheme_count == 0)
    return status_fail(STATUS_BAD_INPUT, "%s: compressed-tensors without config_groups of weights", reader->path);
  read_skipped(reader, "ignore");
  return STATUS_OK;
}

static Status read_method(const Reader *reader) {
  const struct {
    const char *name;
    QuantMethod method;
    Status (*read)(const Reader *reader);
  } methods[] = {{"bitsandbytes", QUANT_BITSANDBYTES, read_bitsandbytes},
                 {"bitsandbytes_4bit", QUANT_BITSANDBYTES, read_bitsandbytes},
                 {"bitsandbytes_8bit", QUANT_BITSANDBYTES, read_bitsandbytes},
                 {"gptq", QUANT_GPTQ, read_gptq},
                 {"awq", QUANT_AWQ, read_awq},
                 {"fp8", QUANT_FP8, read_fp8},
                 {"fbgemm_fp8", QUANT_FP8, read_fp8},
                 {"compressed-tensors", QUANT_COMPRESSED, read_compressed}};
  const char *name = text_of(reader->object, "quant_method");
  // Older writers leave it out.
  if (!name && (json_object_get(reader->object, "load_in_4bit") || json_object_get(reader->object, "load_in_8bit"))) name = "bitsandbytes";
  if (!name && json_object_get(reader->object, "desc_act")) name = "gptq";
  if (!name) return status_fail(STATUS_BAD_INPUT, "%s: quantization_config has no quant_method", reader->path);
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    if (!is(name, methods[i].name)) continue;
    reader->config->method = methods[i].method;
    reader->config->name = methods[i].name;
    reader->config->scheme_count = methods[i].method == QUANT_COMPRESSED ? 0 : 1;
    return methods[i].read(reader);
  }
  return refuse(reader, "the quantisation", name);
}

static Status parse_object(QuantConfig *config, const json_t *object, const json_t *root, const char *path, Arena *arena) {
  *config = (QuantConfig){.float_type = BLOCK_F16};
  const char *type = text_of(root, "dtype") ? text_of(root, "dtype") : text_of(root, "torch_dtype");
  if (is(type, "bfloat16")) config->float_type = BLOCK_BF16;
  return read_method(&(Reader){config, object, path, arena});
}

static Status load_json(json_t **root, const char *text, size_t length, const char *path) {
  json_error_t error;
  *root = json_loadb(text ? text : "", length, JSON_REJECT_DUPLICATES, &error);
  if (json_is_object(*root)) return STATUS_OK;
  Status status = status_fail(STATUS_BAD_INPUT, "%s:%d: not a JSON object: %s", path, *root ? 1 : error.line, *root ? "" : error.text);
  json_decref(*root);
  *root = NULL;
  return status;
}

Status quant_config_parse(QuantConfig *config, bool *found, const char *text, size_t length, const char *path, Arena *arena) {
  json_t *root;
  TRY(load_json(&root, text, length, path));
  const json_t *object = json_object_get(root, "quantization_config");
  *found = json_is_object(object);
  Status status = *found ? parse_object(config, object, root, path, arena) : STATUS_OK;
  json_decref(root);
  return status;
}

// Early GPTQ folders have their settings in a file of their own.
static Status read_own_file(QuantConfig *config, bool *found, const char *folder, Arena *arena) {
  char *path = path_join(folder, "quantize_config.json");
  Buffer text = {0};
  json_t *root = NULL;
  Status status = STATUS_OK;
  *found = file_exists(path);
  if (*found) {
    TRY_DONE(file_read(&text, path, 64 << 20));
    TRY_DONE(load_json(&root, text.data, text.length, path));
    *config = (QuantConfig){0};
    TRY_DONE(parse_object(config, root, root, path, arena));
  }
done:
  json_decref(root);
  buffer_release(&text);
  free(path);
  return status;
}

Status quant_config_read(QuantConfig *config, bool *found, const char *folder, Arena *arena) {
  char *path = path_join(folder, "config.json");
  Buffer text = {0};
  Status status = file_read(&text, path, 64 << 20);
  if (status == STATUS_OK) status = quant_config_parse(config, found, text.data, text.length, path, arena);
  if (status == STATUS_OK && !*found) status = read_own_file(config, found, folder, arena);
  buffer_release(&text);
  free(path);
  return status;
}
