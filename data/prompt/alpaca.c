// The Alpaca family: a prompt made of a row's fields by format strings, masked, and a reply, tokenised on
// its own, trained with EOS behind it.
//   prompt = system_format{system} + turn_format{instruction, input}          with an input
//   prompt = system_format{system} + turn_no_input_format{instruction}        without
// Formats are Python's: {name} stands for a field, {{ and }} for braces. `type` as a mapping gives its own.
#include "data/prompt/alpaca.h"

#include <stdio.h>
#include <string.h>

#include "data/prompt/yaml_text.h"

// Those of check_format first: what a recipe's formats may name.
enum { NAME_INSTRUCTION, NAME_INPUT, NAME_SYSTEM, NAME_OF_RECIPES, NAME_EVALUATION = NAME_OF_RECIPES, NAME_COUNT };
static const char *const format_names[NAME_COUNT] = {"instruction", "input", "system", "evaluation"};

// The texts of a row.
typedef struct AlpacaTexts {
  RowText texts[NAME_COUNT];
  Buffer choices, evaluation;  // what input and evaluation may point into
} AlpacaTexts;

static Status check_format(const char *key, const char *format) {
  RowText texts[NAME_OF_RECIPES] = {{.data = ""}, {.data = ""}, {.data = ""}};
  char unknown[64];
  Buffer scratch = {0};
  bool good = format_expand(&scratch, format, format_names, texts, NAME_OF_RECIPES, unknown);
  buffer_release(&scratch);
  if (good) return STATUS_OK;
  return status_fail(STATUS_USAGE, "%s: {%s} is none of {instruction}, {input}, {system}; write {{ and }} for braces", key, unknown);
}

Status alpaca_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  AlpacaForm *form = prompt->state = memory_new(1, sizeof *form);
  TRY(alpaca_find_form(form, prompt->strategy->type, prompt->variant));
  return prompt_need_eos(prompt);
}

static const char *given(const char *value, const char *otherwise) { return value ? value : otherwise; }

// Axolotl prints rows without an input as "{instruction} " where no_input_format is not given, whatever `format` says: the words of
// a recipe that has no use for inputs would be lost.
static Status open_mapping(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)recipe;
  AlpacaForm *form = prompt->state = memory_new(1, sizeof *form);
  const char *system = given(dataset->system_prompt, "");
  form->fields = (AlpacaFields){.instruction = given(dataset->field_instruction, "instruction"),
                                .input = given(dataset->field_input, "input"),
                                .output = given(dataset->field_output, "output"),
                                .system = given(dataset->field_system, "system")};
  form->style = (AlpacaStyle){"", given(dataset->system_format, "{system}"), given(dataset->format, "{instruction} {input} "),
                              given(dataset->no_input_format, given(dataset->format, "{instruction} "))};
  form->system = (AlpacaSystem){system, system};
  form->output_optional = prompt->train_on_inputs;  // rows may then be prompts alone
  TRY(check_format("format", form->style.turn_format));
  TRY(check_format("no_input_format", form->style.turn_no_input_format));
  TRY(check_format("system_format", form->style.system_format));
  return prompt_need_eos(prompt);
}

// ---- A row

static Status read_choices(AlpacaTexts *texts, const json_t *row, const char *field) {
  const json_t *choices;
  TRY(row_list(&choices, row, field, "choices"));
  for (size_t i = 0; i < json_array_size(choices); i++) {
    RowText choice;
    if (!text_of_value(&choice, json_array_get(choices, i))) return status_fail(STATUS_BAD_INPUT, "%s[%zu] is not text", field, i);
    buffer_append_string(&texts->choices, i ? "\n- \"" : "- \"");
    buffer_append(&texts->choices, choice.data, choice.length);
    buffer_append_string(&texts->choices, "\"");
  }
  texts->texts[NAME_INPUT] = (RowText){.data = texts->choices.length ? texts->choices.data : "", .length = texts->choices.length};
  return STATUS_OK;
}

// The row's scores and its critiques, one behind the other.
static Status read_evaluation(AlpacaTexts *texts, const json_t *row) {
  static const char *const fields[] = {"scores", "critiques"};
  for (int i = 0; i < 2; i++) {
    const json_t *value = json_object_get(row, fields[i]);
    if (!value) return row_missing(row, fields[i]);
    if (!json_is_object(value)) return status_fail(STATUS_BAD_INPUT, "field \"%s\" is not an object", fields[i]);
    TRY(status_context(yaml_text(&texts->evaluation, value), "field \"%s\"", fields[i]));
  }
  texts->texts[NAME_EVALUATION] = (RowText){.data = texts->evaluation.data, .length = texts->evaluation.length};
  return STATUS_OK;
}

// A row that has the field says by it what its system text is, also that there is none.
static Status read_system(RowText *text, const AlpacaForm *form, const json_t *row, bool has_input) {
  const char *field = form->fields.system;
  if (field && form->fields.system_needed) return row_text(text, row, field);
  if (field && json_object_get(row, field)) return row_optional_text(text, row, field);
  text->data = has_input ? form->system.with_input : form->system.without_input;
  text->length = strlen(text->data);
  return STATUS_OK;
}

