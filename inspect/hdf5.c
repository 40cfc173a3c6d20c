// HDF5 files of this program: state.h5 of a checkpoint, and the cache of prepared rows. Arrays are read where the file is mapped.
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/hdf5.h"
#include "inspect/parts.h"
#include "trainer/checkpoint.h"

static const struct {
  const char *name;
  SafetensorsType type;
} types[] = {
    [HDF5_F32] = {"float32", ST_F32}, [HDF5_I32] = {"int32", ST_I32}, [HDF5_I64] = {"int64", ST_I64}, [HDF5_U8] = {"uint8", ST_U8}};

typedef struct Visit {
  Report *report;
  const FileMap *map;
} Visit;

static void add_array(Report *report, const FileMap *map, const Hdf5Item *item) {
  ReportTensor *tensor = report_add_tensor(report, item->name, types[item->type].name, 1, &item->count);
  int64_t width = safetensors_type_bytes(types[item->type].type);
  tensor->is_state = true;
  if (__builtin_mul_overflow(item->count, width, &tensor->bytes)) {
    tensor->bytes = -1;
    report_error(report, item->name, "its %lld elements overflow", (long long)item->count);
  } else if (item->place >= 0 && item->place <= (int64_t)map->size && tensor->bytes <= (int64_t)map->size - item->place) {
    tensor->source = (ValueSource){.data = map->data + item->place, .element = types[item->type].type, .count = item->count};
  } else if (item->count) {
    report_warning(report, item->name, "does not lie in one piece, so its values are not looked at");
  }
}

static void add_item(void *argument, const Hdf5Item *item) {
  const Visit *visit = argument;
  Report *report = visit->report;
  char *name = text_is_printable(item->name, strlen(item->name)) ? memory_copy_string(item->name) : memory_copy_string("(unprintable)");
  switch (item->kind) {
    case HDF5_ITEM_INTEGER: report_add_fact(report, name, "int64", json_integer(item->integer)); break;
    case HDF5_ITEM_REAL: report_add_fact(report, name, "float64", report_number(item->real)); break;
    case HDF5_ITEM_TEXT: report_add_fact(report, name, "string", report_text(item->text, strlen(item->text))); break;
    case HDF5_ITEM_ARRAY: add_array(report, visit->map, item); break;
    case HDF5_ITEM_OTHER: report_warning(report, name, "neither a number, a text nor a list of numbers: not of this program"); break;
  }
  free(name);
}

void inspect_hdf5(Report *report, const char *path, FileMap *map) {
  Hdf5File file;
  report_add_file(report, path);
  if (!json_object_get(report->root, "kind")) report_set_kind(report, "HDF5 file", "HDF5");
  if (!report_status(report, file_map(map, path)) || !report_status(report, hdf5_open(&file, path))) return;
  hdf5_visit(&file, add_item, &(Visit){report, map});
  (void)hdf5_close(&file);  // a file that is only read has nothing left to fail
  report->opens = true;
}

void inspect_checkpoints(Report *report, const char *folder) {
  int count;
  int64_t *steps = checkpoint_list(&count, folder);
  json_t *list = json_array();
  for (int i = count - 1; i >= 0; i--) {  // the oldest first
    char *path = memory_format("%s/checkpoint-%lld", folder, (long long)steps[i]);
    bool whole = report_status(report, checkpoint_verify(path));
    json_t *checkpoint = json_object();
    json_object_set_new(checkpoint, "path", report_text(path, strlen(path)));
    json_object_set_new(checkpoint, "step", json_integer(steps[i]));
    json_object_set_new(checkpoint, "whole", json_boolean(whole));
    json_array_append_new(list, checkpoint);
    free(path);
  }
  free(steps);
  json_object_set_new(report->root, "checkpoints", list);
}
