// tokenizer.json -> tokenizer.ggml.* (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer) and back, for byte-level
// BPE whose rules for words are among those that GGUF names (tokenizer.ggml.pre).
#include "data/tokenizer/export.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

enum { JSON_LIMIT = 512 << 20 };

bool tokenizer_key_is_exported(const char *key) {
  static const char *const keys[] = {"tokenizer.ggml.model",         "tokenizer.ggml.pre",
                                     "tokenizer.ggml.tokens",        "tokenizer.ggml.token_type",
                                     "tokenizer.ggml.merges",        "tokenizer.ggml.bos_token_id",
                                     "tokenizer.ggml.eos_token_id",  "tokenizer.ggml.unknown_token_id",
                                     "tokenizer.ggml.eot_token_id",  "tokenizer.ggml.add_bos_token",
                                     "tokenizer.ggml.add_eos_token", "tokenizer.ggml.padding_token_id",
                                     "tokenizer.chat_template",      "tokenizer.ggml.add_space_prefix"};
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

// The merges as tokenizer.json has them; reading it has checked each.
static void put_merges(GgufWriter *writer, const json_t *root) {
  const json_t *list = json_object_get(json_object_get(root, "model"), "merges");
  Arena arena = {0};
  size_t count = json_array_size(list), i;
  GgufString *merges = arena_new(&arena, count, sizeof *merges);
  json_t *merge;
  json_array_foreach(list, i, merge) {
    const char *text = json_string_value(merge);
    if (!text)
      text = arena_format(&arena, "%s %s", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
    merges[i] = (GgufString){text, strlen(text)};
  }
  gguf_put_string_array(writer, "tokenizer.ggml.merges", merges, count);
  arena_release(&arena);
}

// unk_token of tokenizer_config.json, which encoding does not need; -1 when there is none.
static int32_t unknown_token(const Tokenizer *tokenizer, const json_t *settings) {
  const json_t *value = json_object_get(settings, "unk_token");
  const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
  return text ? tokenizer_find(tokenizer, text) : tokenizer->unknown;
}

static Status put_specials(GgufWriter *writer, const Tokenizer *tokenizer, const json_t *settings) {
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
  gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix", false);
  const char *template = tokenizer->chat_template;
  if (template) gguf_put_string(writer, "tokenizer.chat_template", template, strlen(template));
  return STATUS_OK;
}

// *out is NULL when there is no such file.
static Status read_json(json_t **out, const char *folder, const char *file) {
  char *path = path_join(folder, file);
  Buffer text = {0};
  Status status = STATUS_OK;
  *out = NULL;
  if (file_exists(path)) {
    status = file_read(&text, path, JSON_LIMIT);
    if (status == STATUS_OK) status = json_parse(out, path, text.data ? text.data : "", text.length);
  }
  buffer_release(&text);
  free(path);
  return status;
}

Status tokenizer_put_gguf(GgufWriter *writer, const char *folder, int64_t rows) {
  json_t *root = NULL, *settings = NULL;
  Tokenizer *tokenizer = NULL;
  char *pre = NULL;
  Status status = STATUS_OK;
  TRY_DONE(read_json(&root, folder, "tokenizer.json"));
  if (!root) {
    log_warning("%s: no tokenizer.json, so the GGUF has no vocabulary", folder);
    gguf_put_string(writer, "tokenizer.ggml.model", "no_vocab", 8);
    return STATUS_OK;
  }
  TRY_DONE(read_json(&settings, folder, "tokenizer_config.json"));
  TRY_DONE(tokenizer_from_folder(&tokenizer, folder));
  TRY_DONE(find_pre(&pre, tokenizer));
  if (tokenizer->size > rows) {
    status = status_fail(STATUS_BAD_INPUT, "%s: %lld tokens, but the embedding has %lld rows; use the tokenizer that belongs to the model",
                         tokenizer->source, (long long)tokenizer->size, (long long)rows);
    goto done;
  }
  gguf_put_string(writer, "tokenizer.ggml.model", "gpt2", 4);
  gguf_put_string(writer, "tokenizer.ggml.pre", pre, strlen(pre));
  put_tokens(writer, tokenizer, rows);
  put_merges(writer, root);
  status = put_specials(writer, tokenizer, settings);
done:
  tokenizer_free(tokenizer);
  json_decref(settings);
  json_decref(root);
  return status;
}

// ---- GGUF keys as a folder's tokenizer ----

// A token that only fills the embedding's rows: it has no place in tokenizer.json, which would match its text.
static bool is_filler(const Token *token) { return token->type == TOKEN_UNUSED && text_starts_with(token->text, "[PAD"); }

static Status make_vocabulary(json_t **vocab, json_t **added, const Tokenizer *tokenizer) {
  *vocab = json_object();
  *added = json_array();
  for (int64_t i = 0; i < tokenizer->size; i++) {
    const Token *token = &tokenizer->tokens[i];
    if (!token->text || is_filler(token)) continue;
    if (strlen(token->text) != token->length || !utf8_is_valid(token->text, token->length, NULL))
      return status_fail(STATUS_BAD_INPUT, "%s: token %lld is not valid UTF-8, which tokenizer.json needs; write a GGUF instead",
                         tokenizer->source, (long long)i);
    json_object_set_new(*vocab, token->text, json_integer(i));
    if (!token->added) continue;
    json_array_append_new(
        *added, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", token->text, "single_word", 0, "lstrip", 0,
                          "rstrip", 0, "normalized", 0, "special", token->type != TOKEN_USER_DEFINED));
  }
  return STATUS_OK;
}

// Merges split at their space, as present versions of the library write them.
static json_t *make_merges(const Gguf *gguf) {
  const GgufValue *merges = gguf_find(gguf, "tokenizer.ggml.merges");
  json_t *list = json_array();
  for (uint64_t i = 0; i < merges->count; i++) {
    const GgufString *merge = &merges->strings[i];
    const char *space = memchr(merge->data + 1, ' ', merge->length - 1);
    size_t left = (size_t)(space - merge->data);
    json_array_append_new(list, json_pack("[s%, s%]", merge->data, left, space + 1, merge->length - left - 1));
  }
  return list;
}

static json_t *make_pre_tokenizer(const Tokenizer *tokenizer) {
  json_t *list = json_array();
  for (int i = 0; i < tokenizer->stage_count; i++)
    json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", tokenizer->stages[i].pattern,
                                          "behavior", "Isolated", "invert", 0));
  json_array_append_new(list,
                        json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0));
  return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static void template_text(json_t *list, const char *name, int type_id) {
  json_array_append_new(list, json_pack("{s:{s:s, s:i}}", "Sequence", "id", name, "type_id", type_id));
}

