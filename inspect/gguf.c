// GGUF: models, whole and split, adapters, vocabularies, importance matrices. general.type says which; a model without tensors is a
// vocabulary.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "core/text.h"
#include "data/tokenizer/tokenizer.h"
#include "inspect/parts.h"

static const char *const type_names[] = {
    [GGUF_UINT8] = "uint8",   [GGUF_INT8] = "int8",       [GGUF_UINT16] = "uint16",  [GGUF_INT16] = "int16",   [GGUF_UINT32] = "uint32",
    [GGUF_INT32] = "int32",   [GGUF_FLOAT32] = "float32", [GGUF_BOOL] = "bool",      [GGUF_STRING] = "string", [GGUF_ARRAY] = "array",
    [GGUF_UINT64] = "uint64", [GGUF_INT64] = "int64",     [GGUF_FLOAT64] = "float64"};

// The shortest decimal that reads back as the same float32: 1e-05, not 9.9999997473787516e-06.
static double shortest(double value) {
  char text[32];
  for (int digits = 6; digits < 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    double read = strtod(text, NULL);
    if ((float)read == (float)value) return read;
  }
  return value;
}

static json_t *element_json(const GgufValue *value, uint64_t index) {
  int64_t integer;
  double number = NAN;
  if (value->element == GGUF_STRING) return report_text(value->strings[index].data, value->strings[index].length);
  if (value->element == GGUF_BOOL) return json_boolean(value->data[index]);
  if (gguf_array_integer(value, index, &integer)) return json_integer(integer);
  if (value->element == GGUF_UINT64) {  // above what a JSON integer holds here
    uint64_t large;
    memcpy(&large, value->data + index * sizeof large, sizeof large);
    return json_real((double)large);
  }
  gguf_array_float(value, index, &number);
  return report_number(value->element == GGUF_FLOAT32 && isfinite(number) ? shortest(number) : number);
}

static void add_value(Report *report, const GgufValue *value) {
  if (value->type != GGUF_ARRAY) {
    report_add_fact(report, value->key, type_names[value->type], element_json(value, 0));
    return;
  }
  char type[24];
  snprintf(type, sizeof type, "%s[]", type_names[value->element]);
  json_t *first = json_array();
  for (uint64_t i = 0; i < value->count && i < REPORT_ARRAY_SHOWN; i++) json_array_append_new(first, element_json(value, i));
  report_add_array(report, value->key, type, (int64_t)value->count, first);
}

static void add_tensor(Report *report, const GgufTensor *tensor) {
  ReportTensor *added = report_add_tensor(report, tensor->name, block_type_name_any(tensor->type), tensor->dimensions, tensor->shape);
  if (!block_traits((BlockType)tensor->type)) return;
  added->bytes = (int64_t)tensor->bytes;
  added->source = (ValueSource){.data = tensor->data, .is_block = true, .block = (BlockType)tensor->type, .count = added->elements};
}

// The name of general.architecture, or "" when there is none that can be one.
static void read_name(char name[80], const Gguf *gguf, const char *key) {
  GgufString text;
  name[0] = 0;
  if (gguf_get_string(gguf, key, &text) && text.length < 80 && text_is_printable(text.data, text.length)) {
    memcpy(name, text.data, text.length);
    name[text.length] = 0;
  }
}

static void check_keys(Report *report, const Gguf *gguf, const char *architecture) {
  static const char *const known[] = {"general.", "tokenizer.", "adapter.",      "imatrix.", "quantize.",
                                      "split.",   "training.",  MERGE_EXACT_KEY, NULL};
  size_t length = strlen(architecture);
  for (int64_t i = 0; i < gguf->value_count; i++) {
    const char *key = gguf->values[i].key;
    bool is_known = length && strncmp(key, architecture, length) == 0 && key[length] == '.';
    for (int j = 0; known[j] && !is_known; j++) is_known = text_starts_with(key, known[j]);
    if (!is_known)
      report_warning(report, key, "an unknown key: neither general, nor of the tokenizer, nor of the architecture %s",
                     length ? architecture : "(none)");
  }
}

// Each type that is not built once, with how many tensors have it. False when there is one.
static bool check_types(Report *report, const Gguf *gguf) {
  Map seen = {0};
  for (int64_t i = 0; i < gguf->tensor_count; i++) {
    const GgufTensor *tensor = &gguf->tensors[i];
    if (block_traits((BlockType)tensor->type) || map_get(&seen, &tensor->type, sizeof tensor->type, NULL)) continue;
    map_set(&seen, &tensor->type, sizeof tensor->type, 0);
    int64_t count = 0;
    for (int64_t j = i; j < gguf->tensor_count; j++) count += gguf->tensors[j].type == tensor->type;
    report_error(report, tensor->name,
                 "its type %s, which %lld tensors have, is not built; requantise the file (q4_0 ... q8_0, q4_k ... q6_k)",
                 block_type_name_any(tensor->type), (long long)count);
  }
  bool good = seen.count == 0;
  map_release(&seen);
  return good;
}

