// The merges of SentencePiece's BPE (google/sentencepiece, src/bpe_model.cc): two neighbouring symbols join where their texts together
// are a token, the token with the highest score first, the leftmost of equal ones. Each way to cut a token into two symbols is thus a
// merge, and all merges into one token have one rank; the loop of bpe.c does the rest. A token that is a byte, unknown or a control
// token is never the result of a merge: those are written by other means.
#include <math.h>
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/parts.h"

typedef struct Scored {
  int32_t id;
  float score;
} Scored;

static int compare_scored(const void *a, const void *b) {
  const Scored *x = a, *y = b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  return (x->id > y->id) - (x->id < y->id);
}

// A user-defined token was looked for before; only one with U+2581 in its text may have been missed, where that was a space.
static bool can_be_made(const Token *token) {
  if (!token->text) return false;
  return token->type == TOKEN_NORMAL || token->type == TOKEN_UNUSED ||
         (token->type == TOKEN_USER_DEFINED && strstr(token->text, SPACE_TEXT));
}

// A character of some token gets a symbol of its own, where no token is that character.
static void add_loose(Tokenizer *tokenizer, const char *text, size_t length) {
  Model *model = &tokenizer->model;
  if (map_get(&tokenizer->ids, text, length, NULL) || map_get(&model->loose_ids, text, length, NULL)) return;
  map_set(&model->loose_ids, text, length, (int64_t)model->loose_count);
  LooseCharacter *character = &ARRAY_PUSH(model->loose, model->loose_count, model->loose_capacity);
  *character = (LooseCharacter){.length = (uint8_t)length};
  memcpy(character->text, text, length);
}

static size_t step_at(const Token *token, size_t i) { return (size_t)utf8_length((const uint8_t *)token->text + i, token->length - i); }

// Characters of the token; 0 when it is not valid UTF-8, which no text can then spell.
static size_t count_characters(const Token *token) {
  size_t count = 0;
  for (size_t i = 0, step; i < token->length; i += step, count++) {
    step = step_at(token, i);
    if (!step) return 0;
  }
  return count;
}

// The symbol with this text; -1 when none has it.
static int32_t find_symbol(const Tokenizer *tokenizer, const char *text, size_t length) {
  int64_t id = -1;
  if ((size_t)utf8_length((const uint8_t *)text, length) == length) return model_character_id(tokenizer, text, length);
  return map_get(&tokenizer->ids, text, length, &id) && can_be_made(&tokenizer->tokens[id]) ? (int32_t)id : -1;
}

static void add_merges_of(Tokenizer *tokenizer, int32_t id, int32_t rank) {
  Model *model = &tokenizer->model;
  const Token *token = &tokenizer->tokens[id];
  for (size_t i = step_at(token, 0); i < token->length; i += step_at(token, i)) {
    int32_t left = find_symbol(tokenizer, token->text, i);
    int32_t right = left < 0 ? -1 : find_symbol(tokenizer, token->text + i, token->length - i);
    if (right < 0) continue;
    pair_table_set(&model->merges, (uint64_t)left << 32 | (uint64_t)right, model->merge_count);
    model->pairs[model->merge_count] = (MergePair){left, right};
    model->merged[model->merge_count] = id;
    model->ranks[model->merge_count++] = rank;
  }
}

Status spm_set_merges(Tokenizer *tokenizer, const float *scores) {
  Model *model = &tokenizer->model;
  Scored *order = memory_new((size_t)tokenizer->size + 1, sizeof *order);
  size_t count = 0, merges = 0;
  tokenizer_fill_tables(tokenizer);
  for (int32_t id = 0; id < (int32_t)tokenizer->size; id++) {
    const Token *token = &tokenizer->tokens[id];
    size_t characters = can_be_made(token) ? count_characters(token) : 0;
    if (characters < 2) continue;
    if (isnan(scores[id])) {
      free(order);
      return status_fail(STATUS_BAD_INPUT, "%s: the score of token %d is not a number", tokenizer->source, id);
    }
    for (size_t i = 0, step; i < token->length; i += step) add_loose(tokenizer, token->text + i, step = step_at(token, i));
    order[count++] = (Scored){id, scores[id]};
    merges += characters - 1;
  }
  if (merges > INT32_MAX) {
    free(order);
    return status_fail(STATUS_BAD_INPUT, "%s: the tokens have more than 2^31 characters", tokenizer->source);
  }
  qsort(order, count, sizeof *order, compare_scored);
  model_reserve_merges(model, merges);
  model->ranks = memory_new(merges + 1, sizeof *model->ranks);
  int32_t rank = 0;
  for (size_t i = 0; i < count; i++) {
    if (i > 0 && order[i].score != order[i - 1].score) rank++;
    add_merges_of(tokenizer, order[i].id, rank);
  }
  free(order);
  return STATUS_OK;
}

void tokenizer_set_spaces(Tokenizer *tokenizer, bool prefix) {
  tokenizer->model.kind = MODEL_BPE_CHARACTERS;
  tokenizer->model.byte_fallback = tokenizer->model.fuse_unknown = true;
  if (prefix) tokenizer_add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_PREPEND, .to = SPACE_TEXT});
  tokenizer_add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_REPLACE, .from = " ", .to = SPACE_TEXT});
  tokenizer->decode = (DecodeRule){.steps = {{.kind = DECODE_REPLACE, .from = SPACE_TEXT, .to = " "},
                                             {.kind = DECODE_BYTE_FALLBACK, .from = "", .to = ""},
                                             {.kind = DECODE_STRIP, .from = " ", .to = "", .start = 1, .whole = true}},
                                   .count = prefix ? 3 : 2};
}
