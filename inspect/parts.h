// The readers of each format: each fills the report with what it finds, faults included. None fails.
#ifndef INSPECT_PARTS_H
#define INSPECT_PARTS_H

#include "inspect/report.h"
#include "models/model.h"

void inspect_gguf(Report *report, const char *path, Gguf *gguf);  // `gguf` stays open until the report is done
void inspect_safetensors(Report *report, const char *path, Safetensors *st);  // a file or an index; so here
void inspect_model_folder(Report *report, const char *folder, Safetensors *st);
void inspect_adapter_folder(Report *report, const char *folder, Safetensors *st);
void inspect_hdf5(Report *report, const char *path, FileMap *map);  // `map` stays mapped until the report is done
void inspect_checkpoints(Report *report, const char *folder);  // an output_dir's checkpoint-N: their steps, and whether they are whole

// Appends the tensors of an open file, with where their values are.
void report_add_safetensors(Report *report, const Safetensors *st);

// What the tensors' names say beside the family's table: those that are missing, and those that no layer has.
void names_check(Report *report, const Family *family, const ModelConfig *config, bool is_gguf);

// The scale of a module's pair; `context` is the caller's.
typedef double (*PairScale)(const void *context, const char *module, int64_t rank);
// Finds the pairs of an adapter among the measured tensors, with their norms, and what is wrong with them. `scale` NULL: not known.
void pairs_inspect(Report *report, bool is_gguf, PairScale scale, const void *context);
bool pairs_are_there(const Report *report, bool is_gguf);  // at least one tensor has the name of one

#endif