static void check_tokenizer(Report *report, const Gguf *gguf, bool is_needed) {
  const GgufValue *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
  const GgufTensor *embedding = gguf_find_tensor(gguf, "token_embd.weight");
  if (!tokens) {
    if (is_needed) report_error(report, NULL, "no vocabulary (tokenizer.ggml.tokens) and no tensors: there is nothing to use in it");
    else report_warning(report, NULL, "no vocabulary (tokenizer.ggml.tokens): it cannot read or write text");
    return;
  }
  Tokenizer *tokenizer = NULL;
  report_status(report, tokenizer_from_gguf(&tokenizer, gguf));
  tokenizer_free(tokenizer);
  if (embedding && (uint64_t)embedding->shape[1] != tokens->count)
    report_error(report, embedding->name, "its %lld rows are not those of the vocabulary, which has %lld tokens",
                 (long long)embedding->shape[1], (long long)tokens->count);
}

static void inspect_model(Report *report, const char *path, const Gguf *gguf) {
  const Family *family;
  ModelConfig config;
  check_tokenizer(report, gguf, false);
  int errors = report->errors;
  bool types_are_built = check_types(report, gguf);
  if (!report_status(report, config_from_gguf(&config, &family, gguf, &report->arena))) return;
  names_check(report, family, &config, true);
  // The loader has the last word; what it would find first has been said when something is wrong already.
  Model *model = NULL;
  if (types_are_built && report->errors == errors && report_status(report, model_open(&model, path, (ModelOptions){0}, report->backend)))
    model_close(model);
}

static double alpha_over_rank(const void *alpha, const char *module, int64_t rank) {
  (void)module;
  return *(const double *)alpha / (double)rank;
}

static void inspect_adapter(Report *report, const Gguf *gguf) {
  char type[80];
  double alpha = NAN;
  read_name(type, gguf, "adapter.type");
  if (strcmp(type, "lora") != 0) report_error(report, "adapter.type", "'%s', and only lora is built", type);
  bool has_alpha = gguf_get_float(gguf, "adapter.lora.alpha", &alpha);
  if (!has_alpha) report_error(report, "adapter.lora.alpha", "missing: readers take it for 0, and the adapter would change nothing");
  else if (alpha == 0) report_error(report, "adapter.lora.alpha", "zero: this adapter changes nothing");
  json_t *adapter = json_object();
  json_object_set_new(adapter, "alpha", report_number(alpha));
  json_object_set_new(report->root, "adapter", adapter);
  check_types(report, gguf);
  pairs_inspect(report, true, has_alpha ? alpha_over_rank : NULL, &alpha);
}

static void inspect_imatrix(Report *report, const Gguf *gguf) {
  for (int64_t i = 0; i < gguf->tensor_count; i++) {
    const char *name = gguf->tensors[i].name;
    bool is_sum = text_ends_with(name, ".in_sum2"), is_count = text_ends_with(name, ".counts");
    if (!is_sum && !is_count) {
      report_warning(report, name, "neither sums of squares (.in_sum2) nor counts (.counts)");
      continue;
    }
    char *other =
        memory_format("%.*s%s", (int)(strlen(name) - strlen(is_sum ? ".in_sum2" : ".counts")), name, is_sum ? ".counts" : ".in_sum2");
    if (!gguf_find_tensor(gguf, other)) report_error(report, name, "without %s beside it", other);
    free(other);
  }
}

void inspect_gguf(Report *report, const char *path, Gguf *gguf) {
  Status status = gguf_examine(gguf, path);
  char message[64], type[80], architecture[80];
  report->opens = report_status(report, status);
  snprintf(message, sizeof message, "GGUF v%u", gguf->version);
  for (int i = 0; i < gguf->shard_count; i++) report_add_file(report, gguf->shard_paths[i]);
  if (!gguf->shard_count) report_add_file(report, path);
  for (int64_t i = 0; i < gguf->value_count; i++) add_value(report, &gguf->values[i]);
  for (int64_t i = 0; i < gguf->tensor_count; i++) add_tensor(report, &gguf->tensors[i]);
  read_name(type, gguf, "general.type");
  read_name(architecture, gguf, "general.architecture");
  bool is_adapter = strcmp(type, "adapter") == 0, is_imatrix = strcmp(type, "imatrix") == 0;
  bool is_vocabulary = report->opens && gguf->tensor_count == 0;
  report_set_kind(report,
                  is_adapter          ? "GGUF adapter"
                  : is_imatrix        ? "GGUF importance matrix"
                  : is_vocabulary     ? "GGUF vocabulary"
                  : gguf->shard_count ? "split GGUF model"
                                      : "GGUF model",
                  message);
  report_measure(report);
  if (!report->opens) return;
  if (!is_imatrix) check_keys(report, gguf, architecture);
  if (is_adapter) inspect_adapter(report, gguf);
  else if (is_imatrix) inspect_imatrix(report, gguf);
  else if (is_vocabulary) check_tokenizer(report, gguf, true);
  else inspect_model(report, path, gguf);
}
