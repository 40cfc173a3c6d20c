// A JSON schema, then a zero byte and a text: the text's bytes are tokens that masks must agree on.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint.h"
#include "tests/fuzz/fuzz_constraint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = memchr(data, 0, size);
  size_t length = end ? (size_t)(end - data) : size;
  json_t *schema = json_loadb((const char *)data, length, JSON_DECODE_ANY, NULL);
  Grammar *grammar;
  if (schema && grammar_from_schema(&grammar, schema) == STATUS_OK) {
    fuzz_follow(grammar, end ? end + 1 : data, end ? size - length - 1 : size);
    grammar_free(grammar);
  }
  json_decref(schema);
  return 0;
}
