// Text to token ids and back, by the vocabulary of a model: GGUF metadata, or a folder's tokenizer.json
// (with tokenizer_config.json beside it).
#ifndef DATA_TOKENIZER_TOKENIZER_H
#define DATA_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"
#include "formats/gguf.h"

typedef struct Tokenizer Tokenizer;

typedef struct TokenList {
  int32_t *ids;
  int64_t count, capacity;
} TokenList;

typedef enum TokenizeFlags {
  TOKENIZE_ADD_SPECIAL = 1,  // BOS and EOS as the model adds them
  TOKENIZE_PARSE_SPECIAL = 2,  // control tokens written in the text become their ids (user-defined ones always do)
} TokenizeFlags;

// A vocabulary or pre-tokenizer that we do not know is refused by name (STATUS_BAD_INPUT), never guessed.
Status tokenizer_from_gguf(Tokenizer **out, const Gguf *gguf);
Status tokenizer_from_folder(Tokenizer **out, const char *folder);
// The bytes of a tokenizer.json alone, without the files beside it: no eos, no chat template. `name` is for messages.
Status tokenizer_from_json(Tokenizer **out, const char *name, const char *text, size_t length);
Status tokenizer_open(Tokenizer **out, const char *model);  // a GGUF file or a folder
// Whether a folder has a file that tokenizer_open reads; of a GGUF file it is taken for granted.
bool tokenizer_is_there(const char *model);
// SHA-256 over all that the tokenizer of a GGUF file or a folder is made from: another hash may mean other ids.
Status tokenizer_fingerprint(char hex[65], const char *model);
void tokenizer_free(Tokenizer *tokenizer);

// Appends to `out`. Invalid UTF-8 is tokenised byte by byte. Safe from several threads at once.
Status tokenizer_encode(TokenList *out, const Tokenizer *tokenizer, const char *text, size_t length, int flags);
// Appends the bytes of the tokens, as a whole text: a space that the vocabulary puts before every text is dropped. Control tokens
// print as their text only with `with_special`.
void tokenizer_decode(Buffer *out, const Tokenizer *tokenizer, const int32_t *ids, int64_t count, bool with_special);
// Appends the bytes of one token as they continue a text: what generation prints, token after token.
void tokenizer_decode_piece(Buffer *out, const Tokenizer *tokenizer, int32_t id, bool with_special);
void token_list_release(TokenList *list);
void token_list_push(TokenList *list, int32_t id);

int64_t tokenizer_size(const Tokenizer *tokenizer);  // ids are 0 .. size-1
int32_t tokenizer_find(const Tokenizer *tokenizer, const char *token);  // the id of a token by its text; -1 when absent
const char *tokenizer_text(const Tokenizer *tokenizer, int32_t id);  // as it stands in the vocabulary; NULL out of range or in a hole
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);  // a control token
int32_t tokenizer_bos(const Tokenizer *tokenizer);  // -1 when there is none; so the next four
int32_t tokenizer_eos(const Tokenizer *tokenizer);
int32_t tokenizer_pad(const Tokenizer *tokenizer);
int32_t tokenizer_unknown(const Tokenizer *tokenizer);
int32_t tokenizer_eot(const Tokenizer *tokenizer);  // end of turn, where the file names one
bool tokenizer_is_end(const Tokenizer *tokenizer, int32_t id);  // EOS, end of turn, or another end-of-generation token
bool tokenizer_adds_bos(const Tokenizer *tokenizer);
const char *tokenizer_chat_template(const Tokenizer *tokenizer);  // NULL when there is none
void tokenizer_set_chat_template(Tokenizer *tokenizer, const char *source);  // in place of the model's own
// Makes `text` (which must be in the vocabulary, else STATUS_USAGE) the token of a role, as a recipe's special_tokens ask: bos, eos, pad,
// unk (each also with _token behind it), or adds a `stop` token. Before the tokenizer is shared between threads.
Status tokenizer_set_special(Tokenizer *tokenizer, const char *role, const char *text);

// What a recipe changes of a vocabulary: other texts for some of its added tokens first, then tokens that it has not yet.
typedef struct TokenChanges {
  const int32_t *ids;  // [override_count]
  const char *const *texts;  // of those ids
  int override_count;
  const char *const *added;  // [added_count]; those that the vocabulary has are passed over
  int added_count;
} TokenChanges;

// New tokens stand behind the last one, as transformers' add_tokens puts AddedToken(text, normalized=False): matched in raw text, no control
// tokens. Before the tokenizer is shared between threads. STATUS_USAGE for an empty text, an id that is no added token, a text that
// another token has, and for a vocabulary that cannot grow.
Status tokenizer_change(Tokenizer *tokenizer, const TokenChanges *changes);
// Writes the tokenizer files of a Hugging Face folder into another one, with the changes in its tokenizer.json. STATUS_USAGE when `from`
// has no tokenizer.json to write them into.
Status tokenizer_copy_folder(const char *to, const char *from, const TokenChanges *changes);

#endif
