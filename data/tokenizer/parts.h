// The parts of a tokenizer, for data/tokenizer/ alone; everybody else includes data/tokenizer/tokenizer.h.
//
//   text -> added tokens out of the raw text      (match.c)
//        -> normalisation of what is between      (normalize.c)
//        -> added tokens out of the normal text   (match.c)
//        -> words, by a list of stages            (split.c)
//        -> each word to ids by the model         (words.c, bpe.c; the merges of SentencePiece from spm.c)
//
// This order is that of Hugging Face's tokenizers library (tokenizers/src/tokenizer/added_vocabulary.rs, pre_tokenizer.rs).
#ifndef DATA_TOKENIZER_PARTS_H
#define DATA_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <pthread.h>

#include "core/map.h"
#include "data/tokenizer/pair_table.h"
#include "data/tokenizer/tokenizer.h"

// U+2581, which SentencePiece and its like write for a space.
#define SPACE_TEXT "\xE2\x96\x81"

// GGUF's numbers (tokenizer.ggml.token_type).
typedef enum TokenType {
  TOKEN_NORMAL = 1,
  TOKEN_UNKNOWN,
  TOKEN_CONTROL,
  TOKEN_USER_DEFINED,
  TOKEN_UNUSED,
  TOKEN_BYTE,
} TokenType;

typedef struct Token {
  const char *text;  // NUL-terminated, in the tokenizer's arena; NULL in a hole of the vocabulary
  uint32_t length;
  uint8_t type;
  bool added, single_word, lstrip, rstrip, normalized;  // the flags of an added token in tokenizer.json
} Token;

// ---- Words to ids ----

typedef enum ModelKind {
  MODEL_BPE_BYTES,  // symbols are the bytes of the word, in GPT-2's alphabet
  MODEL_BPE_CHARACTERS,  // symbols are its characters, or bytes <0xXX> where the vocabulary has no such character
} ModelKind;

// A character that is no token, though tokens contain it: SentencePiece merges it like any other symbol.
typedef struct LooseCharacter {
  char text[4];
  uint8_t length;
} LooseCharacter;

typedef struct MergePair {
  int32_t left, right;
} MergePair;

typedef struct Model {
  ModelKind kind;
  PairTable merges;  // left << 32 | right -> the merge's number
  MergePair *pairs;  // [merge_count] the symbols that it joins
  int32_t *merged;  // [merge_count] the id that the merge makes
  int32_t *ranks;  // [merge_count] which merge goes first; NULL: its number is its rank
  int32_t merge_count;
  LooseCharacter *loose;  // their symbols have the ids from the vocabulary's size on
  size_t loose_count, loose_capacity;
  Map loose_ids;  // text -> index
  int32_t byte_ids[256];  // -1 where the vocabulary has none
  int32_t ascii_ids[128];  // of one-character tokens
  const char *prefix, *suffix;  // of symbols that continue a word, and of the last one; NULL: none
  const char *space;  // U+2581 where a word may be cut before it, else NULL (words.c)
  PairTable space_joins;  // the characters that stand before the space inside a token
  uint32_t longest;  // bytes of the longest token's text
  int32_t unknown;  // -1: characters outside the vocabulary vanish
  bool byte_fallback, fuse_unknown;
  bool merges_stand_ins;  // some merge takes a byte token or the unknown one, which stand for characters that are not in their text
  bool ignore_merges;  // a word that stands in the vocabulary is that token, whatever the merges say
} Model;

// What one encoding needs beside the tokenizer: taken from the tokenizer's pool for a call and put back after it.
enum { STAGES_MAX = 12 };

typedef struct Symbol {
  int32_t id, previous, next;
  int32_t rank;  // of the merge with the next symbol; -1 for none
  int32_t merge;  // its number
} Symbol;

