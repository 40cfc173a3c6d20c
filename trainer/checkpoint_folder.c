// The checkpoints of an output_dir: listing, choosing what to resume from, removing old ones and leftovers.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/text.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"

enum { WHOLE_KEPT = 2 };

// N of "checkpoint-N" followed by `suffix`; -1 for any other name.
static int64_t checkpoint_step(const char *name, const char *suffix) {
  static const char prefix[] = "checkpoint-";
  if (!text_starts_with(name, prefix)) return -1;
  const char *digits = name + sizeof prefix - 1;
  size_t length = strspn(digits, "0123456789");
  if (length == 0 || length > 18 || strcmp(digits + length, suffix) != 0 || (digits[0] == '0' && length > 1)) return -1;
  return strtoll(digits, NULL, 10);
}

static char *checkpoint_path(const char *output_dir, int64_t step, const char *suffix) {
  char *name = memory_format("checkpoint-%lld%s", (long long)step, suffix);
  char *path = path_join(output_dir, name);
  free(name);
  return path;
}

static int compare_descending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x < y) - (x > y);
}

// The steps of the folders "checkpoint-N" + suffix, newest first; NULL when there are none.
static int64_t *list_folders(int *count, const char *output_dir, const char *suffix) {
  int64_t *steps = NULL;
  int capacity = 0;
  *count = 0;
  DIR *listing = opendir(output_dir);
  if (!listing) return NULL;
  for (struct dirent *entry; (entry = readdir(listing));) {
    int64_t step = checkpoint_step(entry->d_name, suffix);
    if (step < 0) continue;
    char *path = path_join(output_dir, entry->d_name);
    if (directory_exists(path)) ARRAY_PUSH(steps, *count, capacity) = step;
    free(path);
  }
  closedir(listing);
  if (steps) qsort(steps, (size_t)*count, sizeof *steps, compare_descending);
  return steps;
}

int64_t *checkpoint_list(int *count, const char *output_dir) { return list_folders(count, output_dir, ""); }

Status checkpoint_verify(const char *folder) { return manifest_verify(folder, NULL); }

static Status replaced_restore(const char *output_dir, int64_t step) {
  char *replaced = checkpoint_path(output_dir, step, ".replaced"), *final = checkpoint_path(output_dir, step, "");
  Status status = STATUS_OK;
  if (directory_exists(final)) status = directory_remove(replaced);
  else if (rename(replaced, final) != 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be renamed", replaced);
  free(replaced);
  free(final);
  return status;
}

Status checkpoint_clean(const char *output_dir) {
  int count;
  int64_t *steps = list_folders(&count, output_dir, ".partial");
  Status status = STATUS_OK;
  for (int i = 0; i < count && status == STATUS_OK; i++) {
    char *path = checkpoint_path(output_dir, steps[i], ".partial");
    status = directory_remove(path);
    free(path);
  }
  free(steps);
  steps = list_folders(&count, output_dir, ".replaced");
  for (int i = 0; i < count && status == STATUS_OK; i++) status = replaced_restore(output_dir, steps[i]);
  free(steps);
  return status;
}

static Status check_resumable(const char *folder) {
  bool has_state;
  TRY(manifest_verify(folder, &has_state));
  if (has_state) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: saved with save_only_model, so it cannot be resumed from", folder);
}

// The newest of the folder's checkpoints up to `last` that can be resumed from; sets *seen when there is one at all.
static char *find_newest(const char *output_dir, int64_t last, bool *seen) {
  int count;
  int64_t *steps = checkpoint_list(&count, output_dir);
  char *found = NULL;
  for (int i = 0; i < count && !found; i++) {
    if (steps[i] > last) continue;
    *seen = true;
    char *path = checkpoint_path(output_dir, steps[i], "");
    if (check_resumable(path) == STATUS_OK) {
      found = path;
    } else {
      log_warning("%s; looking at the checkpoint before it", status_message());
      free(path);
    }
  }
  free(steps);
  return found;
}

static Status find_wanted(char **folder, const char *wanted) {
  char *trimmed = memory_copy_string(wanted);
  for (size_t length = strlen(trimmed); length > 1 && trimmed[length - 1] == '/'; length--) trimmed[length - 1] = 0;
  char *parent = path_parent(trimmed);
  int64_t step = checkpoint_step(path_name(trimmed), "");
  Status status = checkpoint_clean(parent);
  bool seen = false;
  if (status == STATUS_OK && !directory_exists(trimmed)) status = status_fail(STATUS_BAD_INPUT, "%s: there is no such checkpoint", wanted);
  else if (status == STATUS_OK && step < 0) status = check_resumable(trimmed);  // renamed by its owner: nothing is before it
  else if (status == STATUS_OK) *folder = find_newest(parent, step, &seen);
  if (status == STATUS_OK && step < 0) *folder = memory_copy_string(trimmed);
  if (status == STATUS_OK && !*folder)
    status = status_fail(STATUS_BAD_INPUT, "%s: damaged, and no checkpoint before it is whole; start without --resume", wanted);
  free(parent);
  free(trimmed);
  return status;
}

Status checkpoint_find(char **folder, const char *output_dir, const char *wanted) {
  *folder = NULL;
  if (wanted) return find_wanted(folder, wanted);
  TRY(checkpoint_clean(output_dir));
  bool seen = false;
  *folder = find_newest(output_dir, INT64_MAX, &seen);
  if (*folder || !seen) return STATUS_OK;
  return status_fail(STATUS_BAD_INPUT, "%s: none of its checkpoints can be resumed from; start without --resume", output_dir);
}

// By way of a name that checkpoint_clean knows, so that a kill half-way leaves no damaged checkpoint to warn of.
static Status checkpoint_remove(const char *path) {
  char *partial = memory_format("%s.partial", path);
  Status status = directory_remove(partial);
  if (status == STATUS_OK && rename(path, partial) != 0) status = status_errno(STATUS_FAILED, errno, "%s: cannot be removed", path);
  if (status == STATUS_OK) status = directory_remove(partial);
  free(partial);
  return status;
}

Status checkpoint_prune(const char *output_dir, int64_t limit, int64_t step, int64_t best_step) {
  int count;
  int64_t *steps = checkpoint_list(&count, output_dir), kept = 0;
  int whole = 0;
  Status status = STATUS_OK;
  for (int i = 0; i < count && limit > 0 && status == STATUS_OK; i++) {
    if (steps[i] > step) continue;
    char *path = checkpoint_path(output_dir, steps[i], "");
    bool needed = whole < WHOLE_KEPT && checkpoint_verify(path) == STATUS_OK;
    if (needed) whole++;
    if (needed || kept < limit) kept++;
    else if (steps[i] != best_step) status = checkpoint_remove(path);
    free(path);
  }
  free(steps);
  return status;
}
