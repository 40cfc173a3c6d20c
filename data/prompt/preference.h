// The parts of the strategies of preference training (`rl`), for data/prompt/preference*.c alone.
//   row -> a prompt, as text, and the same with each reply behind it   (preference_text.c, preference_chat.c)
//       -> tokens: prompt, reply, reply                                 (preference.c)
// Types, fields and forms are Axolotl 0.18's, and the tokens those that TRL 1.16 makes of its texts.
#ifndef DATA_PROMPT_PREFERENCE_H
#define DATA_PROMPT_PREFERENCE_H

#include "data/prompt/prompt.h"

enum { REPLY_BETTER, REPLY_WORSE, REPLIES };  // KTO has the first alone

typedef struct PreferenceTexts {
  Buffer prompt;  // as it stands before any reply
  Buffer whole[REPLIES];  // the prompt with a reply behind it; of an empty reply the prompt alone
  // Of texts: BOS where the model adds one, and EOS behind a reply that does not end in it. A conversation that is rendered whole has both
  // from its template, or not at all.
  bool adds_bos, adds_eos;
} PreferenceTexts;

void preference_texts_release(PreferenceTexts *texts);

// Appends the tokens of the texts. Each is tokenised whole, as the tokens at the border may be others than apart, and the prompt ends
// where they begin to differ from those of the prompt alone: so what follows it is what a model would have to write. Where tokens melt
// over the border, the prompt is shorter than alone, by the same tokens for both replies.
Status preference_encode(EncodedRow *out, const Prompt *prompt, const PreferenceTexts *texts);

// KTO's mark of a row: true (or 1) is a reply to move towards. STATUS_BAD_INPUT where the row has none.
Status preference_label(EncodedRow *out, const json_t *row, const char *field);

// Rows of conversations: the prompt's and the replies' messages by the row's own names.
typedef struct PreferenceTurns {
  json_t *prompt, *replies[REPLIES];  // new lists
} PreferenceTurns;

void preference_turns_release(PreferenceTurns *turns);

// Encodes conversations of TRL's form, for a strategy whose state begins with a ChatPrompt: the template prints each reply with the prompt,
// and all behind that is the reply.
Status preference_encode_turns(EncodedRow *out, const Prompt *prompt, const json_t *row, const PreferenceTurns *turns);

extern const PromptStrategy preference_plain, preference_chat, preference_orpo_chat, preference_chatml, preference_llama3,
    preference_zephyr, preference_user_defined;

#endif
