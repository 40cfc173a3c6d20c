// Normalisation that looks at one character after another, as Hugging Face's tokenizers library does it (tokenizers/src/normalizers):
// capitals, marks, controls, BERT's cleaning and Chinese spacing, NMT's white space, and the alphabet of bytes.
#include <string.h>

#include <utf8proc.h>

#include "data/tokenizer/parts.h"

static bool is_space(utf8proc_int32_t point) {
  utf8proc_category_t category = utf8proc_category(point);
  return (point >= 9 && point <= 13) || point == 0x85 || (category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP);
}

static void put_point(Buffer *out, utf8proc_int32_t point) {
  utf8proc_uint8_t text[4];
  buffer_append(out, text, (size_t)utf8proc_encode_char(point, text));
}

// The full mapping of a character alone: U+0130 is the one whose small letter is two characters.
static void put_lowercase(Buffer *out, utf8proc_int32_t point) {
  if (point == 0x130) {
    buffer_append_string(out, "i\xCC\x87");
  } else {
    put_point(out, utf8proc_tolower(point));
  }
}

static void put_clean(Buffer *out, utf8proc_int32_t point) {
  utf8proc_category_t category = utf8proc_category(point);
  bool kept = point == '\t' || point == '\n' || point == '\r';
  bool other = category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
  if (point == 0 || point == 0xFFFD || (other && !kept)) return;
  put_point(out, is_space(point) ? ' ' : point);
}

static bool is_chinese(utf8proc_int32_t point) {
  // The fifth range begins where it does in the library.
  static const struct {
    utf8proc_int32_t first, last;
  } ranges[] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    if (point >= ranges[i].first && point <= ranges[i].last) return true;
  }
  return false;
}

static void put_spaced(Buffer *out, utf8proc_int32_t point) {
  bool chinese = is_chinese(point);
  if (chinese) buffer_append(out, " ", 1);
  put_point(out, point);
  if (chinese) buffer_append(out, " ", 1);
}

static void put_nmt(Buffer *out, utf8proc_int32_t point) {
  bool gone =
      (point >= 1 && point <= 8) || point == 0xB || (point >= 0xE && point <= 0x1F) || point == 0x7F || point == 0x8F || point == 0x9F;
  if (gone) return;
  bool space = point == 9 || point == 0xA || point == 0xC || point == 0xD || point == 0x1680 || (point >= 0x200B && point <= 0x200F) ||
               point == 0x2028 || point == 0x2029 || point == 0x2581 || point == 0xFEFF || point == 0xFFFD;
  put_point(out, space ? ' ' : point);
}

static bool is_mark(utf8proc_int32_t point, bool nonspacing_alone) {
  utf8proc_category_t category = utf8proc_category(point);
  if (nonspacing_alone) return category == UTF8PROC_CATEGORY_MN;
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
}

static void put_character(Buffer *out, NormalizeKind kind, utf8proc_int32_t point) {
  switch (kind) {
    case NORMALIZE_LOWERCASE: put_lowercase(out, point); break;
    case NORMALIZE_STRIP_MARKS:
    case NORMALIZE_STRIP_NONSPACING:
      if (!is_mark(point, kind == NORMALIZE_STRIP_NONSPACING)) put_point(out, point);
      break;
    case NORMALIZE_CLEAN: put_clean(out, point); break;
    case NORMALIZE_SPACE_CHINESE: put_spaced(out, point); break;
    case NORMALIZE_NMT: put_nmt(out, point); break;
    default: put_point(out, point);
  }
}

// White space at the ends goes: `text` and `length` become what is left.
static void strip(const char **text, size_t *length, const NormalizeStep *step) {
  utf8proc_int32_t point;
  while (step->left && *length) {
    utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)*text, (utf8proc_ssize_t)*length, &point);
    if (size <= 0 || !is_space(point)) break;
    *text += size;
    *length -= (size_t)size;
  }
  while (step->right && *length) {
    size_t begin = *length - 1;
    while (begin > 0 && ((uint8_t)(*text)[begin] & 0xC0) == 0x80) begin--;
    if (utf8proc_iterate((const utf8proc_uint8_t *)*text + begin, (utf8proc_ssize_t)(*length - begin), &point) <= 0 || !is_space(point))
      break;
    *length = begin;
  }
}

void normalize_characters(Buffer *out, const NormalizeStep *step, const char *text, size_t length) {
  if (step->kind == NORMALIZE_STRIP) {
    strip(&text, &length, step);
    buffer_append(out, text, length);
    return;
  }
  if (step->kind == NORMALIZE_ALPHABET) {
    for (size_t i = 0; i < length; i++) {
      char character[4];
      buffer_append(out, character, (size_t)byte_to_alphabet(character, (uint8_t)text[i]));
    }
    return;
  }
  while (length) {
    utf8proc_int32_t point;
    utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &point);
    if (size <= 0) return;  // normalised text is valid
    put_character(out, step->kind, point);
    text += size;
    length -= (size_t)size;
  }
}
