// The report as text: aligned columns, long values shortened, sizes in MiB.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "inspect/inspect.h"

enum {
  TEXT_SHOWN = 72,  // bytes of a string
  ELEMENTS_SHOWN = 6,
  KEY_WIDTH = 44,
  PROBLEMS_SHOWN = 24,
};

// A table whose columns are as wide as their longest cell; the first column is aligned left, so is the second with `left_second`.
typedef struct Table {
  char **cells;
  int columns;
  int64_t count, capacity;  // cells
  bool left_second;
} Table;

static void table_add(Table *table, char *cell) { ARRAY_PUSH(table->cells, table->count, table->capacity) = cell; }

static void table_print(Table *table) {
  int *widths = memory_new((size_t)table->columns, sizeof *widths);
  for (int64_t i = 0; i < table->count; i++) {
    int width = (int)strlen(table->cells[i]), *widest = &widths[i % table->columns];
    if (width > *widest) *widest = width;
  }
  for (int64_t i = 0; i < table->count; i++) {
    int column = (int)(i % table->columns);
    bool is_left = column == 0 || (column == 1 && table->left_second), is_last = column == table->columns - 1;
    printf(column == 0 ? "  " : "  ");
    if (is_left && is_last) printf("%s", table->cells[i]);
    else printf(is_left ? "%-*s" : "%*s", widths[column], table->cells[i]);
    if (is_last) printf("\n");
    free(table->cells[i]);
  }
  free(widths);
  free(table->cells);
}

// "1,234,567"
static char *grouped(json_int_t value) {
  char digits[32];
  int length = snprintf(digits, sizeof digits, "%lld", (long long)value);
  Buffer text = {0};
  for (int i = 0; i < length; i++) {
    if (i && (length - i) % 3 == 0 && digits[i - 1] != '-') buffer_append(&text, ",", 1);
    buffer_append(&text, &digits[i], 1);
  }
  return text.data;
}

static char *mebibytes(const json_t *bytes) {
  return json_is_integer(bytes) ? memory_format("%.2f", (double)json_integer_value(bytes) / (1 << 20)) : memory_copy_string("?");
}

static char *number(const json_t *value, const char *absent) {
  return json_is_number(value) ? memory_format("%.4g", json_number_value(value)) : memory_copy_string(absent);
}

// A file's own words must not steer the terminal.
static char *without_controls(const char *text) {
  char *copy = memory_copy_string(text);
  for (char *c = copy; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
  return copy;
}

// A string in quotes, control characters escaped, cut where it is long.
static void append_string(Buffer *out, const char *text, size_t length) {
  size_t shown = length;
  if (shown > TEXT_SHOWN)
    for (shown = TEXT_SHOWN; shown > 0 && ((unsigned char)text[shown] & 0xC0) == 0x80;) shown--;  // not inside a character
  buffer_append(out, "\"", 1);
  for (size_t i = 0; i < shown; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '\n') buffer_append(out, "\\n", 2);
    else if (c == '\t') buffer_append(out, "\\t", 2);
    else if (c == '"' || c == '\\') buffer_format(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7F) buffer_format(out, "\\x%02x", c);
    else buffer_append(out, &text[i], 1);
  }
  buffer_append_string(out, "\"");
  if (shown < length) buffer_format(out, "... (%zu bytes)", length);
}

static void append_value(Buffer *out, const json_t *value) {
  if (json_is_string(value)) {
    append_string(out, json_string_value(value), json_string_length(value));
    return;
  }
  if (json_is_real(value)) {
    char text[40];
    text_from_float(text, json_real_value(value));
    buffer_append_string(out, text);
    return;
  }
  char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
  size_t length = text ? strlen(text) : 0;
  buffer_append(out, text, length > 2 * TEXT_SHOWN ? 2 * TEXT_SHOWN : length);
  if (length > 2 * TEXT_SHOWN) buffer_format(out, "... (%zu bytes)", length);
  free(text);
}

