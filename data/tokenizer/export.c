// A folder's tokenizer -> tokenizer.ggml.* (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer): byte-level BPE whose rule
// for words is among those that GGUF names (tokenizer.ggml.pre); SentencePiece's kind, by scores where that gives the same merges, else
// by its merges as Gemma 4's. export_folder.c is the way back.
#include "data/tokenizer/export.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

bool tokenizer_key_is_exported(const char *key) {
  static const char *const keys[] = {"tokenizer.ggml.model",
                                     "tokenizer.ggml.pre",
                                     "tokenizer.ggml.tokens",
                                     "tokenizer.ggml.token_type",
                                     "tokenizer.ggml.merges",
                                     "tokenizer.ggml.scores",
                                     "tokenizer.ggml.bos_token_id",
                                     "tokenizer.ggml.eos_token_id",
                                     "tokenizer.ggml.unknown_token_id",
                                     "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.add_bos_token",
                                     "tokenizer.ggml.add_eos_token",
                                     "tokenizer.ggml.padding_token_id",
                                     "tokenizer.chat_template",
                                     "tokenizer.ggml.add_space_prefix"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (strcmp(key, keys[i]) == 0) return true;
  return false;
}

// ---- A folder's tokenizer as GGUF keys ----

static bool stages_are(const Tokenizer *tokenizer, const PreRule *rule) {
  int steps = pre_rule_steps(rule), alphabet = rule->alphabet_after;
  if (tokenizer->stage_count != steps + (alphabet != 0)) return false;
  const Stage *stage = tokenizer->stages;
  for (int i = 0; i < steps; i++, stage++) {
    if (alphabet && i == alphabet && (stage++)->kind != STAGE_ALPHABET) return false;
    if (stage->kind != STAGE_SPLIT || stage->invert || stage->behavior != rule->steps[i].behavior) return false;
    if (strcmp(stage->pattern, rule->steps[i].pattern) != 0) return false;
  }
  return true;
}

// GGUF's name for how this tokenizer normalises and cuts text: every part of the rule must be the tokenizer's own.
static Status find_pre(char **name, Tokenizer *tokenizer) {
  const PreRule *rule;
  for (size_t i = 0; (rule = pre_rule_at(i)); i++) {
    bool nfc = tokenizer->step_count == 1 && tokenizer->steps[0].kind == NORMALIZE_UNICODE && tokenizer->steps[0].form == UNICODE_NFC;
    bool normalises_so = rule->nfc ? nfc : tokenizer->step_count == 0;
    if (!tokenizer->decode.byte_level || !normalises_so || tokenizer->model.ignore_merges != rule->ignore_merges) continue;
    if (!stages_are(tokenizer, rule)) continue;
    *name = arena_copy_bytes(&tokenizer->arena, rule->names, strcspn(rule->names, " "));
    return STATUS_OK;
  }
  return status_fail(STATUS_BAD_INPUT,
                     "%s: how this tokenizer cuts words is none of GGUF's pre-tokenizers that are known here; write a Hugging Face folder "
                     "instead of a GGUF (an output that does not end in .gguf)",
                     tokenizer->source);
}

static void put_tokens(GgufWriter *writer, const Tokenizer *tokenizer, int64_t rows) {
  Arena arena = {0};
  GgufString *texts = arena_new(&arena, (size_t)rows, sizeof *texts);
  int32_t *types = arena_new(&arena, (size_t)rows, sizeof *types);
  for (int64_t i = 0; i < rows; i++) {
    const Token *token = i < tokenizer->size ? &tokenizer->tokens[i] : NULL;
    if (token && token->text) {
      texts[i] = (GgufString){token->text, token->length};
      types[i] = token->type;
    } else {
      const char *pad = arena_format(&arena, "[PAD%lld]", (long long)i);
      texts[i] = (GgufString){pad, strlen(pad)};
      types[i] = TOKEN_UNUSED;
    }
  }
  gguf_put_string_array(writer, "tokenizer.ggml.tokens", texts, (uint64_t)rows);
  gguf_put_array(writer, "tokenizer.ggml.token_type", GGUF_INT32, types, (uint64_t)rows);
  arena_release(&arena);
}

static void put_merges(GgufWriter *writer, const Tokenizer *tokenizer) {
  const Model *model = &tokenizer->model;
  Arena arena = {0};
  GgufString *merges = arena_new(&arena, (size_t)model->merge_count + 1, sizeof *merges);
  for (int32_t i = 0; i < model->merge_count; i++) {
    const Token *left = &tokenizer->tokens[model->pairs[i].left], *right = &tokenizer->tokens[model->pairs[i].right];
    const char *text = arena_format(&arena, "%s %s", left->text, right->text);
    merges[i] = (GgufString){text, strlen(text)};
  }
  gguf_put_string_array(writer, "tokenizer.ggml.merges", merges, (uint64_t)model->merge_count);
  arena_release(&arena);
}

// ---- SentencePiece's kind ----

typedef enum SpaceRule { SPACE_NONE, SPACE_PLAIN, SPACE_PREFIXED, SPACE_METASPACE } SpaceRule;

// How the tokenizer turns spaces into U+2581, if that is all that it does to a text.
static SpaceRule find_space_rule(const Tokenizer *tokenizer) {
  const NormalizeStep *steps = tokenizer->steps;
  int count = tokenizer->step_count;
  bool prefix = count > 0 && steps[0].kind == NORMALIZE_PREPEND && strcmp(steps[0].to, SPACE_TEXT) == 0;
  bool replace = count == 1 + prefix && steps[prefix].kind == NORMALIZE_REPLACE && strcmp(steps[prefix].from, " ") == 0 &&
                 strcmp(steps[prefix].to, SPACE_TEXT) == 0;
  const Stage *stage = tokenizer->stages;
  // A Split by spaces finds none behind the Replace.
  bool idle =
      tokenizer->stage_count == 0 || (tokenizer->stage_count == 1 && stage->kind == STAGE_SPLIT && strcmp(stage->pattern, " ") == 0);
  if (replace && idle) return prefix ? SPACE_PREFIXED : SPACE_PLAIN;
  bool metaspace = count == 0 && tokenizer->stage_count > 0 && stage->kind == STAGE_METASPACE && strcmp(stage->pattern, SPACE_TEXT) == 0;
  if (metaspace && stage->prepend == PREPEND_NEVER) return SPACE_PLAIN;
  return metaspace ? SPACE_METASPACE : SPACE_NONE;
}

// Each token's score: minus the place of the first merge that makes it. SentencePiece's kind, which has them anyway, by rank.
static float *make_scores(const Tokenizer *tokenizer, int64_t rows) {
  const Model *model = &tokenizer->model;
  float *scores = memory_new((size_t)rows, sizeof *scores);
  for (int32_t i = model->merge_count - 1; i >= 0; i--) scores[model->merged[i]] = -1 - (float)(model->ranks ? model->ranks[i] : i);
  return scores;
}

// Whether merging by scores is merging by the list: every way to cut a token into two is in the list, and the merges into one token stand
// together there, so that the tokens have an order. (Of two ways that overlap, as in a row of one letter, the list may take another.)
static bool scores_say_the_same(const Tokenizer *tokenizer, const float *scores) {
  const Model *model = &tokenizer->model;
  if (model->ranks) return true;
  if (model->merge_count > 1 << 24) return false;  // floats count no further
  Tokenizer *other = tokenizer_new(tokenizer->source);
  other->size = tokenizer->size;
  other->tokens = memory_new((size_t)tokenizer->size, sizeof *other->tokens);
  other->model.kind = model->kind;
  bool same = true;
  for (int32_t id = 0; id < (int32_t)tokenizer->size && same; id++) {
    const Token *token = &tokenizer->tokens[id];
    if (token->text) same = tokenizer_set_token(other, id, token->text, token->length, (TokenType)token->type) == STATUS_OK;
  }
  same =
      same && spm_set_merges(other, scores) == STATUS_OK && other->model.loose_count == 0 && other->model.merge_count == model->merge_count;
  for (int32_t i = 0; i < model->merge_count && same; i++) {
    uint64_t key = (uint64_t)model->pairs[i].left << 32 | (uint64_t)model->pairs[i].right;
    int32_t found = pair_table_get(&other->model.merges, key);
    bool grouped = i == 0 || model->merged[i] == model->merged[i - 1] || scores[model->merged[i]] == -1 - (float)i;
    same = found >= 0 && other->model.merged[found] == model->merged[i] && grouped;
  }
  tokenizer_free(other);
  return same;
}

// Whether a token has a line feed beside another character: llama.cpp, which cuts Gemma 4's texts at line feeds, would never find it.
static bool mixes_lines(const Tokenizer *tokenizer) {
  for (int64_t i = 0; i < tokenizer->size; i++) {
    const Token *token = &tokenizer->tokens[i];
    if (!token->text || token->added || !strchr(token->text, '\n')) continue;
    if (strspn(token->text, "\n") != token->length) return true;
  }
  return false;
}

static void warn_of_other_readers(const Tokenizer *tokenizer, SpaceRule rule, bool by_merges) {
  if (rule == SPACE_METASPACE) {
    log_warning(
        "%s: GGUF has no word for Metaspace, which puts no space before a text that begins with one (nor, as `first`, behind a special "
        "token): such texts get another first "
        "token",
        tokenizer->source);
  }
  if (by_merges && (rule != SPACE_PLAIN || mixes_lines(tokenizer))) {
    log_warning(
        "%s: only scores would give llama.cpp the space before a text and tokens with a line feed inside, and these merges are not "
        "by score: it will give such places other ids than we do",
        tokenizer->source);
  }
}

static Status put_spaces_model(GgufWriter *writer, const Tokenizer *tokenizer, SpaceRule rule, int64_t rows) {
  const Model *model = &tokenizer->model;
  float *scores = make_scores(tokenizer, rows);
  bool bpe = model->byte_fallback && !model->ignore_merges && !model->prefix && !model->suffix;
  bool by_scores = bpe && scores_say_the_same(tokenizer, scores);
  bool by_merges = bpe && !by_scores && !model->ranks && tokenizer_adds_bos(tokenizer);  // Gemma 4's reader always adds BOS
  if (by_scores || by_merges) {
    const char *kind = by_scores ? "llama" : "gemma4", *pre = by_scores ? "default" : "gemma4";
    gguf_put_string(writer, "tokenizer.ggml.model", kind, strlen(kind));
    gguf_put_string(writer, "tokenizer.ggml.pre", pre, strlen(pre));
    gguf_put_array(writer, "tokenizer.ggml.scores", GGUF_FLOAT32, scores, (uint64_t)rows);
    if (by_merges) put_merges(writer, tokenizer);
  }
  free(scores);
  if (by_scores || by_merges) warn_of_other_readers(tokenizer, rule, by_merges);
  if (by_scores || by_merges) return STATUS_OK;
  return status_fail(
      STATUS_BAD_INPUT,
      "%s: its merges are not those that scores would give, and GGUF has no other name for such a tokenizer; write a Hugging Face "
      "folder instead of a GGUF (an output that does not end in .gguf)",
      tokenizer->source);
}

// ---- All of it ----

// unk_token of tokenizer_config.json, which encoding does not need; -1 when there is none.
static int32_t unknown_token(const Tokenizer *tokenizer, const json_t *settings) {
  const char *text = json_get_token_text(settings, "unk_token");
  return text ? tokenizer_find(tokenizer, text) : tokenizer->unknown;
}

static Status put_specials(GgufWriter *writer, const Tokenizer *tokenizer, const json_t *settings, bool space_prefix) {
  const struct {
    const char *key;
    int32_t id;
  } ids[] = {{"tokenizer.ggml.bos_token_id", tokenizer->bos},
             {"tokenizer.ggml.eos_token_id", tokenizer->eos},
             {"tokenizer.ggml.unknown_token_id", unknown_token(tokenizer, settings)},
             {"tokenizer.ggml.padding_token_id", tokenizer->pad},
             {"tokenizer.ggml.eot_token_id", tokenizer->eot}};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    if (ids[i].id >= 0) gguf_put_uint32(writer, ids[i].key, (uint32_t)ids[i].id);
  const TokenList *prefix = &tokenizer->prefix, *suffix = &tokenizer->suffix;
  bool bos = prefix->count == 1 && prefix->ids[0] == tokenizer->bos, eos = suffix->count == 1 && suffix->ids[0] == tokenizer->eos;
  if ((prefix->count && !bos) || (suffix->count && !eos))
    return status_fail(
        STATUS_BAD_INPUT,
        "%s: post_processor adds other tokens than BOS and EOS, which a GGUF cannot say; write a Hugging Face folder instead",
        tokenizer->source);
  gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", bos);
  if (eos) gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", true);
  gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix", space_prefix);
  const char *template = tokenizer->chat_template;
  if (template) gguf_put_string(writer, "tokenizer.chat_template", template, strlen(template));
  return STATUS_OK;
}

static Status put_model(GgufWriter *writer, Tokenizer *tokenizer, SpaceRule rule, int64_t rows) {
  if (rule != SPACE_NONE) return put_spaces_model(writer, tokenizer, rule, rows);
  char *pre = NULL;
  TRY(find_pre(&pre, tokenizer));
  gguf_put_string(writer, "tokenizer.ggml.model", "gpt2", 4);
  gguf_put_string(writer, "tokenizer.ggml.pre", pre, strlen(pre));
  put_merges(writer, tokenizer);
  return STATUS_OK;
}

Status tokenizer_put_gguf(GgufWriter *writer, const char *folder, int64_t rows, const char *chat_template) {
  json_t *settings = NULL;
  Tokenizer *tokenizer = NULL;
  Status status = STATUS_OK;
  if (!tokenizer_is_there(folder)) {
    log_warning("%s: no tokenizer.json and no tokenizer.model, so the GGUF has no vocabulary", folder);
    gguf_put_string(writer, "tokenizer.ggml.model", "no_vocab", 8);
    return STATUS_OK;
  }
  TRY_DONE(folder_read_json(&settings, folder, "tokenizer_config.json"));
  TRY_DONE(tokenizer_from_folder(&tokenizer, folder));
  if (chat_template) tokenizer_set_chat_template(tokenizer, chat_template);
  if (tokenizer->size > rows) {
    status = status_fail(STATUS_BAD_INPUT, "%s: %lld tokens, but the embedding has %lld rows; use the tokenizer that belongs to the model",
                         tokenizer->source, (long long)tokenizer->size, (long long)rows);
    goto done;
  }
  SpaceRule rule = tokenizer->decode.byte_level ? SPACE_NONE : find_space_rule(tokenizer);
  TRY_DONE(put_model(writer, tokenizer, rule, rows));
  put_tokens(writer, tokenizer, rows);
  status = put_specials(writer, tokenizer, settings, rule == SPACE_PREFIXED || rule == SPACE_METASPACE);
done:
  tokenizer_free(tokenizer);
  json_decref(settings);
  return status;
}
