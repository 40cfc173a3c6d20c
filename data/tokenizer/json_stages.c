// The normalizer and the pre_tokenizer of a tokenizer.json: what happens to a text before its words meet the model. Each kind does what
// the tokenizers library's does (tokenizers/src/normalizers, tokenizers/src/pre_tokenizers).
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/parts.h"

// ---- Normalizer ----

static Status add_step(Tokenizer *tokenizer, NormalizeStep step) {
  step.from = arena_copy_string(&tokenizer->arena, step.from ? step.from : "");
  step.to = arena_copy_string(&tokenizer->arena, step.to ? step.to : "");
  if (tokenizer->step_count == NORMALIZE_STEPS_MAX || strlen(step.from) > REPLACEMENT_MAX || strlen(step.to) > REPLACEMENT_MAX) {
    pcre2_code_free(step.code);
    return json_fail(tokenizer, "normalizer", "more than 16 steps, or a string of more than 256 bytes");
  }
  tokenizer_add_step(tokenizer, step);
  return STATUS_OK;
}

static Status read_replace(Tokenizer *tokenizer, const json_t *component) {
  const json_t *pattern = json_object_get(component, "pattern");
  const char *string = json_get_text(pattern, "String"), *regex = json_get_text(pattern, "Regex");
  NormalizeStep step = {.kind = NORMALIZE_REPLACE, .from = string, .to = json_get_text(component, "content")};
  if (!*string && !*regex) return json_fail(tokenizer, "normalizer", "Replace has no pattern that is a Regex or a String");
  if (*regex) {
    step.kind = NORMALIZE_REPLACE_PATTERN;
    step.from = regex;
    TRY(status_context(regex_compile(&step.code, regex), "%s: normalizer", tokenizer->source));
  }
  return add_step(tokenizer, step);
}

// BERT's: four steps, each of which may be off; accents go with capitals unless they are spoken of.
static Status read_bert(Tokenizer *tokenizer, const json_t *component) {
  bool lowercase = !json_is_false(json_object_get(component, "lowercase"));
  const json_t *accents = json_object_get(component, "strip_accents");
  if (!json_is_false(json_object_get(component, "clean_text"))) TRY(add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_CLEAN}));
  if (!json_is_false(json_object_get(component, "handle_chinese_chars"))) {
    TRY(add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_SPACE_CHINESE}));
  }
  if (json_is_absent(accents) ? lowercase : json_is_true(accents)) {
    TRY(add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_UNICODE, .form = UNICODE_NFD}));
    TRY(add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_STRIP_NONSPACING}));
  }
  return lowercase ? add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_LOWERCASE}) : STATUS_OK;
}

Status json_read_normalizer(Tokenizer *tokenizer, const json_t *component) {
  static const struct {
    const char *type;
    NormalizeStep step;
  } plain[] = {{"NFC", {.kind = NORMALIZE_UNICODE, .form = UNICODE_NFC}},
               {"NFD", {.kind = NORMALIZE_UNICODE, .form = UNICODE_NFD}},
               {"NFKC", {.kind = NORMALIZE_UNICODE, .form = UNICODE_NFKC}},
               {"NFKD", {.kind = NORMALIZE_UNICODE, .form = UNICODE_NFKD}},
               {"Lowercase", {.kind = NORMALIZE_LOWERCASE}},
               {"StripAccents", {.kind = NORMALIZE_STRIP_MARKS}},
               {"Nmt", {.kind = NORMALIZE_NMT}},
               {"ByteLevel", {.kind = NORMALIZE_ALPHABET}}};
  if (json_is_absent(component)) return STATUS_OK;
  const char *type = json_get_text(component, "type");
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
    if (strcmp(type, plain[i].type) == 0) return add_step(tokenizer, plain[i].step);
  }
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "normalizers"), i, entry) TRY(json_read_normalizer(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "Prepend") == 0) {
    return add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_PREPEND, .to = json_get_text(component, "prepend")});
  }
  if (strcmp(type, "Strip") == 0) {
    bool left = !json_is_false(json_object_get(component, "strip_left")), right = !json_is_false(json_object_get(component, "strip_right"));
    return add_step(tokenizer, (NormalizeStep){.kind = NORMALIZE_STRIP, .left = left, .right = right});
  }
  if (strcmp(type, "Replace") == 0) return read_replace(tokenizer, component);
  if (strcmp(type, "BertNormalizer") == 0) return read_bert(tokenizer, component);
  return json_refuse_type(tokenizer, "normalizer", component);
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
  if (json_is_absent(value)) return STATUS_OK;
  for (int i = SPLIT_ISOLATED; i <= SPLIT_CONTIGUOUS; i++) {
    *behavior = (SplitBehavior)i;
    if (strcmp(names[i], json_get_text(component, "behavior")) == 0) return STATUS_OK;
  }
  return status_fail(STATUS_BAD_INPUT, "%s: pre_tokenizer: the behavior `%.64s` is not supported", tokenizer->source,
                     json_get_text(component, "behavior"));
}

