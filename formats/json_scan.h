// A JSON object member by member, without building a tree of the whole: a header of 100 MB from somebody else's
// file costs no more memory than its largest member.
#ifndef FORMATS_JSON_SCAN_H
#define FORMATS_JSON_SCAN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct JsonText {
  const char *data;
  size_t length;
} JsonText;

typedef struct JsonScan {
  const char *at, *end;
  bool is_started, is_done;
  bool is_malformed;
} JsonScan;

JsonScan json_scan(JsonText object);
// The next member's key (with its quotes) and value, as raw text. False at the object's end, and at the first malformed
// place, which sets is_malformed. After the end only spaces may follow.
bool json_scan_next(JsonScan *scan, JsonText *key, JsonText *value);

// The text as a tree, or NULL when it is longer than `limit` bytes or no JSON (no duplicate keys, UTF-8 throughout).
json_t *json_text_load(JsonText text, size_t limit);

#endif
