// Prompt strategies: how a row of a dataset becomes tokens and labels, by the `type` of its dataset.
// A strategy is opened once for a dataset, and is then read-only: rows may be encoded on several threads.
#ifndef DATA_PROMPT_PROMPT_H
#define DATA_PROMPT_PROMPT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "data/rows.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/recipe.h"

typedef struct Prompt Prompt;

// The sequences of one row: one, or several where a long text is cut up.
typedef struct EncodedRow {
  TokenList ids, labels;  // of equal length; all sequences one after another
  int64_t *ends;  // [count] where each sequence ends
  int64_t count, capacity;
  // Of preference training, whose rows are one sequence: as in TokenRow.
  int64_t prompt, rejected;
  bool is_undesirable;
} EncodedRow;

// `tokenizer` may be NULL only for pre-tokenised rows (no `type`). An unknown type is STATUS_USAGE.
Status prompt_open(Prompt **out, const DatasetRecipe *dataset, const Recipe *recipe, const Tokenizer *tokenizer);
void prompt_free(Prompt *prompt);
// A row that lacks what the strategy needs is STATUS_BAD_INPUT; the message says what, not which row.
Status prompt_encode(EncodedRow *out, const Prompt *prompt, const json_t *row);
void encoded_row_clear(EncodedRow *row);
void encoded_row_release(EncodedRow *row);

// ---- What strategies are made of.

typedef struct PromptStrategy {
  const char *type;  // of the recipe, before a ':' or '.'; NULL: rows without a type
  Status (*open)(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe);
  Status (*encode)(EncodedRow *out, const Prompt *prompt, const json_t *row);
  void (*close)(void *state);  // NULL: the state is plain memory
} PromptStrategy;

struct Prompt {
  const PromptStrategy *strategy;
  const Tokenizer *tokenizer;
  void *state;  // the strategy's own, released with the prompt
  const char *variant;  // of the type, behind ':' or '.'; "" without one
  bool train_on_inputs;
  bool paired;  // with `rl`: rows have a better and a worse reply; false for KTO, and without
  int64_t sequence_len;
};

extern const PromptStrategy prompt_alpaca, prompt_alpaca_chat, prompt_alpaca_instruct, prompt_alpaca_w_system, prompt_context_qa,
    prompt_creative_acr, prompt_jeopardy, prompt_metharme, prompt_oasst, prompt_orcamini, prompt_gpteacher, prompt_summarizetldr,
    prompt_explainchoice, prompt_concisechoice, prompt_mapping, prompt_reflection, prompt_completion, prompt_input_output, prompt_messages,
    prompt_pygmalion, prompt_chat_template, prompt_pretokenized;

// With `rl` rows are encoded by strategies of their own (data/prompt/preference.h); this finds the prompt's, and its variant.
// STATUS_USAGE names the types that go with the method.
Status preference_find(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe);

// A value of a row as text. Numbers and booleans are written as Python's str() writes them.
typedef struct RowText {
  const char *data;  // of the row, or `own`: keep this struct where it is
  size_t length;
  char own[40];
} RowText;

// A field of a row. Missing: the message names the field and those that the row has.
Status row_text(RowText *text, const json_t *row, const char *field);
// The same, but "" where it is missing or null.
Status row_optional_text(RowText *text, const json_t *row, const char *field);
bool text_of_value(RowText *text, const json_t *value);  // false: neither text, nor a number, nor a boolean
// A list that a row has to have.
Status row_list(const json_t **list, const json_t *row, const char *field, const char *of_what);
Status row_missing(const json_t *row, const char *field);
// Appends a list of whole numbers, which are 0 .. limit-1, or `masked` (0: no such value).
Status row_integers(TokenList *out, const json_t *row, const char *field, int64_t masked, int64_t limit);

// Appends a Python format: {name} is replaced by the text of that name, {{ and }} by braces; false with unknown[] set at any other name.
bool format_expand(Buffer *out, const char *format, const char *const *names, const RowText *texts, int count, char unknown[64]);

// Appends the tokens of a text, trained or masked. `bos`: the vocabulary's BOS first, where the model adds one and the text has none.
Status encode_text(EncodedRow *out, const Prompt *prompt, const char *text, size_t length, bool bos, bool trained);
// Appends labels for the ids that have none yet.
void encode_labels(EncodedRow *out, bool trained);
// Appends EOS, trained, where the sequence that begins at token `begin` does not end in it.
void encode_eos(EncodedRow *out, const Prompt *prompt, int64_t begin);
// Appends a text, trained, with EOS behind it; as many of its tokens are masked as its first `masked` bytes have on their own.
Status encode_behind_mask(EncodedRow *out, const Prompt *prompt, const Buffer *text, size_t masked, bool bos);
void encode_end(EncodedRow *out);  // ends the present sequence
// Strategies that append EOS need the vocabulary to have one.
Status prompt_need_eos(const Prompt *prompt);

#endif
