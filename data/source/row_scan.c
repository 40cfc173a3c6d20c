// Cutting text into rows, and a row's own bytes into an object.
#include "data/source/row_scan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

void row_scan_start(RowScan *scan, RowFormat format, const char *path) {
  *scan = (RowScan){.format = format, .path = memory_copy_string(path), .line = 1};
}

void row_scan_release(RowScan *scan) {
  for (int64_t i = 0; i < scan->column_count; i++) free(scan->columns[i]);
  free(scan->columns);
  free(scan->path);
  *scan = (RowScan){0};
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static int64_t count_lines(const char *text, size_t length) {
  int64_t lines = 0;
  for (const char *p = text, *end = text + length; (p = memchr(p, '\n', (size_t)(end - p))); p++) lines++;
  return lines;
}

// ---- Lines: JSON, and text

static ScanResult next_line(RowScan *scan, RowPlace *place, const char *text, size_t length, size_t *at, bool whole) {
  while (*at < length) {
    const char *newline = memchr(text + *at, '\n', length - *at);
    if (!newline && !whole) return SCAN_MORE;
    size_t begin = *at, end = newline ? (size_t)(newline - text) : length;
    int64_t line = scan->line;
    *at = end + (newline != NULL);
    scan->line += newline != NULL;
    size_t first = begin;
    while (first < end && is_space(text[first])) first++;
    if (first == end) continue;
    if (scan->format == ROWS_JSON) {
      begin = first;
      while (is_space(text[end - 1])) end--;
    } else if (text[end - 1] == '\r') {
      end--;
    }
    *place = (RowPlace){begin, end - begin, line};
    return SCAN_ROW;
  }
  return whole ? SCAN_END : SCAN_MORE;
}

// ---- A JSON array

// Where the value at `at` ends: at the first ',' or ']' outside of strings and brackets; `length` when neither is there.
static size_t element_end(const char *text, size_t at, size_t length) {
  int64_t depth = 0;
  bool quoted = false;
  for (; at < length; at++) {
    char c = text[at];
    if (quoted) {
      if (c == '\\') at++;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (depth == 0 && (c == ',' || c == ']')) {
      return at;
    } else if (c == '}' || c == ']') {
      depth--;
    }
  }
  return length;
}

static size_t skip_space(RowScan *scan, const char *text, size_t at, size_t length) {
  for (; at < length && is_space(text[at]); at++) scan->line += text[at] == '\n';
  return at;
}

static Status end_array(RowScan *scan, ScanResult *result, const char *text, size_t length, size_t *at, bool whole) {
  *at = skip_space(scan, text, *at, length);
  *result = whole ? SCAN_END : SCAN_MORE;
  if (*at == length) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": something stands behind the list of rows", scan->path, scan->line);
}

static Status next_element(RowScan *scan, ScanResult *result, RowPlace *place, const char *text, size_t length, size_t *at, bool whole) {
  if (scan->ended) return end_array(scan, result, text, length, at, whole);
  *at = skip_space(scan, text, *at, length);
  size_t begin = *at, end = begin < length ? element_end(text, begin, length) : length;
  if (end == length) {
    *result = SCAN_MORE;
    if (!whole) return STATUS_OK;
    return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": the list of rows does not end; the file may be cut short", scan->path,
                       scan->line);
  }
  if (end == begin && text[end] == ',')
    return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": a row is missing before ','", scan->path, scan->line);
  *place = (RowPlace){begin, end - begin, scan->line};
  while (place->length && is_space(text[begin + place->length - 1])) place->length--;
  scan->line += count_lines(text + begin, end - begin);
  scan->ended = text[end] == ']';
  *at = end + 1;
  *result = SCAN_ROW;
  return place->length ? STATUS_OK : end_array(scan, result, text, length, at, whole);  // []
}

// ---- CSV

typedef struct CsvField {
  Buffer text;
  bool quoted;
} CsvField;

