// The files of a dataset, in order: its path, a folder's data files, a pattern's matches, or its data_files.
// A relative path is one of the current folder, or else of the recipe's.
#ifndef DATA_SOURCE_DATASET_PATHS_H
#define DATA_SOURCE_DATASET_PATHS_H

#include "core/status.h"
#include "data/source/row_scan.h"
#include "recipes/recipe.h"

typedef struct DatasetPath {
  char *path;
  RowFormat format;  // by ds_type, or else the name's ending; what is not known is JSON
} DatasetPath;

typedef struct PathList {
  DatasetPath *items;
  int64_t count, capacity;
} PathList;

// STATUS_BAD_INPUT with the remedy: nothing there, no file of the split, a kind that is not read (Parquet, archives).
Status dataset_paths(PathList *paths, const DatasetRecipe *dataset, const Recipe *recipe);
// Whether there is something where `path` or one of the data_files points, whatever it is.
bool dataset_is_on_disk(const DatasetRecipe *dataset, const Recipe *recipe);
void path_list_release(PathList *paths);

#endif