typedef struct Workspace {
  struct Workspace *next;
  Buffer normal, normal_other;  // the normalised text, and its double for the next step
  Buffer rewritten[STAGES_MAX];  // what a rewriting stage made of its piece
  Symbol *symbols;
  size_t symbol_capacity;
  uint64_t *heap;
  size_t heap_count, heap_capacity;
  struct WordCache *cache;
  pcre2_match_data *match;
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
} Workspace;

// ---- Regular expressions ----

// The ranges of Unicode's White_Space, for a set.
#define REGEX_SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

// Unicode's alphabetic characters, marks, decimal digits and connecting punctuation (old versions of PCRE2 have no \p{Alphabetic}).
#define REGEX_WORD "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

Status regex_translate(Buffer *out, const char *pattern);  // from Oniguruma's syntax, which tokenizer.json uses, to PCRE2's
Status regex_compile(pcre2_code **code, const char *pattern);  // translated first
Status regex_compile_plain(pcre2_code **code, const char *pattern);  // as PCRE2 reads it

// The matches of a pattern in a text, one after another; an empty match counts unless it touches the one before.
typedef struct RegexScan {
  const pcre2_code *code;
  const char *pattern, *text;
  size_t length, from, begin, end;  // the match, once there is one
  bool matched;
} RegexScan;

Status regex_next(bool *found, RegexScan *scan, Workspace *workspace);

// ---- Normalisation ----

typedef enum NormalizeKind {
  NORMALIZE_PREPEND,  // `to` comes first, unless the text is empty
  NORMALIZE_REPLACE,  // every `from` becomes `to`
  NORMALIZE_REPLACE_PATTERN,  // every match of `code` becomes `to`
  NORMALIZE_UNICODE,  // one of the four forms
  NORMALIZE_LOWERCASE,  // character by character
  NORMALIZE_STRIP,  // white space at the ends
  NORMALIZE_STRIP_MARKS,  // all marks go
  NORMALIZE_STRIP_NONSPACING,  // nonspacing marks go
  NORMALIZE_CLEAN,  // BERT's: controls go, white space becomes spaces
  NORMALIZE_SPACE_CHINESE,  // BERT's: Chinese characters stand between spaces
  NORMALIZE_NMT,  // SentencePiece's for translation: some controls go, some become spaces
  NORMALIZE_ALPHABET,  // bytes become characters of GPT-2's alphabet
} NormalizeKind;
typedef enum UnicodeForm { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD } UnicodeForm;

typedef struct NormalizeStep {
  NormalizeKind kind;
  UnicodeForm form;
  const char *from, *to;
  pcre2_code *code;
  bool left, right;  // the ends that are stripped
} NormalizeStep;

enum { NORMALIZE_STEPS_MAX = 16, REPLACEMENT_MAX = 256, GROWTH_MAX = 64 };  // so that a hostile file cannot ask for terabytes

// Puts the normal form of valid UTF-8 into workspace->normal. `at_start`: nothing of the segment came before (for prepend).
Status tokenizer_normalize(Workspace *workspace, const NormalizeStep *steps, int count, const char *text, size_t length, bool at_start);

// The kinds of steps that look at each character alone: appends what valid UTF-8 becomes.
void normalize_characters(Buffer *out, const NormalizeStep *step, const char *text, size_t length);

// Appends the text with every `from` (not empty) as `to`.
void append_replaced(Buffer *out, const char *from, const char *to, const char *text, size_t length);

// ---- Added tokens ----

// A trie over the bytes of the tokens. Built once, read by many threads.
typedef struct Matcher {
  PairTable edges;  // node << 8 | byte -> node; the root is 0
  int32_t *ends;  // [nodes] the id of the token that ends here, or -1
  int32_t node_count, node_capacity;
  bool first[256];  // bytes that a token begins with
} Matcher;

typedef struct Match {
  size_t begin, end;
  int32_t id;
} Match;