// Reads one field at *at, and the separator behind it. False when the text ends within it. *last: the record ends here.
static bool csv_field(CsvField *field, const char *text, size_t length, size_t *at, bool whole, char separator, bool *last) {
  size_t i = *at;
  field->quoted = i < length && text[i] == '"';
  if (field->quoted) {
    for (i++;; i++) {
      const char *quote = i < length ? memchr(text + i, '"', length - i) : NULL;
      if (!quote) return false;
      buffer_append(&field->text, text + i, (size_t)(quote - text) - i);
      i = (size_t)(quote - text) + 1;
      if (i == length && !whole) return false;
      if (i == length || text[i] != '"') break;
      buffer_append(&field->text, "\"", 1);
    }
  }
  size_t begin = i;
  while (i < length && text[i] != separator && text[i] != '\n') i++;
  if (i == length && !whole) return false;
  size_t end = i;
  *last = i == length || text[i] == '\n';
  if (*last && end > begin && text[end - 1] == '\r') end--;
  buffer_append(&field->text, text + begin, end - begin);
  *at = i + (i < length);
  return true;
}

static char csv_separator(const RowScan *scan) { return scan->format == ROWS_TSV ? '\t' : ','; }

static bool csv_line_is_blank(const char *text, size_t length, size_t at) {
  return at < length && (text[at] == '\n' || (text[at] == '\r' && at + 1 < length && text[at + 1] == '\n'));
}

// Where the record at `at` ends, its newline included; `at` itself when the text ends within it.
static size_t csv_record_end(const RowScan *scan, const char *text, size_t length, size_t at, bool whole) {
  CsvField field = {0};
  size_t end = at;
  bool last = false, good = true;
  while (good && !last) {
    field.text.length = 0;
    good = csv_field(&field, text, length, &end, whole, csv_separator(scan), &last);
  }
  buffer_release(&field.text);
  return good ? end : at;
}

static Status csv_read_columns(RowScan *scan, const char *text, size_t length) {
  size_t at = 0;
  CsvField field = {0};
  Status status = STATUS_OK;
  for (bool last = false; !last && status == STATUS_OK;) {
    field.text.length = 0;
    csv_field(&field, text, length, &at, true, csv_separator(scan), &last);
    const char *name = field.text.length ? field.text.data : "";
    for (int64_t i = 0; i < scan->column_count && status == STATUS_OK; i++)
      if (*name && strcmp(scan->columns[i], name) == 0)
        status =
            status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": column \"%s\" stands twice in the first record", scan->path, scan->line, name);
    ARRAY_PUSH(scan->columns, scan->column_count, scan->column_capacity) = memory_copy_string(name);
  }
  buffer_release(&field.text);
  return status;
}

static Status next_record(RowScan *scan, ScanResult *result, RowPlace *place, const char *text, size_t length, size_t *at, bool whole) {
  for (;;) {
    while (csv_line_is_blank(text, length, *at)) {
      *at += text[*at] == '\n' ? 1 : 2;
      scan->line++;
    }
    if (*at == length) {
      *result = whole ? SCAN_END : SCAN_MORE;
      return STATUS_OK;
    }
    size_t begin = *at, end = csv_record_end(scan, text, length, begin, whole);
    *result = SCAN_MORE;
    if (end == begin && !whole) return STATUS_OK;
    if (end == begin) return status_fail(STATUS_BAD_INPUT, "%s:%" PRId64 ": a quoted field does not end", scan->path, scan->line);
    bool header = scan->column_count == 0;
    if (header) TRY(csv_read_columns(scan, text + begin, end - begin));
    *place = (RowPlace){begin, end - begin, scan->line};
    *result = SCAN_ROW;
    *at = end;
    scan->line += count_lines(text + begin, end - begin);
    if (!header) return STATUS_OK;
  }
}