// Whitespace's \w+|[^\w\s]+ is read by Rust's regex library, whose \w has the two joiners.
#define WORD REGEX_WORD "\\x{200c}\\x{200d}"
static const char pattern_words[] = "[" WORD "]+|[^" WORD REGEX_SPACES "]+";

// A string as the regular expression that matches it alone.
static void quote_pattern(Buffer *out, const char *text) {
  for (; *text; text++) {
    bool special = strchr("\\^$.|?*+()[]{}&-#", *text) != NULL;
    buffer_format(out, "%s%c", special ? "\\" : "", *text);
  }
}

static Status read_split(Tokenizer *tokenizer, const json_t *component) {
  const json_t *pattern = json_object_get(component, "pattern");
  const char *regex = json_get_text(pattern, "Regex"), *string = json_get_text(pattern, "String");
  SplitBehavior behavior;
  TRY(get_behavior(tokenizer, component, SPLIT_ISOLATED, &behavior));
  if (!*regex && !*string) return json_fail(tokenizer, "pre_tokenizer", "Split has no pattern that is a Regex or a String");
  if (*regex)
    return status_context(tokenizer_add_split(tokenizer, regex, behavior, json_is_flag(component, "invert")), "%s: pre_tokenizer",
                          tokenizer->source);
  Buffer quoted = {0};
  quote_pattern(&quoted, string);
  Status status = tokenizer_add_split(tokenizer, quoted.data, behavior, json_is_flag(component, "invert"));
  buffer_release(&quoted);
  return status_context(status, "%s: pre_tokenizer", tokenizer->source);
}

