// Names of files, relative to a folder or a repository.
#ifndef HUB_NAMES_H
#define HUB_NAMES_H

#include <stdbool.h>

typedef struct HubNames {
  char **items;
  int count, capacity;
} HubNames;

void hub_names_add(HubNames *names, const char *name);
bool hub_names_have(const HubNames *names, const char *name);
void hub_names_move(HubNames *to, HubNames *from);  // in place of what `to` had
void hub_names_release(HubNames *names);
// Appends the files of a folder, sorted, and of the folders in it down to `depth` (0: its own alone). What begins with a '.' is left
// out, and links to folders are not followed.
void hub_names_read_folder(HubNames *names, const char *folder, int depth);
enum { HUB_FOLDER_DEPTH = 32 };  // as deep as anybody looks

#endif
