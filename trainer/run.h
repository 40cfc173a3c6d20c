// The parts of a run, in the order in which a row of data meets them. train.c puts them together.
#ifndef TRAINER_RUN_H
#define TRAINER_RUN_H

#include "adapters/adapter.h"
#include "data/batch.h"
#include "data/dataset_stream.h"
#include "data/tokenizer/tokenizer.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "recipes/recipe.h"
#include "trainer/average.h"
#include "trainer/checkpoint.h"
#include "trainer/metrics.h"
#include "trainer/preference.h"
#include "trainer/step.h"
#include "trainer/train.h"

typedef struct Run {
  const Recipe *recipe;
  TrainOptions options;
  Backend *backend;
  Group *group;  // the processes that share this run
  Model *model;
  Tokenizer *tokenizer;  // NULL when every row is tokenised already
  bool has_new_tokens;  // it has some that the base's has not
  RowSet train_rows, eval_rows;
  DatasetStream *stream;  // train_rows are one chunk of it; NULL: they are all rows
  int64_t chunk;  // that train_rows hold while streaming; -1: none yet
  BatchOptions batch_options, eval_options;
  Adapter *adapter;
  bool starts_at_base;  // with the adapter the model begins as what it is with the adapter off
  Optimizer *optimizer;
  Average average;
  Schedule schedule;
  Step step;
  Preference *preference;  // NULL: supervised training
  ReferenceScores train_reference, eval_reference;  // NULL: computed beside each micro-batch
  int64_t program_bytes, rows_bytes;  // resident before the run was opened; what rows and vocabulary added
  Profile profile;
  double peak_flops;  // of products in the type of activations, on this device alone, measured at the start
  char *checkpoint;  // the folder that the run goes on from; NULL: from the beginning
  int64_t step_batches;  // micro-batches of an optimiser step, of all ranks together
  Batch largest;  // of all epochs' micro-batches
  int64_t *epoch_steps;  // [epochs]: optimiser steps of each whole epoch
  int64_t epochs;  // that the run touches
  int64_t total_steps;
  int64_t eval_every, save_every;  // steps; 0: never
} Run;

Status run_open(Run *run, const Recipe *recipe, TrainOptions options, Backend *backend, Group *group);
void run_close(Run *run);
ModelOptions run_model_options(const Recipe *recipe);  // how the base's weights are held, but for its vocabulary
// Steps of run_open: rows and vocabulary; the type of activations, with the device's peak; what is left of the memory for a step.
Status run_open_rows(Run *run);
Status run_choose_activations(FloatType *type, Run *run);
int64_t run_free_bytes(const Run *run);
// Of a new adapter, as the recipe's keys say; what they point to is the recipe's and the arena's. adapter_settings.c.
Status run_adapter_settings(AdapterSettings *settings, Arena *arena, const Recipe *recipe);
// The training rows of an epoch; while streaming, those of the chunk of that number.
Status run_read_rows(Run *run, int64_t epoch);
// Sets run->checkpoint, and with it how many micro-batches a step has: those of a checkpoint that was written by another number of ranks stay.
Status run_find_checkpoint(Run *run);
// Sets the state of a fresh run, or that of the checkpoint that is resumed from, with the adapter and the optimiser.
Status run_resume(TrainerState *state, Run *run);
// Reads a checkpoint of this run: the first rank does, and tells the others.
Status run_read_checkpoint(TrainerState *state, Run *run, const char *folder);
enum { RUN_ARRAYS = 2 + OPTIMIZER_STATE_LIMIT };
int run_checkpoint_arrays(CheckpointArray *arrays, const Run *run);  // fills [RUN_ARRAYS], returns how many there are
// What evaluations, files and the export show in place of what training goes on with: the optimiser's average, and ema_decay's.
void run_show_average(const Run *run, bool is_shown);
double run_dropout(const Run *run);  // of training
// Over the evaluation rows, with dropout off.
Status run_evaluate(Evaluation *evaluation, Run *run);
// What of the model is trained, in a few words; free() it.
char *run_describe_trained(const Run *run);
// Writes what was trained into a folder: a PEFT adapter, or a model where all of it is trained.
Status run_write_trained(const Run *run, const char *folder);
// output_dir's files at the end: the adapter in both formats or the model, the recipe, the model card.
Status run_export(Run *run, double loss, double eval_loss);

#endif
