// The cache of prepared rows: an HDF5 file that holds what dataset_prepare made, taken up again only where it would make the same.
//   attributes  format, key
//   train_*, evaluation_* for each of the two sets:
//     ids        i32 [tokens], labels i32 [tokens]: all rows, one after another
//     documents  i64 [rows + 1]: where each row begins; trained i64 [rows]: its targets
//     prompt     i64 [rows], rejected i64 [rows], undesirable u8 [rows]: of preference rows, where their replies begin (TokenRow)
//     sources    u8: FILE:LINE of each row, NUL behind each
//     report     u8: what was read, kept and dropped, as JSON
// Tokens are not read: the file is mapped, and a row's pages come when a batch wants them.
#ifndef DATA_CACHE_H
#define DATA_CACHE_H

#include "data/rows.h"
#include "recipes/recipe.h"

// A hash (SHA-256) over the contents of every file and every setting that shapes rows: the datasets' files, the vocabulary, the
// recipe's keys on data, chat and tokens, and this program itself.
Status cache_key(char key[65], const Recipe *recipe, bool skip_bad_rows);
// FOLDER/KEY.h5, the key shortened; a new string.
char *cache_path(const char *folder, const char *key);
// Fills both sets, which start zeroed. *found is false, with STATUS_OK, when no file is there or it is not what the key says.
Status cache_read(RowSet *train, RowSet *evaluation, bool *found, const char *path, const char *key);
// Written beside its place and renamed.
Status cache_write(const char *path, const char *key, const RowSet *train, const RowSet *evaluation);

#endif
