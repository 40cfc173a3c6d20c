// A tokenizer from a tokenizer.json of Hugging Face's tokenizers library (https://github.com/huggingface/tokenizers): its model,
// added tokens, normalizer, pre_tokenizer, post_processor and decoder, each as the file describes it. A kind of component that is
// not here is refused by its name.
#include <math.h>
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

// ---- Reading ----

// Integers as doubles: model_max_length is often 10^30, which fits no integer; ids are exact either way.
Status json_parse(json_t **out, const char *name, const char *text, size_t length) {
  json_error_t error;
  *out = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
  if (*out) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column, error.text);
}

static bool is_true(const json_t *object, const char *key) { return json_is_true(json_object_get(object, key)); }

// The string of a key; "" when there is none.
static const char *get_string(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

static const char *get_type(const json_t *component) { return get_string(component, "type"); }
static bool is_absent(const json_t *value) { return !value || json_is_null(value); }

static Status fail(const Tokenizer *tokenizer, const char *place, const char *what) {
  return status_fail(STATUS_BAD_INPUT, "%s: %s: %s", tokenizer->source, place, what);
}

static Status refuse_type(const Tokenizer *tokenizer, const char *place, const json_t *component) {
  if (!json_is_object(component) || !json_object_get(component, "type")) return fail(tokenizer, place, "not an object with a type");
  return status_fail(STATUS_BAD_INPUT, "%s: %s: the type `%.64s` is not supported", tokenizer->source, place, get_type(component));
}

bool json_get_id(const json_t *value, int64_t limit, int32_t *id) {
  double number = json_number_value(value);
  if (!json_is_number(value) || !(number >= 0 && number < (double)limit) || number != floor(number)) return false;
  *id = (int32_t)number;
  return true;
}

// ---- Tokens and merges ----

static Status measure_vocabulary(Tokenizer *tokenizer, json_t *vocab, const json_t *added) {
  const char *text;
  json_t *value;
  int32_t id, highest = -1;
  json_object_foreach(vocab, text, value) {
    if (!json_get_id(value, INT32_MAX, &id)) {
      return status_fail(STATUS_BAD_INPUT, "%s: model.vocab: the id of `%.64s` is not a number from 0", tokenizer->source, text);
    }
    if (id > highest) highest = id;
  }
  size_t i;
  json_array_foreach(added, i, value) {
    if (!json_get_id(json_object_get(value, "id"), INT32_MAX, &id) || !json_is_string(json_object_get(value, "content"))) {
      return status_fail(STATUS_BAD_INPUT, "%s: added_tokens[%zu] has no id from 0 and content", tokenizer->source, i);
    }
    if (id > highest) highest = id;
  }
  size_t entries = json_object_size(vocab) + json_array_size(added);
  if (highest < 0) return fail(tokenizer, "model.vocab", "the vocabulary is empty");
  if ((size_t)highest > 2 * entries + 4096) {
    return status_fail(STATUS_BAD_INPUT, "%s: the highest token id is %d, but there are only %zu tokens", tokenizer->source, highest,
                       entries);
  }
  tokenizer->size = (int64_t)highest + 1;
  tokenizer->tokens = memory_new((size_t)tokenizer->size, sizeof *tokenizer->tokens);
  return STATUS_OK;
}

static Status read_added(Tokenizer *tokenizer, const json_t *added) {
  const char *unknown = tokenizer->unknown >= 0 ? tokenizer->tokens[tokenizer->unknown].text : NULL;
  size_t i;
  json_t *entry;
  json_array_foreach(added, i, entry) {
    const json_t *content = json_object_get(entry, "content");
    int32_t id = (int32_t)json_number_value(json_object_get(entry, "id"));
    Token *token = &tokenizer->tokens[id];
    size_t length = json_string_length(content);
    if (token->text && (token->length != length || memcmp(token->text, json_string_value(content), length) != 0)) {
      return status_fail(STATUS_BAD_INPUT, "%s: added_tokens[%zu]: the id %d is `%.64s` in the vocabulary already", tokenizer->source, i,
                         id, token->text);
    }
    bool special = is_true(entry, "special");
    bool is_unknown = unknown && strcmp(unknown, json_string_value(content)) == 0;
    TokenType type = !special ? TOKEN_USER_DEFINED : is_unknown ? TOKEN_UNKNOWN : TOKEN_CONTROL;
    TRY(tokenizer_set_token(tokenizer, id, json_string_value(content), length, type));
    token->added = true;
    token->single_word = is_true(entry, "single_word");
    token->lstrip = is_true(entry, "lstrip");
    token->rstrip = is_true(entry, "rstrip");
    token->normalized = is_true(entry, "normalized");
  }
  return STATUS_OK;
}

static Status read_tokens(Tokenizer *tokenizer, json_t *model, const json_t *added) {
  json_t *vocab = json_object_get(model, "vocab"), *value;
  if (!json_is_object(vocab)) return fail(tokenizer, "model.vocab", "not an object of token texts and ids");
  if (!is_absent(added) && !json_is_array(added)) return fail(tokenizer, "added_tokens", "not an array");
  TRY(measure_vocabulary(tokenizer, vocab, added));
  const char *text;
  json_object_foreach(vocab, text, value) {
    int32_t id = (int32_t)json_number_value(value);
    if (tokenizer->tokens[id].text) {
      return status_fail(STATUS_BAD_INPUT, "%s: model.vocab: `%.64s` and `%.64s` have the same id %d", tokenizer->source,
                         tokenizer->tokens[id].text, text, id);
    }
    TRY(tokenizer_set_token(tokenizer, id, text, strlen(text), TOKEN_NORMAL));
    if (tokenizer->model.byte_fallback && byte_token_value(&tokenizer->tokens[id]) >= 0) tokenizer->tokens[id].type = TOKEN_BYTE;
  }
  const json_t *unknown = json_object_get(model, "unk_token");
  if (json_is_string(unknown)) {
    tokenizer->unknown = tokenizer->model.unknown = tokenizer_find(tokenizer, json_string_value(unknown));
    if (tokenizer->unknown < 0) return fail(tokenizer, "model.unk_token", "the token is not in the vocabulary");
  }
  return read_added(tokenizer, added);
}

// A merge is "left right", or [left, right] where a token may hold a space.
static Status read_merges(Tokenizer *tokenizer, const json_t *merges) {
  if (!json_is_array(merges)) return fail(tokenizer, "model.merges", "not an array");
  size_t i, count = json_array_size(merges);
  if (count > INT32_MAX) return fail(tokenizer, "model.merges", "too many merges");
  tokenizer->model.merge_count = (int32_t)count;
  tokenizer->model.merged = memory_new(count, sizeof *tokenizer->model.merged);
  json_t *merge;
  json_array_foreach(merges, i, merge) {
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    const char *text = json_string_value(merge);
    const char *space = text ? memchr(text, ' ', json_string_length(merge)) : NULL;
    if (space) {
      size_t length = (size_t)(space - text);
      TRY(tokenizer_add_merge(tokenizer, text, length, space + 1, json_string_length(merge) - length - 1, (int64_t)i));
    } else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right)) {
      TRY(tokenizer_add_merge(tokenizer, json_string_value(left), json_string_length(left), json_string_value(right),
                              json_string_length(right), (int64_t)i));
    } else {
      return status_fail(STATUS_BAD_INPUT, "%s: model.merges[%zu] is not two tokens", tokenizer->source, i);
    }
  }
  return STATUS_OK;
}