void matcher_add(Matcher *matcher, const char *text, size_t length, int32_t id);
void matcher_release(Matcher *matcher);
// The leftmost longest token at or after `from`. Flags: TOKENIZE_PARSE_SPECIAL lets control tokens match. False when there is none.
// `from` is the end of the match before: spaces that lstrip takes never reach before it.
bool matcher_find(Match *match, const Matcher *matcher, const Tokenizer *tokenizer, const char *text, size_t length, size_t from,
                  int flags);

// ---- Pre-tokenisation ----

typedef enum StageKind {
  STAGE_SPLIT,  // cuts the text by a pattern
  STAGE_PREFIX_SPACE,  // puts a space before a text that does not begin with one
  STAGE_METASPACE,  // spaces become U+2581, and one may be put first
  STAGE_ALPHABET,  // bytes become characters of GPT-2's alphabet, for stages that cut those
} StageKind;

typedef enum SplitBehavior {
  SPLIT_ISOLATED,
  SPLIT_REMOVED,
  SPLIT_MERGED_WITH_PREVIOUS,
  SPLIT_MERGED_WITH_NEXT,
  SPLIT_CONTIGUOUS
} SplitBehavior;
typedef enum PrependScheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } PrependScheme;

typedef struct Stage {
  StageKind kind;
  SplitBehavior behavior;
  bool invert;  // the matches are the text between the matches of the pattern
  PrependScheme prepend;  // metaspace
  const char *pattern;  // as it was given
  pcre2_code *code;
} Stage;

// Adds a stage that splits by a regular expression in the syntax of Oniguruma (Ruby's), which tokenizer.json uses; what means
// something else in PCRE2 is translated or refused.
Status tokenizer_add_split(Tokenizer *tokenizer, const char *pattern, SplitBehavior behavior, bool invert);
Status tokenizer_add_stage(Tokenizer *tokenizer, Stage stage);
// The same in PCRE2's own syntax.
Status tokenizer_add_plain_split(Tokenizer *tokenizer, const char *pattern, SplitBehavior behavior, bool invert);

// The rules of the vocabularies that a GGUF file names by tokenizer.ggml.pre.
enum { PRE_STEPS_MAX = 6 };

typedef struct PreRule {
  const char *names;  // with a space between
  struct {
    const char *pattern;
    SplitBehavior behavior;
  } steps[PRE_STEPS_MAX];  // each cuts the pieces of the one before
  int alphabet_after;  // the steps from this one on see GPT-2's alphabet of bytes; 0: none does
  bool ignore_merges, adds_bos;
  bool nfc;  // the model's tokenizer normalises texts to NFC first
  bool nfc_left_out;  // but the runtimes of GGUF files agree that they do not
} PreRule;

extern const char pattern_gpt2[], pattern_punctuation[], pattern_lines[];
const PreRule *pre_rule_find(const char *name);  // NULL when we do not know it
const PreRule *pre_rule_at(size_t index);  // NULL behind the last
int pre_rule_steps(const PreRule *rule);
void pre_rule_names(Buffer *out);  // all names, for a message

// Calls `word` for each word of valid UTF-8. `first`: the text begins the input.
typedef Status (*WordFunction)(void *argument, const char *word, size_t length);
Status tokenizer_split(const Tokenizer *tokenizer, Workspace *workspace, const char *text, size_t length, bool first, WordFunction word,
                       void *argument);

// ---- The tokenizer ----

enum { DECODE_STEPS_MAX = 12 };

typedef enum DecodeKind {
  DECODE_ALPHABET,  // a text in GPT-2's alphabet becomes bytes
  DECODE_BYTE_FALLBACK,  // <0xXX> is a byte
  DECODE_REPLACE,  // every `from` becomes `to`
  DECODE_STRIP,  // up to `start` times `from` goes from the beginning, up to `stop` times from the end
} DecodeKind;

typedef struct DecodeStep {
  DecodeKind kind;
  const char *from, *to;
  int32_t start, stop;
  bool whole;  // acts on the joined texts of all tokens, not on each
} DecodeStep;

