// What both fuzz targets of constraints do with a grammar: follow a text byte by byte, by a vocabulary of 256 bytes and a few tokens.
#ifndef TESTS_FUZZ_FUZZ_CONSTRAINT_H
#define TESTS_FUZZ_FUZZ_CONSTRAINT_H

#include <stdlib.h>

#include "runtime/constraint.h"
#include "runtime/constraint/expression.h"

enum { FUZZ_MAX_STEPS = 200 };

// Ids are bytes; then tokens over the borders of strings; the last one ends a text.
static Tokenizer *fuzz_tokenizer(void) {
  static const char *const more[] = {"\":", "\",\"", "{\"a\":1,\"a\":", "ab", "aaaaaaaa", "\\u00", "12"};
  Buffer text = {0};
  Tokenizer *tokenizer;
  buffer_append_string(&text, "{\"model\": {\"type\": \"BPE\", \"vocab\": {");
  int id = 0;
  for (int byte = 0, others = 0; byte < 256; byte++) {
    bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    buffer_format(&text, "%s\"\\u%04x\": %d", byte ? ", " : "", is_printable ? byte : 256 + others++, id++);
  }
  for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
    buffer_append_string(&text, ", \"");
    for (const char *p = more[i]; *p; p++) buffer_format(&text, "\\u%04x", (unsigned char)*p);
    buffer_format(&text, "\": %d", id++);
  }
  buffer_format(
      &text,
      "}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"ByteLevel\"}, \"decoder\": {\"type\": \"ByteLevel\"}, \"added_tokens\": "
      "[{\"id\": %d, \"content\": \"<end>\", \"special\": true}]}",
      id);
  if (tokenizer_from_json(&tokenizer, "own", text.data, text.length) != STATUS_OK) abort();
  if (tokenizer_set_special(tokenizer, "eos", "<end>") != STATUS_OK) abort();
  buffer_release(&text);
  return tokenizer;
}

// A token is accepted if and only if the mask has it; a mask is never empty.
static void fuzz_follow(const Grammar *grammar, const uint8_t *bytes, size_t count) {
  static ConstraintVocabulary *vocabulary;
  static int64_t size;
  if (!vocabulary) {
    Tokenizer *tokenizer = fuzz_tokenizer();
    size = tokenizer_size(tokenizer);
    if (constraint_vocabulary_new(&vocabulary, tokenizer, size) != STATUS_OK) abort();
    tokenizer_free(tokenizer);
  }
  Constraint *constraint;
  if (constraint_new(&constraint, grammar, vocabulary) != STATUS_OK) return;
  for (size_t i = 0; i < count && i < FUZZ_MAX_STEPS; i++) {
    const uint64_t *mask = constraint_mask(constraint);
    uint64_t any = 0;
    for (int64_t w = 0; w < (size + 63) / 64; w++) any |= mask[w];
    if (!any) abort();
    int32_t id = (int32_t)(bytes[i] % size);
    if (bytes[i] == '~' && i + 1 < count) id = 256 + bytes[++i] % (int32_t)(size - 256);
    bool is_allowed = mask[id / 64] >> (id % 64) & 1;
    if ((constraint_accept(constraint, id) == STATUS_OK) != is_allowed) abort();
    if (!is_allowed) continue;  // the constraint is where it was
    if (id == size - 1) break;
  }
  constraint_free(constraint);
}

#endif
