#include "hub/names.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/memory.h"

void hub_names_add(HubNames *names, const char *name) {
  ARRAY_PUSH(names->items, names->count, names->capacity) = memory_copy_string(name);
}

bool hub_names_have(const HubNames *names, const char *name) {
  for (int i = 0; i < names->count; i++)
    if (strcmp(names->items[i], name) == 0) return true;
  return false;
}

void hub_names_move(HubNames *to, HubNames *from) {
  hub_names_release(to);
  *to = *from;
  *from = (HubNames){0};
}

void hub_names_release(HubNames *names) {
  for (int i = 0; i < names->count; i++) free(names->items[i]);
  free(names->items);
  *names = (HubNames){0};
}

static void list_folder(HubNames *names, const char *folder, const char *prefix, int depth) {
  DIR *stream = opendir(folder);
  if (!stream) return;
  for (struct dirent *entry; (entry = readdir(stream));) {
    if (entry->d_name[0] == '.') continue;
    char *path = path_join(folder, entry->d_name), *name = path_join(prefix, entry->d_name);
    struct stat information;
    bool is_folder = lstat(path, &information) == 0 && S_ISDIR(information.st_mode);
    if (is_folder && depth > 0) list_folder(names, path, name, depth - 1);
    if (!is_folder && file_exists(path)) hub_names_add(names, name);
    free(path), free(name);
  }
  closedir(stream);
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void hub_names_read_folder(HubNames *names, const char *folder, int depth) {
  int first = names->count;
  list_folder(names, folder, "", depth);
  if (names->count > first) qsort(names->items + first, (size_t)(names->count - first), sizeof *names->items, compare_names);
}