static Status read_model(Tokenizer *tokenizer, const json_t *root) {
  json_t *model = json_object_get(root, "model");
  if (!json_is_object(model)) return fail(tokenizer, "model", "not an object");
  // Files of the library's first versions name no type; merges are BPE's alone.
  if (strcmp(get_type(model), "BPE") != 0 && !(is_absent(json_object_get(model, "type")) && json_object_get(model, "merges"))) {
    return refuse_type(tokenizer, "model", model);
  }
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < 2; i++) {
    if (*get_string(model, affixes[i])) return fail(tokenizer, "model", "affixes of subwords are not supported");
  }
  if (json_number_value(json_object_get(model, "dropout")) != 0)
    return fail(tokenizer, "model.dropout", "dropout of merges is not supported");
  tokenizer->model.byte_fallback = is_true(model, "byte_fallback");
  tokenizer->model.fuse_unknown = is_true(model, "fuse_unk");
  tokenizer->model.ignore_merges = is_true(model, "ignore_merges");
  TRY(read_tokens(tokenizer, model, json_object_get(root, "added_tokens")));
  return read_merges(tokenizer, json_object_get(model, "merges"));
}

// ---- Normalizer ----

static Status add_step(Tokenizer *tokenizer, NormalizeKind kind, UnicodeForm form, const char *from, const char *to) {
  if (tokenizer->step_count == NORMALIZE_STEPS_MAX || strlen(from) > REPLACEMENT_MAX || strlen(to) > REPLACEMENT_MAX) {
    return fail(tokenizer, "normalizer", "more than 16 steps, or a string of more than 256 bytes");
  }
  tokenizer->steps = memory_grow(tokenizer->steps, (size_t)tokenizer->step_count + 1, sizeof *tokenizer->steps);
  tokenizer->steps[tokenizer->step_count++] = (NormalizeStep){
      .kind = kind, .form = form, .from = arena_copy_string(&tokenizer->arena, from), .to = arena_copy_string(&tokenizer->arena, to)};
  return STATUS_OK;
}

