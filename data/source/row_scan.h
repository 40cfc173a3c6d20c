// Rows in the text of a data file, found without parsing them:
//   json  one value a line, or the elements of one array (the first character tells)
//   csv   RFC 4180: the first record names the columns; a quoted field may hold newlines; tsv: the same with tabs
//   text  a row {"text": ...} a line; blank lines are none
// The text may come in pieces: a scan that needs more of it says so and has taken nothing.
#ifndef DATA_SOURCE_ROW_SCAN_H
#define DATA_SOURCE_ROW_SCAN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/status.h"

typedef enum RowFormat { ROWS_JSON, ROWS_CSV, ROWS_TSV, ROWS_TEXT } RowFormat;

typedef struct RowPlace {
  size_t begin, length;  // bytes of the text
  int64_t line;  // the first is 1
} RowPlace;

typedef struct RowScan {
  RowFormat format;
  char *path;  // for messages
  int64_t line;  // of the next byte
  bool past_mark, started, is_array, ended;
  char **columns;  // of csv and tsv
  int64_t column_count, column_capacity;
} RowScan;

typedef enum ScanResult { SCAN_ROW, SCAN_MORE, SCAN_END } ScanResult;

void row_scan_start(RowScan *scan, RowFormat format, const char *path);
void row_scan_release(RowScan *scan);
// The next row at or behind text[*at]; *at moves behind it. `whole`: no text follows. STATUS_BAD_INPUT with path and line when
// the file cannot be cut into rows.
Status row_scan_next(RowScan *scan, ScanResult *result, RowPlace *place, const char *text, size_t length, size_t *at, bool whole);
// A row as a new object; in csv an empty field is null. STATUS_BAD_INPUT says what is wrong with it, not where it is.
Status row_parse(json_t **row, const RowScan *scan, const char *text, size_t length);

#endif