// `49152 strings: "<unk>", "<s>", ...`
static void append_array(Buffer *out, const json_t *fact) {
  const char *type = json_string_value(json_object_get(fact, "type"));
  json_int_t count = json_integer_value(json_object_get(fact, "count"));
  const json_t *values = json_object_get(fact, "values"), *value;
  size_t i;
  buffer_format(out, "%lld %.*s%s", (long long)count, (int)(strlen(type) - strlen("[]")), type, count == 1 ? "" : "s");
  json_array_foreach(values, i, value) {
    if (i == ELEMENTS_SHOWN) break;
    buffer_append_string(out, i ? ", " : ": ");
    append_value(out, value);
  }
  if (count > ELEMENTS_SHOWN) buffer_append_string(out, ", ...");
}

static void print_metadata(const json_t *root) {
  json_t *metadata = json_object_get(root, "metadata"), *fact;
  const char *key;
  int width = 0;
  if (json_object_size(metadata) == 0) return;
  printf("\nmetadata (%zu keys)\n", json_object_size(metadata));
  json_object_foreach(metadata, key, fact) {
    int length = (int)strlen(key);
    if (length > width && length <= KEY_WIDTH) width = length;
  }
  json_object_foreach(metadata, key, fact) {
    Buffer text = {0};
    if (json_object_get(fact, "count")) append_array(&text, fact);
    else append_value(&text, json_object_get(fact, "value"));
    char *shown = without_controls(key);
    printf("  %-*s  %s\n", width, shown, text.data);
    free(shown);
    buffer_release(&text);
  }
}

static void print_files(const json_t *root) {
  const json_t *files = json_object_get(root, "files"), *file;
  size_t i;
  if (json_array_size(files) < 2) return;
  printf("\nfiles\n");
  Table table = {.columns = 2};
  json_array_foreach(files, i, file) {
    char *size = mebibytes(json_object_get(file, "bytes"));
    table_add(&table, memory_copy_string(json_string_value(json_object_get(file, "path"))));
    table_add(&table, memory_format("%s MiB", size));
    free(size);
  }
  table_print(&table);
}

static void table_add_words(Table *table, const char *const *words) {
  for (int i = 0; i < table->columns; i++) table_add(table, memory_copy_string(words[i]));
}

static void print_types(const json_t *root) {
  const json_t *types = json_object_get(root, "types"), *type;
  size_t i;
  if (json_array_size(types) == 0) return;
  Table table = {.columns = 5};
  printf("\ntypes\n");
  table_add_words(&table, (const char *const[]){"type", "tensors", "elements", "MiB", "bits/weight"});
  json_array_foreach(types, i, type) {
    table_add(&table, memory_copy_string(json_string_value(json_object_get(type, "type"))));
    table_add(&table, grouped(json_integer_value(json_object_get(type, "tensors"))));
    table_add(&table, grouped(json_integer_value(json_object_get(type, "elements"))));
    table_add(&table, mebibytes(json_object_get(type, "bytes")));
    table_add(&table, number(json_object_get(type, "bits_per_weight"), "?"));
  }
  table_print(&table);
}

static char *shape_text(const json_t *shape) {
  Buffer text = {0};
  buffer_append_string(&text, "[");
  for (size_t i = 0; i < json_array_size(shape); i++)
    buffer_format(&text, "%s%lld", i ? ", " : "", (long long)json_integer_value(json_array_get(shape, i)));
  buffer_append_string(&text, "]");
  return text.data;
}

static void print_tensors(const json_t *root) {
  static const char *const keys[] = {"min", "max", "mean", "std", "rms"};
  const json_t *tensors = json_object_get(root, "tensors"), *tensor;
  size_t i;
  if (json_array_size(tensors) == 0) return;
  Table table = {.columns = 11, .left_second = true};
  printf("\ntensors\n");
  table_add_words(&table, (const char *const[]){"name", "type", "shape", "MiB", "min", "max", "mean", "std", "rms", "zeros", "NaN/Inf"});
  json_array_foreach(tensors, i, tensor) {
    const json_t *statistics = json_object_get(tensor, "statistics");
    bool has = json_is_object(statistics);
    table_add(&table, memory_copy_string(json_string_value(json_object_get(tensor, "name"))));
    table_add(&table, memory_copy_string(json_string_value(json_object_get(tensor, "type"))));
    table_add(&table, shape_text(json_object_get(tensor, "shape")));
    table_add(&table, mebibytes(json_object_get(tensor, "bytes")));
    for (size_t j = 0; j < sizeof keys / sizeof *keys; j++) table_add(&table, number(json_object_get(statistics, keys[j]), "-"));
    table_add(&table, has ? grouped(json_integer_value(json_object_get(statistics, "zeros"))) : memory_copy_string("-"));
    table_add(&table,
              has ? grouped(json_integer_value(json_object_get(statistics, "nan")) + json_integer_value(json_object_get(statistics, "inf")))
                  : memory_copy_string("-"));
  }
  table_print(&table);
}

