// Preference rows of texts, with the marks of a form of chat around them, or with a recipe's own formats:
//   prompt = format{prompt}, or with a system text format_with_system{system, prompt};  reply = reply_format{reply}
// `chatml`, `llama3` and `zephyr` are tables; a `type` as a mapping is one row of such a table.
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "data/prompt/preference.h"

typedef struct TextStyle {
  const char *format, *format_with_system, *reply_format;
} TextStyle;

static const TextStyle chatml = {
    "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
    "{reply}<|im_end|>",
};
static const TextStyle llama3 = {
    "<|start_header_id|>user<|end_header_id|>\n\n{prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{prompt}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{reply}<|eot_id|>",
};
static const TextStyle zephyr = {
    "<|system|>\n</s>\n<|user|>\n{prompt}</s>\n<|assistant|>\n",
    "<|system|>\n</s>\n<|user|>\n{prompt}</s>\n<|assistant|>\n",
    "{reply}",
};

typedef enum ReplyForm {
  REPLY_TEXT,
  REPLY_MESSAGE,  // the second message of a conversation
  REPLY_RANKED,  // answers: [{answer, rank}]: the best two
} ReplyForm;

// Where a row's texts are: each list ends with NULL, and the first name that the row has holds, else the last.
typedef struct TextFields {
  const char *variant;
  bool paired;
  const char *prompt[5];
  bool prompt_is_message;  // the first message of that conversation
  const char *replies[REPLIES][3];
  ReplyForm reply_form;
  const char *system;  // NULL: none
} TextFields;

#define ANY_PROMPT \
  { "prompt", "input", "question", "instruction" }
#define PAIR                   \
  {                            \
    {"chosen"}, { "rejected" } \
  }
#define ANY_PAIR                                                       \
  {                                                                    \
    {"chosen", "chosen_response"}, { "rejected", "rejected_response" } \
  }
#define SINGLE       \
  {                  \
    { "completion" } \
  }

static const TextFields chat_fields[] = {
    {"default", true, ANY_PROMPT, false, ANY_PAIR, REPLY_TEXT, "system"},
    {"argilla", true, ANY_PROMPT, false, ANY_PAIR, REPLY_TEXT, "system"},
    {"argilla_chat", true, {"chosen"}, true, PAIR, REPLY_MESSAGE, NULL},
    {"icr", true, {"input"}, false, PAIR, REPLY_TEXT, "system"},
    {"intel", true, {"question"}, false, PAIR, REPLY_TEXT, "system"},
    {"prompt_pairs", true, {"prompt"}, false, PAIR, REPLY_TEXT, "system"},
    {"ultra", true, {"prompt"}, false, PAIR, REPLY_MESSAGE, "system"},
    {"argilla", false, {"instruction"}, false, SINGLE, REPLY_TEXT, "system"},
    {"argilla_chat", false, {"completion"}, true, SINGLE, REPLY_MESSAGE, NULL},
    {"intel", false, {"question"}, false, SINGLE, REPLY_TEXT, "system"},
    {"prompt_pairs", false, {"prompt"}, false, SINGLE, REPLY_TEXT, "system"},
    {"ultra", false, {"prompt"}, false, SINGLE, REPLY_TEXT, "system"},
};
static const TextFields nectar = {"nectar", true, {"prompt"}, false, {{"answers"}, {"answers"}}, REPLY_RANKED, NULL};

typedef struct TextPrompt {
  Arena arena;  // strings of the recipe
  TextFields fields;
  const char *label;
  const char *format, *format_with_system, *reply_formats[REPLIES];
  const char *reply_names[REPLIES];  // what the formats call a reply
} TextPrompt;

// ---- What the recipe says

static void set_style(TextPrompt *state, const TextStyle *style, const TextFields *fields) {
  *state = (TextPrompt){.fields = *fields,
                        .label = "label",
                        .format = style->format,
                        .format_with_system = style->format_with_system,
                        .reply_formats = {style->reply_format, style->reply_format},
                        .reply_names = {"reply", "reply"}};
}

