// The tokens of a template, after Jinja2's lexer with trim_blocks and lstrip_blocks: text between tags is data, the white space that
// `-`, `+` and the two options take away is gone, and the inside of tags is names, literals and operators.
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "core/text.h"
#include "data/jinja/parts.h"

typedef struct Lexer {
  Jinja *jinja;
  const char *source;
  size_t length, at;
  int line;
  bool line_starting;  // what was read last ended with a line feed
  Token *tokens;
  int count, capacity;
  Buffer closers;  // the brackets that are open, as the characters that close them
} Lexer;

static Status lex_fail(const Lexer *lexer, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "%s:%d: %s", lexer->jinja->name, lexer->line, what);
}

static bool starts_at(const Lexer *lexer, size_t at, const char *text) {
  size_t length = strlen(text);
  return lexer->length - at >= length && memcmp(lexer->source + at, text, length) == 0;
}

static size_t skip_space(const Lexer *lexer, size_t at) {
  for (size_t step; at < lexer->length && (step = text_space_length(lexer->source + at, lexer->length - at)); at += step) continue;
  return at;
}

static void count_lines(Lexer *lexer, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i++) lexer->line += lexer->source[i] == '\n';
}

// Goes on to `end`, counting lines.
static void advance(Lexer *lexer, size_t end) {
  count_lines(lexer, lexer->at, end);
  if (end > lexer->at) lexer->line_starting = lexer->source[end - 1] == '\n';
  lexer->at = end;
}

static Token *push_token(Lexer *lexer, TokenType type, const char *text, size_t length) {
  Token *token = &ARRAY_PUSH(lexer->tokens, lexer->count, lexer->capacity);
  *token = (Token){.type = type, .line = lexer->line, .length = length};
  token->text = arena_copy_bytes(&lexer->jinja->arena, text, length);
  return token;
}

// ---- Text and tags.

// A tag's opening: its two characters, the sign behind them, and where the inside begins.
typedef struct Opening {
  size_t at, inside;
  char kind, sign;  // kind: '{', '%', '#', or 'r' for {% raw %}; 0: none; sign: '-', '+' or 0
} Opening;

// {% raw %} ends with the tag itself: trim_blocks does not apply to it.
static bool raw_opening(const Lexer *lexer, Opening *opening) {
  size_t at = skip_space(lexer, opening->inside);
  if (!starts_at(lexer, at, "raw")) return false;
  at = skip_space(lexer, at + 3);
  if (starts_at(lexer, at, "-%}")) opening->inside = skip_space(lexer, at + 3);
  else if (starts_at(lexer, at, "%}")) opening->inside = at + 2;
  else return false;
  opening->kind = 'r';
  return true;
}

static Opening find_opening(const Lexer *lexer) {
  for (size_t at = lexer->at; at + 1 < lexer->length; at++) {
    char kind = lexer->source[at + 1];
    if (lexer->source[at] != '{' || (kind != '{' && kind != '%' && kind != '#')) continue;
    Opening opening = {.at = at, .inside = at + 2, .kind = kind};
    char sign = at + 2 < lexer->length ? lexer->source[at + 2] : 0;
    if (sign == '-' || sign == '+') opening.sign = sign, opening.inside++;
    if (kind == '%') raw_opening(lexer, &opening);
    return opening;
  }
  return (Opening){.at = lexer->length};
}

static size_t trim_right(const char *text, size_t length) {
  for (bool found = true; found && length > 0;) {
    found = false;
    for (size_t step = 1; step <= 3 && step <= length && !found; step++)
      if (text_space_length(text + length - step, step) == step) length -= step, found = true;
  }
  return length;
}

// The length of the text before a tag once the tag's sign, or lstrip_blocks, has taken its share.
static size_t text_before_tag(const Lexer *lexer, size_t end, char sign, bool strips_line) {
  const char *text = lexer->source + lexer->at;
  size_t length = end - lexer->at, trimmed = trim_right(text, length), line = length;
  if (sign == '-') return trimmed;
  if (sign == '+' || !strips_line) return length;
  while (line > 0 && text[line - 1] != '\n') line--;
  bool begins_line = line > 0 || lexer->line_starting;
  return begins_line && trimmed <= line ? line : length;
}

static void push_text(Lexer *lexer, size_t end, char sign, bool strips_line) {
  size_t length = text_before_tag(lexer, end, sign, strips_line);
  if (length > 0) push_token(lexer, TOKEN_DATA, lexer->source + lexer->at, length);
  advance(lexer, end);
}