static Status read_normalizer(Tokenizer *tokenizer, const json_t *component) {
  static const char *const forms[] = {[UNICODE_NFC] = "NFC", [UNICODE_NFD] = "NFD", [UNICODE_NFKC] = "NFKC", [UNICODE_NFKD] = "NFKD"};
  if (is_absent(component)) return STATUS_OK;
  const char *type = get_type(component);
  for (int form = UNICODE_NFC; form <= UNICODE_NFKD; form++) {
    if (strcmp(type, forms[form]) == 0) return add_step(tokenizer, NORMALIZE_UNICODE, (UnicodeForm)form, "", "");
  }
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "normalizers"), i, entry) TRY(read_normalizer(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "Prepend") == 0) return add_step(tokenizer, NORMALIZE_PREPEND, UNICODE_NFC, "", get_string(component, "prepend"));
  if (strcmp(type, "Replace") == 0) {
    const char *from = get_string(json_object_get(component, "pattern"), "String");
    if (!*from) return fail(tokenizer, "normalizer", "Replace is supported for a pattern that is a String alone");
    return add_step(tokenizer, NORMALIZE_REPLACE, UNICODE_NFC, from, get_string(component, "content"));
  }
  return refuse_type(tokenizer, "normalizer", component);
}

// ---- Pre-tokenizer ----

static Status get_behavior(const Tokenizer *tokenizer, const json_t *component, SplitBehavior otherwise, SplitBehavior *behavior) {
  static const char *const names[] = {[SPLIT_REMOVED] = "Removed",
                                      [SPLIT_ISOLATED] = "Isolated",
                                      [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                      [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                      [SPLIT_CONTIGUOUS] = "Contiguous"};
  const json_t *value = json_object_get(component, "behavior");
  *behavior = otherwise;
  if (is_absent(value)) return STATUS_OK;
  for (int i = SPLIT_ISOLATED; i <= SPLIT_CONTIGUOUS; i++) {
    *behavior = (SplitBehavior)i;
    if (strcmp(names[i], get_string(component, "behavior")) == 0) return STATUS_OK;
  }
  return status_fail(STATUS_BAD_INPUT, "%s: pre_tokenizer: the behavior `%.64s` is not supported", tokenizer->source,
                     get_string(component, "behavior"));
}

// A string as the regular expression that matches it alone.
static void quote_pattern(Buffer *out, const char *text) {
  for (; *text; text++) {
    bool special = strchr("\\^$.|?*+()[]{}&-#", *text) != NULL;
    buffer_format(out, "%s%c", special ? "\\" : "", *text);
  }
}

static Status read_split(Tokenizer *tokenizer, const json_t *component) {
  const json_t *pattern = json_object_get(component, "pattern");
  const char *regex = get_string(pattern, "Regex"), *string = get_string(pattern, "String");
  SplitBehavior behavior;
  TRY(get_behavior(tokenizer, component, SPLIT_ISOLATED, &behavior));
  if (!*regex && !*string) return fail(tokenizer, "pre_tokenizer", "Split has no pattern that is a Regex or a String");
  if (*regex)
    return status_context(tokenizer_add_split(tokenizer, regex, behavior, is_true(component, "invert")), "%s: pre_tokenizer",
                          tokenizer->source);
  Buffer quoted = {0};
  quote_pattern(&quoted, string);
  Status status = tokenizer_add_split(tokenizer, quoted.data, behavior, is_true(component, "invert"));
  buffer_release(&quoted);
  return status_context(status, "%s: pre_tokenizer", tokenizer->source);
}

static Status read_metaspace(Tokenizer *tokenizer, const json_t *component) {
  static const char *const schemes[] = {[PREPEND_NEVER] = "never", [PREPEND_FIRST] = "first", [PREPEND_ALWAYS] = "always"};
  const char *replacement = get_string(component, "replacement");
  size_t length = strlen(replacement);
  if (!length || (size_t)utf8_length((const unsigned char *)replacement, length) != length) {
    return fail(tokenizer, "pre_tokenizer", "Metaspace has no replacement of one character");
  }
  // The field of older files; it is always true where both stand.
  PrependScheme prepend = json_is_false(json_object_get(component, "add_prefix_space")) ? PREPEND_NEVER : PREPEND_ALWAYS;
  if (json_is_string(json_object_get(component, "prepend_scheme"))) {
    int scheme = PREPEND_NEVER;
    while (scheme <= PREPEND_ALWAYS && strcmp(schemes[scheme], get_string(component, "prepend_scheme")) != 0) scheme++;
    if (scheme > PREPEND_ALWAYS) return fail(tokenizer, "pre_tokenizer", "Metaspace has an unknown prepend_scheme");
    prepend = (PrependScheme)scheme;
  }
  const char *space = arena_copy_string(&tokenizer->arena, replacement);
  TRY(tokenizer_add_stage(tokenizer, (Stage){.kind = STAGE_METASPACE, .prepend = prepend, .pattern = space}));
  if (json_is_false(json_object_get(component, "split"))) return STATUS_OK;
  Buffer quoted = {0};
  quote_pattern(&quoted, space);
  Status status = tokenizer_add_split(tokenizer, quoted.data, SPLIT_MERGED_WITH_NEXT, false);
  buffer_release(&quoted);
  return status;
}

// Words leave this stage as bytes in GPT-2's alphabet, so that it is the last one.
static Status read_byte_level(Tokenizer *tokenizer, const json_t *component) {
  tokenizer->model.kind = MODEL_BPE_BYTES;
  if (is_true(component, "add_prefix_space")) TRY(tokenizer_add_stage(tokenizer, (Stage){.kind = STAGE_PREFIX_SPACE}));
  if (json_is_false(json_object_get(component, "use_regex"))) return STATUS_OK;
  return tokenizer_add_split(tokenizer, pattern_gpt2, SPLIT_ISOLATED, false);
}

static Status read_pre_tokenizer(Tokenizer *tokenizer, const json_t *component) {
  if (is_absent(component)) return STATUS_OK;
  const char *type = get_type(component);
  if (tokenizer->model.kind == MODEL_BPE_BYTES) return fail(tokenizer, "pre_tokenizer", "a stage behind ByteLevel is not supported");
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "pretokenizers"), i, entry) TRY(read_pre_tokenizer(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "Split") == 0) return read_split(tokenizer, component);
  if (strcmp(type, "ByteLevel") == 0) return read_byte_level(tokenizer, component);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(tokenizer, component);
  if (strcmp(type, "Digits") == 0) {
    return tokenizer_add_split(tokenizer, "\\p{N}", is_true(component, "individual_digits") ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false);
  }
  if (strcmp(type, "WhitespaceSplit") == 0) return tokenizer_add_split(tokenizer, "\\s", SPLIT_REMOVED, false);
  if (strcmp(type, "Punctuation") == 0) {
    SplitBehavior behavior;
    TRY(get_behavior(tokenizer, component, SPLIT_ISOLATED, &behavior));
    return tokenizer_add_split(tokenizer, "[\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e\\p{P}]", behavior, false);
  }
  return refuse_type(tokenizer, "pre_tokenizer", component);
}

