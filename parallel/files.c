// Whether ranks read the same files. What is one file for two of them needs no reading; others are hashed once a machine.
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/log.h"
#include "parallel/messages.h"

// SHA-256, of where a rank's files are, and of what is in them.
typedef struct FileMark {
  char place[65], contents[65];
} FileMark;

static void find_place(char hex[65], const char *const *paths, int count, const Group *group) {
  Buffer text = {0};
  buffer_append_string(&text, group->places[group->rank].machine);
  for (int i = 0; i < count; i++) {
    struct stat info = {0};
    (void)stat(paths[i], &info);  // one that is not there was noticed when it was opened
    buffer_format(&text, " %llu %llu %lld %lld", (unsigned long long)info.st_dev, (unsigned long long)info.st_ino, (long long)info.st_size,
                  (long long)info.st_mtime);
  }
  sha256_bytes(hex, text.data, text.length);
  buffer_release(&text);
}

static Status find_contents(char hex[65], const char *const *paths, int count) {
  Buffer hashes = {0};
  Status status = STATUS_OK;
  for (int i = 0; status == STATUS_OK && i < count; i++) {
    char file[65] = "";
    status = sha256_file(file, paths[i]);
    buffer_append_string(&hashes, file);
  }
  sha256_bytes(hex, hashes.data ? hashes.data : "", hashes.length);
  buffer_release(&hashes);
  return status;
}

// The first rank for which the files are the same ones as for this rank.
static int reader_of(const FileMark *marks, int rank) {
  int reader = 0;
  while (strcmp(marks[reader].place, marks[rank].place) != 0) reader++;
  return reader;
}

static Status compare(FileMark *marks, const char *what, const char *const *paths, int count, Group *group) {
  bool all_same = true;
  find_place(marks[group->rank].place, paths, count, group);
  TRY(group_exchange(marks, sizeof *marks, what, group));
  for (int r = 1; r < group->size; r++) all_same &= reader_of(marks, r) == 0;
  if (all_same) return STATUS_OK;
  log_info("the %s's files are read once on each machine, to compare them", what);
  if (reader_of(marks, group->rank) == group->rank) TRY(find_contents(marks[group->rank].contents, paths, count));
  TRY(group_exchange(marks, sizeof *marks, what, group));
  if (strcmp(marks[reader_of(marks, group->rank)].contents, marks[0].contents) == 0) return STATUS_OK;
  return status_fail(STATUS_USAGE, "another %s than rank 0's on %s: there is something else in %s%s; all ranks need the same", what,
                     group->places[0].host, paths[0], count > 1 ? " or the files beside it" : "");
}

Status group_compare_files(const char *what, const char *const *paths, int count, Group *group) {
  if (group->size == 1) return STATUS_OK;
  FileMark *marks = memory_new((size_t)group->size, sizeof *marks);
  Status status = compare(marks, what, paths, count, group);
  free(marks);
  return status;
}
