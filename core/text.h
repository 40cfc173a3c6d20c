// Small helpers for names that people type, for UTF-8, and for text as Python sees and writes it, which templates and datasets rely on.
#ifndef CORE_TEXT_H
#define CORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int edit_distance(const char *a, const char *b);  // Levenshtein, transpositions counted as one

// The candidate nearest to `name`, or NULL when none is near enough to be worth a "did you mean".
const char *nearest_name(const char *name, const char *const *candidates, int count);

bool word_is_in(const char *const *words, const char *word);  // `words` ends with NULL
bool text_starts_with(const char *text, const char *prefix);
bool text_ends_with(const char *text, const char *suffix);

// The length of the UTF-8 character at `p` (1 to 4), or 0 when the bytes there are not valid UTF-8.
int utf8_length(const unsigned char *p, size_t available);
// How many characters begin in the bytes: those that do not go on with one.
int64_t utf8_count(const char *text, size_t length);
// Valid UTF-8 throughout; else *offset (may be NULL) is where it breaks.
bool utf8_is_valid(const char *text, size_t length, size_t *offset);
// At least one byte, valid UTF-8, no control characters: a name that can be shown to people.
bool text_is_printable(const char *text, size_t length);

// Bytes of the white space character at `p`, as str.strip() sees it; 0 where there is none.
size_t text_space_length(const char *p, size_t available);
void text_strip(const char **text, size_t *length);  // str.strip()
void text_from_float(char text[40], double value);  // repr(float)

#endif