static Status read_metaspace(Tokenizer *tokenizer, const json_t *component) {
  static const char *const schemes[] = {[PREPEND_NEVER] = "never", [PREPEND_FIRST] = "first", [PREPEND_ALWAYS] = "always"};
  const char *replacement = json_get_text(component, "replacement");
  size_t length = strlen(replacement);
  if (!length || (size_t)utf8_length((const unsigned char *)replacement, length) != length) {
    return json_fail(tokenizer, "pre_tokenizer", "Metaspace has no replacement of one character");
  }
  // The field of older files; it is always true where both stand.
  PrependScheme prepend = json_is_false(json_object_get(component, "add_prefix_space")) ? PREPEND_NEVER : PREPEND_ALWAYS;
  if (json_is_string(json_object_get(component, "prepend_scheme"))) {
    int scheme = PREPEND_NEVER;
    while (scheme <= PREPEND_ALWAYS && strcmp(schemes[scheme], json_get_text(component, "prepend_scheme")) != 0) scheme++;
    if (scheme > PREPEND_ALWAYS) return json_fail(tokenizer, "pre_tokenizer", "Metaspace has an unknown prepend_scheme");
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

// Words leave this stage in GPT-2's alphabet of bytes. As the last stage it leaves that to the model, which takes bytes as they are.
static Status read_byte_level(Tokenizer *tokenizer, const json_t *component) {
  tokenizer->decode.byte_level = true;
  if (json_is_flag(component, "add_prefix_space")) TRY(tokenizer_add_stage(tokenizer, (Stage){.kind = STAGE_PREFIX_SPACE}));
  if (!json_is_false(json_object_get(component, "use_regex"))) TRY(tokenizer_add_split(tokenizer, pattern_gpt2, SPLIT_ISOLATED, false));
  return tokenizer_add_stage(tokenizer, (Stage){.kind = STAGE_ALPHABET});
}

static Status read_punctuation(Tokenizer *tokenizer, const json_t *component) {
  SplitBehavior behavior;
  TRY(get_behavior(tokenizer, component, SPLIT_ISOLATED, &behavior));
  return tokenizer_add_split(tokenizer, pattern_punctuation, behavior, false);
}

static Status read_delimiter(Tokenizer *tokenizer, const json_t *component) {
  const char *delimiter = json_get_text(component, "delimiter");
  if (!*delimiter) return json_fail(tokenizer, "pre_tokenizer", "CharDelimiterSplit has no delimiter");
  Buffer quoted = {0};
  quote_pattern(&quoted, delimiter);
  Status status = tokenizer_add_split(tokenizer, quoted.data, SPLIT_REMOVED, false);
  buffer_release(&quoted);
  return status;
}

static Status read_stage(Tokenizer *tokenizer, const json_t *component) {
  if (json_is_absent(component)) return STATUS_OK;
  const char *type = json_get_text(component, "type");
  if (strcmp(type, "Sequence") == 0) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(component, "pretokenizers"), i, entry) TRY(read_stage(tokenizer, entry));
    return STATUS_OK;
  }
  if (strcmp(type, "Split") == 0) return read_split(tokenizer, component);
  if (strcmp(type, "ByteLevel") == 0) return read_byte_level(tokenizer, component);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(tokenizer, component);
  if (strcmp(type, "Digits") == 0) {
    return tokenizer_add_split(tokenizer, "\\p{N}", json_is_flag(component, "individual_digits") ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS,
                               false);
  }
  if (strcmp(type, "WhitespaceSplit") == 0) return tokenizer_add_split(tokenizer, "\\s", SPLIT_REMOVED, false);
  if (strcmp(type, "Whitespace") == 0) return tokenizer_add_plain_split(tokenizer, pattern_words, SPLIT_REMOVED, true);
  if (strcmp(type, "CharDelimiterSplit") == 0) return read_delimiter(tokenizer, component);
  if (strcmp(type, "Punctuation") == 0) return read_punctuation(tokenizer, component);
  if (strcmp(type, "BertPreTokenizer") == 0) {
    TRY(tokenizer_add_split(tokenizer, "\\s", SPLIT_REMOVED, false));
    return tokenizer_add_split(tokenizer, pattern_punctuation, SPLIT_ISOLATED, false);
  }
  return json_refuse_type(tokenizer, "pre_tokenizer", component);
}

Status json_read_pre_tokenizer(Tokenizer *tokenizer, const json_t *component) {
  Model *model = &tokenizer->model;
  TRY(read_stage(tokenizer, component));
  int last = tokenizer->stage_count - 1;
  // Affixes are characters that no byte is, so such a word has to be spelled out.
  if (last >= 0 && tokenizer->stages[last].kind == STAGE_ALPHABET && !model->prefix && !model->suffix) {
    model->kind = MODEL_BPE_BYTES;
    tokenizer->stage_count--;
  }
  for (int i = 0; i < tokenizer->step_count; i++) tokenizer->decode.byte_level |= tokenizer->steps[i].kind == NORMALIZE_ALPHABET;
  return STATUS_OK;
}
