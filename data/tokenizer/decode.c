// Ids back to text: each token's text goes through the steps of the decoder, then the joined texts through those that act on the whole.
// Pieces of a stream are joined by nobody, so that what is stripped from the ends of a whole text stays there.
#include <string.h>

#include "data/tokenizer/parts.h"

static void strip_ends(Buffer *text, const char *content, int32_t start, int32_t stop) {
  size_t length = strlen(content), begin = 0;
  for (; start > 0 && text->length - begin >= length && memcmp(text->data + begin, content, length) == 0; start--) begin += length;
  for (; stop > 0 && text->length - begin >= length && memcmp(text->data + text->length - length, content, length) == 0; stop--)
    text->length -= length;
  text->length -= begin;
  memmove(text->data, text->data + begin, text->length);
}

// *out becomes the text after the step; `other` is room for it.
static void run_step(Buffer *out, Buffer *other, const DecodeStep *step) {
  other->length = 0;
  switch (step->kind) {
    case DECODE_ALPHABET:
      if (!alphabet_to_bytes(other, out->data, out->length)) return;
      break;
    case DECODE_BYTE_FALLBACK: {
      int32_t byte = byte_token_value(&(Token){.text = out->data, .length = (uint32_t)out->length});
      if (byte < 0) return;
      buffer_append(other, &(char){(char)byte}, 1);
      break;
    }
    case DECODE_REPLACE: append_replaced(other, step->from, step->to, out->data, out->length); break;
    case DECODE_STRIP: strip_ends(out, step->from, step->start, step->stop); return;
  }
  Buffer swap = *out;
  *out = *other;
  *other = swap;
}

typedef struct Decoding {
  Buffer text, other;
} Decoding;

static void decode_token(Buffer *out, Decoding *decoding, const Tokenizer *tokenizer, int32_t id, bool with_special, bool whole_follows) {
  if (!tokenizer_text(tokenizer, id)) return;
  const Token *token = &tokenizer->tokens[id];
  const DecodeRule *rule = &tokenizer->decode;
  if (token->added || tokenizer_is_special(tokenizer, id)) {
    if (with_special || !tokenizer_is_special(tokenizer, id)) buffer_append(out, token->text, token->length);
    return;
  }
  decoding->text.length = 0;
  buffer_append(&decoding->text, token->text, token->length);
  for (int i = 0; i < rule->count; i++) {
    const DecodeStep *step = &rule->steps[i];
    if (step->whole && (whole_follows || step->kind == DECODE_STRIP)) continue;
    run_step(&decoding->text, &decoding->other, step);
  }
  buffer_append(out, decoding->text.data, decoding->text.length);
}

static void decoding_release(Decoding *decoding) {
  buffer_release(&decoding->text);
  buffer_release(&decoding->other);
}

void tokenizer_decode_piece(Buffer *out, const Tokenizer *tokenizer, int32_t id, bool with_special) {
  Decoding decoding = {0};
  decode_token(out, &decoding, tokenizer, id, with_special, false);
  decoding_release(&decoding);
}

void tokenizer_decode(Buffer *out, const Tokenizer *tokenizer, const int32_t *ids, int64_t count, bool with_special) {
  Decoding decoding = {0};
  Buffer whole = {0};
  buffer_reserve(&whole, 1);
  for (int64_t i = 0; i < count; i++) decode_token(&whole, &decoding, tokenizer, ids[i], with_special, true);
  for (int i = 0; i < tokenizer->decode.count; i++) {
    if (tokenizer->decode.steps[i].whole) run_step(&whole, &decoding.other, &tokenizer->decode.steps[i]);
  }
  buffer_append(out, whole.data, whole.length);
  buffer_release(&whole);
  decoding_release(&decoding);
}
