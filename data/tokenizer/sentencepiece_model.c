// A tokenizer from the `tokenizer.model` of older folders: a SentencePiece model, which is a protocol buffer (google/sentencepiece,
// src/sentencepiece_model.proto; the wire format: https://protobuf.dev/programming-guides/encoding). Of its models BPE is read; what would
// change a text in a way that is not done here is refused by name.
#include <inttypes.h>
#include <string.h>

#include "core/text.h"
#include "data/tokenizer/parts.h"
#include "data/tokenizer/sentencepiece.h"

#define REMEDY "write a tokenizer.json with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers"

// ---- The wire format ----

typedef struct Field {
  uint32_t number, kind;
  uint64_t value;  // of a varint or a fixed-width field
  const uint8_t *data;  // of a length-delimited one
  size_t length;
} Field;

typedef struct Reader {
  const char *name;
  const uint8_t *begin, *at, *end;  // `begin` is the file's
} Reader;

static Status truncated(const Reader *reader) {
  return status_fail(STATUS_BAD_INPUT, "%s: not a SentencePiece model: a field breaks off or has no sense at byte %td; " REMEDY,
                     reader->name, reader->at - reader->begin);
}

static Status read_varint(uint64_t *value, Reader *reader) {
  *value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (reader->at == reader->end) return truncated(reader);
    uint8_t byte = *reader->at++;
    *value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return STATUS_OK;
  }
  return truncated(reader);
}

static Status read_fixed(uint64_t *value, Reader *reader, size_t width) {
  if ((size_t)(reader->end - reader->at) < width) return truncated(reader);
  *value = 0;
  for (size_t i = 0; i < width; i++) *value |= (uint64_t)reader->at[i] << 8 * i;
  reader->at += width;
  return STATUS_OK;
}

enum { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };

static Status read_field(Field *field, Reader *reader) {
  uint64_t tag;
  *field = (Field){0};
  TRY(read_varint(&tag, reader));
  if (tag >> 3 == 0 || tag >> 3 > UINT32_MAX) return truncated(reader);
  field->number = (uint32_t)(tag >> 3);
  field->kind = (uint32_t)(tag & 7);
  switch (field->kind) {
    case WIRE_VARINT: return read_varint(&field->value, reader);
    case WIRE_64: return read_fixed(&field->value, reader, 8);
    case WIRE_32: return read_fixed(&field->value, reader, 4);
    case WIRE_BYTES:
      TRY(read_varint(&field->value, reader));
      if (field->value > (size_t)(reader->end - reader->at)) return truncated(reader);
      field->data = reader->at;
      field->length = (size_t)field->value;
      reader->at += field->length;
      return STATUS_OK;
    default: return truncated(reader);
  }
}

static Reader inside(const Reader *reader, const Field *field) {
  return (Reader){.name = reader->name, .begin = reader->begin, .at = field->data, .end = field->data + field->length};
}

static bool is_number(const Field *field, uint32_t number) { return field->number == number && field->kind == WIRE_VARINT; }
static bool is_bytes(const Field *field, uint32_t number) { return field->number == number && field->kind == WIRE_BYTES; }

// ---- The model ----

typedef struct Piece {
  const char *text;
  size_t length;
  float score;
  uint64_t type;
} Piece;

typedef struct PieceModel {
  Piece *pieces;
  size_t count, capacity;
  uint64_t kind;
  int32_t unknown, bos, eos, pad;
  bool whitespace_suffix, dummy_prefix, remove_extra, escape, charsmap;
  char rule[64];  // the name of the normalisation
} PieceModel;

static Status read_piece(PieceModel *model, Reader reader) {
  Piece piece = {.text = "", .type = TOKEN_NORMAL};
  while (reader.at < reader.end) {
    Field field;
    TRY(read_field(&field, &reader));
    if (is_bytes(&field, 1)) piece.text = (const char *)field.data, piece.length = field.length;
    if (field.number == 2 && field.kind == WIRE_32) memcpy(&piece.score, &(uint32_t){(uint32_t)field.value}, sizeof piece.score);
    if (is_number(&field, 3)) piece.type = field.value;
  }
  ARRAY_PUSH(model->pieces, model->count, model->capacity) = piece;
  return STATUS_OK;
}

static Status read_trainer(PieceModel *model, Reader reader) {
  while (reader.at < reader.end) {
    Field field;
    TRY(read_field(&field, &reader));
    if (is_number(&field, 3)) model->kind = field.value;
    if (is_number(&field, 24)) model->whitespace_suffix = field.value;
    if (is_number(&field, 40)) model->unknown = (int32_t)field.value;
    if (is_number(&field, 41)) model->bos = (int32_t)field.value;
    if (is_number(&field, 42)) model->eos = (int32_t)field.value;
    if (is_number(&field, 43)) model->pad = (int32_t)field.value;
  }
  return STATUS_OK;
}

static Status read_normalizer(PieceModel *model, Reader reader) {
  while (reader.at < reader.end) {
    Field field;
    TRY(read_field(&field, &reader));
    if (is_bytes(&field, 1)) snprintf(model->rule, sizeof model->rule, "%.*s", (int)(field.length < 60 ? field.length : 60), field.data);
    if (is_bytes(&field, 2)) model->charsmap = field.length > 0;
    if (is_number(&field, 3)) model->dummy_prefix = field.value;
    if (is_number(&field, 4)) model->remove_extra = field.value;
    if (is_number(&field, 5)) model->escape = field.value;
  }
  return STATUS_OK;
}

