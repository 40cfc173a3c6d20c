// A grammar in GBNF, then a zero byte and a text: the text's bytes are tokens that masks must agree on.
#include <stdlib.h>
#include <string.h>

#include "runtime/constraint.h"
#include "tests/fuzz/fuzz_constraint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = memchr(data, 0, size);
  size_t length = end ? (size_t)(end - data) : size;
  char *text = malloc(length + 1);
  Grammar *grammar;
  memcpy(text, data, length);
  text[length] = 0;
  if (grammar_parse(&grammar, text) == STATUS_OK) {
    fuzz_follow(grammar, end ? end + 1 : data, end ? size - length - 1 : size);
    grammar_free(grammar);
  }
  free(text);
  return 0;
}