// ---- Post-processor: what comes before and after one text ----

static bool get_token(const Tokenizer *tokenizer, const json_t *value, int32_t *id) {
  return json_get_id(value, tokenizer->size, id) && tokenizer_text(tokenizer, *id);
}

static Status read_template(Tokenizer *tokenizer, const json_t *component) {
  const json_t *ids_of = json_object_get(component, "special_tokens");
  bool text_seen = false;
  size_t i, j;
  json_t *piece, *value;
  json_array_foreach(json_object_get(component, "single"), i, piece) {
    if (json_object_get(piece, "Sequence")) {
      if (text_seen) return fail(tokenizer, "post_processor.single", "the text stands twice");
      text_seen = true;
      continue;
    }
    const json_t *special = json_object_get(ids_of, get_string(json_object_get(piece, "SpecialToken"), "id"));
    const json_t *ids = json_object_get(special, "ids");
    if (json_array_size(ids) == 0) return fail(tokenizer, "post_processor.single", "a special token has no ids in special_tokens");
    json_array_foreach(ids, j, value) {
      int32_t id;
      if (!json_get_id(value, tokenizer->size, &id))
        return fail(tokenizer, "post_processor.special_tokens", "an id is outside the vocabulary");
      token_list_push(text_seen ? &tokenizer->suffix : &tokenizer->prefix, id);
    }
  }
  return text_seen ? STATUS_OK : fail(tokenizer, "post_processor.single", "the text has no place in the template");
}

