// One merge as a command runs it: model and adapters to a file, how far that file is from them, and the report on stdout.
#ifndef CLI_MERGE_JOB_H
#define CLI_MERGE_JOB_H

#include "cli/options.h"

typedef struct MergeJob {
  const char *model, *output, *text, *type_name;  // text: measure on it; NULL: on the training data
  ArgumentList adapters;
  double max_kl;  // fails above it, or when nothing could be measured; negative: any
  const Arguments *arguments;
} MergeJob;

Status merge_job_run(const MergeJob *given);

#endif
