// What has no place in a Hugging Face folder, kept in its safetensors' __metadata__.
#include "adapters/carried.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/parts.h"
#include "core/log.h"
#include "core/text.h"
#include "data/tokenizer/export.h"

static const char prefix[] = "gguf.";
enum { CARRIED_BYTES_MAX = 1 << 16 };  // of one value: a safetensors header is no place for a vocabulary

// Keys that config.json and the tokenizer's files say, or that follow from the tensors.
static bool has_place(const char *key, const char *architecture) {
  static const char *const general[] = {"general.architecture", "general.type", "general.file_type", "general.quantization_version",
                                        "general.alignment"};
  if (tokenizer_key_is_exported(key)) return true;
  for (size_t i = 0; i < sizeof general / sizeof *general; i++)
    if (strcmp(key, general[i]) == 0) return true;
  size_t length = strlen(architecture);
  if (text_starts_with(key, MERGE_EXACT_KEY)) return true;
  return strncmp(key, architecture, length) == 0 && key[length] == '.' && config_knows_key(key + length + 1);
}

static void carry_value(SafetensorsWriter *writer, const GgufValue *value) {
  Buffer text = {0};
  bool is_text = value->type == GGUF_STRING && value->strings->length > 0 && value->strings->data[0] != '#' &&
                 !memchr(value->strings->data, 0, value->strings->length) &&
                 utf8_is_valid(value->strings->data, value->strings->length, NULL);
  if (is_text) {
    buffer_append(&text, value->strings->data, value->strings->length);
  } else {
    buffer_format(&text, "#%d:%d:%llu:", (int)value->type, (int)value->element, (unsigned long long)value->count);
    for (size_t i = 0; i < value->bytes; i++) buffer_format(&text, "%02x", value->data[i]);
  }
  char *key = memory_format("%s%s", prefix, value->key);
  safetensors_put_metadata(writer, key, text.data);
  free(key);
  buffer_release(&text);
}

void carried_to_metadata(SafetensorsWriter *writer, const Gguf *gguf, const char *architecture) {
  for (int64_t i = 0; i < gguf->value_count; i++) {
    const GgufValue *value = &gguf->values[i];
    if (has_place(value->key, architecture)) continue;
    if (value->bytes <= CARRIED_BYTES_MAX) carry_value(writer, value);
    else
      log_notice("%s: the key %s (%zu bytes) has no place in a Hugging Face folder and is left out", gguf->path, value->key, value->bytes);
  }
}

bool carried_has(const Safetensors *folder, const char *key) {
  for (int64_t i = 0; i < folder->metadata_count; i++)
    if (text_starts_with(folder->metadata_keys[i], prefix) && strcmp(folder->metadata_keys[i] + strlen(prefix), key) == 0) return true;
  return false;
}

static int hex_digit(char c) { return isdigit((unsigned char)c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

// Fills value's type, element, count and bytes (into `bytes`, as long as `text`).
static bool parse_value(GgufValue *value, uint8_t *bytes, const char *text) {
  int type, element, used = 0;
  unsigned long long count;
  if (sscanf(text, "#%d:%d:%llu:%n", &type, &element, &count, &used) != 3 || used == 0) return false;
  static const int widths[] = {
      [GGUF_UINT8] = 1,   [GGUF_INT8] = 1, [GGUF_UINT16] = 2, [GGUF_INT16] = 2, [GGUF_UINT32] = 4, [GGUF_INT32] = 4,
      [GGUF_FLOAT32] = 4, [GGUF_BOOL] = 1, [GGUF_UINT64] = 8, [GGUF_INT64] = 8, [GGUF_FLOAT64] = 8};
  size_t length = 0;
  for (const char *p = text + used; *p; p += 2) {
    int high = hex_digit(p[0]), low = high < 0 ? -1 : hex_digit(p[1]);
    if (low < 0) return false;
    bytes[length++] = (uint8_t)(high << 4 | low);
  }
  int held = type == GGUF_ARRAY ? element : type;
  if (type < 0 || type > GGUF_FLOAT64 || held < 0 || held > GGUF_FLOAT64 || held == GGUF_ARRAY) return false;
  value->type = (GgufType)type;
  value->element = (GgufType)element;
  value->count = count;
  value->data = bytes;
  value->bytes = length;
  if (held != GGUF_STRING) return count <= length && length == (size_t)count * (size_t)widths[held];
  size_t offset = 0;  // strings: 8 bytes of length, then their bytes
  for (unsigned long long i = 0; i < count; i++) {
    uint64_t size;
    if (length - offset < sizeof size) return false;
    memcpy(&size, bytes + offset, sizeof size);
    offset += sizeof size;
    if (size > length - offset) return false;
    offset += size;
  }
  return offset == length;
}

Status carried_to_gguf(GgufWriter *writer, const Safetensors *folder, const char *architecture) {
  for (int64_t i = 0; i < folder->metadata_count; i++) {
    const char *key = folder->metadata_keys[i], *text = folder->metadata_values[i];
    if (!text_starts_with(key, prefix) || has_place(key + strlen(prefix), architecture)) continue;
    key += strlen(prefix);
    if (text[0] != '#') {
      gguf_put_string(writer, key, text, strlen(text));
      continue;
    }
    uint8_t *bytes = memory_new(strlen(text), 1);
    GgufValue value = {.key = key};
    bool valid = parse_value(&value, bytes, text);
    if (valid) gguf_put_value(writer, &value);
    free(bytes);
    if (!valid)
      return status_fail(STATUS_BAD_INPUT, "%s: __metadata__: gguf.%s is not a value as this program writes them; remove it",
                         folder->paths[0], key);
  }
  return STATUS_OK;
}