static void print_adapter(const json_t *root) {
  static const char *const keys[] = {"scale", "a_norm", "b_norm", "delta_norm"};
  const json_t *adapter = json_object_get(root, "adapter"), *pairs = json_object_get(adapter, "pairs"), *pair;
  size_t i;
  if (json_array_size(pairs) == 0) return;
  Table table = {.columns = 8};
  printf("\npairs (|A|, |B| and |scale B A|: Frobenius norms)\n");
  table_add_words(&table, (const char *const[]){"module", "rank", "in", "out", "scale", "|A|", "|B|", "|dW|"});
  json_array_foreach(pairs, i, pair) {
    table_add(&table, memory_copy_string(json_string_value(json_object_get(pair, "module"))));
    table_add(&table, memory_format("%lld", (long long)json_integer_value(json_object_get(pair, "rank"))));
    table_add(&table, memory_format("%lld", (long long)json_integer_value(json_object_get(pair, "in"))));
    table_add(&table, memory_format("%lld", (long long)json_integer_value(json_object_get(pair, "out"))));
    for (size_t j = 0; j < sizeof keys / sizeof *keys; j++) table_add(&table, number(json_object_get(pair, keys[j]), "-"));
  }
  table_print(&table);
}

static void print_checkpoints(const json_t *root) {
  const json_t *checkpoints = json_object_get(root, "checkpoints"), *checkpoint;
  size_t i;
  if (json_array_size(checkpoints) == 0) return;
  printf("\ncheckpoints\n");
  json_array_foreach(checkpoints, i, checkpoint) printf("  %s  %s\n", json_string_value(json_object_get(checkpoint, "path")),
                                                        json_is_true(json_object_get(checkpoint, "whole")) ? "whole" : "damaged");
}

static void print_problems(const json_t *root) {
  const json_t *problems = json_object_get(root, "problems"), *problem;
  size_t i, count = json_array_size(problems);
  printf("\nproblems:%s\n", count ? "" : " none");
  static const char *const levels[] = {"error", "warning"};
  for (int level = 0; level < 2; level++) {
    size_t shown = 0, all = 0;
    json_array_foreach(problems, i, problem) {
      if (strcmp(json_string_value(json_object_get(problem, "level")), levels[level]) != 0) continue;
      if (all++ >= PROBLEMS_SHOWN) continue;
      const char *where = json_string_value(json_object_get(problem, "where"));
      char *line = memory_format("%s%s%s", where ? where : "", where ? ": " : "", json_string_value(json_object_get(problem, "message")));
      char *clean = without_controls(line);
      printf("  %s: %s\n", levels[level], clean);
      free(line);
      free(clean);
      shown++;
    }
    if (all > shown) printf("  and %zu more of this kind (--json has them all)\n", all - shown);
  }
}

void report_print(const Report *report, bool tensors) {
  const json_t *root = report->root;
  char *bytes = mebibytes(json_object_get(root, "bytes")), *parameters = grouped(json_integer_value(json_object_get(root, "parameters")));
  const json_t *bits = json_object_get(root, "bits_per_weight");
  printf("%s: %s (%s), %s MiB", report->path, json_string_value(json_object_get(root, "kind")),
         json_string_value(json_object_get(root, "format")), bytes);
  if (report->tensor_count) printf(", %lld tensors, %s parameters", (long long)report->tensor_count, parameters);
  if (json_is_number(bits)) printf(", %.2f bits per weight", json_number_value(bits));
  printf("\n");
  print_files(root);
  print_metadata(root);
  print_types(root);
  if (tensors) print_tensors(root);
  print_adapter(root);
  print_checkpoints(root);
  print_problems(root);
  free(bytes);
  free(parameters);
}
