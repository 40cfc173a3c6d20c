// Writing and mapping of prepared rows.
#include "data/cache.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "formats/hdf5.h"

static const char format_name[] = "lora.c prepared rows 2";

char *cache_path(const char *folder, const char *key) {
  char *name = memory_format("%.16s.h5", key), *path = path_join(folder, name);
  free(name);
  return path;
}

// ---- The report as JSON

static json_t *report_as_json(const RowReport *report) {
  json_t *events = json_array(), *fates = json_array();
  for (int fate = 0; fate < ROW_FATES; fate++) json_array_append_new(fates, json_integer(report->fates[fate]));
  for (int64_t i = 0; i < report->event_count; i++) {
    const RowEvent *event = &report->events[i];
    json_t *item = json_pack("[i,s,o]", event->fate, event->source, json_stringn_nocheck(event->reason, strlen(event->reason)));
    json_array_append_new(events, item);
  }
  return json_pack("{s:I, s:I, s:o, s:o}", "read", (json_int_t)report->read, "held_out", (json_int_t)report->held_out, "fates", fates,
                   "events", events);
}

static bool read_events(RowSet *set, const json_t *events) {
  for (size_t i = 0; i < json_array_size(events); i++) {
    int fate;
    const char *source, *reason;
    if (json_unpack(json_array_get(events, i), "[i,s,s]", &fate, &source, &reason) != 0 || fate <= ROW_KEPT || fate >= ROW_FATES)
      return false;
    RowReport *report = &set->report;
    ARRAY_PUSH(report->events, report->event_count, report->event_capacity) =
        (RowEvent){(RowFate)fate, arena_copy_string(&set->arena, source), arena_copy_string(&set->arena, reason)};
  }
  return true;
}

static bool read_report(RowSet *set, const char *text, size_t length) {
  json_t *root = json_loadb(text, length, JSON_ALLOW_NUL, NULL);
  json_int_t read = 0, held_out = 0;
  json_t *fates, *events;
  bool good =
      root && json_unpack(root, "{s:I, s:I, s:o, s:o}", "read", &read, "held_out", &held_out, "fates", &fates, "events", &events) == 0;
  good = good && json_array_size(fates) == ROW_FATES && read_events(set, events);
  for (size_t i = 0; good && i < ROW_FATES; i++) set->report.fates[i] = json_integer_value(json_array_get(fates, i));
  set->report.read = read;
  set->report.held_out = held_out;
  json_decref(root);
  return good;
}

// ---- One set

static void array_name(char name[64], const char *set, const char *part) { snprintf(name, 64, "%s_%s", set, part); }

static void create_array(Hdf5Array *array, Hdf5File *file, const char *set, const char *part, Hdf5Type type, int64_t count) {
  char name[64];
  array_name(name, set, part);
  hdf5_array_create(array, file, name, type, count);
}

static void write_whole(Hdf5File *file, const char *set, const char *part, Hdf5Type type, const void *values, int64_t count) {
  Hdf5Array array;
  create_array(&array, file, set, part, type, count);
  hdf5_array_write(&array, 0, values, count);
  hdf5_array_close(&array);
}

static void write_tokens(Hdf5File *file, const char *name, const RowSet *set, int64_t tokens) {
  Hdf5Array ids, labels;
  create_array(&ids, file, name, "ids", HDF5_I32, tokens);
  create_array(&labels, file, name, "labels", HDF5_I32, tokens);
  int64_t *begins = memory_new((size_t)set->count + 1, sizeof *begins);
  int64_t *counts = memory_new((size_t)set->count + 1, sizeof *counts);
  for (int64_t r = 0; r < set->count; r++) {
    const TokenRow *row = &set->rows[r];
    counts[r] = row->trained;
    hdf5_array_write(&ids, begins[r], row->ids, row->count);
    hdf5_array_write(&labels, begins[r], row->labels, row->count);
    begins[r + 1] = begins[r] + row->count;
    progress_show(r + 1, set->count, "writing the cache");
  }
  progress_clear();
  write_whole(file, name, "documents", HDF5_I64, begins, set->count + 1);
  write_whole(file, name, "trained", HDF5_I64, counts, set->count);
  free(begins);
  free(counts);
  hdf5_array_close(&ids);
  hdf5_array_close(&labels);
}