static Status read_model(PieceModel *model, Reader reader) {
  while (reader.at < reader.end) {
    Field field;
    TRY(read_field(&field, &reader));
    if (is_bytes(&field, 1)) TRY(read_piece(model, inside(&reader, &field)));
    if (is_bytes(&field, 2)) TRY(read_trainer(model, inside(&reader, &field)));
    if (is_bytes(&field, 3)) TRY(read_normalizer(model, inside(&reader, &field)));
  }
  return STATUS_OK;
}

static Status check_model(const PieceModel *model, const char *name) {
  enum { KIND_BPE = 2 };
  static const char *const kinds[] = {"an unknown kind", "Unigram", "BPE", "Word", "Char"};
  if (model->kind != KIND_BPE) {
    return status_fail(STATUS_BAD_INPUT, "%s: the model is %s; of SentencePiece's models only BPE is supported: take another model", name,
                       kinds[model->kind < 5 ? model->kind : 0]);
  }
  if (model->charsmap) {
    return status_fail(STATUS_BAD_INPUT, "%s: texts are normalised by the rule `%s`; only `identity` is supported: take another model",
                       name, model->rule);
  }
  if (model->whitespace_suffix || !model->escape) {
    return status_fail(STATUS_BAD_INPUT, "%s: spaces as suffixes, or not written as U+2581, are not supported: take another model", name);
  }
  if (model->count == 0 || model->count > INT32_MAX / 2) return status_fail(STATUS_BAD_INPUT, "%s: the model has no pieces", name);
  return STATUS_OK;
}

static Status set_pieces(Tokenizer *tokenizer, const PieceModel *model, int64_t rows) {
  tokenizer->size = rows > (int64_t)model->count ? rows : (int64_t)model->count;
  tokenizer->tokens = memory_new((size_t)tokenizer->size, sizeof *tokenizer->tokens);
  for (size_t i = 0; i < model->count; i++) {
    const Piece *piece = &model->pieces[i];
    if (piece->type < TOKEN_NORMAL || piece->type > TOKEN_BYTE || piece->type == TOKEN_UNUSED || piece->length == 0) {
      return status_fail(STATUS_BAD_INPUT, "%s: the piece %zu is of type %" PRIu64 " (unused pieces are not supported) or empty; " REMEDY,
                         tokenizer->source, i, piece->type);
    }
    TRY(tokenizer_set_token(tokenizer, (int32_t)i, piece->text, piece->length, (TokenType)piece->type));
    Token *token = &tokenizer->tokens[i];
    token->added = token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN || token->type == TOKEN_USER_DEFINED;
    token->normalized = token->type == TOKEN_USER_DEFINED;  // pieces are looked for in the normalised text
    if (token->type == TOKEN_BYTE && byte_token_value(token) < 0)
      return status_fail(STATUS_BAD_INPUT, "%s: the piece %zu is a byte, but not written <0x00> to <0xFF>", tokenizer->source, i);
    if (token->type == TOKEN_BYTE) tokenizer->model.byte_fallback = true;
  }
  return STATUS_OK;
}

// White space that SentencePiece takes away: spaces at the ends, at the last one U+2581 too, and all but one space between words.
static Status remove_extra_spaces(Tokenizer *tokenizer) {
  static const struct { const char *pattern, *to; } steps[] = {{"\\A +|[ \\x{2581}]+\\z", ""}, {" {2,}", " "}};
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    pcre2_code *code;
    TRY(regex_compile_plain(&code, steps[i].pattern));
    tokenizer_add_step(tokenizer,
                       (NormalizeStep){.kind = NORMALIZE_REPLACE_PATTERN, .from = steps[i].pattern, .to = steps[i].to, .code = code});
  }
  return STATUS_OK;
}

static int32_t special_id(const PieceModel *model, int32_t id) { return id >= 0 && (size_t)id < model->count ? id : -1; }

static Status fill(Tokenizer *tokenizer, const PieceModel *model, int64_t rows) {
  TRY(check_model(model, tokenizer->source));
  if (model->remove_extra) TRY(remove_extra_spaces(tokenizer));
  TRY(set_pieces(tokenizer, model, rows));
  bool byte_fallback = tokenizer->model.byte_fallback;
  tokenizer_set_spaces(tokenizer, model->dummy_prefix);
  tokenizer->model.byte_fallback = byte_fallback;
  tokenizer->texts_are_normal = true;
  tokenizer->unknown = tokenizer->model.unknown = special_id(model, model->unknown);
  tokenizer->bos = special_id(model, model->bos);
  tokenizer->eos = special_id(model, model->eos);
  tokenizer->pad = special_id(model, model->pad);
  float *scores = memory_new((size_t)tokenizer->size, sizeof *scores);
  for (size_t i = 0; i < model->count; i++) scores[i] = model->pieces[i].score;
  Status status = spm_set_merges(tokenizer, scores);
  free(scores);
  return status;
}

Status sentencepiece_read(Tokenizer *tokenizer, const uint8_t *data, size_t length, int64_t rows) {
  // The defaults of the format.
  PieceModel model = {.kind = 1, .bos = 1, .eos = 2, .pad = -1, .dummy_prefix = true, .remove_extra = true, .escape = true};
  Status status = read_model(&model, (Reader){.name = tokenizer->source, .begin = data, .at = data, .end = data + length});
  if (status == STATUS_OK) status = fill(tokenizer, &model, rows);
  free(model.pieces);
  return status;
}

Status tokenizer_from_sentencepiece(Tokenizer **out, const char *name, const uint8_t *data, size_t length) {
  Tokenizer *tokenizer = tokenizer_new(name);
  Status status = sentencepiece_read(tokenizer, data, length, 0);
  if (status == STATUS_OK) status = tokenizer_finish(tokenizer);
  *out = status == STATUS_OK ? tokenizer : NULL;
  if (status != STATUS_OK) tokenizer_free(tokenizer);
  return status;
}
