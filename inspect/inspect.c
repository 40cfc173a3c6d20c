// Which reader a path is for: a folder by the names in it, a file by its first bytes.
#include "inspect/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "formats/gguf.h"
#include "inspect/parts.h"
#include "trainer/checkpoint.h"

// What stays open until the report is done.
typedef struct Sources {
  Gguf gguf;
  Safetensors safetensors;
  FileMap map;
} Sources;

static bool has_file(const char *folder, const char *name) {
  char *path = path_join(folder, name);
  bool there = file_exists(path);
  free(path);
  return there;
}

static bool has_one_of(const char *folder, const char *const *names) {
  for (int i = 0; names[i]; i++)
    if (has_file(folder, names[i])) return true;
  return false;
}

static void inspect_checkpoint(Report *report, Sources *sources, const char *folder) {
  report_status(report, checkpoint_verify(folder));
  report_set_kind(report, "checkpoint", "HDF5");
  if (has_file(folder, "state.h5")) {
    char *path = path_join(folder, "state.h5");
    inspect_hdf5(report, path, &sources->map);
    free(path);
  }
  if (has_file(folder, "adapter_config.json")) {
    inspect_adapter_folder(report, folder, &sources->safetensors);
    report_set_kind(report, "checkpoint", has_file(folder, "state.h5") ? "HDF5 and safetensors" : "safetensors");
  } else {
    report_measure(report);
  }
}

static void inspect_folder(Report *report, Sources *sources, const char *folder) {
  static const char *const adapter[] = {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", NULL};
  static const char *const checkpoint[] = {"state.h5", "manifest.json", NULL};
  static const char *const model[] = {
      "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.onnx",
      NULL};
  int checkpoints;
  free(checkpoint_list(&checkpoints, folder));
  if (has_one_of(folder, checkpoint)) {
    inspect_checkpoint(report, sources, folder);
  } else if (has_one_of(folder, adapter)) {
    inspect_adapter_folder(report, folder, &sources->safetensors);
    if (checkpoints) report_set_kind(report, "output folder of a run, with its adapter", "safetensors");
  } else if (has_one_of(folder, model)) {
    inspect_model_folder(report, folder, &sources->safetensors);
  } else if (checkpoints) {
    report_set_kind(report, "output folder of a run, without an adapter yet", "folder");
  } else {
    report_set_kind(report, "folder", "unknown");
    report_error(report, NULL,
                 "%s: neither a model (config.json), an adapter (adapter_config.json) nor the output of a run is in it; give a file",
                 folder);
  }
  if (checkpoints) inspect_checkpoints(report, folder);
}

static bool begins_with(const char *path, const char *magic) {
  char bytes[8] = "";
  FILE *file = fopen(path, "rb");
  size_t got = file ? fread(bytes, 1, sizeof bytes, file) : 0;
  if (file) fclose(file);
  return got >= strlen(magic) && memcmp(bytes, magic, strlen(magic)) == 0;
}

static void inspect_file(Report *report, Sources *sources, const char *path) {
  if (begins_with(path, "GGUF") || text_ends_with(path, ".gguf")) {
    inspect_gguf(report, path, &sources->gguf);
  } else if (begins_with(path, "\x89HDF") || text_ends_with(path, ".h5")) {
    inspect_hdf5(report, path, &sources->map);
    report_measure(report);
  } else {
    inspect_safetensors(report, path, &sources->safetensors);
  }
}

static void sources_close(Sources *sources) {
  gguf_close(&sources->gguf);
  safetensors_close(&sources->safetensors);
  file_unmap(&sources->map);
}

static void report_start(Report *report, const char *path, InspectOptions options, Backend *backend) {
  *report = (Report){.path = path, .backend = backend, .statistics = options.statistics, .root = json_object()};
  json_object_set_new(report->root, "path", report_text(path, strlen(path)));
  json_object_set_new(report->root, "files", json_array());
  json_object_set_new(report->root, "bytes", json_integer(0));
  json_object_set_new(report->root, "metadata", json_object());
  json_object_set_new(report->root, "problems", json_array());
}

static void report_release(Report *report) {
  json_decref(report->root);
  free(report->tensors);
  map_release(&report->tensor_index);
  arena_release(&report->arena);
}

Status inspect(const char *path, InspectOptions options, Backend *backend) {
  bool is_folder = directory_exists(path);
  if (!is_folder && !file_exists(path)) return status_fail(STATUS_BAD_INPUT, "%s: there is no such file or folder", path);
  Report report;
  Sources sources = {0};
  report_start(&report, path, options, backend);
  if (is_folder) inspect_folder(&report, &sources, path);
  else inspect_file(&report, &sources, path);
  report_finish(&report);
  if (options.json) {
    json_dumpf(report.root, stdout, JSON_INDENT(1));
    printf("\n");
  } else {
    report_print(&report, options.tensors);
  }
  Status status = STATUS_OK;
  if (report.errors)
    status = status_fail(STATUS_USAGE, "%s: %d %s found", path, report.errors, report.errors == 1 ? "problem was" : "problems were");
  report_release(&report);
  sources_close(&sources);
  return status;
}
