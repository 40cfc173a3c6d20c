// Python's classes of characters (str.isspace, str.isalpha, ...) and its case mappings, from utf8proc's tables of the Unicode
// character database, and from SpecialCasing.txt for the characters whose upper or title case is several characters.
#include <string.h>

#include <utf8proc.h>

#include "data/jinja/parts.h"

typedef struct PointRange {
  int32_t first, last;
} PointRange;

static bool in_ranges(const PointRange *ranges, size_t count, int32_t point) {
  for (size_t i = 0; i < count; i++)
    if (point >= ranges[i].first && point <= ranges[i].last) return true;
  return false;
}

#define IN_RANGES(ranges, point) in_ranges((ranges), sizeof(ranges) / sizeof *(ranges), (point))

size_t space_length(const char *p, size_t available) {
  unsigned char c = available ? (unsigned char)*p : 0;
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  utf8proc_int32_t point;
  utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)available, &point);
  return size > 0 && point_is_space(point) ? (size_t)size : 0;
}

bool point_is_space(int32_t point) {
  static const PointRange spaces[] = {{9, 13},          {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
                                      {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
  return IN_RANGES(spaces, point);
}

bool point_is_line_end(int32_t point) {
  static const PointRange ends[] = {{10, 13}, {0x1C, 0x1E}, {0x85, 0x85}, {0x2028, 0x2029}};
  return IN_RANGES(ends, point);
}

bool point_is_printable(int32_t point) {
  if (point < 0x7F) return point >= 0x20;
  utf8proc_category_t category = utf8proc_category(point);
  return category != UTF8PROC_CATEGORY_CC && category != UTF8PROC_CATEGORY_CF && category != UTF8PROC_CATEGORY_CS &&
         category != UTF8PROC_CATEGORY_CO && category != UTF8PROC_CATEGORY_CN && category != UTF8PROC_CATEGORY_ZL &&
         category != UTF8PROC_CATEGORY_ZP && category != UTF8PROC_CATEGORY_ZS;
}

bool point_is_alphabetic(int32_t point) {
  if (point < 0x80) return (point | 0x20) >= 'a' && (point | 0x20) <= 'z';
  utf8proc_category_t category = utf8proc_category(point);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool point_is_decimal(int32_t point) { return utf8proc_category(point) == UTF8PROC_CATEGORY_ND; }

// Numeric_Type=Digit beyond the decimals: superscripts, subscripts and numbers in circles.
bool point_is_digit(int32_t point) {
  static const PointRange digits[] = {{0xB2, 0xB3},     {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},   {0x2070, 0x2070},
                                      {0x2074, 0x2079}, {0x2080, 0x2089},   {0x2460, 0x2468},   {0x2474, 0x247C},   {0x2488, 0x2490},
                                      {0x24EA, 0x24EA}, {0x24F5, 0x24FD},   {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},
                                      {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
  return point_is_decimal(point) || IN_RANGES(digits, point);
}

// The numerals among the ideographs are letters by category.
bool point_is_numeric(int32_t point) {
  static const int32_t ideographs[] = {0x3405, 0x3483, 0x382A, 0x3B4D, 0x4E00, 0x4E03, 0x4E07, 0x4E09, 0x4E5D, 0x4E8C, 0x4E94, 0x4E96,
                                       0x4EBF, 0x4EC0, 0x4EDF, 0x4EE8, 0x4F0D, 0x4F70, 0x5104, 0x5146, 0x5169, 0x516B, 0x516D, 0x5341,
                                       0x5343, 0x5344, 0x5345, 0x534C, 0x53C1, 0x53C2, 0x53C3, 0x53C4, 0x56DB, 0x58F1, 0x58F9, 0x5E7A,
                                       0x5EFE, 0x5EFF, 0x5F0C, 0x5F0D, 0x5F0E, 0x5F10, 0x62FE, 0x634C, 0x67D2, 0x6F06, 0x7396, 0x767E,
                                       0x8086, 0x842C, 0x8CAE, 0x8CB3, 0x8D30, 0x9621, 0x9646, 0x964C, 0x9678, 0x96F6};
  utf8proc_category_t category = utf8proc_category(point);
  if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return true;
  for (size_t i = 0; i < sizeof ideographs / sizeof *ideographs; i++)
    if (ideographs[i] == point) return true;
  return false;
}

// The property Lowercase: the category Ll and Other_Lowercase.
bool point_is_lower(int32_t point) {
  static const PointRange others[] = {{0xAA, 0xAA},     {0xBA, 0xBA},     {0x2B0, 0x2B8},   {0x2C0, 0x2C1},   {0x2E0, 0x2E4},
                                      {0x345, 0x345},   {0x37A, 0x37A},   {0x1D2C, 0x1D6A}, {0x1D78, 0x1D78}, {0x1D9B, 0x1DBF},
                                      {0x2071, 0x2071}, {0x207F, 0x207F}, {0x2090, 0x209C}, {0x2170, 0x217F}, {0x24D0, 0x24E9},
                                      {0x2C7C, 0x2C7D}, {0xA69C, 0xA69D}, {0xA770, 0xA770}, {0xA7F8, 0xA7F9}, {0xAB5C, 0xAB5F}};
  if (point < 0x80) return point >= 'a' && point <= 'z';
  return utf8proc_category(point) == UTF8PROC_CATEGORY_LL || IN_RANGES(others, point);
}

bool point_is_upper(int32_t point) {
  static const PointRange others[] = {{0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
  if (point < 0x80) return point >= 'A' && point <= 'Z';
  return utf8proc_category(point) == UTF8PROC_CATEGORY_LU || IN_RANGES(others, point);
}

bool point_is_title(int32_t point) { return utf8proc_category(point) == UTF8PROC_CATEGORY_LT; }

bool point_is_word(int32_t point) {  // \w of Python's regular expressions
  return point == '_' || point_is_alphabetic(point) || point_is_numeric(point);
}

int encode_point(char out[4], int32_t point) { return (int)utf8proc_encode_char(point, (utf8proc_uint8_t *)out); }

// ---- Cases.

typedef struct SpecialCase {
  uint16_t point, upper[3], title[3];
} SpecialCase;

static const SpecialCase special_cases[] = {
    {0xDF, {0x53, 0x53}, {0x53, 0x73}},
    {0x149, {0x2BC, 0x4E}, {0x2BC, 0x4E}},
    {0x1F0, {0x4A, 0x30C}, {0x4A, 0x30C}},
    {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x3B0, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}},
    {0x587, {0x535, 0x552}, {0x535, 0x582}},
    {0x1E96, {0x48, 0x331}, {0x48, 0x331}},
    {0x1E97, {0x54, 0x308}, {0x54, 0x308}},
    {0x1E98, {0x57, 0x30A}, {0x57, 0x30A}},
    {0x1E99, {0x59, 0x30A}, {0x59, 0x30A}},
    {0x1E9A, {0x41, 0x2BE}, {0x41, 0x2BE}},
    {0x1F50, {0x3A5, 0x313}, {0x3A5, 0x313}},
    {0x1F52, {0x3A5, 0x313, 0x300}, {0x3A5, 0x313, 0x300}},
    {0x1F54, {0x3A5, 0x313, 0x301}, {0x3A5, 0x313, 0x301}},
    {0x1F56, {0x3A5, 0x313, 0x342}, {0x3A5, 0x313, 0x342}},
    {0x1F80, {0x1F08, 0x399}, {0x1F88}},
    {0x1F81, {0x1F09, 0x399}, {0x1F89}},
    {0x1F82, {0x1F0A, 0x399}, {0x1F8A}},
    {0x1F83, {0x1F0B, 0x399}, {0x1F8B}},
    {0x1F84, {0x1F0C, 0x399}, {0x1F8C}},
    {0x1F85, {0x1F0D, 0x399}, {0x1F8D}},
    {0x1F86, {0x1F0E, 0x399}, {0x1F8E}},
    {0x1F87, {0x1F0F, 0x399}, {0x1F8F}},
    {0x1F88, {0x1F08, 0x399}, {0x1F88}},
    {0x1F89, {0x1F09, 0x399}, {0x1F89}},
    {0x1F8A, {0x1F0A, 0x399}, {0x1F8A}},
    {0x1F8B, {0x1F0B, 0x399}, {0x1F8B}},
    {0x1F8C, {0x1F0C, 0x399}, {0x1F8C}},
    {0x1F8D, {0x1F0D, 0x399}, {0x1F8D}},
    {0x1F8E, {0x1F0E, 0x399}, {0x1F8E}},
    {0x1F8F, {0x1F0F, 0x399}, {0x1F8F}},
    {0x1F90, {0x1F28, 0x399}, {0x1F98}},
    {0x1F91, {0x1F29, 0x399}, {0x1F99}},
    {0x1F92, {0x1F2A, 0x399}, {0x1F9A}},
    {0x1F93, {0x1F2B, 0x399}, {0x1F9B}},
    {0x1F94, {0x1F2C, 0x399}, {0x1F9C}},
    {0x1F95, {0x1F2D, 0x399}, {0x1F9D}},
    {0x1F96, {0x1F2E, 0x399}, {0x1F9E}},
    {0x1F97, {0x1F2F, 0x399}, {0x1F9F}},
    {0x1F98, {0x1F28, 0x399}, {0x1F98}},
    {0x1F99, {0x1F29, 0x399}, {0x1F99}},
    {0x1F9A, {0x1F2A, 0x399}, {0x1F9A}},
    {0x1F9B, {0x1F2B, 0x399}, {0x1F9B}},
    {0x1F9C, {0x1F2C, 0x399}, {0x1F9C}},
    {0x1F9D, {0x1F2D, 0x399}, {0x1F9D}},
    {0x1F9E, {0x1F2E, 0x399}, {0x1F9E}},
    {0x1F9F, {0x1F2F, 0x399}, {0x1F9F}},
    {0x1FA0, {0x1F68, 0x399}, {0x1FA8}},
    {0x1FA1, {0x1F69, 0x399}, {0x1FA9}},
    {0x1FA2, {0x1F6A, 0x399}, {0x1FAA}},
    {0x1FA3, {0x1F6B, 0x399}, {0x1FAB}},
    {0x1FA4, {0x1F6C, 0x399}, {0x1FAC}},
    {0x1FA5, {0x1F6D, 0x399}, {0x1FAD}},
    {0x1FA6, {0x1F6E, 0x399}, {0x1FAE}},
    {0x1FA7, {0x1F6F, 0x399}, {0x1FAF}},
    {0x1FA8, {0x1F68, 0x399}, {0x1FA8}},
    {0x1FA9, {0x1F69, 0x399}, {0x1FA9}},
    {0x1FAA, {0x1F6A, 0x399}, {0x1FAA}},
    {0x1FAB, {0x1F6B, 0x399}, {0x1FAB}},
    {0x1FAC, {0x1F6C, 0x399}, {0x1FAC}},
    {0x1FAD, {0x1F6D, 0x399}, {0x1FAD}},
    {0x1FAE, {0x1F6E, 0x399}, {0x1FAE}},
    {0x1FAF, {0x1F6F, 0x399}, {0x1FAF}},
    {0x1FB2, {0x1FBA, 0x399}, {0x1FBA, 0x345}},
    {0x1FB3, {0x391, 0x399}, {0x1FBC}},
    {0x1FB4, {0x386, 0x399}, {0x386, 0x345}},
    {0x1FB6, {0x391, 0x342}, {0x391, 0x342}},
    {0x1FB7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}},
    {0x1FBC, {0x391, 0x399}, {0x1FBC}},
    {0x1FC2, {0x1FCA, 0x399}, {0x1FCA, 0x345}},
    {0x1FC3, {0x397, 0x399}, {0x1FCC}},
    {0x1FC4, {0x389, 0x399}, {0x389, 0x345}},
    {0x1FC6, {0x397, 0x342}, {0x397, 0x342}},
    {0x1FC7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}},
    {0x1FCC, {0x397, 0x399}, {0x1FCC}},
    {0x1FD2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
    {0x1FD3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x1FD6, {0x399, 0x342}, {0x399, 0x342}},
    {0x1FD7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}},
    {0x1FE2, {0x3A5, 0x308, 0x300}, {0x3A5, 0x308, 0x300}},
    {0x1FE3, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}},
    {0x1FE4, {0x3A1, 0x313}, {0x3A1, 0x313}},
    {0x1FE6, {0x3A5, 0x342}, {0x3A5, 0x342}},
    {0x1FE7, {0x3A5, 0x308, 0x342}, {0x3A5, 0x308, 0x342}},
    {0x1FF2, {0x1FFA, 0x399}, {0x1FFA, 0x345}},
    {0x1FF3, {0x3A9, 0x399}, {0x1FFC}},
    {0x1FF4, {0x38F, 0x399}, {0x38F, 0x345}},
    {0x1FF6, {0x3A9, 0x342}, {0x3A9, 0x342}},
    {0x1FF7, {0x3A9, 0x342, 0x399}, {0x3A9, 0x342, 0x345}},
    {0x1FFC, {0x3A9, 0x399}, {0x1FFC}},
    {0xFB00, {0x46, 0x46}, {0x46, 0x66}},
    {0xFB01, {0x46, 0x49}, {0x46, 0x69}},
    {0xFB02, {0x46, 0x4C}, {0x46, 0x6C}},
    {0xFB03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
    {0xFB04, {0x46, 0x46, 0x4C}, {0x46, 0x66, 0x6C}},
    {0xFB05, {0x53, 0x54}, {0x53, 0x74}},
    {0xFB06, {0x53, 0x54}, {0x53, 0x74}},
    {0xFB13, {0x544, 0x546}, {0x544, 0x576}},
    {0xFB14, {0x544, 0x535}, {0x544, 0x565}},
    {0xFB15, {0x544, 0x53B}, {0x544, 0x56B}},
    {0xFB16, {0x54E, 0x546}, {0x54E, 0x576}},
    {0xFB17, {0x544, 0x53D}, {0x544, 0x56D}},
};

static const SpecialCase *find_special(int32_t point) {
  if (point < 0xDF) return NULL;
  for (size_t i = 0; i < sizeof special_cases / sizeof *special_cases; i++)
    if (special_cases[i].point == point) return &special_cases[i];
  return NULL;
}

static bool is_case_ignorable(int32_t point) {
  utf8proc_category_t category = utf8proc_category(point);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME || category == UTF8PROC_CATEGORY_CF ||
         category == UTF8PROC_CATEGORY_LM || category == UTF8PROC_CATEGORY_SK || point == '\'' || point == '.' || point == ':' ||
         point == 0xB7 || point == 0x2018 || point == 0x2019 || point == 0x2024 || point == 0x2027;
}

static bool is_cased(int32_t point) { return point_is_lower(point) || point_is_upper(point) || point_is_title(point); }

// The sigma at `offset` ends a word: a cased letter stands before it and none behind it.
static bool is_final_sigma(const String *string, size_t offset) {
  size_t length, at = offset;
  int32_t point = 0;
  bool cased = false;
  while (at > 0) {
    do at--;
    while (at > 0 && ((unsigned char)string->bytes[at] & 0xC0) == 0x80);
    point = string_point(string, at, &length);
    if (is_case_ignorable(point)) continue;
    cased = is_cased(point);
    break;
  }
  if (!cased) return false;
  string_point(string, offset, &length);
  for (at = offset + length; at < string->length; at += length) {
    point = string_point(string, at, &length);
    if (!is_case_ignorable(point)) return !is_cased(point);
  }
  return true;
}

// The code points of a character in another case; their count.
static int map_case(int32_t out[4], const String *string, size_t offset, int32_t point, LetterCase letter_case) {
  const SpecialCase *special = find_special(point);
  out[0] = point;
  if ((letter_case == CASE_UPPER || letter_case == CASE_TITLE) && special) {
    const uint16_t *points = letter_case == CASE_UPPER ? special->upper : special->title;
    int count = 0;
    for (; count < 3 && points[count]; count++) out[count] = points[count];
    return count;
  }
  switch (letter_case) {
    case CASE_UPPER: out[0] = utf8proc_toupper(point); return 1;
    case CASE_TITLE: out[0] = utf8proc_totitle(point); return 1;
    case CASE_LOWER:
      if (point == 0x130) {
        out[0] = 'i', out[1] = 0x307;
        return 2;
      }
      out[0] = point == 0x3A3 && is_final_sigma(string, offset) ? 0x3C2 : utf8proc_tolower(point);
      return 1;
    default: {
      int boundary = 0;
      utf8proc_int32_t folded[4];
      utf8proc_ssize_t count = utf8proc_decompose_char(point, folded, 4, UTF8PROC_CASEFOLD, &boundary);
      for (utf8proc_ssize_t i = 0; i < count && i < 4; i++) out[i] = folded[i];
      return count > 0 && count <= 4 ? (int)count : 1;
    }
  }
}

// Each new byte has the origin of the byte at its place in the old character, the last one's where the new one is longer.
void builder_cased(Builder *builder, const String *string, size_t begin, size_t end, LetterCase letter_case) {
  for (size_t at = begin, length; at < end; at += length) {
    int32_t point = string_point(string, at, &length), points[4];
    char text[4];
    int count = map_case(points, string, at, point, letter_case);
    for (int i = 0, written = 0; i < count; i++) {
      int size = encode_point(text, points[i]);
      for (int b = 0; b < size; b++, written++)
        builder_byte_of(builder, text[b], string_origin(string, at + ((size_t)written < length ? (size_t)written : length - 1)));
    }
  }
}
