// Only brackets and quotes are followed here; whether what lies between them is JSON (RFC 8259) is for jansson, member by member.
#include "formats/json_scan.h"

#include <string.h>

JsonScan json_scan(JsonText object) { return (JsonScan){.at = object.data, .end = object.data + object.length}; }

static void skip_spaces(JsonScan *scan) {
  while (scan->at < scan->end && memchr(" \t\r\n", *scan->at, 4)) scan->at++;
}

static bool take(JsonScan *scan, char expected) {
  skip_spaces(scan);
  if (scan->at == scan->end || *scan->at != expected) return false;
  scan->at++;
  return true;
}

static bool skip_string(JsonScan *scan) {
  if (!take(scan, '"')) return false;
  for (; scan->at < scan->end; scan->at++) {
    if (*scan->at == '"') {
      scan->at++;
      return true;
    }
    if (*scan->at == '\\' && ++scan->at == scan->end) return false;
  }
  return false;
}

// To the comma or bracket that ends the value.
static bool skip_value(JsonScan *scan) {
  for (size_t depth = 0; scan->at < scan->end;) {
    char c = *scan->at;
    if (c == '"') {
      if (!skip_string(scan)) return false;
      continue;
    }
    if (depth == 0 && (c == ',' || c == '}' || c == ']')) return true;
    if (c == '{' || c == '[') depth++;
    if (c == '}' || c == ']') depth--;
    scan->at++;
  }
  return false;
}

static bool scan_member(JsonScan *scan, JsonText *key, JsonText *value) {
  skip_spaces(scan);
  key->data = scan->at;
  if (!skip_string(scan)) return false;
  key->length = (size_t)(scan->at - key->data);
  if (!take(scan, ':')) return false;
  skip_spaces(scan);
  value->data = scan->at;
  if (!skip_value(scan)) return false;
  value->length = (size_t)(scan->at - value->data);
  return true;
}

bool json_scan_next(JsonScan *scan, JsonText *key, JsonText *value) {
  if (scan->is_malformed || scan->is_done) return false;
  bool is_first = !scan->is_started;
  scan->is_started = true;
  if (is_first && !take(scan, '{')) {
    scan->is_malformed = true;
    return false;
  }
  if (take(scan, '}')) {
    skip_spaces(scan);
    scan->is_done = true;
    scan->is_malformed = scan->at != scan->end;
    return false;
  }
  scan->is_malformed = (!is_first && !take(scan, ',')) || !scan_member(scan, key, value);
  return !scan->is_malformed;
}

json_t *json_text_load(JsonText text, size_t limit) {
  if (text.length > limit) return NULL;
  return json_loadb(text.data, text.length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
}
