// The Alpaca family's parts, for data/prompt/alpaca*.c and reflection.c: what a row of the table of forms says (alpaca_forms.c), and
// the prompt that it makes (alpaca.c).
#ifndef DATA_PROMPT_ALPACA_H
#define DATA_PROMPT_ALPACA_H

#include "data/prompt/prompt.h"

typedef enum InputKind {
  INPUT_OPTIONAL,
  INPUT_NEEDED,
  INPUT_CHOICES,  // a list, printed as lines of - "choice"
} InputKind;

// Where a row's texts are, and what stands beside them.
typedef struct AlpacaFields {
  const char *instruction, *input, *output;  // input NULL: none; output NULL: the prefix is the whole reply
  InputKind input_kind;
  const char *system;  // a field of the row; NULL: the form's sentences
  bool system_needed;
  const char *output_prefix;  // NULL: none
  bool evaluates;  // {evaluation} is the row's scores and critiques as YAML; output NULL: it is the reply too
  int ends;  // how many EOS close the reply; 0 means 1
} AlpacaFields;

// {instruction}, {input}, {system} and {evaluation} stand for texts, {{ and }} for braces.
typedef struct AlpacaStyle {
  const char *name;
  const char *system_format, *turn_format, *turn_no_input_format;
} AlpacaStyle;

typedef struct AlpacaSystem {
  const char *with_input, *without_input;
} AlpacaSystem;

typedef struct AlpacaForm {
  AlpacaFields fields;
  AlpacaStyle style;
  AlpacaSystem system;
  bool output_optional;
} AlpacaForm;

// The form of a type and of what stands behind its ':' or '.'. STATUS_USAGE names the variants that there are.
Status alpaca_find_form(AlpacaForm *form, const char *type, const char *variant);

// Opens any type of the table; the state is an AlpacaForm.
Status alpaca_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe);
// Appends all that stands before the reply.
Status alpaca_build_prompt(Buffer *out, const AlpacaForm *form, const json_t *row);

#endif
