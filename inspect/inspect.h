// What a file or folder holds, and what is wrong with it: models, adapters, vocabularies, checkpoints, outputs of a run.
#ifndef INSPECT_INSPECT_H
#define INSPECT_INSPECT_H

#include "inspect/report.h"

typedef struct InspectOptions {
  bool statistics;  // read every value
  bool json;
  bool tensors;  // list each one in the text; JSON has them in any case
} InspectOptions;

// Prints to stdout. STATUS_USAGE when problems were found (they are in what was printed), STATUS_BAD_INPUT when there is no such path.
Status inspect(const char *path, InspectOptions options, Backend *backend);

void report_print(const Report *report, bool tensors);  // as text. print.c

#endif
