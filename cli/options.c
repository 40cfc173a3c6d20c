// Reads `--key value`, `--key=value` and positional arguments by a table of options.
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "core/text.h"

enum { SHARED_OPTIONS = 5 };

static const char *const device_option = "device";

// The options of every command, bound to `arguments`.
static void shared_options(Option options[SHARED_OPTIONS], Arguments *arguments) {
  const Option shared[SHARED_OPTIONS] = {
      {.name = "json", .kind = OPTION_FLAG, .value = &arguments->json, .help = "print what there is to read by program as JSON"},
      {.name = "threads",
       .kind = OPTION_INTEGER,
       .value = &arguments->threads,
       .argument = "N",
       .help = "threads to use (default: all processors)",
       .min = 1,
       .max = 4096},
      {.name = device_option,
       .kind = OPTION_STRING,
       .value = &arguments->device,
       .argument = "D",
       .help = "cpu, cuda or cuda:N (default: cpu)"},
      {.name = "quiet", .kind = OPTION_FLAG, .value = &arguments->quiet, .help = "no progress and no notices on stderr"},
      {.name = "help", .kind = OPTION_FLAG, .value = &arguments->help, .help = "print this"},
  };
  memcpy(options, shared, sizeof shared);
}

static void print_option(const Option *option) {
  char name[80];
  bool optional = option->kind == OPTION_OPTIONAL_STRING;
  snprintf(name, sizeof name, "--%s%s%s%s", option->name,
           optional           ? " ["
           : option->argument ? " "
                              : "",
           option->argument ? option->argument : "", optional ? "]" : "");
  printf("  %-24s %s%s\n", name, option->help, option->kind == OPTION_STRINGS ? " (may be repeated)" : "");
}

static void print_help(const CommandLine *line, const Option *shared) {
  printf("usage: lora %s %s\n\n%s\n\n", line->name, line->usage, line->summary);
  if (line->option_count) printf("options:\n");
  for (int i = 0; i < line->option_count; i++) print_option(&line->options[i]);
  if (line->takes_overrides) printf("  %-24s %s\n", "--KEY VALUE", "any recipe key, nested ones with dots: --datasets.0.path rows.jsonl");
  printf("%soptions of every command:\n", line->option_count ? "\n" : "");
  for (int i = 0; i < SHARED_OPTIONS; i++) print_option(&shared[i]);
}

static const Option *find_option(const CommandLine *line, const Option *shared, const char *name, size_t length) {
  for (int i = 0; i < line->option_count + SHARED_OPTIONS; i++) {
    const Option *option = i < line->option_count ? &line->options[i] : &shared[i - line->option_count];
    if (strlen(option->name) == length && memcmp(option->name, name, length) == 0) return option;
  }
  return NULL;
}

static Status fail_unknown(const CommandLine *line, const Option *shared, const char *name) {
  int count = line->option_count + SHARED_OPTIONS;
  const char **names = memory_new((size_t)count, sizeof *names);
  for (int i = 0; i < count; i++) names[i] = i < line->option_count ? line->options[i].name : shared[i - line->option_count].name;
  const char *nearest = nearest_name(name, names, count);
  free(names);
  if (nearest) return status_fail(STATUS_USAGE, "%s: unknown option --%s; did you mean --%s?", line->name, name, nearest);
  return status_fail(STATUS_USAGE, "%s: unknown option --%s; `lora %s --help` lists them", line->name, name, line->name);
}

static Status check_range(const CommandLine *line, const Option *option, double value, const char *text) {
  if ((option->min == 0 && option->max == 0) || (value >= option->min && value <= option->max)) return STATUS_OK;
  return status_fail(STATUS_USAGE, "%s: --%s %s is out of range; give a value from %g to %g", line->name, option->name, text, option->min,
                     option->max);
}