typedef struct DecodeRule {
  DecodeStep steps[DECODE_STEPS_MAX];
  int count;
  bool fused;  // while it is read: the steps that follow act on the whole
  bool byte_level;  // tokens are in GPT-2's alphabet of bytes
} DecodeRule;

struct Tokenizer {
  Arena arena;
  char *text_next;  // where the next token's text goes, and the room there
  size_t text_room;
  char *source;  // the file or folder, for messages
  Token *tokens;
  int64_t size;
  Map ids;  // text -> id
  Model model;
  NormalizeStep *steps;
  int step_count;
  Matcher raw_matcher, normal_matcher;  // tokens matched before and after normalisation
  bool texts_are_normal;  // those of the latter are stored in normal form
  Stage stages[STAGES_MAX];
  int stage_count;
  DecodeRule decode;
  TokenList prefix, suffix;  // added by TOKENIZE_ADD_SPECIAL
  int32_t bos, eos, pad, eot, unknown;
  TokenList ends;
  char *chat_template;
  pthread_mutex_t pool_lock;
  Workspace *pool;
};

Tokenizer *tokenizer_new(const char *source);
// Sets the text and type of an id below tokenizer->size; refuses a text that another id has.
Status tokenizer_set_token(Tokenizer *tokenizer, int32_t id, const char *text, size_t length, TokenType type);
void tokenizer_fill_tables(Tokenizer *tokenizer);  // after the tokens: the model's ids of bytes and of single characters
// After tokens and merges: added tokens into their matchers, end tokens.
Status tokenizer_finish(Tokenizer *tokenizer);
// After a change of texts: the ids of texts, and the matchers, anew.
Status tokenizer_index(Tokenizer *tokenizer);
void tokenizer_add_end(Tokenizer *tokenizer, int32_t id);
void tokenizer_fill_ends(Tokenizer *tokenizer);  // those that the files name, and those known by their texts
// A merge of the two tokens given as text, the next rank. `place` says where it stands, for the message.
Status tokenizer_add_merge(Tokenizer *tokenizer, const char *left, size_t left_length, const char *right, size_t right_length,
                           int64_t number);

void tokenizer_add_step(Tokenizer *tokenizer, NormalizeStep step);
// Sets up a vocabulary of SentencePiece's kind: characters, a space as U+2581, bytes as <0xXX>. With `prefix` each stretch of text gets a
// space before it, which decoding a whole text drops.
void tokenizer_set_spaces(Tokenizer *tokenizer, bool prefix);

int byte_to_alphabet(char out[4], uint8_t byte);  // GPT-2's character for a byte, as UTF-8; its length
bool alphabet_to_bytes(Buffer *out, const char *text,
                       size_t length);  // false, with `out` as it was, when a character is not of the alphabet
int32_t byte_token_value(const Token *token);  // 0 to 255 for <0xXX>, else -1

// SentencePiece's merges: of two neighbours whose texts together are a token, by that token's score. After the tokens.
Status spm_set_merges(Tokenizer *tokenizer, const float *scores);
// Where words of this vocabulary may be cut before a space without a change of ids. After the merges.
void words_find_cuts(Tokenizer *tokenizer);
// Appends the ids of one word, which may be a whole text, of valid UTF-8.
Status words_encode(TokenList *out, const Tokenizer *tokenizer, Workspace *workspace, const char *word, size_t length);

int32_t model_character_id(const Tokenizer *tokenizer, const char *text, size_t length);  // -1 when there is no such symbol
// Appends the ids of one word of valid UTF-8; and of one byte that is not.
Status model_encode_word(TokenList *out, const Tokenizer *tokenizer, Workspace *workspace, const char *word, size_t length);
void model_encode_byte(TokenList *out, const Tokenizer *tokenizer, uint8_t byte);
void model_reserve_merges(Model *model, size_t count);
void model_release(Model *model);

Workspace *workspace_take(const Tokenizer *tokenizer);
void workspace_put(const Tokenizer *tokenizer, Workspace *workspace);
void workspace_free(Workspace *workspace);

#endif