static Status open_style(Prompt *prompt, const TextStyle *style) {
  TextPrompt *state = prompt->state = memory_new(1, sizeof *state);
  for (size_t i = 0; i < sizeof chat_fields / sizeof *chat_fields; i++)
    if (strcmp(chat_fields[i].variant, prompt->variant) == 0 && chat_fields[i].paired == prompt->paired)
      set_style(state, style, &chat_fields[i]);
  if (!state->format) return status_fail(STATUS_USAGE, "the variant %s is not known", prompt->variant);
  return prompt_need_eos(prompt);
}

static Status chatml_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_style(prompt, &chatml);
}

static Status llama3_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return open_style(prompt, &llama3);
}

static Status zephyr_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  TextPrompt *state = prompt->state = memory_new(1, sizeof *state);
  set_style(state, &zephyr, &nectar);
  log_notice(
      "zephyr.nectar: rank 1 is the best answer, and is held to be better than rank 2; Axolotl takes the two last ranks, the worst "
      "as the better one");
  return prompt_need_eos(prompt);
}

static Status check_format(const char *key, const char *format, const char *const *names, int count) {
  RowText texts[2] = {{.data = ""}, {.data = ""}};
  char unknown[64];
  Buffer scratch = {0};
  bool good = format_expand(&scratch, format, names, texts, count, unknown);
  buffer_release(&scratch);
  if (good) return STATUS_OK;
  const char *other = count > 1 ? "} or {" : "";
  return status_fail(STATUS_USAGE, "%s: {%s} is not {%s%s%s}; write {{ and }} for braces", key, unknown, names[0], other,
                     count > 1 ? names[1] : "");
}

static const char *const prompt_names[] = {"prompt", "system"};

static Status user_defined_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)recipe;
  TextPrompt *state = prompt->state = memory_new(1, sizeof *state);
  Arena *arena = &state->arena;
#define GIVEN(key, otherwise) arena_copy_string(arena, dataset->key && * dataset->key ? dataset->key : (otherwise))
  state->format = state->format_with_system = GIVEN(prompt_format, "{prompt}");
  state->fields = (TextFields){.paired = prompt->paired, .prompt = {GIVEN(field_prompt, "prompt")}};
  if (strstr(state->format, "{system}")) state->fields.system = GIVEN(field_system, "system");
  state->label = GIVEN(field_label, "label");
  TRY(check_format("prompt_format", state->format, prompt_names, 2));
  const char *const keys[] = {prompt->paired ? "chosen_format" : "completion_format", "rejected_format"};
  state->reply_names[REPLY_BETTER] = prompt->paired ? "chosen" : "completion";
  state->reply_names[REPLY_WORSE] = "rejected";
  state->reply_formats[REPLY_BETTER] = prompt->paired ? GIVEN(chosen_format, "{chosen}") : GIVEN(completion_format, "{completion}");
  state->reply_formats[REPLY_WORSE] = GIVEN(rejected_format, "{rejected}");
  state->fields.replies[REPLY_BETTER][0] = prompt->paired ? GIVEN(field_chosen, "chosen") : GIVEN(field_completion, "completion");
  state->fields.replies[REPLY_WORSE][0] = GIVEN(field_rejected, "rejected");
#undef GIVEN
  for (int r = 0; r < (prompt->paired ? REPLIES : 1); r++) TRY(check_format(keys[r], state->reply_formats[r], &state->reply_names[r], 1));
  return prompt_need_eos(prompt);
}

static void text_close(void *pointer) {
  TextPrompt *state = pointer;
  arena_release(&state->arena);
}

// ---- A row

static const char *find_field(const json_t *row, const char *const *names) {
  while (names[1] && !json_object_get(row, names[0])) names++;
  return names[0];
}