static void template_tokens(json_t *list, json_t *specials, const Tokenizer *tokenizer, const TokenList *ids, int type_id) {
  for (int64_t i = 0; i < ids->count; i++) {
    const char *text = tokenizer->tokens[ids->ids[i]].text;
    json_array_append_new(list, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", text, "type_id", type_id));
    json_object_set_new(specials, text, json_pack("{s:s, s:[i], s:[s]}", "id", text, "ids", ids->ids[i], "tokens", text));
  }
}

// What stands before and after a text; null when nothing does.
static json_t *make_post_processor(const Tokenizer *tokenizer) {
  if (tokenizer->prefix.count == 0 && tokenizer->suffix.count == 0) return json_null();
  json_t *single = json_array(), *pair = json_array(), *specials = json_object();
  template_tokens(single, specials, tokenizer, &tokenizer->prefix, 0);
  template_text(single, "A", 0);
  template_tokens(single, specials, tokenizer, &tokenizer->suffix, 0);
  for (int i = 0; i < 2; i++) {
    template_tokens(pair, specials, tokenizer, &tokenizer->prefix, i);
    template_text(pair, i ? "B" : "A", i);
    template_tokens(pair, specials, tokenizer, &tokenizer->suffix, i);
  }
  return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens", specials);
}

static Status make_tokenizer(json_t **out, const Tokenizer *tokenizer, const Gguf *gguf) {
  json_t *vocab, *added;
  Status status = make_vocabulary(&vocab, &added, tokenizer);
  if (status != STATUS_OK) {
    json_decref(vocab);
    json_decref(added);
    return status;
  }
  bool nfc = tokenizer->step_count > 0;
  json_t *normalizer = nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
  json_t *decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1);
  json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                            "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges",
                            tokenizer->model.ignore_merges, "vocab", vocab, "merges", make_merges(gguf));
  *out = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens", added,
                   "normalizer", normalizer, "pre_tokenizer", make_pre_tokenizer(tokenizer), "post_processor",
                   make_post_processor(tokenizer), "decoder", decoder, "model", model);
  return STATUS_OK;
}

static json_t *make_special_map(const Tokenizer *tokenizer) {
  const struct {
    const char *role;
    int32_t id;
  } roles[] = {{"bos_token", tokenizer->bos},
               {"eos_token", tokenizer->eos},
               {"unk_token", tokenizer->unknown},
               {"pad_token", tokenizer->pad},
               {"eot_token", tokenizer->eot}};
  json_t *map = json_object();
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
    if (roles[i].id >= 0) json_object_set_new(map, roles[i].role, json_string(tokenizer->tokens[roles[i].id].text));
  return map;
}

static json_t *make_settings(const Tokenizer *tokenizer, int64_t context_length) {
  json_t *settings = make_special_map(tokenizer);
  json_object_set_new(settings, "add_bos_token", json_boolean(tokenizer->prefix.count > 0));
  json_object_set_new(settings, "add_eos_token", json_boolean(tokenizer->suffix.count > 0));
  json_object_set_new(settings, "clean_up_tokenization_spaces", json_false());
  json_object_set_new(settings, "model_max_length", json_integer(context_length));
  json_object_set_new(settings, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
  if (tokenizer->chat_template) json_object_set_new(settings, "chat_template", json_string(tokenizer->chat_template));
  return settings;
}

// Takes `root`.
static Status write_json(json_t *root, const char *folder, const char *name, size_t flags) {
  char *text = json_dumps(root, flags), *path = path_join(folder, name);
  Status status = text ? file_write_whole(path, text, strlen(text)) : status_fail(STATUS_FAILED, "%s: cannot be put into JSON", path);
  free(path);
  free(text);
  json_decref(root);
  return status;
}

Status tokenizer_write_folder(const char *folder, const Gguf *gguf, int64_t context_length) {
  Tokenizer *tokenizer;
  json_t *root;
  TRY(tokenizer_from_gguf(&tokenizer, gguf));
  Status status = make_tokenizer(&root, tokenizer, gguf);
  if (status == STATUS_OK) status = write_json(root, folder, "tokenizer.json", JSON_COMPACT);
  if (status == STATUS_OK) status = write_json(make_settings(tokenizer, context_length), folder, "tokenizer_config.json", JSON_INDENT(2));
  if (status == STATUS_OK) status = write_json(make_special_map(tokenizer), folder, "special_tokens_map.json", JSON_INDENT(2));
  tokenizer_free(tokenizer);
  return status;
}
