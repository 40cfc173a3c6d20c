#include "kernels/cuda_tuning.h"

#include <jansson.h>
#include <stdlib.h>

#include "core/file.h"
#include "core/log.h"
#include "kernels/cuda_library.h"

static const struct {
  const char *name;
  int index;
} kept[] = {{"fused_rows", TUNING_FUSED_ROWS}, {"gemv_rows", TUNING_GEMV_ROWS}, {"forward_panel", TUNING_FORWARD_PANEL}};
enum { KEPT = sizeof kept / sizeof *kept, FILE_LIMIT = 1 << 20, MOST = 1 << 30 };

char *cuda_tuning_path(void) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (cache && *cache) return path_join(cache, "lora.c/cuda-tuning.json");
  return home && *home ? path_join(home, ".cache/lora.c/cuda-tuning.json") : NULL;
}

// An object in any case.
static json_t *load(const char *path) {
  Buffer text = {0};
  json_t *devices = NULL;
  if (path && file_exists(path)) {
    if (file_read(&text, path, FILE_LIMIT) == STATUS_OK) devices = json_loadb(text.data ? text.data : "", text.length, 0, NULL);
    if (!json_is_object(devices)) log_warning("%s is not what `lora doctor --tune` writes, and is not used", path);
  }
  buffer_release(&text);
  if (json_is_object(devices)) return devices;
  json_decref(devices);
  return json_object();
}

void cuda_tuning_read(Backend *backend, const char *device) {
  char *path = cuda_tuning_path();
  json_t *devices = load(path), *own = json_object_get(devices, device);
  for (int i = 0; i < KEPT && backend->tuning_count == TUNING_COUNT; i++) {
    const json_t *value = json_object_get(own, kept[i].name);
    if (json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) <= MOST)
      backend->tuning[kept[i].index] = json_integer_value(value);
  }
  json_decref(devices);
  free(path);
}

Status cuda_tuning_write(const Backend *backend, const char *device) {
  char *path = cuda_tuning_path();
  if (!path) return status_fail(STATUS_USAGE, "there is no folder to keep the measurements in: set XDG_CACHE_HOME or HOME");
  json_t *devices = load(path), *own = json_object();
  for (int i = 0; i < KEPT; i++) json_object_set_new(own, kept[i].name, json_integer(backend->tuning[kept[i].index]));
  json_object_set_new(devices, device, own);
  char *text = json_dumps(devices, JSON_INDENT(2) | JSON_SORT_KEYS), *folder = path_parent(path);
  Status status = directory_create(folder);
  if (status == STATUS_OK) status = file_write_whole(path, text, strlen(text));
  free(text);
  free(folder);
  json_decref(devices);
  free(path);
  return status;
}
