#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapters/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

static Status compile(pcre2_code **code, const char *expression, const char *pattern, const char *key) {
  int error;
  PCRE2_SIZE offset;
  *code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_UTF, &error, &offset, NULL);
  if (*code) return STATUS_OK;
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(error, message, sizeof message);
  size_t before = (size_t)(strstr(expression, pattern) - expression);
  return status_fail(STATUS_USAGE, "%s: '%s' is no regular expression: %s at character %zu", key, pattern, (char *)message,
                     offset >= before ? offset - before + 1 : 1);
}

// group: the place in `name` of the group that is called `number`; -1: it is not in the match. NULL: not wanted.
static bool matches(const pcre2_code *code, const char *name, int64_t *group) {
  pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
  int found = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, match, NULL);
  int which = group ? pcre2_substring_number_from_name(code, (PCRE2_SPTR) "number") : -1;
  if (group) *group = found > which && which > 0 ? (int64_t)pcre2_get_ovector_pointer(match)[2 * (size_t)which] : -1;
  pcre2_match_data_free(match);
  return found >= 0;
}

// `before` and `after` stand around the pattern.
static Status match_around(bool *out, int64_t *group, const char *before, const char *pattern, const char *after, const char *name,
                           const char *key) {
  char *expression = memory_format("%s%s%s", before, pattern, after);
  pcre2_code *code;
  Status status = compile(&code, expression, pattern, key);
  free(expression);
  if (status != STATUS_OK) return status;
  *out = matches(code, name, group);
  pcre2_code_free(code);
  return STATUS_OK;
}

Status pattern_matches(bool *out, const char *pattern, const char *name, const char *key) {
  return match_around(out, NULL, "(?:", pattern, ")\\z", name, key);
}

Status pattern_value(double *out, const PatternValue *patterns, int count, double fallback, const char *module, const char *key) {
  *out = fallback;
  for (int i = 0; i < count; i++) {
    bool is_it;
    TRY(match_around(&is_it, NULL, "(?:.*\\.)?(?:", patterns[i].pattern, ")\\z", module, key));
    if (!is_it) continue;
    *out = patterns[i].value;
    return STATUS_OK;
  }
  return STATUS_OK;
}

Status pattern_layer(bool *out, const LayerChoice *choice, const char *module) {
  static const char key[] = "peft_layers_pattern";
  *out = choice->count == 0;
  if (choice->count == 0) return STATUS_OK;
  bool found = false;
  int64_t number = -1;
  if (choice->pattern_count == 0) TRY(match_around(&found, &number, ".*?\\.[^.]*\\.", "(?<number>\\d+)", "\\.", module, key));
  for (int i = 0; i < choice->pattern_count && !found; i++)
    TRY(match_around(&found, &number, "(?:^|.*?\\.)(?:", choice->patterns[i], ")\\.(?<number>\\d+)\\.", module, key));
  if (!found || number < 0) return STATUS_OK;
  int64_t layer = strtoll(module + number, NULL, 10);
  for (int i = 0; i < choice->count; i++) *out |= choice->layers[i] == layer;
  return STATUS_OK;
}
