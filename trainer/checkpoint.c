// One checkpoint: its files in a folder that gets its name when it is whole. Which checkpoints there are, and which of them to
// take or to remove, is in checkpoint_folder.c.
#include "trainer/checkpoint.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/memory.h"
#include "formats/hdf5.h"
#include "trainer/manifest.h"

enum { PIECE = 1 << 20 };  // bytes moved at a time between the device and the file

typedef enum FieldKind { FIELD_INTEGER, FIELD_REAL, FIELD_HASH } FieldKind;

#define INTEGER(field) \
  { #field, FIELD_INTEGER, offsetof(TrainerState, field), 1 }
#define REAL(field) \
  { #field, FIELD_REAL, offsetof(TrainerState, field), 1 }

// Every scalar of TrainerState as an attribute of its own name; several values are name_0, name_1, ...
static const struct Field {
  const char *name;
  FieldKind kind;
  size_t offset;
  int count;
} fields[] = {
    INTEGER(step),
    REAL(epoch),
    INTEGER(micro_batch),
    INTEGER(accumulation),
    INTEGER(ranks),
    INTEGER(step_batches),
    INTEGER(seed),
    {"rng_index", FIELD_INTEGER, offsetof(TrainerState, rng_index), TRAINER_RNG_STREAMS},
    INTEGER(updates),
    INTEGER(skipped),
    INTEGER(skipped_in_row),
    {"optimizer_scalars", FIELD_REAL, offsetof(TrainerState, optimizer_scalars), OPTIMIZER_SCALARS},
    REAL(loss_scale),
    INTEGER(loss_scale_steps),
    {"tuning", FIELD_INTEGER, offsetof(TrainerState, tuning), BACKEND_TUNINGS},
    INTEGER(tokens),
    INTEGER(trained_tokens),
    REAL(seconds),
    REAL(best_metric),
    INTEGER(best_step),
    INTEGER(stale_evaluations),
    INTEGER(high_losses),
    {"recipe_sha256", FIELD_HASH, offsetof(TrainerState, fingerprint.recipe), 1},
    {"data_sha256", FIELD_HASH, offsetof(TrainerState, fingerprint.data), 1},
    {"model_sha256", FIELD_HASH, offsetof(TrainerState, fingerprint.model), 1},
};
enum { FIELD_COUNT = sizeof fields / sizeof *fields, NAME_SIZE = 64 };

static const char *field_name(char text[NAME_SIZE], const struct Field *field, int index) {
  if (field->count == 1) return field->name;
  snprintf(text, NAME_SIZE, "%s_%d", field->name, index);
  return text;
}

static void fields_write(Hdf5File *file, const TrainerState *state) {
  char text[NAME_SIZE];
  for (int i = 0; i < FIELD_COUNT; i++) {
    const char *place = (const char *)state + fields[i].offset;
    for (int j = 0; j < fields[i].count; j++) {
      const char *name = field_name(text, &fields[i], j);
      if (fields[i].kind == FIELD_INTEGER) hdf5_write_integer(file, name, ((const int64_t *)place)[j]);
      else if (fields[i].kind == FIELD_REAL) hdf5_write_real(file, name, ((const double *)place)[j]);
      else hdf5_write_text(file, name, place);
    }
  }
}

static Status fields_read(TrainerState *state, const Hdf5File *file) {
  char text[NAME_SIZE];
  for (int i = 0; i < FIELD_COUNT; i++) {
    char *place = (char *)state + fields[i].offset;
    for (int j = 0; j < fields[i].count; j++) {
      const char *name = field_name(text, &fields[i], j);
      if (fields[i].kind == FIELD_INTEGER) TRY(hdf5_read_integer((int64_t *)place + j, file, name));
      else if (fields[i].kind == FIELD_REAL) TRY(hdf5_read_real((double *)place + j, file, name));
      else TRY(hdf5_read_text(place, sizeof state->fingerprint.recipe, file, name));
    }
  }
  return STATUS_OK;
}

static int64_t element_bytes(const CheckpointArray *array) { return array->type == HDF5_U8 ? 1 : (int64_t)sizeof(float); }

// How many elements from `offset` on are moved next.
static int64_t piece_length(const CheckpointArray *array, int64_t offset) {
  int64_t most = PIECE / element_bytes(array), left = array->count - offset;
  return left < most ? left : most;
}

static char *element_place(const CheckpointArray *array, int64_t offset) { return (char *)array->data + offset * element_bytes(array); }

static void array_write(Hdf5File *file, const CheckpointArray *array, void *piece, Backend *backend) {
  Hdf5Array target;
  hdf5_array_create(&target, file, array->name, array->type, array->count);
  for (int64_t offset = 0, length; offset < array->count; offset += length) {
    length = piece_length(array, offset);
    if (array->is_host) memcpy(piece, element_place(array, offset), (size_t)(length * element_bytes(array)));
    else backend->download(piece, element_place(array, offset), length * element_bytes(array), backend);
    hdf5_array_write(&target, offset, piece, length);
  }
  hdf5_array_close(&target);
}

static Status array_read(const CheckpointArray *array, Hdf5File *file, void *piece, Backend *backend) {
  Hdf5Array source;
  TRY(hdf5_array_open(&source, file, array->name, array->type));
  Status status = STATUS_OK;
  if (source.count != array->count)
    status = status_fail(STATUS_BAD_INPUT, "%s: '%s' has %lld values where this run has %lld: the adapter's rank or targets differ",
                         file->path, array->name, (long long)source.count, (long long)array->count);
  for (int64_t offset = 0, length; status == STATUS_OK && offset < array->count; offset += length) {
    length = piece_length(array, offset);
    status = hdf5_array_read(piece, &source, offset, length);
    if (status == STATUS_OK && array->is_host) memcpy(element_place(array, offset), piece, (size_t)(length * element_bytes(array)));
    else if (status == STATUS_OK) backend->upload(element_place(array, offset), piece, length * element_bytes(array), backend);
  }
  hdf5_array_close(&source);
  return status;
}

static Status state_write(const char *folder, const TrainerState *state, const CheckpointArray *arrays, int array_count, Backend *backend) {
  Hdf5File file;
  char *path = path_join(folder, "state.h5");
  Status status = hdf5_create(&file, path);
  free(path);
  if (status != STATUS_OK) return status;
  void *piece = memory_new(PIECE, 1);
  fields_write(&file, state);
  for (int i = 0; i < array_count; i++) array_write(&file, &arrays[i], piece, backend);
  free(piece);
  return hdf5_close(&file);
}

static Status files_write(const char *folder, const TrainerState *state, const CheckpointArray *arrays, int array_count, Backend *backend,
                          AdapterWriter write_adapter, void *context) {
  TRY(directory_create(folder));
  if (array_count > 0) TRY(state_write(folder, state, arrays, array_count, backend));
  if (write_adapter) TRY(write_adapter(folder, context));
  TRY(manifest_write(folder));
  return directory_sync(folder);
}

// A folder of that name can only be there when a run went back to an earlier checkpoint. It steps aside under a name
// from which checkpoint_clean brings it back, should this process be killed between the two renames.
static Status folder_publish(const char *partial, const char *final, const char *replaced, const char *output_dir) {
  bool replacing = directory_exists(final);
  if (replacing) TRY(directory_remove(replaced));
  if (replacing && rename(final, replaced) != 0) return status_errno(STATUS_FAILED, errno, "%s: cannot be renamed", final);
  if (rename(partial, final) != 0) {
    Status status = status_errno(STATUS_FAILED, errno, "%s: cannot be renamed", partial);
    if (replacing && rename(replaced, final) != 0) return status_context(status, "%s: now called %s", final, replaced);
    return status;
  }
  TRY(directory_sync(output_dir));
  if (replacing && directory_remove(replaced) != STATUS_OK) log_warning("%s; the next run tries again", status_message());
  return STATUS_OK;
}

Status checkpoint_write(const char *output_dir, const TrainerState *state, const CheckpointArray *arrays, int array_count, Backend *backend,
                        AdapterWriter write_adapter, void *context) {
  char *final = memory_format("%s/checkpoint-%lld", output_dir, (long long)state->step);
  char *partial = memory_format("%s.partial", final), *replaced = memory_format("%s.replaced", final);
  Status status = directory_remove(partial);
  if (status == STATUS_OK) status = files_write(partial, state, arrays, array_count, backend, write_adapter, context);
  if (status == STATUS_OK) status = folder_publish(partial, final, replaced, output_dir);
  if (status != STATUS_OK) {
    char *message = memory_copy_string(status_message());
    (void)directory_remove(partial);  // room on a full disk; checkpoint_clean does it should this fail
    status = status_fail(status, "%s: not written, the checkpoints before it are untouched: %s", final, message);
    free(message);
  }
  free(replaced);
  free(partial);
  free(final);
  return status;
}

static Status fingerprint_compare(const RunFingerprint *saved, const RunFingerprint *expected, const char *folder) {
  const char *different = NULL;
  if (strcmp(saved->model, expected->model) != 0) different = "base model";
  else if (strcmp(saved->data, expected->data) != 0) different = "training data";
  else if (strcmp(saved->recipe, expected->recipe) != 0) different = "recipe";
  if (!different) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT,
                     "%s: made with another %s, so this run cannot go on from it; put the %s back, or start without --resume "
                     "in another output_dir",
                     folder, different, different);
}

static Status state_read(Hdf5File *file, const char *folder, const RunFingerprint *expected, TrainerState *state,
                         const CheckpointArray *arrays, int array_count, Backend *backend) {
  TRY(fields_read(state, file));
  if (expected) TRY(fingerprint_compare(&state->fingerprint, expected, folder));
  void *piece = memory_new(PIECE, 1);
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < array_count; i++) status = array_read(&arrays[i], file, piece, backend);
  free(piece);
  return status;
}

Status checkpoint_read(const char *folder, const RunFingerprint *expected, TrainerState *state, const CheckpointArray *arrays,
                       int array_count, Backend *backend) {
  bool has_state;
  TRY(manifest_verify(folder, &has_state));
  if (!has_state) return status_fail(STATUS_BAD_INPUT, "%s: saved with save_only_model, so it cannot be resumed from", folder);
  Hdf5File file;
  char *path = path_join(folder, "state.h5");
  Status status = hdf5_open(&file, path);
  free(path);
  if (status != STATUS_OK) return status;
  status = state_read(&file, folder, expected, state, arrays, array_count, backend);
  (void)hdf5_close(&file);  // a file that is only read has nothing left to fail
  return status;
}