static Status read_texts(AlpacaTexts *texts, const AlpacaForm *form, const json_t *row) {
  const AlpacaFields *fields = &form->fields;
  RowText *input = &texts->texts[NAME_INPUT];
  for (int i = 0; i < NAME_COUNT; i++) texts->texts[i].data = "";
  TRY(row_text(&texts->texts[NAME_INSTRUCTION], row, fields->instruction));
  if (fields->evaluates) TRY(read_evaluation(texts, row));
  if (fields->input_kind == INPUT_CHOICES) TRY(read_choices(texts, row, fields->input));
  else if (fields->input && fields->input_kind == INPUT_NEEDED) TRY(row_text(input, row, fields->input));
  else if (fields->input) TRY(row_optional_text(input, row, fields->input));
  return read_system(&texts->texts[NAME_SYSTEM], form, row, input->length > 0);
}

static void print_prompt(Buffer *out, const AlpacaForm *form, const AlpacaTexts *texts) {
  char unknown[64];  // formats were checked when the strategy was opened: no name is unknown here
  const char *turn = texts->texts[NAME_INPUT].length ? form->style.turn_format : form->style.turn_no_input_format;
  if (texts->texts[NAME_SYSTEM].length) format_expand(out, form->style.system_format, format_names, texts->texts, NAME_COUNT, unknown);
  format_expand(out, turn, format_names, texts->texts, NAME_COUNT, unknown);
}

static void release_texts(AlpacaTexts *texts) {
  buffer_release(&texts->choices);
  buffer_release(&texts->evaluation);
}

Status alpaca_build_prompt(Buffer *out, const AlpacaForm *form, const json_t *row) {
  AlpacaTexts texts = {0};
  Status status = read_texts(&texts, form, row);
  if (status == STATUS_OK) print_prompt(out, form, &texts);
  release_texts(&texts);
  return status;
}

static Status read_reply(Buffer *out, const AlpacaForm *form, const json_t *row, const AlpacaTexts *texts) {
  const AlpacaFields *fields = &form->fields;
  RowText output = {.data = ""};
  // Multiple choice rows name their reply "solution" or "explanation".
  bool solved = fields->input_kind == INPUT_CHOICES && json_object_get(row, "solution");
  if (!fields->output && fields->evaluates) output = texts->texts[NAME_EVALUATION];
  else if (fields->output && form->output_optional) TRY(row_optional_text(&output, row, fields->output));
  else if (fields->output) TRY(row_text(&output, row, solved ? "solution" : fields->output));
  if (fields->output_prefix) buffer_append_string(out, fields->output_prefix);
  buffer_append(out, output.data, output.length);
  return STATUS_OK;
}

// An empty reply teaches nothing, not even where to end: such a row is left untrained, and so dropped and counted.
static Status encode_reply(EncodedRow *out, const Prompt *prompt, const Buffer *reply) {
  const AlpacaForm *form = prompt->state;
  if (!reply->length) return STATUS_OK;
  int64_t begin = out->ids.count;
  TRY(encode_text(out, prompt, reply->data, reply->length, false, true));
  encode_eos(out, prompt, begin);
  for (int i = 1; i < form->fields.ends; i++) {
    token_list_push(&out->ids, tokenizer_eos(prompt->tokenizer));
    encode_labels(out, true);
  }
  return STATUS_OK;
}

static Status alpaca_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const AlpacaForm *form = prompt->state;
  AlpacaTexts texts = {0};
  Buffer text = {0}, reply = {0};
  Status status = read_texts(&texts, form, row);
  if (status == STATUS_OK) status = read_reply(&reply, form, row, &texts);
  if (status == STATUS_OK) {
    print_prompt(&text, form, &texts);
    status = encode_text(out, prompt, text.length ? text.data : "", text.length, true, prompt->train_on_inputs);
  }
  if (status == STATUS_OK) status = encode_reply(out, prompt, &reply);
  if (status == STATUS_OK) encode_end(out);
  buffer_release(&text);
  buffer_release(&reply);
  release_texts(&texts);
  return status;
}

const PromptStrategy prompt_alpaca = {"alpaca", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_chat = {"alpaca_chat", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_instruct = {"alpaca_instruct", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_w_system = {"alpaca_w_system", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_concisechoice = {"concisechoice", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_context_qa = {"context_qa", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_creative_acr = {"creative_acr", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_explainchoice = {"explainchoice", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_gpteacher = {"gpteacher", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_jeopardy = {"jeopardy", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_metharme = {"metharme", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_oasst = {"oasst", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_orcamini = {"orcamini", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_summarizetldr = {"summarizetldr", alpaca_open, alpaca_encode, NULL};
const PromptStrategy prompt_mapping = {"(mapping)", open_mapping, alpaca_encode, NULL};
