// POST /v1/completions: texts that go on from prompts, which may be shown again before them (echo), with log-probabilities of both.
#include <string.h>

#include "runtime/generate.h"
#include "core/text.h"
#include "server/token_json.h"
#include "server/completion.h"
#include "server/routes.h"

// ---- The prompt, shown again

static const TokenList *prompt_of(const Completion *completion, int index) { return &completion->prompts[index / completion->choices]; }

// Without a beginning-of-text token, which the client has not written, or which prints as nothing to most.
static void append_prompt(Buffer *text, const Completion *completion, int index) {
  const Tokenizer *tokenizer = completion->server->served.tokenizer;
  const TokenList *prompt = prompt_of(completion, index);
  int64_t skipped = prompt->count > 0 && prompt->ids[0] == tokenizer_bos(tokenizer);
  tokenizer_decode(text, tokenizer, prompt->ids + skipped, prompt->count - skipped, true);
}

// What the tokens have and the text has not (a beginning-of-text token, a space that the vocabulary puts before every text) is at its
// beginning: offsets begin so much earlier, and at 0.
static void align_offsets(ChanceLists *lists, int64_t characters) {
  int64_t surplus = lists->characters - characters;
  size_t i;
  json_t *offset;
  json_array_foreach(lists->offsets, i, offset) {
    json_int_t moved = json_integer_value(offset) - surplus;
    json_integer_set(offset, moved > 0 ? moved : 0);
  }
  lists->characters = characters;
}

static void add_prompt_chances(ChanceLists *lists, const Completion *completion, int index, const Buffer *text) {
  const Answer *answer = &completion->answers.answers[index];
  const TokenList *prompt = prompt_of(completion, index);
  chance_lists_add(lists, prompt->ids[0], NULL, answer);
  for (int64_t t = 0; t < answer->prompt_tokens; t++) chance_lists_add(lists, answer->tokens[t].id, &answer->tokens[t], answer);
  align_offsets(lists, utf8_count(text->data, text->length));
}

// ---- The objects

// What is new since `told`, which moves on; NULL where there is nothing.
static json_t *new_choice(const Completion *completion, int index, Told *told) {
  const Answer *answer = &completion->answers.answers[index];
  bool echoes = completion->echoes && !told->is_begun;
  int64_t first = told->tokens < answer->prompt_tokens ? answer->prompt_tokens : told->tokens;
  bool has_new = answer->text.length > told->text || (completion->wants_chances && answer->token_count > first);
  // A prompt's log-probabilities are whole when the first token, or the end, has come.
  if (!answer->is_ended && !has_new) return NULL;
  Buffer text = {0};
  buffer_reserve(&text, 1);
  if (echoes) append_prompt(&text, completion, index);
  json_t *chances = json_null();
  if (completion->wants_chances) {
    ChanceLists lists;
    chance_lists_new(&lists, completion->server->served.tokenizer, told->characters);
    if (echoes) add_prompt_chances(&lists, completion, index, &text);
    for (int64_t t = first; t < answer->token_count; t++) chance_lists_add(&lists, answer->tokens[t].id, &answer->tokens[t], answer);
    told->characters = lists.characters;
    chances = chance_lists_object(&lists);
  }
  buffer_append(&text, answer->text.data ? answer->text.data + told->text : "", answer->text.length - told->text);
  told->text = answer->text.length;
  told->tokens = answer->token_count;
  told->is_begun = true;
  json_t *string = json_stringn(text.data, text.length);
  if (!string) string = json_string("");  // a prompt of ids that is no text
  buffer_release(&text);
  return json_pack("{s:o, s:i, s:o, s:s?}", "text", string, "index", index, "logprobs", chances, "finish_reason",
                   answer->is_ended ? completion_finish(answer) : NULL);
}

static json_t *whole_choice(const Completion *completion, int index) {
  Told told = {0};
  return new_choice(completion, index, &told);
}

static void tell(Completion *completion, int index) {
  json_t *choice = new_choice(completion, index, &completion->told[index]);
  if (choice) completion_event(completion, choice);
}

static const CompletionForm form = {.id_prefix = "cmpl-",
                                    .object = "text_completion",
                                    .chunk_object = "text_completion",
                                    .prompt_name = "prompt",
                                    .choice = whole_choice,
                                    .tell = tell};

Status handle_completions(Call *call) {
  Completion *completion;
  Fields *fields = &call->fields;
  const ServedModel *served = &call->server->served;
  TRY(completion_new(&completion, call, &form));
  completion->max_tokens = 16;
  completion->top = -1;
  TRY(fields_integer(&completion->max_tokens, fields, "max_tokens", 0, INT32_MAX));
  TRY(fields_integer(&completion->top, fields, "logprobs", 0, ENGINE_TOP));
  TRY(fields_bool(&completion->echoes, fields, "echo"));
  if (fields_get(fields, "suffix")) return fields_fail(fields, "suffix", "\"suffix\" is not supported: texts are written forwards only");
  completion->wants_chances = completion->top >= 0;
  if (!completion->wants_chances) completion->top = 0;
  // Who measures a prompt asks for one token more, and counts on its entry even where the model would end the text there.
  if (completion->echoes && completion->wants_chances && completion->max_tokens == 1) completion->ignores_end = true;
  TRY(fields_texts(&completion->prompts, &completion->prompt_count, fields, "prompt", served->tokenizer, served->model->config.vocabulary,
                   generate_encode, TEXTS_MOST));
  return completion_answer(completion);
}
