// The Alpaca family: a prompt made of a row's fields by format strings, masked, and a reply, tokenised on
// its own, trained with EOS behind it.
//   prompt = system_format{system} + turn_format{instruction, input}          with an input
//   prompt = system_format{system} + turn_no_input_format{instruction}        without
// Formats are Python's: {name} stands for a field, {{ and }} for braces. `type` as a mapping gives its own.
#include <stdio.h>
#include <string.h>

#include "data/prompt/prompt.h"

// Where a row's texts are, and the words around them.
typedef struct AlpacaFields {
  const char *instruction, *input, *output;  // input NULL: none
  const char *system;  // a field of the row; NULL: the form's sentences
  const char *output_prefix;
  bool input_is_choices;  // a list, printed as lines of - "choice"
} AlpacaFields;

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
} AlpacaForm;

#define INSTRUCT_TURN "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
#define INSTRUCT_TURN_NO_INPUT "### Instruction:\n{instruction}\n\n### Response:\n"

static const AlpacaStyle styles[] = {
    {"instruct", "{system}\n\n", INSTRUCT_TURN, INSTRUCT_TURN_NO_INPUT},
    {"chat", "SYSTEM: {system}\n", "USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:"},
    {"chatml", "<|im_start|>system\n{system}<|im_end|>\n", "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"},
    {"phi", "<|system|>\n{system}<|end|>\n", "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
     "<|user|>\n{instruction}<|end|>\n<|assistant|>\n"},
};
enum { STYLE_INSTRUCT, STYLE_CHAT, STYLE_CHATML, STYLE_PHI, STYLE_COUNT };

static const AlpacaStyle style_concise_choice = {"", "{system}",
                                                 "USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:"};
static const AlpacaStyle style_summarize = {"", "{system}",
                                            "USER: Summarize the following article as a TL;DR.\n{instruction}\n{input}\nASSISTANT:",
                                            "USER: Summarize the following article as a TL;DR.\n{instruction}\nASSISTANT:"};
static const AlpacaStyle style_row_system = {"", "### System:\n{system}\n\n", INSTRUCT_TURN, INSTRUCT_TURN_NO_INPUT};
static const AlpacaStyle style_open_orca = {"", "### System:\n{system}\n",
                                            "### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n",
                                            "### Human:\n{instruction}\n### Assistant:\n"};

