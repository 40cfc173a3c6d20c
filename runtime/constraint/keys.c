// Keys that an object has already.
#include "runtime/constraint/keys.h"

#include <stdlib.h>
#include <string.h>

void keys_release(Keys *keys) {
  free(keys->scopes);
  free(keys->stops);
  buffer_release(&keys->bytes);
  *keys = (Keys){0};
}

static int64_t key_begin(const Keys *keys, int32_t key) { return key ? keys->stops[key - 1] : 0; }

static int32_t first_key(const Keys *keys) { return keys->scope_count ? keys->scopes[keys->scope_count - 1].first_key : 0; }

// The key that is complete now is put beside those of its object.
static bool add_key(Keys *keys) {
  int64_t begin = key_begin(keys, keys->key_count), length = (int64_t)keys->bytes.length - begin;
  for (int32_t key = first_key(keys); key < keys->key_count; key++) {
    int64_t other = key_begin(keys, key);
    if (keys->stops[key] - other == length && memcmp(keys->bytes.data + other, keys->bytes.data + begin, (size_t)length) == 0) return false;
  }
  ARRAY_PUSH(keys->stops, keys->key_count, keys->key_capacity) = (int64_t)keys->bytes.length;
  return true;
}

static bool read_in_string(Keys *keys, char c) {
  if (keys->is_escaped || c != '"') {
    keys->is_escaped = !keys->is_escaped && c == '\\';
    if (keys->in_key) buffer_append(&keys->bytes, &c, 1);
    return true;
  }
  keys->in_string = false;
  if (!keys->in_key) return true;
  keys->in_key = keys->expects_key = false;
  return add_key(keys);
}

static void open_scope(Keys *keys, bool is_object) {
  ARRAY_PUSH(keys->scopes, keys->scope_count, keys->scope_capacity) = (KeyScope){keys->key_count, is_object};
  keys->expects_key = is_object;
}

static void close_scope(Keys *keys) {
  if (!keys->scope_count) return;
  keys->key_count = keys->scopes[--keys->scope_count].first_key;
  keys->bytes.length = (size_t)key_begin(keys, keys->key_count);
  keys->expects_key = false;
}

bool keys_read(Keys *keys, const char *bytes, int64_t length) {
  buffer_reserve(&keys->bytes, 1);
  for (int64_t i = 0; i < length; i++) {
    char c = bytes[i];
    if (keys->in_string) {
      if (!read_in_string(keys, c)) return false;
    } else if (c == '"') {
      keys->in_string = true;
      keys->in_key = keys->expects_key;
    } else if (c == '{' || c == '[') {
      open_scope(keys, c == '{');
    } else if (c == '}' || c == ']') {
      close_scope(keys);
    } else if (c == ',') {
      keys->expects_key = keys->scope_count && keys->scopes[keys->scope_count - 1].is_object;
    }
  }
  return true;
}

void keys_copy(Keys *out, const Keys *keys) {
  Keys old = *out;
  *out = *keys;
  out->scopes = old.scopes, out->scope_capacity = old.scope_capacity;
  out->stops = old.stops, out->key_capacity = old.key_capacity;
  out->bytes = old.bytes;
  if (keys->scope_count > old.scope_capacity) {
    out->scope_capacity = keys->scope_count;
    out->scopes = memory_grow(old.scopes, (size_t)keys->scope_count, sizeof *out->scopes);
  }
  if (keys->key_count > old.key_capacity) {
    out->key_capacity = keys->key_count;
    out->stops = memory_grow(old.stops, (size_t)keys->key_count, sizeof *out->stops);
  }
  if (keys->scope_count) memcpy(out->scopes, keys->scopes, (size_t)keys->scope_count * sizeof *out->scopes);
  if (keys->key_count) memcpy(out->stops, keys->stops, (size_t)keys->key_count * sizeof *out->stops);
  out->bytes.length = 0;
  buffer_append(&out->bytes, keys->bytes.data ? keys->bytes.data : "", keys->bytes.length);
}

static void remove_below(uint64_t *mask, const Trie *trie, int32_t node) {
  int32_t last = trie->nodes[trie->nodes[node].end].first_token;
  for (int32_t i = trie->nodes[node].first_token; i < last; i++) mask_remove(mask, trie->order[i]);
}

// Within a key: what is left of an earlier key, and its '"', must not come.
static void mask_endings(uint64_t *mask, const Keys *keys, const Trie *trie) {
  int64_t begin = key_begin(keys, keys->key_count), length = (int64_t)keys->bytes.length - begin;
  for (int32_t key = first_key(keys); key < keys->key_count; key++) {
    int64_t other = key_begin(keys, key), other_length = keys->stops[key] - other;
    if (other_length < length || memcmp(keys->bytes.data + other, keys->bytes.data + begin, (size_t)length) != 0) continue;
    int32_t node = trie_find(trie, -1, keys->bytes.data + other + length, other_length - length);
    if (node < 0 && other_length > length) continue;
    node = trie_find(trie, node, "\"", 1);
    if (node >= 0) remove_below(mask, trie, node);
  }
}

void keys_mask(uint64_t *mask, const Keys *keys, Keys *scratch, const ConstraintVocabulary *vocabulary) {
  for (int t = 0; t < TRIE_COUNT && keys->in_key && !keys->is_escaped; t++) mask_endings(mask, keys, &vocabulary->tries[t]);
  for (int32_t i = 0; i < vocabulary->quoted_count; i++) {
    int32_t id = vocabulary->quoted[i];
    if (!mask_has(mask, id)) continue;
    keys_copy(scratch, keys);
    int64_t begin = vocabulary->begins[id];
    if (!keys_read(scratch, vocabulary->bytes + begin, vocabulary->begins[id + 1] - begin)) mask_remove(mask, id);
  }
}
