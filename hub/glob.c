// The pattern is read once; beside it goes the set of places in the name that it can have come to.
#include "hub/glob.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

// Whether [..] holds the character; *end: behind the ']'. A '[' without its ']' stands for itself, and *end is NULL.
static bool set_holds(const char **end, const char *set, char character) {
  bool holds = false, inverted = set[1] == '!' || set[1] == '^';
  const char *p = set + 1 + inverted;
  *end = NULL;
  for (const char *first = p; *p && (*p != ']' || p == first); p++) {
    if (p[1] == '-' && p[2] && p[2] != ']') {
      holds |= (unsigned char)*p <= (unsigned char)character && (unsigned char)character <= (unsigned char)p[2];
      p += 2;
    } else {
      holds |= *p == character;
    }
  }
  if (*p == ']') *end = p + 1;
  return holds != inverted && character != '/';
}

// One character of the pattern, or one set: every place moves on by the character there, or is lost.
static const char *step_single(bool *places, const char *pattern, const char *name, size_t length) {
  const char *end = pattern + 1, *behind;
  for (size_t i = length + 1; i-- > 0;) {
    bool fits = i > 0 && (*pattern == '?' ? name[i - 1] != '/' : *pattern == name[i - 1]);
    if (*pattern == '[') {
      bool held = set_holds(&behind, pattern, i > 0 ? name[i - 1] : 0);
      if (behind) fits = i > 0 && held, end = behind;
    }
    places[i] = i > 0 && places[i - 1] && fits;
  }
  return end;
}

static void step_star(bool *places, const char *name, size_t length, bool crosses) {
  for (size_t i = 1; i <= length; i++) places[i] = places[i] || (places[i - 1] && (crosses || name[i - 1] != '/'));
}

static void step_folders(bool *places, const char *name, size_t length) {
  bool seen = places[0];
  for (size_t i = 1; i <= length; i++) {
    bool was = places[i];
    places[i] = was || (seen && name[i - 1] == '/');
    seen = seen || was;
  }
}

bool glob_matches(const char *pattern, const char *name) {
  size_t length = strlen(name);
  bool *places = memory_new(length + 1, sizeof *places);
  places[0] = true;
  for (const char *p = pattern; *p;) {
    bool begins_part = p == pattern || p[-1] == '/';
    if (begins_part && strncmp(p, "**/", 3) == 0) step_folders(places, name, length), p += 3;
    else if (p[0] == '*' && p[1] == '*') step_star(places, name, length, true), p += 2;
    else if (*p == '*') step_star(places, name, length, false), p++;
    else p = step_single(places, p, name, length);
  }
  bool matches = places[length];
  free(places);
  return matches;
}
