// tokenizer.ggml.* of a GGUF -> tokenizer.json and the files beside it, as the tokenizers library writes them.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/text.h"
#include "data/tokenizer/export.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

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
                          "rstrip", token->rstrip, "normalized", 0, "special", token->type != TOKEN_USER_DEFINED));
  }
  return STATUS_OK;
}

// Pairs of texts, as present versions of the library write them. A merge of a character that is no token cannot be said.
static Status make_merges(json_t **out, const Tokenizer *tokenizer) {
  const Model *model = &tokenizer->model;
  *out = json_array();
  for (int32_t i = 0; i < model->merge_count; i++) {
    MergePair pair = model->pairs[i];
    if (pair.left >= tokenizer->size || pair.right >= tokenizer->size) {
      return status_fail(
          STATUS_BAD_INPUT,
          "%s: the token `%.64s` is made of a character that is no token, which tokenizer.json cannot say; write a GGUF instead",
          tokenizer->source, tokenizer->tokens[model->merged[i]].text);
    }
    json_array_append_new(*out, json_pack("[s, s]", tokenizer->tokens[pair.left].text, tokenizer->tokens[pair.right].text));
  }
  return STATUS_OK;
}

static json_t *make_byte_level(bool use_regex) {
  return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", use_regex);
}

static json_t *make_pre_tokenizer(const Tokenizer *tokenizer) {
  static const char *const behaviors[] = {[SPLIT_ISOLATED] = "Isolated", [SPLIT_CONTIGUOUS] = "Contiguous"};
  if (!tokenizer->decode.byte_level) return json_null();
  json_t *list = json_array();
  for (int i = 0; i < tokenizer->stage_count; i++) {
    const Stage *stage = &tokenizer->stages[i];
    json_array_append_new(list, stage->kind == STAGE_ALPHABET
                                    ? make_byte_level(false)
                                    : json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", stage->pattern, "behavior",
                                                behaviors[stage->behavior], "invert", 0));
  }
  if (tokenizer->model.kind == MODEL_BPE_BYTES) json_array_append_new(list, make_byte_level(false));
  return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static json_t *make_replace(const char *from, const char *to) {
  return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", from, "content", to);
}

static json_t *make_normalizer(const Tokenizer *tokenizer) {
  json_t *list = json_array();
  for (int i = 0; i < tokenizer->step_count; i++) {
    const NormalizeStep *step = &tokenizer->steps[i];
    if (step->kind == NORMALIZE_UNICODE) json_array_append_new(list, json_pack("{s:s}", "type", "NFC"));
    if (step->kind == NORMALIZE_PREPEND) json_array_append_new(list, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", step->to));
    if (step->kind == NORMALIZE_REPLACE) json_array_append_new(list, make_replace(step->from, step->to));
  }
  if (json_array_size(list) > 1) return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
  json_t *only = json_array_size(list) ? json_incref(json_array_get(list, 0)) : json_null();
  json_decref(list);
  return only;
}

static json_t *make_decoder(const Tokenizer *tokenizer) {
  if (tokenizer->decode.byte_level) return make_byte_level(true);
  json_t *list = json_pack("[o, {s:s}, {s:s}]", make_replace(SPACE_TEXT, " "), "type", "ByteFallback", "type", "Fuse");
  if (tokenizer->steps[0].kind == NORMALIZE_PREPEND)
    json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
  return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
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

static Status make_tokenizer(json_t **out, const Tokenizer *tokenizer) {
  const Model *m = &tokenizer->model;
  json_t *vocab, *added, *merges = NULL;
  Status status = make_vocabulary(&vocab, &added, tokenizer);
  if (status == STATUS_OK) status = make_merges(&merges, tokenizer);
  if (status != STATUS_OK) {
    json_decref(vocab);
    json_decref(added);
    json_decref(merges);
    return status;
  }
  json_t *unknown = m->unknown >= 0 ? json_string(tokenizer->tokens[m->unknown].text) : json_null();
  json_t *model = json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token", unknown,
                            "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", m->fuse_unknown, "byte_fallback",
                            m->byte_fallback, "ignore_merges", m->ignore_merges, "vocab", vocab, "merges", merges);
  *out = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding", "added_tokens", added,
                   "normalizer", make_normalizer(tokenizer), "pre_tokenizer", make_pre_tokenizer(tokenizer), "post_processor",
                   make_post_processor(tokenizer), "decoder", make_decoder(tokenizer), "model", model);
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
  Status status = make_tokenizer(&root, tokenizer);
  if (status == STATUS_OK) status = write_json(root, folder, "tokenizer.json", JSON_COMPACT);
  if (status == STATUS_OK) status = write_json(make_settings(tokenizer, context_length), folder, "tokenizer_config.json", JSON_INDENT(2));
  if (status == STATUS_OK) status = write_json(make_special_map(tokenizer), folder, "special_tokens_map.json", JSON_INDENT(2));
  tokenizer_free(tokenizer);
  return status;
}
