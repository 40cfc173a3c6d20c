// Words of vocabularies that write a space as U+2581 and do not cut texts themselves (SentencePiece and its like): a whole text would be
// one word, slow to merge and never found in the cache. It may be cut between two characters that stand side by side in no token: no
// merge can then reach over the cut, and merges on either side do not see each other. We look for such places before U+2581 alone.
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/parts.h"

#include <utf8proc.h>

enum { SPACE_LENGTH = sizeof SPACE_TEXT - 1 };

static const char *find_space(const char *text, size_t length) {
  const char *end = text + length;
  while ((text = memchr(text, SPACE_TEXT[0], (size_t)(end - text)))) {
    if (end - text < SPACE_LENGTH) return NULL;
    if (memcmp(text, SPACE_TEXT, SPACE_LENGTH) == 0) return text;
    text++;
  }
  return NULL;
}

// The character that ends at `end`, which is not the beginning of the text.
static utf8proc_int32_t character_before(const char *text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && ((uint8_t)text[begin] & 0xC0) == 0x80) begin--;
  utf8proc_int32_t point = -1;
  utf8proc_iterate((const utf8proc_uint8_t *)text + begin, (utf8proc_ssize_t)(end - begin), &point);
  return point;
}

void words_find_cuts(Tokenizer *tokenizer) {
  Model *model = &tokenizer->model;
  bool knows_space = map_get(&tokenizer->ids, SPACE_TEXT, SPACE_LENGTH, NULL);
  if (model->kind == MODEL_BPE_BYTES || !knows_space || model->ignore_merges || model->prefix || model->suffix) return;
  if (model->merges_stand_ins) return;
  for (int64_t id = 0; id < tokenizer->size; id++) {
    const Token *token = &tokenizer->tokens[id];
    if (!token->text) continue;
    const char *end = token->text + token->length, *at = token->text;
    for (; (at = find_space(at, (size_t)(end - at))); at += SPACE_LENGTH) {
      if (at > token->text) pair_table_set(&model->space_joins, (uint32_t)character_before(token->text, (size_t)(at - token->text)), 1);
    }
  }
  model->space = SPACE_TEXT;
}

Status words_encode(TokenList *out, const Tokenizer *tokenizer, Workspace *workspace, const char *word, size_t length) {
  const Model *model = &tokenizer->model;
  size_t begin = 0, from = 1;
  while (model->space && from < length) {
    const char *space = find_space(word + from, length - from);
    if (!space) break;
    size_t at = (size_t)(space - word);
    from = at + SPACE_LENGTH;
    if (pair_table_get(&model->space_joins, (uint32_t)character_before(word, at)) >= 0) continue;
    TRY(model_encode_word(out, tokenizer, workspace, word + begin, at - begin));
    begin = at;
  }
  return model_encode_word(out, tokenizer, workspace, word + begin, length - begin);
}
