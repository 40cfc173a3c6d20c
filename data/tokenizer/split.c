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

Status tokenizer_add_split(Tokenizer *tokenizer, const char *pattern, SplitBehavior behavior, bool invert) {
  Buffer translated = {0};
  Status status = regex_translate(&translated, pattern);
  pcre2_code *code = NULL;
  if (status == STATUS_OK) {
    int error;
    PCRE2_SIZE offset;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    code = pcre2_compile((PCRE2_SPTR)translated.data, translated.length, options, &error, &offset, NULL);
    if (!code) {
      char message[256] = "";
      pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
      status = status_fail(STATUS_BAD_INPUT, "the regular expression `%s`: %s", pattern, message);
    }
  }
  buffer_release(&translated);
  if (status != STATUS_OK) return status;
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
  Stage stage = {
      .kind = STAGE_SPLIT, .behavior = behavior, .invert = invert, .pattern = arena_copy_string(&tokenizer->arena, pattern), .code = code};
  return tokenizer_add_stage(tokenizer, stage);
}

// ---- Running ----

enum { JIT_STACK_FIRST = 32 << 10, JIT_STACK_MOST = 4 << 20, MATCH_LIMIT = 10000000 };

typedef struct Split {
  const Tokenizer *tokenizer;
  Workspace *workspace;
  WordFunction word;
  void *argument;
} Split;

static Status run_stage(const Split *split, int stage, const char *text, size_t length, bool first);

static void prepare_matching(Workspace *workspace) {
  if (workspace->match) return;
  workspace->match = pcre2_match_data_create(1, NULL);
  workspace->context = pcre2_match_context_create(NULL);
  workspace->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, NULL);
  pcre2_set_match_limit(workspace->context, MATCH_LIMIT);
  pcre2_jit_stack_assign(workspace->context, NULL, workspace->stack);
}

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
  prepare_matching(split->workspace);
  pcre2_match_data *match = split->workspace->match;
  const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
  Pieces pieces = {.split = split, .stage = index, .text = text, .first = first};
  size_t done = 0, from = 0;
  bool matched = false;
  while (from <= length) {
    int count = pcre2_match(stage->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, match, split->workspace->context);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      char message[256] = "";
      pcre2_get_error_message(count, (PCRE2_UCHAR *)message, sizeof message);
      return status_fail(STATUS_FAILED, "the pre-tokenizer's `%s` on a text of %zu bytes: %s", stage->pattern, length, message);
    }
    size_t begin = range[0], end = range[1];
    from = end;
    if (end <= begin) {  // an empty match: the next try begins a character later
      from = end + 1;
      while (from < length && ((uint8_t)text[from] & 0xC0) == 0x80) from++;
      if (end < begin || (matched && begin == done)) continue;  // right behind another match it is none
    }
    if (done < begin) TRY(push_piece(&pieces, stage, done, begin, false));
    TRY(push_piece(&pieces, stage, begin, end, true));
    done = end;
    matched = true;
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