// RobertaProcessing and BertProcessing: ["text", id] before and after.
static Status read_pair(Tokenizer *tokenizer, const json_t *component) {
  int32_t before, after;
  if (!get_token(tokenizer, json_array_get(json_object_get(component, "cls"), 1), &before) ||
      !get_token(tokenizer, json_array_get(json_object_get(component, "sep"), 1), &after)) {
    return fail(tokenizer, "post_processor", "cls or sep is not a token of the vocabulary");
  }
  token_list_push(&tokenizer->prefix, before);
  token_list_push(&tokenizer->suffix, after);
  return STATUS_OK;
}

static Status read_post_processor(Tokenizer *tokenizer, const json_t *component) {
  if (is_absent(component)) return STATUS_OK;
  const char *type = get_type(component);
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "processors"), i, entry) TRY(read_post_processor(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "ByteLevel") == 0) return STATUS_OK;  // moves offsets alone
  if (tokenizer->prefix.count || tokenizer->suffix.count) return fail(tokenizer, "post_processor", "two templates are not supported");
  if (strcmp(type, "TemplateProcessing") == 0) return read_template(tokenizer, component);
  if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) return read_pair(tokenizer, component);
  return refuse_type(tokenizer, "post_processor", component);
}

// ---- Decoder ----

static Status read_decoder(Tokenizer *tokenizer, const json_t *component) {
  DecodeRule *rule = &tokenizer->decode;
  const char *type = get_type(component);
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "decoders"), i, entry) TRY(read_decoder(tokenizer, entry));
  } else if (strcmp(type, "ByteLevel") == 0) {
    rule->byte_level = true;
  } else if (strcmp(type, "ByteFallback") == 0) {
    rule->byte_fallback = true;
  } else if (strcmp(type, "Fuse") == 0) {
    return STATUS_OK;  // texts are joined anyhow
  } else if (strcmp(type, "Replace") == 0) {
    const char *from = get_string(json_object_get(component, "pattern"), "String");
    if (!*from || strcmp(get_string(component, "content"), " ") != 0 || rule->space) {
      return fail(tokenizer, "decoder", "Replace is supported for one String that becomes a space");
    }
    rule->space = arena_copy_string(&tokenizer->arena, from);
  } else if (strcmp(type, "Strip") == 0) {
    bool one = json_number_value(json_object_get(component, "start")) == 1 && json_number_value(json_object_get(component, "stop")) == 0;
    if (!one || strcmp(get_string(component, "content"), " ") != 0) {
      return fail(tokenizer, "decoder", "Strip is supported for one space at the start");
    }
    rule->strip_leading_space = true;
  } else if (strcmp(type, "Metaspace") == 0 && *get_string(component, "replacement")) {
    rule->space = arena_copy_string(&tokenizer->arena, get_string(component, "replacement"));
    bool never = strcmp(get_string(component, "prepend_scheme"), "never") == 0;
    rule->strip_leading_space = !never && !json_is_false(json_object_get(component, "add_prefix_space"));
  } else {
    return refuse_type(tokenizer, "decoder", component);
  }
  return STATUS_OK;
}

static Status read_decoding(Tokenizer *tokenizer, const json_t *component) {
  bool bytes = tokenizer->model.kind == MODEL_BPE_BYTES;
  if (is_absent(component)) {
    if (!bytes) return fail(tokenizer, "decoder", "there is none, so how tokens become text is not known");
    tokenizer->decode.byte_level = true;
    return STATUS_OK;
  }
  TRY(read_decoder(tokenizer, component));
  if (tokenizer->decode.byte_level != bytes)
    return fail(tokenizer, "decoder", "ByteLevel must be in both pre_tokenizer and decoder, or in neither");
  return STATUS_OK;
}

Status tokenizer_read_json(Tokenizer *tokenizer, const json_t *root) {
  if (!json_is_object(root)) return fail(tokenizer, "the top level", "not an object");
  tokenizer->model.kind = MODEL_BPE_CHARACTERS;
  TRY(read_model(tokenizer, root));
  TRY(read_normalizer(tokenizer, json_object_get(root, "normalizer")));
  TRY(read_pre_tokenizer(tokenizer, json_object_get(root, "pre_tokenizer")));
  TRY(read_post_processor(tokenizer, json_object_get(root, "post_processor")));
  return read_decoding(tokenizer, json_object_get(root, "decoder"));
}

Status tokenizer_from_json(Tokenizer **out, const char *name, const char *text, size_t length) {
  json_t *root;
  *out = NULL;
  TRY(json_parse(&root, name, text, length));
  Tokenizer *tokenizer = tokenizer_new(name);
  Status status = tokenizer_read_json(tokenizer, root);
  json_decref(root);
  if (status == STATUS_OK) status = tokenizer_finish(tokenizer);
  if (status == STATUS_OK) {
    *out = tokenizer;
  } else {
    tokenizer_free(tokenizer);
  }
  return status;
}