static Status set_value(const CommandLine *line, const Option *option, const char *text) {
  char *end;
  errno = 0;
  switch (option->kind) {
    case OPTION_FLAG: *(bool *)option->value = true; return STATUS_OK;
    case OPTION_STRING:
    case OPTION_OPTIONAL_STRING: *(const char **)option->value = text; return STATUS_OK;
    case OPTION_STRINGS: {
      ArgumentList *list = option->value;
      ARRAY_PUSH(list->items, list->count, list->capacity) = text;
      return STATUS_OK;
    }
    case OPTION_INTEGER: {
      long long value = strtoll(text, &end, 10);
      if (errno || end == text || *end)
        return status_fail(STATUS_USAGE, "%s: --%s takes a whole number, not \"%s\"", line->name, option->name, text);
      TRY(check_range(line, option, (double)value, text));
      *(int64_t *)option->value = value;
      return STATUS_OK;
    }
    case OPTION_FLOAT: {
      double value = strtod(text, &end);
      if (end == text || *end || !isfinite(value))
        return status_fail(STATUS_USAGE, "%s: --%s takes a number, not \"%s\"", line->name, option->name, text);
      TRY(check_range(line, option, value, text));
      *(double *)option->value = value;
      return STATUS_OK;
    }
  }
  return STATUS_OK;
}

static void add_override(Arguments *arguments, const char *key, size_t length, const char *value) {
  char *copy = memory_new(length + 1, 1);
  memcpy(copy, key, length);
  ARRAY_PUSH(arguments->owned, arguments->owned_count, arguments->owned_capacity) = copy;
  ARRAY_PUSH(arguments->overrides, arguments->override_count, arguments->override_capacity) = (RecipeOverride){copy, value};
}

// Reads the option at argv[*index], and its value behind it; leaves *index on the last word taken.
static Status parse_option(Arguments *arguments, const CommandLine *line, const Option *shared, int argc, char **argv, int *index) {
  const char *name = argv[*index] + 2, *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  const Option *option = find_option(line, shared, name, length);
  if (!option && (!line->takes_overrides || length == 0)) return fail_unknown(line, shared, name);
  if (option && option->kind == OPTION_FLAG) {
    if (equals) return status_fail(STATUS_USAGE, "%s: --%s takes no value", line->name, option->name);
    return set_value(line, option, NULL);
  }
  const char *value = equals ? equals + 1 : NULL;
  bool follows = *index + 1 < argc && !text_starts_with(argv[*index + 1], "--");
  if (!value && follows) value = argv[++*index];
  if (!value && option && option->kind == OPTION_OPTIONAL_STRING) value = "";
  if (!value) return status_fail(STATUS_USAGE, "%s: --%.*s needs a value: --%.*s=VALUE", line->name, (int)length, name, (int)length, name);
  if (option) TRY(set_value(line, option, value));
  if (line->takes_overrides && (!option || option->name == device_option)) add_override(arguments, name, length, value);
  return STATUS_OK;
}

static Status parse_words(Arguments *arguments, const CommandLine *line, const Option *shared, int argc, char **argv) {
  bool options_ended = false;
  for (int i = 1; i < argc; i++) {
    if (!options_ended && strcmp(argv[i], "--") == 0) options_ended = true;
    else if (!options_ended && strcmp(argv[i], "-h") == 0) arguments->help = true;
    else if (!options_ended && text_starts_with(argv[i], "--")) TRY(parse_option(arguments, line, shared, argc, argv, &i));
    else ARRAY_PUSH(arguments->positional.items, arguments->positional.count, arguments->positional.capacity) = argv[i];
  }
  return STATUS_OK;
}

Status options_parse(Arguments *arguments, const CommandLine *line, int argc, char **argv) {
  *arguments = (Arguments){0};
  Option shared[SHARED_OPTIONS];
  shared_options(shared, arguments);
  TRY(parse_words(arguments, line, shared, argc, argv));
  if (arguments->help) {
    print_help(line, shared);
    return STATUS_OK;
  }
  if (arguments->quiet) log_set_quiet(true);
  int count = arguments->positional.count;
  if (count < line->min_positional)
    return status_fail(STATUS_USAGE, "%s: %s is missing; usage: lora %s %s", line->name, line->positional, line->name, line->usage);
  if (line->max_positional >= 0 && count > line->max_positional)
    return status_fail(STATUS_USAGE, "%s: unexpected argument \"%s\"; usage: lora %s %s", line->name,
                       arguments->positional.items[line->max_positional], line->name, line->usage);
  return STATUS_OK;
}

void arguments_release(Arguments *arguments) {
  for (int i = 0; i < arguments->owned_count; i++) free(arguments->owned[i]);
  free(arguments->owned);
  free(arguments->overrides);
  free(arguments->positional.items);
  *arguments = (Arguments){0};
}