static void write_replies(Hdf5File *file, const char *name, const RowSet *set) {
  int64_t *prompt = memory_new((size_t)set->count + 1, sizeof *prompt), *rejected = memory_new((size_t)set->count + 1, sizeof *rejected);
  uint8_t *undesirable = memory_new((size_t)set->count + 1, sizeof *undesirable);
  for (int64_t r = 0; r < set->count; r++) {
    prompt[r] = set->rows[r].prompt;
    rejected[r] = set->rows[r].rejected;
    undesirable[r] = set->rows[r].is_undesirable;
  }
  write_whole(file, name, "prompt", HDF5_I64, prompt, set->count);
  write_whole(file, name, "rejected", HDF5_I64, rejected, set->count);
  write_whole(file, name, "undesirable", HDF5_U8, undesirable, set->count);
  free(prompt);
  free(rejected);
  free(undesirable);
}

static void write_set(Hdf5File *file, const char *name, const RowSet *set) {
  write_tokens(file, name, set, row_set_statistics(set).tokens);
  write_replies(file, name, set);
  Buffer sources = {0};
  for (int64_t r = 0; r < set->count; r++) buffer_append(&sources, set->rows[r].source, strlen(set->rows[r].source) + 1);
  write_whole(file, name, "sources", HDF5_U8, sources.data, (int64_t)sources.length);
  buffer_release(&sources);
  json_t *report = report_as_json(&set->report);
  char *text = json_dumps(report, JSON_COMPACT);
  write_whole(file, name, "report", HDF5_U8, text, (int64_t)strlen(text));
  free(text);
  json_decref(report);
}

Status cache_write(const char *path, const char *key, const RowSet *train, const RowSet *evaluation) {
  Hdf5File file;
  char *folder = path_parent(path), *temporary = memory_format("%s.partial-%ld", path, (long)getpid());
  Status status = directory_create(folder);
  if (status == STATUS_OK) status = hdf5_create(&file, temporary);
  if (status == STATUS_OK) {
    hdf5_write_text(&file, "format", format_name);
    hdf5_write_text(&file, "key", key);
    write_set(&file, "train", train);
    write_set(&file, "evaluation", evaluation);
    status = hdf5_close(&file);
    if (status == STATUS_OK) status = file_sync(temporary);
    if (status == STATUS_OK && rename(temporary, path) != 0) status = status_fail(STATUS_FAILED, "%s: cannot be put in its place", path);
    if (status == STATUS_OK) status = directory_sync(folder);
    if (status != STATUS_OK) unlink(temporary);
  }
  free(folder);
  free(temporary);
  return status;
}

// ---- Reading

static Status open_array(Hdf5Array *array, Hdf5File *file, const char *set, const char *part, Hdf5Type type) {
  char name[64];
  array_name(name, set, part);
  return hdf5_array_open(array, file, name, type);
}

static Status read_whole(void **values, int64_t *count, Hdf5File *file, const char *set, const char *part, Hdf5Type type) {
  Hdf5Array array;
  TRY(open_array(&array, file, set, part, type));
  size_t size = type == HDF5_U8 ? 1 : sizeof(int64_t);
  *count = array.count;
  Status status =
      (uint64_t)array.count < SIZE_MAX / 16 ? memory_try(values, (size_t)array.count * size + 1, "the cache of rows") : STATUS_NO_SPACE;
  if (status == STATUS_OK) status = hdf5_array_read(*values, &array, 0, array.count);
  hdf5_array_close(&array);
  return status;
}

// The mapped elements of an array; NULL with *count 0 for an empty one.
static Status map_array(int32_t **values, int64_t *count, Hdf5File *file, const FileMap *map, const char *set, const char *part) {
  Hdf5Array array;
  TRY(open_array(&array, file, set, part, HDF5_I32));
  int64_t place = array.count ? hdf5_array_place(&array) : 0;
  *count = array.count;
  hdf5_array_close(&array);
  *values = NULL;
  bool inside = place >= 0 && place % (int64_t)sizeof(int32_t) == 0 && (uint64_t)place <= map->size &&
                (uint64_t)*count <= (map->size - (uint64_t)place) / sizeof(int32_t);
  if (!inside) return status_fail(STATUS_BAD_INPUT, "%s: its array of %s %s cannot be mapped", file->path, set, part);
  if (*count) *values = (int32_t *)((uintptr_t)map->data + (uintptr_t)place);
  return STATUS_OK;
}

// What stands beside the tokens, as it was read.
typedef struct RowTable {
  void *begins, *trained, *prompt, *rejected, *undesirable, *sources, *report;
  int64_t documents, counts, prompts, rejections, marks, source_bytes, report_bytes;
} RowTable;

