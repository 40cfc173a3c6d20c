// A table-driven reader of command lines:
//
//   const char *model = NULL;
//   int64_t tokens = 128;
//   const Option options[] = {
//       {"model", OPTION_STRING, &model, "MODEL", "a GGUF file or a Hugging Face folder"},
//       {"max-tokens", OPTION_INTEGER, &tokens, "N", "how many tokens to write at most", .min = 1, .max = 1e9},
//   };
//   const CommandLine line = {"generate", "--model MODEL ...", "writes text", options, 2, .max_positional = 0};
//   Arguments arguments;
//   Status status = options_parse(&arguments, &line, argc, argv);
//   if (status == STATUS_OK && !arguments.help) status = ...
//   arguments_release(&arguments);
//
// `--key value` and `--key=value`; `--` ends the options. Strings point into argv.
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "recipes/recipe.h"

typedef enum OptionKind {
  OPTION_FLAG,  // bool *
  OPTION_STRING,  // const char **
  OPTION_OPTIONAL_STRING,  // const char **: "" when the option is last or another option follows
  OPTION_STRINGS,  // ArgumentList *: may be repeated
  OPTION_INTEGER,  // int64_t *
  OPTION_FLOAT,  // double *
} OptionKind;

// Strings of argv, in their order; `items` is released by the owner of the list.
typedef struct ArgumentList {
  const char **items;
  int count, capacity;
} ArgumentList;

typedef struct Option {
  const char *name;  // without the dashes
  OptionKind kind;
  void *value;  // by kind; left alone when the option is not given
  const char *argument;  // its value's name in the help; NULL for a flag
  const char *help;
  double min, max;  // of a number, both ends allowed; both 0: any
} Option;

typedef struct CommandLine {
  const char *name;
  const char *usage;  // what follows "lora NAME " in the help's first line
  const char *summary;  // a line or more on what it does
  const Option *options;
  int option_count;
  int min_positional, max_positional;  // max -1: any number
  const char *positional;  // what they are called in messages: "RECIPE"
  bool takes_overrides;  // options that are not in the table are recipe keys; --device is one as well
} CommandLine;

typedef struct Arguments {
  bool help;  // --help was given and has been printed: the command is done
  bool json, quiet;  // quiet is already in force
  int64_t threads;  // 0: as many as the processors that may be used
  const char *device;  // NULL: not given
  ArgumentList positional;
  RecipeOverride *overrides;
  int override_count, override_capacity;
  char **owned;  // override keys cut out of "--key=value"
  int owned_count, owned_capacity;
} Arguments;

// STATUS_USAGE with a message that names the option, and the nearest known one for a misspelt name.
// Fills *arguments in any case; release it in any case.
Status options_parse(Arguments *arguments, const CommandLine *line, int argc, char **argv);
void arguments_release(Arguments *arguments);

#endif
