// The post_processor and the decoder of a tokenizer.json: what comes around a text's ids, and how ids become a text again.
#include <string.h>

#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

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
      if (text_seen) return json_fail(tokenizer, "post_processor.single", "the text stands twice");
      text_seen = true;
      continue;
    }
    const json_t *special = json_object_get(ids_of, json_get_text(json_object_get(piece, "SpecialToken"), "id"));
    const json_t *ids = json_object_get(special, "ids");
    if (json_array_size(ids) == 0) return json_fail(tokenizer, "post_processor.single", "a special token has no ids in special_tokens");
    json_array_foreach(ids, j, value) {
      int32_t id;
      if (!json_get_id(value, tokenizer->size, &id))
        return json_fail(tokenizer, "post_processor.special_tokens", "an id is outside the vocabulary");
      token_list_push(text_seen ? &tokenizer->suffix : &tokenizer->prefix, id);
    }
  }
  return text_seen ? STATUS_OK : json_fail(tokenizer, "post_processor.single", "the text has no place in the template");
}

// RobertaProcessing and BertProcessing: ["text", id] before and after.
static Status read_pair(Tokenizer *tokenizer, const json_t *component) {
  int32_t before, after;
  if (!get_token(tokenizer, json_array_get(json_object_get(component, "cls"), 1), &before) ||
      !get_token(tokenizer, json_array_get(json_object_get(component, "sep"), 1), &after)) {
    return json_fail(tokenizer, "post_processor", "cls or sep is not a token of the vocabulary");
  }
  token_list_push(&tokenizer->prefix, before);
  token_list_push(&tokenizer->suffix, after);
  return STATUS_OK;
}

Status json_read_post_processor(Tokenizer *tokenizer, const json_t *component) {
  if (json_is_absent(component)) return STATUS_OK;
  const char *type = json_get_text(component, "type");
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "processors"), i, entry) TRY(json_read_post_processor(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "ByteLevel") == 0) return STATUS_OK;  // moves offsets alone
  if (tokenizer->prefix.count || tokenizer->suffix.count) return json_fail(tokenizer, "post_processor", "two templates are not supported");
  if (strcmp(type, "TemplateProcessing") == 0) return read_template(tokenizer, component);
  if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) return read_pair(tokenizer, component);
  return json_refuse_type(tokenizer, "post_processor", component);
}

// ---- Decoder ----

// Strings of a step are short, and few steps make a text longer: so that a hostile file cannot ask for terabytes.
static Status add_step(Tokenizer *tokenizer, DecodeStep step) {
  enum { STRING_MOST = 16, GROWING_MOST = 2 };
  DecodeRule *rule = &tokenizer->decode;
  if (!step.from) step.from = "";
  if (!step.to) step.to = "";
  int growing = strlen(step.to) > strlen(step.from);
  for (int i = 0; i < rule->count; i++) growing += strlen(rule->steps[i].to) > strlen(rule->steps[i].from);
  if (rule->count == DECODE_STEPS_MAX || strlen(step.to) > STRING_MOST || growing > GROWING_MOST) {
    return json_fail(tokenizer, "decoder", "too many steps, or a replacement of more than 16 bytes");
  }
  step.from = arena_copy_string(&tokenizer->arena, step.from);
  step.to = arena_copy_string(&tokenizer->arena, step.to);
  step.whole = step.whole || rule->fused;
  rule->steps[rule->count++] = step;
  return STATUS_OK;
}

static Status read_replace(Tokenizer *tokenizer, const json_t *component) {
  const char *from = json_get_text(json_object_get(component, "pattern"), "String");
  if (!*from) return json_fail(tokenizer, "decoder", "Replace is supported for a pattern that is a String alone");
  return add_step(tokenizer, (DecodeStep){.kind = DECODE_REPLACE, .from = from, .to = json_get_text(component, "content")});
}

static Status read_strip(Tokenizer *tokenizer, const json_t *component) {
  const char *content = json_get_text(component, "content");
  int32_t start, stop;
  if (!json_get_id(json_object_get(component, "start"), INT32_MAX, &start) ||
      !json_get_id(json_object_get(component, "stop"), INT32_MAX, &stop) || !*content) {
    return json_fail(tokenizer, "decoder", "Strip has no content, start or stop");
  }
  return add_step(tokenizer, (DecodeStep){.kind = DECODE_STRIP, .from = content, .start = start, .stop = stop});
}

static Status read_metaspace(Tokenizer *tokenizer, const json_t *component) {
  const char *replacement = json_get_text(component, "replacement");
  if (!*replacement) return json_fail(tokenizer, "decoder", "Metaspace has no replacement");
  TRY(add_step(tokenizer, (DecodeStep){.kind = DECODE_REPLACE, .from = replacement, .to = " "}));
  bool never = strcmp(json_get_text(component, "prepend_scheme"), "never") == 0;
  if (never || json_is_false(json_object_get(component, "add_prefix_space"))) return STATUS_OK;
  return add_step(tokenizer, (DecodeStep){.kind = DECODE_STRIP, .from = " ", .start = 1, .whole = true});
}

// A word's last token ends with the suffix, which is a space but for the last word's.
static Status read_suffix(Tokenizer *tokenizer, const json_t *component) {
  const char *suffix = json_get_text(component, "suffix");
  if (!*suffix) return json_fail(tokenizer, "decoder", "BPEDecoder has no suffix");
  TRY(add_step(tokenizer, (DecodeStep){.kind = DECODE_REPLACE, .from = suffix, .to = " "}));
  return add_step(tokenizer, (DecodeStep){.kind = DECODE_STRIP, .from = " ", .stop = 1, .whole = true});
}

static Status read_step(Tokenizer *tokenizer, const json_t *component) {
  DecodeRule *rule = &tokenizer->decode;
  const char *type = json_get_text(component, "type");
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "decoders"), i, entry) TRY(read_step(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "ByteLevel") == 0) {
    TRY(add_step(tokenizer, (DecodeStep){.kind = DECODE_ALPHABET}));
    rule->fused = true;
    return STATUS_OK;
  }
  if (strcmp(type, "ByteFallback") == 0) return add_step(tokenizer, (DecodeStep){.kind = DECODE_BYTE_FALLBACK});
  if (strcmp(type, "Fuse") == 0) {
    rule->fused = true;
    return STATUS_OK;
  }
  if (strcmp(type, "Replace") == 0) return read_replace(tokenizer, component);
  if (strcmp(type, "Strip") == 0) return read_strip(tokenizer, component);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(tokenizer, component);
  if (strcmp(type, "BPEDecoder") == 0) return read_suffix(tokenizer, component);
  return json_refuse_type(tokenizer, "decoder", component);
}

static bool decodes_alphabet(const DecodeRule *rule) {
  for (int i = 0; i < rule->count; i++) {
    if (rule->steps[i].kind == DECODE_ALPHABET) return true;
  }
  return false;
}

Status json_read_decoder(Tokenizer *tokenizer, const json_t *component) {
  bool bytes = tokenizer->decode.byte_level;
  if (json_is_absent(component)) {
    if (!bytes) return json_fail(tokenizer, "decoder", "there is none, so how tokens become text is not known");
    return add_step(tokenizer, (DecodeStep){.kind = DECODE_ALPHABET});
  }
  TRY(read_step(tokenizer, component));
  if (decodes_alphabet(&tokenizer->decode) != bytes)
    return json_fail(tokenizer, "decoder", "ByteLevel must be in both pre_tokenizer and decoder, or in neither");
  return STATUS_OK;
}
