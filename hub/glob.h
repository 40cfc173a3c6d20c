// Patterns of file names as fsspec and Hugging Face's datasets read them: '*' is any run of characters but '/', "**" also crosses '/', and
// "**/" may be no folder at all; '?' is one character; [abc], [a-z], [!a] one of a set.
#ifndef HUB_GLOB_H
#define HUB_GLOB_H

#include <stdbool.h>

// Takes time by length of pattern times length of name, whatever the pattern.
bool glob_matches(const char *pattern, const char *name);

#endif
