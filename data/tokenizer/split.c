// Pre-tokenisation: a text becomes words through a list of stages, each of which cuts (or rewrites) the pieces of the one before
// it, depth first, so that nothing is stored. Patterns run on PCRE2's JIT. A pattern sees its piece alone: look-ahead ends there.
#include <string.h>

#include "data/tokenizer/parts.h"

Status tokenizer_add_stage(Tokenizer *tokenizer, Stage stage) {
  if (tokenizer->stage_count == STAGES_MAX) {
    pcre2_code_free(stage.code);
    return status_fail(STATUS_BAD_INPUT, "the pre-tokenizer has more than %d stages", STAGES_MAX);
  }
  tokenizer->stages[tokenizer->stage_count++] = stage;
  return STATUS_OK;
}

static Status add_compiled(Tokenizer *tokenizer, const char *pattern, pcre2_code *code, SplitBehavior behavior, bool invert) {
  Stage stage = {
      .kind = STAGE_SPLIT, .behavior = behavior, .invert = invert, .pattern = arena_copy_string(&tokenizer->arena, pattern), .code = code};
  return tokenizer_add_stage(tokenizer, stage);
}

Status tokenizer_add_split(Tokenizer *tokenizer, const char *pattern, SplitBehavior behavior, bool invert) {
  pcre2_code *code;
  TRY(regex_compile(&code, pattern));
  return add_compiled(tokenizer, pattern, code, behavior, invert);
}

Status tokenizer_add_plain_split(Tokenizer *tokenizer, const char *pattern, SplitBehavior behavior, bool invert) {
  pcre2_code *code;
  TRY(regex_compile_plain(&code, pattern));
  return add_compiled(tokenizer, pattern, code, behavior, invert);
}

// ---- Running ----

typedef struct Split {
  const Tokenizer *tokenizer;
  Workspace *workspace;
  WordFunction word;
  void *argument;
} Split;

static Status run_stage(const Split *split, int stage, const char *text, size_t length, bool first);

// The pieces of one stage: the last one waits, because the next may join it.
typedef struct Pieces {
  const Split *split;
  int stage;
  const char *text;
  size_t begin, end;  // the piece that waits
  bool waiting, previous_match, first;
} Pieces;

static Status flush_piece(Pieces *pieces) {
  if (!pieces->waiting) return STATUS_OK;
  pieces->waiting = false;
  if (pieces->begin == pieces->end) return STATUS_OK;
  bool first = pieces->first && pieces->begin == 0;
  return run_stage(pieces->split, pieces->stage + 1, pieces->text + pieces->begin, pieces->end - pieces->begin, first);
}

static Status push_piece(Pieces *pieces, const Stage *stage, size_t begin, size_t end, bool is_match) {
  is_match = is_match != stage->invert;
  bool join = false, previous = pieces->previous_match;
  switch (stage->behavior) {
    case SPLIT_REMOVED:
    case SPLIT_ISOLATED: break;
    case SPLIT_MERGED_WITH_PREVIOUS: join = is_match && !previous; break;
    case SPLIT_MERGED_WITH_NEXT: join = !is_match && previous; break;
    case SPLIT_CONTIGUOUS: join = is_match == previous; break;
  }
  pieces->previous_match = is_match;
  if (join && pieces->waiting) {
    pieces->end = end;
    return STATUS_OK;
  }
  TRY(flush_piece(pieces));
  if (is_match && stage->behavior == SPLIT_REMOVED) return STATUS_OK;
  pieces->begin = begin;
  pieces->end = end;
  pieces->waiting = true;
  return STATUS_OK;
}

static Status run_split(const Split *split, int index, const char *text, size_t length, bool first) {
  const Stage *stage = &split->tokenizer->stages[index];
  Pieces pieces = {.split = split, .stage = index, .text = text, .first = first};
  RegexScan scan = {.code = stage->code, .pattern = stage->pattern, .text = text, .length = length};
  size_t done = 0;
  for (;;) {
    bool found;
    TRY(regex_next(&found, &scan, split->workspace));
    if (!found) break;
    if (done < scan.begin) TRY(push_piece(&pieces, stage, done, scan.begin, false));
    TRY(push_piece(&pieces, stage, scan.begin, scan.end, true));
    done = scan.end;
  }
  if (done < length) TRY(push_piece(&pieces, stage, done, length, false));
  return flush_piece(&pieces);
}

static Status run_prefix_space(const Split *split, int index, const char *text, size_t length, bool first) {
  if (text[0] == ' ') return run_stage(split, index + 1, text, length, first);
  Buffer *out = &split->workspace->rewritten[index];
  out->length = 0;
  buffer_append(out, " ", 1);
  buffer_append(out, text, length);
  return run_stage(split, index + 1, out->data, out->length, first);
}

static Status run_metaspace(const Split *split, int index, const char *text, size_t length, bool first) {
  const Stage *stage = &split->tokenizer->stages[index];
  const char *space = stage->pattern;
  size_t space_length = strlen(space);
  Buffer *out = &split->workspace->rewritten[index];
  out->length = 0;
  bool begins = text[0] == ' ' || (length >= space_length && memcmp(text, space, space_length) == 0);
  bool wanted = stage->prepend == PREPEND_ALWAYS || (stage->prepend == PREPEND_FIRST && first);
  if (wanted && !begins) buffer_append_string(out, space);
  for (size_t i = 0; i < length;) {
    const char *found = memchr(text + i, ' ', length - i);
    size_t run = found ? (size_t)(found - text) - i : length - i;
    buffer_append(out, text + i, run);
    if (found) buffer_append(out, space, space_length);
    i += run + (found != NULL);
  }
  return run_stage(split, index + 1, out->data, out->length, first);
}

static Status run_alphabet(const Split *split, int index, const char *text, size_t length, bool first) {
  Buffer *out = &split->workspace->rewritten[index];
  out->length = 0;
  for (size_t i = 0; i < length; i++) {
    char character[4];
    buffer_append(out, character, (size_t)byte_to_alphabet(character, (uint8_t)text[i]));
  }
  return run_stage(split, index + 1, out->data, out->length, first);
}

static Status run_stage(const Split *split, int index, const char *text, size_t length, bool first) {
  if (index == split->tokenizer->stage_count) return split->word(split->argument, text, length);
  switch (split->tokenizer->stages[index].kind) {
    case STAGE_SPLIT: return run_split(split, index, text, length, first);
    case STAGE_PREFIX_SPACE: return run_prefix_space(split, index, text, length, first);
    case STAGE_METASPACE: return run_metaspace(split, index, text, length, first);
    case STAGE_ALPHABET: return run_alphabet(split, index, text, length, first);
  }
  return STATUS_OK;
}

Status tokenizer_split(const Tokenizer *tokenizer, Workspace *workspace, const char *text, size_t length, bool first, WordFunction word,
                       void *argument) {
  if (length == 0) return STATUS_OK;
  Split split = {tokenizer, workspace, word, argument};
  return run_stage(&split, 0, text, length, first);
}
