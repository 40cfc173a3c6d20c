// `pygmalion`: {conversations: [{role, value}, ...]}, each turn tokenised on its own behind its marker.
//   system  <|system|>Persona: TEXT     masked; the vocabulary's BOS goes before it
//   human   <|user|> TEXT               masked
//   bot     <|model|> TEXT EOS          trained behind the marker
#include <string.h>

#include "core/text.h"
#include "data/prompt/prompt.h"

static Status pygmalion_open(Prompt *prompt, const DatasetRecipe *dataset, const Recipe *recipe) {
  (void)dataset, (void)recipe;
  return prompt_need_eos(prompt);
}

static Status encode_turn(EncodedRow *out, const Prompt *prompt, const json_t *turn) {
  static const char *const turns[][3] = {{"system", "<|system|>", "Persona: "}, {"human", "<|user|>", " "}, {"bot", "<|model|>", " "}};
  enum { SYSTEM, HUMAN, BOT, TURNS };
  static const char start[] = "\n<START>";
  RowText role, value;
  if (!json_is_object(turn)) return status_fail(STATUS_BAD_INPUT, "it is not an object");
  TRY(row_text(&role, turn, "role"));
  TRY(row_text(&value, turn, "value"));
  int kind = 0;
  while (kind < TURNS && strcmp(turns[kind][0], role.data) != 0) kind++;
  if (kind == TURNS) return status_fail(STATUS_BAD_INPUT, "role \"%s\" is none of system, human, bot", role.data);
  size_t mark = sizeof start - 1;
  if (kind == SYSTEM && value.length >= mark && memcmp(value.data + value.length - mark, start, mark) == 0) value.length -= mark;
  Buffer text = {0};
  buffer_format(&text, "%s%s", turns[kind][1], turns[kind][2]);
  const char *stripped = value.data;
  size_t length = value.length;
  text_strip(&stripped, &length);
  buffer_append(&text, stripped, length);
  Status status = kind == BOT ? encode_behind_mask(out, prompt, &text, strlen(turns[kind][1]), false)
                              : encode_text(out, prompt, text.data, text.length, kind == SYSTEM, false);
  buffer_release(&text);
  return status;
}

static Status pygmalion_encode(EncodedRow *out, const Prompt *prompt, const json_t *row) {
  const json_t *conversation;
  TRY(row_list(&conversation, row, "conversations", "{role, value}"));
  for (size_t i = 0; i < json_array_size(conversation); i++)
    TRY(status_context(encode_turn(out, prompt, json_array_get(conversation, i)), "message %zu", i + 1));
  encode_end(out);
  return STATUS_OK;
}

const PromptStrategy prompt_pygmalion = {"pygmalion", pygmalion_open, pygmalion_encode, NULL};