// The row may end in its newline, which the scan leaves with it.
static Status csv_parse(json_t **row, const RowScan *scan, const char *text, size_t length) {
  size_t at = 0;
  int64_t count = 0;
  CsvField field = {0};
  Status status = STATUS_OK;
  *row = json_object();
  for (bool last = false; !last && status == STATUS_OK; count++) {
    field.text.length = 0;
    buffer_append(&field.text, "", 0);
    if (!csv_field(&field, text, length, &at, true, csv_separator(scan), &last)) {
      status = status_fail(STATUS_BAD_INPUT, "a quoted field does not end");
    } else if (count >= scan->column_count) {
      status = status_fail(STATUS_BAD_INPUT, "it has more fields than the first record's %" PRId64 " columns", scan->column_count);
    } else {
      json_t *value = field.text.length == 0 && !field.quoted ? json_null() : json_stringn(field.text.data, field.text.length);
      if (!value) status = status_fail(STATUS_BAD_INPUT, "column \"%s\" is not UTF-8", scan->columns[count]);
      else json_object_set_new(*row, scan->columns[count], value);
    }
  }
  for (; status == STATUS_OK && count < scan->column_count; count++) json_object_set_new(*row, scan->columns[count], json_null());
  buffer_release(&field.text);
  if (status == STATUS_OK) return STATUS_OK;
  json_decref(*row);
  *row = NULL;
  return status;
}

// ---- Any format

// The mark of an encoding or of another form at the very start of a file.
static Status read_mark(RowScan *scan, bool *enough, const char *text, size_t length, size_t *at, bool whole) {
  *enough = whole || length - *at >= 4;
  if (!*enough) return STATUS_OK;
  const char *p = text + *at;
  size_t rest = length - *at;
  if (rest >= 2 && (memcmp(p, "\xFF\xFE", 2) == 0 || memcmp(p, "\xFE\xFF", 2) == 0))
    return status_fail(STATUS_BAD_INPUT, "%s: the file is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE", scan->path);
  if (rest >= 4 && memcmp(p, "PAR1", 4) == 0)
    return status_fail(STATUS_BAD_INPUT, "%s: the file is Parquet, whatever its name says", scan->path);
  if (rest >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0) *at += 3;
  scan->past_mark = true;
  return STATUS_OK;
}

// What begins a file: a byte order mark, and in JSON the bracket of an array. *enough false: more text is needed.
static Status start(RowScan *scan, bool *enough, const char *text, size_t length, size_t *at, bool whole) {
  if (!scan->past_mark) TRY(read_mark(scan, enough, text, length, at, whole));
  if (!scan->past_mark) return STATUS_OK;
  if (scan->format == ROWS_JSON) {
    *at = skip_space(scan, text, *at, length);
    *enough = whole || *at < length;
    scan->is_array = *at < length && text[*at] == '[';
    *at += scan->is_array;
  }
  scan->started = *enough;
  return STATUS_OK;
}

Status row_scan_next(RowScan *scan, ScanResult *result, RowPlace *place, const char *text, size_t length, size_t *at, bool whole) {
  bool enough = true;
  if (!scan->started) TRY(start(scan, &enough, text, length, at, whole));
  *result = SCAN_MORE;
  if (!enough) return STATUS_OK;
  if (scan->is_array) return next_element(scan, result, place, text, length, at, whole);
  if (scan->format == ROWS_CSV || scan->format == ROWS_TSV) return next_record(scan, result, place, text, length, at, whole);
  *result = next_line(scan, place, text, length, at, whole);
  return STATUS_OK;
}

Status row_parse(json_t **row, const RowScan *scan, const char *text, size_t length) {
  *row = NULL;
  if (scan->format == ROWS_CSV || scan->format == ROWS_TSV) return csv_parse(row, scan, text, length);
  if (scan->format == ROWS_TEXT) {
    json_t *value = json_stringn(text, length);
    if (!value) return status_fail(STATUS_BAD_INPUT, "it is not UTF-8");
    *row = json_pack("{s:o}", "text", value);
    return STATUS_OK;
  }
  json_error_t error;
  *row = json_loadb(text, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
  if (*row) return STATUS_OK;
  bool is_part = length == 1 && (*text == '{' || *text == '}');  // of an object that is written over several lines
  return status_fail(STATUS_BAD_INPUT, "not JSON: %s%s", error.text,
                     is_part ? "; write each row on one line, or all of them in one list [...]" : "");
}