static const AlpacaSystem system_alpaca = {
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."};
// These two end in an empty line of their own, before the style's.
static const AlpacaSystem system_chat = {
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. The ASSISTANT "
    "writes a response that concisely and appropriately completes the request.\n\n",
    "Below is an instruction from a USER that describes a task. The ASSISTANT writes a response that appropriately and concisely "
    "completes the request.\n\n"};
static const AlpacaSystem system_none = {"", ""};
static const AlpacaSystem system_explain = {"Choose the answer that best answers the question. Explain your reasoning.\n",
                                            "Choose the answer that best answers the question. Explain your reasoning.\n"};
static const AlpacaSystem system_concise = {"Choose the answer that best answers the question. Be concise in your response.\n\n",
                                            "Choose the answer that best answers the question. Be concise in your response.\n\n"};

static const AlpacaFields fields_alpaca = {"instruction", "input", "output", NULL, "", false};

// Replaces {name} by the values of names[], and {{ and }} by braces; false with *unknown set at any other name.
static bool format_expand(Buffer *out, const char *format, const char *const *names, const char *const *values, const size_t *lengths,
                          int count, char unknown[64]) {
  for (const char *p = format; *p; p++) {
    if ((*p == '{' || *p == '}') && p[1] == *p) {
      buffer_append(out, p++, 1);
      continue;
    }
    size_t length = *p == '{' ? strcspn(p + 1, "{}") : 0;
    if (*p != '{' || p[length + 1] != '}') {
      buffer_append(out, p, 1);
      continue;
    }
    int found = -1;
    for (int i = 0; i < count; i++)
      if (strlen(names[i]) == length && memcmp(names[i], p + 1, length) == 0) found = i;
    if (found < 0) {
      snprintf(unknown, 64, "%.*s", (int)length, p + 1);
      return false;
    }
    buffer_append(out, values[found], lengths[found]);
    p += length + 1;
  }
  return true;
}

enum { NAME_INSTRUCTION, NAME_INPUT, NAME_SYSTEM, NAME_COUNT };
static const char *const format_names[NAME_COUNT] = {"instruction", "input", "system"};

static Status check_format(const char *key, const char *format) {
  const char *values[NAME_COUNT] = {"", "", ""};
  size_t lengths[NAME_COUNT] = {0};
  char unknown[64];
  Buffer scratch = {0};
  bool good = format_expand(&scratch, format, format_names, values, lengths, NAME_COUNT, unknown);
  buffer_release(&scratch);
  if (good) return STATUS_OK;
  return status_fail(STATUS_USAGE, "%s: {%s} is none of {instruction}, {input}, {system}; write {{ and }} for braces", key, unknown);
}

static Status open_form(Prompt *prompt, AlpacaFields fields, AlpacaStyle style, AlpacaSystem system) {
  AlpacaForm *form = memory_new(1, sizeof *form);
  *form = (AlpacaForm){fields, style, system};
  prompt->state = form;
  return prompt_need_eos(prompt);
}

static Status refuse_variant(const Prompt *prompt, const char *known) {
  return status_fail(STATUS_USAGE, "type: %s has no variant \"%s\"; there are: %s", prompt->strategy->type, prompt->variant, known);
}

// The style named behind the type's ':'; `otherwise` without one.
static Status open_styled(Prompt *prompt, AlpacaFields fields, AlpacaSystem system, int otherwise) {
  int style = *prompt->variant ? -1 : otherwise;
  for (int i = 0; i < STYLE_COUNT; i++)
    if (strcmp(prompt->variant, styles[i].name) == 0) style = i;
  if (style < 0) return refuse_variant(prompt, "instruct, chat, chatml, phi");
  return open_form(prompt, fields, styles[style], system);
}

static Status open_alpaca(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_styled(prompt, fields_alpaca, system_alpaca, STYLE_INSTRUCT);
}

static Status open_jeopardy(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_styled(prompt, (AlpacaFields){"question", "category", "answer", NULL, "what is ", false}, system_alpaca, STYLE_INSTRUCT);
}

static Status open_oasst(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_styled(prompt, (AlpacaFields){"INSTRUCTION", NULL, "RESPONSE", NULL, "", false}, system_alpaca, STYLE_INSTRUCT);
}

static Status open_gpteacher(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_styled(prompt, (AlpacaFields){"instruction", "input", "response", NULL, "", false}, system_alpaca, STYLE_INSTRUCT);
}

static Status open_summarize(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_form(prompt, (AlpacaFields){"article", NULL, "summary", NULL, "", false}, style_summarize, system_none);
}

static Status open_explain(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_styled(prompt, (AlpacaFields){"question", "choices", "explanation", NULL, "", true}, system_explain, STYLE_INSTRUCT);
}

static Status open_concise(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_form(prompt, (AlpacaFields){"question", "choices", "explanation", NULL, "", true}, style_concise_choice, system_concise);
}

static Status open_chat(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  const char *variant = prompt->variant;
  AlpacaFields fields = fields_alpaca;
  AlpacaSystem system = system_chat;
  if (!*variant || strcmp(variant, "load") == 0) system = system_alpaca;
  else if (strcmp(variant, "load_qa") == 0) fields = (AlpacaFields){"question", NULL, "answer", NULL, "", false};
  else if (strcmp(variant, "load_camel_ai") == 0) fields = (AlpacaFields){"message_1", NULL, "message_2", NULL, "", false};
  else if (strcmp(variant, "load_no_prompt") == 0) system = system_none;
  else if (strcmp(variant, "load_concise") != 0)
    return refuse_variant(prompt, "load, load_concise, load_qa, load_camel_ai, load_no_prompt");
  return open_form(prompt, fields, styles[STYLE_CHAT], system);
}

static Status open_instruct(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  bool none = strcmp(prompt->variant, "load_no_prompt") == 0;
  if (*prompt->variant && !none && strcmp(prompt->variant, "load") != 0) return refuse_variant(prompt, "load, load_no_prompt");
  return open_form(prompt, fields_alpaca, styles[STYLE_INSTRUCT], none ? system_none : system_alpaca);
}

static Status open_with_system(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  const char *variant = prompt->variant;
  AlpacaFields own = {"instruction", "input", "output", "system", "", false};
  AlpacaFields orca = {"question", NULL, "response", "system_prompt", "", false};
  if (!*variant || strcmp(variant, "load") == 0 || strcmp(variant, "load_chat") == 0)
    return open_form(prompt, own, styles[STYLE_CHAT], system_none);
  if (strcmp(variant, "load_instruct") == 0) return open_form(prompt, own, style_row_system, system_none);
  if (strcmp(variant, "load_open_orca") == 0) return open_form(prompt, orca, style_open_orca, system_none);
  if (strcmp(variant, "load_open_orca_chatml") == 0) return open_form(prompt, orca, styles[STYLE_CHATML], system_none);
  return refuse_variant(prompt, "load, load_chat, load_instruct, load_open_orca, load_open_orca_chatml");
}

static const char *given(const char *value, const char *otherwise) { return value ? value : otherwise; }

static Status open_mapping(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)recipe;
  AlpacaFields fields = {given(dataset->field_instruction, "instruction"),
                         given(dataset->field_input, "input"),
                         given(dataset->field_output, "output"),
                         given(dataset->field_system, "system"),
                         "",
                         false};
  AlpacaStyle style = {"", given(dataset->system_format, "{system}"), given(dataset->format, "{instruction} {input} "), NULL};
  style.turn_no_input_format = given(dataset->no_input_format, given(dataset->format, "{instruction} "));
  TRY(check_format("format", style.turn_format));
  TRY(check_format("no_input_format", style.turn_no_input_format));
  TRY(check_format("system_format", style.system_format));
  const char *system = given(dataset->system_prompt, "");
  return open_form(prompt, fields, style, (AlpacaSystem){system, system});
}