static Status read_message(RowText *text, const json_t *row, const char *field, size_t index) {
  const json_t *messages;
  TRY(row_list(&messages, row, field, "messages"));
  const json_t *message = json_array_get(messages, index);
  if (!json_is_object(message)) return status_fail(STATUS_BAD_INPUT, "field \"%s\" has no message %zu", field, index + 1);
  return status_context(row_text(text, message, "content"), "message %zu of \"%s\"", index + 1, field);
}

// The answer of the `place`th lowest rank, from 0; of equal ranks the first stands first.
static Status read_ranked(RowText *text, const json_t *row, const char *field, size_t place) {
  const json_t *answers, *found = NULL;
  TRY(row_list(&answers, row, field, "answers with a rank"));
  for (size_t i = 0; i < json_array_size(answers); i++) {
    const json_t *answer = json_array_get(answers, i), *rank = json_object_get(answer, "rank");
    if (!json_is_number(rank)) return status_fail(STATUS_BAD_INPUT, "answer %zu of \"%s\" has no rank", i + 1, field);
    size_t before = 0;
    for (size_t k = 0; k < json_array_size(answers); k++) {
      double other = json_number_value(json_object_get(json_array_get(answers, k), "rank"));
      before += other < json_number_value(rank) || (k < i && other == json_number_value(rank));
    }
    if (before == place) found = answer;
  }
  if (!found) return status_fail(STATUS_BAD_INPUT, "field \"%s\" has less than %zu answers", field, place + 1);
  return row_text(text, found, "answer");
}

static Status read_prompt(RowText texts[2], const TextFields *fields, const json_t *row) {
  const char *field = find_field(row, fields->prompt);
  texts[1] = (RowText){.data = ""};
  if (fields->system) TRY(row_optional_text(&texts[1], row, fields->system));
  return fields->prompt_is_message ? read_message(&texts[0], row, field, 0) : row_text(&texts[0], row, field);
}

static Status read_reply(RowText *text, const TextFields *fields, const json_t *row, int reply) {
  const char *field = find_field(row, fields->replies[reply]);
  if (fields->reply_form == REPLY_MESSAGE) return read_message(text, row, field, 1);
  return fields->reply_form == REPLY_RANKED ? read_ranked(text, row, field, (size_t)reply) : row_text(text, row, field);
}

static Status print_texts(PreferenceTexts *out, const Prompt *prompt, const json_t *row) {
  const TextPrompt *state = prompt->state;
  RowText texts[2], reply;
  char unknown[64];  // formats were checked when the strategy was opened: no name is unknown here
  TRY(read_prompt(texts, &state->fields, row));
  const char *format = texts[1].length ? state->format_with_system : state->format;
  format_expand(&out->prompt, format, prompt_names, texts, 2, unknown);
  for (int r = 0; r < (prompt->paired ? REPLIES : 1); r++) {
    TRY(read_reply(&reply, &state->fields, row, r));
    buffer_append(&out->whole[r], out->prompt.data, out->prompt.length);
    if (reply.length) format_expand(&out->whole[r], state->reply_formats[r], &state->reply_names[r], &reply, 1, unknown);
  }
  return STATUS_OK;
}

static Status text_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  PreferenceTexts texts = {.adds_bos = true, .adds_eos = true};
  Status status = print_texts(&texts, prompt, row);
  if (status == STATUS_OK) status = preference_encode(out, prompt, &texts);
  if (status == STATUS_OK && !prompt->paired) status = preference_label(out, row, ((const TextPrompt *)prompt->state)->label);
  preference_texts_release(&texts);
  return status;
}

const PromptStrategy preference_chatml = {"chatml", chatml_open, text_encode, text_close};
const PromptStrategy preference_llama3 = {"llama3", llama3_open, text_encode, text_close};
const PromptStrategy preference_zephyr = {"zephyr", zephyr_open, text_encode, text_close};
const PromptStrategy preference_user_defined = {"(mapping)", user_defined_open, text_encode, text_close};
