// Added tokens in a text: the leftmost longest, through a trie over bytes. Flags and their order are those of Hugging Face's
// tokenizers (AddedVocabulary::find_matches): single_word refuses a match that touches a letter, lstrip and rstrip take the
// spaces beside it.
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/parts.h"

#include <utf8proc.h>

static int32_t matcher_node(Matcher *matcher) {
  ARRAY_PUSH(matcher->ends, matcher->node_count, matcher->node_capacity) = -1;
  return matcher->node_count - 1;
}

void matcher_add(Matcher *matcher, const char *text, size_t length, int32_t id) {
  if (length == 0) return;
  if (matcher->node_count == 0) matcher_node(matcher);
  int32_t node = 0;
  for (size_t i = 0; i < length; i++) {
    uint64_t edge = (uint64_t)node << 8 | (uint8_t)text[i];
    int32_t child = pair_table_get(&matcher->edges, edge);
    if (child < 0) {
      child = matcher_node(matcher);
      pair_table_set(&matcher->edges, edge, child);
    }
    node = child;
  }
  matcher->first[(uint8_t)text[0]] = true;
  matcher->ends[node] = id;
}

void matcher_release(Matcher *matcher) {
  pair_table_release(&matcher->edges);
  free(matcher->ends);
  *matcher = (Matcher){0};
}

static bool token_may_match(const Token *token, int flags) {
  bool control = token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN;
  return !control || (flags & TOKENIZE_PARSE_SPECIAL);
}

static bool find_plain(Match *match, const Matcher *matcher, const Tokenizer *tokenizer, const char *text, size_t length, size_t from,
                       int flags) {
  for (size_t begin = from; begin < length; begin++) {
    if (!matcher->first[(uint8_t)text[begin]]) continue;
    int32_t node = 0, best = -1;
    for (size_t i = begin; i < length; i++) {
      node = pair_table_get(&matcher->edges, (uint64_t)node << 8 | (uint8_t)text[i]);
      if (node < 0) break;
      int32_t id = matcher->ends[node];
      if (id < 0 || !token_may_match(&tokenizer->tokens[id], flags)) continue;
      best = id;
      *match = (Match){begin, i + 1, id};
    }
    if (best >= 0) return true;
  }
  return false;
}

// \w of Rust's regular expressions: alphabetic characters (letters, letterlike numbers, enclosed letters), marks, decimal digits,
// connecting punctuation and the two joiners.
static bool is_word_character(const char *text, size_t length) {
  utf8proc_int32_t point;
  if (utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &point) <= 0) return false;
  utf8proc_category_t category = utf8proc_category(point);
  bool enclosed = (point >= 0x24B6 && point <= 0x24E9) || (point >= 0x1F130 && point <= 0x1F149) ||
                  (point >= 0x1F150 && point <= 0x1F169) || (point >= 0x1F170 && point <= 0x1F189);
  bool joiner = point == 0x200C || point == 0x200D;
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC || enclosed || joiner;
}

static bool is_space(const char *text, size_t length) {
  utf8proc_int32_t point;
  if (utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &point) <= 0) return false;
  utf8proc_category_t category = utf8proc_category(point);
  return (point >= 9 && point <= 13) || point == 0x85 || (category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP);
}

// Where the character that ends at `end` begins.
static size_t character_before(const char *text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && ((uint8_t)text[begin] & 0xC0) == 0x80) begin--;
  return begin;
}

static size_t character_length(const char *text, size_t available) {
  int length = utf8_length((const unsigned char *)text, available);
  return length ? (size_t)length : 1;
}

static bool touches_word(const char *text, size_t length, const Match *match) {
  if (match->begin > 0) {
    size_t before = character_before(text, match->begin);
    if (is_word_character(text + before, match->begin - before)) return true;
  }
  return match->end < length && is_word_character(text + match->end, length - match->end);
}

bool matcher_find(Match *match, const Matcher *matcher, const Tokenizer *tokenizer, const char *text, size_t length, size_t from,
                  int flags) {
  if (matcher->node_count == 0) return false;
  const Token *token;
  for (size_t start = from;; start = match->end) {
    if (!find_plain(match, matcher, tokenizer, text, length, start, flags)) return false;
    token = &tokenizer->tokens[match->id];
    if (!token->single_word || !touches_word(text, length, match)) break;
  }
  while (token->lstrip && match->begin > from) {
    size_t before = character_before(text, match->begin);
    if (before < from || !is_space(text + before, match->begin - before)) break;
    match->begin = before;
  }
  while (token->rstrip && match->end < length && is_space(text + match->end, length - match->end)) {
    match->end += character_length(text + match->end, length - match->end);
  }
  return true;
}