static Status read_choices(Buffer *out, const json_t *row, const char *field) {
  const json_t *choices = json_object_get(row, field);
  if (!choices) return row_missing(row, field);
  for (size_t i = 0; i < json_array_size(choices); i++) {
    const char *choice = json_string_value(json_array_get(choices, i));
    if (!choice) return status_fail(STATUS_BAD_INPUT, "%s[%zu] is not text", field, i);
    buffer_format(out, "%s- \"%s\"", i ? "\n" : "", choice);
  }
  return STATUS_OK;
}

// Multiple choice rows name their reply "solution" or "explanation".
static const char *output_field(const AlpacaForm *form, const json_t *row) {
  return form->fields.input_is_choices && json_object_get(row, "solution") ? "solution" : form->fields.output;
}

static Status build_prompt(Buffer *out, const AlpacaForm *form, const json_t *row, Buffer *choices) {
  const char *values[NAME_COUNT] = {"", "", ""};
  size_t lengths[NAME_COUNT] = {0};
  char unknown[64];
  const AlpacaFields *fields = &form->fields;
  TRY(row_text(&values[NAME_INSTRUCTION], &lengths[NAME_INSTRUCTION], row, fields->instruction));
  if (fields->input_is_choices) {
    TRY(read_choices(choices, row, fields->input));
    values[NAME_INPUT] = choices->length ? choices->data : "";
    lengths[NAME_INPUT] = choices->length;
  } else if (fields->input) {
    TRY(row_optional_text(&values[NAME_INPUT], &lengths[NAME_INPUT], row, fields->input));
  }
  bool has_input = lengths[NAME_INPUT] > 0;
  if (fields->system) TRY(row_optional_text(&values[NAME_SYSTEM], &lengths[NAME_SYSTEM], row, fields->system));
  if (!lengths[NAME_SYSTEM]) {
    values[NAME_SYSTEM] = has_input ? form->system.with_input : form->system.without_input;
    lengths[NAME_SYSTEM] = strlen(values[NAME_SYSTEM]);
  }
  // Formats were checked when the strategy was opened: no name is unknown here.
  if (lengths[NAME_SYSTEM]) format_expand(out, form->style.system_format, format_names, values, lengths, NAME_COUNT, unknown);
  const char *turn = has_input ? form->style.turn_format : form->style.turn_no_input_format;
  format_expand(out, turn, format_names, values, lengths, NAME_COUNT, unknown);
  return STATUS_OK;
}

static Status encode_parts(EncodedRow *out, const Prompt *prompt, const json_t *row, const Buffer *text) {
  const AlpacaForm *form = prompt->state;
  const char *output;
  size_t length;
  TRY(row_text(&output, &length, row, output_field(form, row)));
  TRY(encode_text(out, prompt, text->length ? text->data : "", text->length, true, prompt->train_on_inputs));
  int64_t begin = out->ids.count;
  Buffer reply = {0};
  buffer_append_string(&reply, form->fields.output_prefix);
  buffer_append(&reply, output, length);
  Status status = encode_text(out, prompt, reply.data, reply.length, false, true);
  buffer_release(&reply);
  TRY(status);
  encode_eos(out, prompt, begin);
  encode_end(out);
  return STATUS_OK;
}

static Status alpaca_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  Buffer text = {0}, choices = {0};
  Status status = build_prompt(&text, prompt->state, row, &choices);
  if (status == STATUS_OK) status = encode_parts(out, prompt, row, &text);
  buffer_release(&text);
  buffer_release(&choices);
  return status;
}

const PromptStrategy prompt_alpaca = {"alpaca", open_alpaca, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_chat = {"alpaca_chat", open_chat, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_instruct = {"alpaca_instruct", open_instruct, alpaca_encode, NULL};
const PromptStrategy prompt_alpaca_w_system = {"alpaca_w_system", open_with_system, alpaca_encode, NULL};
const PromptStrategy prompt_jeopardy = {"jeopardy", open_jeopardy, alpaca_encode, NULL};
const PromptStrategy prompt_oasst = {"oasst", open_oasst, alpaca_encode, NULL};
const PromptStrategy prompt_gpteacher = {"gpteacher", open_gpteacher, alpaca_encode, NULL};
const PromptStrategy prompt_summarizetldr = {"summarizetldr", open_summarize, alpaca_encode, NULL};
const PromptStrategy prompt_explainchoice = {"explainchoice", open_explain, alpaca_encode, NULL};
const PromptStrategy prompt_concisechoice = {"concisechoice", open_concise, alpaca_encode, NULL};
const PromptStrategy prompt_mapping = {"(mapping)", open_mapping, alpaca_encode, NULL};