// Behind "%}" or "#}": trim_blocks takes one line feed.
static size_t after_block(const Lexer *lexer, size_t at) { return at < lexer->length && lexer->source[at] == '\n' ? at + 1 : at; }

// If a tag's end of two characters is at `at`, with or without its sign: where the template goes on.
static bool closing_at(const Lexer *lexer, size_t at, const char *end, size_t *next) {
  bool minus = at < lexer->length && lexer->source[at] == '-', plus = at < lexer->length && lexer->source[at] == '+';
  if (minus && starts_at(lexer, at + 1, end)) *next = skip_space(lexer, at + 3);
  else if (plus && *end != '}' && starts_at(lexer, at + 1, end)) *next = at + 3;
  else if (starts_at(lexer, at, end)) *next = *end == '}' ? at + 2 : after_block(lexer, at + 2);
  else return false;
  return true;
}

static Status lex_comment(Lexer *lexer) {
  for (size_t at = lexer->at, next; at < lexer->length; at++) {
    if (!closing_at(lexer, at, "#}", &next)) continue;
    advance(lexer, next);
    return STATUS_OK;
  }
  return lex_fail(lexer, "a comment has no end, `#}`");
}

// "{%- endraw -%}" at `at`?
static bool endraw_at(const Lexer *lexer, size_t at, char *sign, size_t *next) {
  if (!starts_at(lexer, at, "{%")) return false;
  at += 2;
  *sign = at < lexer->length && (lexer->source[at] == '-' || lexer->source[at] == '+') ? lexer->source[at] : 0;
  at = skip_space(lexer, *sign ? at + 1 : at);
  if (!starts_at(lexer, at, "endraw")) return false;
  return closing_at(lexer, skip_space(lexer, at + 6), "%}", next);
}

static Status lex_raw(Lexer *lexer) {
  for (size_t at = lexer->at, next; at < lexer->length; at++) {
    char sign;
    if (!endraw_at(lexer, at, &sign, &next)) continue;
    push_text(lexer, at, sign, true);
    advance(lexer, next);
    return STATUS_OK;
  }
  return lex_fail(lexer, "{% raw %} has no {% endraw %}");
}

