// Regular expressions and characters as Python's re and str have them, for rules that are defined by a Python program.
#ifndef EVAL_MATCHES_H
#define EVAL_MATCHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

// For sets: \s and \w of a str pattern. (\d is \p{Nd} in both.)
#define PYTHON_SPACES "\\x{9}-\\x{d}\\x{1c}-\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define PYTHON_WORD "\\p{L}\\p{N}_"

typedef struct Text {
  const char *data;  // valid UTF-8; not necessarily ended by a NUL
  size_t length;
} Text;

Text text_of(const char *string);
Text text_part(Text text, size_t begin, size_t end);
Text text_stripped(Text text);  // str.strip()
Text text_stripped_of(Text text, const char *characters, bool left, bool right);  // of ASCII characters, as str.strip(characters)
bool text_is_blank(Text text);
bool text_has(Text text, const char *part);
bool text_begins(Text text, Text start);
bool text_ends(Text text, Text end);
bool text_equal(Text a, Text b);
void text_lower(Buffer *out, Text text);  // appends str.lower(), but for the last sigma of a word

typedef enum MatchFlags { MATCH_MULTILINE = 1, MATCH_IGNORE_CASE = 2 } MatchFlags;
enum { MATCH_GROUPS = 3 };  // the whole, and two of its groups

typedef struct Match {
  Text groups[MATCH_GROUPS];  // data NULL: the group took no part
  size_t begin, end;
} Match;

typedef struct MatchList {
  Match *items;
  int64_t count, capacity;
} MatchList;

// re.finditer: appends every match. STATUS_BAD_INPUT when `expression` is none, STATUS_FAILED when it takes too long on this text.
Status matches_find(MatchList *out, const char *expression, int flags, Text text);
Status matches_count(int64_t *out, const char *expression, int flags, Text text);
void match_list_release(MatchList *list);
// The text between matches (re.split, of an expression without groups): part i of count + 1.
Text match_part(const MatchList *matches, Text text, int64_t index);

#endif