static Status read_table(RowTable *table, Hdf5File *file, const char *name) {
  TRY(read_whole(&table->begins, &table->documents, file, name, "documents", HDF5_I64));
  TRY(read_whole(&table->trained, &table->counts, file, name, "trained", HDF5_I64));
  TRY(read_whole(&table->prompt, &table->prompts, file, name, "prompt", HDF5_I64));
  TRY(read_whole(&table->rejected, &table->rejections, file, name, "rejected", HDF5_I64));
  TRY(read_whole(&table->undesirable, &table->marks, file, name, "undesirable", HDF5_U8));
  TRY(read_whole(&table->sources, &table->source_bytes, file, name, "sources", HDF5_U8));
  TRY(read_whole(&table->report, &table->report_bytes, file, name, "report", HDF5_U8));
  int64_t rows = table->counts;
  if (table->documents == rows + 1 && table->prompts == rows && table->rejections == rows && table->marks == rows) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: its rows are not as many everywhere", file->path);
}

// Row `index` of the table, without its tokens; false where it does not fit its own length.
static bool read_row(TokenRow *row, const RowTable *table, int64_t index, int64_t tokens) {
  const int64_t *begins = table->begins;
  if (begins[index + 1] < begins[index] || begins[index + 1] > tokens) return false;
  *row = (TokenRow){.count = begins[index + 1] - begins[index],
                    .trained = ((const int64_t *)table->trained)[index],
                    .prompt = ((const int64_t *)table->prompt)[index],
                    .rejected = ((const int64_t *)table->rejected)[index],
                    .is_undesirable = ((const uint8_t *)table->undesirable)[index] != 0};
  bool replies_fit = row->prompt >= 0 && row->prompt <= row->count && row->rejected >= 0 && row->rejected <= row->count &&
                     (row->rejected == 0 || row->rejected >= row->prompt);
  return replies_fit && row->trained >= 0 && row->trained <= row->count;
}

static Status take_rows(RowSet *set, const char *path, const RowTable *table, int32_t *ids, int32_t *labels, int64_t tokens) {
  const int64_t *begins = table->begins;
  const char *source = table->sources, *end = source + table->source_bytes;
  if (begins[0] != 0 || begins[table->counts] != tokens) return status_fail(STATUS_BAD_INPUT, "%s: its rows do not fit its tokens", path);
  for (int64_t r = 0; r < table->counts; r++) {
    size_t room = (size_t)(end - source), length = strnlen(source, room);
    TokenRow row;
    if (!read_row(&row, table, r, tokens) || length == room)
      return status_fail(STATUS_BAD_INPUT, "%s: row %" PRId64 " does not fit", path, r);
    row.ids = ids + begins[r];
    row.labels = labels + begins[r];
    row.source = arena_copy_bytes(&set->arena, source, length);
    ARRAY_PUSH(set->rows, set->count, set->capacity) = row;
    source += length + 1;
  }
  return STATUS_OK;
}

static Status read_set(RowSet *set, Hdf5File *file, const char *name) {
  int32_t *ids, *labels;
  int64_t tokens, label_count;
  RowTable table = {0};
  TRY(file_map(&set->map, file->path));
  TRY(map_array(&ids, &tokens, file, &set->map, name, "ids"));
  TRY(map_array(&labels, &label_count, file, &set->map, name, "labels"));
  if (label_count != tokens) return status_fail(STATUS_BAD_INPUT, "%s: labels and ids differ in number", file->path);
  Status status = read_table(&table, file, name);
  if (status == STATUS_OK) status = take_rows(set, file->path, &table, ids, labels, tokens);
  if (status == STATUS_OK && !read_report(set, table.report, (size_t)table.report_bytes))
    status = status_fail(STATUS_BAD_INPUT, "%s: its report cannot be read", file->path);
  free(table.begins), free(table.trained), free(table.prompt), free(table.rejected), free(table.undesirable);
  free(table.sources), free(table.report);
  return status;
}

static Status read_file(RowSet *train, RowSet *evaluation, Hdf5File *file, const char *key) {
  char text[128];
  TRY(hdf5_read_text(text, sizeof text, file, "format"));
  if (strcmp(text, format_name) != 0) return status_fail(STATUS_BAD_INPUT, "%s: it is of another version", file->path);
  TRY(hdf5_read_text(text, sizeof text, file, "key"));
  if (strcmp(text, key) != 0) return status_fail(STATUS_BAD_INPUT, "%s: it holds other rows", file->path);
  TRY(read_set(train, file, "train"));
  return read_set(evaluation, file, "evaluation");
}

Status cache_read(RowSet *train, RowSet *evaluation, bool *found, const char *path, const char *key) {
  Hdf5File file;
  *found = false;
  if (!file_exists(path)) return STATUS_OK;
  Status status = hdf5_open(&file, path);
  if (status == STATUS_OK) {
    status = read_file(train, evaluation, &file, key);
    hdf5_close(&file);
  }
  *found = status == STATUS_OK;
  if (*found) return STATUS_OK;
  log_warning("the cache is not used, and made anew: %s", status_message());
  row_set_release(train);
  row_set_release(evaluation);
  return STATUS_OK;
}