// ---- Inside of a tag.

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int digit_value(char c) {
  if (is_digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

// Digits of a base with single underscores between them; where they end (`at` when there are none).
static size_t digits_end(const Lexer *lexer, size_t at, int base) {
  size_t end = at;
  while (end < lexer->length) {
    size_t next = lexer->source[end] == '_' && end > at ? end + 1 : end;
    if (next >= lexer->length || digit_value(lexer->source[next]) >= base) break;
    end = next + 1;
  }
  return end;
}

// The literal without underscores, for strtod.
static char *plain_digits(Lexer *lexer, size_t begin, size_t end) {
  char *text = arena_copy_bytes(&lexer->jinja->arena, lexer->source + begin, end - begin), *to = text;
  for (const char *from = text; *from; from++)
    if (*from != '_') *to++ = *from;
  *to = 0;
  return text;
}

static bool lex_float(Lexer *lexer) {
  size_t begin = lexer->at, whole = digits_end(lexer, begin, 10), end = whole;
  if (whole == begin || (begin > 0 && lexer->source[begin - 1] == '.')) return false;
  if (end < lexer->length && lexer->source[end] == '.') {
    size_t fraction = digits_end(lexer, end + 1, 10);
    if (fraction > end + 1) end = fraction;
  }
  if (end < lexer->length && (lexer->source[end] | 0x20) == 'e') {
    size_t digits = end + 1;
    if (digits < lexer->length && (lexer->source[digits] == '+' || lexer->source[digits] == '-')) digits++;
    size_t exponent = digits_end(lexer, digits, 10);
    if (exponent > digits) end = exponent;
  }
  if (end == whole) return false;
  push_token(lexer, TOKEN_FLOAT, "", 0)->real = strtod(plain_digits(lexer, begin, end), NULL);
  advance(lexer, end);
  return true;
}

static Status lex_integer(Lexer *lexer) {
  size_t begin = lexer->at, digits = begin, end;
  int base = 10;
  char mark = lexer->source[begin] == '0' && begin + 1 < lexer->length ? (char)(lexer->source[begin + 1] | 0x20) : 0;
  if (mark == 'x') base = 16;
  if (mark == 'o') base = 8;
  if (mark == 'b') base = 2;
  if (base != 10) {
    digits = begin + 2;
    if (digits < lexer->length && lexer->source[digits] == '_') digits++;
    end = digits_end(lexer, digits, base);
  }
  if (base == 10 || end == digits) {
    base = 10;
    digits = begin;
    end = lexer->source[begin] == '0' ? digits_end(lexer, begin, 1) : digits_end(lexer, begin, 10);
  }
  int64_t integer = 0;
  for (size_t i = digits; i < end; i++) {
    if (lexer->source[i] == '_') continue;
    if (__builtin_mul_overflow(integer, (int64_t)base, &integer) ||
        __builtin_add_overflow(integer, (int64_t)digit_value(lexer->source[i]), &integer)) {
      return lex_fail(lexer, "an integer is too large: 64 bits are what there is");
    }
  }
  push_token(lexer, TOKEN_INTEGER, "", 0)->integer = integer;
  advance(lexer, end);
  return STATUS_OK;
}

static bool is_word_point(int32_t point) { return point == '_' || point_is_word(point); }

static bool lex_name(Lexer *lexer) {
  size_t end = lexer->at;
  while (end < lexer->length) {
    utf8proc_int32_t point;
    utf8proc_ssize_t size =
        utf8proc_iterate((const utf8proc_uint8_t *)lexer->source + end, (utf8proc_ssize_t)(lexer->length - end), &point);
    if (size <= 0 || !is_word_point(point)) break;
    end += (size_t)size;
  }
  if (end == lexer->at) return false;
  push_token(lexer, TOKEN_NAME, lexer->source + lexer->at, end - lexer->at);
  advance(lexer, end);
  return true;
}

// The escape at `p` (behind the backslash), as Python's unicode-escape codec reads it; its length, 0 when it is not well formed.
static size_t read_escape(Buffer *out, const char *p, size_t available) {
  static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
  char text[4];
  const char *simple = strchr(from, *p);
  if (*p == '\n') return 1;
  if (*p && simple) {
    buffer_append(out, &to[simple - from], 1);
    return 1;
  }
  size_t length = 0, wanted = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
  int32_t point = 0;
  if (*p >= '0' && *p <= '7') {
    for (; length < 3 && length < available && p[length] >= '0' && p[length] <= '7'; length++) point = point * 8 + (p[length] - '0');
  } else if (wanted) {
    if (available <= wanted) return 0;
    for (length = 1; length <= wanted; length++) {
      if (digit_value(p[length]) > 15 || point > 0x10FFFF) return 0;
      point = point * 16 + digit_value(p[length]);
    }
  } else if (*p == 'N') {
    return 0;
  } else {  // an unknown escape stays, with its backslash
    buffer_append(out, "\\", 1);
    int point_length = utf8_length((const unsigned char *)p, available);
    if ((unsigned char)*p < 0x80) {
      buffer_append(out, p, 1);
      return 1;
    }
    // Jinja writes characters beyond ASCII as escapes before it reads the escapes, and the backslash before takes that one's.
    utf8proc_int32_t wide = 0;
    utf8proc_iterate((const utf8proc_uint8_t *)p, point_length, &wide);
    buffer_format(out, wide < 0x100 ? "x%02x" : wide < 0x10000 ? "u%04x" : "U%08x", (unsigned)wide);
    return (size_t)point_length;
  }
  if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return 0;
  buffer_append(out, text, (size_t)encode_point(text, point));
  return length;
}

static Status lex_string(Lexer *lexer) {
  char quote = lexer->source[lexer->at];
  size_t begin = lexer->at + 1, end = begin;
  while (end < lexer->length && lexer->source[end] != quote) end += lexer->source[end] == '\\' ? 2 : 1;
  if (end >= lexer->length) return lex_fail(lexer, "a string has no end");
  Buffer text = {0};
  buffer_reserve(&text, 0);
  for (size_t i = begin; i < end;) {
    size_t plain = i;
    while (plain < end && lexer->source[plain] != '\\') plain++;
    buffer_append(&text, lexer->source + i, plain - i);
    if (plain == end) break;
    size_t length = read_escape(&text, lexer->source + plain + 1, end - plain - 1);
    if (length == 0) {
      buffer_release(&text);
      return lex_fail(lexer, "a string has an escape that is not well formed, or that names a character");
    }
    i = plain + 1 + length;
  }
  push_token(lexer, TOKEN_STRING, text.length ? text.data : "", text.length);
  buffer_release(&text);
  advance(lexer, end + 1);
  return STATUS_OK;
}

static Status balance(Lexer *lexer, char c) {
  static const char openers[] = "{([", closers[] = "})]";
  const char *opener = strchr(openers, c);
  if (opener) buffer_append(&lexer->closers, &closers[opener - openers], 1);
  if (!strchr(closers, c)) return STATUS_OK;
  if (lexer->closers.length == 0 || lexer->closers.data[lexer->closers.length - 1] != c)
    return status_fail(STATUS_BAD_INPUT, "%s:%d: unexpected '%c'", lexer->jinja->name, lexer->line, c);
  lexer->closers.length--;
  return STATUS_OK;
}

static Status lex_operator(Lexer *lexer) {
  static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                          "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
    if (!starts_at(lexer, lexer->at, operators[i])) continue;
    if (!operators[i][1]) TRY(balance(lexer, operators[i][0]));
    push_token(lexer, TOKEN_OPERATOR, operators[i], strlen(operators[i]));
    advance(lexer, lexer->at + strlen(operators[i]));
    return STATUS_OK;
  }
  return status_fail(STATUS_BAD_INPUT, "%s:%d: unexpected character '%.*s'", lexer->jinja->name, lexer->line,
                     utf8_length((const unsigned char *)lexer->source + lexer->at, lexer->length - lexer->at), lexer->source + lexer->at);
}

static Status lex_tag(Lexer *lexer, char kind) {
  const char *end = kind == '%' ? "%}" : "}}";
  push_token(lexer, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, "", 0);
  for (size_t next; lexer->at < lexer->length;) {
    char c = lexer->source[lexer->at];
    if (lexer->closers.length == 0 && closing_at(lexer, lexer->at, end, &next)) {
      push_token(lexer, kind == '%' ? TOKEN_BLOCK_END : TOKEN_PRINT_END, "", 0);
      advance(lexer, next);
      return STATUS_OK;
    }
    size_t behind = skip_space(lexer, lexer->at);
    if (behind > lexer->at) advance(lexer, behind);
    else if (is_digit(c)) {
      if (!lex_float(lexer)) TRY(lex_integer(lexer));
    } else if (c == '\'' || c == '"') TRY(lex_string(lexer));
    else if (!lex_name(lexer)) TRY(lex_operator(lexer));
  }
  return lex_fail(lexer, kind == '%' ? "a statement has no end, `%}`" : "an expression has no end, `}}`");
}

static Status lex_all(Lexer *lexer) {
  while (lexer->at < lexer->length) {
    Opening opening = find_opening(lexer);
    if (opening.kind == 0) {
      push_token(lexer, TOKEN_DATA, lexer->source + lexer->at, lexer->length - lexer->at);
      advance(lexer, lexer->length);
      break;
    }
    push_text(lexer, opening.at, opening.sign, opening.kind != '{');
    advance(lexer, opening.inside);
    if (opening.kind == '#') TRY(lex_comment(lexer));
    else if (opening.kind == 'r') TRY(lex_raw(lexer));
    else TRY(lex_tag(lexer, opening.kind));
  }
  push_token(lexer, TOKEN_END, "", 0);
  return STATUS_OK;
}

// \r\n and \r become \n, and the last line's end goes.
static void normalise_lines(Buffer *out, const char *source, size_t length) {
  buffer_reserve(out, length);
  for (size_t i = 0; i < length; i++) {
    bool carriage = source[i] == '\r';
    if (carriage && i + 1 < length && source[i + 1] == '\n') continue;
    out->data[out->length++] = carriage ? '\n' : source[i];
  }
  if (out->length > 0 && out->data[out->length - 1] == '\n') out->length--;
  out->data[out->length] = 0;
}

Status jinja_lex(Token **tokens, int *count, Jinja *jinja, const char *source, size_t length) {
  Buffer text = {0};
  size_t broken;
  if (!utf8_is_valid(source, length, &broken))
    return status_fail(STATUS_BAD_INPUT, "%s: the template is not UTF-8: byte %zu breaks it", jinja->name, broken);
  normalise_lines(&text, source, length);
  Lexer lexer = {.jinja = jinja, .source = text.data, .length = text.length, .line = 1, .line_starting = true};
  Status status = lex_all(&lexer);
  buffer_release(&text);
  buffer_release(&lexer.closers);
  *tokens = lexer.tokens;
  *count = lexer.count;
  return status;
}
